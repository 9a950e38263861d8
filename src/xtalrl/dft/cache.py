"""Finished pw.x runs, found by their physics: no run is ever done twice, by any stage, rerun or user of the folder.

One append-only file of JSON lines for each writer, read as a union: safe on network file systems, where only a lone writer's
appends are. A record is on the disk before the next run starts; a line torn by a kill or a full disk is skipped.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Container
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from xtalrl.dft.outcomes import Category, Outcome, Result, Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One finished run: what it was (key), how it ended and what it gave."""

    key: str
    outcome: str
    detail: str
    total_energy_ry: float | None
    band_gap_raw_ev: float | None
    total_magnetization: float | None
    smearing: bool
    exit_code: int | None
    wall_s: float
    timeout_s: float
    engine: str

    @classmethod
    def of(cls, key: str, run: Run, result: Result, timeout_s: float, engine: str) -> Record:
        """The record of a run that has just ended."""
        return cls(
            key=key,
            outcome=str(result.outcome),
            detail=result.detail,
            total_energy_ry=result.total_energy_ry,
            band_gap_raw_ev=result.band_gap_raw_ev,
            total_magnetization=result.total_magnetization,
            smearing=result.smearing,
            exit_code=run.exit_code,
            wall_s=round(run.wall_s, 3),
            timeout_s=round(timeout_s, 3),
            engine=engine,
        )

    @property
    def result(self) -> Result:
        """What the run gave."""
        return Result(
            Outcome(self.outcome),
            self.detail,
            self.total_energy_ry,
            self.band_gap_raw_ev,
            self.total_magnetization,
            self.smearing,
        )

    def answers(self, timeout_s: float) -> bool:
        """Whether it makes a run with this time limit needless: a run that timed out does not if there is more time now."""
        return self.outcome != Outcome.TIME_LIMIT or self.timeout_s >= 0.99 * timeout_s


class Cache:
    """The records in `{cache}/scf`: those of all writers as they were at the start, and our own as they come.

    Args:
        folder: the cache of the project.
        keys: which records to keep in memory; None keeps all.
    """

    def __init__(self, folder: str | Path, keys: Container[str] | None = None) -> None:
        self.folder = Path(folder) / "scf"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.jsonl"
        self._records: dict[str, Record] = {}
        torn = 0
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    record = _parse(line)
                except (ValueError, TypeError, KeyError):
                    torn += 1
                    continue
                if keys is None or record.key in keys:
                    self._keep(record)
        if torn:
            logger.info("Skipped %d torn line(s) in %s: those runs will be repeated", torn, self.folder)

    def find(self, key: str, timeout_s: float) -> Record | None:
        """The record that answers a run with this time limit, if there is one."""
        record = self._records.get(key)
        return record if record is not None and record.answers(timeout_s) else None

    def add(self, record: Record) -> None:
        """Keep a record, on the disk before this returns; one that speaks about the machine is not kept."""
        if Outcome(record.outcome).category is Category.ENVIRONMENT:
            return
        line = json.dumps(asdict(record)) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._keep(record)

    def _keep(self, record: Record) -> None:
        """Of several records of one run, the one that ended wins over those that timed out, the longer over the shorter."""
        old = self._records.get(record.key)
        timed_out = record.outcome == Outcome.TIME_LIMIT
        if old is None or (old.outcome == Outcome.TIME_LIMIT and (not timed_out or record.timeout_s > old.timeout_s)):
            self._records[record.key] = record


_FIELDS = tuple(field.name for field in fields(Record))


def _parse(line: bytes) -> Record:
    content: dict[str, Any] = json.loads(line)
    record = Record(**{name: content[name] for name in _FIELDS})
    Outcome(record.outcome)
    return record
