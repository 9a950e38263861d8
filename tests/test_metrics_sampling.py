"""The skeletons whose designs are computed: the same for every policy, and a larger sample holds a smaller one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_data import FILES, make, read, write_results
from test_metrics_evaluation import assessment

from xtalrl import tables
from xtalrl.config import validate
from xtalrl.metrics.evaluation import evaluate_designs
from xtalrl.metrics.sampling import sample_designs
from xtalrl.report.contents import content, make_table, settings_of, tables_of


def drawn(
    folder: Path, rows: list[dict[str, Any]], max_sites: int | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    tables.write_rows(rows, tables.ASSESSMENTS, folder / "assessments.parquet")
    sample_designs(folder / "assessments.parquet", folder / "sample.parquet", max_sites, limit)
    return tables.read_rows(folder / "sample.parquet", tables.ASSESSMENTS)


def skeletons(n: int, policies: tuple[str, ...] = ("bc", "rvs")) -> list[dict[str, Any]]:
    return [
        assessment(f"mp-{number}", None, ["Na"] * (number % 4 + 1), policy)
        for policy in policies
        for number in range(n)
    ]


def test_every_policy_gets_the_same_skeletons_in_the_order_of_the_table(tmp_path: Path) -> None:
    rows = skeletons(60)
    sample = drawn(tmp_path, rows, limit=20)
    by_policy = {name: [row["material_id"] for row in sample if row["policy"] == name] for name in ("bc", "rvs")}
    assert by_policy["bc"] == by_policy["rvs"]
    assert len(set(by_policy["bc"])) == 20
    assert by_policy["bc"] != [f"mp-{number}" for number in range(20)]
    of_table = [(row["policy"], row["material_id"]) for row in rows]
    assert [(row["policy"], row["material_id"]) for row in sample] == [
        design for design in of_table if design[1] in by_policy["bc"]
    ]


@given(smaller=st.integers(1, 30), larger=st.integers(1, 40), seed=st.integers(0, 99))
def test_a_sample_grows_whatever_else_is_in_the_table(
    tmp_path_factory: pytest.TempPathFactory, smaller: int, larger: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("sample")
    rows = skeletons(30, ("bc",))
    random.Random(seed).shuffle(rows)
    few, many = ({row["material_id"] for row in drawn(folder, rows, limit=n)} for n in sorted((smaller, larger)))
    assert few <= many
    assert len(many) == min(30, max(smaller, larger))


def test_only_cells_of_the_wanted_size_are_in_the_lot(tmp_path: Path) -> None:
    sample = drawn(tmp_path, skeletons(40), max_sites=2, limit=12)
    assert {row["n_sites"] for row in sample} == {1, 2}
    assert len(sample) == 24


def test_each_external_set_is_drawn_by_itself_and_keeps_its_unusable_entries(tmp_path: Path) -> None:
    others = [
        assessment(f"others/{number}", None, ["Na"] if number % 2 else [], "others") | {"true_formula": None}
        for number in range(20)
    ]
    sample = drawn(tmp_path, [*skeletons(20, ("bc",)), *others], max_sites=4, limit=10)
    assert [sum(row["policy"] == name for row in sample) for name in ("bc", "others")] == [10, 10]
    everything = drawn(tmp_path, others, max_sites=4)
    assert [row["material_id"] for row in everything] == [row["material_id"] for row in others]


def test_tables_of_scfs_count_the_sample_and_table_1_counts_all(tmp_path: Path) -> None:
    """ν of a policy is over the drawn skeletons alone, and the caption says so."""
    config = write_results(tmp_path, 160, (0,), sections={"evaluation": {"limit": 25}}, targets_ev=[1.12], omegas=[5])
    sample_designs(tmp_path / "designs/assessments.parquet", tmp_path / "designs/sample.parquet", None, 25)
    evaluate_designs(
        assessments=tmp_path / "designs/sample.parquet",
        outcomes=tmp_path / "evaluation/outcomes.parquet",
        references=tmp_path / "references.parquet",
        labels=tmp_path / "labels.parquet",
        evaluation=tmp_path / "evaluation/evaluation.parquet",
    )
    assert {row["n_crystals"] for row in read(make("desired_range", tmp_path, config))} == {"25"}
    assert {row["n_crystals"] for row in read(make("table1_composition", tmp_path, config))} == {"40"}
    sample = tables.read_rows(tmp_path / "designs/sample.parquet", tables.ASSESSMENTS)
    valid = sum(row["valid"] for row in sample if row["policy"] == "bc")
    cells = {
        (row["paper_table"], row["row"], row["metric"]): row["n"]
        for row in read(make("paper_comparison", tmp_path, config))
    }
    assert (cells["1", "BC", "validity"], cells["2", "BC", "dft_success"]) == ("40", str(valid))


def test_the_caption_of_every_table_of_scfs_names_the_sample(tmp_path: Path) -> None:
    config = write_results(tmp_path, 60, (0,), sections={"evaluation": {"limit": 25}}, targets_ev=[1.12], omegas=[5])
    outputs = {kind: tmp_path / f"made.{kind}" for kind in ("csv", "markdown", "latex", "caption")}
    made = [entry for entry in tables_of(config) if set(entry.inputs) <= set(FILES)]
    for entry in made:
        files = {name: tmp_path / FILES[name] for name in entry.inputs}
        make_table(entry.name, config.model_dump() | {"results": str(tmp_path)}, **outputs, **files)
        for kind in ("caption", "markdown"):
            assert ("on at most 25 skeletons, drawn by lot" in outputs[kind].read_text()) == entry.reads_scfs, (
                entry.name
            )
    assert {entry.reads_scfs for entry in made} == {True, False}


def test_a_run_that_computes_everything_depends_on_no_sample() -> None:
    entry, settings = content("desired_range"), settings_of(validate({}))
    assert entry.recorded(settings) == {name: settings[name] for name in entry.settings}
    sampled = settings_of(validate({"evaluation": {"limit": 25}}))
    assert "at most 25 skeletons" in entry.recorded(sampled)["sample"]
    assert "sample" not in content("table1_composition").recorded(sampled)
