"""Behavioural cloning: the cross-entropy of the data's action."""

from __future__ import annotations

from xtalrl.rl.algorithms.base import Algorithm, Learning
from xtalrl.rl.losses import Loss, behavioural_cloning_loss


class BehaviouralCloning(Algorithm):
    """The unconditional baseline of the paper (section 3.4)."""

    kind = "bc"
    label = "BC"
    marker = "s"
    learns_from_outcomes = False

    def loss(self, learning: Learning) -> Loss:
        """The cross-entropy of the data's action under softmax(q)."""
        return behavioural_cloning_loss(learning.q, learning.action)
