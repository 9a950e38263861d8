"""Finished pw.x runs, found by their physics: no stage, rerun or user of the folder ever does a run twice.

Each writer has an append-only file of JSON lines, and readers take all files together. This is safe on network file systems, where only the
appends of a single writer are. A record is on the disk before the next run starts. Each line ends in a SHA-256 of what precedes it, which is
checked at every read: a line that was torn or changed, or whose key is not that of its calculation, is skipped and reported. Lines of older
versions have no checksum; they are read and counted as unchecked (`xtalrl cache seal` adds one).

Nothing is ever removed. A run that is wanted again (`xtalrl rerun`) gets a line in a `.void` file, which invalidates the records of its earlier
generations. Generations are counted, not timed, so that neither the order of the files nor the clocks of the nodes matter.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from xtalrl.dft.inputs import key_of
from xtalrl.dft.outcomes import Outcome, Result, Run
from xtalrl.errors import shorten
from xtalrl.sharing import make_folder, share, write_shared

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """One finished run: what was computed, how it ended and what it gave.

    Fields with a default are information for readers and play no part in finding the record; older records lack them.
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
    """Name of the protocol that first asked for the run; another protocol may ask for the same calculation."""
    family: str | None = None
    species: list[str] | None = None
    lattice: list[float] | None = None
    """Å, vectors as rows."""
    frac_coords: list[float] | None = None
    settings: dict[str, Any] | None = None
    pseudopotential_md5s: dict[str, str] | None = None
    generation: int | None = None
    """Number of times that the run had been asked for again; None means never."""
    restarted: bool | None = None
    """Whether it continued from the state that an earlier run had saved; the energy is the same within conv_thr."""

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
    def is_complete(self) -> bool:
        """Whether it holds its calculation, so that its key can be checked."""
        return self.species is not None

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
            iterations_in(self.detail),
        )

    def answers(self, timeout_s: float, accept_not_saved: bool) -> bool:
        """Whether this record makes a run with this time limit unnecessary.

        A run that timed out does not if there is more time now, and one that was not saved does not unless that is accepted. A `stopped`
        record, which earlier versions kept, never does: nothing says that the crystal was to blame.
        """
        if not Outcome(self.outcome).is_kept:
            return False
        if self.outcome == Outcome.CONVERGED_NOT_SAVED:
            return accept_not_saved
        return self.outcome != Outcome.TIME_LIMIT or self.timeout_s >= 0.99 * timeout_s

    def says_more_than(self, other: Record) -> bool:
        """Whether this record is preferred to another one of the same run.

        A later generation is preferred to an earlier one. Within a generation, a run that ended is preferred to one that timed out, a longer run
        to a shorter one, and a saved one to one that was not saved. A record that is not a verdict (`Outcome.is_kept`) is never preferred.
        """
        return self.rank() > other.rank()

    def rank(self) -> tuple[int, int, float]:
        """The order of preference among records of one run (`says_more_than`)."""
        if not Outcome(self.outcome).is_kept:
            return self.generation or 0, -1, 0.0
        if self.outcome == Outcome.TIME_LIMIT:
            return self.generation or 0, 0, self.timeout_s
        return self.generation or 0, (1 if self.outcome == Outcome.CONVERGED_NOT_SAVED else 2), 0.0


class Cache:
    """The records in `{cache}/scf`: those of all writers at the last look, and our own as they are added.

    Records that are given to it are found like its own and are written nowhere. Several threads may use it. If the folder is read-only, records can be found, but `add` and `void` raise OSError.
    """

    def __init__(self, folder: str | Path, given: Iterable[Record] = ()) -> None:
        self.folder = records_folder(folder)
        self._path = self._new_path()
        self._records: dict[str, Record] = {}
        self._wanted: dict[str, int] = {}
        self._lock = threading.Lock()
        self._read_to: dict[Path, int] = {}
        """Bytes of each file that were read."""
        self._seen: set[Path | str] = set()
        """Files looked at, and faults named."""
        for record in given:
            self._keep(record)
        self.refresh()

    def refresh(self) -> None:
        """Read what all writers have added since the last look."""
        with self._lock:
            faults: list[str] = []
            for path in sorted(self.folder.glob("*.jsonl")):
                start = self._read_to.get(path, 0)
                if start and not _may_have_grown(path, start):
                    continue
                content, fault = read_file(path, start)
                # A last line without its end may still be in the writing: it is looked at again.
                self._read_to[path] = start + content.rfind(b"\n") + 1
                is_new = path not in self._seen
                self._seen.add(path)
                faults += [fault] if fault and is_new else []
                for number, found in parse_records(content):
                    if isinstance(found, Record):
                        self._keep(found)
                    elif is_new or number <= content.count(b"\n"):
                        faults.append(f"{path}, line {number} after byte {start} is {found}")
            wanted, damaged = read_voids(self.folder)
            self._wanted |= wanted
            faults += [fault for fault in damaged if fault not in self._seen]
            self._seen.update(damaged)
        if faults:
            logger.warning(
                "Skipped in the cache, so that these runs may be repeated (`xtalrl cache verify` says more): %s",
                shorten(faults, separator="; "),
            )

    def find(self, key: str, timeout_s: float, accept_not_saved: bool = False) -> Record | None:
        """The record that answers a run with this time limit, if there is one."""
        record = self._records.get(key)
        if record is None or (record.generation or 0) < self._wanted.get(key, 0):
            return None
        return record if record.answers(timeout_s, accept_not_saved) else None

    def add(self, record: Record) -> None:
        """Keep a record, on the disk before this returns; one that is not a verdict on its calculation is not kept (`Outcome.is_kept`)."""
        if not Outcome(record.outcome).is_kept:
            return
        with self._lock:
            record = replace(record, generation=self._wanted.get(record.key))
            self._append(to_line(record))
            self._keep(record)

    def void(self, keys: Collection[str]) -> None:
        """Ask for these runs again: existing records no longer answer, new ones will. Asking twice has no further effect."""
        wanted = {}
        for key in keys:
            record = self._records.get(key)
            wanted[key] = 1 + ((record.generation or 0) if record else 0)
        lines = (seal({"key": key, "generation": number}) for key, number in wanted.items())
        write_shared(self._new_path().with_suffix(".void"), b"".join(lines))
        self._wanted |= wanted

    def _append(self, line: bytes) -> None:
        make_folder(self.folder)
        is_new = not self._path.exists()
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if is_new:
                share(self._path)
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


def iterations_in(detail: str) -> int | None:
    """The number of iterations of a record, whose line holds only the sentence that `outcomes.classify` made from it."""
    found = re.match(r"(\d+) iterations? done", detail)
    return int(found[1]) if found else None


def records_folder(cache: str | Path) -> Path:
    """Where a cache keeps its records."""
    return Path(cache) / "scf"


def read_voids(folder: Path) -> tuple[dict[str, int], list[str]]:
    """The lowest valid generation of each run that was asked for again, and a sentence for each damaged line."""
    wanted: dict[str, int] = {}
    faults: list[str] = []
    for path in sorted(folder.glob("*.void")):
        content, fault = read_file(path)
        faults += [fault] if fault else []
        for number, line in _lines(content):
            try:
                entry = unseal(line, {"key", "generation"})[0]
                key, generation = entry.get("key"), entry.get("generation")
                if not isinstance(key, str) or type(generation) is not int:
                    raise ValueError("no key with a generation")
            except (ValueError, RecursionError) as error:
                faults.append(f"{path}, line {number} is torn or was changed ({error}): `xtalrl rerun` asks again")
            else:
                wanted[key] = max(generation, wanted.get(key, 0))
    return wanted, faults


def seal(content: Mapping[str, Any]) -> bytes:
    """Plain data as one line of JSON that ends in the SHA-256 of all before it."""
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return f'{text[:-1]}, "sha256": "{hashlib.sha256(text.encode()).hexdigest()}"}}\n'.encode()


def unseal(line: bytes, names: Collection[str]) -> tuple[dict[str, Any], bool]:
    """The plain data of a line, and whether a checksum confirms it.

    Args:
        line: one line without its newline.
        names: fields that a line of an older version, without a checksum, may have; any other field means that the line is damaged.

    Raises:
        ValueError: the line is not a JSON object, or was changed since it was written.
        RecursionError: the line is nested too deeply to be one of ours.
    """
    sealed = _SEALED.fullmatch(line)
    if sealed and hashlib.sha256(sealed[1] + b"}").hexdigest().encode() != sealed[2]:
        raise ValueError("its checksum does not fit")
    content = json.loads(line, parse_constant=_no_number)
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    if not sealed and (strange := sorted(content.keys() - set(names))):
        raise ValueError(f"its checksum is damaged: {', '.join(strange)[:80]}")
    return content, sealed is not None


def to_line(record: Record) -> bytes:
    """A record as one line of a file; what it lacks is left out."""
    return seal({name: value for name, value in vars(record).items() if value is not None or name in _NEEDED})


def read_file(path: Path, start: int = 0) -> tuple[bytes, str | None]:
    """The content of a cache file from a given byte on, and a sentence if it cannot be read."""
    try:
        if not path.is_file():  # A folder, a link to nothing, a pipe.
            raise OSError(errno.EINVAL, "it is not a file")
        with path.open("rb") as file:
            file.seek(start)
            return file.read(), None
    except OSError as error:
        return b"", f"{path} cannot be read ({error.strerror}): ask its owner{_owner(path)} to fix that"


def parse_records(content: bytes) -> Iterator[tuple[int, Record | str]]:
    """The number of each line, and its record or a sentence on what is wrong."""
    for number, line in _lines(content):
        try:
            yield number, record_from(unseal(line, _FIELDS)[0])
        except (ValueError, RecursionError) as error:
            yield number, f"torn or changed ({error}); that run will be repeated when it is asked for"


def unsealed_lines(content: bytes) -> dict[int, Record]:
    """The records of an older version, which have no checksum, by the number of their line."""
    found = {}
    for number, line in _lines(content):
        if _SEALED.fullmatch(line) is None:
            _, record = next(parse_records(line))
            if isinstance(record, Record):
                found[number] = record
    return found


def read_records(path: Path) -> Iterator[tuple[int, Record | str]]:
    """The number of each line of a file, and its record or a sentence on what is wrong; number 0 where the file cannot be read."""
    content, fault = read_file(path)
    if fault is not None:
        yield 0, fault
    yield from parse_records(content)


def record_from(content: Mapping[str, Any]) -> Record:
    """A record from plain data, as read from somewhere.

    Raises:
        ValueError: a field is missing, has another type, is not finite or out of its range, or the key is not that of the calculation.
    """
    try:
        record = Record(
            **_CHECKED.model_validate({name: content[name] for name in _FIELDS if name in content}).__dict__
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    outcome = Outcome(record.outcome)
    if outcome.usable and record.total_energy_ry is None:
        raise ValueError(f"{outcome} without an energy")
    if (record.generation or 0) < 0 or record.wall_s < 0 or record.timeout_s < 0:
        raise ValueError("a negative time or generation")
    if len({getattr(record, name) is None for name in _CALCULATION}) > 1:
        raise ValueError("a part of the calculation is missing")
    if record.is_complete and key_of(vars(record)) != record.key:
        raise ValueError("the key is not that of the calculation beside it")
    return record


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line := line.removesuffix(b"\r"):
            yield number, line


def _may_have_grown(path: Path, size: int) -> bool:
    """Whether the file holds more than was read. An open file knows its current size; `stat` on a network file system may be seconds old."""
    try:
        found = path.stat()
        if found.st_size > size or time.time() - found.st_mtime > _LIVE_S:
            return found.st_size > size
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size > size
    except OSError:
        return False


def _owner(path: Path) -> str:
    try:
        return f", {path.owner()},"
    except (OSError, KeyError):
        return ""


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a result")


_LIVE_S = 600.0
"""Seconds after its last line during which a file may still grow."""
_SEALED = re.compile(rb'(\{.*), "sha256": "([0-9a-f]{64})"\}', re.DOTALL)
_FIELDS = tuple(field.name for field in fields(Record))
_NEEDED = frozenset(_FIELDS[: _FIELDS.index("ended")])
_CALCULATION = ("species", "lattice", "frac_coords", "settings", "pseudopotential_md5s")
_TYPES: dict[str, Any] = {
    name: (kind, ... if name in _NEEDED else None) for name, kind in get_type_hints(Record).items()
}
_CHECKED = create_model("_CHECKED", __config__=ConfigDict(strict=True, allow_inf_nan=False), **_TYPES)
"""A record whose types and finiteness are checked."""
