"""`xtalrl status`: how far a run is, from its files alone, so that it works while jobs run and on a login node."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from xtalrl.config import Config
from xtalrl.dft.cache import finished_keys
from xtalrl.errors import XtalrlError


@dataclass
class Stage:
    """Progress of one stage: how many of its units are done, and what came of them."""

    name: str
    done: int
    total: int | None
    unit: str
    notes: dict[str, int] = field(default_factory=dict)
    """Counts by outcome, reason or policy."""

    @property
    def state(self) -> str:
        """done, running or waiting."""
        if self.total is not None and self.done >= self.total:
            return "done"
        return "running" if self.done else "waiting"


def stages(config: Config) -> Iterator[Stage]:
    """Every stage in the order of the workflow."""
    results = Path(config.results)
    yield _structures(results)
    computed = finished_keys(config.cache)
    if not config.labels.path:
        yield _scf("scf", results, computed)
    if not config.references.energies:
        yield _scf("references", results, computed)
    yield _table("labels", results / "labels.parquet", "crystals", "outcome")
    yield _table("trajectories", results / "trajectories.parquet", "trajectories", "split")
    yield _train(config, results)
    runs = [(name, seed) for name in config.policy_specs() for seed in config.policies.seeds]
    designed = sum((results / "designs" / name / f"seed{seed}.parquet").exists() for name, seed in runs)
    yield Stage("rollout", designed, len(runs), "policies")
    yield _scf("evaluation", results, computed)
    for name, pattern in (("tables", "*.csv"), ("figures", "*.png")):
        made = len(list((results / name).glob(pattern)))
        yield Stage(name, made, made or None, name)
    yield Stage("report", int((results / "report.html").exists()), 1, "page")


def print_status(config: Config, as_json: bool) -> None:
    """Print the stages as a table or as one JSON object."""
    found = list(stages(config))
    if as_json:
        typer.echo(json.dumps({stage.name: {**asdict(stage), "state": stage.state} for stage in found}))
        return
    table = Table(title=f"{config.results}", title_justify="left", box=None, pad_edge=False)
    table.add_column("stage")
    table.add_column("state")
    table.add_column("done", justify="right")
    table.add_column("of which", overflow="fold")
    colors = {"done": "green", "running": "yellow", "waiting": "dim"}
    for stage in found:
        total = "?" if stage.total is None else f"{stage.total:,}"
        notes = ", ".join(f"{count:,} {name}" for name, count in stage.notes.items())
        table.add_row(
            stage.name, f"[{colors[stage.state]}]{stage.state}[/]", f"{stage.done:,} of {total} {stage.unit}", notes
        )
    Console().print(table)


def print_summary(config: Config) -> None:
    """List what a finished run made.

    Raises:
        XtalrlError: the report is not there yet.
    """
    results = Path(config.results)
    report = results / "report.html"
    if not report.exists():
        raise XtalrlError(f"{report} does not exist yet: `xtalrl status` shows how far the run is.")
    lines = ["", f"Report    {report}"]
    for title, pattern in (
        ("Tables", "tables/*.csv"),
        ("Figures", "figures/*.png"),
        ("Designs", "evaluation/evaluation.parquet"),
        ("Labels", "labels.parquet"),
        ("Policies", "policies/*/seed*/weights.safetensors"),
    ):
        for path in sorted(results.glob(pattern)):
            lines.append(f"{title:<9} {path}")
            title = ""
    typer.echo("\n".join(lines))


def _structures(results: Path) -> Stage:
    stage = _table("structures", results / "structures" / "crystals.parquet", "crystals", "split")
    graphs = results / "structures" / "graphs.parquet"
    if stage.total is not None and not graphs.exists():
        stage.done, stage.notes = 0, {**stage.notes, "graphs": 0}
    rejected = results / "structures" / "rejected.parquet"
    if rejected.exists():
        stage.notes |= {f"rejected: {reason}": count for reason, count in _counts(rejected, "reason").items()}
    return stage


def _scf(name: str, results: Path, computed: set[str]) -> Stage:
    requests = results / name / "requests.parquet"
    if not requests.exists():
        return Stage(name, 0, None, "SCFs")
    keys = pq.read_table(requests, columns=["key"]).column("key").to_pylist()
    outcomes = results / name / "outcomes.parquet"
    if outcomes.exists():
        return Stage(name, len(keys), len(keys), "SCFs", _counts(outcomes, "outcome"))
    shards = sorted((results / name / "shards").glob("*.parquet"))
    notes = Counter[str]()
    for shard in shards:
        notes.update(_counts(shard, "outcome"))
    return Stage(name, max(sum(key in computed for key in keys), notes.total()), len(keys), "SCFs", dict(notes))


def _train(config: Config, results: Path) -> Stage:
    notes, done, total = {}, 0, 0
    for name in config.policy_specs():
        for seed in config.policies.seeds:
            folder = results / "policies" / name / f"seed{seed}"
            total += 1
            if (folder / "weights.safetensors").exists():
                done += 1
            elif step := _last_step(folder / "training.csv"):
                notes[f"steps of {config.training.steps:,} in {name} seed {seed}"] = step
    return Stage("train", done, total, "policies", notes)


def _last_step(log: Path) -> int:
    try:
        with log.open(newline="") as file:
            return max((int(row["step"]) for row in csv.DictReader(file)), default=0)
    except (OSError, KeyError, ValueError):
        return 0


def _table(name: str, path: Path, unit: str, column: str) -> Stage:
    if not path.exists():
        return Stage(name, 0, None, unit)
    counts = _counts(path, column)
    rows = sum(counts.values())
    return Stage(name, rows, rows, unit, counts)


def _counts(path: Path, column: str) -> dict[str, int]:
    return dict(Counter(pq.read_table(path, columns=[column]).column(column).to_pylist()).most_common())
