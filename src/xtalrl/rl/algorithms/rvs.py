"""Supervised learning with the outcome as the condition: one policy for every target gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtalrl.rl.algorithms.base import Outcomes
from xtalrl.rl.algorithms.bc import BehaviouralCloning

if TYPE_CHECKING:
    from torch import Tensor

    from xtalrl.rl.policies import PolicySpec
    from xtalrl.rl.settings import TrainingSettings


class RvS(BehaviouralCloning):
    """Reinforcement learning via supervised learning (Emmons, Eysenbach, Kostrikov, Levine, ICLR 2022, arXiv:2112.10751).

    Every transition is shown with the gap that its own crystal turned out to have, as p̂, and the loss is the cross-entropy of the
    data's action. At design time p̂ is the gap that one wants.
    """

    kind = "rvs"
    label = "RvS"
    marker = "P"
    is_conditional = True
    serves_all_targets = True
    hides_target = True
    learns_from_outcomes = True
    learns_from_metals = True

    def trained_for(self, spec: PolicySpec, outcomes: Outcomes, settings: TrainingSettings) -> Tensor:
        """The crystal's own gap plus noise; NaN, which hides p̂ from the network, for a share of the transitions.

        A gap of exactly 0 stays 0: a metal is not a crystal with a small gap.
        """
        gap = outcomes.band_gap.clamp(min=0)
        noisy = (gap + settings.target_noise_ev * outcomes.normal).clamp(min=0).where(gap > 0, gap)
        return noisy.where(outcomes.uniform >= settings.hide_target, float("nan"))

    def trained_for_energy(self, outcomes: Outcomes) -> Tensor:
        """The crystal's own formation energy, for half of the transitions."""
        return outcomes.formation_energy.where(outcomes.shows_energy, float("nan"))
