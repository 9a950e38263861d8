"""The policy that draws elements uniformly."""

from __future__ import annotations

from xtalrl.rl.algorithms.base import Algorithm


class Random(Algorithm):
    """Nothing is learned; the rollout draws."""

    kind = "random"
    label = "random"
    marker = "X"
    is_learned = False
    learns_from_outcomes = False
