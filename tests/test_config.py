from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from xtalrl.commands.cli import app
from xtalrl.commands.command_docs import render_commands
from xtalrl.commands.config_docs import render_markdown, render_yaml
from xtalrl.commands.table_docs import render_tables
from xtalrl.config import Config, RewardConfig, RolloutConfig, TrainingConfig, check_inputs, load, validate
from xtalrl.elements import ACTION
from xtalrl.errors import XtalrlError
from xtalrl.report.contents import render_captions
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.rollout_settings import RolloutSettings
from xtalrl.rl.settings import TrainingSettings


def test_generated_documents_are_in_step_with_the_models(root: Path) -> None:
    assert (root / "config/config.yaml").read_text() == render_yaml(), "run `make docs`"
    assert (root / "docs/configuration.md").read_text() == render_markdown(), "run `make docs`"
    assert (root / "docs/tables.md").read_text() == render_tables(), "run `make docs`"
    assert (root / "docs/commands.md").read_text() == render_commands(app), "run `make docs`"
    captions = {path.stem: path.read_text() for path in (root / "workflow/report").glob("*.rst")}
    assert captions.keys() - render_captions().keys() == {"report", "workflow"}, "these two are written by hand"
    assert captions.items() >= render_captions().items(), "run `make docs`"


def test_the_default_file_is_the_default_configuration() -> None:
    assert validate(yaml.safe_load(render_yaml())) == Config()


@pytest.mark.parametrize("name", ["config", "paper", "sweep", "demo", "test"])
def test_every_shipped_configuration_is_valid(root: Path, name: str) -> None:
    load(root / "config/config.yaml", root / f"config/{name}.yaml")


@pytest.mark.parametrize(
    ("section", "settings"),
    [(TrainingConfig, TrainingSettings), (RewardConfig, Reward), (RolloutConfig, RolloutSettings)],
)
def test_a_section_has_the_names_and_defaults_of_the_settings_that_it_becomes(section: type, settings: type) -> None:
    # `rollout.even_electrons` is null where the preset decides.
    assert vars(settings()) == section().model_dump() | ({"even_electrons": False} if section is RolloutConfig else {})


def test_every_key_is_described() -> None:
    def undescribed(model, path=""):
        for name, field in model.model_fields.items():
            if hasattr(field.annotation, "model_fields"):
                assert field.annotation.__doc__, f"{path}{name}"
                yield from undescribed(field.annotation, f"{path}{name}.")
            elif not field.description:
                yield path + name

    assert list(undescribed(Config)) == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"policies": {"targets_ev": 1.12}}, ["`policies.targets_ev` is 1.12: it must be a list, such as `[1, 2]`."]),
        ({"policies.seeds": [1]}, ["`policies.seeds` is not a known key: write it nested, `policies: {seeds: …}`."]),
        ({"policies": {"any_range_ev": [5, 0]}}, ["`any_range_ev` is [5, 0]: the first gap must be below the second"]),
        ({"training": None}, ["`training` is null: it must be a section of `key: value` pairs."]),
        ({"training": {"steps": 1.5}}, ["`training.steps` is 1.5: it must be a whole number."]),
        ({"campaign": {"novel": "maybe"}}, ["`campaign.novel` is 'maybe': it must be true or false."]),
        (
            {"dft": {"time_limits": {"crystal": []}}},
            ["`dft.time_limits.crystal` is []: it must have at least 1 entry."],
        ),
        ({"external": {"a/b": "x.zip"}}, ["`external.a/b` is 'a/b': a name has letters, digits"]),
        ({"results": "a?b"}, ["`results` is 'a?b': ? cannot be part of a path here"]),
        ({"qqqqqq": 1}, ["`qqqqqq` is not a known key; allowed here: results"]),
        ({"evaluation": {"window_ev": math.nan}}, ["`evaluation.window_ev` is nan: it must be a finite number."]),
        ({"dft": {"shards": {"scf": -1}}}, ["`dft.shards.scf` is -1: it must be greater than or equal to 1."]),
        ({"dtf": {}}, ["`dtf`", "did you mean 'dft'?"]),
        ({"dft": {"recovry": "paper"}}, ["`dft.recovry`", "did you mean 'recovery'?"]),
        ({"dft": {"recovery": "none"}}, ["`dft.recovery`", "'none'", "'paper' or 'extended'"]),
        ({"dft": {"shards": {"scf": 0}}}, ["`dft.shards.scf`", "0", "greater than or equal to 1"]),
        ({"dft": {"time_limits": {"design": []}}}, ["`dft.time_limits.design`", "at least 1 entry"]),
        (
            {"dft": {"time_limits": {"crystal": [30, 0]}}},
            ["a mistake", "`dft.time_limits.crystal.1`", "greater than 0"],
        ),
        (
            {"dft": {"recovery": "extended"}},
            [
                "mistake:\n  `dft`: `recovery: extended` needs a second number",
                "`[15, 5]`, or `[10, 5]` to stay within 15",
            ],
        ),
        ({"policies": {"targets_ev": [1.12, -1]}}, ["`policies.targets_ev.1`", "-1"]),
        ({"training": {"device": "gpu"}}, ["`training.device`", "'gpu'", "'cuda'"]),
        ({"training": "fast"}, ["`training`", "'fast'"]),
    ],
)
def test_a_mistake_gets_a_sentence(config: dict, expected: list[str]) -> None:
    with pytest.raises(XtalrlError) as error:
        validate(config)
    for part in expected:
        assert part in str(error.value)


REFUSED_VALUES = [
    ("results", "", "must name a file or folder"),
    ("results", "  ", "must name a file or folder"),
    ("dft.pseudopotentials", "https://tom:word@host/x?key=1", "'https://***@host/x?***': it is an address"),
    ("results", "~/x", "known to the shell alone"),
    ("results", "$SCRATCH/x", "known to the shell alone"),
    ("results", "results/{policy}x", "{ } cannot be part of a path"),
    ("cache", "a[1]", "[ ] cannot be part of a path"),
    ("structures.path", "data/*", "* cannot be part of a path"),
    ("structures.magnetizations", "a?.csv", "? cannot be part of a path"),
    ("dft.pseudopotentials", "a\0b", r"'\x00'"),
    ("dft.protocol", "a\nb", r"'\n'"),
    ("dft.family", "\ud800", r"'\ud800'"),
    ("references.crystals", "a\u2028b", r"'\u2028'"),
    ("references.energies", "", "must name"),
    ("labels.path", "~", "known to the shell"),
    ("evaluation.formulas", "x" * 300, "255 bytes"),
    ("policies.pretrained", "x/" * 600, "1000 characters"),
    ("external", {"mine": "*.cif"}, "cannot be part of a path"),
    ("external", {"x" * 200: "a"}, "at most 100"),
    ("dft.command", "", "must be a command line"),
    ("dft.command", "pw.x 'a", "not a command line (No closing quotation)"),
    ("dft.command", "pw.x \0", "must be a command line"),
    ("dft.shards.scf", 10_000_000, "less than or equal to 20000"),
    ("dft.shards.confirmation", 10**30, "less than or equal to 20000"),
    ("dft.time_limits.design", [float("inf")], "finite"),
    ("dft.time_limits.crystal", [1e9], "less than or equal to 1000000"),
    ("structures.splits", ["train", "val", "train"], "train stands in it twice"),
    ("structures.splits", ["val"], "lacks `train`, from which policies learn: add it"),
    ("structures.splits", ["train", "test"], "lacks `val`, whose crystals are the skeletons"),
    ("structures.limit", 10**12, "less than or equal to 1000000000"),
    ("trajectories.seed", 2**31, "less than or equal to 2147483647"),
    ("policies.seeds", [2**31], "less than or equal to 2147483647"),
    ("policies.seeds", [0, 1, 0], "0 stands in it twice"),
    ("policies.seeds", list(range(1001)), "at most 1000"),
    ("policies.targets_ev", [1.1, 1.10], "1.1 and 1.1 would both be 1.1"),
    ("policies.targets_ev", [1.12, 2, 1.1200001], "1.12 and 1.1200001 would both be 1.12"),
    ("policies.any_targets_ev", [3, 3.0], "would both be 3"),
    ("policies.rvs_targets_ev", [0.0, -0.0], "would both be 0"),
    ("policies.targets_ev", [float("nan")], "finite"),
    ("policies.targets_ev", [1e3], "less than or equal to 30"),
    ("policies.omegas", [1, 1.0000001], "would both be 1"),
    ("policies.omegas", [float("inf")], "finite"),
    (
        "policies.omegas",
        [],
        "`policies.omegas` is empty, and without a weight `policies.ucql` and `policies.targets_ev` would train nothing",
    ),
    ("policies.any_range_ev", [0, float("inf")], "finite"),
    ("sweep.targets_ev", [4, 4.000000001], "would both be 4"),
    ("sweep.settings", [[1, 2, 3], [1, 2, 3.0000001]], "would both be 1-2-3"),
    ("sweep.settings", [[1, float("inf"), 1]], "finite"),
    ("reward.alpha1", float("inf"), "finite"),
    ("reward.beta1", 1e-300, "greater than or equal to 0.1"),
    ("reward.beta2", float("nan"), "finite"),
    ("training.learning_rate", float("inf"), "finite"),
    ("training.learning_rate", 100, "less than or equal to 1"),
    ("training.steps", 10**12, "less than or equal to 1000000000"),
    ("training.steps", True, "neither `true` nor `false`"),
    ("training.snapshots", 10**12, "less than or equal to 1000"),
    ("training.batch_size", 10**9, "less than or equal to 1000000"),
    ("training.trackers", ["wandb", "wandb"], "wandb stands in it twice"),
    ("training.preset", ["paper"], "'paper' or 'modern'"),
    ("rollout.temperature", float("inf"), "finite"),
    ("rollout.target_energy", -1e30, "greater than or equal to -20"),
    ("evaluation.window_ev", float("inf"), "finite"),
    ("evaluation.bootstrap_samples", 10**12, "less than or equal to 100000"),
    ("campaign.gap_ev", 0, "greater than 0"),
    ("campaign", {"gap_ev": 1, "range_ev": [1, 2]}, "give one of them, and null for the other"),
    ("campaign", {"range_ev": [2, 1]}, "its second number must be larger"),
    ("campaign", {"gap_ev": 1, "budget": 3, "rounds": 4}, "every round needs at least one SCF"),
    ("campaign", {"gap_ev": 1, "allow": ["Si"], "deny": ["Si"]}, "no element is left to place"),
    ("campaign", {"gap_ev": 1, "keep": ["O"]}, "stay on skeletons of your own only"),
    (
        "campaign",
        {"gap_ev": 1, "baselines": ["ccql"]},
        "names 'ccql', which is not a policy of this run; there are: random, bc",
    ),
    ("campaign", {"gap_ev": 1, "baselines": ["bc"], "skeletons": "train"}, "needs `campaign.skeletons: val`"),
    ("campaign", {"gap_ev": 1, "novel": True}, "without a list of known formulas nothing can be called novel"),
    ("training.steps", int("f" * 4000, 16), "a number of more than 4,300 digits"),
]


@pytest.mark.parametrize(("key", "value", "sentence"), REFUSED_VALUES, ids=range(len(REFUSED_VALUES)))
def test_a_value_beyond_any_use_is_refused(key: str, value: object, sentence: str) -> None:
    config: object = value
    for part in reversed(key.split(".")):
        config = {part: config}
    with pytest.raises(XtalrlError) as error:
        validate(config)
    assert f"`{key}" in str(error.value)
    assert sentence in str(error.value)
    str(error.value).encode()


def test_elements_must_be_left_to_place() -> None:
    with pytest.raises(XtalrlError, match=r"`allow` is \['Si'\] and `deny` \['Si'\]: no element is left"):
        validate({"rollout": {"allow": ["Si"], "deny": ["Si"]}})
    with pytest.raises(XtalrlError, match="no element is left"):
        validate({"rollout": {"deny": list(ACTION)}})
    validate({"rollout": {"allow": ["Si", "O"], "deny": ["Si"]}})


def test_splits_that_no_policy_needs_may_be_left_out() -> None:
    off = {"random": False, "bc": False, "ucql": False, "targets_ev": []}
    validate({"structures": {"splits": ["train"]}, "policies": off})
    validate({"structures": {"splits": ["val"]}, "policies": off | {"random": True}})


@pytest.mark.parametrize(
    "key",
    [
        "structures.path", "structures.magnetizations", "dft.pseudopotentials", "references.crystals", "references.energies", "labels.path",
        "evaluation.formulas",
    ],
)  # fmt: skip
def test_a_file_that_is_not_there_is_named_with_its_key(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    with pytest.raises(XtalrlError, match=f"`{key}` is '/nonexistent', which does not exist. It may be: .*"):
        check_inputs(validate({"cache": str(tmp_path), section: {name: "/nonexistent"}}))
    check_inputs(validate({"cache": str(tmp_path), section: {name: str(tmp_path)}}))


def test_more_trainings_than_anybody_wants_are_refused() -> None:
    many = {"targets_ev": [number / 100 for number in range(100)], "omegas": list(range(100))}
    with pytest.raises(XtalrlError, match="more than 10,000 trainings"):
        validate({"policies": many})
    with pytest.raises(XtalrlError, match="more than 10,000 trainings"):
        validate({"policies": {"seeds": list(range(1000))}})


@given(
    st.lists(st.floats(0, 30), max_size=6), st.lists(st.floats(0, 100), min_size=1, max_size=4), st.floats(0.001, 10)
)
def test_no_policy_vanishes(targets: list[float], omegas: list[float], width: float) -> None:
    """Every target with every weight is a policy of its own, whatever the numbers, or the configuration is refused."""
    policies = {"targets_ev": targets, "any_targets_ev": targets, "any_range_ev": [0, 30], "omegas": omegas}
    sweep = {"settings": [[1e-5, 1, width]], "targets_ev": targets}
    try:
        config = validate({"policies": policies, "sweep": sweep})
    except XtalrlError as error:
        assert "would both be" in str(error)  # noqa: PT017 (refused, or all are there)
        return
    assert len(config.policy_specs()) == 2 + len(omegas) * (1 + 3 * len(targets))
    assert not set("".join(config.policy_specs())) & set("+{}*?[]/ ")


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(XtalrlError, match="2 mistakes"):
        validate({"dtf": 1, "reslts": 2})


def test_a_missing_file_names_the_files_there_are(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(XtalrlError, match=r"config/dmo.yaml does not exist; in .* there are: .*config/demo.yaml"):
        load("config/dmo.yaml")


def test_broken_yaml_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [1")
    (tmp_path / "b.yaml").write_text("- 1")
    with pytest.raises(XtalrlError, match="not valid YAML"):
        load(tmp_path / "a.yaml")
    with pytest.raises(XtalrlError, match="must hold `key: value` pairs"):
        load(tmp_path / "b.yaml")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*Config.model_fields, "x"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Config.model_fields, "x"]), json_values))
def test_anything_is_accepted_or_refused_with_a_sentence(config: dict) -> None:
    try:
        validate(config)
    except XtalrlError as error:
        assert "docs/configuration.md" in str(error)  # noqa: PT017 (either outcome is right, a traceback is not)


def test_policies_of_table_1() -> None:
    assert list(Config().policy_specs()) == [
        "random", "bc", "ucql-w1", "ucql-w5",
        "ccql-1.12ev-w1", "ccql-1.12ev-w5", "ccql-2ev-w1", "ccql-2ev-w5",
        "ccql-3ev-w1", "ccql-3ev-w5", "ccql-4ev-w1", "ccql-4ev-w5",
    ]  # fmt: skip


def test_policies_of_the_sweep(root: Path) -> None:
    """Table 3 and 4: 8 settings at 2 weights each, of which one is that of Figure 6 at all four targets."""
    config = load(root / "config/config.yaml", root / "config/sweep.yaml")
    specs = config.policy_specs()
    assert len(specs) == 4 + 8 + 2 * 7 * 2
    assert config.training.steps == 500_000
    assert config.cache == Config().cache
    assert {spec.reward.energy for spec in specs.values() if spec.reward} == {"total"}
    for target in (1.12, 4.0):
        settings = [
            (spec.reward.setting, spec.omega) for spec in specs.values() if spec.target_ev == target and spec.reward
        ]
        assert len(settings) == len(set(settings)) == 16
    assert specs["ccql-4ev-w5-a1-10-b3"].reward == Reward("total", alpha1=1, alpha2=10, beta2=3)
    assert specs["ccql-4ev-w5"].reward == Reward("total", alpha1=1, alpha2=5, beta2=1)
    assert all(PolicySpec.from_dict(spec.to_dict()) == spec for spec in specs.values())


def test_the_unconditional_policy_is_rewarded_for_energy_alone() -> None:
    reward = Config().policy_specs()["ucql-w5"].reward
    assert reward is not None
    assert (reward.alpha1, reward.alpha2) == (1.0, 0.0)


def test_a_time_limit_concerns_the_stages_that_run_its_cells() -> None:
    """Snakemake plans a shard again when its parameters change: a longer limit for designs must not touch the data crystals."""
    limits = {"crystal": [1], "reference": [2], "design": [3], "confirmation": [4]}
    parts = validate({"dft": {"time_limits": limits}}).dft.time_limits
    assert parts.of_stage("scf") == {"crystal": (1,)}
    assert parts.of_stage("references") == {"reference": (2,)}
    assert parts.of_stage("evaluation") == {"design": (3,), "reference": (2,)}
    assert parts.of_stage("confirmation") == {"design": (4,), "reference": (2,)}


@pytest.mark.parametrize(
    ("campaign", "wanted", "asked"),
    [
        ({"gap_ev": 1.12}, (0.87, 1.37), 1.12),
        ({"gap_ev": 0.1}, (0.0, 0.35), 0.1),
        ({"range_ev": [1, 1.6]}, (1, 1.6), 1.3),
        ({"range_ev": [3, None], "window_ev": 0.5}, (3, None), 3.5),
    ],
)
def test_wanted_gaps_of_a_campaign(
    campaign: dict[str, object], wanted: tuple[float, float | None], asked: float
) -> None:
    config = validate({"campaign": campaign}).campaign
    assert config.is_on
    assert config.wanted_ev == pytest.approx(wanted)
    assert config.asked_ev == pytest.approx(asked)
    assert not validate({}).campaign.is_on


def test_the_split_of_the_skeletons_must_be_used() -> None:
    with pytest.raises(XtalrlError, match=r"`structures.splits` is .* and lacks `test`, which the campaign needs"):
        validate({"campaign": {"gap_ev": 1, "skeletons": "test"}})
    validate({"campaign": {"gap_ev": 1, "skeletons": "test"}, "structures": {"splits": ["train", "val", "test"]}})


def test_core_hours_take_the_place_of_the_budget() -> None:
    assert validate({"campaign": {"gap_ev": 1, "core_hours": 0.5, "budget": 1, "rounds": 4}}).campaign.core_hours == 0.5
