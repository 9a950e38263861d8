"""Figure 2: its numbers, its styles, and that it can be drawn whatever is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_data import make, read, write_results

from xtalrl import tables
from xtalrl.config import Config
from xtalrl.report.style import policy_styles
from xtalrl.rl.policies import PolicySpec, Reward


def figure2(folder: Path, config: Config, stem: str = "") -> list[dict[str, str]]:
    return read(make("figure2", folder, config, stem))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("results")
    config = write_results(folder, 200, (0,), targets_ev=[1.12, 3.0], omegas=[1, 5])
    return folder, config, figure2(folder, config)


def test_pictures_are_pictures(run: tuple[Path, Config, Any]) -> None:
    folder, _, _ = run
    assert (folder / "figure2.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "figure2.pdf").read_bytes().startswith(b"%PDF")


def test_every_policy_has_every_number(run: tuple[Path, Config, list[dict[str, str]]]) -> None:
    _, config, rows = run
    policies = list(config.policy_specs())
    assert len(policies) == 8
    per_target = {(row["policy"], row["metric"], row["target_ev"], row["of"]) for row in rows if row["target_ev"]}
    assert per_target == {
        (policy, metric, target, of)
        for policy in policies
        for metric in ("nu", "kappa")
        for target in ("1.12", "3")
        for of in ("all", "successes")
    }
    assert {(row["policy"], row["metric"]) for row in rows if not row["target_ev"]} == {
        (policy, metric)
        for policy in policies
        for metric in ("emd_band_gap", "emd_formation_energy", "mean_formation_energy", "mean_band_gap")
    }
    for row in rows:
        assert row["unit"] in ("%", "eV", "eV/atom")
        assert row["n_seeds"] == "1"
        assert row["validity_rule"] == "cdvae-smact14"


def test_numbers_are_those_of_the_tables_counted_by_hand(run: tuple[Path, Config, list[dict[str, str]]]) -> None:
    folder, _, rows = run
    designs = [
        row
        for row in tables.read_rows(folder / "evaluation/evaluation.parquet", tables.EVALUATION)
        if row["policy"] == "bc"
    ]
    hits = [row for row in designs if row["band_gap"] is not None and 0.87 < row["band_gap"] < 1.37]
    moved = [row for row in hits if row["true_band_gap"] is not None and not 0.87 < row["true_band_gap"] < 1.37]
    shown = {
        row["metric"]: float(row["value"])
        for row in rows
        if row["policy"] == "bc" and row["target_ev"] == "1.12" and row["of"] == "all"
    }
    assert shown["nu"] == pytest.approx(100 * len(hits) / len(designs), rel=1e-5)
    assert shown["kappa"] == pytest.approx(100 * len(moved) / len(designs), rel=1e-5)


def test_same_input_same_bytes(run: tuple[Path, Config, Any]) -> None:
    folder, config, _ = run
    figure2(folder, config, "again")
    for end in ("png", "pdf", "csv"):
        assert (folder / f"again.{end}").read_bytes() == (folder / f"figure2.{end}").read_bytes()


def test_nothing_converged(tmp_path: Path) -> None:
    config = write_results(tmp_path, 24, (0,), success=0.0, targets_ev=[1.12], omegas=[5])
    rows = figure2(tmp_path, config)
    assert {row["value"] for row in rows if row["metric"].startswith(("emd", "mean"))} == {""}
    assert {row["value"] for row in rows if row["metric"] in ("nu", "kappa") and row["of"] == "all"} == {"0"}
    assert (tmp_path / "figure2.png").is_file()


def test_one_policy_and_no_target(tmp_path: Path) -> None:
    config = write_results(tmp_path, 24, (0,), targets_ev=[], omegas=[5], random=False, ucql=False)
    assert {row["policy"] for row in figure2(tmp_path, config)} == {"bc"}


def test_each_policy_has_its_own_look() -> None:
    styles = policy_styles(Config().policy_specs())
    assert len({(style.color, style.marker, style.filled) for style in styles.values()}) == 12
    assert len({style.label for style in styles.values()}) == 12
    assert styles["ccql-1.12ev-w5"].label == "c-CQL 1.12 eV, ω = 5"
    assert styles["ucql-w5"].filled
    assert not styles["ucql-w1"].filled


def test_policies_of_a_sweep_any_target_and_external_sets_have_labels_of_their_own() -> None:
    conditional = PolicySpec("ccql", 5, 4.0, Reward())
    sweep = [
        replace(conditional, in_sweep=True, reward=Reward("total", alpha1=alpha, alpha2=10, beta2=3))
        for alpha in (1, 0)
    ]
    specs = [conditional, *sweep, PolicySpec("ccql-any", 5, 4.0, Reward())]
    styles = policy_styles({**{spec.name: spec for spec in specs}, "mattergen": None, "cdvae": None})
    assert [style.label for style in styles.values()] == [
        "c-CQL 4 eV, ω = 5", "c-CQL 4 eV, ω = 5, 1-10-3", "c-CQL 4 eV, ω = 5, 0-10-3", "c-CQL any 4 eV, ω = 5", "mattergen", "cdvae",
    ]  # fmt: skip
    assert len({style.color for name, style in styles.items() if name.startswith("ccql")}) == 1
    assert len({(style.color, style.marker) for style in styles.values()}) == 4
