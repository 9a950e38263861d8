"""Progress of a job: lines in its log for people, the same as data next to the log for `xtalrl status`, and a live line if Snakemake has a terminal."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from xtalrl.sharing import share

logger = logging.getLogger(__name__)

LIVE = "XTALRL_LIVE"
"""Environment variable with the address of the pipe to the foot of the terminal (`xtalrl.live`)."""
LIVE_MARK = "\x1e"
"""First character of a line that replaces the last one of the same process; the id of the process follows."""


def format_seconds(seconds: float) -> str:
    """A duration for people: 42 s, 3 min 10 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass(frozen=True)
class Pace:
    """How far a job has come, and how fast."""

    done: int = 0
    """Number of finished units: SCFs, crystals, or steps summed over the policies that are trained together."""
    per_s: float = 0.0
    """Units per second; 0 where that is not known yet."""
    failed: bool = False
    """Whether the job ended with an error."""


def pace_file(log: Path) -> Path:
    """The file that holds the pace of the job with this log."""
    return log.with_suffix(".json")


def read_pace(log: Path) -> Pace:
    """The pace of the job with this log; an empty `Pace` where the file is missing, truncated or of another kind."""
    try:
        said = json.loads(pace_file(log).read_bytes())
        pace = Pace(int(said["done"]), float(said["per_s"]), said["failed"] is True)
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return Pace()
    return pace if pace.done >= 0 and 0 <= pace.per_s < math.inf else Pace()


class PaceHandler(logging.Handler):
    """Keeps `pace_file` up to date with what `Progress` and errors report."""

    def __init__(self, log: Path) -> None:
        super().__init__()
        self.path = pace_file(log)
        self.pace = Pace()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)  # left by an earlier attempt

    def emit(self, record: logging.LogRecord) -> None:
        """Write the pace of a record; an error means that the job has failed."""
        pace: Pace = getattr(record, "pace", self.pace)
        if record.levelno >= logging.ERROR:
            pace = Pace(pace.done, 0.0, failed=True)
        if pace != self.pace:
            self.pace = pace
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
            with suppress(OSError):  # The job itself reports a full disk when it writes its outputs.
                temporary.write_text(json.dumps(asdict(pace)))
                share(temporary)
                temporary.replace(self.path)


def address_of(number: int) -> str:
    """A text that identifies the file behind a descriptor on this machine."""
    status = os.fstat(number)
    return f"{status.st_dev}:{status.st_ino}"


class TerminalFormatter(logging.Formatter):
    """The lines of a job for stderr; where stderr leads to `xtalrl.live`, an incomplete progress replaces the one before."""

    def __init__(self, fmt: str, datefmt: str) -> None:
        super().__init__(fmt, datefmt)
        self.is_live = LIVE in os.environ and os.environ[LIVE] == address_of(2)

    def format(self, record: logging.LogRecord) -> str:
        """The line, or its live form."""
        if not self.is_live or not hasattr(record, "pace"):
            return super().format(record)
        mark = f"{LIVE_MARK}{os.getpid()} "
        if getattr(record, "is_complete", False):
            return f"{mark}\n{super().format(record)}"
        return mark + record.getMessage()


class Progress:
    """Counts finished items and logs a line at most every `every_s` seconds, and at the end.

    Where items take unequal time, `work` is the work of all items together, in any unit, and `advance` says how much of it is done; the time left
    is estimated from that. `side_by_side` is the number of policies that are trained together, so that each takes every step.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        every_s: float = 3.0,
        done: int = 0,
        work: float | None = None,
        side_by_side: int = 1,
    ) -> None:
        self.side_by_side = side_by_side
        self.label, self.total, self.unit, self.every_s = label, total, unit, every_s
        self.done = self.first = done
        self.work_left = total - done if work is None else work
        self.work_done = 0.0
        self.start = self.last = time.monotonic()

    def advance(self, n: int = 1, note: str = "", at_once: bool = False, work: float | None = None) -> None:
        """Count n more items; `note` is shown on the line if one is due. Items that were finished `at_once` do not count for the pace."""
        self.done += n
        self.first += n if at_once else 0
        work = n if work is None else work
        self.work_left -= work
        self.work_done += 0 if at_once else work
        if self.done >= self.total or time.monotonic() - self.last >= self.every_s:
            self.show(note)

    def beat(self, note: str = "") -> None:
        """Show a line if one is due, although nothing has finished."""
        if time.monotonic() - self.last >= self.every_s:
            self.show(note)

    def show(self, note: str = "") -> None:
        """Log the line now."""
        self.last = time.monotonic()
        elapsed = self.last - self.start
        parts = [f"{self.label}: {self.done:,} of {self.total:,} {self.unit}"]
        finished = self.done - self.first
        rate = 0.0
        if finished and elapsed > 0.5:
            rate = finished / elapsed
            parts.append(f"{rate:,.1f}/s" if rate >= 1 else f"{1 / rate:,.1f} s each")
            if self.done < self.total and self.work_done:
                parts.append(f"{format_seconds(elapsed * self.work_left / self.work_done)} left")
        if note:
            parts.append(note)
        pace = Pace(self.side_by_side * self.done, self.side_by_side * rate)
        logger.info(", ".join(parts), extra={"pace": pace, "is_complete": self.done >= self.total})
