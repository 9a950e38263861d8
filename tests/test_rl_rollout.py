from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from rl_data import random_dataset, random_graph, random_trajectories, write_dataset
from safetensors.torch import load_file

from xtalrl import tables
from xtalrl.elements import ACTION, ELEMENTS, N_ELEMENTS, UNFILLED
from xtalrl.errors import XtalrlError
from xtalrl.metrics.validity import is_valid
from xtalrl.rl import rollout
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.network import Architecture, QNetwork
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.replay import Orders, read_trajectories
from xtalrl.rl.rollout import fill_skeletons, rollout_policy
from xtalrl.rl.rollout_settings import RolloutSettings
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
    monkeypatch.setattr(rollout, "STATES_AT_ONCE", 5)
    designs = make_designs(tmp_path, dataset, CCQL, focus=focus)
    network = QNetwork(Architecture(**json.loads((tmp_path / "policy.json").read_text())["network"]))
    network.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    trajectories = tables.read_rows(dataset["trajectories"], tables.TRAJECTORIES)
    first = [row for row in trajectories if row["split"] == "val" and row["trajectory"] == 0]
    assert [row["material_id"] for row in designs] == [row["material_id"] for row in first]
    for design, row in zip(designs, first, strict=True):
        assert (design["policy"], design["seed"], design["order"]) == ("ccql-1.12ev-w1", 0, row["order"])
        assert design["sample"] == 0
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


def test_a_snapshot_designs_as_the_policy_did_at_that_step(tmp_path: Path, dataset: dict[str, Path]) -> None:
    finished = make_designs(tmp_path / "whole", dataset, CCQL, snapshots=2)
    rollout_policy(tmp_path / "whole", designs=tmp_path / "then.parquet", device="cpu", snapshot=10, **dataset)
    then = tables.read_rows(tmp_path / "then.parquet", tables.DESIGNS)
    assert then != finished
    training = TrainingSettings(steps=10, batch_size=16, learning_rate=1e-2, device="cpu")
    train_policy(CCQL, training, seed=0, threads=1, folder=tmp_path / "shorter", **dataset)
    rollout_policy(tmp_path / "shorter", designs=tmp_path / "shorter.parquet", device="cpu", **dataset)
    assert then == tables.read_rows(tmp_path / "shorter.parquet", tables.DESIGNS)


def test_missing_policy_gets_a_sentence(tmp_path: Path, dataset: dict[str, Path]) -> None:
    with pytest.raises(XtalrlError, match="train the policy first"):
        rollout_policy(tmp_path, designs=tmp_path / "designs.parquet", device="cpu", **dataset)


def test_nothing_to_design_gets_a_sentence(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, *random_dataset(n_val=0))
    with pytest.raises(XtalrlError, match="no trajectory of the split 'val'"):
        make_designs(tmp_path, dataset, PolicySpec("random"))


class Values(torch.nn.Module):
    """Q-values that depend on all that is filled: a policy of which every probability can be computed."""

    def __init__(self, elements: str, scale: float = 1.0) -> None:
        super().__init__()
        self.elements = [ACTION[element] for element in elements.split()]
        self.scale = scale

    def forward(self, batch, node_types, focus, target_ev):
        q = torch.full((len(focus), N_ELEMENTS), -1e9)
        for graph in range(len(focus)):
            types = node_types[batch.node_graph == graph]
            code = int((types * torch.arange(1, len(types) + 1)).sum()) + int(focus[graph])
            for number, element in enumerate(self.elements):
                q[graph, element] = self.scale * np.sin(code + 1.7 * number)
        return q


def skeletons(folder: Path, n_sites: list[int], names: list[str] | None = None) -> Orders:
    generator = np.random.default_rng(5)
    names = names or [f"v-{number}" for number in range(len(n_sites))]
    graphs = [random_graph(generator, name, "val", n) for name, n in zip(names, n_sites, strict=True)]
    paths = write_dataset(folder, graphs, [row for graph in graphs for row in random_trajectories(generator, graph, 1)])
    table = read_trajectories(paths["trajectories"], "val")
    return Orders(CrystalGraphs.read(paths["graphs"], table["material_id"].to_pylist()), table, "")


def all_designs(orders: Orders, values: Values, n_sites: int, temperature: float, discount: float) -> dict:
    """Of one skeleton: every design with its probability under softmax and the value lost."""
    order, batch = orders.order.tolist(), orders.graphs.batch(np.array([0]))
    found = {}
    for actions in itertools.product(values.elements, repeat=n_sites):
        types = torch.full((n_sites,), UNFILLED)
        probability, lost = 1.0, 0.0
        for step, (site, action) in enumerate(zip(order, actions, strict=True)):
            q = values(batch, types, torch.tensor([site]), None)[0].double()
            probability *= float(torch.softmax(q / temperature, 0)[action])
            lost += discount**step * float(q.max() - q[action])
            types[site] = action
        found[tuple(types.tolist())] = (probability, lost)
    return found


def test_the_best_designs_lose_least(tmp_path: Path) -> None:
    orders, values = skeletons(tmp_path, [3, 5, 2]), Values("Na Cl O")
    one = skeletons(tmp_path / "one", [3])
    everything = all_designs(one, values, 3, 1.0, 0.9)
    best = sorted(everything, key=lambda design: everything[design][1])
    found = fill_skeletons(values, one, None, RolloutSettings(designs=27), discount=0.9)[0]
    assert [tuple(design) for design in found[:27]] == best  # a beam as wide as the tree is an exhaustive search
    filled = fill_skeletons(values, orders, None, RolloutSettings(designs=7), discount=0.9)
    greedy = fill_skeletons(values, orders, None)
    for several, first, n_sites in zip(filled, greedy, (3, 5, 2), strict=True):
        assert several.shape == (7, n_sites)
        assert len({tuple(design) for design in several}) == 7
        assert first.shape == (1, n_sites)
        assert several[0].tolist() == first[0].tolist()


@pytest.mark.parametrize("select", ["softmax", "epsilon-greedy"])
def test_draws_follow_the_probabilities(tmp_path: Path, select: str) -> None:
    n, values = 2000, Values("Na Cl O", scale=2.0)
    one = skeletons(tmp_path, [2])
    graph = tables.read_rows(tmp_path / "graphs.parquet", tables.GRAPHS)[0]
    row = tables.read_rows(tmp_path / "trajectories.parquet", tables.TRAJECTORIES)[0]
    names = [f"v-{number}" for number in range(n)]
    paths = write_dataset(
        tmp_path / "n",
        [graph | {"material_id": name} for name in names],
        [row | {"material_id": name} for name in names],
    )
    table = read_trajectories(paths["trajectories"], "val")
    orders = Orders(CrystalGraphs.read(paths["graphs"], names), table, "")
    settings = RolloutSettings(select=select, temperature=1.5, epsilon=0.3, allow=("Na", "Cl", "O"), designs=2)  # type: ignore[arg-type]
    expected = {design: p for design, (p, _) in all_designs(one, values, 2, 1.5, 1.0).items()}
    if select == "epsilon-greedy":
        greedy = all_designs(one, values, 2, 1e-3, 1.0)
        order, batch = one.order.tolist(), one.graphs.batch(np.array([0]))
        for design in greedy:
            types, p = torch.full((2,), UNFILLED), 1.0
            for site in order:
                best = int(values(batch, types, torch.tensor([site]), None)[0].argmax())
                p *= 0.1 + 0.7 * (design[site] == best)
                types[site] = design[site]
            expected[design] = p
    assert sum(expected.values()) == pytest.approx(1)
    filled = fill_skeletons(values, orders, None, settings, seed=1)
    first = Counter(tuple(designs[0]) for designs in filled)
    pairs = Counter(tuple(map(tuple, designs)) for designs in filled)
    for design, p in expected.items():
        assert abs(first[design] - n * p) < 5 * np.sqrt(n * p * (1 - p)) + 1
        for other, p_other in expected.items():
            if other != design:  # without replacement: the second is drawn from the rest
                p_pair = p * p_other / (1 - p)
                assert abs(pairs[design, other] - n * p_pair) < 5 * np.sqrt(n * p_pair) + 1
    assert [d.tolist() for d in fill_skeletons(values, orders, None, settings, seed=1)] == [d.tolist() for d in filled]
    assert [d.tolist() for d in fill_skeletons(values, orders, None, settings, seed=2)] != [d.tolist() for d in filled]


def test_a_draw_does_not_depend_on_the_other_skeletons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders, values = skeletons(tmp_path, [3, 5, 2, 4]), Values("Na Cl O S")
    settings = RolloutSettings(select="softmax", designs=3)
    together = fill_skeletons(values, orders, None, settings)
    monkeypatch.setattr(rollout, "STATES_AT_ONCE", 1)
    alone = fill_skeletons(values, orders, None, settings)
    assert [designs.tolist() for designs in together] == [designs.tolist() for designs in alone]


@pytest.mark.parametrize("select", ["greedy", "softmax", "epsilon-greedy"])
def test_only_elements_that_may_be_placed(tmp_path: Path, select: str) -> None:
    orders = skeletons(tmp_path, [2, 6, 3, 1])
    settings = RolloutSettings(select=select, allow=("Na", "Cl", "O"), deny=("O",), designs=3)  # type: ignore[arg-type]
    filled = fill_skeletons(QNetwork(Architecture(conditional=False)), orders, None, settings)
    for designs, n_sites in zip(filled, (2, 6, 3, 1), strict=True):
        assert {ELEMENTS[action] for action in designs.flat} <= {"Na", "Cl"}
        assert len(designs) == min(3, 2**n_sites)
    with pytest.raises(XtalrlError, match="no element to place"):
        fill_skeletons(None, orders, None, RolloutSettings(allow=("Na",), deny=("Na",)))


@pytest.mark.parametrize("select", ["greedy", "softmax", "epsilon-greedy"])
def test_a_neutral_rollout_completes_valid_compositions_only(tmp_path: Path, select: str) -> None:
    orders = skeletons(tmp_path, [1, 2, 3, 4, 6, 8, 8, 7, 11] * 3)
    settings = RolloutSettings(select=select, temperature=10.0, epsilon=0.5, neutral=True, designs=4)  # type: ignore[arg-type]
    network = QNetwork(Architecture(conditional=False))
    designs = [design for found in fill_skeletons(network, orders, None, settings) for design in found]
    assert len(designs) == 27 * 4
    assert all(is_valid(Counter(ELEMENTS[action] for action in design)) for design in designs)
    without = [
        design
        for found in fill_skeletons(network, orders, None, RolloutSettings(select, 0.5, 10.0, 4))  # type: ignore[arg-type]
        for design in found
    ]
    if select == "softmax":
        assert not all(is_valid(Counter(ELEMENTS[action] for action in design)) for design in without)


def test_the_random_policy_has_the_same_options(tmp_path: Path, dataset: dict[str, Path]) -> None:
    train_policy(PolicySpec("random"), TrainingSettings(), seed=3, threads=1, folder=tmp_path, **dataset)
    settings = RolloutSettings(neutral=True, designs=2, deny=("O",))
    rollout_policy(tmp_path, designs=tmp_path / "designs.parquet", device="cpu", settings=settings, **dataset)
    rows = tables.read_rows(tmp_path / "designs.parquet", tables.DESIGNS)
    assert [row["sample"] for row in rows] == [0, 1] * (len(rows) // 2)
    assert all(is_valid(Counter(row["species"])) and "O" not in row["species"] for row in rows)
