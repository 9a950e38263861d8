"""Figure 5: distributions of gap, total energy and formation energy of the labelled crystals."""

from __future__ import annotations

import textwrap
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from xtalrl import tables
from xtalrl.metrics.intervals import wilson
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.marks import CAPTION, GUIDE, Drawing
from xtalrl.report.results import Results
from xtalrl.report.style import RC_PARAMS

_QUANTITIES = (
    ("band_gap", "gap (eV)", "a   Gap"),
    ("total_energy_ry", "total energy of the cell (Ry)", "b   Total energy"),
    ("formation_energy_per_atom", "formation energy (eV/atom)", "c   Formation energy"),
)
_SPLITS = {"train": ("#0072B2", "training"), "val": ("#D55E00", "validation"), "test": ("#009E73", "test")}
_MOST_BINS = 40


def figure5(results: Results, scoring: Scoring) -> Drawing:
    """Fig. 5: how gaps, total energies and formation energies are distributed in each split.

    An axis covers all values but the outermost 0.5 % on either side; the rows count these in the first and last bin.
    """
    confidence = scoring.confidence
    frame = tables.read(results.path("labels"), tables.LABELS).to_pandas()
    frame = frame[frame["split"] != tables.METALS]
    n_bins = int(np.clip(np.sqrt(len(frame)), 5, _MOST_BINS))
    bins: list[dict[str, Any]] = []
    sizes: dict[tuple[str, str], tuple[int, float]] = {}
    for name, _, _ in _QUANTITIES:
        known = frame[frame[name].notna()]
        if known.empty:
            continue
        low, high = np.quantile(known[name], [0.005, 0.995])
        edges = np.linspace(min(low, 0.0) if name == "band_gap" else low, high if high > low else low + 1.0, n_bins + 1)
        for split, part in known.groupby("split"):
            values = part[name].to_numpy(float)
            counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
            sizes[name, str(split)] = len(values), float(values.mean())
            for index, n in enumerate(counts.tolist()):
                share = wilson(n, len(values), confidence).scaled(100)
                bins.append(
                    {
                        "quantity": name, "split": split, "from": float(edges[index]), "to": float(edges[index + 1]), "n": n,
                        "n_crystals": len(values), "share_pct": share.value,
                        "low": share.low, "high": share.high, "confidence": confidence,
                    }
                )  # fmt: skip
    columns = ("quantity", "split", "from", "to", "n", "n_crystals", "share_pct", "low", "high", "confidence")
    return Drawing(_draw(bins, sizes, confidence), bins, columns)


def _draw(bins: list[dict[str, Any]], sizes: dict[tuple[str, str], tuple[int, float]], confidence: float) -> Figure:
    with mpl.rc_context(RC_PARAMS):
        figure = Figure(figsize=(10, 3.8))
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 3)
        figure.subplots_adjust(left=0.06, right=0.985, top=0.76, bottom=0.25, wspace=0.2)
        shown = []
        for axis, (name, label, title) in zip(axes, _QUANTITIES, strict=True):
            axis.set_title(title, pad=26)
            axis.set_xlabel(label)
            axis.grid(axis="y", color=GUIDE, linewidth=0.5)
            notes = []
            for place, (split, (color, split_name)) in enumerate(_SPLITS.items()):
                part = [row for row in bins if row["quantity"] == name and row["split"] == split]
                if not part:
                    continue
                edges = [row["from"] for row in part] + [part[-1]["to"]]
                axis.stairs([row["share_pct"] for row in part], edges, color=color, linewidth=1.3, zorder=3)
                within = (place + 1) / (len(_SPLITS) + 1)  # the splits' intervals stand side by side in a bin
                axis.vlines(
                    [row["from"] + within * (row["to"] - row["from"]) for row in part], [row["low"] for row in part],
                    [row["high"] for row in part], color=color, linewidth=0.9, alpha=0.7,
                )  # fmt: skip
                axis.axvline(sizes[name, split][1], color=color, linewidth=0.9, linestyle=(0, (4, 2)), zorder=2)
                notes.append(
                    f"{split_name}: n = {sizes[name, split][0]:,}, mean {sizes[name, split][1]:.3f}".replace("-", "−")
                )
                if split not in shown:
                    shown.append(split)
            axis.set_ylim(bottom=0)
            axis.text(
                0, 1.03, "\n".join(notes) or "no labels", transform=axis.transAxes, va="bottom", fontsize=7.5, color="#444444"
            )  # fmt: skip
        axes[0].set_ylabel("share of the crystals (%)")
        figure.legend(
            handles=[Patch(facecolor=_SPLITS[split][0], label=_SPLITS[split][1]) for split in shown],
            loc="upper center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8,
        )  # fmt: skip
        caption = (
            f"Share of the labelled crystals of each split in equal bins; bars: {100 * confidence:g} % Wilson intervals; dashed: means. Gaps are "
            "clipped at 0. The first and last bin hold what lies beyond the axis (0.5 % of the crystals at most on a side)."
        )
        figure.text(0.02, 0.02, "\n".join(textwrap.wrap(caption, 180)), **CAPTION)
    return figure
