"""Figure 2 of the paper: what the SCFs of the designs tell, for every policy and target gap."""

from __future__ import annotations

import io
import logging
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from xtalrl import tables
from xtalrl.metrics import properties
from xtalrl.metrics.designs import PolicyDesigns, read_policies
from xtalrl.metrics.intervals import Estimate
from xtalrl.progress import Progress
from xtalrl.report.files import write_bytes, write_csv
from xtalrl.report.style import RC_PARAMS, PolicyStyle, policy_styles

logger = logging.getLogger(__name__)

_GUIDE = "#D9D9D9"
_TRUTH = "#8C8C8C"
_TRUTH_LINE: dict[str, Any] = {"color": _TRUTH, "linewidth": 1.1, "linestyle": (0, (4, 2))}


@dataclass(frozen=True)
class Point:
    """One number of the figure: `target_ev` and `of` are set for ν and κ only."""

    policy: str
    metric: str
    unit: str
    estimate: Estimate
    target_ev: float | None = None
    of: str = ""


@dataclass(frozen=True)
class _Reference:
    """The validation labels by crystal: the distribution designs are compared with."""

    band_gap: dict[str, float]
    formation_energy_per_atom: dict[str, float]


def make_figure2(
    evaluation: str | Path,
    labels: str | Path,
    png: str | Path,
    pdf: str | Path,
    csv: str | Path,
    policies: Mapping[str, float | None],
    targets_ev: Sequence[float],
    window_ev: float,
    bootstrap_samples: int,
    confidence: float,
) -> None:
    """Draw Fig. 2 (a-e): ν and κ per target, earth mover's distances and mean formation energy per policy.

    A conditional policy is drawn at its own target, the others at every target; the CSV has every policy at every target, and
    both denominators.

    Args:
        evaluation: `EVALUATION` table.
        labels: `LABELS`; its split `val` is the true distribution.
        png: picture to write.
        pdf: the same as vectors.
        csv: every number of the figure, one a row.
        policies: target gap of each policy in eV, None for unconditional ones; in drawing order.
        targets_ev: target gaps.
        window_ev: half width of the desired range.
        bootstrap_samples: resamples of an interval.
        confidence: its level.

    Raises:
        XtalrlError: see `read_policies`.
    """
    all_designs = read_policies(evaluation, list(policies))
    reference = _read_reference(labels)
    points: list[Point] = []
    progress = Progress("Figure 2", len(all_designs), "policies")
    for designs in all_designs:
        points += _points(designs, reference, targets_ev, window_ev, bootstrap_samples, confidence)
        progress.advance()
    _write_points(csv, points, all_designs, confidence)
    figure = _draw(points, all_designs, policies, targets_ev, window_ev, reference, confidence)
    for path, metadata in ((png, {"Software": None}), (pdf, {"CreationDate": None, "Producer": None, "Creator": None})):
        buffer = io.BytesIO()
        with mpl.rc_context(RC_PARAMS):
            figure.savefig(buffer, format=Path(path).suffix[1:], metadata=metadata)
        write_bytes(path, buffer.getvalue())
    logger.info("Wrote %s, %s and %s", png, pdf, csv)


def _read_reference(labels: str | Path) -> _Reference:
    rows = [row for row in tables.read_rows(labels, tables.LABELS) if row["split"] == "val"]
    return _Reference(
        *(
            {row["material_id"]: row[name] for row in rows if row[name] is not None}
            for name in ("band_gap", "formation_energy_per_atom")
        )
    )


def _points(
    designs: PolicyDesigns,
    reference: _Reference,
    targets_ev: Sequence[float],
    window_ev: float,
    bootstrap_samples: int,
    confidence: float,
) -> Iterator[Point]:
    bootstrap = designs.bootstrap(bootstrap_samples, confidence)
    of: properties.Denominator
    for target in targets_ev:
        for of in ("all", "successes"):
            nu = properties.desired_range(designs, bootstrap, target, window_ev, of)
            yield Point(designs.policy, "nu", "%", nu.scaled(100), target, of)
            kappa = properties.out_of_distribution(designs, bootstrap, target, window_ev, of)
            yield Point(designs.policy, "kappa", "%", kappa.scaled(100), target, of)
    gap_distance = properties.band_gap_distance(designs, bootstrap, reference.band_gap)
    yield Point(designs.policy, "emd_band_gap", "eV", gap_distance)
    energy_distance = properties.formation_energy_distance(designs, bootstrap, reference.formation_energy_per_atom)
    yield Point(designs.policy, "emd_formation_energy", "eV/atom", energy_distance)
    yield Point(
        designs.policy, "mean_formation_energy", "eV/atom", properties.mean_formation_energy(designs, bootstrap)
    )
    yield Point(designs.policy, "mean_band_gap", "eV", properties.mean_band_gap(designs, bootstrap))


def _write_points(
    path: str | Path, points: Sequence[Point], all_designs: Sequence[PolicyDesigns], confidence: float
) -> None:
    by_policy = {designs.policy: designs for designs in all_designs}
    rows = [
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
    write_csv(path, list(rows[0]), rows)


def _draw(
    points: Sequence[Point],
    all_designs: Sequence[PolicyDesigns],
    policies: Mapping[str, float | None],
    targets_ev: Sequence[float],
    window_ev: float,
    reference: _Reference,
    confidence: float,
) -> Figure:
    styles = policy_styles(policies)
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
        _draw_counts(axes[2], points, policies)
        figure.legend(
            handles=[*(_handle(styles[name]) for name in policies), Line2D([], [], label="validation set", **_TRUTH_LINE)],
            loc="upper center", bbox_to_anchor=(0.5, 1 - 0.06 / height), ncols=min(7, len(policies) + 1),
            columnspacing=1.6, handletextpad=0.3, fontsize=8,
        )  # fmt: skip
        caption = _caption(all_designs, targets_ev, window_ev, confidence)
        figure.text(
            0.02, 0.1 / height, "\n".join(textwrap.wrap(caption, 180)), fontsize=7.5, color="#444444", va="bottom"
        )
    return figure


def _share_in_window(reference: _Reference, targets_ev: Sequence[float], window_ev: float) -> dict[float, float]:
    """Share of the validation crystals themselves in each window, percent."""
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
    """ν or κ: targets side by side, in each the unconditional policies and those of that target."""
    axis.set_title(title)
    axis.grid(axis="y", color=_GUIDE, linewidth=0.5)
    for position, target in enumerate(targets_ev):
        shown = [name for name, own in policies.items() if own is None or own == target]
        offsets = np.linspace(-0.32, 0.32, len(shown)) if len(shown) > 1 else [0.0]
        if target in truth:
            axis.plot([position - 0.42, position + 0.42], [truth[target]] * 2, zorder=1, **_TRUTH_LINE)
        for name, offset in zip(shown, offsets, strict=True):
            estimate = next(
                p.estimate
                for p in points
                if p.policy == name and p.metric == metric and p.target_ev == target and p.of == "all"
            )
            _mark(axis, position + float(offset), estimate, styles[name], vertical=True)
        if position:
            axis.axvline(position - 0.5, color=_GUIDE, linewidth=0.7)
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
    """One policy a row, the first on top."""
    axis.set_title(title, fontsize=9)
    axis.grid(axis="x", color=_GUIDE, linewidth=0.5)
    estimates = {p.policy: p.estimate for p in points if p.metric == metric}
    beyond = _beyond_scale(estimates, line)
    for row, name in enumerate(policies):
        if row % 2:
            axis.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0, linewidth=0)
        estimate = estimates[name]
        if name == beyond and estimate.value is not None:
            axis.annotate(
                f"{estimate.value:.2f}", xy=(1, row), xytext=(-26, 0), xycoords=axis.get_yaxis_transform(),
                textcoords="offset points", ha="right", va="center", fontsize=7.5, color=styles[name].color,
                arrowprops={"arrowstyle": "->", "color": styles[name].color, "linewidth": 1.2},
            )  # fmt: skip
        elif estimate.value is None:
            axis.text(
                0.5, row, "no successes", transform=axis.get_yaxis_transform(), ha="center", va="center", fontsize=7.5,
                color=_TRUTH, style="italic", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        else:
            _mark(axis, row, estimate, styles[name], vertical=False)
    if line is not None:
        axis.axvline(line, zorder=1, **_TRUTH_LINE)
    axis.set_yticks(range(len(policies)), [styles[name].label for name in policies] if first else [])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(policies) - 0.5, -0.5)
    if metric.startswith("emd"):
        axis.set_xlim(left=0)
    axis.set_xlabel(label)


def _beyond_scale(estimates: Mapping[str, Estimate], line: float | None) -> str | None:
    """The policy whose value is so much larger than all other intervals that it would squeeze them: an arrow stands for it."""
    values = {name: estimate.value for name, estimate in estimates.items() if estimate.value is not None}
    if len(values) < 4:
        return None
    largest = max(values, key=values.__getitem__)
    ends = [
        end for name, e in estimates.items() if name != largest for end in (e.value, e.low, e.high) if end is not None
    ]
    low = min([*ends, *([] if line is None else [line])])
    return largest if values[largest] - low > 3 * (max(ends) - low) else None


def _draw_counts(axis: Axes, points: Sequence[Point], policies: Mapping[str, float | None]) -> None:
    """Number of designs behind the mean formation energy, at the right of the rows."""
    counts = {p.policy: p.estimate.n for p in points if p.metric == "mean_formation_energy"}
    axis.text(1.03, 1.0, "n", transform=axis.transAxes, ha="left", va="bottom", fontsize=8, color="#444444")
    for row, name in enumerate(policies):
        axis.text(
            1.03, row, f"{counts[name]:,}", transform=axis.get_yaxis_transform(), ha="left", va="center", fontsize=7.5,
            color="#444444",
        )  # fmt: skip


def _mark(axis: Axes, position: float, estimate: Estimate, style: PolicyStyle, vertical: bool) -> None:
    if estimate.value is None:
        return
    if estimate.low is not None and estimate.high is not None:
        draw = axis.vlines if vertical else axis.hlines
        draw(position, estimate.low, estimate.high, color=style.color, linewidth=1.3, zorder=2)
    x, y = (position, estimate.value) if vertical else (estimate.value, position)
    axis.plot([x], [y], linestyle="none", zorder=3, clip_on=False, **_marker(style))


def _marker(style: PolicyStyle) -> dict[str, Any]:
    return {
        "marker": style.marker,
        "markersize": 5.2,
        "markeredgewidth": 1.2,
        "markeredgecolor": style.color,
        "markerfacecolor": style.color if style.filled else "white",
    }


def _handle(style: PolicyStyle) -> Line2D:
    return Line2D([], [], linestyle="none", label=style.label, **_marker(style))


def _caption(
    all_designs: Sequence[PolicyDesigns], targets_ev: Sequence[float], window_ev: float, confidence: float
) -> str:
    seeds = sorted({len(designs.seeds) for designs in all_designs})
    rules = sorted({designs.validity_rule for designs in all_designs})
    return (
        f"Desired range: gaps within ±{window_ev:g} eV of the target. Failed and invalid designs count in ν and κ as outside it. "
        f"Conditional policies are shown at their own target. Lower is better in c, d, e; an arrow stands for a value off the scale. EMD: earth mover's distance. n: designs with a formation energy. "
        f"Bars: {100 * confidence:g} % intervals over crystals{' and seeds' if max(seeds) > 1 else ''} "
        f"({' or '.join(map(str, seeds))} seed{'s' if max(seeds) > 1 else ''}). Composition validity: {', '.join(rules)}."
    )
