"""What stands in the figures: every number has its mark and interval, and each figure looks as it did.

`python tests/test_report_drawings.py` draws the reference images in tests/fixtures/figures again; look at them before they are committed.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from campaign_data import campaign_files, write_campaign
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Circle, Rectangle, StepPatch
from report_data import FILES, write_results

from xtalrl.config import Config
from xtalrl.metrics import properties
from xtalrl.metrics.intervals import Estimate
from xtalrl.report import crystal_pictures
from xtalrl.report.contents import FIGURES, content
from xtalrl.report.marks import Drawing
from xtalrl.report.results import Results, scoring_of
from xtalrl.report.style import RC_PARAMS, policy_styles

IMAGES = Path(__file__).parent / "fixtures/figures"
SECTIONS = {
    "training": {"steps": 2000, "snapshots": 3},
    "reward": {"energy": "total", "alpha1": 1, "alpha2": 5, "beta2": 1},
    "sweep": {"settings": [[0, 5, 1], [1, 5, 1]], "targets_ev": [1.12, 4]},
}
NAMES = [entry.name for entry in FIGURES]


def write(folder: Path) -> Config:
    return write_results(folder, 160, (0,), sections=SECTIONS, targets_ev=[1.12, 4.0], omegas=[1, 5])


def draw(folder: Path, config: Config, name: str) -> Drawing:
    files: dict[str, Any] = {key: folder / path for key, path in FILES.items()}
    steps = config.training.snapshot_steps
    files["snapshots"] = [folder / f"learning_curve/{step}/evaluation.parquet" for step in steps]
    if content(name).needs_campaign:
        folder = folder / "of_campaign"
        config = write_campaign(folder)
        files = campaign_files(folder, config)
    made = content(name).function(Results.of(config, files), replace(scoring_of(config), bootstrap_samples=200))
    assert isinstance(made, Drawing)
    return made


def picture(drawing: Drawing) -> np.ndarray:
    """RGB values from 0 to 1, (height, width, 3), at 40 dots per inch."""
    buffer = io.BytesIO()
    with mpl.rc_context(RC_PARAMS):
        drawing.figure.savefig(buffer, format="png", dpi=40)
    buffer.seek(0)
    return imread(buffer)[..., :3]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("drawings")
    return folder, write(folder)


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_looks_as_it_did(run: tuple[Path, Config], name: str) -> None:
    seen, kept = picture(draw(*run, name)), imread(IMAGES / f"{name}.png")[..., :3]
    assert seen.shape == kept.shape
    difference = float(np.sqrt(np.mean((seen - kept) ** 2)))
    assert difference < 0.02, f"root mean square difference {difference:.3f}"


def marks(axis: Axes) -> set[tuple[float, float, str, str]]:
    """x, y, colour and marker of every mark."""
    return {
        (round(float(line.get_xdata()[0]), 6), round(float(line.get_ydata()[0]), 6), to_hex(line.get_markeredgecolor()), str(line.get_marker()))
        for line in axis.lines
        if line.get_marker() not in (None, "None", "")
    }  # fmt: skip


def intervals(axis: Axes) -> set[tuple[float, ...]]:
    """Both ends of every interval, as (x, y, x, y)."""
    return {
        tuple(round(float(number), 4) for number in np.ravel(segment))
        for collection in axis.collections
        if isinstance(collection, LineCollection)
        for segment in collection.get_segments()
    }


def test_figure2_has_a_mark_and_an_interval_for_every_number(run: tuple[Path, Config]) -> None:
    drawing = draw(*run, "figure2")
    axes = drawing.figure.axes
    specs = {name: spec for name, spec in run[1].policy_specs().items() if not spec.in_sweep}
    styles = policy_styles(specs)
    for axis, metric in ((axes[0], "nu"), (axes[1], "kappa")):
        rows = [
            row
            for row in drawing.rows
            if row["metric"] == metric and row["of"] == "all"
            and specs[str(row["policy"])].target_ev in (None, row["target_ev"])
        ]  # fmt: skip
        assert len(rows) == 2 * 6 and all(row["value"] is not None for row in rows)
        found = marks(axis)
        assert len(found) == len(rows)
        for row in rows:
            style = styles[str(row["policy"])]
            near = {(color, marker) for _, y, color, marker in found if y == pytest.approx(row["value"], abs=1e-5)}
            assert (style.color.lower(), style.marker) in near
        ends = {(low, high) for _, low, _, high in intervals(axis)}
        assert ends >= {(round(float(row["low"]), 4), round(float(row["high"]), 4)) for row in rows}  # type: ignore[arg-type]
        assert [label.get_text() for label in axis.get_xticklabels()] == ["1.12 eV", "4 eV"]
    for axis, metric in zip(axes[2:5], ("emd_band_gap", "emd_formation_energy", "mean_formation_energy"), strict=True):
        values = {str(row["policy"]): row["value"] for row in drawing.rows if row["metric"] == metric}
        placed = {y: x for x, y, _, _ in marks(axis)}
        off_scale = [note for note in axis.texts if getattr(note, "arrow_patch", None) is not None]
        assert len(placed) + len(off_scale) == len(values) == len(specs)
        for row_number, name in enumerate(specs):
            if row_number in placed:
                assert placed[row_number] == pytest.approx(values[name], abs=1e-5)
    assert [label.get_text() for label in axes[2].get_yticklabels()] == [style.label for style in styles.values()]


@pytest.mark.parametrize(("name", "metric"), [("figure4", "mean_band_gap"), ("figure8", "mean_band_gap")])
def test_every_policy_of_figures_4_and_8_has_its_mark(run: tuple[Path, Config], name: str, metric: str) -> None:
    drawing = draw(*run, name)
    axis = drawing.figure.axes[0]
    rows = [row for row in drawing.rows if row["metric"] == metric]
    off_scale = sum(getattr(note, "arrow_patch", None) is not None for note in axis.texts)
    values = np.array([row["value"] for row in rows], dtype=float)
    seen = np.array([x for x, _, _, _ in marks(axis)])
    assert len(seen) + off_scale == len(values) > 5
    assert np.abs(seen[:, None] - values).min(1) == pytest.approx(0, abs=1e-5)
    ends = {(low, high) for low, _, high, _ in intervals(axis)}
    # Equal gaps have a mean and no interval.
    known = [row for row in rows if row["low"] is not None]
    assert len(ends) == len(seen) - (len(rows) - len(known))
    assert ends <= {(round(float(row["low"]), 4), round(float(row["high"]), 4)) for row in known}  # type: ignore[arg-type]


def test_figure3_draws_two_crystals_for_every_example(run: tuple[Path, Config]) -> None:
    drawing = draw(*run, "figure3")
    assert drawing.rows
    axes = drawing.figure.axes
    assert len(axes) == 2 * len(drawing.rows)
    for axis in axes:
        atoms = [patch for patch in axis.patches if isinstance(patch, Circle)]
        assert len(atoms) >= 8  # an atom of at least one shade, on every corner
        assert len({to_hex(patch.get_facecolor()) for patch in atoms}) > 1
    texts = " ".join(text.get_text() for text in drawing.figure.texts)
    for row in drawing.rows:
        assert f"{row['band_gap_ev']:.3f} eV" in texts
        assert f"{row['true_band_gap_ev']:.3f} eV" in texts
    formulas = [str(row[name]) for row in drawing.rows for name in ("formula", "true_formula")]
    (key,) = drawing.figure.legends
    assert {text.get_text() for text in key.get_texts()} == {
        part for text in formulas for part in re.findall("[A-Z][a-z]?", text)
    }


def test_a_target_without_an_example_takes_little_room_in_figure3(
    run: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = draw(*run, "figure3")
    lost = full.rows[0]["target_ev"]
    choose = crystal_pictures.choose_examples
    monkeypatch.setattr(
        crystal_pictures, "choose_examples", lambda *args: [one for one in choose(*args) if one.target_ev != lost]
    )
    rest = draw(*run, "figure3")
    assert "no such design" in [text.get_text() for text in rest.figure.texts]
    assert rest.figure.get_figheight() < full.figure.get_figheight() - 1


def test_figure4_says_what_a_mark_without_a_bar_means(
    run: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def caption() -> str:
        return " ".join(draw(*run, "figure4").figure.texts[-1].get_text().split())

    bare = any(
        row["value"] is not None and row["low"] is None
        for row in draw(*run, "figure4").rows
        if row["metric"] == "mean_band_gap"
    )
    assert ("A mark without a bar" in caption()) == bare
    monkeypatch.setattr(properties, "mean_band_gap", lambda *args, **options: Estimate(1.0, None, None, 3, ""))
    assert "A mark without a bar" in caption()


def test_figure5_has_the_counts_of_its_rows(run: tuple[Path, Config]) -> None:
    drawing = draw(*run, "figure5")
    for axis, quantity in zip(
        drawing.figure.axes, ("band_gap", "total_energy_ry", "formation_energy_per_atom"), strict=True
    ):
        lines = [patch for patch in axis.patches if isinstance(patch, StepPatch) and not patch.get_fill()]
        assert len(lines) == 2
        for split, patch in zip(("train", "val"), lines, strict=True):
            shares = [row["share_pct"] for row in drawing.rows if (row["quantity"], row["split"]) == (quantity, split)]
            assert patch.get_data().values == pytest.approx(shares)
            assert np.sum(shares) == pytest.approx(100)
        bars = [part for part in axis.collections if isinstance(part, LineCollection)]
        for split, bar in zip(("train", "val"), bars, strict=True):
            rows = [row for row in drawing.rows if (row["quantity"], row["split"]) == (quantity, split)]
            assert [segment[:, 1].tolist() for segment in bar.get_segments()] == [
                [row["low"], row["high"]] for row in rows
            ]


def test_the_periodic_table_is_coloured_by_its_shares(run: tuple[Path, Config]) -> None:
    drawing = draw(*run, "outcomes_by_element")
    table = drawing.figure.axes[0]
    fields = [patch for patch in table.patches if isinstance(patch, Rectangle)]
    names = [text.get_text() for text in table.texts][::2]
    assert len(fields) == len(names) == 88
    colors = dict(zip(names, (to_hex(field.get_facecolor()) for field in fields), strict=True))
    scale = mpl.colormaps["YlOrBr"]
    known = [row for row in drawing.rows if int(str(row["n_designs"])) >= 10]
    assert len(known) > 10
    for row in drawing.rows:
        share = row["failed_pct"]
        expected = to_hex(scale(float(str(share)) / 100)) if row in known else "#ededed"
        assert colors[str(row["element"])] == expected


def test_the_learning_curve_has_every_number_of_its_table(run: tuple[Path, Config]) -> None:
    drawing = draw(*run, "learning_curve")
    validity, accuracy, *ranges = drawing.figure.axes
    for axis, column in ((validity, "validity_pct"), (accuracy, "accuracy_pct")):
        values = sorted(round(float(row[column]), 5) for row in drawing.rows)  # type: ignore[arg-type]
        lines = [line for line in axis.lines if len(line.get_xdata()) == 4]
        assert sorted(round(float(y), 5) for line in lines for y in line.get_ydata()) == values
        single = [line for line in axis.lines if line.get_marker() not in (None, "None", "")]
        assert sorted(round(float(line.get_ydata()[0]), 5) for line in single) == values
        assert sum(len(c.get_segments()) for c in axis.collections if isinstance(c, LineCollection)) == len(values)
    assert len(ranges) == 2
    for axis, target in zip(ranges, (1.12, 4.0), strict=True):
        rows = [row for row in drawing.rows if row["target_ev"] == target]
        single = [line for line in axis.lines if line.get_marker() not in (None, "None", "")]
        assert sorted(round(float(line.get_ydata()[0]), 5) for line in single) == sorted(
            round(float(row["nu_at_least_pct"]), 5) for row in rows  # type: ignore[arg-type]
        )  # fmt: skip


def redraw() -> Iterator[Path]:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        config = write(Path(folder))
        for name in NAMES:
            figure: Figure = draw(Path(folder), config, name).figure
            with mpl.rc_context(RC_PARAMS):
                figure.savefig(IMAGES / f"{name}.png", dpi=40, metadata={"Software": None})
            yield IMAGES / f"{name}.png"


if __name__ == "__main__":
    for path in redraw():
        print(path)
