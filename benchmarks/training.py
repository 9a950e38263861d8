"""Time of a training step of c-CQL, of its parts and of many policies in one pass, beside the least this machine could need.

python benchmarks/training.py                                     # synthetic graphs of MP-20's sizes
python benchmarks/training.py graphs.parquet trajectories.parquet # those of a run

All parts are timed in turn, step after step, so that what else the machine does meets them alike. On a busy one only the CPU time
tells something.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from synthetic_crystals import write_synthetic_dataset
from torch.utils.flop_counter import FlopCounterMode

from xtalrl.rl.learner import Learner, Stack, activation_bytes, soft_update
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.replay import Replay
from xtalrl.rl.settings import TrainingSettings
from xtalrl.rl.training import find_device, keep_freed_memory

REWARD = Reward()
TABLE_1 = [
    *(PolicySpec("ccql", omega, target, REWARD) for target in (1.12, 2.0, 3.0, 4.0) for omega in (1.0, 5.0)),
    *(PolicySpec("ucql", omega, None, REWARD.without_gap()) for omega in (1.0, 5.0)),
    PolicySpec("bc"),
]
"""The 11 policies of Table 1 that learn."""

OPTIONS: dict[str, dict[str, Any]] = {
    "compile": {"compile": True},
    "bfloat16": {"precision": "bfloat16"},
    "gaussian_basis": {"edge_features": "gaussian_basis"},
}


class Clock:
    """Wall and CPU times by name."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: dict[str, list[tuple[float, float]]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter(), time.process_time()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        end = time.perf_counter(), time.process_time()
        self.times.setdefault(name, []).append((1e3 * (end[0] - start[0]), 1e3 * (end[1] - start[1])))

    def median(self, name: str) -> tuple[float, float]:
        """Wall and CPU time in ms; the first step only warmed up."""
        wall, cpu = zip(*self.times[name][1:], strict=True)
        return statistics.median(wall), statistics.median(cpu)


def step_in_parts(learner: Learner, clock: Clock) -> None:
    """A step of one policy as `Learner.update` does it, with a clock between its parts."""
    stack, weights, target = learner.stack, learner.weights, learner.target
    assert target is not None
    settings = learner.settings
    with clock("gather"):
        stack.replay.batch(stack.replay.sample(settings.batch_size, seed=learner.seed, step=learner.step))
    with clock("gather and simplify"):
        batch = stack.draw_batch(learner.seed, learner.step, bootstrap=True)
    gap = torch.tensor([learner.specs[0].target_ev], device=stack.device)
    with clock("target network"), torch.no_grad():
        stack.q_values(target, batch.next_graphs, batch.next_node_types, batch.next_focus, gap)
    learner.optimizer.zero_grad(set_to_none=True)
    with clock("loss, with target network"):
        total, _ = learner.evaluate(weights, target, batch)
    with clock("backward"):
        torch.autograd.backward(total.sum())
    with clock("optimizer"), torch.no_grad():
        assert weights.grad is not None
        torch.linalg.vector_norm(weights.grad, dim=1)
        learner.optimizer.step()
        soft_update(target, weights, settings.target_update_rate)
    learner.step += 1


def rates(device: torch.device, repeats: int = 5) -> tuple[float, float]:
    """FLOP/s of a product of matrices of the network's shape and bytes/s of a copy, the best of a few on this device now."""
    clock = Clock(device)
    x, weight = torch.rand(65536, 64, device=device), torch.rand(64, 64, device=device)
    big = torch.rand(2**24, device=device)
    copy = torch.empty_like(big)
    for _ in range(repeats):
        with clock("product"):
            x @ weight
        with clock("copy"):
            copy.copy_(big)
    column = 0 if device.type == "cuda" else 1
    fastest = {name: 1e-3 * min(times[column] for times in values) for name, values in clock.times.items()}
    return 2 * x.numel() * len(weight) / fastest["product"], 2 * big.nbytes / fastest["copy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="?", type=Path)
    parser.add_argument("trajectories", nargs="?", type=Path)
    parser.add_argument("--crystals", type=int, default=2000, help="of the synthetic data set")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    parser.add_argument("--policies", type=int, default=4, help="in one pass, at most 11")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--options", nargs="*", default=[], choices=OPTIONS, help="beside the default, in turn with it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    device = find_device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        files = (arguments.graphs, arguments.trajectories)
        if not arguments.graphs:
            files = write_synthetic_dataset(Path(folder), n_crystals=arguments.crystals)
        replay = Replay(*files, device=device)
    settings = TrainingSettings(batch_size=arguments.batch_size)
    stack = Stack(settings, replay)
    specs = TABLE_1[: arguments.policies]
    clock = Clock(device)

    raw = replay.batch(replay.sample(arguments.batch_size, seed=0, step=0))
    batch = stack.draw_batch(0, 0, bootstrap=True)
    print(f"device {device}, threads {arguments.threads}, torch {torch.__version__}")
    print(
        f"data set: {len(replay):,} transitions of {len(replay.graphs.material_ids):,} crystals, {replay.nbytes / 1e6:.1f} MB"
    )
    print(
        f"a batch of {arguments.batch_size:,}: {len(raw.graphs.node_graph):,} nodes, {int(raw.graphs.multiplicity.sum()):,} edges; "
        f"the network works on {len(batch.graphs.node_graph):,} and {len(batch.graphs.edge_graph):,}"
    )

    one, alone = Learner(specs[:1], stack, seed=0), Learner(specs[:1], stack, seed=0)
    stacked = Learner(specs, stack, seed=0)
    side_by_side = [Learner([spec], stack, seed=0) for spec in specs]
    with_options = {
        name: Learner(specs[:1], Stack(dataclasses.replace(settings, **OPTIONS[name]), replay), seed=0)
        for name in arguments.options
    }
    for step in range(arguments.steps + 1):
        step_in_parts(one, clock)
        with clock("step of one policy"):
            alone.update(stack.draw_batch(0, step, bootstrap=True))
        for name, learner in with_options.items():
            with clock(f"the same with {name}"):
                learner.update(learner.stack.draw_batch(0, step, bootstrap=True))
        with clock(f"{len(specs)} policies as one stack"):
            stacked.update(stack.draw_batch(0, step, bootstrap=True))
        with clock(f"{len(specs)} policies, one batch"):
            shared = stack.draw_batch(0, step, bootstrap=True)
            for learner in side_by_side:
                learner.update(shared)

    print(f"{'median of ' + str(arguments.steps):>30} {'wall/ms':>10} {'CPU/ms':>10} {'steps/s (CPU time)':>20}")
    for name in clock.times:
        wall, cpu = clock.median(name)
        policies = len(specs) if "policies" in name else 1
        rate = f"{1e3 * policies / (wall if device.type == 'cuda' else cpu):20.2f}" if "polic" in name else ""
        print(f"{name:>30} {wall:10.1f} {cpu:10.1f} {rate}")

    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(one.evaluate(one.weights, one.target, batch)[0].sum())
    operations, kept = counter.get_total_flops(), activation_bytes(one)
    flops, bandwidth = rates(device)
    print(
        f"floor: {operations / 1e9:.1f} GFLOP of products at {flops / 1e9:.0f} GFLOP/s take {1e3 * operations / flops:.0f} ms; "
        f"{kept / 1e6:.0f} MB kept for the backward pass, written and read at {bandwidth / 1e9:.1f} GB/s, {2e3 * kept / bandwidth:.0f} ms"
    )
    if device.type == "cuda":
        memory: dict[str, Any] = {"GPU memory": torch.cuda.max_memory_allocated()}
    else:
        memory = {"memory of the process": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    print(", ".join(f"largest {name} {value / 1e6:,.0f} MB" for name, value in memory.items()))


if __name__ == "__main__":
    main()
