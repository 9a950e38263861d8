"""One run of pw.x in its scratch folder: the state that it continues from, its time limit, and the signs of a broken installation."""

from __future__ import annotations

import logging
import math
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from xtalrl.cells import Cell
from xtalrl.dft.engines import Engine
from xtalrl.dft.inputs import calculation, key_of, render
from xtalrl.dft.outcomes import Category, Outcome, Result, Run, classify, taken
from xtalrl.dft.pseudopotentials import Family, Pseudopotential, md5_of
from xtalrl.dft.recovery import Attempt
from xtalrl.dft.unfinished import SavedState, Unfinished
from xtalrl.errors import XtalrlError
from xtalrl.progress import format_seconds

logger = logging.getLogger(__name__)

SAVE_MARGIN_S = 30.0
"""Seconds before its time limit at which pw.x saves its state and stops; for runs shorter than four times this, saving is not worth it."""
KEEP_MARGIN_S = 30.0
"""Seconds before the end of a job by which the last pw.x must have saved its state, so that it can be copied into the cache."""
FULL_BYTES = 10e6
"""Free bytes below which a disk counts as full: pw.x writes until nothing fits any more."""

_LOGGED = 4000
"""Number of characters of stderr that the log of the job keeps of a run that the machine ended; a detail has fewer."""

_ONE_PROCESS = (
    "Change `dft.command`: an SCF takes one process (`srun --overlap -n 1 pw.x`, `mpirun -n 1 pw.x` or `pw.x`, without -nk, -nb, -nt and -nd); "
    "as many SCFs as the job has cores run side by side"
)
_SEES_THE_FOLDER = (
    "Make sure that `dft.command` starts pw.x in the folder from which it is called (in a container: bind TMPDIR) "
    "and passes on `-in pw.in` or its standard input"
)
_OTHER_DISK = "Make room there, or set TMPDIR to a folder on another disk"
_FATAL: Mapping[Outcome, str] = {
    Outcome.ENGINE_FAILED: "Change `dft.command` so that it starts pw.x (in a job of SLURM `srun --overlap -n 1 pw.x`; `xtalrl doctor` tries it)",
    Outcome.MPI_FAILED: _ONE_PROCESS,
    Outcome.PSEUDOPOTENTIAL_NOT_FOUND: _SEES_THE_FOLDER,
    Outcome.PSEUDOPOTENTIAL_UNREADABLE: "Take another pw.x in `dft.command`, or another `dft.family`",
    Outcome.INPUT_NOT_FOUND: _SEES_THE_FOLDER,
    Outcome.SCRATCH_UNUSABLE: _OTHER_DISK,
    Outcome.DISK_FULL: _OTHER_DISK,
}
"""Outcomes of a broken installation and what to do about it: every further run would end in the same way, so the job stops."""
_NOTHING_READ = "could not find namelist &control"
"""Message of pw.x if the command lost our input, which begins with this namelist."""
_NOT_FROM_A_STATE = frozenset((Outcome.TIME_LIMIT, Outcome.NOT_CONVERGED))
"""Failures that a saved state cannot cause. All others may be caused by a torn state, which pw.x fails to read with the words of other
failures (measured: `davcio`, `read_rhog`); they count only in a run from the start."""


class OutOfTime(Exception):
    """The job ends or is being stopped; a run that is cut off for this reason is not a result."""

    def __init__(self, state_is_kept: bool = False) -> None:
        super().__init__()
        self.state_is_kept = state_is_kept


@dataclass(frozen=True)
class JobEnd:
    """When and how the job that runs pw.x ends."""

    at: float = math.inf
    """Time of the end on the monotonic clock."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set if everything has to end at once."""

    @classmethod
    def after(cls, seconds: float) -> JobEnd:
        """The end of a job that has begun now."""
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds until then."""
        return self.at - time.monotonic()


@dataclass(frozen=True)
class Task:
    """One attempt at one request."""

    request_id: str
    cell: Cell
    attempt: Attempt
    family: Family
    limit_s: float

    @cached_property
    def content(self) -> dict[str, Any]:
        """The calculation as plain data."""
        return calculation(self.cell, self.attempt.settings.physics(), self.family)

    @cached_property
    def key(self) -> str:
        """The calculation's key in the cache."""
        return key_of(self.content)

    def __str__(self) -> str:
        """Name in the log of a job."""
        return f"{self.request_id}, {self.attempt.strategy}"


@dataclass(frozen=True)
class Ended:
    """How a run of pw.x has ended."""

    run: Run
    """The run; its wall time includes that of the runs that it continued."""
    result: Result
    restarted: bool
    """Whether it continued from a saved state."""


class PwJob:
    """One task in its folder below the folder of its request."""

    def __init__(
        self, task: Task, folder: Path, engine: Engine, family_folder: Path, unfinished: Unfinished, end: JobEnd
    ) -> None:
        self.task, self.engine, self.end = task, engine, end
        self.family_folder, self.unfinished = family_folder, unfinished
        self.request_folder = folder
        self.here = folder / task.key[:16]
        self.out = self.here / "out"

    def run(self) -> Ended:
        """Run pw.x, from a saved state if there is a usable one.

        Raises:
            OutOfTime: the job ends before the run does.
            XtalrlError: a pseudopotential was changed.
        """
        state = self._continue() or self._begin()
        ended = self._run_from(state)
        outcome = ended.result.outcome
        if state is None or outcome.usable or outcome in _NOT_FROM_A_STATE:
            return ended
        logger.info(
            "%s: %s when it continued from a saved state (%s): started again from the beginning", self.task, outcome, ended.result.detail
        )  # fmt: skip
        self.unfinished.drop(self.task.key)
        return self._run_from(self._begin())

    def report(self, ended: Ended) -> None:
        """Log how the run has ended."""
        task, result = self.task, ended.result
        if result.outcome.category is Category.ENVIRONMENT and len(ended.run.stderr) > len(result.detail):
            logger.info(
                "%s: what was written to stderr ends in\n%s", task.request_id, ended.run.stderr[-_LOGGED:].rstrip()
            )
        logger.info(
            "%s: %s after %s%s%s", task, result.outcome, format_seconds(ended.run.wall_s),
            " in all, continued from a saved state" if ended.restarted else "", f" ({result.detail})" if result.detail else "",
        )  # fmt: skip

    def stop_where_broken(self, result: Result, accept_not_saved: bool) -> None:
        """Raise XtalrlError if a result shows that no SCF can succeed here."""
        cause = self._cause(result, accept_not_saved)
        if cause in _FATAL:
            raise XtalrlError(
                f"{self.task.request_id}: {cause.sentence} ({result.detail}) The shard stops, because every further SCF "
                f"would end in the same way; what has finished is kept. {_FATAL[cause]}, and run the same command again "
                f"(pw.x: {' '.join(self.engine.command)}; scratch: {self.request_folder.parent})."
            )

    def _cause(self, result: Result, accept_not_saved: bool) -> Outcome:
        """The outcome, or its cause: a full disk, or an input that the command lost."""
        unsaved = taken(result, accept_not_saved).outcome is Outcome.NOT_SAVED
        if unsaved and shutil.disk_usage(self.here).free < FULL_BYTES:
            return Outcome.DISK_FULL
        if result.outcome is Outcome.INVALID_INPUT and _NOTHING_READ in result.detail:
            return Outcome.INPUT_NOT_FOUND
        return result.outcome

    def _continue(self) -> SavedState | None:
        """The state that the previous attempt left in this folder, if this attempt is the same run with more time."""
        if self.task.attempt.strategy != "more_time" or not self.out.is_dir():
            return None
        state = SavedState(0.0, str(self.engine))
        if not _can_be_saved(self._left_of_job_s()):
            raise self._cut_off(state)
        return state

    def _begin(self) -> SavedState | None:
        """Make the folder with its pseudopotentials and, if an earlier job saved one, the state to continue from."""
        shutil.rmtree(self.request_folder, ignore_errors=True)
        self.here.mkdir(parents=True)
        for element in sorted(set(self.task.cell.species)):
            pseudo = self.task.family.elements[element]
            (self.here / pseudo.file).write_bytes(self._read(pseudo))
        state = self.unfinished.restore(self.task.key, self.out, str(self.engine))
        if state is not None:
            logger.info("%s: continuing from the state that an earlier job saved", self.task)
        return state

    def _run_from(self, state: SavedState | None) -> Ended:
        """Start pw.x once; a run that the end of the job cuts off is saved and gives no result."""
        task = self.task
        # Where the limits were lowered meanwhile, time counts from zero: without time, a state would never lead to an end.
        spent_s = state.spent_s if state is not None and _has_time(task.limit_s - state.spent_s) else 0.0
        left_s = task.limit_s - spent_s
        stop_s = min(left_s, self._left_of_job_s())
        max_seconds = int(stop_s - SAVE_MARGIN_S) if _can_be_saved(stop_s) else None
        text = render(task.cell, task.attempt.settings, task.family, max_seconds, restart=state is not None)
        run = self.engine.run(text, self.here, left_s, self.end.stop)
        result = classify(run)
        run = replace(run, wall_s=spent_s + run.wall_s)
        job_came_first = result.outcome is Outcome.TIME_LIMIT and stop_s < left_s
        if job_came_first and _has_time(task.limit_s - run.wall_s):
            raise self._cut_off(SavedState(run.wall_s, str(self.engine)))
        if self.end.stop.is_set() and result.outcome is not Outcome.CONVERGED:
            raise OutOfTime
        return Ended(run, result, restarted=state is not None)

    def _left_of_job_s(self) -> float:
        return self.end.left_s - KEEP_MARGIN_S

    def _cut_off(self, state: SavedState) -> OutOfTime:
        """Save the state of a run that the end of the job cuts off."""
        kept = self.unfinished.keep(self.task.key, self.out, state)
        if kept:
            logger.info(
                "%s: cut off by the end of the job; its state is saved, and the next job continues it",
                self.task.request_id,
            )
        return OutOfTime(kept)

    def _read(self, pseudo: Pseudopotential) -> bytes:
        """The content of a file of the family, whose checksum must be the one in the key of the calculation."""
        path = self.family_folder / pseudo.file
        content = path.read_bytes()
        if (md5 := md5_of(content)) != pseudo.md5:
            raise XtalrlError(
                f"{path} was changed (md5 {md5} instead of {pseudo.md5}): delete {self.family_folder}, and the same command gets it again."
            )
        return content


def _can_be_saved(seconds: float) -> bool:
    """Whether saving the state is possible and worth it in a run of this length."""
    return seconds > 4 * SAVE_MARGIN_S


def _has_time(seconds: float) -> bool:
    """Whether a run goes on with so much left of its time limit; with less, it has had its time."""
    return seconds > SAVE_MARGIN_S / 3
