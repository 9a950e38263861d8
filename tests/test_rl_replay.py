from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rl_data import random_dataset, write_dataset

from xtalrl.elements import UNFILLED
from xtalrl.errors import XtalrlError
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.replay import Replay

Row = dict[str, Any]
SPEC = PolicySpec("ccql", omega=1.0, target_ev=1.12, reward=Reward())


def make_replay(folder: Path, graphs: list[Row], trajectories: list[Row]) -> Replay:
    return Replay(**write_dataset(folder, graphs, trajectories))


def test_batch_is_what_walking_the_trajectories_gives(tmp_path: Path) -> None:
    """Every transition of the split, rebuilt step by step from the rows."""
    graphs, trajectories = random_dataset()
    expected = {}
    by_name = {row["material_id"]: row for row in graphs}
    for row in trajectories:
        if row["split"] != "train":
            continue
        filling = [UNFILLED] * len(row["order"])
        for step, (site, action) in enumerate(zip(row["order"], row["actions"], strict=True)):
            before = tuple(filling)
            filling[site] = action
            done = step + 1 == len(filling)
            gap, energy = row["band_gap"], row["formation_energy_per_atom"]
            reward = np.exp(-energy / 5) + 10 * np.exp(-((gap - 1.12) ** 2) / 3) if done else 0.0
            after = () if done else (tuple(filling), row["order"][step + 1])
            state = tuple(np.float32([*by_name[row["material_id"]]["lattice_parameters"]]))
            key = (row["material_id"], row["trajectory"], step)
            expected[key] = (state, before, site, action, np.float32(reward), done, after)

    replay = make_replay(tmp_path, graphs, trajectories)
    assert len(replay) == len(expected)
    batch = replay.batch(np.random.default_rng(0).permutation(len(replay)))
    done = batch.done.tolist()
    reward = replay.rewards(SPEC)[batch.trajectory] * batch.done
    assert done == sorted(done), "non-terminal transitions come first"
    n_next = done.count(False)
    assert len(batch.next_focus) == len(batch.next_graphs.n_nodes) == n_next
    types = np.split(batch.node_types.numpy(), batch.graphs.n_nodes.cumsum(0)[:-1])
    next_types = np.split(batch.next_node_types.numpy(), batch.next_graphs.n_nodes.cumsum(0)[:-1])
    found = [
        (
            tuple(batch.graphs.state[i, :6].numpy()),
            tuple(types[i].tolist()),
            int(batch.focus[i]),
            int(batch.action[i]),
            np.float32(reward[i].item()),
            done[i],
            () if done[i] else (tuple(next_types[i].tolist()), int(batch.next_focus[i])),
        )
        for i in range(len(done))
    ]
    assert sorted(found) == sorted(expected.values())


def test_a_policy_without_reward_and_one_without_gap(tmp_path: Path) -> None:
    graphs, trajectories = random_dataset()
    replay = make_replay(tmp_path, graphs, trajectories)
    assert not replay.rewards(PolicySpec("bc")).any()
    ucql = replay.rewards(PolicySpec("ucql", omega=1.0, reward=Reward().without_gap()))
    energies = [row["formation_energy_per_atom"] for row in trajectories if row["split"] == "train"]
    np.testing.assert_allclose(ucql, np.exp(-np.array(energies) / 5), rtol=1e-6)


def test_memory_grows_with_the_data_and_no_faster(tmp_path: Path) -> None:
    per_transition = []
    for number, n_train in enumerate((50, 500)):
        (tmp_path / str(number)).mkdir()
        replay = make_replay(tmp_path / str(number), *random_dataset(n_train=n_train, per_crystal=5))
        per_transition.append(replay.nbytes / len(replay))
    assert per_transition[1] == pytest.approx(per_transition[0], rel=0.1)
    assert per_transition[1] < 100  # bytes; most crystals here have few sites and many bonds


def test_sampling_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    replay = make_replay(tmp_path, *random_dataset())
    draw = replay.sample(5000, seed=1, step=7)
    assert np.array_equal(draw, replay.sample(5000, seed=1, step=7))
    assert not np.array_equal(draw, replay.sample(5000, seed=1, step=8))
    assert not np.array_equal(draw, replay.sample(5000, seed=2, step=7))
    counts = np.bincount(draw, minlength=len(replay))
    # Uniform: χ² of len - 1 degrees of freedom, mean ± 5 standard deviations.
    chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert abs(chi2 - (len(replay) - 1)) < 5 * np.sqrt(2 * (len(replay) - 1))


def spoil_order(row: Row) -> None:
    row["order"][0] = row["order"][-1]


def spoil_action(row: Row) -> None:
    row["actions"][0] = (row["actions"][0] + 1) % 88


def spoil_length(row: Row) -> None:
    row["order"].append(0)


def spoil_site(row: Row) -> None:
    row["order"][0] = 99


@pytest.mark.parametrize("spoil", [spoil_order, spoil_action, spoil_length, spoil_site])
def test_trajectories_that_do_not_fit_their_graph(tmp_path: Path, spoil: Any) -> None:
    graphs, trajectories = random_dataset()
    bad = next(row for row in trajectories if len(row["order"]) > 2)
    spoil(bad)
    with pytest.raises(XtalrlError, match=rf"do not|does not fit the graphs.* of {bad['material_id']}\b"):
        make_replay(tmp_path, graphs, trajectories)


def test_missing_graph(tmp_path: Path) -> None:
    graphs, trajectories = random_dataset()
    with pytest.raises(XtalrlError, match=r"no graph of x-0, which"):
        make_replay(tmp_path, graphs[1:], trajectories)


def test_no_trajectory_of_the_split(tmp_path: Path) -> None:
    graphs, trajectories = random_dataset()
    with pytest.raises(XtalrlError, match="no trajectory of the split 'train'"):
        make_replay(tmp_path, graphs, [row for row in trajectories if row["split"] == "val"])


def test_total_energy_reward_needs_total_energies(tmp_path: Path) -> None:
    graphs, trajectories = random_dataset()
    trajectories[0]["total_energy_ry"] = None
    spec = PolicySpec("ccql", omega=1.0, target_ev=4.0, reward=Reward(energy="total"))
    replay = make_replay(tmp_path, graphs, trajectories)
    with pytest.raises(XtalrlError, match="no reward for x-0: a negative total energy"):
        replay.rewards(spec)
    replay.rewards(SPEC)  # the other reward does not use it
