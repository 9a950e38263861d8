"""A change costs what it changes: what a change of each key of the configuration makes Snakemake plan again."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pymatgen.core import Lattice, Structure
from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.settings.types import Quietness, RerunTrigger

from xtalrl.config import CHANGES_NO_RESULT, Config, load
from xtalrl.provenance import write_record

EVERYTHING = {
    "policies.any_targets_ev": [1.5],
    "policies.rvs_targets_ev": [1.34],
    "sweep.settings": [[1, 5, 3]],
    "sweep.targets_ev": [3],
    "training.snapshots": 1,
    "training.target_embedding": "gaussians",
    "training.hide_target": 0.1,
    "training.condition_on_energy": True,
    "evaluation.confirm": True,
    "evaluation.limit": 50,
    "campaign.gap_ev": 2,
    "campaign.rounds": 2,
    "campaign.policy_steps": 5,
}
"""Laid over config/demo.yaml: every rule has something to do, so that every key has something to change."""

REPORT = "report"
"""Stands for the rules that make tables, figures and the report from results: seconds, where Snakemake runs."""


def rules(names: str) -> frozenset[str]:
    return frozenset(names.split())


PLANS = rules(
    "plan_crystal_scf plan_reference_scf plan_design_scf plan_confirmation_scf plan_campaign_scf plan_campaign_confirmation"
)
SHARDS = rules("run_scf_shard")
TRAIN = rules("train_policy")
DESIGN = rules("rollout_policy rollout_snapshot")
ASSESS = rules("assess_designs assess_snapshots")
SAMPLE = rules("sample_designs sample_snapshots")
PROPOSE = rules("propose_designs")
SCREEN = rules("screen_designs")
WISHES = SCREEN | rules("find_campaign_hits hand_over")
ROUNDS = (
    PROPOSE
    | SCREEN
    | rules(
        "assess_proposals fill_skeletons train_campaign_predictor train_campaign_policy predict_designs evaluate_campaign_round label_campaign_designs"
    )
)
SNAPSHOTS = rules("rollout_snapshot assess_snapshots sample_snapshots evaluate_snapshots")
NOTHING = rules("")
FROM_NOTHING = (
    PLANS | SHARDS | TRAIN | DESIGN | ASSESS | SAMPLE | SNAPSHOTS | {REPORT} | ROUNDS | WISHES
    | rules("take_pretrained take_skeletons gather_campaign assess_campaign_stability confirm_campaign_hits")
    | rules("build_demo_set read_crystals build_graphs gather_scf assemble_references label_crystals build_trajectories")
    | rules("evaluate_designs assess_stability find_hits confirm_hits fill_designs predict_policies")
)  # fmt: skip

CHANGES: dict[str, tuple[Any, frozenset[str]]] = {
    "results": ("{tmp}/others", FROM_NOTHING),
    "cache": (
        "{tmp}/other_cache", PLANS | SHARDS | SCREEN | rules("fetch_pseudopotentials fetch_engine hand_over"),
    ),
    "structures.source": ("mp20", rules("fetch_mp20 read_crystals")),
    "structures.path": ("{tmp}", rules("read_crystals")),
    "structures.magnetizations": ("{tmp}/table.csv", rules("read_crystals")),
    "structures.metals": ("train", rules("read_crystals build_trajectories")),
    "structures.splits": (["train", "val", "test"], rules("read_crystals")),
    "structures.max_sites": (12, rules("read_crystals")),
    "structures.limit": (9, rules("read_crystals")),
    "dft.protocol": ("sssp", PLANS | SHARDS),
    "dft.family": (
        "sssp-1.3.0-efficiency", PLANS | SHARDS | SCREEN | rules("fetch_pseudopotentials hand_over"),
    ),
    "dft.pseudopotentials": ("{tmp}", NOTHING),
    "dft.command": ("/usr/bin/pw.x", rules("fetch_engine")),
    "dft.finished": ("{tmp}", NOTHING),
    "dft.shards.scf": (3, SHARDS | rules("plan_crystal_scf gather_scf")),
    "dft.shards.references": (2, SHARDS | rules("plan_reference_scf gather_scf")),
    "dft.shards.evaluation": (2, SHARDS | rules("plan_design_scf gather_scf")),
    "dft.shards.confirmation": (21, SHARDS | rules("plan_confirmation_scf plan_campaign_confirmation gather_scf")),
    "dft.shards.campaign": (5, SHARDS | rules("plan_campaign_scf gather_scf")),
    "dft.recovery": ("extended", SHARDS | SCREEN | rules("plan_design_scf plan_campaign_scf")),
    "dft.time_limits.crystal": ([10], SHARDS),
    "dft.time_limits.reference": ([10], SHARDS),
    "dft.time_limits.design": ([2], SHARDS),
    "dft.time_limits.confirmation": ([9], SHARDS),
    "dft.accept_not_saved": (True, SHARDS),
    "references.elements": ("all", rules("plan_reference_scf")),
    "references.crystals": ("{tmp}/elements.csv", rules("plan_reference_scf plan_design_scf plan_campaign_scf")),
    "references.energies": ("{tmp}/energies.csv", rules("import_references plan_reference_scf plan_crystal_scf")),
    "references.protocol": ("demo", rules("import_references plan_reference_scf plan_crystal_scf")),
    "labels.path": ("{tmp}/labels.csv", rules("import_labels")),
    "trajectories.per_crystal": (3, rules("build_trajectories")),
    "trajectories.disconnected": ("drop", rules("build_trajectories")),
    "trajectories.seed": (1, rules("build_trajectories")),
    "policies.random": (False, rules("assess_designs find_hits")),
    "policies.bc": (False, ASSESS | rules("find_hits")),
    "policies.ucql": (False, ASSESS | rules("find_hits")),
    "policies.targets_ev": ([1.12, 2, 3], TRAIN | DESIGN | ASSESS | rules("find_hits predict_policies")),
    "policies.omegas": ([1, 5], TRAIN | DESIGN | ASSESS | rules("find_hits")),
    "policies.any_targets_ev": ([1.5, 2.5], DESIGN | ASSESS | rules("find_hits predict_policies")),
    "policies.any_range_ev": ([0, 6], TRAIN),
    "policies.rvs_targets_ev": ([1.34, 2], DESIGN | ASSESS | rules("find_hits predict_policies")),
    "policies.pretrained": ("mp20", rules("rollout_policy assess_designs find_hits")),
    "policies.seeds": ([0, 1], TRAIN | DESIGN | ASSESS),
    "reward.energy": ("total", TRAIN),
    "reward.alpha1": (2, TRAIN),
    "reward.alpha2": (2, TRAIN),
    "reward.beta1": (2, TRAIN),
    "reward.beta2": (2, TRAIN),
    "sweep.settings": ([[1, 5, 3], [1, 5, 1]], TRAIN | DESIGN | ASSESS | rules("find_hits")),
    "sweep.targets_ev": ([3, 4], TRAIN | DESIGN | ASSESS | rules("find_hits predict_policies")),
    "training.preset": ("modern", TRAIN | DESIGN | rules("build_trajectories")),
    "training.steps": (1500, TRAIN | SNAPSHOTS),
    "training.batch_size": (32, TRAIN),
    "training.learning_rate": (0.001, TRAIN),
    "training.discount": (0.9, TRAIN),
    "training.target_update_rate": (0.1, TRAIN),
    "training.gradient_clip": (None, TRAIN),
    "training.focus": ("node", TRAIN | rules("build_trajectories")),
    "training.edge_features": ("gaussian_basis", TRAIN),
    "training.precision": ("bfloat16", TRAIN),
    "training.compile": (True, NOTHING),
    "training.backend": ("dgl", NOTHING),
    "training.device": ("cpu", NOTHING),
    # One job for all policies instead of a job for each: each goes on from its checkpoint, which is at the last step.
    "training.policies_per_pass": (4, TRAIN),
    "training.checkpoint_every": (500, NOTHING),
    "training.snapshots": (2, TRAIN | SNAPSHOTS),
    "training.log_every": (50, NOTHING),
    "training.trackers": (["tensorboard"], NOTHING),
    "training.state_features": ("standardised", TRAIN),
    "training.electrons": (True, TRAIN),
    "training.target_embedding": ("column", TRAIN),
    "training.target_noise_ev": (0.2, TRAIN),
    "training.hide_target": (0.2, TRAIN),
    "training.condition_on_energy": (False, TRAIN),
    "training.schedule": ("cosine", TRAIN),
    "training.warmup_steps": (10, TRAIN),
    "training.weight_averaging": (0.9, TRAIN),
    "training.weighting": ("sizes", TRAIN),
    "training.returns": ("monte_carlo", TRAIN),
    "training.cloning_steps": (10, TRAIN),
    "rollout.select": ("softmax", DESIGN | PROPOSE),
    "rollout.epsilon": (0.2, DESIGN | PROPOSE),
    "rollout.temperature": (2, DESIGN | PROPOSE),
    "rollout.designs": (2, DESIGN),
    "rollout.neutral": (True, DESIGN),
    "rollout.even_electrons": (True, DESIGN),
    "rollout.guidance": (2, DESIGN | PROPOSE),
    "rollout.target_energy": (-1, DESIGN | PROPOSE),
    "rollout.allow": (["Si", "O"], DESIGN),
    "rollout.deny": (["Si"], DESIGN),
    "evaluation.window_ev": (0.5, rules("find_hits predict_policies")),
    "evaluation.targets_ev": ([1.4], rules("predict_policies")),
    "evaluation.formulas": ("{tmp}/table.csv", ASSESS | rules("assess_proposals")),
    "evaluation.max_sites": (8, SAMPLE),
    "evaluation.limit": (40, SAMPLE),
    "evaluation.confirm": (
        True, SHARDS | rules("find_hits plan_confirmation_scf gather_scf confirm_hits"),
    ),
    "evaluation.stable_ev_per_atom": (0.2, NOTHING),
    "evaluation.bootstrap_samples": (500, NOTHING),
    "evaluation.confidence": (0.9, rules("predict_designs")),
    "campaign.gap_ev": (2.5, PROPOSE | WISHES | rules("predict_designs")),
    "campaign.window_ev": (0.5, WISHES | rules("predict_designs")),
    "campaign.range_ev": ([1, None], PROPOSE | WISHES | rules("predict_designs")),
    "campaign.budget": (50, SCREEN),
    "campaign.core_hours": (2, SCREEN),
    "campaign.rounds": (3, SHARDS | ROUNDS | rules("plan_campaign_scf gather_scf gather_campaign hand_over")),
    "campaign.policy": ("rvs", PROPOSE | rules("train_campaign_policy")),
    "campaign.skeletons": ("train", rules("take_skeletons")),
    "campaign.max_sites": (4, rules("take_skeletons")),
    "campaign.limit": (3, rules("take_skeletons")),
    "campaign.designs": (3, PROPOSE),
    "campaign.keep": (["O"], PROPOSE),
    "campaign.allow": (["Si", "O"], PROPOSE),
    "campaign.deny": (["Si"], PROPOSE),
    "campaign.neutral": (False, PROPOSE),
    "campaign.novel": (True, WISHES),
    "campaign.highest_formation_energy": (0, WISHES),
    "campaign.highest_above_hull": (0.1, WISHES),
    "campaign.baselines": (["bc"], NOTHING),
    "campaign.audit": (0.2, SCREEN),
    "campaign.explore": (0.4, SCREEN),
    "campaign.predictor": ("new", rules("train_campaign_predictor")),
    "campaign.predictor_steps": (100, rules("train_campaign_predictor")),
    "campaign.policy_steps": (7, rules("train_campaign_policy")),
    "campaign.seed": (1, PROPOSE | SCREEN | rules("take_skeletons train_campaign_predictor train_campaign_policy")),
    "external": (
        {"others": "{tmp}/crystals.xyz"}, rules("import_designs assess_designs plan_design_scf plan_confirmation_scf fill_designs"),
    ),
}  # fmt: skip
"""By key: another value, and the rules that a change of it may plan again. Whatever changes a result makes the report again, which shows
the configuration; what is below these rules is planned when their tables come out different (`rules/unchanged.smk`)."""

GIVEN: dict[str, dict[str, Any]] = {
    "policies.pretrained": {"training.snapshots": 0},
    "dft.recovery": {"dft.time_limits.design": [1, 1]},
    "training.target_embedding": {"training.hide_target": 0, "training.condition_on_energy": False},
    "rollout.epsilon": {"rollout.select": "epsilon-greedy"},
    "rollout.temperature": {"rollout.select": "softmax"},
    "evaluation.confirm": {"evaluation.confirm": False},
    "campaign.keep": {"campaign.skeletons": "{tmp}/crystals.xyz"},
}
"""What must be so, before and after, for a key to have something to change."""
TOGETHER = {
    "references.energies": {"references.protocol": "demo"},
    "references.protocol": {"references.energies": "{tmp}/energies.csv"},
    "campaign.range_ev": {"campaign.gap_ev": None},
}
"""What changes with a key, which cannot change alone."""

Plan = dict[str, tuple[str, frozenset[str], tuple[str, ...]]]
"""By output: the rule that makes it, its parameters and its input files, as Snakemake compares them with those it has recorded."""


def leaves(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, bool]]:
    """Every key and whether it changes a result."""
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from leaves(section, f"{path}{name}.")
        else:
            yield f"{path}{name}", field.json_schema_extra != CHANGES_NO_RESULT


CHANGES_RESULT = dict(leaves(Config))


def nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    config: dict[str, Any] = {}
    for key, value in keys.items():
        *sections, name = key.split(".")
        section = config
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return config


@contextmanager
def dry_run(root: Path, keys: Mapping[str, Any], target: str = "all", forceall: bool = False) -> Iterator[Any]:
    """Snakemake's workflow of config/demo.yaml with other values of keys, planned in this process and from the checkout."""
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            snakefile=root / "Snakefile",
            config_settings=ConfigSettings(configfiles=[root / "config/demo.yaml"], config=nested(keys)),
        )
        triggers = frozenset((RerunTrigger.MTIME, RerunTrigger.INPUT, RerunTrigger.PARAMS))
        dag = workflow.dag(DAGSettings(targets={target}, forceall=forceall, rerun_triggers=triggers))
        dag.execute_workflow(executor="dryrun")
        yield workflow._workflow


def expected(key: str) -> frozenset[str]:
    return CHANGES[key][1] | ({REPORT} if CHANGES_RESULT[key] else set())


def planned_again(before: Plan, after: Plan) -> set[str]:
    """Outputs with other parameters or input files than before, or that are new."""
    return {output for output, entry in after.items() if before.get(output, ("",))[1:] != entry[1:]}


def rules_of(plan: Plan, outputs: set[str]) -> set[str]:
    names = {plan[output][0] for output in outputs}
    return {REPORT if name.startswith("make_") else name for name in names}


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    """With what the keys name."""
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}.csv").touch()
    (tmp_path / "table.csv").write_text("material_id,total_magnetization\nSi,0\n")
    cif = Structure(Lattice.cubic(5.4), ["Si"], [[0, 0, 0]]).to(fmt="cif").replace('"', "'")
    (tmp_path / "elements.csv").write_text(f'element,cif\nSi,"{cif}"\n')
    (tmp_path / "crystals.xyz").touch()
    (tmp_path / "labels.csv").write_text("material_id,band_gap,formation_energy_per_atom\nSi,1.1,0\n")
    (tmp_path / "energies.csv").write_text("element,energy_per_atom_ry\nSi,-11.4\n")
    return tmp_path


@pytest.fixture
def plan_of(root: Path, tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Any]], Plan]:
    """The whole plan of config/demo.yaml with other values of keys, in a folder without results."""
    monkeypatch.chdir(root)
    plans: dict[str, Plan] = {}

    def fill(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fill(item) for name, item in value.items()}
        return value.replace("{tmp}", str(tmp)) if isinstance(value, str) else value

    def plan(keys: Mapping[str, Any]) -> Plan:
        if repr(keys) in plans:
            return plans[repr(keys)]
        with dry_run(
            root, {"results": f"{tmp}/results", "cache": f"{tmp}/cache", **fill(dict(keys))}, forceall=True
        ) as workflow:
            records = workflow.persistence
            plans[repr(keys)] = {
                str(file): (job.rule.name, frozenset(records._params(job)), tuple(records._input(job)))
                for job in workflow.dag.jobs
                for file in job.output
            }
        return plans[repr(keys)]

    return plan


def test_every_key_has_its_entry() -> None:
    assert sorted(CHANGES) == sorted(CHANGES_RESULT)


def test_a_change_plans_what_it_concerns(plan_of: Callable[[Mapping[str, Any]], Plan]) -> None:
    """Keys that plan the same are changed together, which is quick."""

    def like(key: str) -> tuple[Any, ...]:
        # These contradict each other's values, or hide each other's effect.
        alone = key if key in ("results", "policies.omegas", "structures.path", *GIVEN, *TOGETHER) else ""
        return sorted(expected(key)), alone

    for (_, alone), keys in itertools.groupby(sorted(CHANGES, key=like), key=like):
        group = list(keys)
        before = {**EVERYTHING, **GIVEN.get(alone, {})}
        after = before | {key: CHANGES[key][0] for key in group} | TOGETHER.get(alone, {})
        found = plan_of(after)
        assert rules_of(found, planned_again(plan_of(before), found)) == expected(group[0]), group


def test_a_protocol_edited_in_its_file_plans_what_another_would(
    plan_of: Callable[[Mapping[str, Any]], Plan], root: Path, tmp: Path
) -> None:
    keys = {**EVERYTHING, "dft.protocol": "{tmp}/mine.yaml"}
    mine = tmp / "mine.yaml"
    mine.write_text((root / "resources/protocols/paper-fast.yaml").read_text())
    before = plan_of(keys)
    mine.write_text(f"# A remark changes nothing.\n{mine.read_text()}")
    assert planned_again(before, plan_of({**keys, "training.log_every": 7})) == set()
    mine.write_text(mine.read_text().replace("conv_thr_ry: 1.0e-8", "conv_thr_ry: 1.0e-9"))
    after = plan_of({**keys, "training.log_every": 8})
    assert rules_of(after, planned_again(before, after)) == PLANS | SHARDS


@pytest.mark.skipif(
    "XTALRL_KEYS" not in os.environ,
    reason="every key by itself takes minutes: XTALRL_KEYS=all, as `make harness` has it",
)
@pytest.mark.parametrize("key", CHANGES)
def test_a_change_of_one_key_plans_what_it_concerns(key: str, plan_of: Callable[[Mapping[str, Any]], Plan]) -> None:
    before = {**EVERYTHING, **GIVEN.get(key, {})}
    found = plan_of(before | {key: CHANGES[key][0]} | TOGETHER.get(key, {}))
    assert rules_of(found, planned_again(plan_of(before), found)) == expected(key)


def test_a_change_concerns_only_the_policies_that_look_at_it(plan_of: Callable[[Mapping[str, Any]], Plan]) -> None:
    def policies(changed: Mapping[str, Any]) -> set[str]:
        found = plan_of({**EVERYTHING, **changed})
        outputs = planned_again(plan_of(EVERYTHING), found)
        return {Path(output).parts[-3] for output in outputs if output.endswith("policy.json")} | {
            Path(output).parts[-2] for output in outputs if "/results/designs/" in output and "seed" in output
        }

    rvs = {"rvs", "rvs-1.34ev"}
    assert policies({"training.target_noise_ev": 0.2, "rollout.guidance": 2.0, "rollout.target_energy": -1.0}) == rvs
    assert "bc" not in policies({"training.discount": 0.9, "training.cloning_steps": 5, "reward.alpha1": 2})
    assert policies({"rollout.epsilon": 0.3, "rollout.temperature": 2}) == set()
    assert policies({"policies.targets_ev": [1.12, 2, 3]}) == {"ccql-2ev-w5"}


# ---- With results -----------------------------------------------------------------------------------------------------------------


class Results:
    """Pretended results of config/demo.yaml: every file is there and has Snakemake's record, and holds nothing but its name."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.keys: dict[str, Any] = {"results": f"{folder}/results", "cache": f"{folder}/cache"}

    def make(self) -> None:
        with dry_run(self.root, self.keys, forceall=True) as workflow:
            workflow.iocache.deactivate()
            made = time.time()  # Later than every file of the checkout, which may be minutes old.
            for number, job in enumerate(job for level in workflow.dag.toposorted() for job in level if job.output):
                for file in (*job.output, job.benchmark):
                    if file is not None:
                        path = Path(file)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_text(file)
                        os.utime(path, (made + number / 10_000,) * 2)
                workflow.async_run(workflow.persistence.finished(job))

    def planned(self, changed: Mapping[str, Any], target: str = "all") -> list[str]:
        """The jobs that a dry run plans: rule and wildcards."""
        with dry_run(self.root, {**self.keys, **changed}, target) as workflow:
            return sorted(
                " ".join((job.rule.name, *job.wildcards_dict.values()))
                for job in workflow.dag.needrun_jobs(exclude_finished=False)
                if job.output
            )


@pytest.fixture(scope="module")
def pretended(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    results = Results(root, tmp_path_factory.mktemp("pretended"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        results.make()
    return results


@pytest.fixture
def results(root: Path, pretended: Results, monkeypatch: pytest.MonkeyPatch) -> Results:
    monkeypatch.chdir(root)
    return pretended


def test_the_plan_of_a_change_ends_at_the_tables_that_may_come_out_the_same(results: Results) -> None:
    assert results.planned({}) == []
    assert results.planned({"training.checkpoint_every": 500, "training.trackers": ["tensorboard"]}) == []
    assert results.planned({"dft.time_limits.design": [2]}) == [
        "gather_scf evaluation",
        "run_scf_shard evaluation 0000",
    ]
    assert results.planned({"dft.shards.scf": 3}) == ["plan_crystal_scf"]
    assert results.planned({"policies.targets_ev": [1.12, 2, 3]}) == [
        "assess_designs", "rollout_policy ccql-2ev-w5 0", "train_policy ccql-2ev-w5 0",
    ]  # fmt: skip


def test_a_table_that_comes_out_the_same_starts_nothing(results: Results) -> None:
    table = Path(results.keys["results"]) / "trajectories.parquet"
    before = table.stat().st_mtime
    try:
        os.utime(table)
        assert results.planned({}) == [], "newer than all that was learnt from it"
        table.write_text("others")
        assert "train_policy bc 0" in results.planned({})
        assert results.planned({}, target="labels") == [], "it is not on the way to this target"
    finally:
        table.write_text(str(table))
        os.utime(table, (before, before))


def test_results_that_another_configuration_made_elsewhere_are_refused(results: Results, root: Path) -> None:
    """Snakemake, which has no record of them, would call them up to date."""
    copied = Results(root, results.folder / "copied")
    shutil.copytree(results.keys["results"], copied.keys["results"])
    copied.keys["cache"] = results.keys["cache"]
    write_record(load("config/config.yaml", "config/demo.yaml").model_copy(update=copied.keys))
    assert copied.planned({}) == [], "made with the same configuration"
    assert copied.planned({"training.log_every": 10}) == [], "which changes no result"

    def snakemake(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", "all", "--profile", "profiles/local", "--nolock", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    changed = results.folder / "changed.yaml"
    changed.write_text(yaml.safe_dump(nested({**copied.keys, "training.steps": 1500})))
    refused = snakemake("--dry-run", "--configfile", "config/demo.yaml", str(changed))
    assert refused.returncode != 0
    assert "`training.steps` is 1000 there and 1500 here" in refused.stdout + refused.stderr
    assert "Traceback (most recent call last)" not in refused.stdout + refused.stderr
    # What the message advises.
    (record,) = re.findall(r"snakemake --touch --forceall all --configfile (\S+)", refused.stdout + refused.stderr)
    touched = snakemake("--touch", "--forceall", "--configfile", record)
    assert touched.returncode == 0, touched.stderr
    assert copied.planned({}) == []
    assert "train_policy bc 0" in copied.planned({"training.steps": 1500})
