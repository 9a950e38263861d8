"""The configuration of a run: one documented, validated place for every choice that changes a result.

Run-time matters (jobs, memory, wall time) are not here but in `profiles/`.

The sections `reward`, `training` and `rollout` become `Reward`, `TrainingSettings` and `RolloutSettings` of `xtalrl.rl`, which are plain
data, because a GPU node has no pydantic. The defaults stand there and are taken from there; bounds and descriptions stand here.

`docs/configuration.md` and `config/config.yaml` are generated from these models (`xtalrl config-docs`).
"""

from __future__ import annotations

import difflib
import itertools
import re
import shlex
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from xtalrl.elements import ACTION
from xtalrl.errors import XtalrlError, without_secrets
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.rollout_settings import RolloutSettings, Select
from xtalrl.rl.settings import (
    PRESET_DEFAULTS,
    PRESETS,
    Backend,
    EdgeFeatures,
    Focus,
    StateFeatures,
    TargetEmbedding,
    TrainingSettings,
    Weighting,
    snapshot_steps,
)
from xtalrl.yaml_files import read_merged

MATERIALS_PROJECT = "materials-project"
"""The value that asks the Materials Project instead of naming a path (docs/materials-project.md)."""
DEMO_FORMULAS = "demo"
"""The value that stands for the formulas of the embedded crystals instead of a path."""
DEMO_SCFS = "demo"
"""The value that stands for the finished SCFs of the embedded crystals and of the designs made from them instead of a path."""
LABELS_OF_SOURCE = "source"
"""The value that stands for the gaps and formation energies of the structures' own CSVs instead of a path."""


MAX_TRAININGS = 10_000
"""Maximum number of policies times seeds."""
_SHOWN = 20
"""Number of mistakes that a message names; it only counts the others."""


CHANGES_NO_RESULT: dict[str, JsonValue] = {"changes_result": False}
"""Mark of a key that says where, how fast or with what a result is made, or how one looks at it: what is there stays when it changes."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def of_the_result(self) -> dict[str, Any]:
        """Plain data without the keys that change no result."""
        return {
            name: value.of_the_result() if isinstance(value, _Section) else value
            for name, value in self
            if type(self).model_fields[name].json_schema_extra != CHANGES_NO_RESULT
        }

    @field_validator("*", mode="before")
    @classmethod
    def _null_of_the_command_line(cls, value: Any) -> Any:
        """Snakemake reads the values of `--config` as text, `null` too."""
        return None if value == "null" else value

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_a_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` and `on` as true, which pydantic takes for the number 1."""
        inner = value if isinstance(value, list | tuple) else [value]
        annotation = cls.model_fields[str(info.field_name)].annotation
        if annotation not in (bool, bool | None) and any(isinstance(item, bool) for item in inner):
            raise ValueError("neither `true` nor `false` can stand here")
        return value


def _usable_path(path: str, refused: str = "{}<>*?[]") -> str:
    """A path that Snakemake, the shell and every file system take as it stands."""
    if not path.strip():
        raise ValueError("it must name a file or folder")
    if "://" in path:
        raise ValueError("it is an address, and a file or folder of this machine is needed")
    if path.startswith("~") or re.search(r"\$\w", path):
        raise ValueError("`~` and variables are known to the shell alone: write the folder in full")
    if found := sorted(set(path) & set(refused)):
        raise ValueError(
            f"{' '.join(found)} cannot be part of a path here: braces, angle brackets and wildcards mean something to Snakemake"
        )
    if found := sorted({c for c in path if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}):
        raise ValueError(f"it holds characters that no path can have here: {', '.join(ascii(c) for c in found)}")
    if len(path) > 1000 or any(len(part.encode()) > 255 for part in Path(path).parts):
        raise ValueError("a path may have 1000 characters, and a name in it 255 bytes")
    return path


FilePath = Annotated[str, AfterValidator(_usable_path)]
# A set of external crystals never reaches Snakemake as a file, so braces may stand in its name; of a pattern, no file would be meant.
SetPath = Annotated[str, AfterValidator(partial(_usable_path, refused="*?"))]


def _usable_command(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"it is not a command line ({error})") from None
    if not words or any(unicodedata.category(c) in ("Cc", "Cs") and not c.isspace() for c in command):
        raise ValueError("it must be a command line; null takes the pw.x on PATH, else the embedded one")
    return command


_Number = TypeVar("_Number", int, float, tuple[float, float, float])


def _told_apart(values: tuple[_Number, ...]) -> tuple[_Number, ...]:
    """Policies are named by these numbers with six digits: two that are written alike would be one policy."""
    written: dict[str, _Number] = {}
    for value in values:
        name = "-".join(f"{number:g}" for number in (value if isinstance(value, tuple) else (value,)))
        if name in written:
            raise ValueError(
                f"{written[name]} and {value} would both be {name} in the names of policies, which have six digits: keep one of them"
            )
        written[name] = value
    return values


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if twice := [value for number, value in enumerate(values) if value in values[:number]]:
        raise ValueError(f"{twice[0]} stands in it twice: keep one of them")
    return values


# abs: -0.0 is 0, and would be another name.
Gap = Annotated[float, Field(ge=0, le=30), AfterValidator(abs)]
Gaps = Annotated[tuple[Gap, ...], Field(max_length=100), AfterValidator(_told_apart)]
Weight = Annotated[float, Field(ge=0, le=100_000), AfterValidator(abs)]
Width = Annotated[float, Field(ge=0.001, le=100_000)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
RewardSetting = tuple[Weight, Weight, Width]


class StructuresConfig(_Section):
    """Where the crystals come from and which are used."""

    source: Literal["mp20", "demo"] = Field(
        "mp20", description="`mp20`: the MP-20 data set. `demo`: the embedded textbook crystals in `resources/demo`."
    )
    path: FilePath | None = Field(
        None,
        description="Folder with `train`, `val` and `test` as `.csv` or `.csv.gz` in MP-20's columns, used instead of a download.",
    )
    magnetizations: FilePath | None = Field(
        None,
        description="CSV or Parquet of total magnetizations (`material_id`, `total_magnetization`), or `materials-project` to ask its API; "
        "null leaves them unknown.",
    )
    metals: Literal["source", "dft", "train"] = Field(
        "source",
        description="Which crystals are left out as metals. `source`: those whose band gap in the source is 0, as in the paper; one "
        "without a gap there is used if it gets a label. `dft`: those whose label has a gap of 0, after an SCF of every crystal. `train`: as "
        "`source`, but the metals of the training split are kept as a split of their own, `metals`, from which `rvs` learns what a gap "
        "of 0 is (no SCF is run for them).",
    )
    splits: Annotated[tuple[Literal["train", "val", "test"], ...], AfterValidator(_distinct)] = Field(
        ("train", "val"),
        min_length=1,
        description="Splits whose crystals are used; the paper leaves the test split out.",
    )
    max_sites: int = Field(
        20, ge=1, le=20, description="Largest number of sites in a cell; larger crystals are rejected."
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Use at most this many crystals of each split (for trials); null uses all.",
    )


Minutes = Annotated[float, Field(gt=0, le=1_000_000)]


class TimeLimits(_Section):
    """Minutes of wall time per pw.x attempt: one number for each attempt, the last for all further ones."""

    crystal: tuple[Minutes, ...] = Field(
        (30, 120, 480), min_length=1, description="Data crystals: the flexible limit of the paper."
    )
    reference: tuple[Minutes, ...] = Field((30, 120, 480), min_length=1, description="Elemental references.")
    design: tuple[Minutes, ...] = Field(
        (15,),
        min_length=1,
        description="Designs: 15 minutes in all attempts together, as in the paper. A second number is what the attempts after the first may add; "
        "`recovery: extended` needs one.",
    )
    confirmation: tuple[Minutes, ...] = Field(
        (120, 40),
        min_length=1,
        description="Designs that hit their target, computed again on a doubled k mesh; counted as those of `design`.",
    )

    def of_stage(self, stage: str) -> dict[str, tuple[float, ...]]:
        """Minutes by the kinds of cells that a stage of SCFs runs. A hit that is computed again is a design with more time."""
        if stage == "scf":
            return {"crystal": self.crystal}
        if stage == "references":
            return {"reference": self.reference}
        # Designs bring elements with them that the references lack.
        is_finer = stage.endswith("confirmation")
        return {"design": self.confirmation if is_finer else self.design, "reference": self.reference}


Jobs = Annotated[int, Field(ge=1, le=20_000)]


class Shards(_Section):
    """Number of jobs the SCFs of a stage are divided into; aim for 50 to 150 crystals per job: the default is for 12,000 to 36,000."""

    scf: Jobs = Field(230, description="Data crystals.", json_schema_extra=CHANGES_NO_RESULT)
    references: Jobs = Field(8, description="Elemental references.", json_schema_extra=CHANGES_NO_RESULT)
    evaluation: Jobs = Field(
        230, description="Distinct valid designs of all policies.", json_schema_extra=CHANGES_NO_RESULT
    )
    confirmation: Jobs = Field(
        20,
        description="Distinct designs that hit their target (`snakemake confirm`).",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    campaign: Jobs = Field(4, description="Designs of a round of the campaign.", json_schema_extra=CHANGES_NO_RESULT)

    def of_stage(self, stage: str) -> int:
        """Jobs of a stage of SCFs; the hits of a campaign are confirmed in as many as those of policies."""
        name = stage.removeprefix("campaign-")
        return self.campaign if name.isdecimal() else int(getattr(self, name))


class DftConfig(_Section):
    """How every SCF is done."""

    protocol: FilePath = Field(
        "paper-fast", description="Name of a file in `resources/protocols`, or a path to one of yours."
    )
    family: FilePath = Field(
        "sssp-1.3.0-efficiency", description="Name of a pseudopotential family in `resources/families`."
    )
    pseudopotentials: FilePath | None = Field(
        None,
        description="Folder or archive that holds the family's files, or a folder with such an archive; null downloads them.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    command: Annotated[str, AfterValidator(_usable_command)] | None = Field(
        None,
        description="Command that runs pw.x, e.g. `srun --overlap -n 1 pw.x`; `embedded` is the embedded pw.x; null takes the pw.x on PATH, else the embedded one.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    finished: FilePath | None = Field(
        None,
        description="Finished SCFs of others, a file of `xtalrl cache export`, that the run takes before it computes one: its cache is left as it is, and "
        "its report says what came from there. `demo`: those of `make demo`, which ship with xtalrl. null: none.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    shards: Shards = Shards()
    recovery: Literal["paper", "extended"] = Field(
        "paper",
        description="`paper` drops the crystals and designs that the paper dropped; `extended` tries to recover them.",
    )
    time_limits: TimeLimits = TimeLimits()
    accept_not_saved: bool = Field(
        False,
        description="Whether to accept a run that converged and then failed to save, mostly because of a full disk: its outcome is then "
        "`converged_not_saved`, otherwise `not_saved`.",
    )

    @model_validator(mode="after")
    def _recovery_has_time(self) -> DftConfig:
        """A design that is stuck uses up all its time in the first attempt: the others need time of their own."""
        first, *others = self.time_limits.design
        if self.recovery == "extended" and not others:
            raise ValueError(
                f"`recovery: extended` needs a second number in `time_limits.design`, the minutes that the attempts after the first may add: "
                f"`[{first:g}, {first / 3:g}]`, or `[{first * 2 / 3:g}, {first / 3:g}]` to stay within {first:g} minutes in all"
            )
        return self


class ReferencesConfig(_Section):
    """The elemental reference energies of eq. 15."""

    elements: Literal["all", "data"] = Field(
        "all",
        description="`all`: the 88 elements. `data`: the elements of the crystals; what designs need is added later.",
    )
    crystals: FilePath | None = Field(
        None,
        description="CSV of elemental crystals (`element`, `cif`), or `materials-project` to ask its API; null takes the textbook forms, "
        "then one atom in a box.",
    )
    energies: FilePath | None = Field(
        None, description="CSV of reference energies to import instead of computing them."
    )
    protocol: FilePath | None = Field(
        None,
        description="Protocol of imported references and labels, where their tables do not name it; it must be `dft.protocol`. Al, Ne and Si are "
        "computed to check it. null: energies without a protocol serve imported labels only, and a run that would compute anything with them is "
        "refused at once.",
    )


class LabelsConfig(_Section):
    """Gaps and formation energies the policies learn from."""

    path: FilePath | None = Field(
        None,
        description="Folder or CSV of published results to import instead of running the SCFs; `source` takes the gaps and formation energies of the "
        "structures' own CSVs (the Materials Project's, for MP-20).",
    )


class TrajectoriesConfig(_Section):
    """Breadth-first orders of the sites."""

    per_crystal: int = Field(
        5, ge=1, le=20, description="Maximum number of trajectories per crystal, each from another source site."
    )
    disconnected: Literal["keep", "drop"] = Field(
        "keep",
        description="Crystals whose graph falls into several parts. `keep`: the search goes on in the next part. `drop`: they are left "
        "out of training and validation, as in the published code and evidently in the paper.",
    )
    seed: Seed = Field(0, description="Seed of the choice of source sites.")


class PoliciesConfig(_Section):
    """Which policies are trained: the baselines, and c-CQL for every target gap and conservatism weight."""

    random: bool = Field(True, description="The policy that draws elements uniformly.")
    bc: bool = Field(True, description="Behavioural cloning.")
    ucql: bool = Field(True, description="Unconditional CQL, rewarded for formation energy only, for every weight.")
    targets_ev: Gaps = Field((1.12, 2.0, 3.0, 4.0), description="Target gaps p̂ of c-CQL in eV.")
    omegas: Annotated[tuple[Weight, ...], Field(max_length=100), AfterValidator(_told_apart)] = Field(
        (1.0, 5.0), description="Conservatism weights ω of CQL."
    )
    any_targets_ev: Gaps = Field(
        (),
        description="Target gaps in eV that one more c-CQL policy for every weight, `ccql-any`, designs for. It is trained for all targets in "
        "`any_range_ev` at once: the reward is a function of p̂, so every transition serves every target. Empty: it is not trained.",
    )
    any_range_ev: tuple[Gap, Gap] = Field(
        (0.0, 5.0), description="Lowest and highest target gap in eV that `ccql-any` is trained for, drawn uniformly."
    )
    rvs_targets_ev: Gaps = Field(
        (),
        description="Target gaps in eV that one policy, `rvs`, designs for: supervised learning in which every crystal is shown with its own "
        "gap as p̂. It is trained once. Empty: it is not trained.",
    )
    pretrained: FilePath | None = Field(
        None,
        description="Name of a policy in `resources/pretrained` that designs for `rvs_targets_ev` without a training, instead of `rvs` "
        "(docs/policies-and-rollout.md).",
    )
    seeds: Annotated[tuple[Seed, ...], AfterValidator(_distinct)] = Field(
        (0,), min_length=1, max_length=1000, description="Training seeds."
    )

    @model_validator(mode="after")
    def _targets_are_in_range(self) -> PoliciesConfig:
        low, high = self.any_range_ev
        if not low < high:
            raise ValueError(f"`any_range_ev` is [{low:g}, {high:g}]: the first gap must be below the second")
        if any(not low <= target <= high for target in self.any_targets_ev):
            raise ValueError(
                f"`any_targets_ev` {self.any_targets_ev} must lie in `any_range_ev`, from {low:g} up to {high:g}"
            )
        return self


class RewardConfig(_Section):
    """The terminal reward: α₁·g_E + α₂·exp(-(p - p̂)²/β₂)."""

    energy: Literal["formation", "total"] = Field(
        Reward.energy,
        description="`formation`: g_E = exp(-E_form/β₁) (eq. 7). `total`: g_E = log10(-E_tot/Ry) (eq. 16).",
    )
    alpha1: Weight = Field(Reward.alpha1, description="Weight of the energy term.")
    alpha2: Weight = Field(Reward.alpha2, description="Weight of the gap term.")
    beta1: float = Field(Reward.beta1, ge=0.1, le=100_000, description="Width of the formation-energy term in eV/atom.")
    beta2: Width = Field(Reward.beta2, description="Width of the gap term in eV².")


class SweepConfig(_Section):
    """Further c-CQL policies: one for every setting of the reward, target and weight (appendix A.3, `config/sweep.yaml`)."""

    settings: Annotated[tuple[RewardSetting, ...], Field(max_length=1000), AfterValidator(_told_apart)] = Field(
        (), description="Settings (α₁, α₂, β₂), which replace those of `reward`. Empty: no sweep."
    )
    targets_ev: Gaps = Field((1.12, 4.0), description="Target gaps p̂ in eV at which every setting is tried.")


class TrainingConfig(_Section):
    """How a policy is trained (appendix A.1.5)."""

    preset: Literal["paper", "modern"] = Field(
        TrainingSettings.preset,
        description="`paper`: the options as the paper has them, which are the defaults. `modern`: inputs, schedule and "
        "averaging that the paper does not have (docs/policies-and-rollout.md lists them; docs/results/ablation.md measures each part)."
        " An option that contradicts the preset "
        "is refused; steps, batch size, learning rate and warm-up are only proposed by it.",
    )
    steps: Count = Field(TrainingSettings.steps, description="Gradient steps.")
    batch_size: int = Field(TrainingSettings.batch_size, ge=1, le=1_000_000, description="Transitions per step.")
    learning_rate: float = Field(TrainingSettings.learning_rate, gt=0, le=1, description="Learning rate of Adam.")
    discount: float = Field(TrainingSettings.discount, ge=0, le=1, description="Discount γ.")
    target_update_rate: float = Field(
        TrainingSettings.target_update_rate, gt=0, le=1, description="Soft update of the target network, every step."
    )
    gradient_clip: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        TrainingSettings.gradient_clip,
        description="Largest norm of the gradient, as in the authors' code (the paper does not say); null leaves it as it is.",
    )
    focus: Focus = Field(
        TrainingSettings.focus,
        description="How a policy sees which site it fills. `index`: by its number in the file, as in the paper, which leaks the "
        "order of the file. `node`: by a mark on the node; state features are standardised and trajectories do not follow the file's "
        "order, so that designs do not depend on it.",
    )
    edge_features: EdgeFeatures = Field(
        TrainingSettings.edge_features,
        description="How a bond length enters. `paper`: one Gaussian (eq. 8). `gaussian_basis`: 100 of them up to 5 Å, as in MEGNet's paper.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        TrainingSettings.precision,
        description="Precision of matrix products; with `bfloat16` (autocast), weights and sums stay in single precision.",
    )
    compile: bool = Field(
        TrainingSettings.compile,
        description="Have torch compile the activation, which takes a few seconds and a C++ compiler; for CPUs. docs/policies-and-rollout.md "
        "says what it saves.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    backend: Backend = Field(
        TrainingSettings.backend,
        description="What passes the messages. `dgl`: DGL 1.1.3 in an environment that has it (`make dgl`), on CPUs; it learns and designs the "
        "same up to rounding, more slowly.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        TrainingSettings.device,
        description="`auto` takes a GPU where there is one.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    policies_per_pass: Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_TRAININGS)] = Field(
        TrainingSettings.policies_per_pass,
        description="Maximum number of policies of a seed that one job trains together, sharing batches and graphs; 1: one job per policy. `auto`: "
        "1 on a CPU, and where `device` is `cuda`, or a GPU is in this machine, as many as its memory holds.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    checkpoint_every: Count = Field(
        TrainingSettings.checkpoint_every, description="Steps between checkpoints.", json_schema_extra=CHANGES_NO_RESULT
    )
    snapshots: int = Field(
        TrainingSettings.snapshots,
        ge=0,
        le=1000,
        description="Evenly spaced steps at which the weights are kept and rolled out, for the learning curve of the designs; 0 makes "
        "none. A policy trained without them is trained again from the start to get them.",
    )
    log_every: Count = Field(
        TrainingSettings.log_every,
        description="Steps between rows of the training log.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    trackers: Annotated[tuple[Literal["tensorboard", "wandb"], ...], AfterValidator(_distinct)] = Field(
        TrainingSettings.trackers,
        description="Beside training.csv, curves for TensorBoard (files in the policy's folder) or Weights & Biases.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    state_features: StateFeatures = Field(
        TrainingSettings.state_features,
        description="How the lattice parameters and the space group enter. `raw`: as numbers, as in the paper. `standardised`: with mean 0 and "
        "standard deviation 1. `auto`: standardised where `focus` is `node`.",
    )
    electrons: bool = Field(
        TrainingSettings.electrons,
        description="Whether the network is told the number of electrons placed so far, its parity, and the number of free sites.",
    )
    target_embedding: TargetEmbedding = Field(
        TrainingSettings.target_embedding,
        description="How the target gap p̂ enters. `column`: as one number of the state, as in the paper. `gaussians`: as 16 Gaussians and a mark "
        "for 0, added to every node and to the state.",
    )
    target_noise_ev: float = Field(
        TrainingSettings.target_noise_ev,
        ge=0,
        le=30,
        description="Standard deviation in eV of the noise on p̂ while `rvs` is trained.",
    )
    hide_target: float = Field(
        TrainingSettings.hide_target,
        ge=0,
        lt=1,
        description="Share of the transitions for which `rvs` is trained without p̂, which `rollout.guidance` needs. Only with "
        "`target_embedding: gaussians`.",
    )
    condition_on_energy: bool = Field(
        TrainingSettings.condition_on_energy,
        description="Whether `rvs` is shown the formation energy, too (half of the time), so that `rollout.target_energy` can ask for a low one. "
        "Only with `target_embedding: gaussians`.",
    )
    schedule: Literal["constant", "cosine"] = Field(
        TrainingSettings.schedule,
        description="Learning rate after the warm-up. `cosine`: half a cosine that ends at the last step, so that a policy trained with "
        "another number of steps is trained again from the start.",
    )
    warmup_steps: int = Field(
        TrainingSettings.warmup_steps,
        ge=0,
        le=1_000_000_000,
        description="Steps in which the learning rate rises linearly to its value.",
    )
    weight_averaging: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        TrainingSettings.weight_averaging,
        description="Decay per step of an exponential average of the weights, which is then the policy; null uses the last weights.",
    )
    weighting: Weighting = Field(
        TrainingSettings.weighting,
        description="What is drawn uniformly. `transitions`, as in the paper: large cells count more. `crystals`: every crystal counts alike. "
        "`sizes`: every number of sites counts alike.",
    )
    returns: Literal["bootstrap", "monte_carlo"] = Field(
        TrainingSettings.returns,
        description="What Q-learning regresses on. `bootstrap`: reward plus the target network's value of the next state, as in the paper. "
        "`monte_carlo`: the discounted reward at the end of the trajectory, which is known.",
    )
    cloning_steps: int = Field(
        TrainingSettings.cloning_steps,
        ge=0,
        le=1_000_000_000,
        description="Steps at the start in which CQL policies only clone, without the TD term (a warm start).",
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: Any) -> Any:
        """The options of a preset, and what it proposes where nothing else is said."""
        name = data.get("preset", "paper") if isinstance(data, Mapping) else None
        if not isinstance(name, str) or name not in PRESETS:
            return data
        fixed = PRESETS[name]
        for key, value in fixed.items():
            if key in data and data[key] != value:
                raise ValueError(
                    f"`preset: {name}` sets `{key}: {value}`, and `{key}: {data[key]}` contradicts it: leave one of the two out "
                    f"(without a preset, the options of {name} are {', '.join(f'{k}: {v}' for k, v in fixed.items())})"
                )
        return {**PRESET_DEFAULTS[name], **data, **fixed}

    @model_validator(mode="after")
    def _hidden_targets_are_embedded(self) -> TrainingConfig:
        if self.target_embedding == "column" and (self.hide_target or self.condition_on_energy):
            key = "hide_target" if self.hide_target else "condition_on_energy"
            raise ValueError(f"`{key}` needs `target_embedding: gaussians` (`preset: modern` has it)")
        return self

    @property
    def settings(self) -> TrainingSettings:
        """The same as plain data."""
        return TrainingSettings(**self.model_dump())

    @property
    def snapshot_steps(self) -> list[int]:
        """Steps at which the weights are kept, rising, all before the last."""
        return snapshot_steps(self.steps, self.snapshots)


def _known_element(symbol: str) -> str:
    if symbol not in ACTION:
        raise ValueError(f"it is not one of the {len(ACTION)} elements (xtalrl.elements)")
    return symbol


Element = Annotated[str, AfterValidator(_known_element)]


class RolloutConfig(_Section):
    """How a policy fills the skeletons; the paper takes the best element at every site."""

    select: Select = Field(
        RolloutSettings.select,
        description="`greedy`: the element of the highest Q. `epsilon-greedy`: with probability ε any element instead. `softmax`: drawn with "
        "probability exp(Q/T) / Σ exp(Q/T). Draws depend on the training seed and the material_id.",
    )
    epsilon: float = Field(RolloutSettings.epsilon, ge=0, le=1, description="ε of `epsilon-greedy`.")
    temperature: float = Field(
        RolloutSettings.temperature, ge=0.000001, le=1_000_000, description="T of `softmax`, in the unit of Q."
    )
    designs: int = Field(
        RolloutSettings.designs,
        ge=1,
        le=1000,
        description="Distinct designs of each skeleton: with `greedy` those that lose least in Q (the first is the greedy one), else drawn "
        "without replacement. All are judged and simulated; the tables count the first of each skeleton.",
    )
    neutral: bool = Field(
        RolloutSettings.neutral,
        description="Never complete a composition that the paper's validity rule rejects: only elements are placed with which a valid composition "
        "can still be reached.",
    )
    even_electrons: bool | None = Field(
        None,
        description="Never complete a design with an odd number of electrons, because the paper's DFT rules drop them (unless the elements that may be placed leave "
        "no other way). null: false with the "
        "training preset `paper`, true with `modern`.",
    )
    guidance: float = Field(
        RolloutSettings.guidance,
        ge=0,
        le=1000,
        description="How strongly `rvs` is pushed towards its target: 1 as it was trained, 0 not at all, above 1 more strongly than it was trained "
        "(classifier-free guidance). Other values than 1 need `training.hide_target`.",
    )
    target_energy: Annotated[float, Field(ge=-20, le=20)] | None = Field(
        RolloutSettings.target_energy,
        description="Formation energy in eV/atom that `rvs` is asked for beside the gap; needs `training.condition_on_energy`. null asks for none.",
    )
    allow: tuple[Element, ...] = Field(RolloutSettings.allow, description="Elements that may be placed. Empty: all 88.")
    deny: tuple[Element, ...] = Field(RolloutSettings.deny, description="Elements that may not be placed.")

    @model_validator(mode="after")
    def _elements_are_left(self) -> RolloutConfig:
        allowed = set(self.allow or ACTION)
        if allowed <= set(self.deny):
            raise ValueError(
                f"`allow` is {list(self.allow)} and `deny` {list(self.deny)}: no element is left to place. Take one out of `deny`"
            )
        return self


class EvaluationConfig(_Section):
    """How designs are judged."""

    window_ev: float = Field(
        0.25, gt=0, le=30, description="Half width of the desired range around the target gap in eV."
    )
    targets_ev: Gaps = Field(
        (),
        description="Target gaps in eV at which designs are scored (ν and κ) beside the policies' own targets, e.g. for external crystals alone.",
    )
    formulas: FilePath | None = Field(
        None,
        description="Text file (or .gz) of known reduced formulas, one per line, for novelty; `materials-project` to ask its API; `demo` for those "
        "of the embedded crystals; null leaves novelty empty.",
    )
    max_sites: int | None = Field(
        None,
        ge=1,
        le=20,
        description="Compute only designs of at most this many sites; null computes every size. Table 1 has all designs, whatever is computed.",
    )
    limit: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Compute the designs on at most this many skeletons, drawn by lot and the same for every policy (of each external set: this many "
        "crystals); null computes all. A larger number keeps the skeletons of a smaller one, so that a sample can grow.",
    )
    confirm: bool = Field(
        False,
        description="Whether the tables, the report and `all` say which hits were confirmed, which costs finer SCFs; `snakemake confirm` does "
        "that at any time.",
    )
    stable_ev_per_atom: float = Field(
        0.1, ge=0, le=20, description="Largest energy above the hull of a stable design in eV/atom (unrelaxed cells)."
    )
    bootstrap_samples: int = Field(2000, ge=100, le=100_000, description="Resamples behind every interval.")
    confidence: float = Field(0.95, gt=0, lt=1, description="Level of every interval.")

    @property
    def is_sampled(self) -> bool:
        """Whether only some of the designs are computed."""
        return self.max_sites is not None or self.limit is not None

    @property
    def sample(self) -> str:
        """What the computed designs are a sample of, as a sentence for captions; empty where all are computed."""
        if not self.is_sampled:
            return ""
        sizes = f" of at most {self.max_sites} sites" if self.max_sites is not None else ""
        if self.limit is None:
            return f"Computed: all designs{sizes}."
        return f"Computed: the designs{sizes} on at most {self.limit:,} skeletons, drawn by lot."


SPLITS = ("train", "val", "test")


class CampaignConfig(_Section):
    """A search for crystals with a wanted gap: rounds of designing, screening and SCFs within a budget (`snakemake campaign`, docs/campaign.md)."""

    gap_ev: Annotated[float, Field(gt=0, le=30)] | None = Field(
        None, description="Wanted gap in eV; null, without a `range_ev`: there is no campaign (`snakemake campaign`)."
    )
    window_ev: Annotated[float, Field(gt=0, le=30)] = Field(
        0.25, description="Half width of the range around `gap_ev`."
    )
    range_ev: tuple[Gap, Gap | None] | None = Field(
        None,
        description="Instead of `gap_ev`, the wanted range of gaps in eV: `[1, 1.6]`, or `[3, null]` for at least 3 eV.",
    )
    budget: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="SCFs of designs in all rounds together. Elements that the references lack, and the finer SCFs of hits, come on top.",
    )
    core_hours: Annotated[float, Field(gt=0, le=100_000_000)] | None = Field(
        None,
        description="Instead of `budget`, which then does not count: hours of wall time of single-core SCFs of designs in all rounds together. A round stops choosing "
        "when its share is spent by an estimate (docs/campaign.md), so that the total may be somewhat more or less.",
    )
    rounds: int = Field(4, ge=1, le=100, description="Rounds: after each, the predictor learns from its SCFs.")
    policy: FilePath = Field(
        "mp20",
        description="Policy that designs: one of `resources/pretrained`, or one that this run trains (`rvs`, `ccql-1.12ev-w5`).",
    )
    policy_steps: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="Updates with which the policy learns from the SCFs of the earlier rounds before it designs for the next; 0 leaves it as it is. Only for a policy "
        "that learns from outcomes (all but `random` and `bc`).",
    )
    skeletons: SetPath = Field(
        "val",
        description="Skeletons that are filled: a split of the crystals (`train`, `val`, `test`), or your own: a CIF, a folder or .zip of CIFs, a POSCAR, an "
        ".xyz or .extxyz file, or an ASE database. Their elements are ignored, but for those in `keep`.",
    )
    max_sites: int = Field(20, ge=1, le=20, description="Largest number of sites of a skeleton.")
    limit: int | None = Field(
        None,
        ge=1,
        le=1_000_000_000,
        description="Use at most this many skeletons, drawn by lot; null uses all. A budget that can compute only a small share of the designs "
        "finds only a small share of the hits among them, however good the screen is.",
    )
    designs: int = Field(
        10, ge=1, le=1000, description="Designs of each skeleton in every round, chosen as `rollout.select` says."
    )
    keep: tuple[Element, ...] = Field(
        (), description="Elements of the skeletons that stay on their sites; only the other sites are filled."
    )
    allow: tuple[Element, ...] = Field((), description="Elements that may be placed; none given: all 88.")
    deny: tuple[Element, ...] = Field((), description="Elements that may not be placed.")
    neutral: bool = Field(
        True,
        description="Whether to look for designs that the paper's validity rule accepts; no other is computed in any case.",
    )
    novel: bool = Field(
        False,
        description="Whether only compositions count that are not in `evaluation.formulas`, which must then be given.",
    )
    highest_formation_energy: Annotated[float, Field(ge=-20, le=20)] | None = Field(
        None, description="Largest formation energy of a hit in eV/atom; null: any."
    )
    highest_above_hull: Annotated[float, Field(ge=0, le=20)] | None = Field(
        None,
        description="Largest energy above the hull of a hit in eV/atom, where it can be known (the labelled crystals of the run; cells are not "
        "relaxed); null: any.",
    )
    audit: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the SCFs of every round after the first that is drawn at random among the designs which the screen would have dropped: "
        "what it misses is known by them alone.",
    )
    explore: float = Field(
        0.5,
        ge=0,
        le=1,
        description="The same share in the first round, whose predictor has seen no design yet. Whatever the share, both kinds get an SCF where a "
        "round has two.",
    )
    predictor: Literal["pretrained", "new"] = Field(
        "pretrained",
        description="What the predictor of the first round goes on from. `pretrained`: the one that ships with xtalrl, which knows MP-20's train split "
        "with its metals. `new`: nothing; it learns from the labels of this run alone.",
    )
    predictor_steps: Count = Field(
        6000,
        description="Updates of each member of a new predictor; a tenth of them where it goes on from another one, in every round but the first "
        "and, with `predictor: pretrained`, in the first too.",
    )
    baselines: Annotated[tuple[str, ...], AfterValidator(_distinct)] = Field(
        (),
        max_length=100,
        description="Policies of this run (`random`, `bc`, `ccql-1.12ev-w5`) that the campaign is compared with: those of their designs that the evaluation of "
        "the run has computed on skeletons of the campaign. Only with `skeletons: val`.",
    )
    seed: Seed = Field(0, description="Seed of all that is drawn.")

    @property
    def is_on(self) -> bool:
        """Whether there is a campaign."""
        return self.gap_ev is not None or self.range_ev is not None

    @property
    def wanted_ev(self) -> tuple[float, float | None]:
        """The range of gaps that hits have, in eV; None: no upper end.

        Raises:
            ValueError: there is no campaign.
        """
        if self.range_ev is not None:
            return self.range_ev
        if self.gap_ev is None:
            raise ValueError("there is no campaign")
        # Rounded: 1.12 - 0.25 is 0.8700000000000001.
        return max(0.0, round(self.gap_ev - self.window_ev, 9)), round(self.gap_ev + self.window_ev, 9)

    @property
    def asked_ev(self) -> float:
        """The gap that the policy is asked for: the middle of the range, or `window_ev` above the lower end of one that has no upper."""
        low, high = self.wanted_ev
        if self.gap_ev is not None:
            return self.gap_ev
        return low + self.window_ev if high is None else (low + high) / 2

    @property
    def wishes(self) -> dict[str, Any]:
        """Fields of `xtalrl.campaign.wishes.Wishes`; empty where there is no campaign."""
        if not self.is_on:
            return {}
        gap_from, gap_to = self.wanted_ev
        return {"gap_from": gap_from, "gap_to": gap_to} | {
            name: getattr(self, name) for name in ("novel", "highest_formation_energy", "highest_above_hull")
        }

    @model_validator(mode="after")
    def _makes_sense(self) -> CampaignConfig:
        if self.gap_ev is not None and self.range_ev is not None:
            raise ValueError(
                f"`gap_ev` is {self.gap_ev:g} and `range_ev` {list(self.range_ev)}: give one of them, and null for the other"
            )
        if self.range_ev is not None and self.range_ev[1] is not None and not self.range_ev[0] < self.range_ev[1]:
            raise ValueError(f"`range_ev` is {list(self.range_ev)}: its second number must be larger than its first")
        if self.core_hours is None and self.budget < self.rounds:
            raise ValueError(
                f"`budget` is {self.budget} and `rounds` {self.rounds}: every round needs at least one SCF. Raise `budget` to {self.rounds} or more, "
                f"or lower `rounds` to {self.budget}"
            )
        if set(self.allow or ACTION) <= set(self.deny):
            raise ValueError(
                f"`allow` is {list(self.allow)} and `deny` {list(self.deny)}: no element is left to place. Take one out of `deny`"
            )
        if self.keep and self.skeletons in SPLITS:
            raise ValueError(
                f"`keep` is {list(self.keep)} and `skeletons` {self.skeletons!r}: elements stay on skeletons of your own only; name their file, or "
                "leave `keep` empty"
            )
        return self


class Config(_Section):
    """Everything that changes a result."""

    results: FilePath = Field(
        "results/mp20", description="Folder of everything this run produces.", json_schema_extra=CHANGES_NO_RESULT
    )
    cache: FilePath = Field(
        "results/cache",
        description="Downloads and finished SCFs, shared by all runs.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    structures: StructuresConfig = StructuresConfig()
    dft: DftConfig = DftConfig()
    references: ReferencesConfig = ReferencesConfig()
    labels: LabelsConfig = LabelsConfig()
    trajectories: TrajectoriesConfig = TrajectoriesConfig()
    policies: PoliciesConfig = PoliciesConfig()
    reward: RewardConfig = RewardConfig()
    sweep: SweepConfig = SweepConfig()
    training: TrainingConfig = TrainingConfig()
    rollout: RolloutConfig = RolloutConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    campaign: CampaignConfig = CampaignConfig()
    external: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)], SetPath] = Field(
        {},
        description="Crystals that others designed, to be evaluated beside the policies: the name of each set, and its CIF, folder or .zip of "
        "CIFs, POSCAR, .xyz or .extxyz file, or ASE database (docs/report-and-exports.md).",
    )

    @model_validator(mode="after")
    def _imported_energies_fit(self) -> Config:
        stated = self.references.protocol
        if stated and not self.references.energies:
            raise ValueError(
                "`references.protocol` says what the energies of `references.energies` are, which is empty"
            )
        if stated and stated != self.dft.protocol:
            raise ValueError(
                f"`references.protocol` is {stated!r} and `dft.protocol` {self.dft.protocol!r}: energies of different protocols never mix. "
                f"Compute with `dft.protocol: {stated}`, or set `references.energies` and `references.protocol` to null to compute the references"
            )
        return self

    @model_validator(mode="after")
    def _rollout_fits_training(self) -> Config:
        if self.rollout.guidance != 1 and not self.training.hide_target and not self.policies.pretrained:
            raise ValueError(
                f"`rollout.guidance` {self.rollout.guidance:g} needs a policy that was trained with `training.hide_target` above 0, e.g. 0.1"
            )
        if (
            self.rollout.target_energy is not None
            and not self.training.condition_on_energy
            and not self.policies.pretrained
        ):
            raise ValueError("`rollout.target_energy` needs `training.condition_on_energy: true`")
        if self.policies.pretrained and not self.policies.rvs_targets_ev:
            raise ValueError(
                "`policies.pretrained` designs for the gaps in `policies.rvs_targets_ev`, which is empty: name some, e.g. [1.34]"
            )
        if self.policies.pretrained and self.training.snapshots:
            raise ValueError(
                f"`policies.pretrained` has no snapshots of its training: set `training.snapshots` (now {self.training.snapshots}) to 0"
            )
        if self.policies.pretrained and len(self.policies.seeds) > 1:
            raise ValueError(
                f"`policies.pretrained` is one training, and `policies.seeds` {list(self.policies.seeds)} asks for several: name one seed"
            )
        return self

    @model_validator(mode="after")
    def _q_learning_has_weights(self) -> Config:
        policies = self.policies
        wanted = {
            "policies.ucql": policies.ucql,
            "policies.targets_ev": policies.targets_ev,
            "policies.any_targets_ev": policies.any_targets_ev,
            "sweep.settings": self.sweep.settings,
        }
        if not policies.omegas and any(wanted.values()):
            keys = " and ".join(f"`{key}`" for key, value in wanted.items() if value)
            raise ValueError(
                f"`policies.omegas` is empty, and without a weight {keys} would train nothing: name some, e.g. [5], or empty these too"
            )
        return self

    @model_validator(mode="after")
    def _policies_are_told_apart(self) -> Config:
        names: set[str] = set()
        for spec in itertools.islice(self._specs(), MAX_TRAININGS // len(self.policies.seeds) + 1):
            if spec.name in names:
                raise ValueError(
                    f"two policies would both be named {spec.name!r}: change one of their targets, weights or rewards"
                )
            names.add(spec.name)
        if len(names) * len(self.policies.seeds) > MAX_TRAININGS:
            raise ValueError(
                f"`policies` and `sweep` ask for more than {MAX_TRAININGS:,} trainings, every target with every weight and each of the "
                f"{len(self.policies.seeds):,} `policies.seeds`: shorten these lists"
            )
        return self

    @model_validator(mode="after")
    def _splits_serve_the_policies(self) -> Config:
        needed = {
            "val": ("whose crystals are the skeletons that policies fill", bool(self.policy_specs())),
            "train": ("from which policies learn", any(spec.is_learned for spec in self.trained_specs().values())),
        }
        for split, (what, is_needed) in needed.items():
            if is_needed and split not in self.structures.splits:
                raise ValueError(
                    f"`structures.splits` is {list(self.structures.splits)} and lacks `{split}`, {what}: add it, or turn every policy off "
                    "(`policies: {random: false, bc: false, ucql: false, targets_ev: []}`)"
                )
        return self

    @model_validator(mode="after")
    def _campaign_has_what_it_needs(self) -> Config:
        campaign = self.campaign
        if not campaign.is_on:
            return self
        if campaign.novel and not self.evaluation.formulas:
            raise ValueError(
                "`campaign.novel` is true and `evaluation.formulas` null: without a list of known formulas nothing can be called novel. Name a "
                "list, or set `campaign.novel` to false"
            )
        if unknown := [name for name in campaign.baselines if name not in self.policy_specs()]:
            raise ValueError(
                f"`campaign.baselines` names {unknown[0]!r}, which is not a policy of this run; there are: {', '.join(self.policy_specs()) or 'none'}"
            )
        if campaign.baselines and campaign.skeletons != "val":
            raise ValueError(
                f"`campaign.baselines` needs `campaign.skeletons: val`, the skeletons that the policies of the run fill, and it is {campaign.skeletons!r}"
            )
        needed = {"train"} | ({campaign.skeletons} & set(SPLITS))
        if missing := sorted(needed - set(self.structures.splits)):
            raise ValueError(
                f"`structures.splits` is {list(self.structures.splits)} and lacks `{missing[0]}`, which the campaign needs: its predictor learns from "
                f"`train`, and its skeletons are {campaign.skeletons!r}"
            )
        return self

    @property
    def even_electrons(self) -> bool:
        """Whether no design is completed with an odd number of electrons."""
        wanted = self.rollout.even_electrons
        return self.training.preset == "modern" if wanted is None else wanted

    def training_of(self, spec: PolicySpec) -> dict[str, Any]:
        """The settings whose change trains a policy again."""
        if not spec.is_learned:
            return {}
        settings = self.training.settings.of_the_result(spec.algorithm)
        return asdict(settings) | {"steps": self.training.steps}

    def rollout_of(self, spec: PolicySpec) -> dict[str, Any]:
        """The settings with which a policy designs; those that it does not look at are as by default, so that a change of them plans nothing."""
        settings = self.rollout.model_dump() | {"even_electrons": self.even_electrons}
        idle = {
            "select": not spec.is_learned,
            "epsilon": not spec.is_learned or self.rollout.select != "epsilon-greedy",
            "temperature": not spec.is_learned or self.rollout.select != "softmax",
            "guidance": not spec.algorithm.hides_target,
            "target_energy": not spec.algorithm.hides_target,
        }
        return settings | {name: getattr(RolloutSettings, name) for name, is_idle in idle.items() if is_idle}

    @property
    def proposing(self) -> dict[str, Any]:
        """The settings with which the policy of the campaign designs: those of `rollout`, but for the wishes of the campaign.

        Where `rollout` leaves it open, electrons are counted: a design with an odd number of them is nearly always a metal.
        """
        wishes = {name: getattr(self.campaign, name) for name in ("designs", "allow", "deny", "neutral")}
        policy = self.trained_specs().get(self.campaign.policy, PolicySpec(kind="rvs"))
        counts = self.rollout.even_electrons
        return self.rollout_of(policy) | wishes | {"even_electrons": counts is None or counts}

    @property
    def ties(self) -> Literal["index", "shuffled"]:
        """What decides between sites that a breadth-first search reaches at once: not the file, where policies are to be blind to it."""
        return "shuffled" if self.training.focus == "node" else "index"

    def policy_specs(self) -> dict[str, PolicySpec]:
        """The policies by name, in the order of Table 1."""
        return {spec.name: spec for spec in self._specs()}

    def _specs(self) -> Iterator[PolicySpec]:
        policies, reward = self.policies, Reward(**self.reward.model_dump())
        if policies.random:
            yield PolicySpec(kind="random")
        if policies.bc:
            yield PolicySpec(kind="bc")
        if policies.ucql:
            for omega in policies.omegas:
                yield PolicySpec(kind="ucql", omega=omega, reward=reward.without_gap())
        for target, omega in itertools.product(policies.targets_ev, policies.omegas):
            yield PolicySpec(kind="ccql", omega=omega, target_ev=target, reward=reward)
        for target, omega in itertools.product(policies.any_targets_ev, policies.omegas):
            gaps = policies.any_range_ev
            yield PolicySpec(kind="ccql-any", omega=omega, target_ev=target, reward=reward, target_range_ev=gaps)
        for target in policies.rvs_targets_ev:
            yield PolicySpec(kind="rvs", target_ev=target, pretrained=policies.pretrained)
        for target, (alpha1, alpha2, beta2) in itertools.product(self.sweep.targets_ev, self.sweep.settings):
            setting = replace(reward, alpha1=alpha1, alpha2=alpha2, beta2=beta2)
            # The setting of `reward` itself is among the policies above where its target is.
            if setting != reward or target not in policies.targets_ev:
                for omega in policies.omegas:
                    yield PolicySpec(kind="ccql", omega=omega, target_ev=target, reward=setting, in_sweep=True)

    def trained_specs(self) -> dict[str, PolicySpec]:
        """The policies that are trained, by name: those of `policy_specs`, but one for all targets of ccql-any and of rvs."""
        specs = (spec.trained for spec in self.policy_specs().values() if spec.pretrained is None)
        return {spec.name: spec for spec in specs}


_NO_PATHS = (None, MATERIALS_PROJECT, LABELS_OF_SOURCE, DEMO_FORMULAS, DEMO_SCFS)


def check_inputs(config: Config) -> None:
    """Check that the files and folders that the configuration names are there.

    Raises:
        XtalrlError: one is missing; the sentence names its key, and says what may stand there.
    """
    is_fetched = Path(config.cache, "families", config.dft.family, "family.json").exists()
    for section, names in {
        "structures": ["path", "magnetizations"],
        "dft": ["finished", *([] if is_fetched else ["pseudopotentials"])],
        "references": ["crystals", "energies"],
        "labels": ["path"],
        "evaluation": ["formulas"],
    }.items():
        for name in names:
            model = getattr(config, section)
            value = getattr(model, name)
            if value not in _NO_PATHS and not Path(value).exists():
                what = type(model).model_fields[name].description
                raise XtalrlError(f"`{section}.{name}` is {value!r}, which does not exist. It may be: {what}")


def validate(config: Mapping[str, Any]) -> Config:
    """Check a configuration as Snakemake or a YAML file gives it.

    Raises:
        XtalrlError: one sentence per mistake, naming the key, its value and what is allowed.
    """
    try:
        return Config.model_validate(dict(config))
    except ValidationError as error:
        # Where the items of a list are wrong, pydantic also calls it too short.
        lines = [_sentence(item) for item in error.errors() if not (item["type"] == "too_short" and item["input"])]
        count = len(lines)
        if count > _SHOWN:
            lines[_SHOWN:] = [f"and {count - _SHOWN:,} more."]
        raise XtalrlError(
            "The configuration has "
            + ("a mistake" if count == 1 else f"{count:,} mistakes")
            + ":\n  "
            + "\n  ".join(lines)
            + "\nAll keys are described in docs/configuration.md."
        ) from None


def load(*paths: str | Path) -> Config:
    """Read YAML files, later ones over earlier ones, and check the result (see `read_merged` and `validate`)."""
    return validate(read_merged(paths))


_IN_WORDS = {
    **dict.fromkeys(("tuple_type", "list_type"), "it must be a list, such as `[1, 2]`"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type", "mapping_type"), "it must be a section of `key: value` pairs"),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "it must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "it must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "it must be true or false"),
    "finite_number": "it must be a finite number",
    "string_type": "it must be text; quotes make text of a number",
    "string_pattern_mismatch": "a name has letters, digits, dots, underscores and hyphens, and begins with a letter or a digit",
}  # fmt: skip
"""What pydantic says in words of Python, by its name of the error, in those of YAML."""


def _sentence(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"] if part != "[key]")
    message = _IN_WORDS.get(
        item["type"], item["msg"].removeprefix("Value error, ").replace("Input should be", "it must be")
    )
    if item["type"] in ("too_short", "too_long"):
        bound, limit = ("at least", "min_length") if item["type"] == "too_short" else ("at most", "max_length")
        number = item["ctx"][limit]
        message = f"it must have {bound} {number} {'entry' if number == 1 else 'entries'}"
    if item["type"] == "extra_forbidden":
        names = list(_section_at(item["loc"][:-1]).model_fields)
        section, _, key = str(item["loc"][-1]).partition(".")
        if key and section in names:
            return f"`{where}` is not a known key: write it nested, `{section}: {{{key}: …}}`."
        close = difflib.get_close_matches(str(item["loc"][-1]), names, n=1, cutoff=0.5)
        hint = f": did you mean {close[0]!r}? Allowed" if close else "; allowed"
        return f"`{where}` is not a known key{hint} here: {', '.join(names)}."
    if item["type"] == "value_error" and isinstance(item["input"], Mapping):  # Of keys that do not go together.
        return f"`{where}`: {message}." if where else f"{message}."
    return f"`{where}` is {_shown(item['input'])}: {message[0].lower()}{message[1:]}."


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    try:
        text = repr(value)
        if "//" in text or "@" in text:  # it may be an address
            text = without_secrets(text)
    except ValueError:  # Python writes no whole number of more than 4,300 digits.
        return "a number of more than 4,300 digits"
    return text if len(text) <= 200 else f"{text[:150]} … ({len(text):,} characters)"


def _section_at(location: tuple[Any, ...]) -> type[BaseModel]:
    model: type[BaseModel] = Config
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    return model
