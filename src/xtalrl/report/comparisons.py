"""Comparison of policies with each other, and of this run with the paper."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import stats

from xtalrl.metrics import composition, properties
from xtalrl.metrics.designs import PolicyDesigns
from xtalrl.metrics.intervals import NOTHING, Estimate, paired_difference
from xtalrl.metrics.scoring import Scoring
from xtalrl.progress import Progress
from xtalrl.report.columns import TABLE1, TABLE2, Column
from xtalrl.report.contents import content
from xtalrl.report.layout import Table, TextTable
from xtalrl.report.paper import PAPER_TABLES, PaperRow, PaperTable, identity, paper_rows
from xtalrl.report.results import Results

_TESTED = (
    ("accuracy", "%", 100, composition.accuracy),
    ("similarity", "%", 100, composition.similarity),
    ("validity", "%", 100, composition.validity),
    ("novelty", "%", 100, composition.novelty),
    ("dft_success_of_all", "%", 100, properties.dft_success_of_all),
    ("mean_formation_energy", "eV/atom", 1, properties.mean_formation_energy),
    ("mean_band_gap", "eV", 1, properties.mean_band_gap),
    ("emd_band_gap", "eV", 1, properties.band_gap_distance),
    ("emd_formation_energy", "eV/atom", 1, properties.formation_energy_distance),
)
_TESTED_AT_TARGETS = (
    ("nu", "%", 100, properties.desired_range),
    ("kappa", "%", 100, properties.out_of_distribution),
)


def policy_tests(results: Results, scoring: Scoring) -> Table:
    """Test, in every metric, every pair of policies that filled the same skeletons with the same number of seeds.

    ν and κ are compared at each target, between the policies with that target and those without any. The CSV has one row per pair and
    metric; the table for people shows the pairs that are significant after the correction.
    """
    confidence = scoring.confidence
    estimates: dict[tuple[str, str, float | None], dict[str, tuple[PolicyDesigns, Estimate]]] = {}
    progress = Progress("Pairs of policies", len(results.designs), "policies")
    for name, designs in results.designs.items():
        spec = results.policies[name]
        own = [target for target in scoring.targets_ev if spec is None or spec.target_ev in (None, target)]
        for key, estimate in _estimates(designs, scoring, own):
            estimates.setdefault(key, {})[name] = designs, estimate
        progress.advance()
    rows = []
    for (metric, unit, target), by_policy in estimates.items():
        rows += _pairs(metric, unit, target, by_policy, confidence)
    entry = content("policy_tests")
    shown = [row for row in rows if isinstance(p := row["p_fdr"], float) and p < 1 - confidence]
    seeds = sorted({len(designs.seeds) for designs in results.designs.values()})
    caption = (
        f"{entry.caption} Of {len(rows):,} tests the {len(shown):,} with p_fdr < {1 - confidence:.2g} are shown, the CSV has all. "
        f"{' or '.join(map(str, seeds))} seed(s), {scoring.bootstrap_samples:,} resamples."
    )
    headings = ["First", "Second", "Metric", "Unit", "Target (eV)", "Difference", "p", "p_fdr", "Test"]
    text = [
        [
            str(row["first"]), str(row["second"]), str(row["metric"]), str(row["unit"]),
            "–" if row["target_ev"] is None else f"{row['target_ev']:g}",
            f"{row['difference']:.3g}" + ("" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]"),
            f"{'≤ ' if row['p'] == row['p_floor'] else ''}{row['p']:.2g}", f"{row['p_fdr']:.2g}", str(row["test"]),
        ]
        for row in shown
    ]  # fmt: skip
    return Table(TextTable(entry.title, caption, headings, text, 4), rows, entry.keys)


def _estimates(
    designs: PolicyDesigns, scoring: Scoring, targets: Sequence[float]
) -> Iterator[tuple[tuple[str, str, float | None], Estimate]]:
    for name, unit, factor, metric in _TESTED:
        yield (name, unit, None), metric(designs, scoring).scaled(factor)
    for name, unit, factor, target_metric in _TESTED_AT_TARGETS:
        for target in targets:
            yield (name, unit, target), target_metric(designs, scoring.at(target)).scaled(factor)


def _pairs(
    metric: str,
    unit: str,
    target: float | None,
    by_policy: Mapping[str, tuple[PolicyDesigns, Estimate]],
    confidence: float,
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for (first, (a, x)), (second, (b, y)) in itertools.combinations(by_policy.items(), 2):
        if a.material_ids != b.material_ids or len(a.seeds) != len(b.seeds):
            continue
        difference = paired_difference(x, y, confidence)
        if difference is None:
            continue
        rows.append(
            {
                "first": first, "second": second, "metric": metric, "unit": unit, "target_ev": target,
                "difference": difference.value, "low": difference.low, "high": difference.high,
                "p": difference.p, "p_fdr": None, "p_floor": difference.p_floor, "test": difference.test,
                "first_value": x.value, "second_value": y.value, "first_n": x.n, "second_n": y.n,
                "n_crystals": len(a.material_ids), "n_seeds": len(a.seeds), "confidence": confidence,
            }
        )  # fmt: skip
    tested = [row for row in rows if row["p"] is not None]
    if tested:
        corrected = stats.false_discovery_control([row["p"] for row in tested])
        for row, p in zip(tested, np.atleast_1d(corrected), strict=True):
            row["p_fdr"] = float(p)
    return rows


def paper_comparison(results: Results, scoring: Scoring) -> Table:
    """Every cell of the paper's Tables 1 to 4 next to ours.

    `verdict` says where the paper's value lies relative to our interval: inside, above or below; missing where this run has no number
    for the cell, not_printed where the paper has none. A policy is identified with one of the paper's if reward, target and weight are equal.
    """
    specs = {identity(spec): name for name, spec in results.policies.items() if spec}
    columns = {column.name: column for column in (*TABLE1, *TABLE2) if column.in_paper}
    rows = []
    progress = Progress("Paper comparison", len(PAPER_TABLES), "tables")
    for table in PAPER_TABLES:
        for paper_row in paper_rows(table):
            name = specs.get(identity(paper_row.policy))
            designs_of = results.compositions if table.number == 1 else results.designs
            designs = designs_of[name] if name else None
            for metric in paper_row.values:
                column = columns[metric]
                ours = column.estimate(designs, scoring) if designs else NOTHING
                cell = _cell(table, paper_row, column, name, designs, ours, results.training_steps)
                rows.append(cell | {"confidence": scoring.confidence})
        progress.advance()
    verdicts = [str(row["verdict"]) for row in rows]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    entry = content("paper_comparison")
    headings = ["Table", "Policy", "Metric", "Paper", "Ours", "n", "Seeds", "Verdict", "Note"]
    text = [
        [
            str(row["paper_table"]), str(row["row"]), str(row["metric"]), _two_decimals(row["paper"]),
            _two_decimals(row["ours"]) + (f" [{row['low']:.2f}, {row['high']:.2f}]" if row["low"] is not None else ""),
            f"{row['n']:,}", str(row["seeds"] or "–"), str(row["verdict"]), str(row["note"] or ""),
        ]
        for row in rows
    ]  # fmt: skip
    caption = f"{entry.caption} {len(rows)} cells: {counts}. All numbers in percent."
    return Table(TextTable(entry.title, caption, headings, text, 3), rows, entry.keys)


def _cell(
    table: PaperTable,
    paper_row: PaperRow,
    column: Column,
    name: str | None,
    designs: PolicyDesigns | None,
    ours: Estimate,
    training_steps: int,
) -> dict[str, object]:
    paper = paper_row.values[column.name]
    notes = [paper_row.notes.get(column.name, "")]
    if designs and paper_row.policy.is_learned and training_steps != table.steps:
        notes.append(f"trained {training_steps:,} steps here, {table.steps:,} in the paper")
    return {
        "paper_table": table.number,
        "row": paper_row.label,
        "policy": name,
        "metric": column.name.removesuffix("_pct"),
        "unit": "%",
        "paper": paper,
        "ours": ours.value,
        "low": ours.low,
        "high": ours.high,
        "n": ours.n,
        "n_counts": column.unit_counted,
        "n_seeds": len(designs.seeds) if designs else None,
        "seeds": " ".join(map(str, designs.seeds)) if designs else None,
        "interval": ours.method or None,
        "verdict": verdict(paper, ours),
        "note": "; ".join(filter(None, notes)) or None,
    }


def verdict(paper: float | None, ours: Estimate) -> str:
    """Where the paper's value lies: inside, above or below our interval; not_printed where the paper has no number, missing where we have none."""
    if paper is None:
        return "not_printed"
    if ours.low is None or ours.high is None:
        return "missing"
    return "below" if paper < ours.low else "above" if paper > ours.high else "inside"


def _two_decimals(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else "–"
