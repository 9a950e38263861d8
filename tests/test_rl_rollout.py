from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rl_data import random_dataset, write_dataset
from safetensors.torch import load_file

from xtalrl import tables
from xtalrl.elements import ACTION, ELEMENTS, UNFILLED
from xtalrl.errors import XtalrlError
from xtalrl.rl import rollout
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.network import Architecture, QNetwork
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.rollout import rollout_policy
from xtalrl.rl.training import TrainingSettings, train_policy

CCQL = PolicySpec("ccql", omega=1.0, target_ev=1.12, reward=Reward())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_dataset(tmp_path_factory.mktemp("dataset"), *random_dataset(n_val=12))


def make_designs(
    folder: Path, dataset: dict[str, Path], spec: PolicySpec, seed: int = 0, **settings: object
) -> list[dict]:
    training = TrainingSettings(steps=30, batch_size=16, learning_rate=1e-2, device="cpu", **settings)
    train_policy(spec, training, seed=seed, threads=1, folder=folder, **dataset)
    rollout_policy(folder, designs=folder / "designs.parquet", device="cpu", **dataset)
    return tables.read_rows(folder / "designs.parquet", tables.DESIGNS)


@pytest.mark.parametrize("focus", ["index", "node"])
def test_lock_step_is_one_crystal_at_a_time(
    tmp_path: Path, dataset: dict[str, Path], focus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "CRYSTALS_AT_ONCE", 5)
    designs = make_designs(tmp_path, dataset, CCQL, focus=focus)
    network = QNetwork(Architecture(**json.loads((tmp_path / "policy.json").read_text())["network"]))
    network.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    trajectories = tables.read_rows(dataset["trajectories"], tables.TRAJECTORIES)
    first = [row for row in trajectories if row["split"] == "val" and row["trajectory"] == 0]
    assert [row["material_id"] for row in designs] == [row["material_id"] for row in first]
    for design, row in zip(designs, first, strict=True):
        assert (design["policy"], design["seed"], design["order"]) == ("ccql-1.12ev-w1", 0, row["order"])
        graph = CrystalGraphs.read(dataset["graphs"], [row["material_id"]]).batch(np.array([0]))
        types = torch.full((len(row["order"]),), UNFILLED)
        for site in row["order"]:
            types[site] = network(graph, types, torch.tensor([site]), 1.12).argmax()
        assert design["species"] == [ELEMENTS[action] for action in types]


def test_random_policy_draws_uniformly_by_seed(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, *random_dataset(n_val=400))
    random = PolicySpec("random")
    designs = make_designs(tmp_path / "a", dataset, random, seed=3)
    assert designs == make_designs(tmp_path / "b", dataset, random, seed=3)
    assert designs != make_designs(tmp_path / "c", dataset, random, seed=4)
    elements = [ACTION[element] for design in designs for element in design["species"]]
    counts = np.bincount(elements, minlength=88)
    chi2 = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert abs(chi2 - 87) < 5 * np.sqrt(2 * 87)


def test_missing_policy_gets_a_sentence(tmp_path: Path, dataset: dict[str, Path]) -> None:
    with pytest.raises(XtalrlError, match="train the policy first"):
        rollout_policy(tmp_path, designs=tmp_path / "designs.parquet", device="cpu", **dataset)


def test_nothing_to_design_gets_a_sentence(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, *random_dataset(n_val=0))
    with pytest.raises(XtalrlError, match="no trajectory of the split 'val'"):
        make_designs(tmp_path, dataset, PolicySpec("random"))
