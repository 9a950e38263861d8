"""What one NVIDIA GPU makes of the learner; `benchmarks/gpu.sh` starts it and says how.

Each check and each measurement stands for itself: one that fails is reported, and the others go on. The exit code is 1 if any failed.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from synthetic_crystals import write_synthetic_dataset
from training import TABLE_1

from xtalrl import tables
from xtalrl.elements import ELEMENTS
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.learner import STATISTICS, Learner, Stack
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.replay import Orders, Replay, read_trajectories
from xtalrl.rl.rollout import fill_skeletons, rollout_policy
from xtalrl.rl.settings import PRESET_DEFAULTS, PRESETS, TrainingSettings
from xtalrl.rl.training import policies_per_pass, train_policies

ALL_ALGORITHMS = [
    PolicySpec("bc"),
    PolicySpec("ucql", omega=5.0, reward=Reward().without_gap()),
    PolicySpec("ccql", omega=1.0, target_ev=1.12, reward=Reward()),
    PolicySpec("ccql-any", omega=1.0, reward=Reward(), target_range_ev=(0.0, 5.0)),
    PolicySpec("rvs"),
]
INPUTS: dict[str, dict[str, Any]] = {"paper's inputs": {}, "modern inputs": {**PRESETS["modern"], "electrons": True}}
TOLERANCE = 2e-3
"""Largest difference of losses, relative, and of designs, as a share: sums on a GPU are made in no fixed order."""


class Script:
    """The sections of this script, on one device."""

    def __init__(self, device: torch.device, files: tuple[Path, Path], folder: Path, dry: bool, minutes: float) -> None:
        self.device, self.files, self.folder, self.dry = device, files, folder, dry
        self.small = 8 if dry else 64
        """Transitions of a batch where a CPU works beside the GPU."""
        self.end = time.monotonic() + 60 * minutes
        self.failed = 0

    def run(self) -> None:
        """All sections, whatever becomes of one."""
        for section in (
            self.ten_steps,
            self.stack_and_alone,
            self.no_waits,
            self.resumed,
            self.designs,
            self.speed,
            self.cuda_graph,
            self.train_rvs,
        ):
            print(f"\n## {section.__doc__}", flush=True)
            start = time.monotonic()
            try:
                section()
            except Exception:
                self.failed += 1
                print(f"FAILED\n{traceback.format_exc()}", flush=True)
            print(f"({time.monotonic() - start:.0f} s)", flush=True)

    def check(self, name: str, value: float, limit: float) -> None:
        """A value that must not be above its limit, and is a number."""
        good = value <= limit
        self.failed += not good
        print(f"{'ok    ' if good else 'FAILED'} {name}: {value:.2g} (at most {limit:g})", flush=True)

    def settings(self, **options: Any) -> TrainingSettings:
        return TrainingSettings(**{"batch_size": 8 if self.dry else 1024, "device": self.device.type, **options})

    @functools.cache  # noqa: B019 - one object, for the life of the script
    def replay(self, device: str) -> Replay:
        return Replay(*self.files, device=device)

    def learner(self, specs: list[PolicySpec], device: str, **options: Any) -> Learner:
        return Learner(specs, Stack(self.settings(**options), self.replay(device)), seed=0)

    def ten_steps(self) -> None:
        """Ten training steps of all algorithms together, against the CPU's"""
        for name, options in INPUTS.items():
            there, here = (
                self.learner(ALL_ALGORITHMS, device, batch_size=self.small, **options)
                for device in (self.device.type, "cpu")
            )
            for _ in range(2 if self.dry else 10):
                ours, expected = update(there).cpu(), update(here)
            self.check(f"{name}, loss of the tenth step", relative(ours[:, 0], expected[:, 0]), TOLERANCE)
            # Adam's first steps are as long for a gradient of rounding errors as for any other: the median tells.
            moved = (there.weights.cpu() - here.weights).abs().median() / there.settings.learning_rate
            self.check(f"{name}, median difference of weights in learning rates", float(moved.detach()), 0.05)

    def stack_and_alone(self) -> None:
        """Five steps of a stack, against those of each of its policies alone"""
        together = self.learner(ALL_ALGORITHMS, self.device.type, batch_size=self.small)
        losses = [update(together)[:, 0] for _ in range(5)][-1]
        for spec in ALL_ALGORITHMS:
            alone = self.learner([spec], self.device.type, batch_size=self.small)
            loss = [update(alone)[0, 0] for _ in range(5)][-1]
            self.check(spec.name, relative(losses[together.specs.index(spec)], loss), TOLERANCE)

    def no_waits(self) -> None:
        """A step in which the host never waits for the GPU (torch.cuda.set_sync_debug_mode)"""
        for name, options in INPUTS.items():
            learner = self.learner(ALL_ALGORITHMS, self.device.type, **options)
            for number in range(4):
                if number == 1 and self.device.type == "cuda":  # the first makes what later ones find made
                    torch.cuda.set_sync_debug_mode("error")
                try:
                    update(learner)
                finally:
                    if self.device.type == "cuda":
                        torch.cuda.set_sync_debug_mode("default")
            learner.check_finite()
            print(f"ok     {name}")

    def resumed(self) -> None:
        """A training that is stopped and goes on, against one in one go"""
        settings = self.settings(batch_size=self.small)
        log = {}
        for name, parts in {"whole": [4], "resumed": [2, 4]}.items():
            for steps in parts:
                self.train(ALL_ALGORITHMS, dataclasses.replace(settings, steps=steps), name)
            log[name] = [last_row(self.folder / name / spec.name)["loss"] for spec in ALL_ALGORITHMS]
        self.check("loss of the last step", relative(torch.tensor(log["resumed"]), torch.tensor(log["whole"])), 0.01)

    def designs(self) -> None:
        """Designs of a policy, against the CPU's"""
        torch.manual_seed(0)
        stack = Stack(self.settings(focus="node"), self.replay(self.device.type))
        filled = []
        for device in (self.device.type, "cpu"):
            table = read_trajectories(self.files[1], "train")
            table = table.filter(pc.equal(table["trajectory"], 0))[:500]
            skeletons = CrystalGraphs.read(self.files[0], table["material_id"].to_pylist(), device)
            filled.append(
                fill_skeletons(stack.network.to(device).eval(), Orders(skeletons, table, self.files[1]), 1.12)
            )
        other = float(np.mean([not np.array_equal(a, b) for a, b in zip(*filled, strict=True)]))
        self.check(f"share of {len(filled[0])} designs that differ", other, 0.02)

    def speed(self) -> None:
        """Steps per second"""
        columns = (
            "policies",
            "precision",
            "steps/s",
            "of all policies",
            "host busy",
            "batch assembly alone",
            "peak memory",
        )
        print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
        for specs in (TABLE_1[:1], [PolicySpec("rvs")], TABLE_1):
            for precision in ("float32", "bfloat16"):
                name = specs[0].name if len(specs) == 1 else f"{len(specs)} of Table 1"
                try:
                    values = self.speed_of(specs, precision)
                except RuntimeError as error:  # out of memory, or no such kernel in this precision
                    self.failed += 1
                    values = [f"FAILED: {str(error).splitlines()[0]}"]
                print(f"| {' | '.join([name, precision, *values])} |", flush=True)
        stack = Stack(self.settings(), self.replay(self.device.type))
        print(f"policies that `policies_per_pass: auto` trains together: {policies_per_pass(TABLE_1, stack, seed=0)}")

    def speed_of(self, specs: list[PolicySpec], precision: str) -> list[str]:
        """A row of the table of speeds."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        options = PRESETS["modern"] if specs[0].kind == "rvs" else {}
        learner = self.learner(specs, self.device.type, precision=precision, **options)
        bootstrap = learner.target is not None
        ms, host = self.timed(lambda: update(learner))
        batch, _ = self.timed(lambda: learner.stack.draw_batch(0, learner.step, bootstrap=bootstrap))
        learner.check_finite()
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if self.device.type == "cuda" else "no GPU"
        return [f"{1e3 / ms:.1f}", f"{1e3 * len(specs) / ms:.1f}", f"{host / ms:.0%}", f"{batch:.2f} ms", peak]

    def cuda_graph(self) -> None:
        """Losses and gradients of one batch, again and again: launched kernel by kernel, and replayed as one CUDA graph"""
        # What a run could gain if its batches were padded to fixed sizes; they are not.
        print("| policies | ms | ms replayed |\n|---|---|---|")
        for specs in ([PolicySpec("bc")], TABLE_1[:1], TABLE_1):
            learner = self.learner(specs, self.device.type)
            batch = learner.stack.draw_batch(0, 0, bootstrap=learner.target is not None)

            def gradients(learner: Learner = learner, batch: Any = batch) -> torch.Tensor:
                total, _ = learner.evaluate(learner.weights, learner.target, batch)
                return torch.autograd.grad(total.sum(), learner.weights)[0]

            expected = gradients()
            launched, _ = self.timed(gradients)
            if self.device.type != "cuda":
                print(f"| {len(specs)}, {specs[0].name} first | {launched:.2f} | no GPU |")
                continue
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    gradients()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = gradients()
            replayed, _ = self.timed(graph.replay)
            print(f"| {len(specs)}, {specs[0].name} first | {launched:.2f} | {replayed:.2f} |", flush=True)
            difference = float((captured - expected).abs().max() / expected.abs().max())
            if difference > TOLERANCE:
                self.check("largest difference of gradients over the largest gradient", difference, TOLERANCE)

    def train_rvs(self) -> None:
        """rvs with the modern preset, for the time that is left"""
        options = {**PRESETS["modern"], **PRESET_DEFAULTS["modern"], "batch_size": 8 if self.dry else 256}
        learner = self.learner([PolicySpec("rvs")], self.device.type, **options)
        ms, _ = self.timed(lambda: update(learner))
        left = self.end - time.monotonic() - (1 if self.dry else 40)  # for the designs
        steps = 20 if self.dry else max(200, int(0.9e3 * left / ms))
        print(f"{steps:,} steps of {options['batch_size']}, at {1e3 / ms:.1f} steps/s", flush=True)
        settings = self.settings(**{**options, "steps": steps, "log_every": max(1, steps // 10), "snapshots": 0})
        self.train([PolicySpec("rvs")], settings, "rvs")
        folder = self.folder / "rvs" / "rvs"
        print((folder / "training.csv").read_text(), end="")
        table = read_trajectories(self.files[1], "val")
        truth = {row["material_id"]: row for row in table.to_pylist() if row["trajectory"] == 0}
        for target in (1.12, 4.0):
            rollout_policy(folder, *self.files, folder / "designs.parquet", self.device.type, target_ev=target)
            right = total = 0
            for design in tables.read_rows(folder / "designs.parquet", tables.DESIGNS):
                row = truth[design["material_id"]]
                species = [design["species"][site] for site in row["order"]]
                right += sum(ELEMENTS[action] == one for action, one in zip(row["actions"], species, strict=True))
                total += len(species)
            print(f"designs for {target:g} eV: {right / total:.1%} of {total:,} sites as in the crystal")

    def train(self, specs: list[PolicySpec], settings: TrainingSettings, name: str) -> None:
        graphs, trajectories = self.files
        train_policies(
            specs, settings, seed=0, threads=torch.get_num_threads(), graphs=graphs, trajectories=trajectories,
            folders=[self.folder / name / spec.name for spec in specs],
        )  # fmt: skip

    def timed(self, call: Callable[[], Any]) -> tuple[float, float]:
        """Milliseconds of a call: until its result is there, and until it returns; the mean of as many as go into a few seconds."""
        seconds = 0.0 if self.dry else 6.0
        for _ in range(1 if self.dry else 5):
            call()
        self.synchronize()
        start, host, number = time.perf_counter(), 0.0, 0
        while number == 0 or time.perf_counter() - start < seconds:
            for _ in range(1 if self.dry else 10):
                before = time.perf_counter()
                call()
                host += time.perf_counter() - before
                number += 1
            self.synchronize()
        return 1e3 * (time.perf_counter() - start) / number, 1e3 * host / number

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def update(learner: Learner) -> torch.Tensor:
    """A step; the row of each policy in the order of `learner.specs`."""
    return learner.update(learner.stack.draw_batch(0, learner.step, bootstrap=learner.target is not None))


def relative(ours: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest relative difference."""
    return float(((ours - expected).abs() / expected.abs()).max())


def last_row(folder: Path) -> dict[str, float]:
    """The last row of a training log."""
    *_, row = csv.DictReader((folder / "training.csv").open())
    return {name: float(row[name]) for name in STATISTICS if row[name]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="?", type=Path)
    parser.add_argument("trajectories", nargs="?", type=Path)
    parser.add_argument("--dry", action="store_true", help="run the code on a CPU, tiny")
    parser.add_argument("--minutes", type=float, default=7.5)
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} sees no GPU here: run this on a node with one, or with --dry.")
    device = torch.device("cpu" if arguments.dry else "cuda")
    if arguments.dry:
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = (arguments.graphs, arguments.trajectories)
        if not arguments.graphs:
            files = write_synthetic_dataset(folder, *((12, 3) if arguments.dry else (8_813, 300)))
        script = Script(device, files, folder, arguments.dry, arguments.minutes)
        machine = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, dry: no number below means anything"
        print(f"# {machine}; torch {torch.__version__}, CUDA {torch.version.cuda}, Python {sys.version.split()[0]}")
        replay = script.replay(device.type)
        print(
            f"{len(replay):,} transitions of {len(replay.graphs.material_ids):,} crystals, {replay.nbytes / 1e6:.1f} MB"
        )
        script.run()
    print(f"\n{script.failed} of the checks and measurements failed" if script.failed else "\nall checks passed")
    sys.exit(bool(script.failed))


if __name__ == "__main__":
    main()
