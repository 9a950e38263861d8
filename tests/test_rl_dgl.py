"""DGL as a backend and an oracle. Most of this needs DGL, and skips elsewhere: `make test-dgl` has an environment with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rl_data import killed_at, random_dataset, random_graph, write_dataset
from safetensors.torch import load_file
from test_rl_network import OracleQNetwork, compare_with
from torch import Tensor, nn

from xtalrl import tables
from xtalrl.elements import UNFILLED
from xtalrl.errors import XtalrlError
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.learner import Stack
from xtalrl.rl.network import Architecture, QNetwork, network_type
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.rollout import rollout_policy
from xtalrl.rl.settings import PRESETS, TrainingSettings
from xtalrl.rl.training import train_policies, train_policy

SPECS = {
    "bc": PolicySpec("bc"),
    "ccql": PolicySpec("ccql", omega=1.0, target_ev=1.12, reward=Reward()),
    "rvs": PolicySpec("rvs"),
}


@pytest.fixture
def dgl() -> Any:
    return pytest.importorskip("dgl", reason="DGL is not installed here: `make test-dgl` has an environment with it")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_dataset(tmp_path_factory.mktemp("dataset"), *random_dataset())


def train(folder: Path, dataset: dict[str, Path], kind: str, **changes: Any) -> dict[str, Tensor]:
    settings = TrainingSettings(
        **{"steps": 10, "batch_size": 32, "learning_rate": 3e-3, "device": "cpu", "log_every": 1, **changes}
    )
    train_policy(SPECS[kind], settings, seed=0, threads=1, folder=folder, **dataset)
    return load_file(folder / "weights.safetensors")


# --- without DGL -----------------------------------------------------------------------------------------------------


def test_dgl_is_imported_for_its_own_backend_alone() -> None:
    modules = "learner network replay rollout training trajectories"
    code = f"import sys; [__import__(f'xtalrl.rl.{{name}}') for name in '{modules}'.split()]; assert 'dgl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dgl_is_asked_for_where_it_is_not(
    tmp_path: Path, dataset: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dgl", None)
    monkeypatch.delitem(sys.modules, "xtalrl.rl.dgl_backend", raising=False)
    sentence = (
        r"`training.backend` is 'dgl', and DGL cannot be imported here .*`make dgl`.* or set `training.backend: native`"
    )
    with pytest.raises(XtalrlError, match=sentence):
        train(tmp_path, dataset, "bc", backend="dgl")


def test_dgl_is_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    replay: Any = SimpleNamespace(graphs=SimpleNamespace(device=torch.device("meta")))
    monkeypatch.setattr("xtalrl.rl.learner.network_type", lambda backend: QNetwork)
    with pytest.raises(XtalrlError, match=r"for CPUs, and this is to train on meta: set `training.device: cpu`"):
        Stack(TrainingSettings(backend="dgl"), replay)


# --- with it -----------------------------------------------------------------------------------------------------------


class DGLOracle(OracleQNetwork):
    """The authors' network put together from DGL's and matgl 0.9's layers, on unmerged edges."""

    swaps = False

    def set2set(self) -> nn.Module:
        from dgl.nn import Set2Set

        return Set2Set(32, 2, 1)

    def convolve(self, bonds: Tensor, node_graph: Tensor, edges: Tensor, nodes: Tensor, u: Tensor) -> Tensor:
        import dgl

        graph = dgl.graph((bonds[0], bonds[1]), num_nodes=len(nodes))
        graph.set_batch_num_nodes(torch.bincount(node_graph))
        graph.set_batch_num_edges(torch.bincount(node_graph[bonds[0]]))
        for block in self.blocks:
            edges, nodes, u = block(graph, edges, nodes, u)
        return torch.cat([self.node_readout(graph, nodes), self.edge_readout(graph, edges), u], 1)


def test_our_own_network_against_dgl_and_matgl(dgl: Any) -> None:
    matgl = pytest.importorskip("matgl")
    if not matgl.__version__.startswith("0.9."):
        pytest.skip(f"matgl {matgl.__version__} does not stand on DGL; `make test-dgl` has 0.9.1")
    compare_with(DGLOracle)


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("inputs", ["paper", "modern"])
def test_values_and_gradients_are_those_of_dgl(dgl: Any, conditional: bool, inputs: str) -> None:
    generator = np.random.default_rng(0)
    rows = [random_graph(generator, f"x-{i}", "train", int(generator.integers(1, 12))) for i in range(30)]
    graphs = CrystalGraphs(tables.from_rows(rows, tables.GRAPHS))
    batch = graphs.batch(np.arange(30))
    types = torch.where(torch.rand(len(batch.node_graph)) < 0.5, graphs.actions, UNFILLED)
    site = torch.tensor([int(generator.integers(len(row["actions"]))) for row in rows])
    names = ("focus", "edge_features", "target_embedding")
    architecture = Architecture(
        conditional=conditional, **{name: PRESETS[inputs][name] for name in names if inputs == "modern"}
    )
    results = []
    for backend in ("native", "dgl"):
        torch.manual_seed(1)
        network = network_type(backend)(architecture)  # type: ignore[arg-type]
        q = network(batch, types, site, 1.12)
        torch.sin(q).sum().backward()
        results.append((q.detach(), {name: parameter.grad for name, parameter in network.named_parameters()}))
    torch.testing.assert_close(results[0], results[1], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", SPECS)
def test_dgl_learns_and_designs_what_our_own_does(
    dgl: Any, tmp_path: Path, dataset: dict[str, Path], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = PRESETS["modern"] if kind == "rvs" else {}
    own, by_dgl = (train(tmp_path / name, dataset, kind, backend=name, **options) for name in ("native", "dgl"))
    start = train(tmp_path / "start", dataset, kind, learning_rate=1e-30, **options)
    assert by_dgl.keys() == own.keys()
    for name, weights in own.items():
        torch.testing.assert_close(by_dgl[name], weights, rtol=1e-3, atol=1e-5)
    assert max((own[name] - start[name]).abs().max() for name in own) > 1e-2

    graph_of_dgl = dgl.graph
    graphs_made = []
    monkeypatch.setattr(dgl, "graph", lambda *inputs, **more: graphs_made.append(1) or graph_of_dgl(*inputs, **more))
    for name in ("native", "dgl"):
        graphs_made.clear()
        rollout_policy(
            tmp_path / name, dataset["graphs"], dataset["trajectories"], tmp_path / f"{name}.parquet", "cpu",
            target_ev=2.0 if kind == "rvs" else None,
        )  # fmt: skip
        assert bool(graphs_made) == (name == "dgl")
    designs = [tables.read(tmp_path / f"{name}.parquet", tables.DESIGNS) for name in ("native", "dgl")]
    assert designs[0].equals(designs[1])


def test_dgl_resumes_bit_for_bit(
    dgl: Any, tmp_path: Path, dataset: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", dataset, "ccql", backend="dgl", checkpoint_every=4)
    with killed_at(6, monkeypatch):
        train(tmp_path / "killed", dataset, "ccql", backend="dgl", checkpoint_every=4)
    resumed = train(tmp_path / "killed", dataset, "ccql", backend="dgl", checkpoint_every=4)
    torch.testing.assert_close(resumed, whole, rtol=0, atol=0)


def test_policies_of_dgl_in_one_pass(dgl: Any, tmp_path: Path, dataset: dict[str, Path]) -> None:
    settings = TrainingSettings(steps=3, batch_size=16, device="cpu", backend="dgl", precision="bfloat16")
    specs = list(SPECS.values())
    folders = [tmp_path / spec.name for spec in specs]
    train_policies(specs, settings, seed=0, threads=1, folders=folders, **dataset)
    for folder, kind in zip(folders, SPECS, strict=True):
        alone = train(tmp_path / f"{kind}-alone", dataset, kind, **{**vars(settings), "backend": "native"})
        torch.testing.assert_close(load_file(folder / "weights.safetensors"), alone, rtol=1e-2, atol=1e-2)
