"""Conservative Q-learning, unconditional and for one target gap or all (eq. 4, algorithm 1)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from xtalrl.rl.algorithms.base import Algorithm, Learning, Outcomes
from xtalrl.rl.losses import Loss, cql_loss
from xtalrl.rl.rewards import gap_term

if TYPE_CHECKING:
    from torch import Tensor

    from xtalrl.rl.policies import PolicySpec
    from xtalrl.rl.settings import TrainingSettings


class UnconditionalCQL(Algorithm):
    """u-CQL, rewarded for the energy alone."""

    kind = "ucql"
    label = "u-CQL"
    marker = "^"
    has_values = True

    def bootstraps(self, settings: TrainingSettings) -> bool:
        """The value of s' is asked of a target network, or not at all where the exact return is known."""
        return settings.returns == "bootstrap"

    def loss(self, learning: Learning) -> Loss:
        """ω · conservative + ½ · TD; only the first term during the first `settings.cloning_steps`."""
        settings, q, omega = learning.settings, learning.q, learning.omega
        if learning.next_value is None:
            # An episode's one reward comes at its end, so that its return is known: γ^(steps left) · reward.
            reward, next_value = (
                learning.reward * settings.discount**learning.steps_left,
                learning.reward.new_zeros(learning.reward.shape),
            )
        else:
            reward, next_value = learning.reward * learning.done, learning.next_value
        loss = cql_loss(q, learning.action, reward, learning.done, next_value, omega=omega, discount=settings.discount)
        if learning.step < settings.cloning_steps:
            return dataclasses.replace(loss, total=omega * loss.conservative)
        return loss


class ConditionalCQL(UnconditionalCQL):
    """c-CQL, rewarded for the energy and for the nearness of the gap to its target."""

    kind = "ccql"
    label = "c-CQL"
    marker = "o"
    is_conditional = True


class AnyTargetCQL(ConditionalCQL):
    """c-CQL for every target in a range: new targets are drawn for each transition, and rewards follow them."""

    kind = "ccql-any"
    label = "c-CQL any"
    marker = "d"
    serves_all_targets = True

    def trained_for(self, spec: PolicySpec, outcomes: Outcomes, settings: TrainingSettings) -> Tensor:
        """Uniform in the range of the policy."""
        low, high = spec.target_range_ev or (0.0, 0.0)
        return low + (high - low) * outcomes.uniform

    def reward(self, spec: PolicySpec, reward: Tensor, outcomes: Outcomes, target_ev: Tensor) -> Tensor:
        """The energy term plus the gap term for the targets of the batch."""
        assert spec.reward is not None
        return reward + gap_term(outcomes.band_gap, target_ev, spec.reward.alpha2, spec.reward.beta2)
