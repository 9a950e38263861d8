"""Figure 3: true and designed crystals side by side, as shaded spheres in their cell."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from ase.data import atomic_numbers
from ase.data.colors import jmol_colors
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from xtalrl import tables
from xtalrl.cells import bonds, covalent_radius
from xtalrl.metrics.intervals import Floats
from xtalrl.metrics.properties import in_window
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.marks import CAPTION, Drawing
from xtalrl.report.results import Results
from xtalrl.report.style import RC_PARAMS

_EXAMPLES = 2
_KEY_COLUMNS = 18
_RADIUS = 0.45  # fraction of the covalent radius, so that one can see through the cell
_SHADES = 7
_VIEW = (
    np.radians(-72.0),
    np.radians(28.0),
)  # turn about z, then about the horizontal axis: the cell is seen from above its front edge

_COLUMNS = (
    "target_ev", "policy", "seed", "material_id", "true_formula", "true_band_gap_ev", "formula", "band_gap_ev",
    "formation_energy_ev_per_atom", "novel",
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A design in the desired range of its policy, whose true crystal is outside that range; a row of `EVALUATION`."""

    target_ev: float
    design: Mapping[str, Any]


def figure3(results: Results, scoring: Scoring) -> Drawing:
    """Fig. 3: for each target, the true and the designed crystal of designs that moved the gap into the range."""
    targets = {name: spec.target_ev for name, spec in results.policies.items() if spec and spec.target_ev is not None}
    evaluation = tables.read_rows(results.path("evaluation"), tables.EVALUATION)
    examples = choose_examples(evaluation, targets, scoring.window_ev)
    wanted = {example.design["material_id"] for example in examples}
    cells = {
        row["material_id"]: row
        for row in tables.read_rows(results.path("crystals"), tables.CRYSTALS)
        if row["material_id"] in wanted
    }
    rows = [
        {
            "target_ev": example.target_ev,
            "policy": example.design["policy"],
            "seed": example.design["seed"],
            "material_id": example.design["material_id"],
            "true_formula": example.design["true_formula"],
            "true_band_gap_ev": example.design["true_band_gap"],
            "formula": example.design["formula"],
            "band_gap_ev": example.design["band_gap"],
            "formation_energy_ev_per_atom": example.design["formation_energy_per_atom"],
            "novel": example.design["novel"],
        }
        for example in examples
    ]
    omegas = {name: spec.omega for name, spec in results.policies.items() if spec and spec.omega is not None}
    drawn = _draw(examples, sorted(set(targets.values())), cells, omegas, scoring.window_ev)
    return Drawing(drawn, rows, _COLUMNS)


def choose_examples(
    rows: Sequence[Mapping[str, Any]], targets_ev: Mapping[str, float], window_ev: float, n: int = _EXAMPLES
) -> list[Example]:
    """For each target, the n designs of its policies that moved the gap farthest from the true crystal's into the range.

    The true gap must lie outside the range. No true formula and no designed formula occurs twice at a target; ties go to the lower
    material_id, policy and seed, so that the choice does not depend on the order of the rows.
    """
    examples = []
    for target in sorted(set(targets_ev.values())):
        hits = [
            row
            for row in rows
            if targets_ev.get(row["policy"]) == target
            and row["band_gap"] is not None
            and row["true_band_gap"] is not None
            and in_window(np.array(row["band_gap"]), target, window_ev)
            and not in_window(np.array(row["true_band_gap"]), target, window_ev)
        ]
        hits.sort(
            key=lambda row: (
                -abs(row["true_band_gap"] - row["band_gap"]),
                row["material_id"],
                row["policy"],
                row["seed"],
            )
        )
        seen: set[str] = set()
        chosen: list[Example] = []
        for row in hits:
            if len(chosen) < n and not seen & {row["formula"], row["true_formula"]}:
                chosen.append(Example(target, row))
                seen |= {row["formula"], row["true_formula"]}
        examples += chosen
    return examples


def _draw(
    examples: Sequence[Example],
    targets_ev: Sequence[float],
    cells: Mapping[str, Mapping[str, Any]],
    omegas: Mapping[str, float],
    window_ev: float,
) -> Figure:
    with mpl.rc_context(RC_PARAMS):
        elements = _elements(examples, cells)
        top, row_height = 0.5, 2.15
        bottom = 0.6 + 0.24 * math.ceil(len(elements) / _KEY_COLUMNS)
        heights = [
            row_height if any(example.target_ev == target for example in examples) else 0.7 for target in targets_ev
        ]
        height = top + bottom + (sum(heights) or 0.7)
        figure = Figure(figsize=(10, height))
        FigureCanvasAgg(figure)
        width = 0.93 / (2 * _EXAMPLES)
        for index in range(_EXAMPLES):
            for part, title in enumerate(("true crystal", "design")):
                figure.text(
                    0.065 + (2 * index + part + 0.5) * width, 1 - 0.42 / height, title, ha="center", va="bottom", fontsize=8.5,
                    color="#444444",
                )  # fmt: skip
            figure.text(
                0.065 + (2 * index + 1) * width, 1 - 0.2 / height, f"Example {index + 1}", ha="center", va="bottom", fontsize=9.5,
                fontweight="bold",
            )  # fmt: skip
        for row, target in enumerate(targets_ev):
            base = 1 - (top + sum(heights[: row + 1])) / height
            middle = base + 0.55 * heights[row] / height
            upright = heights[row] == row_height
            figure.text(
                0.015, middle, f"p̂ = {target:g} eV", rotation=90 if upright else 0, ha="center" if upright else "left", va="center",
                fontsize=9.5, fontweight="bold",
            )  # fmt: skip
            shown = [example for example in examples if example.target_ev == target]
            if not shown:
                figure.text(
                    0.53, middle, "no such design", ha="center", va="center", fontsize=8.5, color="#8C8C8C",
                    style="italic",
                )  # fmt: skip
            for index, example in enumerate(shown):
                cell, design = cells[example.design["material_id"]], example.design
                for part, (species, formula, gap) in enumerate(
                    (
                        (cell["species"], design["true_formula"], design["true_band_gap"]),
                        (design["species"], design["formula"], design["band_gap"]),
                    )
                ):
                    box = (
                        0.065 + (2 * index + part) * width,
                        base + 0.42 / height,
                        width,
                        (row_height - 0.45) / height,
                    )
                    axis = figure.add_axes(box)
                    draw_crystal(axis, species, cell["lattice"], cell["frac_coords"])
                    below = f"{formula_text(formula)}\n{gap:.3f} eV"
                    if part == 1 and design["policy"] in omegas:
                        below += f"   (ω = {omegas[design['policy']]:g})"
                    figure.text(
                        box[0] + width / 2,
                        base + 0.38 / height,
                        below,
                        ha="center",
                        va="top",
                        fontsize=8.5,
                        linespacing=1.35,
                    )
        caption = (
            f"Designs of the conditional policies with a gap within ±{window_ev:g} eV of the target whose true crystal is outside: those that "
            "moved the gap farthest, no composition twice. Same cell and positions, unrelaxed; spheres at 45 % of the covalent radius, in "
            "Jmol's colours."
        )
        figure.text(0.02, 0.08 / height, "\n".join(textwrap.wrap(caption, 180)), **CAPTION)
        if elements:
            figure.legend(
                handles=[_key(element) for element in elements], loc="lower center", bbox_to_anchor=(0.53, 0.42 / height),
                ncols=min(len(elements), _KEY_COLUMNS), fontsize=8.5, handletextpad=0.1, columnspacing=1.2,
            )  # fmt: skip
    return figure


def _elements(examples: Sequence[Example], cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The elements of all crystals that are drawn, by atomic number."""
    designs = [example.design for example in examples]
    drawn = {element for row in designs for element in (*row["species"], *cells[row["material_id"]]["species"])}
    return sorted(drawn, key=atomic_numbers.__getitem__)


def _key(element: str) -> Line2D:
    """An element's entry in the key of colours."""
    color = _color(atomic_numbers[element])
    return Line2D(
        [], [], linestyle="none", marker="o", markersize=8, label=element, markerfacecolor=color, markeredgecolor=_mix(color, -0.55),
        markeredgewidth=0.4,
    )  # fmt: skip


def formula_text(formula: str) -> str:
    """A reduced formula with its numbers as subscripts, for matplotlib."""
    parts = ["".join(group) for _, group in itertools.groupby(formula, str.isdigit)]
    return "".join(f"$_{{{part}}}$" if part.isdigit() else part for part in parts)


def draw_crystal(axis: Axes, species: Sequence[str], lattice: Sequence[float], frac_coords: Sequence[float]) -> None:
    """Draw a crystal in parallel projection: its cell, atoms as shaded spheres (those on a face on both sides), bonds between them.

    Args:
        axis: axes to draw on, whose frame is removed.
        species: (N) elements.
        lattice: (9) lattice vectors as rows, Å.
        frac_coords: (3 N) fractional coordinates.
    """
    cell = np.reshape(lattice, (3, 3)).astype(float)
    elements, fractions = _with_images(species, np.reshape(frac_coords, (-1, 3)).astype(float))
    turn = _rotation()
    points = fractions @ _standard(cell) @ turn.T
    corners = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
    edges = corners @ _standard(cell) @ turn.T
    # (depth, what to draw): from the back to the front.
    parts: list[tuple[float, Any]] = []
    for first, second in itertools.combinations(range(8), 2):
        if np.abs(corners[first] - corners[second]).sum() == 1:
            for a, b in zip(np.linspace(0, 0.9, 10), np.linspace(0.1, 1, 10), strict=True):
                start, end = (edges[first] + (edges[second] - edges[first]) * t for t in (a, b))
                parts.append(((start[2] + end[2]) / 2, ("line", start, end, "#9A9A9A", 0.6)))
    numbers = [atomic_numbers[element] for element in elements]
    radii = np.array([covalent_radius(element) for element in elements])
    colors = [_color(number) for number in numbers]
    scale = max(np.ptp(np.vstack([points, edges])[:, :2], axis=0).max(), 1e-6)
    for i, j in bonds(elements, points):
        middle = (points[i] + points[j]) / 2
        distance = float(np.linalg.norm(points[i] - points[j]))
        for index in (i, j):
            # A bond starts inside the sphere's surface, so that it is not drawn over its own atom.
            near = points[index] + (middle - points[index]) * min(1.0, 1.7 * _RADIUS * radii[index] / distance)
            parts.append(((near[2] + middle[2]) / 2, ("line", near, middle, _mix(colors[index], 0.25), 26 / scale)))
    for point, radius, color in zip(points, radii, colors, strict=True):
        parts.append((point[2], ("ball", point, _RADIUS * radius, color)))
    parts.sort(key=lambda part: part[0])
    for order, (_, part) in enumerate(parts):
        if part[0] == "line":
            _, start, end, color, width = part
            axis.plot(
                [start[0], end[0]],
                [start[1], end[1]],
                color=color,
                linewidth=width,
                zorder=order,
                solid_capstyle="round",
            )
        else:
            _, point, radius, color = part
            _ball(axis, point[0], point[1], radius, color, order)
    margin = 1.06 * _RADIUS * radii.max()
    everything = np.vstack([points, edges])[:, :2]
    low, high = everything.min(0) - margin, everything.max(0) + margin
    axis.set_xlim(low[0], high[0])
    axis.set_ylim(low[1], high[1])
    axis.set_aspect("equal")
    axis.axis("off")


def _ball(axis: Axes, x: float, y: float, radius: float, color: tuple[float, float, float], order: float) -> None:
    """Draw a sphere lit from the upper left as discs that become smaller and lighter."""
    for shade in range(_SHADES):
        t = shade / (_SHADES - 1)
        shift = 0.3 * radius * t
        tone = _mix(color, -0.22 + 0.85 * t**1.6)
        axis.add_patch(
            Circle(
                (x - shift, y + shift), radius * (1 - 0.86 * t), facecolor=tone, zorder=order + 0.01 * shade,
                edgecolor=_mix(color, -0.55) if shade == 0 else "none", linewidth=0.4,
            )
        )  # fmt: skip


def _color(number: int) -> tuple[float, float, float]:
    # Jmol's hydrogen is white: make it grey enough to be seen on paper.
    r, g, b = jmol_colors[number] if number < len(jmol_colors) else to_rgb("#808080")
    return (0.85 * float(r), 0.85 * float(g), 0.85 * float(b)) if min(r, g, b) > 0.9 else (float(r), float(g), float(b))


def _mix(color: tuple[float, float, float], t: float) -> tuple[float, float, float]:
    """The colour mixed with white for t > 0, with black for t < 0."""
    r, g, b = (c + (1 - c) * t if t > 0 else c * (1 + t) for c in color)
    return r, g, b


def _with_images(species: Sequence[str], fractions: Floats) -> tuple[list[str], Floats]:
    """Atoms in the cell; those on a face, an edge or a corner are repeated on the opposite sides."""
    wrapped = fractions % 1.0
    wrapped[wrapped > 1 - 1e-3] = 0.0
    elements: list[str] = []
    points: list[Floats] = []
    for element, point in zip(species, wrapped, strict=True):
        for shift in itertools.product(*((0.0, 1.0) if coordinate < 1e-3 else (0.0,) for coordinate in point)):
            elements.append(element)
            points.append(point + np.array(shift))
    return elements, np.array(points)


def _standard(cell: Floats) -> Floats:
    """The cell turned so that a lies along x and b in the xy plane; all cells are then seen from the same side."""
    upper = np.linalg.qr(cell.T, mode="r")
    lower: Floats = (upper * np.sign(np.diag(upper))[:, None]).T
    # A left-handed cell would be shown as its mirror image.
    if np.linalg.det(cell) < 0:
        lower[:, 2] *= -1
    return lower


def _rotation() -> Floats:
    """Rotation matrix, (3, 3); its rows point right, up and towards the viewer."""
    turn, tilt = _VIEW
    forward = np.array([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), np.sin(tilt)])
    right = np.cross([0.0, 0.0, 1.0], forward)
    right /= np.linalg.norm(right)
    return np.array([right, np.cross(forward, right), forward])
