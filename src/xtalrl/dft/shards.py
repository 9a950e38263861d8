"""A shard of SCFs: as many single-core pw.x at a time as there are workers, each request ending in exactly one row."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa

from xtalrl import tables
from xtalrl.dft.cache import Cache, Record
from xtalrl.dft.engines import Engine, find_engine
from xtalrl.dft.inputs import physics_key, render
from xtalrl.dft.outcomes import Outcome, Result, classify, clip_gap
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.pseudopotentials import load_family
from xtalrl.dft.recovery import Attempt, Recovery, Situation, final_result, first_attempt, next_attempt
from xtalrl.dft.requests import cell_of, form_of
from xtalrl.energies import RYDBERG_EV_PAPER
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress, format_seconds

logger = logging.getLogger(__name__)

SAVE_MARGIN_S = 30.0
"""How long before its time limit pw.x is told to save its state and stop."""

# The installation is broken: every further run would end in the same way, so the job stops instead of filling rows.
_FATAL = frozenset(
    (
        Outcome.ENGINE_FAILED,
        Outcome.MPI_FAILED,
        Outcome.PSEUDOPOTENTIAL_NOT_FOUND,
        Outcome.PSEUDOPOTENTIAL_UNREADABLE,
        Outcome.INPUT_NOT_FOUND,
        Outcome.SCRATCH_UNUSABLE,
        Outcome.DISK_FULL,
    )
)


@dataclass(frozen=True)
class TimeLimits:
    """Seconds an attempt may take."""

    limits_s: tuple[float, ...]
    """One number an attempt; the last repeats."""
    in_all: bool
    """The first number is for all attempts together."""

    def of(self, walls_s: Sequence[float]) -> float:
        """The limit of the attempt after these."""
        if self.in_all:
            return self.limits_s[0] - sum(walls_s)
        return self.limits_s[min(len(walls_s), len(self.limits_s) - 1)]


def run_shard(
    requests: str,
    family: str,
    shard: int,
    outcomes: str,
    workers: int,
    protocol: str,
    recovery: Recovery,
    time_limits_min: Mapping[str, Sequence[float]],
    command: str | None,
    cache: str,
) -> None:
    """Run the SCFs of one shard that the cache does not hold, and write one row of SCF_OUTCOMES a request.

    A failed SCF is a row. What has finished is in the cache at once, so that a killed job goes on where it was.

    Args:
        workers: pw.x processes at a time.
        time_limits_min: minutes for `crystal` and `reference`, one number an attempt, and for `design` in all attempts together.

    Raises:
        XtalrlError: pw.x or a pseudopotential is missing, or the scratch disk is full.
    """
    wanted = [row for row in tables.read_rows(requests, tables.SCF_REQUESTS) if row["shard"] == shard]
    runner = _Runner(family, protocol, recovery, time_limits_min, command, cache)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in wanted:
        groups[row["key"], row["kind"]].append(row)
    todo = sorted((rows[0] for rows in groups.values()), key=_cost, reverse=True)
    ended: dict[tuple[str, str], dict[str, Any]] = {}
    with _ended_by_signal(runner.stop), _scratch_folder() as scratch, ThreadPoolExecutor(workers) as pool:
        progress = Progress(f"Shard {shard}", len(todo), "SCFs", every_s=2.0)
        pending = {pool.submit(runner.settle, row, scratch): row for row in todo}
        try:
            while pending:
                finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in finished:
                    row = pending.pop(future)
                    ended[row["key"], row["kind"]] = future.result()
                    progress.advance(note=runner.describe_running())
                progress.beat(runner.describe_running())
        except BaseException:
            runner.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    rows = [ended[row["key"], row["kind"]] | {"request_id": row["request_id"]} for row in wanted]
    tables.write_rows(rows, tables.SCF_OUTCOMES, outcomes)
    logger.info(
        "Shard %d: %d requests, %d runs of pw.x, the rest from the cache. %s",
        shard,
        len(rows),
        runner.runs,
        count_outcomes(rows),
    )


def gather_outcomes(shards: Sequence[str], outcomes: str) -> None:
    """Put the rows of all shards into one table, in the order of their request_id, and log how they ended."""
    table = pa.concat_tables([tables.read(path, tables.SCF_OUTCOMES) for path in shards]).sort_by("request_id")
    tables.write(table, tables.SCF_OUTCOMES, outcomes)
    logger.info("%s", count_outcomes(table.select(["outcome"]).to_pylist()))


def count_outcomes(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line: how many rows ended in which outcome, the most frequent first."""
    counts = Counter(row["outcome"] for row in rows)
    usable = sum(n for name, n in counts.items() if Outcome(name).usable)
    return f"{usable:,} of {len(rows):,} usable: " + (
        ", ".join(f"{n:,} {name}" for name, n in counts.most_common()) or "nothing to do"
    )


class _Runner:
    """What the workers of a shard share."""

    def __init__(
        self,
        family: str,
        protocol: str,
        recovery: Recovery,
        time_limits_min: Mapping[str, Sequence[float]],
        command: str | None,
        cache: str,
    ) -> None:
        self.family, self.family_folder = load_family(family)
        self.protocol = load_protocol(protocol)
        self.recovery = recovery
        self.limits = {
            kind: TimeLimits(tuple(60.0 * minutes for minutes in limits), in_all=kind == "design")
            for kind, limits in time_limits_min.items()
        }
        self.command, self.cache_folder = command, cache
        self.cache = Cache(cache)
        self.stop = threading.Event()
        self.runs = 0
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._running: dict[str, tuple[float, str]] = {}
        if missing := [p.file for p in self.family.elements.values() if not (self.family_folder / p.file).is_file()]:
            raise XtalrlError(
                f"{self.family_folder} lacks {', '.join(sorted(missing)[:5])}{' …' if len(missing) > 5 else ''}: "
                f"delete {family} and run the same command again."
            )

    def engine(self) -> Engine:
        """The pw.x of this machine; looked for only when something has to be run."""
        with self._lock:
            if self._engine is None:
                self._engine = find_engine(self.command, self.cache_folder)
                logger.info("Using %s", self._engine.label)
            return self._engine

    def describe_running(self) -> str:
        """What the workers are at."""
        now = time.monotonic()
        return (
            "running "
            + ", ".join(
                f"{name} ({strategy}, {format_seconds(now - start)})"
                for name, (start, strategy) in sorted(self._running.copy().items())
            )
            if self._running
            else ""
        )

    def settle(self, request: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
        """Climb the ladder for one request; one row of SCF_OUTCOMES but for its request_id."""
        cell = cell_of(request)
        situation = Situation(
            cell,
            form_of(request["kind"], cell, self.protocol),
            self.protocol,
            self.family,
            self.recovery,
            request["tot_magnetization"],
        )
        limits = self.limits[request["kind"]]
        records: list[Record] = []
        folder = scratch / request["key"][:16]
        try:
            following: Attempt | Outcome | None = first_attempt(situation)
            while isinstance(following, Attempt):
                limit = limits.of([record.wall_s for record in records])
                if records and _would_not_help(following, records[-1], limit):
                    break
                record = self._attempt(request, situation, following, limit, folder)
                records.append(record)
                situation.history.append((following, record.result))
                following = next_attempt(situation)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self._row(request, situation, records, following if isinstance(following, Outcome) else None)

    def _attempt(
        self, request: Mapping[str, Any], situation: Situation, attempt: Attempt, limit_s: float, folder: Path
    ) -> Record:
        """The record of an attempt, from the cache or from pw.x."""
        key = physics_key(situation.cell, attempt.settings.physics(), self.family)
        if record := self.cache.find(key, limit_s):
            return record
        engine = self.engine()
        resumable = attempt.strategy == "more_time" and (folder / "out").is_dir()
        if not resumable:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for element in sorted(set(situation.cell.species)):
                source = self.family_folder / self.family.elements[element].file
                (folder / source.name).write_bytes(
                    source.read_bytes()
                )  # shutil.copy would blame a full disk on the source
        max_seconds = int(limit_s - SAVE_MARGIN_S) if limit_s > 4 * SAVE_MARGIN_S else None
        text = render(situation.cell, attempt.settings, self.family, max_seconds, restart=resumable)
        self._running[request["request_id"]] = (time.monotonic(), attempt.strategy)
        try:
            run = engine.run(text, folder, limit_s, self.stop)
        finally:
            del self._running[request["request_id"]]
        if self.stop.is_set():
            raise _Stopped
        result = classify(run)
        record = Record.of(key, run, result, limit_s, engine.label)
        with self._lock:
            self.runs += 1
            self.cache.add(record)
        if result.outcome in _FATAL:
            raise XtalrlError(
                f"{request['request_id']}: {result.outcome.sentence} ({result.detail}) The shard stops, because every further SCF "
                f"would end in the same way; what has finished is kept. Mend it and run the same command again "
                f"(pw.x: {' '.join(engine.command)}; scratch: {folder.parent}, set TMPDIR to choose another)."
            )
        logger.info(
            "%s, %s: %s after %s%s", request["request_id"], attempt.strategy, result.outcome, format_seconds(run.wall_s),
            f" ({result.detail})" if result.detail else "",
        )  # fmt: skip
        return record

    def _row(
        self, request: Mapping[str, Any], situation: Situation, records: list[Record], verdict: Outcome | None
    ) -> dict[str, Any]:
        attempt: Attempt | None = None
        if verdict is not None:
            lacking = self.family.missing(situation.cell.species)
            result = Result(verdict, f"{self.family.name} lacks {', '.join(lacking)}" if lacking else verdict.sentence)
        else:
            attempt, result = final_result(situation)
        usable = result.outcome.usable
        engines = [record.engine for record in records]
        return {
            "kind": request["kind"],
            "key": request["key"],
            "species": request["species"],
            "outcome": str(result.outcome),
            "detail": result.detail or ("" if usable else result.outcome.sentence),
            "total_energy_ry": result.total_energy_ry if usable else None,
            "total_energy": result.total_energy_ry * RYDBERG_EV_PAPER
            if usable and result.total_energy_ry is not None
            else None,
            "band_gap_raw": result.band_gap_raw_ev if usable else None,
            "band_gap": clip_gap(result.band_gap_raw_ev) if usable else None,
            "is_metallic": result.is_metallic,
            "nspin": attempt.settings.nspin if attempt else None,
            "tot_magnetization": attempt.settings.tot_magnetization if attempt else None,
            "protocol": self.protocol.name,
            "protocol_hash": self.protocol.digest(self.family),
            "family": self.family.name,
            "engine": engines[-1] if engines else None,
            "wall_s": sum(record.wall_s for record in records),
            "attempts": [
                {
                    "number": number,
                    "strategy": tried.strategy,
                    "outcome": record.outcome,
                    "detail": record.detail,
                    "nspin": tried.settings.nspin,
                    "tot_magnetization": tried.settings.tot_magnetization,
                    "exit_code": record.exit_code,
                    "wall_s": record.wall_s,
                }
                for number, ((tried, _), record) in enumerate(zip(situation.history, records, strict=True), start=1)
            ],
        }


class _Stopped(Exception):
    """The shard is being stopped; a run that was cut off for that is not a result."""


def _would_not_help(attempt: Attempt, last: Record, limit_s: float) -> bool:
    """No time is left, or a run that was cut off would get no more time than it had."""
    return limit_s < 1 or (attempt.strategy == "more_time" and last.answers(limit_s))


def _cost(request: Mapping[str, Any]) -> float:
    """Roughly how long an SCF takes, to run the largest first: sites squared times volume."""
    return float(len(request["species"]) ** 2 * cell_of(request).volume)


@contextmanager
def _ended_by_signal(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT end the job in order: every pw.x is killed, the scratch folder is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # Only the main thread may set handlers.
        return
    previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """A folder in TMPDIR named by host and process; those that killed jobs on this host left behind are removed first."""
    prefix = f"xtalrl-scf-{socket.gethostname()}-"
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        pid = path.name.removeprefix(prefix).partition("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # Somebody else's.
    return True
