"""How policies are trained. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Focus = Literal["index", "node"]
EdgeFeatures = Literal["paper", "gaussian_basis"]


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
    device: Literal["auto", "cpu", "cuda"] = "auto"
    policies_per_pass: Literal["auto"] | int = "auto"
    checkpoint_every: int = 10_000
    snapshots: int = 0
    log_every: int = 100
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()

    def of_the_result(self) -> TrainingSettings:
        """Without what a checkpoint does not depend on: how far training goes, in what company, and how one looks at it."""
        return replace(
            self, steps=1, policies_per_pass="auto", checkpoint_every=1, snapshots=0, log_every=1, trackers=()
        )


def snapshot_steps(steps: int, snapshots: int) -> list[int]:
    """Steps at which the weights are kept: so many, evenly spaced before the last step; fewer where there are fewer steps."""
    return sorted({number * steps // (snapshots + 1) for number in range(1, snapshots + 1)} - {0})
