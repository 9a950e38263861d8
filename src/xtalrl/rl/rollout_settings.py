"""How policies choose elements. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Select = Literal["greedy", "epsilon-greedy", "softmax"]


@dataclass(frozen=True)
class RolloutSettings:
    """How a policy chooses elements, by default as in the paper; described in `xtalrl.config.RolloutConfig`."""

    select: Select = "greedy"
    epsilon: float = 0.1
    temperature: float = 1.0
    designs: int = 1
    neutral: bool = False
    even_electrons: bool = False
    guidance: float = 1.0
    target_energy: float | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


AS_IN_THE_PAPER = RolloutSettings()
"""The best element at every site."""
