"""Learning curves as inline SVG, with one chart per quantity and one line per policy and seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from matplotlib.ticker import MaxNLocator

from xtalrl.csv_files import read_csv
from xtalrl.report.style import PolicyStyle

_WIDTH, _HEIGHT = 420, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 12, 34
_MAX_POINTS = 240
# Axis label of each quantity; those that training.csv has are drawn in this order.
QUANTITIES = {
    "loss": "loss",
    "accuracy": "accuracy of the greedy action",
    "td_loss": "TD loss",
    "conservative_loss": "conservative loss",
    "q_data": "mean Q of the data's actions",
    "grad_norm": "gradient norm before clipping",
}


@dataclass(frozen=True)
class TrainingLog:
    """The columns of one training.csv; NaN where a cell is empty."""

    policy: str
    seed: int
    columns: Mapping[str, Sequence[float]]


def read_training_log(path: Path) -> TrainingLog:
    """Read `policies/{policy}/seed{n}/training.csv`."""
    log = read_csv(path)
    columns = {name: [float(row[name]) if row[name] else math.nan for row in log.rows] for name in log.columns}
    return TrainingLog(path.parent.parent.name, int(path.parent.name.removeprefix("seed")), columns)


def learning_curves(logs: Sequence[TrainingLog], styles: Mapping[str, PolicyStyle]) -> list[tuple[str, str]]:
    """(quantity, SVG) for each quantity that any log has."""
    charts = []
    for name, label in QUANTITIES.items():
        series = [(log, _thin(log.columns["step"], log.columns[name])) for log in logs if name in log.columns]
        series = [(log, points) for log, points in series if points]
        if series:
            charts.append((label, _chart(label, series, styles)))
    return charts


def _thin(steps: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """At most `_MAX_POINTS` points, each the mean of the same number of neighbours; empty values are left out."""
    points = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    size = math.ceil(len(points) / _MAX_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)] if points else []
    return [(sum(p[0] for p in group) / len(group), sum(p[1] for p in group) / len(group)) for group in groups]


def _chart(
    label: str, series: Sequence[tuple[TrainingLog, list[tuple[float, float]]]], styles: Mapping[str, PolicyStyle]
) -> str:
    xs = [x for _, points in series for x, _ in points]
    ys = sorted(y for _, points in series for _, y in points)
    low, high = ys[0], ys[-1]
    # The first steps of a loss can be beyond any useful scale: show the range of 99 % of the points.
    if len(ys) >= 100:
        high = ys[int(0.99 * len(ys))]
    pad = 0.06 * (high - low) or 0.5
    low, high, right = low - pad, high + pad, max(xs)
    left = 0.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - left) / ((right - left) or 1) * (_WIDTH - _LEFT - _RIGHT),
            _TOP + (high - min(max(y, low), high)) / (high - low) * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label={quoteattr(f"{label} against training step")}>'
    ]
    for tick in _ticks(low, high):
        y = place(0, tick)[1]
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(left, right):
        x = place(tick, low)[0]
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{_short(tick)}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">training step</text>')
    for log, points in series:
        style = styles[log.policy]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in points))
        dash = "" if style.filled else ' stroke-dasharray="4 2.5"'
        title = escape(f"{style.label}, seed {log.seed}: {points[-1][1]:.4g} at the end")
        color = style.color if style.color != "#000000" else "currentColor"
        parts.append(f'<path class="curve" d="{path}" stroke="{color}"{dash}><title>{title}</title></path>')
    return "".join(parts) + "</svg>"


def _ticks(low: float, high: float) -> list[float]:
    ticks = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [round(float(tick), 12) for tick in ticks if low <= tick <= high]


def _short(number: float) -> str:
    return f"{number / 1000:g}k" if abs(number) >= 1000 else f"{number:g}"
