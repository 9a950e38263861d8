"""Figures 2, 4, 6, 7 and 8 of the paper: results of the designs' SCFs for every policy, target gap and setting of the reward."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xtalrl.metrics import properties
from xtalrl.metrics.designs import Labels, PolicyDesigns
from xtalrl.metrics.intervals import Estimate
from xtalrl.metrics.scoring import Scoring
from xtalrl.progress import Progress
from xtalrl.report.marks import CAPTION, GUIDE, TRUTH, TRUTH_LINE, Drawing, handle, mark
from xtalrl.report.results import Results
from xtalrl.report.style import RC_PARAMS, Policies, PolicyStyle, policy_styles
from xtalrl.rl.policies import PolicySpec


@dataclass(frozen=True)
class Point:
    """One number of the figure; `target_ev` and `of` are set for ν and κ only."""

    policy: str
    metric: str
    unit: str
    estimate: Estimate
    target_ev: float | None = None
    of: str = ""


def figure2(results: Results, scoring: Scoring) -> Drawing:
    """Fig. 2 (a-e), or Fig. 6: ν and κ per target, earth mover's distances and mean formation energy per policy.

    A conditional policy is drawn at its own target, the others at every target; the rows have every policy at every target, with
    both denominators. Policies of the sweep are in Figs 7 and 8 instead.
    """
    specs = results.ordinary
    all_designs = [results.designs[name] for name in specs]
    points: list[Point] = []
    progress = Progress("Desired range and distances", len(all_designs), "policies")
    for designs in all_designs:
        points += _points(designs, scoring, scoring.targets_ev)
        progress.advance()
    return Drawing(_draw(points, all_designs, specs, scoring), _rows(points, all_designs, scoring.confidence))


def _points(designs: PolicyDesigns, scoring: Scoring, targets_ev: Sequence[float]) -> Iterator[Point]:
    of: properties.Denominator
    for target in targets_ev:
        for of in ("all", "successes"):
            nu = properties.desired_range(designs, scoring.at(target), of)
            yield Point(designs.policy, "nu", "%", nu.scaled(100), target, of)
            kappa = properties.out_of_distribution(designs, scoring.at(target), of)
            yield Point(designs.policy, "kappa", "%", kappa.scaled(100), target, of)
    for name, unit, metric in (
        ("emd_band_gap", "eV", properties.band_gap_distance),
        ("emd_formation_energy", "eV/atom", properties.formation_energy_distance),
        ("mean_formation_energy", "eV/atom", properties.mean_formation_energy),
        ("mean_band_gap", "eV", properties.mean_band_gap),
    ):
        yield Point(designs.policy, name, unit, metric(designs, scoring))


def _rows(points: Sequence[Point], all_designs: Sequence[PolicyDesigns], confidence: float) -> list[dict[str, object]]:
    by_policy = {designs.policy: designs for designs in all_designs}
    return [
        {
            "policy": point.policy,
            "target_ev": point.target_ev,
            "metric": point.metric,
            "of": point.of or None,
            "unit": point.unit,
            "value": point.estimate.value,
            "low": point.estimate.low,
            "high": point.estimate.high,
            "n": point.estimate.n,
            "n_crystals": len(by_policy[point.policy].material_ids),
            "n_seeds": len(by_policy[point.policy].seeds),
            "confidence": confidence,
            "interval": point.estimate.method or None,
            "validity_rule": by_policy[point.policy].validity_rule,
        }
        for point in points
    ]


def _draw(
    points: Sequence[Point],
    all_designs: Sequence[PolicyDesigns],
    specs: Policies,
    scoring: Scoring,
) -> Figure:
    reference = all_designs[0].labels
    styles = policy_styles(specs)
    policies = {name: spec.target_ev if spec else None for name, spec in specs.items()}
    targets_ev, window_ev = scoring.targets_ev, scoring.window_ev
    with mpl.rc_context(RC_PARAMS):
        rows_height = 0.5 + 0.235 * len(policies)
        legend_rows = -(-(len(policies) + 1) // 7)
        top, middle, bottom = 0.25 + 0.2 * legend_rows, 2.3, 1.0
        height = top + middle + 0.85 + rows_height + bottom
        figure = Figure(figsize=(10, height))
        FigureCanvasAgg(figure)
        upper = figure.add_gridspec(
            1, 2, left=0.075, right=0.985, top=1 - (top + 0.2) / height, bottom=1 - (top + middle) / height, wspace=0.17
        )
        lower = figure.add_gridspec(
            1, 3, left=0.155, right=0.925, top=(bottom + rows_height) / height, bottom=bottom / height, wspace=0.12
        )
        m = " or ".join(f"{n:,}" for n in sorted({len(designs.material_ids) for designs in all_designs}))
        _draw_targets(
            figure.add_subplot(upper[0]), "a   Desired range", f"ν (% of all M = {m})", "nu", points, policies, targets_ev, styles,
            _share_in_window(reference, targets_ev, window_ev),
        )  # fmt: skip
        _draw_targets(
            figure.add_subplot(upper[1]), "b   Desired range, true crystal outside it", f"κ (% of all M = {m})", "kappa", points,
            policies, targets_ev, styles, {},
        )  # fmt: skip
        axes = [figure.add_subplot(lower[i]) for i in range(3)]
        truth = list(reference.formation_energy_per_atom.values())
        for axis, title, label, metric, line in (
            (axes[0], "c   Gaps", "EMD from the validation set (eV)", "emd_band_gap", None),
            (axes[1], "d   Formation energies", "EMD from the validation set (eV/atom)", "emd_formation_energy", None),
            (
                axes[2], "e   Mean formation energy", "mean E_form (eV/atom)", "mean_formation_energy",
                float(np.mean(truth)) if truth else None,
            ),
        ):  # fmt: skip
            _draw_policies(axis, title, label, metric, points, policies, styles, line, first=axis is axes[0])
        _draw_counts(axes[2], points, list(policies), "mean_formation_energy")
        figure.legend(
            handles=[*(handle(styles[name]) for name in policies), Line2D([], [], label="validation set", **TRUTH_LINE)],
            loc="upper center", bbox_to_anchor=(0.5, 1 - 0.06 / height), ncols=min(7, len(policies) + 1),
            columnspacing=1.6, handletextpad=0.3, fontsize=8,
        )  # fmt: skip
        caption = _caption(all_designs, scoring)
        caption += _without_bars(points, "emd_band_gap", "emd_formation_energy", "mean_formation_energy")
        figure.text(0.02, 0.1 / height, "\n".join(textwrap.wrap(caption, 180)), **CAPTION)
    return figure


def _share_in_window(reference: Labels, targets_ev: Sequence[float], window_ev: float) -> dict[float, float]:
    """Percentage of the validation crystals that lie in each window."""
    gaps = np.array(list(reference.band_gap.values()), dtype=float)
    if not gaps.size:
        return {}
    return {target: 100 * float(properties.in_window(gaps, target, window_ev).mean()) for target in targets_ev}


def _draw_targets(
    axis: Axes,
    title: str,
    label: str,
    metric: str,
    points: Sequence[Point],
    policies: Mapping[str, float | None],
    targets_ev: Sequence[float],
    styles: Mapping[str, PolicyStyle],
    truth: Mapping[float, float],
) -> None:
    """Draw ν or κ: targets side by side, each with the unconditional policies and those of that target."""
    axis.set_title(title)
    axis.grid(axis="y", color=GUIDE, linewidth=0.5)
    for position, target in enumerate(targets_ev):
        shown = [name for name, own in policies.items() if own is None or own == target]
        offsets = np.linspace(-0.32, 0.32, len(shown)) if len(shown) > 1 else [0.0]
        if target in truth:
            axis.plot([position - 0.42, position + 0.42], [truth[target]] * 2, zorder=1, **TRUTH_LINE)
        for name, offset in zip(shown, offsets, strict=True):
            estimate = next(
                p.estimate
                for p in points
                if p.policy == name and p.metric == metric and p.target_ev == target and p.of == "all"
            )
            mark(axis, position + float(offset), estimate, styles[name], vertical=True)
        if position:
            axis.axvline(position - 0.5, color=GUIDE, linewidth=0.7)
    axis.set_xticks(range(len(targets_ev)), [f"{target:g} eV" for target in targets_ev])
    axis.tick_params(axis="x", length=0)
    axis.set_xlim(-0.5, max(len(targets_ev), 1) - 0.5)
    top = max(axis.get_ylim()[1], 1.0)
    axis.set_ylim(-0.03 * top, top)
    axis.set_xlabel("target gap p̂")
    axis.set_ylabel(label)


def _draw_policies(
    axis: Axes,
    title: str,
    label: str,
    metric: str,
    points: Sequence[Point],
    policies: Mapping[str, float | None],
    styles: Mapping[str, PolicyStyle],
    line: float | None,
    first: bool,
) -> None:
    """Draw one policy per row, the first on top."""
    axis.set_title(title, fontsize=9)
    axis.grid(axis="x", color=GUIDE, linewidth=0.5)
    estimates = {p.policy: p.estimate for p in points if p.metric == metric}
    beyond = _beyond_scale(estimates, line)
    for row, name in enumerate(policies):
        if row % 2:
            axis.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0, linewidth=0)
        estimate = estimates[name]
        if name == beyond:
            _draw_beyond(axis, row, estimate, styles[name])
        elif estimate.value is None:
            _draw_nothing(axis, row, name, points)
        else:
            mark(axis, row, estimate, styles[name], vertical=False)
    if line is not None:
        axis.axvline(line, zorder=1, **TRUTH_LINE)
    axis.set_yticks(range(len(policies)), [styles[name].label for name in policies] if first else [])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(policies) - 0.5, -0.5)
    if metric.startswith("emd"):
        axis.set_xlim(left=0)
    axis.set_xlabel(label)


def _beyond_scale(estimates: Mapping[str, Estimate], line: float | None) -> str | None:
    """The policy, if any, whose value is so much larger than all other intervals that it would squeeze them; an arrow replaces it."""
    values = {name: estimate.value for name, estimate in estimates.items() if estimate.value is not None}
    if len(values) < 4:
        return None
    largest = max(values, key=values.__getitem__)
    ends = [
        end for name, e in estimates.items() if name != largest for end in (e.value, e.low, e.high) if end is not None
    ]
    low = min([*ends, *([] if line is None else [line])])
    return largest if values[largest] - low > 3 * (max(ends) - low) else None


def _draw_nothing(axis: Axes, row: float, policy: str, points: Sequence[Point]) -> None:
    """Write why a row has no number: no SCF of the policy converged, or there are no labels to compare its designs with."""
    has_gap = any(p.policy == policy and p.metric == "mean_band_gap" and p.estimate.value is not None for p in points)
    axis.text(
        0.5, row, "no labels to compare with" if has_gap else "no successes", transform=axis.get_yaxis_transform(), ha="center", va="center", fontsize=7.5, color=TRUTH,
        style="italic", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )  # fmt: skip


def _draw_beyond(axis: Axes, row: float, estimate: Estimate, style: PolicyStyle) -> None:
    """Draw an arrow towards a value beyond the scale."""
    axis.annotate(
        f"{estimate.value:.2f}", xy=(1, row), xytext=(-26, 0), xycoords=axis.get_yaxis_transform(), textcoords="offset points",
        ha="right", va="center", fontsize=7.5, color=style.color,
        arrowprops={"arrowstyle": "->", "color": style.color, "linewidth": 1.2},
    )  # fmt: skip


def _draw_counts(axis: Axes, points: Sequence[Point], policies: Sequence[str], metric: str) -> None:
    """Write the number of designs behind each row to its right."""
    counts = {p.policy: p.estimate.n for p in points if p.metric == metric}
    axis.text(1.03, 1.0, "n", transform=axis.transAxes, ha="left", va="bottom", fontsize=8, color="#444444")
    for row, name in enumerate(policies):
        axis.text(
            1.03, row, f"{counts[name]:,}", transform=axis.get_yaxis_transform(), ha="left", va="center", fontsize=7.5,
            color="#444444",
        )  # fmt: skip


def _caption(all_designs: Sequence[PolicyDesigns], scoring: Scoring) -> str:
    return (
        f"Desired range: gaps within ±{scoring.window_ev:g} eV of the target. Failed and invalid designs count in ν and κ as outside it. "
        f"Conditional policies are shown at their own target. Lower is better in c, d, e; an arrow stands for a value off the scale. "
        f"EMD: earth mover's distance. n: designs with a formation energy. {_intervals(all_designs, scoring.confidence)}"
    )


def _intervals(all_designs: Sequence[PolicyDesigns], confidence: float) -> str:
    """A sentence that says what the bars are, how many seeds there are, and which validity rule applies."""
    seeds = sorted({len(designs.seeds) for designs in all_designs})
    rules = sorted({designs.validity_rule for designs in all_designs})
    return (
        f"Bars: {100 * confidence:g} % intervals over crystals{' and seeds' if max(seeds) > 1 else ''} "
        f"({' or '.join(map(str, seeds))} seed{'s' if max(seeds) > 1 else ''}). Composition validity: {', '.join(rules)}."
    )


def _without_bars(points: Iterable[Point], *metrics: str) -> str:
    """A sentence about marks of these metrics without a bar, if there are any."""
    bare = any(p.estimate.value is not None and p.estimate.low is None for p in points if p.metric in metrics)
    return " A mark without a bar: its values are all equal, which says nothing of their spread." if bare else ""


def figure4(results: Results, scoring: Scoring) -> Drawing:
    """Fig. 4: the mean gap of each policy's designs, and of the validation labels.

    The rows also have the mean of the raw gaps. Policies of the sweep are in Figs 7 and 8 instead.
    """
    shown = results.ordinary
    all_designs = [results.designs[name] for name in shown]
    points = []
    for designs in all_designs:
        points.append(Point(designs.policy, "mean_band_gap", "eV", properties.mean_band_gap(designs, scoring)))
        raw = properties.mean_band_gap(designs, scoring, gaps="raw")
        points.append(Point(designs.policy, "mean_band_gap_raw", "eV", raw))
    styles = policy_styles(shown)
    truth = list(all_designs[0].labels.band_gap.values())
    with mpl.rc_context(RC_PARAMS):
        rows_height = 0.4 + 0.22 * len(shown)
        height = rows_height + 1.35
        figure = Figure(figsize=(6.2, height))
        FigureCanvasAgg(figure)
        axis = figure.add_axes((0.27, 0.95 / height, 0.6, rows_height / height))
        line = float(np.mean(truth)) if truth else None
        _draw_policies(
            axis,
            "",
            "mean gap of the designs (eV)",
            "mean_band_gap",
            points,
            dict.fromkeys(shown),
            styles,
            line,
            first=True,
        )
        axis.set_xlim(left=min(0.0, axis.get_xlim()[0]))
        _draw_counts(axis, points, list(shown), "mean_band_gap")
        if line is not None:
            axis.text(
                line, 1.02, f"validation set {line:.3f}", transform=axis.get_xaxis_transform(), ha="center", va="bottom",
                fontsize=7.5, color="#444444",
            )  # fmt: skip
        caption = f"Gaps clipped at 0. {_intervals(all_designs, scoring.confidence)} n: designs with a gap."
        caption += _without_bars(points, "mean_band_gap")
        figure.text(0.02, 0.08 / height, "\n".join(textwrap.wrap(caption, 112)), **CAPTION)
    return Drawing(figure, _rows(points, all_designs, scoring.confidence))


def figure7(results: Results, scoring: Scoring) -> Drawing:
    """Fig. 7: every setting of the reward at the target gap 1.12 eV, with the baselines on top."""
    return _settings_figure(1.12, results, scoring)


def figure8(results: Results, scoring: Scoring) -> Drawing:
    """Fig. 8: the same as Fig. 7 at the target gap 4 eV."""
    return _settings_figure(4.0, results, scoring)


def _settings_figure(target_ev: float, results: Results, scoring: Scoring) -> Drawing:
    specs = results.settings_at(target_ev)
    all_designs = [results.designs[name] for name in specs]
    points: list[Point] = []
    progress = Progress("Settings of the reward", len(all_designs), "policies")
    for designs in all_designs:
        points += _points(designs, scoring, [target_ev])
        progress.advance()
    figure = _draw_settings(points, all_designs, specs, target_ev, scoring)
    return Drawing(figure, _rows(points, all_designs, scoring.confidence))


def _draw_settings(
    points: Sequence[Point],
    all_designs: Sequence[PolicyDesigns],
    specs: Mapping[str, PolicySpec],
    target_ev: float,
    scoring: Scoring,
) -> Figure:
    """Draw one row per setting (or baseline), with one mark per conservatism weight."""
    styles = policy_styles(specs)
    rows: dict[str, list[str]] = {}
    for name, spec in specs.items():
        label = spec.reward.setting if spec.is_conditional and spec.reward else spec.algorithm.label
        rows.setdefault(label, []).append(name)
    labels = all_designs[0].labels
    m = " or ".join(f"{n:,}" for n in sorted({len(designs.material_ids) for designs in all_designs}))
    gaps, energies = list(labels.band_gap.values()), list(labels.formation_energy_per_atom.values())
    in_range = _share_in_window(labels, [target_ev], scoring.window_ev)
    panels = (
        ("a   Mean gap", "mean gap (eV)", "mean_band_gap", float(np.mean(gaps)) if gaps else None),
        ("b   Mean formation energy", "mean E_form (eV/atom)", "mean_formation_energy", float(np.mean(energies)) if energies else None),
        ("c   Gaps", "EMD (eV)", "emd_band_gap", None),
        ("d   Formation energies", "EMD (eV/atom)", "emd_formation_energy", None),
        ("e   Desired range", f"ν (% of all M = {m})", "nu", in_range.get(target_ev)),
    )  # fmt: skip
    with mpl.rc_context(RC_PARAMS):
        rows_height, bottom, top = 0.3 + 0.3 * len(rows), 1.0, 0.6
        height = rows_height + bottom + top
        figure = Figure(figsize=(12, height))
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            1, 5, left=0.07, right=0.985, top=1 - top / height, bottom=bottom / height, wspace=0.13
        )
        for index, (title, label, metric, line) in enumerate(panels):
            axis = figure.add_subplot(grid[index])
            axis.set_title(title)
            axis.grid(axis="x", color=GUIDE, linewidth=0.5)
            estimates = {p.policy: p.estimate for p in points if p.metric == metric and p.of in ("", "all")}
            beyond = _beyond_scale(estimates, line)
            for row, names in enumerate(rows.values()):
                if row % 2:
                    axis.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0, linewidth=0)
                offsets = np.linspace(-0.17, 0.17, len(names)) if len(names) > 1 else [0.0]
                for name, offset in zip(names, offsets, strict=True):
                    if name == beyond:
                        _draw_beyond(axis, row + float(offset), estimates[name], styles[name])
                    else:
                        mark(axis, row + float(offset), estimates[name], styles[name], vertical=False)
                if all(estimates[name].value is None for name in names):
                    _draw_nothing(axis, row, names[0], points)
            if line is not None:
                axis.axvline(line, zorder=1, **TRUTH_LINE)
            axis.set_yticks(range(len(rows)), list(rows) if index == 0 else [])
            axis.tick_params(axis="y", length=0)
            axis.set_ylim(len(rows) - 0.5, -0.5)
            if metric.startswith(("emd", "nu")):
                axis.set_xlim(left=min(0.0, axis.get_xlim()[0]) if metric == "nu" else 0)
            axis.locator_params(axis="x", nbins=5, prune="upper")
            axis.set_xlabel(label)
        conditional = {spec.omega: styles[name] for name, spec in specs.items() if spec.is_conditional}
        figure.legend(
            handles=[
                *(handle(style, f"c-CQL {target_ev:g} eV, ω = {omega:g}") for omega, style in conditional.items()),
                *(handle(styles[name]) for name, spec in specs.items() if not spec.is_conditional),
                Line2D([], [], label="validation set", **TRUTH_LINE),
            ],
            loc="upper center", bbox_to_anchor=(0.5, 1 - 0.05 / height), ncols=8, columnspacing=1.6, handletextpad=0.3, fontsize=8,
        )  # fmt: skip
        caption = (
            f"Rows: α1-α2-β of the reward (eq. 16) at the target {target_ev:g} eV, after the baselines. EMD: earth mover's distance from "
            f"the validation labels. Desired range: gaps within ±{scoring.window_ev:g} eV of the target; failed and invalid designs count as "
            f"outside. Lower is better in b, c, d. An arrow stands for a value off the scale. {_intervals(all_designs, scoring.confidence)}"
        )
        figure.text(0.015, 0.08 / height, "\n".join(textwrap.wrap(caption, 215)), **CAPTION)
    return figure
