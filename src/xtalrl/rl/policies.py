"""What a policy is: its kind, its target gap, its conservatism and its reward. Plain data, no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from xtalrl.rl.algorithms import ALGORITHMS, Algorithm


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

    @property
    def setting(self) -> str:
        """1-10-3: α1, α2 and β of the gap term, as the rows of Tables 3 and 4 are named."""
        return f"{self.alpha1:g}-{self.alpha2:g}-{self.beta2:g}"


@dataclass(frozen=True)
class PolicySpec:
    """A policy of Table 1, or of a later algorithm.

    `omega` (the conservatism weight ω of eq. 4) belongs to the CQL kinds, `target_ev` (p̂) to the conditional ones. A policy of the
    sweep (Tables 3 and 4) has the setting of its reward in its name.

    Kinds whose algorithm serves all targets (`ccql-any`, `rvs`) are trained without a `target_ev` and design for the one they are
    given (`at`). Each target counts as a policy of its own where designs are judged. `pretrained` names the shipped policy that is
    used instead of a training.
    """

    kind: str
    omega: float | None = None
    target_ev: float | None = None
    reward: Reward | None = None
    in_sweep: bool = False
    target_range_ev: tuple[float, float] | None = None
    pretrained: str | None = None

    @property
    def name(self) -> str:
        """random, bc, ucql-w5, ccql-1.12ev-w5, ccql-1.12ev-w5-a1-10-b3, ccql-any-w5, ccql-any-1.12ev-w5, rvs, rvs-1.12ev."""
        parts: list[str] = [self.kind] if self.pretrained is None else [self.kind, self.pretrained]
        if self.target_ev is not None:
            parts.append(f"{self.target_ev:g}ev")
        if self.omega is not None:
            parts.append(f"w{self.omega:g}")
        if self.in_sweep and self.reward is not None:
            parts.append(f"a{self.reward.alpha1:g}-{self.reward.alpha2:g}-b{self.reward.beta2:g}")
        return "-".join(parts)

    @property
    def algorithm(self) -> Algorithm:
        """What the policy learns by."""
        return ALGORITHMS[self.kind]

    @property
    def is_learned(self) -> bool:
        """Whether there is anything to train."""
        return self.algorithm.is_learned

    @property
    def is_conditional(self) -> bool:
        """Whether p̂ is part of the state (eq. 10)."""
        return self.algorithm.is_conditional

    @property
    def trained(self) -> PolicySpec:
        """The policy that is trained for this one: itself, or the one that serves all targets."""
        return replace(self, target_ev=None) if self.algorithm.serves_all_targets else self

    def at(self, target_ev: float | None) -> PolicySpec:
        """A policy that serves all targets for this target gap in eV; any other policy, which has its own target or none, as it is."""
        return replace(self, target_ev=target_ev) if self.algorithm.serves_all_targets else self

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PolicySpec:
        """The inverse of `to_dict`."""
        reward = data.get("reward")
        target_range = data.get("target_range_ev")
        return cls(
            **{
                **data,
                "reward": Reward(**reward) if reward is not None else None,
                "target_range_ev": tuple(target_range) if target_range is not None else None,
            }
        )
