"""A shard of SCFs: as many single-core pw.x at a time as there are workers, each request ending in exactly one row."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.dft.cache import Cache, Record
from xtalrl.dft.claims import Claims, Taken
from xtalrl.dft.climb import AttemptLimits, climb, situation_of
from xtalrl.dft.engines import Engine, find_engine
from xtalrl.dft.exchange import finished_scfs
from xtalrl.dft.outcome_rows import count_outcomes, in_words, outcome_row
from xtalrl.dft.outcomes import Result
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.pseudopotentials import load_family
from xtalrl.dft.pw_job import JobEnd, OutOfTime, PwJob, Task
from xtalrl.dft.recovery import Attempt, Recovery
from xtalrl.dft.requests import cost_of
from xtalrl.dft.scratch import scratch_folder
from xtalrl.dft.unfinished import Unfinished
from xtalrl.errors import XtalrlError, shorten
from xtalrl.progress import Progress, format_seconds

logger = logging.getLogger(__name__)

BUDGET_MARGIN_S = 90.0
"""Seconds before the end of its wall time at which a job stops, or a tenth of the wall time if that is shorter. Starting Snakemake, ending every pw.x
and removing the scratch folder take less."""

WAIT_S = 2.0
"""Seconds between two looks whether other jobs have finished what this shard needs, too."""

_TOO_SHORT = "give `run_scf_shard` a `runtime` in the profile above the largest of `dft.time_limits`, or lower those, so that each SCF can end."

Row = dict[str, Any]
"""A row of SCF_REQUESTS or of SCF_OUTCOMES."""


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
    accept_not_saved: bool = False,
    runtime_min: float | None = None,
    finished: str | None = None,
) -> None:
    """Run the SCFs of one shard that the cache does not hold, and write one row of SCF_OUTCOMES per request.

    A failed SCF is a row. Finished SCFs are in the cache at once, so that a killed job continues where it was.

    Args:
        workers: number of pw.x processes at a time.
        time_limits_min: minutes that each attempt may take; the last number repeats. For `design`, all attempts together take no longer than the sum.
        accept_not_saved: take the printed values of a pw.x that converged and then failed to save.
        runtime_min: wall time of the job in minutes. The job stops before; finished SCFs and the states of long runs are kept.
        finished: SCFs of others that are taken before any is computed, as `exchange.finished_scfs` reads them.

    Raises:
        XtalrlError: pw.x or a pseudopotential is missing, the scratch disk is full, or the wall time is over.
    """
    end = JobEnd() if runtime_min is None else JobEnd.after(_budget_s(runtime_min))
    limits = {
        kind: AttemptLimits(tuple(60.0 * minutes for minutes in limits), in_all=kind == "design")
        for kind, limits in time_limits_min.items()
    }
    wanted = [row for row in tables.read_rows(requests, tables.SCF_REQUESTS) if row["shard"] == shard]
    given = finished_scfs(finished) if finished else ()
    settler = _Settler(family, protocol, recovery, limits, command, cache, given, accept_not_saved, end)
    with _ended_by_signal(end.stop), scratch_folder() as scratch, ThreadPoolExecutor(workers) as pool:
        ended = _Queue(shard, wanted, settler, pool, scratch, runtime_min).work_off()
    rows = [ended[_group(row)] | {"request_id": row["request_id"], "source": row["source"]} for row in wanted]
    tables.write_rows(rows, tables.SCF_OUTCOMES, outcomes)
    logger.info(
        "Shard %d: %d requests, %d runs of pw.x, the rest from the cache%s. %s",
        shard,
        len(rows),
        settler.runs,
        " or computed elsewhere" if finished else "",
        count_outcomes(rows),
    )


def _budget_s(runtime_min: float) -> float:
    """Seconds after which a job of this wall time stops."""
    return max(54.0 * runtime_min, 60.0 * runtime_min - BUDGET_MARGIN_S)


def _group(row: Row) -> tuple[str, str]:
    """The key by which requests are settled together."""
    return row["key"], row["kind"]


class _Queue:
    """The requests of a shard on their way through the workers; only the main thread touches it."""

    def __init__(
        self,
        shard: int,
        wanted: Sequence[Row],
        settler: _Settler,
        pool: ThreadPoolExecutor,
        scratch: Path,
        runtime_min: float | None,
    ) -> None:
        self.shard, self.settler, self.pool, self.scratch, self.runtime_min = shard, settler, pool, scratch, runtime_min
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in wanted:
            groups[_group(row)].append(row)
        self.cost = {group: cost_of(Cell.from_row(rows[0]), settler.family) for group, rows in groups.items()}
        self.todo = [groups[group][0] for group in sorted(groups, key=self.cost.__getitem__, reverse=True)]
        self.ended: dict[tuple[str, str], Row] = {}
        self.states_kept = 0
        """Number of runs that the end of the job cut off and whose state was saved."""
        self.pending: dict[Future[tuple[Row, bool]], Row] = {}
        self.taken: dict[str, str] = {}
        """Requests that another run is computing, and who that is."""
        self.waiting: list[Row] = []
        """The same requests, until they are tried again."""
        self.look_at = 0.0
        """Time of the next try on the monotonic clock."""
        self.progress = Progress(f"Shard {shard}", len(self.todo), "SCFs", every_s=2.0, work=sum(self.cost.values()))

    def work_off(self) -> dict[tuple[str, str], Row]:
        """The outcome of every group of requests, as a row of SCF_OUTCOMES without request_id and source.

        Raises:
            XtalrlError: the job's wall time is nearly over, or an SCF shows that none can succeed here.
        """
        try:
            self._submit(self.todo)
            while self.pending or self.waiting:
                self._try_again_what_others_compute()
                finished, _ = wait(self.pending, timeout=0.5, return_when=FIRST_COMPLETED)
                self.settler.claims.beat()
                for future in finished:
                    self._take(future)
                self.progress.beat(self._note())
                if self._is_out_of_time():
                    raise XtalrlError(self._why_it_stops())
        except BaseException as error:
            self.settler.end.stop.set()
            self.pool.shutdown(cancel_futures=True)
            if isinstance(error, SystemExit):
                logger.info(
                    "Shard %d was told to stop: %d of %d SCFs are done and kept; run the same command again to continue from there.",
                    self.shard,
                    len(self.ended),
                    len(self.todo),
                )
            raise
        return self.ended

    def _submit(self, rows: Iterable[Row]) -> None:
        self.pending |= {self.pool.submit(self.settler.settle, row, self.scratch): row for row in rows}

    def _try_again_what_others_compute(self) -> None:
        if self.waiting and time.monotonic() > self.look_at:
            self._submit(self.waiting)
            self.waiting, self.look_at = [], time.monotonic() + WAIT_S
        if not self.pending:
            time.sleep(0.1)

    def _take(self, future: Future[tuple[Row, bool]]) -> None:
        """Note what has become of a request."""
        row = self.pending.pop(future)
        try:
            outcome, ran = future.result()
        except Taken as owner:
            self.waiting.append(row)
            self.taken[row["request_id"]] = str(owner)
        except OutOfTime as cut_off:
            self.states_kept += cut_off.state_is_kept
        else:
            self.ended[_group(row)] = outcome
            self.taken.pop(row["request_id"], None)
            self.progress.advance(note=self._note(), at_once=not ran, work=self.cost[_group(row)])

    def _is_out_of_time(self) -> bool:
        if self.pending or self.waiting:
            return self.settler.end.left_s < 0
        return len(self.ended) < len(self.todo)

    def _why_it_stops(self) -> str:
        nothing_ended = not (self.settler.runs or self.states_kept or self.taken)
        return (
            f"Shard {self.shard}: the job's wall time of {self.runtime_min:g} min is nearly over. {len(self.ended)} of {len(self.todo)} "
            "SCFs are done and kept"
            + (f", and the states of {self.states_kept} more are saved" if self.states_kept else "")
            + "; the same command continues from there, and Snakemake's next attempt gets more time."
            + (f" No SCF ended in this job: {_TOO_SHORT}" if nothing_ended else "")
        )

    def _note(self) -> str:
        """How the SCFs so far have ended, and what the workers are doing."""
        running = self.settler.describe_running()
        left = ""
        if self.taken:
            owners = ", ".join(sorted(set(self.taken.values()))[:3])
            left = f"{len(self.taken)} left to {owners}" + ("" if running else ", waiting for them")
        ended = in_words(Counter(row["outcome"] for row in self.ended.values()))
        return ", ".join(filter(None, (ended, running, left)))


class _Settler:
    """Settles requests, for all workers of a shard: from the cache, or by running pw.x unless another job does."""

    def __init__(
        self,
        family: str,
        protocol: str,
        recovery: Recovery,
        limits: Mapping[str, AttemptLimits],
        command: str | None,
        cache: str,
        given: Sequence[Record],
        accept_not_saved: bool,
        end: JobEnd,
    ) -> None:
        self.family, self.family_folder = load_family(family)
        self.protocol = load_protocol(protocol)
        self.recovery, self.limits, self.accept_not_saved = recovery, limits, accept_not_saved
        self.command, self.cache_folder = command, cache
        self.cache, self.claims, self.unfinished = Cache(cache, given), Claims(cache), Unfinished(cache)
        self.claims.bury_dead()
        self.end = end
        self.runs = 0
        """Number of runs of pw.x that have ended."""
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._running: dict[str, tuple[float, str]] = {}
        """Start on the monotonic clock and strategy of what runs, by request."""
        if missing := [p.file for p in self.family.elements.values() if not (self.family_folder / p.file).is_file()]:
            raise XtalrlError(
                f"{self.family_folder} lacks {shorten(sorted(missing))}: "
                f"delete {family} and run the same command again."
            )

    def settle(self, request: Row, scratch: Path) -> tuple[Row, bool]:
        """The outcome of one request, as a row of SCF_OUTCOMES without request_id and source, and whether pw.x had to run.

        Raises:
            Taken: another job is computing an attempt.
            OutOfTime: the job ends first.
            XtalrlError: no SCF can succeed here.
        """
        situation = situation_of(request, self.protocol, self.family, self.recovery)
        folder = scratch / request["key"][:16]
        ran = False

        def compute(attempt: Attempt, limit_s: float) -> tuple[Record, Result]:
            nonlocal ran
            task = Task(request["request_id"], situation.cell, attempt, self.family, limit_s)
            if record := self._find(task):
                return record, record.result
            with self.claims.held(task.key):
                self.cache.refresh()  # Whoever held the claim before us has left its record.
                if record := self._find(task):
                    return record, record.result
                ran = True
                return self._run(task, folder)

        try:
            return outcome_row(
                request, climb(situation, self.limits[request["kind"]], compute, self.accept_not_saved)
            ), ran
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def describe_running(self) -> str:
        """What the workers are doing; empty if they do nothing."""
        now = time.monotonic()
        running = ", ".join(
            f"{name} ({strategy}, {format_seconds(now - start)})"
            for name, (start, strategy) in sorted(self._running.copy().items())
        )
        return f"running {running}" if running else ""

    def _find(self, task: Task) -> Record | None:
        return self.cache.find(task.key, task.limit_s, self.accept_not_saved)

    def _run(self, task: Task, folder: Path) -> tuple[Record, Result]:
        """Run pw.x and keep the result."""
        if self.end.stop.is_set():  # A worker that was free before the others were told to end.
            raise OutOfTime
        engine = self._find_engine()
        job = PwJob(task, folder, engine, self.family_folder, self.unfinished, self.end)
        self._running[task.request_id] = time.monotonic(), task.attempt.strategy
        try:
            ended = job.run()
        finally:
            del self._running[task.request_id]
        record = Record.of(
            task.key, ended.run, ended.result, task.limit_s, engine.label,
            self.protocol.name, self.family.name, task.content, ended.restarted,
        )  # fmt: skip
        with self._lock:
            self.runs += 1
            self.cache.add(record)
        self.unfinished.drop(task.key)
        job.report(ended)
        job.stop_where_broken(ended.result, self.accept_not_saved)
        return record, ended.result

    def _find_engine(self) -> Engine:
        """The pw.x of this machine; looked for only when something has to be run."""
        with self._lock:
            if self._engine is None:
                self._engine = find_engine(self.command, self.cache_folder)
                logger.info("Using %s", self._engine.label)
            return self._engine


@contextmanager
def _ended_by_signal(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the job cleanly: every pw.x is killed, and the scratch folder is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        if not stop.is_set():  # A second signal must not disturb the end.
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
