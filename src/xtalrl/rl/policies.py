"""What a policy is: its kind, its target gap, its conservatism and its reward. Plain data, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Kind = Literal["random", "bc", "ucql", "ccql"]


@dataclass(frozen=True)
class Reward:
    """Parameters of the terminal reward, eq. 7 (`energy="formation"`) or eq. 16 (`energy="total"`).

    formation: alpha1 exp(-E_form / beta1) + alpha2 exp(-(p - p̂)² / beta2), E_form in eV/atom, p in eV
    total:     alpha1 log10(-E_tot / Ry)   + alpha2 exp(-(p - p̂)² / beta2)
    """

    energy: Literal["formation", "total"] = "formation"
    alpha1: float = 1.0
    alpha2: float = 10.0
    beta1: float = 5.0
    beta2: float = 3.0

    def without_gap(self) -> Reward:
        """The reward of the unconditional policy: the energy term alone."""
        return replace(self, alpha2=0.0)


@dataclass(frozen=True)
class PolicySpec:
    """A policy of Table 1.

    `omega` (the conservatism weight ω of eq. 4) belongs to ucql and ccql, `target_ev` (p̂) to ccql.
    """

    kind: Kind
    omega: float | None = None
    target_ev: float | None = None
    reward: Reward | None = None

    @property
    def name(self) -> str:
        """random, bc, ucql-w5, ccql-1.12ev-w5."""
        parts: list[str] = [self.kind]
        if self.target_ev is not None:
            parts.append(f"{self.target_ev:g}ev")
        if self.omega is not None:
            parts.append(f"w{self.omega:g}")
        return "-".join(parts)

    @property
    def is_learned(self) -> bool:
        """Whether there is anything to train."""
        return self.kind != "random"

    @property
    def is_conditional(self) -> bool:
        """Whether p̂ is part of the state (eq. 10)."""
        return self.kind == "ccql"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PolicySpec:
        """The inverse of `to_dict`."""
        reward = data.get("reward")
        return cls(**{**data, "reward": Reward(**reward) if reward is not None else None})
