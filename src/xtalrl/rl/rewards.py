"""Terminal rewards, eq. 7 and eq. 16 of the paper. Every other reward is 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from xtalrl.rl.policies import Reward


def terminal_rewards(
    reward: Reward,
    target_ev: float | None,
    *,
    band_gap: NDArray[np.float64],
    formation_energy_per_atom: NDArray[np.float64],
    total_energy_ry: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Reward of completing each crystal.

    formation (eq. 7):  alpha1 exp(-E_form / beta1) + alpha2 exp(-(p - p̂)² / beta2)
    total    (eq. 16):  alpha1 log10(-E_tot / Ry)   + alpha2 exp(-(p - p̂)² / beta2)

    Args:
        reward: weights and widths; with `alpha2` 0 there is no gap term (the unconditional policy).
        target_ev: target gap p̂ in eV, needed where `alpha2` is not 0.
        band_gap: (n,) p in eV.
        formation_energy_per_atom: (n,) E_form in eV/atom.
        total_energy_ry: (n,) E_tot of the cell in Ry.

    Returns:
        (n,) rewards; NaN where eq. 16 meets an energy that is missing or not negative.
    """
    if reward.energy == "formation":
        energy_term = np.exp(-formation_energy_per_atom / reward.beta1)
    else:
        energy_term = np.full(total_energy_ry.shape, np.nan)
        np.log10(-total_energy_ry, out=energy_term, where=total_energy_ry < 0)
    rewards = reward.alpha1 * energy_term
    if reward.alpha2 == 0:
        return rewards
    if target_ev is None:
        raise ValueError(f"a reward with {reward.alpha2=} needs a target gap")
    return rewards + reward.alpha2 * np.exp(-((band_gap - target_ev) ** 2) / reward.beta2)


def gap_term(band_gap: Tensor, target_ev: Tensor, alpha2: float, beta2: float) -> Tensor:
    """The gap term of both rewards, alpha2 exp(-(p - p̂)² / beta2), for targets that differ between transitions; all broadcast."""
    return alpha2 * (-(band_gap - target_ev).square() / beta2).exp()
