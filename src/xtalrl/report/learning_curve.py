"""Designs over the course of training: validity, accuracy and ν of every snapshot of a policy, and of the finished policy."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from xtalrl.metrics.intervals import Estimate
from xtalrl.metrics.scoring import Scoring
from xtalrl.progress import Progress
from xtalrl.report.contents import content
from xtalrl.report.estimates import ResultTable, Row
from xtalrl.report.layout import Table
from xtalrl.report.marks import CAPTION, GUIDE, Drawing, handle, mark
from xtalrl.report.results import Results
from xtalrl.report.style import RC_PARAMS, Policies, PolicyStyle, policy_styles


def designs_over_training(results: Results, scoring: Scoring) -> Table:
    """The table of the learning curve: one row per step and policy that learns.

    No SCF is run for a snapshot. An outcome is known only for its invalid designs and for those that a finished policy makes too; ν lies
    between its values if none and if all of the other designs are in the desired range.
    """
    return _estimates(results, scoring, results.policies).table()


def learning_curve(results: Results, scoring: Scoring) -> Drawing:
    """The figure of the learning curve. Policies of the sweep are in the table only."""
    shown = results.ordinary
    table = _estimates(results, scoring, shown)
    styles = policy_styles({name: spec for name, spec in shown.items() if spec and spec.is_learned})
    rows = table.csv_rows()
    return Drawing(_draw(table, _steps(results), styles), rows, table.content.keys)


def _steps(results: Results) -> list[int]:
    """Steps of the snapshots in ascending order, then the step of the finished policies."""
    return [*results.snapshot_steps, results.training_steps]


def _estimates(results: Results, scoring: Scoring, policies: Policies) -> ResultTable:
    entry = content("designs_over_training")
    specs = {name: spec for name, spec in policies.items() if spec and spec.is_learned}
    rows: dict[str, list[Row]] = {name: [] for name in specs}
    steps = _steps(results)
    progress = Progress("Learning curve", len(steps), "steps")
    for step, path in zip(steps, [*results.paths("snapshots"), results.path("evaluation")], strict=True):
        for name, designs in results.designs_in(path, specs).items():
            target = specs[name].target_ev
            at = scoring if target is None else scoring.at(target)
            estimates = [column.estimate(designs, at) for column in entry.columns]
            rows[name].append(Row({"policy": name, "target_ev": target, "step": step}, estimates, designs))
        progress.advance()
    note = f"Window: ±{scoring.window_ev:g} eV."
    return ResultTable(entry, [row for each in rows.values() for row in each], scoring, note)


_Curves = Mapping[str, Sequence[Mapping[str, Estimate]]]
"""Estimates of each policy at every step, by name of the column."""


def _draw(table: ResultTable, steps: Sequence[int], styles: Mapping[str, PolicyStyle]) -> Figure:
    names = [column.name for column in table.content.columns]
    curves: dict[str, list[Mapping[str, Estimate]]] = {name: [] for name in styles}
    targets: dict[str, float] = {}
    for row in table.rows:
        policy, target = str(row.keys["policy"]), row.keys["target_ev"]
        curves[policy].append(dict(zip(names, row.estimates, strict=True)))
        if isinstance(target, int | float):
            targets[policy] = float(target)
    panels = [None, None, *sorted(set(targets.values()))]
    n_columns = 2 if len(panels) in (2, 4) else 3
    n_rows = -(-len(panels) // n_columns)
    with mpl.rc_context(RC_PARAMS):
        legend_rows = -(-len(styles) // 6)
        top, panel, gap, bottom = 0.35 + 0.2 * legend_rows, 2.1, 0.75, 1.15
        height = top + n_rows * panel + (n_rows - 1) * gap + bottom
        figure = Figure(figsize=(10, height))
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(
            n_rows, n_columns, left=0.065, right=0.985, top=1 - top / height, bottom=bottom / height, wspace=0.24,
            hspace=gap / panel,
        )  # fmt: skip
        axes = [figure.add_subplot(grid[divmod(number, n_columns)]) for number in range(len(panels))]
        for axis, title, metric in (
            (axes[0], "a   Validity", "validity_pct"),
            (axes[1], "b   Accuracy", "accuracy_pct"),
        ):
            _set_up(axis, title, metric.removesuffix("_pct") + " (%)", steps)
            _draw_lines(axis, metric, curves, steps, styles)
        for number, (axis, target) in enumerate(zip(axes[2:], panels[2:], strict=True)):
            _set_up(
                axis, f"{'cdefghijklmnop'[number % 14]}   Desired range, {target:g} eV", "ν (% of all designs)", steps
            )
            its_curves = {name: curve for name, curve in curves.items() if targets.get(name) == target}
            _draw_bounds(axis, its_curves, steps, styles)
        for axis in axes[:2]:
            axis.set_ylim(bottom=0)
        for axis in axes[2:]:
            top_of_all = max(other.get_ylim()[1] for other in axes[2:])
            axis.set_ylim(-0.03 * top_of_all, top_of_all)
        figure.legend(
            handles=[handle(style) for style in styles.values()], loc="upper center", bbox_to_anchor=(0.5, 1 - 0.04 / height),
            ncols=min(6, max(len(styles), 1)), columnspacing=1.6, handletextpad=0.3, fontsize=8,
        )  # fmt: skip
        figure.text(0.02, 0.08 / height, "\n".join(textwrap.wrap(_caption(table), 180)), **CAPTION)
    return figure


def _set_up(axis: Axes, title: str, label: str, steps: Sequence[int]) -> None:
    axis.set_title(title)
    axis.grid(axis="y", color=GUIDE, linewidth=0.5)
    axis.set_xlim(0, steps[-1] + 0.6 * _width(steps))
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.set_xlabel("training step")
    axis.set_ylabel(label)


def _draw_lines(
    axis: Axes, metric: str, curves: _Curves, steps: Sequence[int], styles: Mapping[str, PolicyStyle]
) -> None:
    for name, offset in zip(curves, _offsets(len(curves), steps), strict=True):
        at = [step + offset for step in steps]
        estimates = [estimates[metric] for estimates in curves[name]]
        _connect(axis, at, estimates, styles[name])


def _draw_bounds(axis: Axes, curves: _Curves, steps: Sequence[int], styles: Mapping[str, PolicyStyle]) -> None:
    """Draw a line along the lower bound and a band up to the upper bound."""
    for name, offset in zip(curves, _offsets(len(curves), steps), strict=True):
        at = [step + offset for step in steps]
        at_least = [estimates["nu_at_least_pct"] for estimates in curves[name]]
        low, high = (
            [float("nan") if value is None else value for value in values]
            for values in (
                [estimate.value for estimate in at_least],
                [estimates["nu_at_most_pct"].value for estimates in curves[name]],
            )
        )
        axis.fill_between(at, low, high, color=styles[name].color, alpha=0.13, linewidth=0, zorder=1)
        axis.plot(at, high, color=styles[name].color, linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        _connect(axis, at, at_least, styles[name])


def _connect(axis: Axes, at: Sequence[float], estimates: Sequence[Estimate], style: PolicyStyle) -> None:
    values = [float("nan") if estimate.value is None else estimate.value for estimate in estimates]
    axis.plot(at, values, color=style.color, linewidth=0.9, alpha=0.7, zorder=2)
    for position, estimate in zip(at, estimates, strict=True):
        mark(axis, position, estimate, style, vertical=True)


def _offsets(n: int, steps: Sequence[int]) -> list[float]:
    """Small horizontal offsets, so that the bars of policies at the same step do not cover each other."""
    return [_width(steps) * (number / n - 0.5 * (n - 1) / n) for number in range(n)]


def _width(steps: Sequence[int]) -> float:
    """Width, in steps, that the policies at one step share."""
    return 0.5 * min(later - earlier for earlier, later in itertools.pairwise([0, *steps]))


def _caption(table: ResultTable) -> str:
    seeds = sorted({len(row.designs.seeds) for row in table.rows if row.designs})
    rules = sorted({row.designs.validity_rule for row in table.rows if row.designs})
    names = [column.name for column in table.content.columns]
    known = [row.estimates[names.index("outcome_known_pct")].value for row in table.rows]
    shares = [value for value in known if value is not None]
    return (
        f"Snapshots of the weights, and the finished policies at the last step. {table.note} No SCF is run for a snapshot: the outcome of a "
        "design is known if it is invalid, or if a finished policy fills the same skeleton alike. The line of ν counts the others as outside "
        "the desired range; the dashed one, to which the band reaches, counts them as inside, so that the height of the band is the share "
        f"without an outcome (known: {min(shares, default=0):.0f} to {max(shares, default=0):.0f} %). Policies without a target have no ν here. "
        f"Bars: {100 * table.scoring.confidence:g} % intervals over crystals{' and seeds' if max(seeds, default=1) > 1 else ''} "
        f"({' or '.join(map(str, seeds))} seed{'s' if max(seeds, default=1) > 1 else ''}), beside each other for reading; those of the line only. "
        f"Composition validity: {', '.join(rules)}."
    )
