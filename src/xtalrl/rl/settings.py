"""How policies are trained. Plain data, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from xtalrl.rl.algorithms import Algorithm

Focus = Literal["index", "node"]
EdgeFeatures = Literal["paper", "gaussian_basis"]
StateFeatures = Literal["auto", "raw", "standardised"]
TargetEmbedding = Literal["column", "gaussians"]
Backend = Literal["native", "dgl"]
Weighting = Literal["transitions", "crystals", "sizes"]

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "modern": {
        "focus": "node",
        "edge_features": "gaussian_basis",
        "state_features": "standardised",
        "target_embedding": "gaussians",
        "schedule": "cosine",
        "weight_averaging": 0.999,
    },
}
"""Settings that a preset fixes; an option that is not named stays free. docs/results/ablation.md has the effect of each."""
PRESET_DEFAULTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "modern": {"steps": 12_000, "batch_size": 256, "learning_rate": 1e-3, "warmup_steps": 200},
}
"""Settings that a preset proposes; a value that the user gives wins."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a policy is trained (appendix A.1.5); described in `xtalrl.config.TrainingConfig`."""

    steps: int = 250_000
    batch_size: int = 1024
    learning_rate: float = 3e-4
    discount: float = 0.99
    target_update_rate: float = 5e-3
    gradient_clip: float | None = 5.0
    focus: Focus = "index"
    edge_features: EdgeFeatures = "paper"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    backend: Backend = "native"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    policies_per_pass: Literal["auto"] | int = "auto"
    checkpoint_every: int = 10_000
    snapshots: int = 0
    log_every: int = 100
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    preset: Literal["paper", "modern"] = "paper"
    state_features: StateFeatures = "auto"
    electrons: bool = False
    target_embedding: TargetEmbedding = "column"
    target_noise_ev: float = 0.1
    hide_target: float = 0.0
    condition_on_energy: bool = False
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    weight_averaging: float | None = None
    weighting: Weighting = "transitions"
    returns: Literal["bootstrap", "monte_carlo"] = "bootstrap"
    cloning_steps: int = 0

    @property
    def standardises_state(self) -> bool:
        """Whether state features enter with mean 0 and standard deviation 1."""
        return self.state_features == "standardised" or (self.state_features == "auto" and self.focus == "node")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the update after this many updates: a linear warm-up, then constant or half a cosine down to a thousandth."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.learning_rate
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        return self.learning_rate * (0.5 * (1 + math.cos(math.pi * min(done, 1.0))) + 1e-3)

    def averaging_at(self, step: int) -> float:
        """Share of the average that is kept at the update after this many updates: little at first, when the weights move fast."""
        return min(self.weight_averaging or 0.0, (1 + step) / (10 + step))

    def of_the_result(self, algorithm: Algorithm) -> TrainingSettings:
        """The settings that a checkpoint of an algorithm depends on; all others have their defaults.

        It does not depend on the number of steps (unless a schedule ends with them), on the other policies of the pass, on the machine, on how
        training is logged, or on settings that only other algorithms use.
        """
        idle = {
            "compile",
            "backend",
            "device",
            "policies_per_pass",
            "checkpoint_every",
            "snapshots",
            "log_every",
            "trackers",
            "preset",
        }
        if self.schedule != "cosine":
            idle |= {"steps"}
        if not algorithm.has_values:
            idle |= {"discount", "target_update_rate", "returns", "cloning_steps"}
        if not algorithm.hides_target:
            idle |= {"target_noise_ev", "hide_target"}
        plain = TrainingSettings()
        return replace(self, **{name: getattr(plain, name) for name in idle})


def snapshot_steps(steps: int, snapshots: int) -> list[int]:
    """Steps at which the weights are kept: this many, evenly spaced before the last step; fewer if there are fewer steps."""
    return sorted({number * steps // (snapshots + 1) for number in range(1, snapshots + 1)} - {0})
