"""The validated configuration and the helpers that several rules share."""

from snakemake.exceptions import WorkflowError

from xtalrl.config import MATERIALS_PROJECT, validate
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.pseudopotentials import describe_family
from xtalrl.errors import XtalrlError
from xtalrl.structures.mp20 import find_csvs
from xtalrl.workflow import check_folders

SPLITS = ("train", "val", "test")

try:
    cfg = validate(config)
    check_folders(cfg)
    load_protocol(cfg.dft.protocol)
    describe_family(cfg.dft.family)
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

RESULTS = cfg.results
CACHE = cfg.cache
POLICIES = cfg.policy_specs()
FAMILY = f"{CACHE}/families/{cfg.dft.family}/family.json"
ENGINE = f"{CACHE}/engine/engine.json"


wildcard_constraints:
    stage="scf|references|evaluation",
    shard=r"\d+",
    policy="|".join(POLICIES),
    seed=r"\d+",


def magnetizations(wildcards):
    """The table of total magnetizations, if any: the user's, or what the Materials Project answered."""
    if cfg.structures.magnetizations == MATERIALS_PROJECT:
        return f"{RESULTS}/materials_project/magnetizations.parquet"
    return cfg.structures.magnetizations or []


def elemental_crystals(wildcards):
    """The CSV of elemental crystals, if any: the user's, or the ground states of the Materials Project."""
    if cfg.references.crystals == MATERIALS_PROJECT:
        return f"{CACHE}/materials_project/elements.csv"
    return cfg.references.crystals or []


def known_formulas(wildcards):
    """The list of known formulas, if any: the user's, or that of the Materials Project."""
    if cfg.evaluation.formulas == MATERIALS_PROJECT:
        return f"{CACHE}/materials_project/formulas.txt"
    return cfg.evaluation.formulas or []


def cache_folder(wildcards):
    """Downloads and finished SCFs, shared by all runs: no output of any rule, so Snakemake never deletes it."""
    return CACHE


def shard_outcomes(wildcards):
    """The outcomes of every shard of a stage. Their number is fixed by the config, so no checkpoint is needed."""
    count = getattr(cfg.dft.shards, wildcards.stage)
    return [
        f"{RESULTS}/{wildcards.stage}/shards/{shard:04d}.parquet"
        for shard in range(count)
    ]


def policy_spec(wildcards):
    """The policy as plain data."""
    return POLICIES[wildcards.policy].to_dict()


def policy_runs(pattern):
    """The pattern for every policy and seed."""
    return expand(pattern, policy=POLICIES, seed=cfg.policies.seeds)
