"""Rows of SCF_OUTCOMES: the row of one request, the table of all shards, and a summary in words."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from xtalrl import tables
from xtalrl.dft.climb import Climb
from xtalrl.dft.levels import clip_gap
from xtalrl.dft.outcomes import Outcome, Result
from xtalrl.dft.recovery import Attempt, Situation, final_result, lower_state
from xtalrl.energies import RYDBERG_EV_PAPER
from xtalrl.errors import XtalrlError, shorten

logger = logging.getLogger(__name__)

_OF_A_REQUEST = ("kind", "key", "species", "source")
"""Columns that a row of outcomes takes over from its request."""
_OUTCOMES = frozenset(map(str, Outcome))


def outcome_row(request: Mapping[str, Any], climb: Climb) -> dict[str, Any]:
    """The row of SCF_OUTCOMES of a request that has ended, without request_id and source, which requests with one key do not share."""
    situation, protocol, family = climb.situation, climb.situation.protocol, climb.situation.family
    attempt, result = _spokesman(climb)
    usable = result.outcome.usable
    energy_ry = result.total_energy_ry if usable else None
    engines = [record.engine for record in climb.records]
    return {
        "kind": request["kind"],
        "key": request["key"],
        "species": request["species"],
        "outcome": str(result.outcome),
        "detail": _detail(situation, result),
        "total_energy_ry": energy_ry,
        "total_energy": None if energy_ry is None else energy_ry * RYDBERG_EV_PAPER,
        "band_gap_raw": result.band_gap_raw_ev if usable else None,
        "band_gap": credited_gap(situation, result) if usable else None,
        "is_metallic": result.is_metallic,
        "nspin": attempt.settings.nspin if attempt else None,
        "tot_magnetization": attempt.settings.tot_magnetization if attempt else None,
        "strategy": attempt.strategy if attempt and usable else None,
        "recovered": not climb.paper_has_it() if usable else None,
        "protocol": protocol.name,
        "protocol_hash": protocol.digest(family),
        "family": family.name,
        "engine": engines[-1] if engines else None,
        "wall_s": sum(record.wall_s for record in climb.records),
        "attempts": _attempt_rows(climb),
    }


def credited_gap(situation: Situation, result: Result) -> float | None:
    """Gap in eV that a usable result is credited with.

    A crystal computed with smearing and without a gap is a metal; for an elemental reference, smearing says nothing about the gap.
    """
    if result.smearing and result.band_gap_raw_ev is None and situation.form == "crystal":
        return 0.0
    return clip_gap(result.band_gap_raw_ev)


def _spokesman(climb: Climb) -> tuple[Attempt | None, Result]:
    """The attempt that counts for the request (None if it ended without one) and its result."""
    if climb.verdict is None:
        return final_result(climb.situation)
    family = climb.situation.family
    lacking = family.missing(climb.situation.cell.species)
    detail = f"{family.name} lacks {', '.join(lacking)}" if lacking else climb.verdict.sentence
    return None, Result(climb.verdict, detail)


def _detail(situation: Situation, result: Result) -> str:
    """What a reader should know of a result: its own detail, why it failed, and whether a lower state was seen."""
    if result.outcome.usable:
        return "; ".join(filter(None, (result.detail, lower_state(situation))))
    return result.detail or result.outcome.sentence


def _attempt_rows(climb: Climb) -> list[dict[str, Any]]:
    tried = [attempt for attempt, _ in climb.situation.history]
    return [
        {
            "number": number,
            "strategy": attempt.strategy,
            "outcome": record.outcome,
            "detail": record.detail,
            "nspin": attempt.settings.nspin,
            "tot_magnetization": attempt.settings.tot_magnetization,
            "exit_code": record.exit_code,
            "wall_s": record.wall_s,
            "restarted": record.restarted,
            "key": record.key,
        }
        for number, (attempt, record) in enumerate(zip(tried, climb.records, strict=True), start=1)
    ]


def gather_outcomes(shards: Sequence[str], outcomes: str, requests: str) -> None:
    """Put the rows of all shards into one table, in the order of their request_id, and log how they ended.

    Args:
        shards: `SCF_OUTCOMES` of each shard.
        outcomes: `SCF_OUTCOMES` to write.
        requests: `SCF_REQUESTS` of all shards.

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
            "%s: no verdict on the crystals, and not kept. To try them again: `xtalrl rerun %s`, then the same command.",
            in_words(open_ended),
            " ".join(f"--outcome {name}" for name in sorted(open_ended)),
        )


def _check_shards(rows_of: Mapping[str, Sequence[Mapping[str, Any]]], requests: str) -> None:
    """Raise unless the shards together hold one row per request, all of one protocol and with known outcomes."""
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
    wanted = {row["request_id"]: row for row in tables.read_rows(requests, tables.SCF_REQUESTS)}
    wrong = sorted(wanted.keys() ^ found.keys())
    wrong += [
        name for name in wanted if name in found and any(wanted[name][c] != found[name][c] for c in _OF_A_REQUEST)
    ]
    if wrong:
        folders = ", ".join(sorted({str(Path(path).parent) for path in rows_of}))
        raise XtalrlError(
            f"The shards in {folders} are not those of {requests}: {len(wrong)} of {len(wanted)} requests are missing there, of another "
            f"calculation, or not asked for ({shorten(wrong)}). Delete the shards and run the same "
            "command again; what the cache holds is not computed again."
        )


def count_outcomes(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line on the outcomes of rows of SCF_OUTCOMES and on the rungs that gave the usable ones, the most frequent first."""
    counts = Counter(row["outcome"] for row in rows)
    usable = sum(n for name, n in counts.items() if Outcome(name).usable)
    strategies = Counter(row["strategy"] for row in rows if row["strategy"] is not None)
    recovered = sum(bool(row["recovered"]) for row in rows)
    return (
        f"{usable:,} of {len(rows):,} usable: {in_words(counts) or 'nothing to do'}"
        + (f"; given by: {in_words(strategies)}" if strategies else "")
        + (f"; {recovered:,} thanks to the extended recovery" if recovered else "")
    )


def in_words(counts: Counter[str]) -> str:
    """Counts of outcomes or strategies, the most frequent first."""
    return ", ".join(f"{n:,} {name}" for name, n in counts.most_common())
