"""Tables as files: every number with its interval, its n, its seeds and its rule."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from report_data import make, read, write_results

from xtalrl import tables
from xtalrl.config import Config
from xtalrl.errors import XtalrlError
from xtalrl.metrics.designs import read_compositions, read_policies
from xtalrl.report.contents import content
from xtalrl.report.layout import TextTable
from xtalrl.report.paper import PAPER_TABLES, identity, paper_rows
from xtalrl.report.results import scoring_of

POLICIES = {"targets_ev": [1.12, 3.0], "omegas": [5]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("results")
    return folder, write_results(folder, 120, (0, 1), **POLICIES)


def table(run: tuple[Path, Config], name: str = "table1_composition", **options: Any) -> Path:
    return make(name, *run, **{"confidence": 0.9, **options})


@pytest.mark.parametrize("name", ["table1_composition", "table2_dft_success"])
def test_every_number_has_interval_n_seeds_and_rule(run: tuple[Path, Config], name: str) -> None:
    rows = read(table(run, name))
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


def test_table_1_needs_no_scf(run: tuple[Path, Config]) -> None:
    """What compositions tell is the same before and after the SCFs."""
    folder, config = run
    policies, scoring = config.policy_specs(), scoring_of(config)
    files = folder / "evaluation/evaluation.parquet", folder / "labels.parquet", folder / "evaluation/stability.parquet"
    before = read_compositions(folder / "designs/assessments.parquet", policies)
    for early, late in zip(before, read_policies(*files, policies), strict=True):
        for column in content("table1_composition").columns:
            estimates = [column.estimate(designs, scoring) for designs in (early, late)]
            assert estimates[0] == estimates[1]
        assert not early.outcome_is_known.any()
        assert late.outcome_is_known.all()


def test_markdown_is_a_table_for_people(run: tuple[Path, Config]) -> None:
    text = table(run).with_suffix(".md").read_text()
    assert table(run).with_suffix(".txt").read_text() == text.splitlines()[0].partition("** ")[2] + "\n"
    caption, _, *lines = text.splitlines()
    assert caption.startswith("**Table 1.")
    for part in ("M = 30 validation crystals", "Seeds: 0, 1.", "90 % intervals", "200 resamples", "`cdvae-smact14`"):
        assert part in caption
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert len({len(line) for line in lines}) == 1
    assert "[" in lines[2]
    assert "]" in lines[2]


def test_latex_is_balanced_and_escaped(run: tuple[Path, Config]) -> None:
    text = table(run, "table2_dft_success").with_suffix(".tex").read_text()
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 6
    assert "longtable" not in text
    assert len({line.count(" & ") for line in rows}) == 1
    assert r"DFT success of valid (\%)" in text
    assert "$-$" in text
    assert "`" not in text.replace("``", "")


def test_the_papers_numbers_stand_beside_ours() -> None:
    table1, table2 = ({row.policy.name: row.values for row in paper_rows(table)} for table in PAPER_TABLES[:2])
    assert list(table1) == list(table2) == list(Config().policy_specs())
    assert table1["bc"]["accuracy_pct"] == 49.37
    assert table1["ccql-1.12ev-w5"]["novelty_pct"] == 50.95
    assert table2["ucql-w5"]["dft_success_pct"] == 70.29
    # Printed as the fractions 0.0115 and 0.1254.
    assert table1["random"] == pytest.approx(
        {"accuracy_pct": 1.15, "similarity_pct": 12.54, "validity_pct": None, "novelty_pct": None}
    )
    assert len([value for table in PAPER_TABLES for row in paper_rows(table) for value in row.values]) == 180


def test_a_policy_is_the_papers_if_its_reward_is() -> None:
    table1 = {identity(row.policy) for row in paper_rows(PAPER_TABLES[0])}
    table3 = {identity(row.policy) for row in paper_rows(PAPER_TABLES[2])}
    ordinary, other = Config(), Config.model_validate({"reward": {"alpha2": 5}})
    assert {identity(spec) for spec in ordinary.policy_specs().values()} == table1
    assert len({identity(spec) for spec in other.policy_specs().values()} & table1) == 4  # random, BC, both u-CQL
    assert len(table1 & table3) == 2  # random and BC


def test_papers_columns_are_beside_the_policies_the_paper_has(run: tuple[Path, Config]) -> None:
    rows = {row["policy"]: row for row in read(table(run))}
    assert rows["bc"]["accuracy_pct_paper"] == "49.37"
    assert rows["random"]["validity_pct_paper"] == ""


def test_policies_the_paper_lacks_have_an_empty_paper_column(tmp_path: Path) -> None:
    config = write_results(tmp_path, 40, (0,), targets_ev=[2.5], omegas=[3])
    rows = {row["policy"]: row for row in read(table((tmp_path, config)))}
    assert rows["ccql-2.5ev-w3"]["accuracy_pct_paper"] == ""
    assert rows["bc"]["accuracy_pct_paper"] == "49.37"


def test_same_input_same_bytes(run: tuple[Path, Config]) -> None:
    first = {end: table(run).with_suffix(end).read_bytes() for end in (".csv", ".md", ".tex")}
    second = {end: table(run, stem="again").with_suffix(end).read_bytes() for end in (".csv", ".md", ".tex")}
    assert first == second


def test_an_unknown_policy_is_named(run: tuple[Path, Config]) -> None:
    with pytest.raises(XtalrlError, match=r"no design of the policy 'ccql-9ev-w5'"):
        table(run, policies={"bc": None, "ccql-9ev-w5": None})


def test_no_success_at_all_gives_empty_cells(tmp_path: Path) -> None:
    config = write_results(tmp_path, 24, (0,), imported_labels=True, success=0.0, **POLICIES)
    for row in read(table((tmp_path, config), "table2_dft_success")):
        assert row["emd_band_gap_raw_ev"] == ""
        assert row["mean_band_gap_ev"] == row["mean_band_gap_ev_low"] == ""
        assert row["mean_band_gap_ev_n"] == "0"
        assert row["dft_success_of_all_pct"] == "0"
        assert float(row["dft_success_of_all_pct_high"]) > 0


def test_table2_has_both_ways_of_recovery_and_both_denominators(tmp_path: Path) -> None:
    config = write_results(tmp_path, 200, (0,), recovered=0.3, **POLICIES)
    for row in read(table((tmp_path, config), "table2_dft_success")):
        n_valid, n_all = int(row["dft_success_pct_n"]), int(row["dft_success_of_all_pct_n"])
        assert n_all == 50
        by_rules, recovered = float(row["dft_success_pct"]), float(row["dft_success_recovered_pct"])
        assert by_rules < recovered or row["policy"] == "random"
        assert float(row["dft_success_of_all_pct"]) == pytest.approx(by_rules * n_valid / n_all, rel=1e-4)
        assert float(row["dft_success_recovered_of_all_pct"]) == pytest.approx(recovered * n_valid / n_all, rel=1e-4)
        if row["mean_band_gap_ev"]:
            assert float(row["mean_band_gap_raw_ev"]) <= float(row["mean_band_gap_ev"])


def test_desired_range_has_a_row_for_every_policy_and_target(run: tuple[Path, Config]) -> None:
    rows = read(table(run, "desired_range", targets_ev=(1.12, 3.0), window_ev=0.25))
    assert [(row["policy"], row["target_ev"]) for row in rows] == [
        (policy, target) for policy in run[1].policy_specs() for target in ("1.12", "3")
    ]
    for row in rows:
        nu, kappa = float(row["nu_pct"]), float(row["kappa_pct"])
        assert kappa <= nu <= float(row["nu_of_successes_pct"] or 100)
        assert float(row["nu_by_the_papers_rules_pct"]) <= nu
        assert float(row["kappa_by_the_papers_rules_pct"]) <= kappa


def test_stability_table(run: tuple[Path, Config]) -> None:
    path = table(run, "stability", stable_ev_per_atom=0.05)
    for row in read(path):
        assert 0 <= float(row["sun_pct"]) <= float(row["stable_pct"]) <= 100
    assert "at most 0.05 eV/atom above the hull" in path.with_suffix(".md").read_text()


def test_gap_error_is_by_split_and_over_all(run: tuple[Path, Config]) -> None:
    rows = {row["split"]: row for row in read(table(run, "gap_error"))}
    assert sorted(rows) == ["all", "train", "val"]
    total = sum(int(rows[split]["mean_error_ev_n"]) for split in ("train", "val"))
    assert int(rows["all"]["mean_error_ev_n"]) == total
    # report_data gives our SCF 0.9 of the source's gap, less where that is small.
    assert -float(rows["all"]["mean_error_ev"]) == pytest.approx(float(rows["all"]["mean_absolute_error_ev"]))


def test_a_table_that_mixes_programs_says_so(tmp_path: Path) -> None:
    config = write_results(tmp_path, 24, (0,), targets_ev=[], omegas=[5])
    path = tmp_path / "evaluation/outcomes.parquet"
    assert "programs" not in make("outcomes", tmp_path, config).with_suffix(".md").read_text()
    rows = tables.read_rows(path, tables.SCF_OUTCOMES)
    first = next(number for number, row in enumerate(rows) if row["kind"] == "design" and row["engine"])
    rows[first]["engine"] = "pw.x 6.7"
    tables.write_rows(rows, tables.SCF_OUTCOMES, path)
    text = make("outcomes", tmp_path, config).with_suffix(".md").read_text()
    assert "These are SCFs of 2 programs: " in text
    assert "1 of pw.x 6.7" in text


def test_outcomes_add_up(run: tuple[Path, Config]) -> None:
    _, config = run
    rows = read(table(run, "outcomes"))
    for policy in config.policy_specs():
        overall = [row for row in rows if row["policy"] == policy and row["element"] == "any"]
        assert sum(int(row["n"]) for row in overall) == 60 == int(overall[0]["n_designs"])
        oxides = [row for row in rows if row["policy"] == policy and row["element"] == "O"]
        assert sum(int(row["n"]) for row in oxides) == int(oxides[0]["n_designs"]) if oxides else True
    assert {row["outcome"] for row in rows} >= {"converged", "invalid_composition"}
    assert all(float(row["low"]) <= float(row["share_pct"]) <= float(row["high"]) for row in rows)


SWEEP = {
    "reward": {"energy": "total", "alpha1": 1, "alpha2": 5, "beta2": 1},
    "sweep": {"settings": [[0, 5, 1], [1, 5, 1], [1, 10, 3]], "targets_ev": [1.12, 4]},
}


def test_settings_tables_have_the_papers_rows(tmp_path: Path) -> None:
    config = write_results(tmp_path, 60, (0,), sections=SWEEP, targets_ev=[1.12, 4.0], omegas=[1, 5])
    for number in (3, 4):
        rows = read(table((tmp_path, config), f"table{number}_settings_{'1.12' if number == 3 else '4'}ev"))
        assert {(row["setting"], row["omega"]) for row in rows} == {
            ("", ""), ("", "1"), ("", "5"),
            *((setting, omega) for setting in ("0-5-1", "1-5-1", "1-10-3") for omega in ("1", "5")),
        }  # fmt: skip
        assert len(rows) == 4 + 6
        assert all(row["accuracy_pct_paper"] for row in rows)
    assert [row["setting"] for row in rows[4:]] == ["0-5-1", "0-5-1", "1-5-1", "1-5-1", "1-10-3", "1-10-3"]
    by_setting = {(row["setting"], row["omega"]): row for row in rows}
    assert by_setting["1-10-3", "5"]["accuracy_pct_paper"] == "42.91"
    assert by_setting["1-5-1", "1"]["policy"] == "ccql-4ev-w1"
    assert by_setting["", "5"]["accuracy_pct_paper"] == "51.53"


def test_external_crystals_alone(run: tuple[Path, Config]) -> None:
    """No policy, no label, no target: every table can be made, and says what it has."""
    alone: dict[str, Any] = {"policies": {"bc": None}, "without": ("labels",), "targets_ev": ()}
    assert read(table(run, **alone))[0]["accuracy_pct_paper"] == ""
    (row,) = read(table(run, "table2_dft_success", **alone))
    assert row["mean_band_gap_ev"]
    assert row["emd_band_gap_ev"] == ""
    assert len(read(table(run, "stability", **alone))) == 1
    path = table(run, "desired_range", **alone)
    assert read(path) == []
    assert path.with_suffix(".csv").read_text().startswith("policy,target_ev,nu_pct,")
    assert read(table(run, "policy_tests", **alone)) == []
    verdicts = Counter(row["verdict"] for row in read(table(run, "paper_comparison", **alone)))
    assert set(verdicts) == {"missing", "not_printed"}


def test_a_long_table_breaks_over_pages() -> None:
    text = TextTable("T.", "c", ["a", "b"], [["x_1", "2"]] * 60).latex()
    assert text.count(r"\begin{longtable}") == text.count(r"\end{longtable}") == 1
    assert r"x\_1 & 2 \\" in text


def test_every_table_has_its_keys_and_columns_in_contents(run: tuple[Path, Config]) -> None:
    row = read(table(run))[0]
    entry = content("table1_composition")
    assert set(entry.keys) | {column.name for column in entry.columns} <= set(row)
