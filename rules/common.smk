"""The validated configuration and the helpers that several rules share."""

import os
import sys

from snakemake.exceptions import WorkflowError

from xtalrl.campaign.preflight import check_campaign
from xtalrl.config import (
    DEMO_FORMULAS,
    LABELS_OF_SOURCE,
    MATERIALS_PROJECT,
    SPLITS,
    check_inputs,
    validate,
)
from xtalrl.dft.protocols import CONFIRMING, load_protocol
from xtalrl.dft.pseudopotentials import describe_family
from xtalrl.energies import CHECKED_ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.provenance import refuse_other_files
from xtalrl.resources import DEFAULTS, here_or_of_project, of_project
from xtalrl.report.contents import (
    FIGURES,
    TABLES,
    figures_of,
    settings_of,
    tables_of,
)
from xtalrl.rl.pretrained import PREDICTOR_FILE, read_pretrained
from xtalrl.structures.external_files import check_sets, fingerprint
from xtalrl.structures.mp20 import find_csvs
from xtalrl.workflow import (
    TYPED,
    check_folders,
    make_cache_folders,
    options_typed,
    rerun_marks,
    trains_together,
)
from xtalrl.yaml_files import read_merged, refuse_second_options

CONFIG_FILE = here_or_of_project(DEFAULTS)

# Snakemake silently takes the last of two equal keys or options: its files are therefore read again, strictly.
try:
    refuse_second_options(sys.argv)
    read_merged([CONFIG_FILE, *workflow.overwrite_configfiles])
except XtalrlError as error:
    raise WorkflowError(str(error)) from None


configfile: CONFIG_FILE


try:
    cfg = validate(config)
    check_folders(cfg)
    refuse_other_files(cfg)
    if workflow.is_main_process:
        check_inputs(cfg)
    check_sets(cfg.external, cfg.policy_specs())
    described_family = describe_family(cfg.dft.family)
    # Recorded beside the names of protocol and family, whose content may change under the same name.
    FAMILY_DIGEST = described_family.digest
    PROTOCOL_DIGEST = load_protocol(cfg.dft.protocol).digest(described_family)
    make_cache_folders(cfg)
    if cfg.policies.pretrained:
        read_pretrained(cfg.policies.pretrained)
    check_campaign(cfg)
    if cfg.structures.path:
        STRUCTURE_CSVS = find_csvs(cfg.structures.path)
    elif cfg.structures.source == "demo":
        STRUCTURE_CSVS = {
            split: f"{cfg.results}/structures/demo/{split}.csv" for split in SPLITS
        }
    else:
        STRUCTURE_CSVS = {split: f"{cfg.cache}/mp20/{split}.csv" for split in SPLITS}
except XtalrlError as error:
    raise WorkflowError(str(error)) from None

# Jobs are told by the first Snakemake how it was started, for the commands that their messages name.
os.environ.setdefault(TYPED, options_typed(workflow.overwrite_configfiles, sys.argv))

RESULTS = cfg.results
CACHE = cfg.cache
config.update(cfg.model_dump())
POLICIES = cfg.policy_specs()
TRAINED_POLICIES = cfg.trained_specs()
LEARNED_POLICIES = {name: spec for name, spec in POLICIES.items() if spec.is_learned}
TRAIN_TOGETHER = trains_together(cfg)
# What tables and figures depend on besides their files.
SETTINGS = settings_of(cfg)
PREDICTIONS_AT_TARGETS = [
    f"{RESULTS}/designs/predictions-{target:g}ev.parquet"
    for target in SETTINGS["targets_ev"]
]
TARGET_OF_POLICY = {name: spec.target_ev for name, spec in POLICIES.items()}
CAMPAIGN = cfg.campaign
OWN_SKELETONS = CAMPAIGN.skeletons not in SPLITS
ROUND = f"{RESULTS}/campaign-{{round}}"
FAMILY = f"{CACHE}/families/{cfg.dft.family}/family.json"
ENGINE = f"{CACHE}/engine/engine.json"
MARKS = rerun_marks(RESULTS)


wildcard_constraints:
    stage=r"scf|references|evaluation|confirmation|campaign-\d+|campaign-confirmation",
    shard=r"\d+",
    policy="|".join(POLICIES | TRAINED_POLICIES),
    pretrained="[a-z]+[0-9]*",
    set="|".join(cfg.external).replace(".", r"\."),
    seed=r"\d+",
    step=r"\d+",


# A rule runs the function of the library that its parameter `call` names. Named files and parameters are the function's keyword arguments,
# where an empty list of input files becomes None; files and parameters without a name are for Snakemake alone. A changed parameter runs a job
# again. A parameter that changes no result must therefore come from one of the functions below: Snakemake does not record a parameter that
# comes from a function with an argument besides the wildcards.


def unrecorded(value):
    """A parameter whose value changes no result."""

    def parameter(wildcards, input):
        return value

    return parameter


def of_wildcard(name, convert=str):
    """The value of a wildcard, which need not be recorded because it is part of the outputs' paths."""

    def parameter(wildcards, input):
        return convert(wildcards[name])

    return parameter


def threads_of_job(wildcards, threads):
    """The number of cores that the job has."""
    return threads


def runtime_of_job(wildcards, resources):
    """The wall time of the job in minutes, if it has one."""
    return resources.get("runtime")


def csvs_by_split(wildcards, output):
    """The CSV files that a rule writes, by name of the split."""
    return dict(zip(SPLITS, output))


def magnetizations(wildcards):
    """The table of total magnetizations, if any: the user's, or that of the Materials Project."""
    if cfg.structures.magnetizations == MATERIALS_PROJECT:
        return f"{RESULTS}/materials_project/magnetizations.parquet"
    return cfg.structures.magnetizations or []


def campaign_results(wildcards):
    """What the target `campaign` makes, if there is a campaign."""
    if not cfg.campaign.is_on:
        raise WorkflowError(
            "There is no campaign: name the wanted gap in `campaign.gap_ev`, e.g. 1.34, or a range in `campaign.range_ev` (docs/campaign.md)."
        )
    return of_campaign(wildcards)


def refuse_now(check, *arguments):
    """Run a check of the library while Snakemake plans, so that what cannot be used is refused before anything runs."""
    try:
        check(*arguments)
    except XtalrlError as error:
        raise WorkflowError(str(error)) from None


def elemental_crystals(wildcards):
    """The CSV of elemental crystals, if any: the user's, or the ground states of the Materials Project."""
    if cfg.references.crystals == MATERIALS_PROJECT:
        return f"{CACHE}/materials_project/elements.csv"
    if cfg.references.crystals:
        # Imported here, as in the functions below, because pymatgen and pyarrow load slowly and most starts of Snakemake do not need them.
        from xtalrl.dft.requests import check_elemental_crystals

        refuse_now(check_elemental_crystals, cfg.references.crystals)
    return cfg.references.crystals or []


def known_formulas(wildcards):
    """The list of known formulas, if any: the user's, that of the Materials Project, or the demo's."""
    if cfg.evaluation.formulas == DEMO_FORMULAS:
        return of_project("resources/demo/formulas.txt")
    if cfg.evaluation.formulas == MATERIALS_PROJECT:
        return f"{CACHE}/materials_project/formulas.txt"
    return cfg.evaluation.formulas or []


def shard_outcomes(wildcards):
    """The outcomes of every shard of a stage. The config fixes the number of shards, so that no checkpoint is needed."""
    count = cfg.dft.shards.of_stage(wildcards.stage)
    return [
        f"{RESULTS}/{wildcards.stage}/shards/{shard:04d}.parquet"
        for shard in range(count)
    ]


def stage_protocol(wildcards):
    """The protocol of a stage's SCFs: the run's, or the finer one that confirms hits."""
    finer = CONFIRMING if wildcards.stage.endswith("confirmation") else ""
    return finer + cfg.dft.protocol


def stage_time_limits(wildcards):
    """Time limits in minutes by kind of cell, only for the kinds that the stage runs, so that a change of another limit plans nothing here."""
    return cfg.dft.time_limits.of_stage(wildcards.stage)


def rerun_mark(wildcards):
    """The mark that `xtalrl rerun` left for a shard, if it was ever asked to run it again."""
    if (wildcards.stage, wildcards.shard) in MARKS:
        return f"{RESULTS}/{wildcards.stage}/reruns/{wildcards.shard}.json"
    return []


def computed_designs(folder):
    """The designs in a folder for which SCFs are run: all of them, or a sample."""
    name = "sample" if cfg.evaluation.is_sampled else "assessments"
    return f"{folder}/{name}.parquet"


def table_files(kind):
    """Every table of this run, as csv, md or tex, or its caption as txt."""
    return [f"{RESULTS}/tables/{entry.name}.{kind}" for entry in tables_of(cfg)]


def figure_files(kind):
    """Every figure of this run, as png, pdf or csv."""
    return [f"{RESULTS}/figures/{entry.name}.{kind}" for entry in figures_of(cfg)]


def of_rounds(name):
    """The file with this name in the folder of every round."""
    return [
        f"{RESULTS}/campaign-{number}/{name}"
        for number in range(1, CAMPAIGN.rounds + 1)
    ]


def of_earlier_rounds(name):
    """Input function for the file with this name in the folder of every round before the wildcard's."""

    def files(wildcards):
        return [
            f"{RESULTS}/campaign-{number}/{name}"
            for number in range(1, int(wildcards.round))
        ]

    return files


def predictor_before(wildcards):
    """The predictor from which a round's predictor continues to learn, if any: that of the previous round, or the shipped one."""
    number = int(wildcards.round)
    if number > 1:
        return f"{RESULTS}/campaign-{number - 1}/predictor.safetensors"
    return (
        of_project(f"resources/pretrained/{PREDICTOR_FILE}")
        if CAMPAIGN.predictor == "pretrained"
        else []
    )


def campaign_policy():
    """The folder of the campaign's policy."""
    shipped = CAMPAIGN.policy not in TRAINED_POLICIES
    name = f"rvs-{CAMPAIGN.policy}" if shipped else CAMPAIGN.policy
    return f"{RESULTS}/policies/{name}/seed{cfg.policies.seeds[0]}"


def policy_of_round(name):
    """Input function for a file of the policy that designs in the wildcard's round: that of the campaign, until it learns from the rounds before."""

    def file(wildcards):
        learns = CAMPAIGN.policy_steps and wildcards.round != "1"
        policy = (
            f"{ROUND.format(round=wildcards.round)}/policy"
            if learns
            else campaign_policy()
        )
        return f"{policy}/{name}"

    return file


def audit_share(wildcards):
    """The share of a round's SCFs that goes to designs drawn from those its screen drops."""
    return CAMPAIGN.explore if wildcards.round == "1" else CAMPAIGN.audit


def round_number(wildcards):
    """The number of a round, from 1."""
    return int(wildcards.round)


def campaign_tables_and_figures():
    """The tables and figures of the campaign, as CSV."""
    return [
        f"{RESULTS}/{folder}/{entry.name}.csv"
        for folder, entries in (
            ("tables", tables_of(cfg)),
            ("figures", figures_of(cfg)),
        )
        for entry in entries
        if entry.needs_campaign
    ]


def sweep_results(wildcards):
    """What the target `sweep` makes, if there is a sweep."""
    if not cfg.sweep.settings:
        raise WorkflowError(
            "There is no sweep: `sweep.settings` is empty. Run `snakemake sweep --configfile config/sweep.yaml`."
        )
    return of_report(wildcards)


def of_trained(name):
    """The file with this name for every policy of a training job: all policies, or that of the wildcard."""
    return expand(
        f"{RESULTS}/policies/{{policy}}/seed{{seed}}/{name}",
        policy=TRAINED_POLICIES if TRAIN_TOGETHER else "{policy}",
        allow_missing=True,
    )


def trained_specs(wildcards):
    """The policies of a training job as plain data: all policies, or that of the wildcard."""
    names = [wildcards.policy] if "policy" in wildcards.keys() else TRAINED_POLICIES
    return [TRAINED_POLICIES[name].to_dict() for name in names]


def training_settings(wildcards):
    """For each policy of a training job, the settings that it depends on: a change of one trains it again."""
    names = [wildcards.policy] if "policy" in wildcards.keys() else TRAINED_POLICIES
    return [cfg.training_of(TRAINED_POLICIES[name]) for name in names]


def policy_folder(wildcards, input=()):
    """The folder of the trained policy that makes the designs: that with the same name, or the one that serves all targets."""
    return f"{RESULTS}/policies/{POLICIES[wildcards.policy].trained.name}/seed{wildcards.seed}"


def trained_policy(wildcards):
    """The record and weights of a finished policy."""
    folder = policy_folder(wildcards)
    return [f"{folder}/policy.json", f"{folder}/weights.safetensors"]


def snapshot_of_policy(wildcards):
    """The record of a policy, and its weights at a step of its training."""
    folder = policy_folder(wildcards)
    return [f"{folder}/policy.json", f"{folder}/snapshots/{wildcards.step}.safetensors"]


def rollout_settings(wildcards):
    """The settings with which the policy designs."""
    return cfg.rollout_of(POLICIES[wildcards.policy])


def target_gap(wildcards):
    """The target gap p̂ of a policy in eV, if it has one."""
    return POLICIES[wildcards.policy].target_ev


def trained_runs(pattern):
    """The pattern for every policy that is trained and every seed."""
    return expand(pattern, policy=TRAINED_POLICIES, seed=cfg.policies.seeds)


def policy_runs(pattern):
    """The pattern for every policy and seed."""
    return expand(pattern, policy=POLICIES, seed=cfg.policies.seeds)


def of_snapshots(pattern):
    """The pattern for every step at which the weights of the policies are kept."""
    return expand(pattern, step=cfg.training.snapshot_steps, allow_missing=True)


def external_state(wildcards):
    """A value that changes whenever a file of a set of external crystals changes."""
    return fingerprint(cfg.external[wildcards.set])


def external_path(wildcards):
    """The path of a set of external crystals in the config: a folder, an archive, a file or a database."""
    return cfg.external[wildcards.set]


def external_sets(pattern):
    """The pattern for every set of external crystals."""
    return expand(pattern, set=cfg.external)


def reference_energies(wildcards):
    """The table of reference energies, if any. Where the run has no policies, external crystals ask for the elements that they need themselves."""
    if (
        POLICIES
        or cfg.references.energies
        or (cfg.campaign.is_on and not cfg.labels.path)
    ):
        return f"{RESULTS}/references.parquet"
    return []


def matching_references(wildcards):
    """The table of reference energies, for energies computed here; imported reference energies that do not fit them are refused."""
    if cfg.references.energies:
        from xtalrl.dft.references import check_energies_fit

        refuse_now(
            check_energies_fit,
            cfg.references.energies,
            cfg.dft.protocol,
            cfg.dft.family,
            cfg.references.protocol is not None,
        )
    return reference_energies(wildcards)


def compared_references(wildcards):
    """The table of imported energies if their protocol is stated: then three elements are computed and compared before the crystals."""
    return f"{RESULTS}/references.parquet" if cfg.references.protocol else []


def label_tables(wildcards):
    """The published labels that the config names."""
    from xtalrl.dft.labels import check_tables

    refuse_now(check_tables, cfg.labels.path)
    return cfg.labels.path


def reference_elements(wildcards):
    """Elements whose reference energies are computed; where energies are imported, these are the elements that check them."""
    return CHECKED_ELEMENTS if cfg.references.energies else cfg.references.elements


def true_labels(wildcards):
    """Labels of the true crystals, if any. Where the run has no policies, no SCF of the data set is run for them."""
    if POLICIES or cfg.labels.path or cfg.campaign.is_on:
        return f"{RESULTS}/labels.parquet"
    return []


# Files that tables and figures are made from, by the names in `Content.inputs`.
RESULT_FILES = {
    "crystals": f"{RESULTS}/structures/crystals.parquet",
    "assessments": f"{RESULTS}/designs/assessments.parquet",
    "evaluation": f"{RESULTS}/evaluation/evaluation.parquet",
    "labels": true_labels,
    "design_scf": f"{RESULTS}/evaluation/outcomes.parquet",
    "stability": f"{RESULTS}/evaluation/stability.parquet",
    "predictions": PREDICTIONS_AT_TARGETS,
    "confirmation": f"{RESULTS}/confirmation/confirmation.parquet",
    "campaign_first": f"{RESULTS}/campaign-1/screening.parquet",
    "campaign_held_out": f"{RESULTS}/campaign-1/held_out.parquet",
    "campaign_screenings": [
        f"{RESULTS}/campaign-{number}/screening.parquet"
        for number in range(1, cfg.campaign.rounds + 1)
    ],
    "campaign_outcomes": f"{RESULTS}/campaign/outcomes.parquet",
    "campaign_skeletons": f"{RESULTS}/campaign/skeletons.parquet",
    "campaign_found": f"{RESULTS}/campaign/hits.csv",
    "campaign_hits": f"{RESULTS}/campaign/hits.parquet",
    "campaign_confirmation": f"{RESULTS}/campaign/confirmation.parquet",
    "campaign_confirmation_outcomes": f"{RESULTS}/campaign-confirmation/outcomes.parquet",
    "snapshots": of_snapshots(f"{RESULTS}/learning_curve/{{step}}/evaluation.parquet"),
}
