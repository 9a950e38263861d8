"""What `xtalrl status` costs on a run of 36,000 crystals: `python benchmarks/status.py`, from the checkout.

The run is made up in a temporary folder, with tables as the workflow writes them: first the SCFs of the crystals are under way (500 shards
of 60 crystals are finished, 80 are running), then those of as many designs, all in single files and logs. Needs no SLURM.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from xtalrl import tables

SHARDS, SHARD_SIZE = 600, 60
FINISHED, RUNNING = 500, 80
REPEATS = 5
"""Calls of which the quickest counts: other work on the machine only adds."""


def outcome(name: str, kind: str, number: int) -> dict[str, Any]:
    """A row of SCF_OUTCOMES with two attempts; every tenth failed."""
    failed = number % 10 == 0
    attempt = {
        "number": 1, "strategy": "unpolarised", "outcome": "charge_wrong", "detail": "charge is wrong", "nspin": 1,
        "tot_magnetization": None, "exit_code": 1, "wall_s": 12.5, "key": key(f"{name}-1"),
    }  # fmt: skip
    final = {
        **attempt, "number": 2, "strategy": "polarised", "outcome": "charge_wrong" if failed else "converged",
        "detail": "" if not failed else "charge is wrong", "nspin": 2, "exit_code": int(failed), "key": key(f"{name}-2"),
    }  # fmt: skip
    energy_ry = -100 - number / 7
    return {
        "request_id": name, "kind": kind, "key": key(name), "species": ["Na", "Cl", "O"] * 4, "outcome": final["outcome"],
        "detail": final["detail"], "total_energy_ry": None if failed else energy_ry, "total_energy": None if failed else 13.6 * energy_ry,
        "band_gap_raw": None if failed else number % 97 / 20, "band_gap": None if failed else number % 97 / 20,
        "is_metallic": None if failed else False, "nspin": 2, "tot_magnetization": None, "strategy": final["strategy"], "recovered": False,
        "protocol": "paper", "protocol_hash": key("paper"), "family": "sssp-1.3.0-efficiency", "engine": "pw.x 7.2", "wall_s": 25.0,
        "attempts": [attempt, final],
    }  # fmt: skip


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_stage(results: Path, stage: str, kind: str, *, finished: bool) -> None:
    """Requests, the tables of finished shards, the logs of all that began; every shard and `outcomes.parquet` if finished."""
    folder = results / stage
    (folder / "shards").mkdir(parents=True)
    requests, outcomes = [], []
    for shard in range(SHARDS):
        rows = [outcome(f"{stage}-{shard * SHARD_SIZE + i}", kind, i) for i in range(SHARD_SIZE)]
        requests += [
            {
                **{name: row[name] for name in ("request_id", "kind", "key", "species", "tot_magnetization")},
                "shard": shard, "lattice": [5.0, 0, 0, 0, 5, 0, 0, 0, 5], "frac_coords": [0.1] * 36,
            }
            for row in rows
        ]  # fmt: skip
        outcomes.append(rows)
    tables.write_rows(requests, tables.SCF_REQUESTS, folder / "requests.parquet")
    for shard in range(SHARDS if finished else FINISHED + RUNNING):
        line = f"10:00:00  Shard {shard}: 20 of 60 SCFs, 10.0 s each, 6 min 40 s left, 20 converged, running a crystal (unpolarised, 1 s)\n"
        (results / f"logs/run_scf_shard.{stage}.{shard:04d}.log").write_text(200 * line)
        if finished or shard < FINISHED:
            tables.write_rows(outcomes[shard], tables.SCF_OUTCOMES, folder / f"shards/{shard:04d}.parquet")
    if finished:
        tables.write_rows((row for rows in outcomes for row in rows), tables.SCF_OUTCOMES, folder / "outcomes.parquet")


def measure(config: Path) -> tuple[float, float]:
    """Wall and CPU seconds of the quickest call."""
    command = [
        sys.executable,
        "-c",
        "from xtalrl.commands.cli import app; app()",
        "status",
        "--configfile",
        str(config),
    ]
    walls, cpus = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}")
        walls.append(time.perf_counter() - start)
        cpus.append(usage.ru_utime + usage.ru_stime)
    return min(walls), min(cpus)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{'36,000 crystals in 600 shards':<44}{'wall s':>8}{'CPU s':>8}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, stages in (
            ("nothing begun", {}),
            ("SCFs of the crystals under way", {"scf": False}),
            ("finished, and as many designs under way", {"scf": True, "evaluation": False}),
        ):
            results = folder / f"results-{len(stages)}"
            (results / "logs").mkdir(parents=True)
            for stage, finished in stages.items():
                write_stage(results, stage, "crystal" if stage == "scf" else "design", finished=finished)
            config = folder / "config.yaml"
            config.write_text(yaml.safe_dump({"results": str(results), "cache": str(folder / "cache")}))
            wall, cpu = measure(config)
            print(f"{label:<44}{wall:>8.2f}{cpu:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
