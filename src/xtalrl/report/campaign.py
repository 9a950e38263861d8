"""The campaign in the report: what was known in advance, what every round spent and found, and hits over SCFs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xtalrl import tables
from xtalrl.campaign.accounts import Account, accounts, together
from xtalrl.campaign.learning import NEAR_EV, labels_near
from xtalrl.campaign.screening import COMPUTED, LEFT_OUT
from xtalrl.campaign.wishes import Wishes
from xtalrl.csv_files import read_csv
from xtalrl.metrics.confirmation import CONFIRMED
from xtalrl.metrics.intervals import Estimate, expected_hits, wilson
from xtalrl.metrics.prediction import Judged, gap_error, resampled
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.contents import content
from xtalrl.report.layout import Table, TextTable, format_estimate, verdict_on
from xtalrl.report.marks import CAPTION, GUIDE, Drawing
from xtalrl.report.results import Results
from xtalrl.report.style import RC_PARAMS

_FOUND, _CONFIRMED, _PROMISED, _UNSCREENED = "#D55E00", "#009E73", "#D55E00", "#767676"


def campaign_accounts(results: Results) -> list[Account]:
    """The account of every round of a campaign."""
    return accounts(
        [tables.read_rows(path, tables.SCREENING) for path in results.paths("campaign_screenings")],
        tables.read_rows(results.path("campaign_outcomes"), tables.SCF_OUTCOMES),
        tables.read_rows(results.path("campaign_hits"), tables.HITS),
        tables.read_rows(results.path("campaign_confirmation"), tables.CONFIRMATION),
        tables.read_rows(results.path("campaign_confirmation_outcomes"), tables.SCF_OUTCOMES),
        CONFIRMED,
    )


def readiness_table(results: Results, scoring: Scoring) -> Table:
    """What the labels and the first screen say about a campaign before anything is spent.

    A row says what it is about, and has a number (with an interval if there is one), its unit and a note.
    """
    wishes = Wishes(**results.campaign)
    labels = labels_near(tables.read_rows(results.path("labels"), tables.LABELS), (wishes.gap_from, wishes.gap_to))
    screening = tables.read_rows(results.path("campaign_first"), tables.SCREENING)
    candidates = [row for row in screening if row["verdict"] != LEFT_OUT]
    computed = [row["p_hit"] for row in candidates if row["verdict"] in COMPUTED]
    promised = expected_hits(computed, scoring.confidence).scaled(100 / len(computed) if computed else 1)
    unscreened = float(np.mean([row["p_hit"] for row in candidates])) if candidates else None
    share = wilson(labels["inside"], labels["known"], scoring.confidence).scaled(100)
    held_out = Judged.read(results.path("campaign_held_out"), results.path("labels"))
    inside = held_out.where((held_out.true_gap > wishes.gap_from) & (held_out.true_gap < (wishes.gap_to or np.inf)))
    error = resampled(gap_error, inside, scoring.confidence)
    warning = "" if labels["near"] else f"No label lies within {NEAR_EV:g} eV: predictions of such gaps are guesses."

    def row(what: str, value: float | None, low: float | None = None, high: float | None = None, unit: str = "", note: str = "") -> dict[str, object]:  # fmt: skip
        return {"what": what, "value": value, "low": low, "high": high, "unit": unit, "note": note}

    rows = [
        row("Labels with a gap", labels["known"], unit="crystals"),
        row(f"Labels within {NEAR_EV:g} eV of the wanted gaps", labels["near"], unit="crystals", note=warning),
        row("Labels with a wanted gap", labels["inside"], unit="crystals"),
        row(
            "Share of the labels with a wanted gap", share.value, share.low, share.high, "%", share.method,
        ),
        row(
            "Mean absolute error of the first predictor there", error.value, error.low, error.high, "eV", "held-out labels with a wanted gap",
        ),
        row("Designs proposed in round 1", len(screening), unit="designs"),
        row("Designs up for choice", len(candidates), unit="designs", note="valid, new, and as wished"),
        row("SCFs of round 1", len(computed), unit="SCFs"),
        row("Hits promised per 100 SCFs", promised.value, promised.low, promised.high, "hits", promised.method),
        row("Hits promised per 100 unscreened SCFs", None if unscreened is None else 100 * unscreened, unit="hits"),
    ]  # fmt: skip
    entry = content("campaign_readiness")
    lines = [
        [
            str(item["what"]),
            _number(item["value"]),
            f"{_number(item['low'])} to {_number(item['high'])}" if item["low"] is not None else "",
            str(item["unit"]),
            str(item["note"]),
        ]
        for item in rows
    ]
    caption = f"{entry.caption} Wanted: {wishes.in_words}. Intervals: {100 * scoring.confidence:g} %."
    headings = ["What", "Value", "Interval", "Unit", "Note"]
    return Table(TextTable(entry.title, caption, headings, lines), rows, entry.keys)


def _number(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.2f}"


def campaign_table(results: Results, scoring: Scoring) -> Table:
    """Each round and all together: designs, SCFs, hits, the hits that were expected, what the screen was worth, and the cost of a hit."""
    found = campaign_accounts(results)
    rows, lines = [], []
    for name, account in [*((str(number), each) for number, each in enumerate(found, 1)), ("all", together(found))]:
        verdict = account.verdict(scoring.bootstrap_samples, scoring.confidence)
        promised = account.promised(scoring.confidence)
        hits, confirmed, scfs = account.count("hit"), account.count("confirmed"), len(account.computed)
        estimates = {
            "promised_hits": promised,
            "hits_per_100": verdict.screened.scaled(100),
            "unscreened_per_100": verdict.unscreened.scaled(100),
            "acceleration": verdict.acceleration,
            "recall_pct": verdict.recall.scaled(100),
        }
        at_most = None if verdict.recall_at_most is None else 100 * verdict.recall_at_most
        unscreened = verdict.unscreened.value
        mean_cpu = account.unscreened_cpu_s
        row: dict[str, object] = {
            "round": name,
            "proposed": account.proposed,
            "candidates": account.candidates,
            "scfs": scfs,
            "audited": account.count("audited"),
            "converged": account.count("converged"),
            "hits": hits,
            "confirmed": confirmed,
            "promise": verdict_on(promised, hits),
        }
        for column, estimate in estimates.items():
            row |= {
                column: estimate.value,
                f"{column}_low": estimate.low,
                f"{column}_high": estimate.high,
                f"{column}_interval": estimate.method,
            }
        row |= {
            "recall_at_most_pct": at_most,
            "cpu_s": account.cpu_s,
            "cpu_per_hit_s": account.cpu_s / hits if hits else None,
            "cpu_per_confirmed_hit_s": account.cpu_s / confirmed if confirmed else None,
            "unscreened_cpu_per_hit_s": mean_cpu / unscreened if mean_cpu is not None and unscreened else None,
            "confidence": scoring.confidence,
        }
        rows.append(row)
        lines.append(
            [
                name,
                f"{account.proposed:,}",
                f"{account.candidates:,}",
                f"{scfs:,} ({account.count('audited'):,})",
                f"{hits:,}",
                f"{confirmed:,}",
                f"{format_estimate(promised, 1)} {row['promise']}".strip(),
                format_estimate(estimates["hits_per_100"], 0),
                format_estimate(estimates["unscreened_per_100"], 0),
                format_estimate(verdict.acceleration, 1),
                format_estimate(estimates["recall_pct"], 0) + (f" (≤ {at_most:.0f})" if at_most is not None else ""),
                _seconds(row["cpu_per_hit_s"]),
                _seconds(row["cpu_per_confirmed_hit_s"]),
                _seconds(row["unscreened_cpu_per_hit_s"]),
            ]
        )
    entry = content("campaign")
    headings = [
        "Round", "Proposed", "Up for choice", "SCFs (audited)", "Hits", "Confirmed", "Promised", "Hits per 100 SCFs", "Unscreened", "Acceleration",
        "Recall (%)", "CPU per hit (s)", "per confirmed hit", "per unscreened hit",
    ]  # fmt: skip
    caption = (
        f"{entry.caption} Wanted: {Wishes(**results.campaign).in_words}. In brackets: {100 * scoring.confidence:g} % intervals (Wilson score; from the audit, "
        "the posterior of the hits among the dropped)."
    )
    return Table(TextTable(entry.title, caption, headings, lines), rows, list(rows[0]))


def hits_table(results: Results, scoring: Scoring) -> Table:
    """The hits in the order in which they are handed over, the best first."""
    entry = content("campaign_found")
    rows = read_csv(results.path("campaign_found")).rows
    lines = []
    for row in rows:
        near = (
            "the same crystal" if row["same_structure"] == "True" else f"{_short(row['composition_distance'], 1)} away"
        )
        lines.append(
            [
                row["rank"], row["formula"] + (f" (as {row['same_as_rank']})" if row["same_as_rank"] else ""),
                f"{row['skeleton']} ({row['skeleton_formula']})", _short(row["band_gap"], 2), _short(row["confirmed_band_gap"], 2), row["verdict"], _short(row["formation_energy_per_atom"], 2),
                _short(row["energy_above_hull"], 2) + (f" ({row['hull_flag']})" if row["hull_flag"] else ""), row["novel"] or "–",
                f"{row['nearest_formula']}, {row['nearest_crystal']}, {near}" if row["nearest_crystal"] else "–", _short(row["cpu_s"], 0),
            ]
        )  # fmt: skip
    headings = [
        "Rank", "Formula", "Skeleton", "Gap (eV)", "Finer gap (eV)", "Verdict", "E_form (eV/atom)", "Above hull (eV/atom)", "Novel", "Nearest known crystal",
        "CPU (s)",
    ]  # fmt: skip
    caption = f"{entry.caption} Wanted: {Wishes(**results.campaign).in_words}."
    return Table(TextTable(entry.title, caption, headings, lines, 3), rows, entry.keys)


def _short(number: str, decimals: int) -> str:
    return f"{float(number):.{decimals}f}" if number else "–"


def _seconds(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else "–"


def campaign_figure(results: Results, scoring: Scoring) -> Drawing:
    """Cumulative hits over SCFs, together with the expected hits and those that the same SCFs would have found without a screen."""
    found = campaign_accounts(results)
    account = together(found)
    hits = np.cumsum([one.hit for one in account.computed])
    confirmed = np.cumsum([one.confirmed for one in account.computed])
    promised = np.cumsum([one.probability for one in account.computed])
    unscreened = account.verdict(scoring.bootstrap_samples, scoring.confidence).unscreened
    rows = [
        {
            "scf": number,
            "round": one.round,
            "request_id": one.request_id,
            "audited": one.audited,
            "probability": one.probability,
            "hits": int(hits[number - 1]),
            "confirmed": int(confirmed[number - 1]),
            "promised": float(promised[number - 1]),
            **{
                f"unscreened{end}": None if rate is None else rate * number
                for end, rate in (("", unscreened.value), ("_low", unscreened.low), ("_high", unscreened.high))
            },
        }
        for number, one in enumerate(account.computed, 1)
    ]
    columns = ("scf", "round", "request_id", "audited", "probability", "hits", "confirmed", "promised", "unscreened")
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(7, 4.6))
        FigureCanvasAgg(figure)
        axis = figure.add_axes((0.09, 0.3, 0.88, 0.62))
        _draw(axis, found, hits, confirmed, promised, unscreened)
        figure.text(0.02, 0.02, "\n".join(textwrap.wrap(_caption(results, scoring), 125)), **CAPTION)
    return Drawing(figure, rows, columns)


def _draw(
    axis: Axes,
    rounds: Sequence[Account],
    hits: np.ndarray,
    confirmed: np.ndarray,
    promised: np.ndarray,
    unscreened: Estimate,
) -> None:
    at = np.arange(len(hits) + 1)

    def from_zero(values: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], values])

    end = 0
    for number, each in enumerate(rounds, 1):
        n_audited = each.count("audited")
        axis.axvspan(end + len(each.computed) - n_audited, end + len(each.computed), color="#F0F0F0", zorder=0)
        axis.annotate(f"round {number}", (end, 1), xycoords=("data", "axes fraction"), xytext=(2, -9),
                      textcoords="offset points", fontsize=7, color="#777777")  # fmt: skip
        end += len(each.computed)
        axis.axvline(end, color=GUIDE, linewidth=0.7, zorder=0)
    if unscreened.value is not None:
        if unscreened.low is not None and unscreened.high is not None:
            axis.fill_between(at, unscreened.low * at, unscreened.high * at, color=_UNSCREENED, alpha=0.15, linewidth=0)
        axis.plot(at, unscreened.value * at, color=_UNSCREENED, label="without the screen")
    axis.plot(at, from_zero(promised), color=_PROMISED, linestyle=(0, (4, 2)), linewidth=1, label="promised")
    axis.step(at, from_zero(hits), where="post", color=_FOUND, label="hits")
    axis.step(at, from_zero(confirmed), where="post", color=_CONFIRMED, label="confirmed")
    axis.set_xlim(0, max(len(hits), 1))
    axis.set_ylim(0, 1.12 * max(1.0, float(hits[-1]) if len(hits) else 1.0, float(promised[-1]) if len(hits) else 1.0))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("SCFs of designs spent")
    axis.set_ylabel("hits")
    axis.legend(loc="upper left", bbox_to_anchor=(0.0, 0.93), fontsize=8)


def _caption(results: Results, scoring: Scoring) -> str:
    entry = content("campaign_hits")
    return (
        f"{entry.caption} Shaded: audited designs. Wanted: {Wishes(**results.campaign).in_words}. Interval: {100 * scoring.confidence:g} % (posterior of the hits "
        "among the dropped)."
    )
