"""`xtalrl status`: the progress of a run, from its files and the queue alone, so that it works on a login node while jobs run.

A stage with thousands of jobs is read from the tables of its shards, and from the logs and progress files of jobs that have not finished.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.table import Table

from xtalrl.campaign.preflight import campaign_stages
from xtalrl.config import Config
from xtalrl.errors import XtalrlError
from xtalrl.progress import format_seconds, read_pace
from xtalrl.provenance import note_differences
from xtalrl.workflow import trains_together

FRESH_S = 180.0
"""Seconds without a line in its log after which a job is not running: jobs write every few seconds, and a network file system may
show it a minute late."""
_COMMENT = re.compile(r"rule_(.+?)(?:_wildcards_([a-z]+(?:-[a-z0-9]+)?)_.*)?")
"""Comment that Snakemake's SLURM plugin gives to a job."""
_STAGE_OF_RULE = {
    "read_crystals": "structures",
    "build_graphs": "structures",
    "build_trajectories": "trajectories",
    "train_policy": "train",
    "rollout_policy": "rollout",
    "rollout_snapshot": "rollout",
    "fill_designs": "rollout",
    "predict_policies": "rollout",
    "import_designs": "rollout",
    "assess_designs": "rollout",
    "assess_snapshots": "rollout",
    "evaluate_designs": "evaluation",
    "evaluate_snapshots": "evaluation",
    "assess_stability": "evaluation",
    "train_campaign_policy": "campaign",
    "propose_designs": "campaign",
    "assess_proposals": "campaign",
    "fill_skeletons": "campaign",
    "train_campaign_predictor": "campaign",
    "predict_designs": "campaign",
    "assess_campaign_stability": "campaign",
}


@dataclass
class Stage:
    """Progress of one stage: how many of its units are done, and with what results."""

    name: str
    done: int
    total: int | None
    unit: str
    notes: dict[str, int] = field(default_factory=dict)
    """Counts by outcome, reason or policy."""
    running: int = 0
    """Number of jobs that are writing to their logs."""
    stopped: int = 0
    """Number of jobs that began, are silent and have no output: failed, cancelled or cut off."""
    queued: int = 0
    """Number of jobs of this run that wait in SLURM's queue; runs of one working folder are not told apart."""
    left_s: float | None = None
    """Seconds until the stage ends at the pace of the running jobs."""
    unreadable: list[str] = field(default_factory=list)
    """Tables of the stage that are damaged or may not be read."""

    @property
    def state(self) -> str:
        """State of the stage: unreadable, done, running, queued, stopped or waiting."""
        if self.unreadable:
            return "unreadable"
        if self.total is not None and self.done >= self.total:
            return "done"
        return "running" if self.running else "queued" if self.queued else "stopped" if self.stopped else "waiting"


@dataclass(frozen=True)
class _Job:
    """A job that began and has no output yet, as its log shows."""

    running: bool
    done: int
    """Number of finished units: SCFs, crystals, or steps of its policies."""
    rate: float
    """Units per second; 0 if unknown so far, or if the job is not running."""


def stages(config: Config) -> Iterator[Stage]:
    """Every stage in the order of the workflow."""
    queued = _queued(Path(config.results).absolute())
    for stage in _stages(config):
        if stage.state != "done":
            stage.queued = queued[stage.name]
        yield stage


def print_status(config: Config, as_json: bool) -> None:
    """Print the stages as a table or as one JSON object."""
    found = list(stages(config))
    if as_json:
        typer.echo(json.dumps({stage.name: {**asdict(stage), "state": stage.state} for stage in found}))
        return
    table = Table(title=f"{config.results}", title_justify="left", box=None, pad_edge=False)
    for column in ("stage", "state"):
        table.add_column(column)
    table.add_column("done", justify="right")
    table.add_column("jobs")
    table.add_column("left", justify="right")
    table.add_column("of which", overflow="fold")
    colors = {"done": "green", "running": "yellow", "queued": "cyan", "stopped": "red", "waiting": "dim"}
    colors["unreadable"] = "red"
    for stage in found:
        total = "?" if stage.total is None else f"{stage.total:,}"
        jobs = {"running": stage.running, "queued": stage.queued, "stopped": stage.stopped}
        table.add_row(
            stage.name,
            f"[{colors[stage.state]}]{stage.state}[/]",
            f"{stage.done:,} of {total} {stage.unit}",
            ", ".join(f"{count:,} {what}" for what, count in jobs.items() if count),
            "" if stage.left_s is None else format_seconds(stage.left_s),
            ", ".join(f"{count:,} {name}" for name, count in stage.notes.items()),
        )
    console = Console()
    console.print(table)
    for path in (path for stage in found for path in stage.unreadable):
        console.print(
            f"\n{path} cannot be read: if it is damaged, delete it and start Snakemake again; else fix its permissions.",
            soft_wrap=True,
            markup=False,
        )
    if any(stage.stopped for stage in found):
        console.print(
            f"\nStopped jobs are repeated by Snakemake, or when it is started again; why they stopped is in {config.results}/logs "
            "and results/logs/slurm.",
            soft_wrap=True,
        )
    if note := note_differences(config):
        console.print(f"\n{note}", soft_wrap=True, markup=False)


def print_summary(config: Config) -> None:
    """List what a finished run made.

    Raises:
        XtalrlError: the report is not there yet.
    """
    from xtalrl.report.elsewhere import computed_elsewhere  # with the DFT part, which `xtalrl status` does without

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
    if elsewhere := computed_elsewhere(config):
        lines += ["", elsewhere.sentence]
    if note := note_differences(config):
        lines += ["", note]
    typer.echo("\n".join(lines))


def _stages(config: Config) -> Iterator[Stage]:
    results = Path(config.results)
    policies = config.policy_specs()
    learns = bool(policies) or config.campaign.is_on
    yield _structures(results)
    if learns and not config.labels.path:
        yield _scf("scf", results)
    needs_references = policies or config.references.energies or (learns and not config.labels.path)
    if needs_references and (config.references.protocol or not config.references.energies):
        yield _scf("references", results)
    if learns or config.labels.path:
        yield _table(
            "labels",
            results,
            "labels.parquet",
            "crystals",
            "outcome",
            ("label_crystals", "import_labels", "take_source_labels"),
        )
    if policies:
        yield _table("trajectories", results, "trajectories.parquet", "trajectories", "split", ("build_trajectories",))
        yield from _policies(config, results)
    if policies or config.external:
        yield _scf("evaluation", results)
    if config.evaluation.confirm or (results / "confirmation").is_dir():
        yield _scf("confirmation", results)
    for stage in campaign_stages(config):
        yield _scf(stage, results)
    if config.campaign.is_on:
        yield _table("campaign", results, "campaign/confirmation.parquet", "hits", "verdict", ())
    for name, pattern in (("tables", "*.csv"), ("figures", "*.png")):
        made = len(list((results / name).glob(pattern)))
        yield Stage(name, made, made or None, name)
    yield Stage("report", int((results / "report.html").exists()), 1, "page")


def _policies(config: Config, results: Path) -> Iterator[Stage]:
    for name, rule, output, policies, together in (
        ("train", "train_policy", "policies/{}/weights.safetensors", config.trained_specs(), trains_together(config)),
        ("rollout", "rollout_policy", "designs/{}.parquet", config.policy_specs(), False),
    ):
        runs = [(policy, seed) for policy in policies for seed in config.policies.seeds]
        left = [
            (policy, seed) for policy, seed in runs if not (results / output.format(f"{policy}/seed{seed}")).exists()
        ]
        of_jobs = dict.fromkeys(("all" if together else policy, seed) for policy, seed in left)
        jobs = [_job(results / "logs" / f"{rule}.{policy}.seed{seed}.log") for policy, seed in of_jobs]
        stage = _with_jobs(Stage(name, len(runs) - len(left), len(runs), "policies"), jobs)
        if name == "train" and (rate := sum(job.rate for job in jobs if job)):
            stage.left_s = (len(left) * config.training.steps - sum(job.done for job in jobs if job)) / rate
        yield stage


def _structures(results: Path) -> Stage:
    stage = _table(
        "structures", results, "structures/crystals.parquet", "crystals", "split", ("read_crystals", "build_graphs")
    )
    if stage.total is not None and not (results / "structures" / "graphs.parquet").exists():
        stage.done, stage.notes = 0, {**stage.notes, "graphs": 0}
        _with_jobs(stage, [_job(results / "logs" / "build_graphs.log")])
    lists = [results / "structures" / f"{name}.parquet" for name in ("rejected", "graph_failures")]
    rejected = _counts([path for path in lists if path.exists()], "reason", stage.unreadable)
    stage.notes |= {f"rejected: {reason}": count for reason, count in rejected.items()}
    return stage


def _scf(name: str, results: Path) -> Stage:
    requests = results / name / "requests.parquet"
    if not requests.exists():
        return Stage(name, 0, None, "SCFs")
    try:
        total = pq.read_metadata(requests).num_rows
    except Exception:
        return Stage(name, 0, None, "SCFs", unreadable=[str(requests)])
    unreadable: list[str] = []
    outcomes = results / name / "outcomes.parquet"
    marks = {path.stem: path for path in (results / name / "reruns").glob("*.json")}
    if outcomes.exists() and not any(_is_older(outcomes, path) for path in (requests, *marks.values())):
        notes = _counts([outcomes], "outcome", unreadable)
        return Stage(name, total, total, "SCFs", notes, unreadable=unreadable)
    shards = {
        path.stem: path
        for path in (results / name / "shards").glob("*.parquet")
        # Of an earlier plan, or marked by `xtalrl rerun`: Snakemake will make it again.
        if not _is_older(path, requests) and not (path.stem in marks and _is_older(path, marks[path.stem]))
    }
    notes = _counts(shards.values(), "outcome", unreadable)
    prefix = f"run_scf_shard.{name}."
    jobs = [
        _job(path)
        for path in (results / "logs").glob(f"{prefix}*.log")
        if path.name.removeprefix(prefix).removesuffix(".log") not in shards
    ]
    done = min(total, sum(notes.values()) + sum(job.done for job in jobs if job))
    stage = _with_jobs(Stage(name, done, total, "SCFs", notes, unreadable=unreadable), jobs)
    if rate := sum(job.rate for job in jobs if job):
        stage.left_s = (total - done) / rate
    return stage


def _is_older(path: Path, other: Path) -> bool:
    try:
        return path.stat().st_mtime < other.stat().st_mtime
    except FileNotFoundError:  # One of them is being made again at this moment.
        return False


def _table(name: str, results: Path, output: str, unit: str, column: str, rules: Iterable[str]) -> Stage:
    path = results / output
    if not path.exists():
        return _with_jobs(Stage(name, 0, None, unit), [_job(results / "logs" / f"{rule}.log") for rule in rules])
    unreadable: list[str] = []
    counts = _counts([path], column, unreadable)
    rows = sum(counts.values())
    return Stage(name, rows, rows, unit, counts, unreadable=unreadable)


def _with_jobs(stage: Stage, jobs: Iterable[_Job | None]) -> Stage:
    began = [job for job in jobs if job]
    stage.running = sum(job.running for job in began)
    stage.stopped = len(began) - stage.running
    return stage


def _job(log: Path) -> _Job | None:
    """A job according to its log and the progress file beside it; None if it has not begun."""
    if not log.is_file():
        return None
    try:
        is_fresh = time.time() - log.stat().st_mtime < FRESH_S
    except OSError:
        return None
    pace = read_pace(log)
    running = is_fresh and not pace.failed
    return _Job(running, pace.done, pace.per_s if running else 0.0)


def _queued(results: Path) -> Counter[str]:
    """Pending SLURM jobs by stage, of this user's runs whose working folder is this one or holds `results`; empty if there is no SLURM or no answer."""
    if not shutil.which("squeue"):
        return Counter()
    command = ["squeue", "--noheader", "--states=PENDING", f"--user={os.getuid()}", "--format=%j|%k|%Z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (subprocess.SubprocessError, OSError):
        return Counter()
    found = Counter[str]()
    for line in listed.splitlines():
        name, comment, folder = [*line.split("|", 2), "", ""][:3]
        is_ours = name.startswith("xtalrl_") and Path(folder) in (Path.cwd(), *results.parents)
        if is_ours and (match := _COMMENT.fullmatch(comment)):
            found[match[2] if match[1] == "run_scf_shard" else _STAGE_OF_RULE.get(match[1], match[1])] += 1
    return found


def _counts(paths: Iterable[Path], column: str, unreadable: list[str]) -> dict[str, int]:
    """Number of occurrences of each value in a column of these tables, the most frequent first; unreadable tables are added to `unreadable`."""
    counts = Counter[str]()
    for path in paths:  # by hand: pyarrow.dataset imports pandas, a fifth of the time of `xtalrl status`
        try:
            found = pq.ParquetFile(path).read([column]).column(column).value_counts().to_pylist()
        except Exception:  # Damaged Parquet raises nearly everything, from OSError to UnicodeDecodeError.
            unreadable.append(str(path))
            continue
        for pair in found:
            counts[str(pair["values"])] += pair["counts"]
    return dict(counts.most_common())
