"""A shard of SCFs: as many single-core pw.x at a time as there are workers, each request ending in exactly one row."""

from __future__ import annotations

import logging
import math
import shutil
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa

from xtalrl import tables
from xtalrl.dft.cache import Cache, Record
from xtalrl.dft.claims import Claims, Taken
from xtalrl.dft.engines import Engine, find_engine
from xtalrl.dft.inputs import calculation, key_of, render
from xtalrl.dft.levels import clip_gap
from xtalrl.dft.outcomes import Category, Outcome, Result, classify, taken
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.pseudopotentials import Pseudopotential, load_family, md5_of
from xtalrl.dft.recovery import Attempt, Recovery, Situation, final_result, first_attempt, lower_state, next_attempt
from xtalrl.dft.requests import cell_of, cost_of, form_of
from xtalrl.dft.scratch import scratch_folder
from xtalrl.dft.unfinished import State, Unfinished
from xtalrl.energies import RYDBERG_EV_PAPER
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress, format_seconds

logger = logging.getLogger(__name__)

SAVE_MARGIN_S = 30.0
"""How long before its time limit pw.x is told to save its state and stop; a run of less than four times this is not worth it."""
KEEP_MARGIN_S = 30.0
"""How long before a job stops the last pw.x must have saved its state, so that it can be copied into the cache."""
BUDGET_MARGIN_S = 90.0
"""How long before the end of its wall time a job stops: a start of Snakemake, the end of every pw.x and the scratch folder's take less.
A tenth of the wall time where that is shorter."""

WAIT_S = 2.0
"""How often a shard looks whether others have finished what it needs too."""

_LOGGED = 4000
"""Characters of the stderr of a run that the machine ended which the log of the job keeps; a detail has less."""

FULL_BYTES = 10e6
"""A disk with less than this left is full: pw.x writes until nothing fits any more."""
_TOO_SHORT = "give `run_scf_shard` a `runtime` in the profile above the largest of `dft.time_limits`, or lower those, so that each SCF can end."

_ONE_PROCESS = (
    "Change `dft.command`: an SCF takes one process (`srun --overlap -n 1 pw.x`, `mpirun -n 1 pw.x` or `pw.x`, without -nk, -nb, -nt and -nd); "
    "as many SCFs as the job has cores run side by side"
)
_SEES_THE_FOLDER = "See that `dft.command` starts pw.x in the folder where it is called (a container: bind TMPDIR) and hands on `-in pw.in` or its standard input"
_OTHER_DISK = "Make room there, or set TMPDIR to a folder on another disk"
# The installation is broken: every further run would end in the same way, so the job stops instead of filling rows. What to do about it.
_FATAL = {
    Outcome.ENGINE_FAILED: "Change `dft.command` so that it starts pw.x (in a job of SLURM `srun --overlap -n 1 pw.x`; `xtalrl doctor` tries it)",
    Outcome.MPI_FAILED: _ONE_PROCESS,
    Outcome.PSEUDOPOTENTIAL_NOT_FOUND: _SEES_THE_FOLDER,
    Outcome.PSEUDOPOTENTIAL_UNREADABLE: "Take another pw.x in `dft.command`, or another `dft.family`",
    Outcome.INPUT_NOT_FOUND: _SEES_THE_FOLDER,
    Outcome.SCRATCH_UNUSABLE: _OTHER_DISK,
    Outcome.DISK_FULL: _OTHER_DISK,
}
_NOTHING_READ = "could not find namelist &control"
"""What pw.x says when the command has lost our input, which begins with that namelist."""
_NOT_FROM_A_STATE = frozenset((Outcome.TIME_LIMIT, Outcome.NOT_CONVERGED))
"""Failures that a saved state cannot bring about. All others can: pw.x with a torn one fails to read it, in words that are also those of
other failures (measured: `davcio`, `read_rhog`), so that they count only in a run from the start."""


_OF_A_REQUEST = ("kind", "key", "species", "source")
"""What a row of outcomes says as its request does."""
_OUTCOMES = frozenset(map(str, Outcome))


@dataclass(frozen=True)
class TimeLimits:
    """Seconds an attempt may take."""

    limits_s: tuple[float, ...]
    """One number an attempt; the last repeats."""
    in_all: bool
    """All attempts together may take no longer than the numbers together."""

    def of(self, walls_s: Sequence[float]) -> float:
        """The limit of the attempt after these."""
        limit = self.limits_s[min(len(walls_s), len(self.limits_s) - 1)]
        return min(limit, sum(self.limits_s) - sum(walls_s)) if self.in_all else limit


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
) -> None:
    """Run the SCFs of one shard that the cache does not hold, and write one row of SCF_OUTCOMES a request.

    A failed SCF is a row. What has finished is in the cache at once, so that a killed job goes on where it was.

    Args:
        workers: pw.x processes at a time.
        time_limits_min: minutes an attempt may take, the last number repeats; for `design` all attempts together take no longer than the numbers together.
        accept_not_saved: take what was printed by a pw.x that converged and then failed to save.
        runtime_min: wall time of the job in minutes; it stops in order before. What has finished is kept, and the state of what has run long.

    Raises:
        XtalrlError: pw.x or a pseudopotential is missing, the scratch disk is full, or the wall time is over.
    """
    end = math.inf if runtime_min is None else time.monotonic() + _budget_s(runtime_min)
    wanted = [row for row in tables.read_rows(requests, tables.SCF_REQUESTS) if row["shard"] == shard]
    runner = _Runner(family, protocol, recovery, time_limits_min, command, cache, accept_not_saved, end)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in wanted:
        groups[row["key"], row["kind"]].append(row)
    cost = {key: cost_of(cell_of(rows[0]), runner.family) for key, rows in groups.items()}
    todo = [groups[key][0] for key in sorted(groups, key=cost.__getitem__, reverse=True)]
    ended: dict[tuple[str, str], dict[str, Any]] = {}
    with _ended_by_signal(runner.stop), scratch_folder() as scratch, ThreadPoolExecutor(workers) as pool:
        progress = Progress(f"Shard {shard}", len(todo), "SCFs", every_s=2.0, work=sum(cost.values()))
        pending = {pool.submit(runner.settle, row, scratch): row for row in todo}
        waiting: list[dict[str, Any]] = []
        """Those that other runs are computing."""
        look_at = 0.0
        try:
            while pending or waiting:
                if waiting and time.monotonic() > look_at:
                    pending |= {pool.submit(runner.settle, row, scratch): row for row in waiting}
                    waiting, look_at = [], time.monotonic() + WAIT_S
                if not pending:
                    time.sleep(0.1)
                finished, _ = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                runner.claims.beat()
                for future in finished:
                    row = pending.pop(future)
                    try:
                        ended[row["key"], row["kind"]], ran = future.result()
                    except Taken as owner:
                        waiting.append(row)
                        runner.taken[row["request_id"]] = str(owner)
                        continue
                    except _OutOfTime:
                        continue
                    runner.taken.pop(row["request_id"], None)
                    progress.advance(
                        note=runner.note(ended.values()), at_once=not ran, work=cost[row["key"], row["kind"]]
                    )
                progress.beat(runner.note(ended.values()))
                out_of_time = time.monotonic() > end if pending or waiting else len(ended) < len(todo)
                if out_of_time:
                    raise XtalrlError(
                        f"Shard {shard}: the job's wall time of {runtime_min:g} min is nearly over. {len(ended)} of {len(todo)} "
                        "SCFs are done and kept"
                        + (f", and what {runner.kept} more had reached" if runner.kept else "")
                        + "; the same command goes on from there, and Snakemake's next attempt gets more time."
                        + (
                            ""
                            if runner.runs or runner.kept or runner.taken
                            else f" Not one ended in this job: {_TOO_SHORT}"
                        )
                    )
        except BaseException as error:
            runner.stop.set()
            pool.shutdown(cancel_futures=True)
            if isinstance(error, SystemExit):
                logger.info(
                    "Shard %d was told to stop: %d of %d SCFs are done and kept; run the same command again to go on from there.",
                    shard,
                    len(ended),
                    len(todo),
                )
            raise
    rows = [
        ended[row["key"], row["kind"]] | {"request_id": row["request_id"], "source": row["source"]} for row in wanted
    ]
    tables.write_rows(rows, tables.SCF_OUTCOMES, outcomes)
    logger.info(
        "Shard %d: %d requests, %d runs of pw.x, the rest from the cache. %s",
        shard,
        len(rows),
        runner.runs,
        count_outcomes(rows),
    )


def gather_outcomes(shards: Sequence[str], outcomes: str, requests: str | None = None) -> None:
    """Put the rows of all shards into one table, in the order of their request_id, and log how they ended.

    Args:
        shards: `SCF_OUTCOMES` of each shard.
        outcomes: `SCF_OUTCOMES` of all.
        requests: `SCF_REQUESTS` that the shards are of; None where they are not at hand.

    Raises:
        XtalrlError: a file cannot be used, or the shards do not hold each request once, by one protocol.
    """
    parts = {path: tables.read(path, tables.SCF_OUTCOMES) for path in shards}
    _check_shards({path: part.to_pylist() for path, part in parts.items()}, requests)
    table = pa.concat_tables(list(parts.values())).sort_by("request_id")
    tables.write(table, tables.SCF_OUTCOMES, outcomes)
    rows = table.select(["outcome", "strategy", "recovered"]).to_pylist()
    logger.info("%s", count_outcomes(rows))
    if open_ended := Counter(row["outcome"] for row in rows if not Outcome(row["outcome"]).is_kept):
        logger.warning(
            "%s: no verdict on the crystals, and not kept. `xtalrl rerun %s` and the same command try these again.",
            _in_words(open_ended),
            " ".join(f"--outcome {name}" for name in sorted(open_ended)),
        )


def _check_shards(rows_of: Mapping[str, Sequence[Mapping[str, Any]]], requests: str | None) -> None:
    """Raise unless the shards together hold one row a request, of one protocol, and name outcomes that there are."""
    found: dict[str, Mapping[str, Any]] = {}
    origins: dict[tuple[str, ...], str] = {}
    for path, rows in rows_of.items():
        again = f"delete it and run `snakemake {path}` again; what the cache holds is not computed again."
        for row in rows:
            request_id = row["request_id"]
            if row["outcome"] not in _OUTCOMES:
                raise XtalrlError(f"{path}: {request_id} has the unknown outcome {row['outcome']!r}: {again}")
            if request_id in found:
                raise XtalrlError(f"{path}: {request_id} is also in another shard: {again}")
            found[request_id] = row
            origins.setdefault(tuple(row[name] for name in ("protocol", "protocol_hash", "family")), path)
    if len(origins) > 1:
        named = "; ".join(f"{path}: {' '.join(map(str, origin))}" for origin, path in origins.items())
        raise XtalrlError(
            f"The shards are of different protocols ({named}): delete those of the other one and run `snakemake` on them again."
        )
    if requests is None:
        return
    wanted = {row["request_id"]: row for row in tables.read_rows(requests, tables.SCF_REQUESTS)}
    wrong = sorted(wanted.keys() ^ found.keys())
    wrong += [
        name for name in wanted if name in found and any(wanted[name][c] != found[name][c] for c in _OF_A_REQUEST)
    ]
    if wrong:
        folders = ", ".join(sorted({str(Path(path).parent) for path in rows_of}))
        raise XtalrlError(
            f"The shards in {folders} are not those of {requests}: {len(wrong)} of {len(wanted)} requests are missing there, of another "
            f"calculation, or not asked for ({', '.join(wrong[:5])}{', ...' if len(wrong) > 5 else ''}). Delete the shards and run the same "
            "command again; what the cache holds is not computed again."
        )


def count_outcomes(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line: how many rows of SCF_OUTCOMES ended in which outcome, and which rung gave the usable ones; the most frequent first."""
    counts = Counter(row["outcome"] for row in rows)
    usable = sum(n for name, n in counts.items() if Outcome(name).usable)
    strategies = Counter(row["strategy"] for row in rows if row["strategy"] is not None)
    recovered = sum(bool(row["recovered"]) for row in rows)
    return (
        f"{usable:,} of {len(rows):,} usable: {_in_words(counts) or 'nothing to do'}"
        + (f"; given by: {_in_words(strategies)}" if strategies else "")
        + (f"; {recovered:,} thanks to the extended recovery" if recovered else "")
    )


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in counts.most_common())


def _budget_s(runtime_min: float) -> float:
    """Seconds after which a job of this wall time stops."""
    return max(54.0 * runtime_min, 60.0 * runtime_min - BUDGET_MARGIN_S)


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
        accept_not_saved: bool,
        end: float,
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
        self.claims = Claims(cache)
        self.taken: dict[str, str] = {}
        """Requests that wait for another run, and who that is."""
        self.unfinished = Unfinished(cache)
        self.accept_not_saved = accept_not_saved
        self.end = end
        """When the job stops, on the monotonic clock."""
        self.stop = threading.Event()
        self.runs = 0
        self.kept = 0
        """Runs cut off by the end of the job whose state was saved."""
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

    def note(self, ended: Iterable[Mapping[str, Any]]) -> str:
        """How the SCFs so far have ended, and what the workers are at."""
        parts = (
            _in_words(Counter(row["outcome"] for row in ended)),
            self._describe_running(),
            self._describe_waiting(),
        )
        return ", ".join(filter(None, parts))

    def _describe_waiting(self) -> str:
        if not self.taken:
            return ""
        owners = ", ".join(sorted(set(self.taken.values()))[:3])
        return f"{len(self.taken)} left to {owners}" + ("" if self._running else ", waiting for them")

    def _describe_running(self) -> str:
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

    def settle(self, request: Mapping[str, Any], scratch: Path) -> tuple[dict[str, Any], bool]:
        """Climb the ladder for one request; one row of SCF_OUTCOMES but for its request_id, and whether pw.x had to run."""
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
        ran = False
        folder = scratch / request["key"][:16]
        try:
            following: Attempt | Outcome | None = first_attempt(situation)
            while isinstance(following, Attempt):
                limit = limits.of([record.wall_s for record in records])
                if records and self._would_not_help(following, records[-1], limit):
                    break
                content = calculation(cell, following.settings.physics(), self.family)
                record = self.cache.find(key_of(content), limit, self.accept_not_saved)
                if record is None:
                    record, now = self._run_unless_others_do(request, following, content, limit, folder)
                    ran |= now
                records.append(record)
                situation.history.append((following, taken(record.result, self.accept_not_saved)))
                following = next_attempt(situation)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return self._row(request, situation, records, following if isinstance(following, Outcome) else None), ran

    def _run_unless_others_do(
        self,
        request: Mapping[str, Any],
        attempt: Attempt,
        content: dict[str, Any],
        limit_s: float,
        folder: Path,
    ) -> tuple[Record, bool]:
        """The record of an attempt that was not in the cache, and whether pw.x made it now."""
        key = key_of(content)
        with self.claims.held(key):
            self.cache.refresh()  # Whoever held the claim before us has left its record.
            record = self.cache.find(key, limit_s, self.accept_not_saved)
            return (record, False) if record else (self._run(request, attempt, content, limit_s, folder), True)

    def _run(
        self,
        request: Mapping[str, Any],
        attempt: Attempt,
        content: dict[str, Any],
        limit_s: float,
        folder: Path,
    ) -> Record:
        """The record of an attempt that pw.x makes now."""
        if self.stop.is_set():  # A worker that was free before the others were told to end.
            raise _OutOfTime
        cell, key = cell_of(request), key_of(content)
        engine = self.engine()
        here = folder / key[:16]
        out = here / "out"
        job_s = self.end - time.monotonic() - KEEP_MARGIN_S
        state: State | None
        if attempt.strategy == "more_time" and out.is_dir():
            state = State(0.0, str(engine))
            if not _can_be_saved(job_s):
                raise self._cut_off(request, key, out, state)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            here.mkdir(parents=True)
            for element in sorted(set(cell.species)):
                pseudo = self.family.elements[element]
                (here / pseudo.file).write_bytes(self._pseudopotential(pseudo))
            if (state := self.unfinished.restore(key, out, str(engine))) is not None:
                logger.info(
                    "%s, %s: going on from the state that an earlier job saved", request["request_id"], attempt.strategy
                )
        # Where the limits were lowered meanwhile they count anew: without time, a state would never lead to an end.
        spent_s = state.spent_s if state is not None and _can_be_saved(limit_s - state.spent_s) else 0.0
        left_s = limit_s - spent_s
        stop_s = min(left_s, job_s)
        max_seconds = int(stop_s - SAVE_MARGIN_S) if _can_be_saved(stop_s) else None
        text = render(cell, attempt.settings, self.family, max_seconds, restart=state is not None)
        self._running[request["request_id"]] = (time.monotonic(), attempt.strategy)
        try:
            run = engine.run(text, here, left_s, self.stop)
        finally:
            del self._running[request["request_id"]]
        result = classify(run)
        run = replace(run, wall_s=spent_s + run.wall_s)
        if result.outcome is Outcome.TIME_LIMIT and stop_s < left_s and _can_be_saved(limit_s - run.wall_s):
            raise self._cut_off(request, key, out, State(run.wall_s, str(engine)))
        if self.stop.is_set() and result.outcome is not Outcome.CONVERGED:
            raise _OutOfTime
        if state is not None and not (result.outcome.usable or result.outcome in _NOT_FROM_A_STATE):
            logger.info(
                "%s, %s: %s when it went on from a saved state (%s): begun anew",
                request["request_id"], attempt.strategy, result.outcome, result.detail,
            )  # fmt: skip
            self.unfinished.drop(key)
            shutil.rmtree(folder)
            return self._run(request, attempt, content, limit_s, folder)
        record = Record.of(
            key, run, result, limit_s, engine.label, self.protocol.name, self.family.name, content, state is not None
        )
        with self._lock:
            self.runs += 1
            self.cache.add(record)
        self.unfinished.drop(key)
        if result.outcome.category is Category.ENVIRONMENT and len(run.stderr) > len(result.detail):
            logger.info(
                "%s: what was written to stderr ends in\n%s", request["request_id"], run.stderr[-_LOGGED:].rstrip()
            )
        cause = result.outcome
        if self._met_a_full_disk(result, here):
            cause = Outcome.DISK_FULL
        elif result.outcome is Outcome.INVALID_INPUT and _NOTHING_READ in result.detail:
            cause = Outcome.INPUT_NOT_FOUND
        if cause in _FATAL:
            raise XtalrlError(
                f"{request['request_id']}: {cause.sentence} ({result.detail}) The shard stops, because every further SCF "
                f"would end in the same way; what has finished is kept. {_FATAL[cause]}, and run the same command again "
                f"(pw.x: {' '.join(engine.command)}; scratch: {folder.parent})."
            )
        logger.info(
            "%s, %s: %s after %s%s%s", request["request_id"], attempt.strategy, result.outcome, format_seconds(run.wall_s),
            " in all, gone on from a saved state" if state is not None else "", f" ({result.detail})" if result.detail else "",
        )  # fmt: skip
        return record

    def _cut_off(self, request: Mapping[str, Any], key: str, out: Path, state: State) -> _OutOfTime:
        """Save the state of a run that the end of the job cuts off."""
        if self.unfinished.keep(key, out, state):
            with self._lock:
                self.kept += 1
            logger.info(
                "%s: cut off by the end of the job; its state is saved, and the next job goes on", request["request_id"]
            )
        return _OutOfTime()

    def _met_a_full_disk(self, result: Result, folder: Path) -> bool:
        """Whether a result that is not taken was not saved because nothing more fits on the scratch disk."""
        unsaved = taken(result, self.accept_not_saved).outcome is Outcome.NOT_SAVED
        return unsaved and shutil.disk_usage(folder).free < FULL_BYTES

    def _pseudopotential(self, pseudo: Pseudopotential) -> bytes:
        """A file of the family, which must be the one that the key of the calculation names."""
        path = self.family_folder / pseudo.file
        content = path.read_bytes()
        if (md5 := md5_of(content)) != pseudo.md5:
            raise XtalrlError(
                f"{path} was changed (md5 {md5}, must be {pseudo.md5}): delete {self.family_folder}, and the same command gets it anew."
            )
        return content

    def _would_not_help(self, attempt: Attempt, last: Record, limit_s: float) -> bool:
        """No time is left, or a run that was cut off would get no more time than it had."""
        return limit_s < 1 or (attempt.strategy == "more_time" and last.answers(limit_s, self.accept_not_saved))

    def _row(
        self, request: Mapping[str, Any], situation: Situation, records: list[Record], verdict: Outcome | None
    ) -> dict[str, Any]:
        attempt: Attempt | None = None
        mark = ""
        if verdict is not None:
            lacking = self.family.missing(situation.cell.species)
            result = Result(verdict, f"{self.family.name} lacks {', '.join(lacking)}" if lacking else verdict.sentence)
        else:
            attempt, result = final_result(situation)
            mark = lower_state(situation) if result.outcome.usable else ""
        usable = result.outcome.usable
        engines = [record.engine for record in records]
        return {
            "kind": request["kind"],
            "key": request["key"],
            "species": request["species"],
            "outcome": str(result.outcome),
            "detail": "; ".join(filter(None, (result.detail or ("" if usable else result.outcome.sentence), mark))),
            "total_energy_ry": result.total_energy_ry if usable else None,
            "total_energy": result.total_energy_ry * RYDBERG_EV_PAPER
            if usable and result.total_energy_ry is not None
            else None,
            "band_gap_raw": result.band_gap_raw_ev if usable else None,
            "band_gap": _credited_gap(situation, result) if usable else None,
            "is_metallic": result.is_metallic,
            "nspin": attempt.settings.nspin if attempt else None,
            "tot_magnetization": attempt.settings.tot_magnetization if attempt else None,
            "strategy": attempt.strategy if attempt and usable else None,
            "recovered": not _paper_has_it(situation) if usable else None,
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
                    "restarted": record.restarted,
                    "key": record.key,
                }
                for number, ((tried, _), record) in enumerate(zip(situation.history, records, strict=True), start=1)
            ],
        }


def _credited_gap(situation: Situation, result: Result) -> float | None:
    """A smeared crystal without a gap is a metal; that an elemental reference was smeared says nothing about its gap."""
    if result.smearing and result.band_gap_raw_ev is None and situation.form == "crystal":
        return 0.0
    return clip_gap(result.band_gap_raw_ev)


class _OutOfTime(Exception):
    """The job ends or is being stopped; a run that was cut off for that is not a result."""


def _can_be_saved(seconds: float) -> bool:
    """Whether pw.x can be told to save its state in a run of this length, and it is worth it."""
    return seconds > 4 * SAVE_MARGIN_S


def _paper_has_it(situation: Situation) -> bool:
    """Whether `recovery: paper` would have ended this ladder with a usable result: its own ladder, climbed on the same results."""
    paper = replace(situation, recovery="paper", history=[])
    following: Attempt | Outcome | None = first_attempt(paper)
    for attempt, result in situation.history:
        if attempt != following:
            break
        paper.history.append((attempt, result))
        following = next_attempt(paper)
    return bool(paper.history) and final_result(paper)[1].outcome.usable


@contextmanager
def _ended_by_signal(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT end the job in order: every pw.x is killed, the scratch folder is removed."""

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
