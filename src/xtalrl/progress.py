"""Progress as log lines: readable in a terminal, in a SLURM log and in CI alike."""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)


def format_seconds(seconds: float) -> str:
    """42 s, 3 min 10 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Counts finished items and logs a line at most every `every_s` seconds, and at the end.

    Where items take unequal time, `work` says how much all are together, in any unit, and `advance` how much of it is done: the time left
    goes by that.
    """

    def __init__(
        self, label: str, total: int, unit: str, every_s: float = 3.0, done: int = 0, work: float | None = None
    ) -> None:
        self.label, self.total, self.unit, self.every_s = label, total, unit, every_s
        self.done = self.first = done
        self.work_left = total - done if work is None else work
        self.work_done = 0.0
        self.start = self.last = time.monotonic()

    def advance(self, n: int = 1, note: str = "", at_once: bool = False, work: float | None = None) -> None:
        """Count n more items; `note` is shown on the line if one is due. Those that were there `at_once` say nothing about the pace."""
        self.done += n
        self.first += n if at_once else 0
        work = n if work is None else work
        self.work_left -= work
        self.work_done += 0 if at_once else work
        if self.done >= self.total or time.monotonic() - self.last >= self.every_s:
            self.show(note)

    def beat(self, note: str = "") -> None:
        """Show a line if one is due although nothing finished."""
        if time.monotonic() - self.last >= self.every_s:
            self.show(note)

    def show(self, note: str = "") -> None:
        """Log the line now."""
        self.last = time.monotonic()
        elapsed = self.last - self.start
        parts = [f"{self.label}: {self.done:,} of {self.total:,} {self.unit}"]
        finished = self.done - self.first
        if finished and elapsed > 0.5:
            rate = finished / elapsed
            parts.append(f"{rate:,.1f}/s" if rate >= 1 else f"{1 / rate:,.1f} s each")
            if self.done < self.total and self.work_done:
                parts.append(f"{format_seconds(elapsed * self.work_left / self.work_done)} left")
        if note:
            parts.append(note)
        logger.info(", ".join(parts))
