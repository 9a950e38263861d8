"""Why designs fail: outcomes by policy and by element, as a table and on the periodic table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xtalrl import tables
from xtalrl.metrics.designs import SUCCESSFUL_OUTCOMES
from xtalrl.metrics.evaluation import INVALID_COMPOSITION, UNUSABLE_ENTRY
from xtalrl.metrics.intervals import wilson
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.contents import content
from xtalrl.report.layout import Table, TextTable
from xtalrl.report.results import Results

ANY_ELEMENT = "any"


def outcome_table(results: Results, scoring: Scoring) -> Table:
    """Count the outcomes of each policy's designs, over all of them and over those with each element.

    A design counts once for each of its elements. Intervals are Wilson's, although equal designs of several seeds are not independent.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in read_outcomes(results.path("evaluation")):
        for element in (ANY_ELEMENT, *sorted(set(row["species"]))):
            counts[row["policy"], element, row["outcome"]] += 1
    totals: Counter[tuple[str, str]] = Counter()
    for (policy, element, _), n in counts.items():
        totals[policy, element] += n
    order = {policy: number for number, policy in enumerate(results.policies)}
    rows = []
    for (policy, element, outcome), n in sorted(
        ((key, n) for key, n in counts.items() if key[0] in order),
        key=lambda item: (order[item[0][0]], item[0][1] != ANY_ELEMENT, item[0][1], -item[1], item[0][2]),
    ):
        total = totals[policy, element]
        share = wilson(n, total, scoring.confidence).scaled(100)
        rows.append(
            {
                "policy": policy, "element": element, "outcome": outcome, "n": n, "n_designs": total,
                "share_pct": share.value, "low": share.low, "high": share.high,
                "confidence": scoring.confidence, "interval": share.method,
            }
        )  # fmt: skip
    overall = [row for row in rows if row["element"] == ANY_ELEMENT]
    return Table(
        _text(overall, results.policies, _programs(results.path("design_scf"))), rows, content("outcomes").keys
    )


def _programs(outcomes: Path) -> str:
    """A sentence if the designs' SCFs come from several programs (some from the cache), whose numbers are in the same columns; else empty."""
    scfs = tables.read(outcomes, tables.SCF_OUTCOMES).select(["kind", "engine"]).to_pylist()
    counts = Counter(row["engine"] for row in scfs if row["kind"] == "design" and row["engine"])
    if len(counts) < 2:
        return ""
    return f" These are SCFs of {len(counts)} programs: {', '.join(f'{n:,} of {name}' for name, n in counts.most_common())}."


def read_outcomes(evaluation: str | Path) -> Iterable[dict[str, Any]]:
    """Policy, species and outcome of every design; a success that needed an extended recovery has the outcome `recovered`."""
    columns = ["policy", "species", "outcome", "recovered"]
    for row in tables.read(evaluation, tables.EVALUATION).select(columns).to_pylist():
        yield row | {"outcome": "recovered" if row["recovered"] else row["outcome"]}


def _text(rows: list[dict[str, Any]], policies: Iterable[str], note: str) -> TextTable:
    by_outcome: Counter[str] = Counter()
    cells: dict[str, dict[str, Mapping[str, Any]]] = {policy: {} for policy in policies}
    for row in rows:
        by_outcome[row["outcome"]] += row["n"]
        cells[row["policy"]][row["outcome"]] = row
    outcomes = sorted(by_outcome, key=lambda name: (_rank(name), -by_outcome[name], name))
    entry = content("outcomes")
    lines = [
        [
            policy,
            f"{next(iter(found.values()))['n_designs']:,}",
            *(
                f"{found[name]['n']:,} ({found[name]['share_pct']:.1f} %)" if name in found else "0"
                for name in outcomes
            ),
        ]
        for policy, found in cells.items()
        if found
    ]
    return TextTable(entry.title, entry.caption + note, ["Policy", "Designs", *outcomes], lines)


def _rank(outcome: str) -> int:
    return (
        0
        if outcome in SUCCESSFUL_OUTCOMES
        else 1
        if outcome == "recovered"
        else 3
        if outcome in (INVALID_COMPOSITION, UNUSABLE_ENTRY)
        else 2
    )
