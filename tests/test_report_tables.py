"""Tables 1 and 2 as files: every number with its interval, its n, its seeds and its rule."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from report_data import write_results

from xtalrl.config import Config
from xtalrl.errors import XtalrlError
from xtalrl.report.paper import paper_table
from xtalrl.report.tables import make_table1, make_table2

POLICIES = {"targets_ev": [1.12, 3.0], "omegas": [5]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("results")
    return folder, write_results(folder, 120, (0, 1), **POLICIES)


def make(run: tuple[Path, Config], maker: object = make_table1, name: str = "table", **options: object) -> Path:
    folder, config = run
    arguments = {
        "evaluation": folder / "evaluation/evaluation.parquet",
        "csv": folder / f"{name}.csv",
        "markdown": folder / f"{name}.md",
        "latex": folder / f"{name}.tex",
        "policies": list(config.policy_specs()),
        "bootstrap_samples": 200,
        "confidence": 0.9,
    } | options
    maker(**arguments)  # type: ignore[operator]
    return folder / name


def read(path: Path) -> list[dict[str, str]]:
    with path.with_suffix(".csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("maker", [make_table1, make_table2])
def test_every_number_has_interval_n_seeds_and_rule(run: tuple[Path, Config], maker: object) -> None:
    rows = read(make(run, maker))
    assert [row["policy"] for row in rows] == ["random", "bc", "ucql-w5", "ccql-1.12ev-w5", "ccql-3ev-w5"]
    metrics = [name.removesuffix("_low") for name in rows[0] if name.endswith("_low")]
    assert len(metrics) >= 4
    for row in rows:
        assert (row["seeds"], row["n_crystals"], row["n_designs"]) == ("0 1", "30", "60")
        assert (row["validity_rule"], row["confidence"]) == ("cdvae-smact14", "0.9")
        for metric in metrics:
            assert row[f"{metric}_n"]
            if row[metric]:
                assert float(row[f"{metric}_low"]) <= float(row[metric]) <= float(row[f"{metric}_high"])
                assert row[f"{metric}_interval"]


def test_markdown_is_a_table_for_people(run: tuple[Path, Config]) -> None:
    text = make(run).with_suffix(".md").read_text()
    caption, _, *lines = text.splitlines()
    assert caption.startswith("**Table 1.")
    for part in ("M = 30 validation crystals", "Seeds: 0, 1.", "90 % intervals", "200 resamples", "`cdvae-smact14`"):
        assert part in caption
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert len({len(line) for line in lines}) == 1
    assert "[" in lines[2]
    assert "]" in lines[2]


def test_latex_is_balanced_and_escaped(run: tuple[Path, Config]) -> None:
    text = make(run, make_table2).with_suffix(".tex").read_text()
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 6
    assert len({line.count(" & ") for line in rows}) == 1
    assert r"DFT success of valid (\%)" in text
    assert "$-$" in text
    assert "`" not in text.replace("``", "")


def test_the_papers_numbers_stand_beside_ours() -> None:
    table1, table2 = paper_table("table1_presimulation.csv"), paper_table("table2_dft_success.csv")
    assert list(table1) == list(table2)
    assert len(table1) == 12
    assert table1["bc"]["accuracy_pct"] == 49.37
    assert table1["ccql-1.12ev-w5"]["novelty_pct"] == 50.95
    assert table2["ucql-w5"]["dft_success_pct"] == 70.29
    # Printed as the fractions 0.0115 and 0.1254.
    assert table1["random"] == pytest.approx(
        {"accuracy_pct": 1.15, "similarity_pct": 12.54, "validity_pct": None, "novelty_pct": None}
    )


def test_papers_columns_are_beside_the_policies_the_paper_has(run: tuple[Path, Config]) -> None:
    rows = {row["policy"]: row for row in read(make(run))}
    assert rows["bc"]["accuracy_pct_paper"] == "49.37"
    assert rows["random"]["validity_pct_paper"] == ""


def test_policies_the_paper_lacks_have_an_empty_paper_column(tmp_path: Path) -> None:
    config = write_results(tmp_path, 40, (0,), targets_ev=[2.5], omegas=[3])
    rows = {row["policy"]: row for row in read(make((tmp_path, config)))}
    assert rows["ccql-2.5ev-w3"]["accuracy_pct_paper"] == ""
    assert rows["bc"]["accuracy_pct_paper"] == "49.37"


def test_same_input_same_bytes(run: tuple[Path, Config]) -> None:
    first = {end: make(run).with_suffix(end).read_bytes() for end in (".csv", ".md", ".tex")}
    second = {end: make(run, name="again").with_suffix(end).read_bytes() for end in (".csv", ".md", ".tex")}
    assert first == second


def test_an_unknown_policy_is_named(run: tuple[Path, Config]) -> None:
    with pytest.raises(XtalrlError, match=r"no design of the policy 'ccql-9ev-w5'"):
        make(run, policies=["bc", "ccql-9ev-w5"])


def test_no_success_at_all_gives_empty_cells(tmp_path: Path) -> None:
    config = write_results(tmp_path, 24, (0,), imported_labels=True, success=0.0, **POLICIES)
    for row in read(make((tmp_path, config), make_table2)):
        assert row["mean_band_gap_ev"] == row["mean_band_gap_ev_low"] == ""
        assert row["mean_band_gap_ev_n"] == "0"
        assert row["dft_success_of_all_pct"] == "0"
        assert float(row["dft_success_of_all_pct_high"]) > 0
