"""The two objectives: conservative Q-learning (eq. 4, algorithm 1) and behavioural cloning.

`…` in a shape stands for the policies of a stack, or for nothing: each policy has its own loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """A loss and its terms, each (…,) and averaged over the batch. `td` is None where nothing is bootstrapped."""

    total: Tensor
    conservative: Tensor
    td: Tensor | None = None


def conservative_term(q: Tensor, action: Tensor) -> Tensor:
    """Mean of log Σ_a' exp Q(s, a') - Q(s, a); equals the cross-entropy of the Q-values taken as logits.

    Args:
        q: (…, B, n_actions) Q(s, ·).
        action: (B,) action of the data.
    """
    return (q.logsumexp(-1) - value_of(q, action)).mean(-1)


def value_of(q: Tensor, action: Tensor) -> Tensor:
    """Q(s, a) (…, B) of the actions (B,)."""
    return q.gather(-1, action[:, None].expand(*q.shape[:-1], 1))[..., 0]


def cql_loss(
    q: Tensor,
    action: Tensor,
    reward: Tensor,
    done: Tensor,
    next_value: Tensor,
    *,
    omega: float | Tensor,
    discount: float,
) -> Loss:
    """ω · conservative + ½ · TD (eq. 4), bootstrapping from the target network as in algorithm 1.

    Eq. 4 prints the trained network inside the target; algorithm 1 and the authors' code use the target network.

    Args:
        q: (…, B, n_actions) Q(s, ·) of the trained network.
        action: (B,) action of the data.
        reward: (…, B) reward of the step.
        done: (B,) whether s' is terminal. A flag, not `reward != 0`: a terminal reward may be exactly 0.
        next_value: (…, B) max_a Q_target(s', a); whatever stands where `done` is ignored.
        omega: conservatism weight ω, (…,) where policies differ in it.
        discount: γ.
    """
    target = reward + discount * next_value.masked_fill(done, 0.0)
    td = (value_of(q, action) - target.detach()).square().mean(-1)
    conservative = conservative_term(q, action)
    return Loss(omega * conservative + 0.5 * td, conservative, td)


def behavioural_cloning_loss(q: Tensor, action: Tensor) -> Loss:
    """Cross-entropy of the data's action under softmax(q): the conservative term alone."""
    cross_entropy = conservative_term(q, action)
    return Loss(cross_entropy, cross_entropy)
