"""One policy for every target gap: rewards relabelled for the target of the moment."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from rl_data import random_dataset, write_dataset

from xtalrl import tables
from xtalrl.config import validate
from xtalrl.rl.learner import Learner, Stack
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.replay import Replay
from xtalrl.rl.rewards import terminal_rewards
from xtalrl.rl.rollout import rollout_policy
from xtalrl.rl.training import TrainingSettings, train_policy

ANY = PolicySpec("ccql-any", omega=1.0, reward=Reward(beta2=2.0), target_range_ev=(0.5, 4.5))
SETTINGS = TrainingSettings(steps=25, batch_size=16, learning_rate=1e-2, device="cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_dataset(tmp_path_factory.mktemp("dataset"), *random_dataset())


def test_it_learns_what_a_policy_with_that_target_learns(dataset: dict[str, Path]) -> None:
    """Where every draw gives the same target, loss and gradient are those of the single-target policy."""
    stack = Stack(SETTINGS, Replay(**dataset))
    one = dataclasses.replace(ANY, kind="ccql", target_ev=1.5, target_range_ev=None)
    found = []
    for spec in (ANY, one):
        learner = Learner([spec], stack, seed=3)
        batch = stack.draw_batch(3, 0, bootstrap=True)
        assert batch.outcomes is not None
        quarter = torch.full_like(batch.outcomes.uniform, 0.25)  # 0.5 + 0.25 × 4
        batch = dataclasses.replace(batch, outcomes=dataclasses.replace(batch.outcomes, uniform=quarter))
        found.append((learner.update(batch), learner.weights.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_rewards_are_of_the_target_drawn(dataset: dict[str, Path]) -> None:
    stack = Stack(SETTINGS, Replay(**dataset))
    bc, one = PolicySpec("bc"), PolicySpec("ccql", omega=5.0, target_ev=2.0, reward=Reward())
    learner = Learner([one, ANY, bc], stack, seed=0)
    batch = stack.draw_batch(0, 7, bootstrap=True)
    targets = learner._targets(batch)
    rewards = learner._rewards(batch, targets)
    assert batch.outcomes is not None
    np.testing.assert_allclose(targets[1], 0.5 + 4 * batch.outcomes.uniform, rtol=1e-6)
    assert (targets[0] == 2).all()
    labels = tables.read(dataset["trajectories"], tables.TRAJECTORIES).to_pylist()
    for number, (trajectory, target) in enumerate(zip(batch.trajectory.tolist(), targets[1].tolist(), strict=True)):
        row = {
            name: np.array([labels[trajectory][name]])
            for name in ("band_gap", "formation_energy_per_atom", "total_energy_ry")
        }
        assert rewards[1, number] == pytest.approx(terminal_rewards(Reward(beta2=2.0), target, **row)[0], rel=1e-5)
        assert rewards[0, number] == pytest.approx(terminal_rewards(Reward(), 2.0, **row)[0], rel=1e-5)


def test_targets_cover_their_range_and_depend_on_seed_and_step_alone(dataset: dict[str, Path]) -> None:
    replay = Replay(**dataset)

    def draw(seed: int, step: int) -> torch.Tensor:
        return replay.outcomes(torch.zeros(1000, dtype=torch.int64), seed=seed, step=step).uniform

    draws = torch.stack([draw(1, step) for step in range(20)])
    counts = torch.histc(draws, 10, 0, 1)
    assert ((counts - 2000).abs() < 5 * 2000**0.5).all()
    assert torch.equal(draws[3], draw(1, 3))
    assert not torch.equal(draws[3], draw(2, 3))


def test_a_company_changes_nothing(dataset: dict[str, Path]) -> None:
    stack = Stack(SETTINGS, Replay(**dataset))
    one = PolicySpec("ccql", omega=5.0, target_ev=2.0, reward=Reward())
    together, alone = Learner([one, ANY], stack, seed=0), Learner([one], stack, seed=0)
    for step in range(3):
        batch = stack.draw_batch(0, step, bootstrap=True)
        together.update(batch)
        alone.update(batch)
    torch.testing.assert_close(together.weights[0], alone.weights[0], rtol=1e-4, atol=1e-5)


def test_it_designs_for_every_target_it_is_given(tmp_path: Path, dataset: dict[str, Path]) -> None:
    train_policy(ANY, SETTINGS, seed=0, threads=1, folder=tmp_path / "policy", **dataset)
    designs = {}
    for target in (0.5, 4.5):
        path = tmp_path / f"{target}.parquet"
        rollout_policy(tmp_path / "policy", designs=path, device="cpu", target_ev=target, **dataset)
        rows = tables.read_rows(path, tables.DESIGNS)
        assert {row["policy"] for row in rows} == {f"ccql-any-{target:g}ev-w1"}
        designs[target] = rows


def test_the_configuration_trains_it_once_and_designs_for_each_target() -> None:
    config = validate({"policies": {"targets_ev": [2], "omegas": [5], "any_targets_ev": [1.12, 3], "ucql": False}})
    assert list(config.policy_specs()) == ["random", "bc", "ccql-2ev-w5", "ccql-any-1.12ev-w5", "ccql-any-3ev-w5"]
    trained = config.trained_specs()
    assert list(trained) == ["random", "bc", "ccql-2ev-w5", "ccql-any-w5"]
    spec = config.policy_specs()["ccql-any-3ev-w5"]
    assert spec.target_ev == 3
    assert spec.trained == trained["ccql-any-w5"]
    assert trained["ccql-any-w5"].at(3) == spec
    assert PolicySpec.from_dict(trained["ccql-any-w5"].to_dict()) == trained["ccql-any-w5"]
