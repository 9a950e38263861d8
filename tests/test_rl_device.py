"""Batches, a training step of a stack and a rollout on a device that is not the host, on a machine without a GPU."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rl_data import random_dataset, write_dataset
from stand_in_device import DEVICE, StandInDevice
from torch import Tensor

from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.learner import Learner, Stack
from xtalrl.rl.network import Architecture, QNetwork
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.replay import Orders, Replay, read_trajectories
from xtalrl.rl.rollout import fill_skeletons
from xtalrl.rl.rollout_settings import RolloutSettings
from xtalrl.rl.settings import PRESETS, TrainingSettings

SPECS = [
    PolicySpec("bc"),
    PolicySpec("ucql", omega=5.0, reward=Reward().without_gap()),
    PolicySpec("ccql", omega=1.0, target_ev=1.12, reward=Reward()),
    PolicySpec("ccql-any", omega=1.0, reward=Reward(), target_range_ev=(0.0, 5.0)),
    PolicySpec("rvs"),
]
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "modern": {**PRESETS["modern"], "electrons": True, "hide_target": 0.2, "condition_on_energy": True},
    "monte_carlo": {"returns": "monte_carlo", "cloning_steps": 2, "weighting": "sizes"},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_dataset(tmp_path_factory.mktemp("dataset"), *random_dataset())


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> StandInDevice:
    # Two things that torch knows of named devices only.
    monkeypatch.setattr(
        sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices", lambda: ["cpu", DEVICE.type]
    )
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: contextlib.nullcontext())
    return StandInDevice()


def make_learner(dataset: dict[str, Path], where: torch.device | str, **options: Any) -> Learner:
    settings = TrainingSettings(batch_size=16, learning_rate=1e-3, device="cpu", **options)
    return Learner(SPECS, Stack(settings, Replay(**dataset, device=where)), seed=0)


def update(learner: Learner) -> Tensor:
    return learner.update(learner.stack.draw_batch(0, learner.step, bootstrap=learner.target is not None))


@pytest.mark.parametrize("options", OPTIONS)
def test_a_stack_learns_on_a_device_without_waiting(
    dataset: dict[str, Path], device: StandInDevice, options: str
) -> None:
    here = make_learner(dataset, "cpu", **OPTIONS[options])
    with device:
        there = make_learner(dataset, DEVICE, **OPTIONS[options])
    for _ in range(3):
        device.waits.clear()
        with device:
            statistics = update(there)
            assert device.waits == []
            statistics = statistics.cpu()
        torch.testing.assert_close(statistics, update(here), rtol=1e-4, atol=1e-5, equal_nan=True)
    for spec in SPECS:
        with device:
            state = there.state(spec)
        torch.testing.assert_close(state.tensors, here.state(spec).tensors, rtol=1e-4, atol=1e-6)


def test_a_wait_hidden_in_a_step_is_named(
    dataset: dict[str, Path], device: StandInDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(target: Tensor, source: Tensor, rate: float) -> None:
        target.lerp_(source, rate if source.isfinite().all() else 0.0)

    monkeypatch.setattr("xtalrl.rl.learner.soft_update", wrong)
    with device:
        learner = make_learner(dataset, DEVICE)
        device.waits.clear()
        update(learner)
    assert [wait.partition("(")[0] for wait in device.waits] == ["learner.py: soft_update"]


@pytest.mark.parametrize("options", [{}, {"guidance": 1.5, "target_energy": -2.0, "designs": 3}])
def test_a_rollout_on_a_device_waits_once_per_site(
    dataset: dict[str, Path], device: StandInDevice, options: dict[str, Any]
) -> None:
    """For the Q-values, by which the host chooses."""
    torch.manual_seed(0)
    inputs = {name: PRESETS["modern"][name] for name in ("focus", "edge_features", "target_embedding") if options}
    network = QNetwork(
        Architecture(conditional=True, electrons=bool(options), condition_on_energy=bool(options), **inputs)
    )
    table = read_trajectories(dataset["trajectories"], "val")
    table = table.take(np.flatnonzero(np.array(table["trajectory"]) == 0))
    settings = RolloutSettings(**options)

    def fill(where: torch.device | str) -> tuple[Orders, list[Any]]:
        skeletons = CrystalGraphs.read(dataset["graphs"], table["material_id"].to_pylist(), where)
        orders = Orders(skeletons, table, dataset["trajectories"])
        network.to(where)
        device.waits.clear()
        return orders, fill_skeletons(network, orders, 1.12, settings)

    orders, here = fill("cpu")
    with device:
        _, there = fill(DEVICE)
    order, *values = device.waits
    assert "orders.order.cpu()" in order
    assert len(values) == max(orders.n_steps)
    assert all("q.cpu().numpy()" in wait for wait in values)
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one, other)


# --- the stand-in itself ---------------------------------------------------------------------------------------------


WAITS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "item": lambda x, index: x[0].item(),
    "float": lambda x, index: float(x.sum()),
    "truth": lambda x, index: bool((x > 0).all()),
    "tolist": lambda x, index: x.tolist(),
    "numpy": lambda x, index: x.cpu().numpy(),
    "mask": lambda x, index: x[x > 0],
    "write to a mask": lambda x, index: x.__setitem__(x > 0, 1.0),
    "nonzero": lambda x, index: x.nonzero(),
    "unique": lambda x, index: index.unique(),
    "bincount": lambda x, index: index.bincount(),
    "repeat": lambda x, index: index.repeat_interleave(index),
    "equal": lambda x, index: torch.equal(x, x),
    "tensor": lambda x, index: torch.tensor([1.0, 2.0], device=x.device),
    "as_tensor": lambda x, index: torch.as_tensor(1.0, device=x.device),
    "new_tensor": lambda x, index: x.new_tensor([1.0]),
    "to the device": lambda x, index: torch.ones(3).to(x.device),
    "copy to the device": lambda x, index: x.copy_(torch.ones(4)),
    "copy to the host": lambda x, index: torch.ones(4).copy_(x),
}
MIXES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "sum": lambda x, index: x + torch.ones(4),
    "index of the host": lambda x, index: x[torch.tensor([0])],
    "index of the device": lambda x, index: torch.ones(4)[index],
    "select": lambda x, index: torch.ones(4).index_select(0, index),
    "where": lambda x, index: torch.where(x > 0, x, torch.zeros(4)),
    "product": lambda x, index: x @ torch.ones(4, 4),
}
FREE: dict[str, Callable[[Tensor, Tensor], object]] = {
    "slice": lambda x, index: x[:2],
    "index": lambda x, index: x[index],
    "a number of the host": lambda x, index: x * torch.tensor(2.0) + 1,
    "made there": lambda x, index: torch.full((3,), 2.0, device=x.device),
    "repeat": lambda x, index: index.repeat_interleave(index, output_size=3),
    "to the device": lambda x, index: torch.ones(3).to(x.device, non_blocking=True),
    "another type": lambda x, index: x.double().where(x > 0, 0.0),
}


@pytest.mark.parametrize("call", [*WAITS, *[f"free {name}" for name in FREE]])
def test_the_stand_in_sees_each_wait(device: StandInDevice, call: str) -> None:
    with device:
        x, index = (values.to(DEVICE) for values in (torch.tensor([1.0, -1.0, 2.0, 0.0]), torch.tensor([1, 0, 2])))
        device.waits.clear()
        (WAITS.get(call) or FREE[call.removeprefix("free ")])(x, index)
    assert len(device.waits) == (call in WAITS)


@pytest.mark.parametrize("call", MIXES)
def test_the_stand_in_refuses_to_mix(device: StandInDevice, call: str) -> None:
    with device:
        x, index = (values.to(DEVICE) for values in (torch.tensor([1.0, -1.0, 2.0, 0.0]), torch.tensor([1, 0, 2])))
        with pytest.raises(RuntimeError, match="mixes tensors"):
            MIXES[call](x, index)
