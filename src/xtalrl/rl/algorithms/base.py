"""What the learner asks of an algorithm. Algorithms do not import torch, because the workflow reads them without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from xtalrl.rl.losses import Loss
    from xtalrl.rl.policies import PolicySpec
    from xtalrl.rl.settings import TrainingSettings


@dataclass(frozen=True)
class Outcomes:
    """What a batch of B transitions has beside (s, a, s'): the labels of their crystals, and random numbers to relabel them.

    All draws are functions of the seed and the step alone.
    """

    band_gap: Tensor
    """(B,) p in eV."""
    uniform: Tensor
    """(B,) uniform in [0, 1)."""
    normal: Tensor
    """(B,) standard normal."""
    formation_energy: Tensor
    """(B,) E_form in eV/atom; NaN where it is unknown."""
    shows_energy: Tensor
    """(B,) whether a second condition is shown: half of the transitions."""


@dataclass(frozen=True)
class Learning:
    """What the losses of P policies of one algorithm are computed from."""

    specs: tuple[PolicySpec, ...]
    """The P policies."""
    settings: TrainingSettings
    step: int
    """Updates done before this one."""
    omega: Tensor
    """(P,) conservatism weight ω; 0 of an algorithm that has none."""
    q: Tensor
    """(P, B, 88) Q(s, ·), or logits."""
    action: Tensor
    """(B,) action of the data."""
    reward: Tensor
    """(P, B) reward of completing the crystal of each transition."""
    done: Tensor
    """(B,) whether s' is terminal."""
    steps_left: Tensor
    """(B,) steps between this transition and the last of its trajectory."""
    next_value: Tensor | None
    """(P, B) max_a Q_target(s', a), where the policies bootstrap."""


class Algorithm:
    """Base of all algorithms; the defaults describe a policy that learns by cloning, without a target gap."""

    kind: str
    """The first part of a policy's name."""
    label: str
    """Name in tables and figures."""
    marker = "o"
    """Marker in figures."""
    is_learned = True
    """Whether there is anything to train."""
    is_conditional = False
    """Whether p̂ is an input of the network (eq. 10)."""
    serves_all_targets = False
    """Whether one training serves every target gap, so that the target is given at the rollout."""
    has_values = False
    """Whether the network's outputs are values that a discount belongs to, not logits."""
    hides_target = False
    """Whether it is trained with the target hidden at times, so that the rollout can guide it, or ask for an energy beside the gap."""
    learns_from_outcomes = True
    """Whether gap and formation energy of a crystal matter to what it learns, so that it may learn from designs that are not good."""
    learns_from_metals = False
    """Whether crystals of the split `metals` are data for it."""

    def bootstraps(self, settings: TrainingSettings) -> bool:
        """Whether it needs a target network and the Q-values of s'."""
        return False

    def trained_for(self, spec: PolicySpec, outcomes: Outcomes, settings: TrainingSettings) -> Tensor | float:
        """The p̂ in eV that each transition of a batch is shown with, (B,) or one for all."""
        return spec.target_ev or 0.0

    def trained_for_energy(self, outcomes: Outcomes) -> Tensor | float:
        """The formation energy in eV/atom that each transition of a batch is shown with, (B,) or one for all; NaN hides it."""
        return float("nan")

    def reward(self, spec: PolicySpec, reward: Tensor, outcomes: Outcomes, target_ev: Tensor) -> Tensor:
        """The terminal reward (B,) of each transition's crystal, from the value of `Replay.rewards` and the p̂ of the batch."""
        return reward

    def loss(self, learning: Learning) -> Loss:
        """The losses (P,) of policies of this algorithm."""
        raise NotImplementedError(f"{self.kind} is not learned")
