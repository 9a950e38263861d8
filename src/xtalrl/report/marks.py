"""Functions that all figures share: drawing a policy's mark and interval, and writing a figure."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as Outline

from xtalrl.csv_files import write_csv
from xtalrl.files import write_whole
from xtalrl.metrics.intervals import Estimate
from xtalrl.report.style import RC_PARAMS, PolicyStyle

logger = logging.getLogger(__name__)

GUIDE = "#D9D9D9"
TRUTH = "#8C8C8C"
TRUTH_LINE: dict[str, Any] = {"color": TRUTH, "linewidth": 1.1, "linestyle": (0, (4, 2))}
CAPTION: dict[str, Any] = {"fontsize": 7.5, "color": "#444444", "va": "bottom"}


@dataclass(frozen=True)
class Drawing:
    """A figure, and all of its numbers as rows; `columns` are the columns that the CSV has if there are no numbers."""

    figure: Figure
    rows: Sequence[Mapping[str, object]]
    columns: Sequence[str] = ()

    def write(self, csv: str | Path, png: str | Path, pdf: str | Path) -> None:
        """Write the rows as CSV, and the figure as PNG and PDF; the same figure gives the same bytes."""
        write_csv(csv, list(self.rows[0]) if self.rows else self.columns, self.rows)
        for path, metadata in (
            (png, {"Software": None}),
            (pdf, {"CreationDate": None, "Producer": None, "Creator": None}),
        ):
            buffer = io.BytesIO()
            with mpl.rc_context(RC_PARAMS):
                self.figure.savefig(buffer, format=Path(path).suffix[1:], metadata=metadata)
            write_whole(path, buffer.getvalue())
        logger.info("Wrote %s, %s and %s", csv, png, pdf)


def mark(axis: Axes, position: float, estimate: Estimate, style: PolicyStyle, vertical: bool) -> None:
    """Draw an estimate with its interval at a position on the other axis; draw nothing if there is no number."""
    if estimate.value is None:
        return
    if estimate.low is not None and estimate.high is not None:
        draw = axis.vlines if vertical else axis.hlines
        draw(position, estimate.low, estimate.high, color=style.color, linewidth=1.3, zorder=2)
    x, y = (position, estimate.value) if vertical else (estimate.value, position)
    axis.plot([x], [y], linestyle="none", zorder=3, clip_on=False, **_marker(style))


def marker_path(marker: str) -> str:
    """The outline of a marker for the `d` of an SVG path, in a square of side 1 about the origin; y points up, as in matplotlib."""
    style = MarkerStyle(marker)
    outline = style.get_path().transformed(style.get_transform())
    letters = {
        Outline.MOVETO: "M",
        Outline.LINETO: "L",
        Outline.CURVE3: "Q",
        Outline.CURVE4: "C",
        Outline.CLOSEPOLY: "Z",
    }
    return " ".join(
        letters[code] + ("" if code == Outline.CLOSEPOLY else " ".join(f"{number:.3g}" for number in points))
        for points, code in outline.iter_segments(curves=True, simplify=False)
    )


def handle(style: PolicyStyle, label: str = "") -> Line2D:
    """The policy's entry in a legend."""
    return Line2D([], [], linestyle="none", label=label or style.label, **_marker(style))


def _marker(style: PolicyStyle) -> dict[str, Any]:
    return {
        "marker": style.marker,
        "markersize": 5.2,
        "markeredgewidth": 1.2,
        "markeredgecolor": style.color,
        "markerfacecolor": style.color if style.filled else "white",
    }
