"""The table of hits: how many were confirmed by finer SCFs, how many withdrawn, and how far their gaps moved."""

from __future__ import annotations

from statistics import fmean

from xtalrl import tables
from xtalrl.metrics.confirmation import CONFIRMED, UNANSWERED, WITHDRAWN
from xtalrl.metrics.intervals import WILSON, wilson
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.contents import content
from xtalrl.report.layout import Table, TextTable
from xtalrl.report.results import Results


def confirmation_table(results: Results, scoring: Scoring) -> Table:
    """Count the hits of each policy with a target by verdict; where a skeleton has several designs, only the first counts, as in ν.

    A row has the counts, the confirmed share of the hits with an answer (%), the mean difference of the gaps and the largest absolute one (eV).
    """
    found = [row for row in tables.read_rows(results.path("confirmation"), tables.CONFIRMATION) if not row["sample"]]
    rows: list[dict[str, object]] = []
    lines = []
    for policy, spec in results.policies.items():
        if spec is None or spec.target_ev is None:
            continue
        target = spec.target_ev
        hits = [row for row in found if row["policy"] == policy]
        confirmed, withdrawn, unanswered = (
            sum(row["verdict"] == verdict for row in hits) for verdict in (CONFIRMED, WITHDRAWN, UNANSWERED)
        )
        answered = confirmed + withdrawn
        share = wilson(confirmed, answered, scoring.confidence).scaled(100)
        shifts = [row["difference"] for row in hits if row["difference"] is not None]
        row = {
            "policy": policy,
            "target_ev": target,
            "hits": len(hits),
            "confirmed": confirmed,
            "withdrawn": withdrawn,
            "unanswered": unanswered,
            "confirmed_pct": share.value,
            "low": share.low,
            "high": share.high,
            "mean_difference_ev": fmean(shifts) if shifts else None,
            "largest_difference_ev": max(map(abs, shifts)) if shifts else None,
            "seeds": len({hit["seed"] for hit in hits}),
            "confidence": scoring.confidence,
            "interval": WILSON,
        }
        rows.append(row)
        told = f"{share.value:.1f} ({share.low:.1f}, {share.high:.1f})" if answered else "–"
        mean, largest = (
            (f"{row['mean_difference_ev']:+.2f}", f"{row['largest_difference_ev']:.2f}") if shifts else ("–", "–")
        )
        counts = [f"{n:,}" for n in (len(hits), confirmed, withdrawn, unanswered)]
        lines.append([policy, f"{target:g}", *counts, told, mean, largest])
    entry = content("confirmation")
    headings = [
        "Policy", "Target (eV)", "Hits", "Hit confirmed", "Hit withdrawn", "No answer", "Confirmed (%)", "Mean difference (eV)", "Largest (eV)",
    ]  # fmt: skip
    caption = f"{entry.caption} In brackets: {100 * scoring.confidence:g} % intervals ({WILSON})."
    return Table(TextTable(entry.title, caption, headings, lines, 2), rows, entry.keys)
