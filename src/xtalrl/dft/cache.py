"""Finished pw.x runs, found by their physics: no run is ever done twice, by any stage, rerun or user of the folder.

One append-only file of JSON lines for each writer, read as a union: safe on network file systems, where only a lone writer's
appends are. A record is on the disk before the next run starts; a line torn by a kill or a full disk is skipped.

Nothing is ever removed. A run that is wanted again (`xtalrl rerun`) has a line in a `.void` file, which makes the records of its earlier
generations void. Generations are counted and not timed, so that neither the order of the files nor the clocks of the nodes matter.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xtalrl.dft.outcomes import Category, Outcome, Result, Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One finished run: what it was, how it ended and what it gave.

    The fields with a default are for readers, not for finding it; a record written before they existed lacks them.
    """

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
    ended: str | None = None
    """UTC, ISO 8601."""
    protocol: str | None = None
    """Name of the protocol it was first run for; another protocol may ask for the same calculation."""
    family: str | None = None
    species: list[str] | None = None
    lattice: list[float] | None = None
    """Å, vectors as rows."""
    frac_coords: list[float] | None = None
    settings: dict[str, Any] | None = None
    pseudopotential_md5s: dict[str, str] | None = None
    generation: int | None = None
    """How often the run had been asked for again; None for never."""
    restarted: bool | None = None
    """It went on from what an earlier run had saved, to the same energy within conv_thr."""

    @classmethod
    def of(
        cls,
        key: str,
        run: Run,
        result: Result,
        timeout_s: float,
        engine: str,
        protocol: str,
        family: str,
        content: dict[str, Any],
        restarted: bool = False,
    ) -> Record:
        """The record of a run of the calculation `content` that has just ended."""
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
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            protocol=protocol,
            family=family,
            restarted=restarted,
            **content,
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

    def answers(self, timeout_s: float, accept_not_saved: bool) -> bool:
        """Whether it makes a run with this time limit needless.

        A run that timed out does not if there is more time now, one that was not saved does not unless that is accepted.
        """
        if self.outcome == Outcome.CONVERGED_NOT_SAVED:
            return accept_not_saved
        return self.outcome != Outcome.TIME_LIMIT or self.timeout_s >= 0.99 * timeout_s

    def says_more_than(self, other: Record) -> bool:
        """Whether it is kept instead of another record of the same run.

        A later generation says more than an earlier one; within one, a run that ended more than one that timed out, the longer more than
        the shorter, a saved one more than one that was not.
        """
        return self._rank() > other._rank()

    def _rank(self) -> tuple[int, int, float]:
        if self.outcome == Outcome.TIME_LIMIT:
            return self.generation or 0, 0, self.timeout_s
        return self.generation or 0, (1 if self.outcome == Outcome.CONVERGED_NOT_SAVED else 2), 0.0


class Cache:
    """The records in `{cache}/scf`: those of all writers as they were at the start, and our own as they come."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = records_folder(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self._new_path()
        self._records: dict[str, Record] = {}
        torn = 0
        for path in sorted(self.folder.glob("*.jsonl")):
            for _, record in read_records(path):
                if isinstance(record, Record):
                    self._keep(record)
                else:
                    torn += 1
        if torn:
            logger.info("Skipped %d torn line(s) in %s: those runs will be repeated", torn, self.folder)
        self._wanted = read_voids(self.folder)

    def find(self, key: str, timeout_s: float, accept_not_saved: bool = False) -> Record | None:
        """The record that answers a run with this time limit, if there is one."""
        record = self._records.get(key)
        if record is None or (record.generation or 0) < self._wanted.get(key, 0):
            return None
        return record if record.answers(timeout_s, accept_not_saved) else None

    def add(self, record: Record) -> None:
        """Keep a record, on the disk before this returns; one that speaks about the machine is not kept."""
        if Outcome(record.outcome).category is Category.ENVIRONMENT:
            return
        record = replace(record, generation=self._wanted.get(record.key))
        self._append(to_line(record))
        self._keep(record)

    def void(self, keys: Collection[str]) -> None:
        """Ask for these runs again: the records there are answer no more, those to come will. To ask twice is to ask once."""
        wanted = {}
        for key in keys:
            record = self._records.get(key)
            wanted[key] = 1 + ((record.generation or 0) if record else 0)
        lines = "".join(json.dumps({"key": key, "generation": number}) + "\n" for key, number in wanted.items())
        path = self._new_path().with_suffix(".void")
        part = path.with_suffix(".part")
        with part.open("w") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)  # Whole or not at all.
        self._wanted |= wanted

    def _append(self, line: bytes) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError as error:
            self._path = self._new_path()  # Nothing may follow a torn line.
            raise OSError(error.errno, error.strerror, str(self.folder)) from None
        finally:
            os.close(descriptor)

    def _new_path(self) -> Path:
        return self.folder / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}.jsonl"

    def _keep(self, record: Record) -> None:
        old = self._records.get(record.key)
        if old is None or record.says_more_than(old):
            self._records[record.key] = record


def records_folder(cache: str | Path) -> Path:
    """Where a cache keeps its records."""
    return Path(cache) / "scf"


def read_voids(folder: Path) -> dict[str, int]:
    """The generation that each run which was asked for again must have at least."""
    wanted: dict[str, int] = {}
    for path in folder.glob("*.void"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            wanted[entry["key"]] = max(entry["generation"], wanted.get(entry["key"], 0))
    return wanted


def to_line(record: Record) -> bytes:
    """A record as one line of a file; what it lacks is left out."""
    return (
        json.dumps(
            {name: value for name, value in asdict(record).items() if value is not None or name in _NEEDED}
        ).encode()
        + b"\n"
    )


def read_records(path: Path) -> Iterator[tuple[int, Record | str]]:
    """The number of each line of a file, and its record or, where it is torn, a sentence on what is wrong."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield number, record_from(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            yield number, f"{type(error).__name__}: {error}"


def record_from(content: dict[str, Any]) -> Record:
    """A record from plain data.

    Raises:
        KeyError: a field without a default is missing.
        ValueError: the outcome has no such name.
    """
    values: dict[str, Any] = {name: content[name] if name in _NEEDED else content.get(name) for name in _FIELDS}
    record = Record(**values)
    Outcome(record.outcome)
    return record


_FIELDS = tuple(field.name for field in fields(Record))
_NEEDED = frozenset(_FIELDS[: _FIELDS.index("ended")])
