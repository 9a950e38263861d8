"""Where designs fail, on the periodic table."""

from __future__ import annotations

import textwrap
from collections import Counter

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pymatgen.core.periodic_table import Element

from xtalrl.elements import ELEMENTS
from xtalrl.metrics.designs import SUCCESSFUL_OUTCOMES
from xtalrl.metrics.evaluation import INVALID_COMPOSITION
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.failures import read_outcomes
from xtalrl.report.marks import CAPTION, Drawing
from xtalrl.report.results import Results
from xtalrl.report.style import RC_PARAMS

_FEWEST = 10
"""Minimum number of designs with an element; fewer say nothing about it."""


def outcomes_by_element(results: Results, _: Scoring) -> Drawing:
    """The share of failed SCFs among the valid designs with each element, over all policies but random."""
    counted = [policy for policy in results.policies if policy != "random"] or list(results.policies)
    total: Counter[str] = Counter()
    failures: dict[str, Counter[str]] = {element: Counter() for element in ELEMENTS}
    for row in read_outcomes(results.path("evaluation")):
        if row["policy"] not in counted or row["outcome"] == INVALID_COMPOSITION:
            continue
        for element in set(row["species"]) & failures.keys():
            total[element] += 1
            if row["outcome"] not in (*SUCCESSFUL_OUTCOMES, "recovered"):
                failures[element][row["outcome"]] += 1
    rows = [
        {
            "element": element,
            "n_designs": total[element],
            "n_failed": failures[element].total(),
            "failed_pct": 100 * failures[element].total() / total[element] if total[element] else None,
            "most_frequent_failure": next(iter(failures[element].most_common(1)), (None, 0))[0],
        }
        for element in sorted(ELEMENTS, key=lambda symbol: Element(symbol).Z)
    ]
    shares = {element: failures[element].total() / total[element] for element in ELEMENTS if total[element] >= _FEWEST}
    return Drawing(_draw(shares, total), rows)


def _draw(shares: dict[str, float], total: Counter[str]) -> Figure:
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(9, 4.9))
        FigureCanvasAgg(figure)
        axis = figure.add_axes((0.01, 0.1, 0.9, 0.88))
        colors = mpl.colormaps["YlOrBr"]
        scale = Normalize(0, 100)
        for element in ELEMENTS:
            x, y = _place(element)
            known = element in shares
            face = colors(scale(100 * shares[element])) if known else "#EDEDED"
            dark = known and shares[element] > 0.6
            ink = "white" if dark else "#222222" if known else "#9A9A9A"
            axis.add_patch(Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, facecolor=face, linewidth=0))
            axis.text(x, y - 0.1, element, ha="center", va="center", fontsize=9, fontweight="bold", color=ink)
            below = f"{100 * shares[element]:.0f} %" if known else f"n {total[element]}"
            axis.text(x, y + 0.27, below, ha="center", va="center", fontsize=6, color=ink)
        axis.set_xlim(0.4, 18.6)
        axis.set_ylim(9.85, 0.4)
        axis.set_aspect("equal")
        axis.axis("off")
        bar = figure.colorbar(
            mpl.cm.ScalarMappable(scale, colors),
            cax=figure.add_axes((0.925, 0.2, 0.016, 0.68)),
            ticks=range(0, 101, 20),
        )
        bar.outline.set_visible(False)
        bar.set_label("failed SCFs among valid designs with the element (%)", fontsize=8)
        caption = (
            f"All policies but random, all seeds; a design counts once for each of its elements. Grey: fewer than {_FEWEST} valid designs, with "
            "their number."
        )
        figure.text(0.02, 0.02, "\n".join(textwrap.wrap(caption, 165)), **CAPTION)
    return figure


def _place(symbol: str) -> tuple[float, float]:
    """Column and row of an element, with the lanthanides and actinides below the table."""
    element = Element(symbol)
    if 57 <= element.Z <= 71:
        return element.Z - 57 + 3.0, 8.3
    if 89 <= element.Z <= 103:
        return element.Z - 89 + 3.0, 9.3
    return float(element.group), float(element.row)
