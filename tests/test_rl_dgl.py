"""DGL as a backend and an oracle; skipped where it is not installed, as it mostly is."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from rl_data import random_graph

from xtalrl import tables
from xtalrl.elements import UNFILLED
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.network import Architecture, QNetwork


def test_dgl_is_imported_by_its_own_module_alone() -> None:
    modules = "learner network replay rollout training trajectories"
    code = f"import sys; [__import__(f'xtalrl.rl.{{name}}') for name in '{modules}'.split()]; assert 'dgl' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("focus", ["index", "node"])
def test_values_and_gradients_are_those_of_dgl(conditional: bool, focus: str) -> None:
    pytest.importorskip(
        "dgl", reason="DGL is not installed: pip install 'xtalrl[train,dgl]' in an environment of its own"
    )
    from xtalrl.rl.dgl_backend import dgl_network

    generator = np.random.default_rng(0)
    rows = [random_graph(generator, f"x-{i}", "train", int(generator.integers(1, 12))) for i in range(30)]
    graphs = CrystalGraphs(tables.from_rows(rows, tables.GRAPHS))
    batch = graphs.batch(np.arange(30))
    types = torch.where(torch.rand(len(batch.node_graph)) < 0.5, graphs.actions, UNFILLED)
    site = torch.tensor([int(generator.integers(len(row["actions"]))) for row in rows])
    torch.manual_seed(1)
    network = QNetwork(Architecture(conditional=conditional, focus=focus))  # type: ignore[arg-type]
    twin = dgl_network(network)
    gradients = []
    for model in (network, twin):
        network.zero_grad()
        q = model(batch, types, site, 1.12)
        torch.sin(q).sum().backward()
        gradients.append((q.detach(), [parameter.grad.clone() for parameter in network.parameters()]))
    assert twin.blocks[0].block is network.blocks[0]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=2e-4, atol=2e-4)
