from __future__ import annotations

import math

import numpy as np
import pytest

from xtalrl.rl.policies import Reward
from xtalrl.rl.rewards import terminal_rewards


def rewards(reward: Reward, target_ev: float | None, gap: float, formation: float = 0.0, total: float = -1.0) -> float:
    columns = {"band_gap": gap, "formation_energy_per_atom": formation, "total_energy_ry": total}
    return float(terminal_rewards(reward, target_ev, **{name: np.array([value]) for name, value in columns.items()})[0])


def test_eq_7_by_hand() -> None:
    # On target with E_form 0: α1 + α2. One eV off: the gap term falls to exp(-1/3).
    assert rewards(Reward(), 1.12, gap=1.12) == 11.0
    assert rewards(Reward(), 1.12, gap=2.12) == pytest.approx(1 + 10 * math.exp(-1 / 3))
    # E_form = -5 eV/atom = -β1: α1 e.
    assert rewards(Reward(alpha2=0.0), None, gap=0.0, formation=-5.0) == pytest.approx(math.e)


def test_eq_16_by_hand() -> None:
    reward = Reward(energy="total", alpha1=1.0, alpha2=5.0, beta2=1.0)
    assert rewards(reward, 4.0, gap=4.0, total=-100.0) == 7.0
    assert rewards(reward, 4.0, gap=5.0, total=-1000.0) == pytest.approx(3 + 5 / math.e)


@pytest.mark.parametrize("total", [math.nan, 0.0, 3.0])
def test_eq_16_needs_a_negative_energy(total: float) -> None:
    assert math.isnan(rewards(Reward(energy="total"), 4.0, gap=4.0, total=total))


def test_unconditional_reward_ignores_the_gap() -> None:
    reward = Reward().without_gap()
    assert rewards(reward, None, gap=0.0, formation=-2.0) == rewards(reward, None, gap=9.0, formation=-2.0)


def test_gap_term_needs_a_target() -> None:
    with pytest.raises(ValueError, match="target gap"):
        rewards(Reward(), None, gap=1.0)
