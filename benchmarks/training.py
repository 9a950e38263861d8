"""Time of one training step of c-CQL, and of its parts. On a busy machine only the CPU time tells something.

python benchmarks/training.py                                     # synthetic graphs of MP-20's sizes
python benchmarks/training.py graphs.parquet trajectories.parquet # those of a run
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from synthetic_crystals import write_synthetic_dataset

from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.replay import Replay
from xtalrl.rl.training import Learner, TrainingSettings, find_device

SPEC = PolicySpec("ccql", omega=1.0, target_ev=1.12, reward=Reward())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="?", type=Path)
    parser.add_argument("trajectories", nargs="?", type=Path)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = find_device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        files = (arguments.graphs, arguments.trajectories)
        graphs, trajectories = files if arguments.graphs else write_synthetic_dataset(Path(folder), n_crystals=2000)
        replay = Replay(SPEC, graphs, trajectories, device=device)
    settings = TrainingSettings(batch_size=arguments.batch_size, device=arguments.device)
    learner = Learner(SPEC, settings, replay, seed=0)

    def timed(part: Callable[[int], object]) -> tuple[float, float]:
        """Median wall and CPU time of a part in ms; the first calls only warm up."""
        wall, cpu = [], []
        for number in range(arguments.steps + 2):
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            part(number)
            if device.type == "cuda":
                torch.cuda.synchronize()
            wall.append(1e3 * (time.perf_counter() - wall_start))
            cpu.append(1e3 * (time.process_time() - cpu_start))
        return statistics.median(wall[2:]), statistics.median(cpu[2:])

    batches = [
        replay.batch(replay.sample(arguments.batch_size, seed=1, step=step)) for step in range(arguments.steps + 2)
    ]
    target_ev = SPEC.target_ev

    def forward(number: int) -> torch.Tensor:
        batch = batches[number]
        return learner.network(batch.graphs, batch.node_types, batch.focus, target_ev)

    @torch.no_grad()
    def target(number: int) -> torch.Tensor:
        batch = batches[number]
        assert learner.target is not None
        return learner.target(batch.next_graphs, batch.next_node_types, batch.next_focus, target_ev)

    example = batches[0]
    print(f"device {device}, threads {arguments.threads}, torch {torch.__version__}, batch {arguments.batch_size}")
    print(f"data set: {len(replay):,} transitions, {replay.nbytes / 1e6:.1f} MB")
    print(
        f"a batch: {len(example.graphs.node_graph):,} nodes, {int(example.graphs.multiplicity.sum()):,} edges, "
        f"{len(example.graphs.edge_graph):,} merged, {len(example.graphs.lengths):,} distinct lengths"
    )
    parts = {
        "step": timed(lambda _: learner.update()),
        "batch": timed(lambda number: replay.batch(replay.sample(arguments.batch_size, seed=2, step=number))),
        "forward": timed(forward),
        "target": timed(target),
        "loss and gradient": timed(lambda number: torch.autograd.backward(learner.loss(batches[number])[0].total)),
    }
    print(f"{'median of ' + str(arguments.steps):>20} {'wall/ms':>10} {'CPU/ms':>10}")
    for name, (wall, cpu) in parts.items():
        print(f"{name:>20} {wall:10.1f} {cpu:10.1f}")


if __name__ == "__main__":
    main()
