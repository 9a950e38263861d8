"""Off-policy evaluation: ν of the policies as predicted before any SCF and, once there are SCFs, how well the prediction ranked them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from xtalrl import tables
from xtalrl.dft.pseudopotentials import describe_family
from xtalrl.dft.requests import will_run
from xtalrl.metrics.designs import read_compositions
from xtalrl.metrics.intervals import BOOTSTRAP, NOTHING, Estimate
from xtalrl.metrics.properties import desired_range, predicted_range
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.contents import content
from xtalrl.report.estimates import ResultTable, Row
from xtalrl.report.layout import Table, TextTable, format_estimate, verdict_on
from xtalrl.report.results import Results

_ALL = "all policies"


def predicted_range_table(results: Results, scoring: Scoring) -> Table:
    """ν of every policy at every target from the predictor's probabilities, which need no SCF of a design."""
    entry = content("predicted_range")
    assessments = results.path("assessments")
    rows = []
    for target, p_hit in _probabilities(results, scoring, assessments, tables.ASSESSMENTS):
        at = scoring.at(target)
        for designs in read_compositions(assessments, results.policies, p_hit):
            estimates = [column.estimate(designs, at) for column in entry.columns]
            rows.append(Row({"policy": designs.policy, "target_ev": target}, estimates, designs))
    order = list(results.policies)
    rows.sort(key=lambda row: order.index(str(row.keys["policy"])))
    return ResultTable(entry, rows, scoring, f"Window: ±{scoring.window_ev:g} eV.").table()


def prediction_check_table(results: Results, scoring: Scoring) -> Table:
    """Predicted ν next to ν by DFT and, for each target, Spearman's ρ between the two over the policies.

    The interval of ρ comes from resampled skeletons; for fewer than three policies there is no ρ.
    """
    entry = content("prediction_check")
    evaluation = results.path("evaluation")
    rows: list[dict[str, object]] = []
    lines = []
    for target, p_hit in _probabilities(results, scoring, evaluation, tables.EVALUATION):
        designs = results.designs_in(evaluation, results.policies, p_hit)
        at = scoring.at(target)
        predicted = [predicted_range(each, at).scaled(100) for each in designs.values()]
        found = [desired_range(each, at).scaled(100) for each in designs.values()]
        for name, before, after in zip(designs, predicted, found, strict=True):
            verdict = verdict_on(before, after.value)
            rows.append(_row(name, target, before, after, verdict, NOTHING))
            lines.append([name, f"{target:g}", format_estimate(before, 1), format_estimate(after, 1), verdict, ""])
        correlation = rank_correlation(predicted, found, scoring.confidence)
        rows.append(_row(_ALL, target, NOTHING, NOTHING, "", correlation))
        lines.append([_ALL, f"{target:g}", "", "", "", format_estimate(correlation, 2)])
    headings = ["Policy", "Target (eV)", "ν predicted (%)", "ν by DFT (%)", "Prediction", "Rank correlation"]
    caption = (
        f"{entry.caption} Window: ±{scoring.window_ev:g} eV. In brackets: {100 * scoring.confidence:g} % intervals (predicted: of the hits that there "
        f"are if the probabilities are right; of the rank correlation: {BOOTSTRAP})."
    )
    return Table(TextTable(entry.title, caption, headings, lines, 2), rows, entry.keys)


def rank_correlation(first: Sequence[Estimate], second: Sequence[Estimate], confidence: float) -> Estimate:
    """Spearman's ρ between two quantities over the same policies; the resamples of both must be of the same skeletons.

    There is no value for fewer than three policies, or if one of the quantities is the same for all.
    """
    known = [(a, b) for a, b in zip(first, second, strict=True) if a.value is not None and b.value is not None]
    n = len(known)
    if n < 3:
        return NOTHING
    value = _spearman(np.array([[number.value for number in pair] for pair in known], float).T)
    if not np.isfinite(value):
        return NOTHING
    resamples = np.array([[number.resamples for number in pair] for pair in known], float)
    drawn = np.array([_spearman(resamples[:, :, b].T) for b in range(resamples.shape[2])])
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return Estimate(value, None, None, n)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(value, min(float(low), value), max(float(high), value), n, BOOTSTRAP, drawn)


def _spearman(pairs: np.ndarray) -> float:
    """Spearman's ρ of two rows; NaN if one of them is constant or not finite."""
    if not np.isfinite(pairs).all() or (np.ptp(pairs, axis=1) == 0).any():
        return np.nan
    return float(np.corrcoef(stats.rankdata(pairs, axis=1))[0, 1])


def _row(
    policy: str, target: float, predicted: Estimate, found: Estimate, verdict: str, correlation: Estimate
) -> dict[str, object]:
    row: dict[str, object] = {"policy": policy, "target_ev": target}
    for name, estimate in (("predicted_nu_pct", predicted), ("nu_pct", found), ("rank_correlation", correlation)):
        row |= {
            name: estimate.value,
            f"{name}_low": estimate.low,
            f"{name}_high": estimate.high,
            f"{name}_n": estimate.n,
        }
    return row | {"prediction": verdict}


def _probabilities(
    results: Results, scoring: Scoring, designs: Path, schema: Any
) -> list[tuple[float, dict[str, float]]]:
    """For each target, the probability of a hit by request of the design's SCF; a design that gets no SCF is left out."""
    species = {row["request_id"]: row["species"] for row in tables.read_rows(designs, schema) if row["request_id"]}
    family, recovery = describe_family(results.family), results.recovery
    runs = {request_id for request_id, elements in species.items() if will_run(elements, family, recovery)}
    return [
        (
            target,
            {
                row["material_id"]: row["p_hit"]
                for row in tables.read_rows(path, tables.PREDICTIONS)
                if row["material_id"] in runs
            },
        )
        for target, path in zip(scoring.targets_ev, results.paths("predictions"), strict=True)
    ]
