"""How policies choose elements. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

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

    @classmethod
    def of(cls, settings: RolloutSettings | Mapping[str, Any]) -> RolloutSettings:
        """The settings, which the workflow hands over as plain data."""
        return settings if isinstance(settings, RolloutSettings) else cls(**settings)


AS_IN_THE_PAPER = RolloutSettings()
"""The best element at every site."""
