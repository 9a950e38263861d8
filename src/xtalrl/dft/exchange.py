"""Look into the cache of finished runs, and exchange it with others: `xtalrl cache stats, verify, seal, export, import`."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xtalrl import tables
from xtalrl.cells import reduced_formula
from xtalrl.dft.cache import (
    Record,
    read_file,
    read_records,
    read_voids,
    record_from,
    records_folder,
    to_line,
    unsealed_lines,
)
from xtalrl.dft.inputs import Settings
from xtalrl.dft.outcomes import Outcome
from xtalrl.dft.unfinished import Unfinished
from xtalrl.errors import XtalrlError, explain_os_error, shorten
from xtalrl.files import whole_file
from xtalrl.resources import of_project
from xtalrl.sharing import write_shared

DEMO_SCFS = "resources/demo/scfs.parquet"
"""Every finished SCF that a run of the demo needs: `xtalrl cache export` with `--of-run` took them from one (docs/releasing.md)."""
SAME_ENERGY_RY = 1e-5
"""Largest difference between two energies of one calculation: ten times the loosest conv_thr of our protocols, which stops the SCF."""
SAME_GAP_EV = 0.02
"""Largest difference between two gaps of one calculation: with conv_thr 1e-6 Ry, gaps were seen to change by 6 meV."""

_ENERGY_RANGE_RY = (-1e5, 0.0)
"""Total energies of cells of twenty atoms are well within this range; that of a pseudo-atom is negative."""
_SHOWN = 20
"""Number of faults that a message names; further ones are only counted."""


@dataclass(frozen=True)
class Stats:
    """What a cache holds."""

    folder: str
    files: int
    megabytes: float
    lines: int
    torn: int
    """Number of lines that are torn, changed or unreadable."""
    unchecked: int
    """Lines of an older version, without a checksum."""
    calculations: int
    """Distinct keys."""
    outcomes: dict[str, int]
    """Calculations by outcome."""
    engines: dict[str, int]
    """Lines by engine."""
    wall_hours: float
    """Hours of pw.x, summed over all lines."""
    unfinished: int
    """Number of runs that the end of a job cut off; their state waits for the next job."""


def cache_stats(cache: str | Path) -> Stats:
    """Count what is in a cache.

    Raises:
        XtalrlError: there is none.
    """
    paths = _files(cache)
    records, torn = _read_all(paths)
    kept = _one_per_key(records)
    return Stats(
        folder=str(records_folder(cache)),
        files=len(paths),
        megabytes=sum(path.stat().st_size for path in paths if path.is_file()) / 1e6,
        lines=len(records) + len(torn),
        torn=len(torn),
        unchecked=sum(len(unsealed_lines(read_file(path)[0])) for path in paths),
        calculations=len(kept),
        outcomes=dict(Counter(record.outcome for record in kept.values()).most_common()),
        engines=dict(Counter(record.engine for record in records).most_common()),
        wall_hours=sum(record.wall_s for record in records) / 3600,
        unfinished=len(Unfinished(cache).keys()),
    )


def verify_cache(cache: str | Path) -> list[str]:
    """Everything that is wrong with a cache, one sentence each: files that cannot be read, lines that were torn or changed, keys that do
    not fit, contradicting results.

    Raises:
        XtalrlError: there is none.
    """
    paths = _files(cache)
    records, faults = _read_all(paths)
    faults += read_voids(paths[0].parent)[1]
    # A run that was asked for again (`xtalrl rerun`) may well give something else.
    by_key: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in records:
        by_key[record.key, record.generation or 0].append(record)
    for same in by_key.values():
        contradictions = (contradiction(same[0], other) for other in same[1:])
        faults += [found for found in contradictions if found is not None]
    return faults


def seal_cache(cache: str | Path) -> int:
    """Add a checksum to each readable line of an older version, and return the number of these lines.

    Each file is replaced as a whole. A file that grows meanwhile, because a run of an older version is at work, is left for the next time.

    Raises:
        XtalrlError: there is no cache.
        OSError: it cannot be written.
    """
    sealed = 0
    for path in _files(cache):
        content, _ = read_file(path)
        if not (old := unsealed_lines(content)):
            continue
        lines = content.split(b"\n")
        for number, record in old.items():
            lines[number - 1] = to_line(record).rstrip(b"\n")
        if path.stat().st_size == len(content):
            write_shared(path, b"\n".join(lines))
            sealed += len(old)
    return sealed


def keys_of_run(results: str | Path) -> set[str]:
    """The calculations that a run used: every attempt of every stage that has been gathered in its folder of results.

    Raises:
        XtalrlError: no stage has been gathered there, or a table cannot be read.
    """
    outcomes = sorted(Path(results).glob("*/outcomes.parquet"))
    if not outcomes:
        raise XtalrlError(f"{results} holds no finished stage of SCFs: run `snakemake evaluate`, for example, first.")
    return {
        attempt["key"]
        for path in outcomes
        for row in tables.read_rows(path, tables.SCF_OUTCOMES)
        for attempt in row["attempts"]
    }


def records_of(cache: str | Path, keys: Collection[str] | None = None, finished: str | None = None) -> list[Record]:
    """The records of a cache, one per calculation: those of these keys, or all.

    Args:
        finished: what `dft.finished` of a run names; its records count as those of the cache, which may then be empty.

    Raises:
        XtalrlError: there is no cache, or what `finished` names cannot be taken.
    """
    given = finished_scfs(finished) if finished else []
    ours = _read_all(_files(cache))[0] if not given or any(records_folder(cache).glob("*.jsonl")) else []
    return [record for record in _one_per_key(given + ours).values() if keys is None or record.key in keys]


def export_cache(
    cache: str | Path, path: str | Path, keys: Collection[str] | None = None, finished: str | None = None
) -> int:
    """Write the records of a cache, one per calculation, to a .parquet or .jsonl file, and return their number.

    Args:
        cache: folder of the cache.
        path: file to write.
        keys: the calculations to write; None writes all.
        finished: as `records_of` takes it.

    Raises:
        XtalrlError: there is no cache, what `finished` names cannot be taken, or the file has another ending or cannot be there.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".jsonl"):
        raise XtalrlError(f"{path} must end in .parquet or .jsonl.")
    kept = [replace(record, generation=None) for record in records_of(cache, keys, finished)]
    try:
        with whole_file(path) as temporary:
            if path.suffix == ".parquet":
                rows = pa.Table.from_pylist([_as_row(record) for record in kept], SCHEMA)
                pq.write_table(rows, temporary, compression="zstd", write_page_checksum=True)
            else:
                temporary.write_bytes(b"".join(map(to_line, kept)))
    except OSError as error:
        if explain_os_error(error) is not None:
            raise
        raise XtalrlError(
            f"{path} cannot be written ({error.strerror or error}): choose another folder or name."
        ) from None
    return len(kept)


@dataclass(frozen=True)
class Imported:
    """What came of an import."""

    new: int
    known: int
    refused: list[str]
    """One sentence for each record that was not taken."""
    unchecked: int
    """How many of the source's records an older version wrote, without a checksum."""


def import_cache(cache: str | Path, source: str | Path) -> Imported:
    """Take over the records of an export or of another cache folder. Known records are not taken again.

    A record is refused if it is damaged or incomplete, if its key does not fit its calculation, if it contradicts one of ours or of the source,
    if it cannot be true, or if it is about a machine and not about the calculation.

    Raises:
        XtalrlError: the source cannot be read.
    """
    records, refused = _read_source(Path(source))
    if not records and not refused:
        raise XtalrlError(
            f"{source} holds no finished SCF: name a file of `xtalrl cache export`, or the cache folder of a run."
        )
    records, faults = _without_contradictions(records)
    refused += faults
    folder = records_folder(cache)
    ours = _one_per_key(_read_all(sorted(folder.glob("*.jsonl")))[0])
    new: list[Record] = []
    known = 0
    for record in (replace(found, generation=None) for found in _one_per_key(records).values()):
        mine = ours.get(record.key)
        if (fault := _why_not_taken(record)) is not None or (
            fault := contradiction(mine, record) if mine else None
        ) is not None:
            refused.append(fault)
        elif mine is None or record.says_more_than(mine):
            new.append(record)
        else:
            known += 1
    if new:
        content = b"".join(map(to_line, new))
        write_shared(folder / f"imported-{hashlib.sha256(content).hexdigest()[:16]}.jsonl", content)
    paths = [] if Path(source).suffix == ".parquet" else _files(source) if Path(source).is_dir() else [Path(source)]
    unchecked = sum(len(unsealed_lines(read_file(path)[0])) for path in paths)
    return Imported(len(new), known, refused, unchecked)


def finished_scfs(source: str) -> list[Record]:
    """The records of an export or of a cache folder, for a run that takes them as they are (`dft.finished`).

    Args:
        source: a path, or `demo`: what ships with xtalrl.

    Raises:
        XtalrlError: it cannot be read, or holds a record that cannot be taken: such records must not enter a run unseen.
    """
    path = Path(of_project(DEMO_SCFS)) if source == "demo" else Path(source)
    records, refused = _read_source(path)
    records, faults = _without_contradictions(records)
    refused += faults
    # Generations count within one cache: here the records answer as if they had never been asked for again.
    kept = [replace(record, generation=None) for record in _one_per_key(records).values()]
    refused += [fault for record in kept if (fault := _why_not_taken(record)) is not None]
    if refused:
        raise XtalrlError(
            f"{len(refused):,} records of {path}, which `dft.finished` names, cannot be taken:\n{shown(refused)}\n"
            "Get the file again, or leave `dft.finished` out: what is missing is computed."
        )
    return kept


def _without_contradictions(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """The records, and a sentence for each calculation that is left out because two of its records cannot both be true."""
    of_key: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        of_key[record.key].append(record)
    kept: list[Record] = []
    faults: list[str] = []
    for preferred, *others in (sorted(found, key=Record.rank, reverse=True) for found in of_key.values()):
        # Who asks for a run again may well expect another result.
        rivals = (other for other in others if other.generation == preferred.generation)
        if fault := next(filter(None, (contradiction(preferred, rival) for rival in rivals)), None):
            faults.append(fault)
        else:
            kept += [preferred, *others]
    return kept, faults


def contradiction(one: Record, other: Record) -> str | None:
    """A sentence if two records of one calculation cannot both be true. A run that was cut off, or is not a verdict, contradicts nothing."""
    if any(record.outcome == Outcome.TIME_LIMIT or not Outcome(record.outcome).is_kept for record in (one, other)):
        return None
    name = f"{_name(one)}: two results of one calculation, "
    if Outcome(one.outcome).usable != Outcome(other.outcome).usable:
        return f"{name}{one.outcome} ({one.engine}) and {other.outcome} ({other.engine})"
    for field, tolerance, unit in (("total_energy_ry", SAME_ENERGY_RY, "Ry"), ("band_gap_raw_ev", SAME_GAP_EV, "eV")):
        a, b = getattr(one, field), getattr(other, field)
        if a is not None and b is not None and abs(a - b) > tolerance:
            return f"{name}{field} {a:.8f} ({one.engine}) and {b:.8f} {unit} ({other.engine})"
    return None


def shown(faults: Sequence[str]) -> str:
    """The first of these sentences, one per line, and how many more there are."""
    return shorten(faults, _SHOWN, "\n")


def _read_source(source: Path) -> tuple[list[Record], list[str]]:
    """The records of an export or of a cache folder, and a sentence for each that was changed."""
    if source.is_dir():
        return _read_all(_files(source))
    if source.suffix == ".jsonl" and source.is_file():
        return _read_all([source])
    if source.suffix == ".parquet" and source.is_file():
        return _read_parquet(source)
    raise XtalrlError(f"{source} is neither a cache folder nor a .parquet or .jsonl file of `xtalrl cache export`.")


def _why_not_taken(record: Record) -> str | None:
    """A sentence where a record of others says nothing about its calculation, or nothing that could be checked."""
    if not Outcome(record.outcome).is_kept:
        return f"{_name(record)}: {record.outcome} says something about the machine, not about the crystal"
    for field, (low, high), unit in (
        ("total_energy_ry", _ENERGY_RANGE_RY, "Ry"),
        ("band_gap_raw_ev", tables.GAP_RANGE_EV, "eV"),
    ):
        value = getattr(record, field)
        if value is not None and not low < value < high:
            return (
                f"{_name(record)}: {field} is {value:g} {unit}, which cannot be true ({low:g} to {high:g} {unit} can)"
            )
    if not record.is_complete:
        return f"{_name(record)}: without its calculation nothing says that the result belongs to this key"
    return None


def _files(cache: str | Path) -> list[Path]:
    """The files of a cache, or of the folder in it that holds the records."""
    folder = records_folder(cache) if records_folder(cache).is_dir() else Path(cache)
    if not (paths := sorted(folder.glob("*.jsonl"))):
        raise XtalrlError(f"{cache} holds no finished SCF: name the folder given as `cache:` in the config of a run.")
    return paths


def _read_all(paths: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """The records of these files, and a sentence for each line or file that cannot be used."""
    records, faults = [], []
    for path in paths:
        for number, found in read_records(path):
            if isinstance(found, Record):
                records.append(found)
            else:
                faults.append(f"{path}, line {number} is {found}" if number else found)
    return records, faults


def _one_per_key(records: Iterable[Record]) -> dict[str, Record]:
    """The preferred record of each calculation, as a run would take it."""
    kept: dict[str, Record] = {}
    for record in records:
        if record.key not in kept or record.says_more_than(kept[record.key]):
            kept[record.key] = record
    return kept


def _name(record: Record) -> str:
    return f"{record.key[:16]} ({_formula(record) or 'calculation not recorded'})"


def _formula(record: Record) -> str | None:
    return reduced_formula(record.species) if record.species else None


def _settings_type() -> pa.DataType:
    kinds = {
        "float": pa.float64(),
        "int": pa.int64(),
        "str": pa.string(),
        "Mesh": pa.list_(pa.int64()),
        "tuple[float, ...]": pa.list_(pa.float64()),
    }
    return pa.struct([(field.name, kinds[str(field.type).removesuffix(" | None")]) for field in fields(Settings)])


SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("formula", pa.string()),
        ("outcome", pa.string()),
        ("detail", pa.string()),
        ("total_energy_ry", pa.float64()),
        ("band_gap_raw_ev", pa.float64()),
        ("total_magnetization", pa.float64()),
        ("smearing", pa.bool_()),
        ("exit_code", pa.int64()),
        ("wall_s", pa.float64()),
        ("timeout_s", pa.float64()),
        ("engine", pa.string()),
        ("restarted", pa.bool_()),
        ("ended", pa.string()),
        ("protocol", pa.string()),
        ("family", pa.string()),
        ("species", pa.list_(pa.string())),
        ("lattice", pa.list_(pa.float64())),
        ("frac_coords", pa.list_(pa.float64())),
        ("settings", _settings_type()),
        ("pseudopotential_md5s", pa.map_(pa.string(), pa.string())),
        ("sha256", pa.string()),
    ]
)
"""Columns of an exported Parquet file: the fields of a record, its reduced formula, and the SHA-256 of its line in the cache."""


def _as_row(record: Record) -> dict[str, Any]:
    md5s = record.pseudopotential_md5s
    return asdict(record) | {
        "formula": _formula(record),
        "pseudopotential_md5s": None if md5s is None else list(md5s.items()),
        "sha256": _checksum(record),
    }


def _checksum(record: Record) -> str:
    return hashlib.sha256(to_line(record)).hexdigest()


def _read_parquet(path: Path) -> tuple[list[Record], list[str]]:
    """The records of an exported file, and a sentence for each row that was changed; one of an older version has no checksums."""
    records, faults = [], []
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        if strange := sorted(set(table.column_names) - set(SCHEMA.names)):
            raise ValueError(f"unknown columns: {', '.join(strange)[:80]}")
        rows = table.to_pylist(maps_as_pydicts="strict")
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise XtalrlError(f"{path} was not written by `xtalrl cache export`, or was damaged ({error}).") from None
    for number, row in enumerate(rows, start=1):
        try:
            if row["settings"] and row["settings"].get("site_magnetization") is None:
                row["settings"].pop("site_magnetization", None)  # A null of the table's; see `Settings.physics`.
            record = record_from(row)
            if "sha256" in row and row["sha256"] != _checksum(record):
                raise ValueError("its checksum does not fit")
        except (ValueError, KeyError) as error:
            faults.append(f"{path}, row {number} was changed ({error})")
        else:
            records.append(record)
    return records, faults
