"""A campaign through its functions: screening, hits, the books, the report and what is handed over."""

from __future__ import annotations

import csv
import json
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from campaign_data import campaign_files, converges, true_gap, write_campaign
from pymatgen.core import Structure
from report_data import FILES

from xtalrl import tables
from xtalrl.campaign.accounts import together
from xtalrl.campaign.evidence import HIT_COLUMNS
from xtalrl.campaign.learning import label_designs, labels_near, warn_where_labels_are_far
from xtalrl.campaign.screening import (
    AUDITED,
    CHOSEN,
    COMPUTED,
    DROPPED,
    FIRST_S_PER_COST,
    LEFT_OUT,
    screen_designs,
)
from xtalrl.cells import Cell
from xtalrl.config import Config
from xtalrl.dft.pseudopotentials import describe_family
from xtalrl.dft.requests import cost_of
from xtalrl.errors import XtalrlError
from xtalrl.metrics.confirmation import CONFIRMED
from xtalrl.report.baselines import Spending, baselines_table
from xtalrl.report.campaign import campaign_accounts, campaign_figure, campaign_table, hits_table, readiness_table
from xtalrl.report.contents import figures_of, tables_of
from xtalrl.report.results import Results, scoring_of
from xtalrl.resources import RESOURCES


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("campaign")
    return folder, write_campaign(folder)


def screenings(run: tuple[Path, Config]) -> list[list[dict[str, Any]]]:
    folder, config = run
    return [tables.read_rows(path, tables.SCREENING) for path in campaign_files(folder, config)["campaign_screenings"]]


def test_the_budget_is_spent_and_every_design_has_a_verdict(run: tuple[Path, Config]) -> None:
    rounds = screenings(run)
    computed = [[row for row in rows if row["verdict"] in COMPUTED] for rows in rounds]
    assert [len(rows) for rows in computed] == [20, 20, 20]
    assert [sum(row["verdict"] == AUDITED for row in rows) for rows in computed] == [6, 6, 6]
    for number, rows in enumerate(rounds, 1):
        assert {row["verdict"] for row in rows} <= {CHOSEN, AUDITED, DROPPED, LEFT_OUT}
        assert all(bool(row["why"]) == (row["verdict"] == LEFT_OUT) == (row["rank"] is None) for row in rows)
        assert {row["round"] for row in rows} == {number}
        ranks = sorted(row["rank"] for row in rows if row["rank"])
        assert ranks == list(range(1, len(ranks) + 1))
        assert {row["rank"] for row in rows if row["verdict"] == CHOSEN} == set(range(1, 15))


def test_nothing_is_computed_twice_and_one_of_a_formula_and_skeleton_is_up_for_choice(run: tuple[Path, Config]) -> None:
    candidates = [row for rows in screenings(run) for row in rows if row["verdict"] != LEFT_OUT]
    assert max(Counter(row["request_id"] for row in candidates).values()) == 1
    kinds = Counter((row["round"], row["material_id"], row["formula"]) for row in candidates)
    assert max(kinds.values()) == 1


def test_chosen_holds_the_computed_designs_only(run: tuple[Path, Config]) -> None:
    folder, _ = run
    for number, rows in enumerate(screenings(run), 1):
        chosen = tables.read_rows(folder / f"campaign-{number}/chosen.parquet", tables.ASSESSMENTS)
        assert {row["request_id"] for row in chosen} == {
            row["request_id"] for row in rows if row["verdict"] in COMPUTED
        }


def test_a_good_predictor_finds_more_and_the_books_say_so(run: tuple[Path, Config]) -> None:
    """The stand-in knows the truth: of the hits that there are, the estimate from the audit is compared with all of them."""
    folder, config = run
    account = together(campaign_accounts(Results.of(config, campaign_files(folder, config))))
    verdict = account.verdict(2000, 0.95)
    candidates = [row for rows in screenings(run) for row in rows if row["verdict"] != LEFT_OUT]
    there = sum(3.5 < true_gap(row["species"]) < 4.5 and converges(row["request_id"]) for row in candidates)
    assert verdict.unscreened.low is not None and verdict.unscreened.high is not None
    assert verdict.unscreened.low <= there / len(candidates) <= verdict.unscreened.high
    assert verdict.acceleration.value is not None
    assert verdict.acceleration.value > 2
    assert account.count("hit") == len(tables.read_rows(folder / "campaign/hits.parquet", tables.HITS))
    assert account.cpu_s > sum(one.cpu_s for one in account.computed)


def test_all_that_the_table_says_adds_up(run: tuple[Path, Config]) -> None:
    folder, config = run
    table = campaign_table(Results.of(config, campaign_files(folder, config)), scoring_of(config))
    *rounds, total = table.rows
    assert [row["round"] for row in table.rows] == ["1", "2", "3", "all"]
    for column in ("proposed", "candidates", "scfs", "audited", "converged", "hits", "confirmed"):
        assert sum(row[column] for row in rounds) == total[column]  # type: ignore[misc, arg-type]
    assert total["cpu_s"] == pytest.approx(sum(row["cpu_s"] for row in rounds))  # type: ignore[misc, arg-type]
    assert total["cpu_per_hit_s"] == pytest.approx(total["cpu_s"] / total["hits"])  # type: ignore[operator]
    assert total["promise"] in ("kept", "exceeded", "missed")
    table.write(folder / "t.csv", folder / "t.md", folder / "t.tex", folder / "t.txt")
    with (folder / "t.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4


def test_the_figure_ends_at_the_hits_of_the_table(run: tuple[Path, Config]) -> None:
    folder, config = run
    results, scoring = Results.of(config, campaign_files(folder, config)), scoring_of(config)
    drawing = campaign_figure(results, scoring)
    total = campaign_table(results, scoring).rows[-1]
    assert [row["scf"] for row in drawing.rows] == list(range(1, 61))
    assert drawing.rows[-1]["hits"] == total["hits"]
    assert drawing.rows[-1]["confirmed"] == total["confirmed"]
    drawing.write(folder / "f.csv", folder / "f.png", folder / "f.pdf")
    assert (folder / "f.png").stat().st_size > 10_000


def test_readiness_counts_labels_and_promises(run: tuple[Path, Config]) -> None:
    folder, config = run
    table = readiness_table(Results.of(config, campaign_files(folder, config)), scoring_of(config))
    said = {row["what"]: row for row in table.rows}
    gaps = [
        row["band_gap"]
        for row in tables.read_rows(folder / "labels.parquet", tables.LABELS)
        if row["band_gap"] is not None
    ]
    assert said["Labels with a wanted gap"]["value"] == sum(3.5 < gap < 4.5 for gap in gaps)
    assert said["Labels with a gap"]["value"] == len(gaps)
    assert said["Mean absolute error of the first predictor there"]["value"] == pytest.approx(0.5)
    promised = said["Hits promised per 100 SCFs"]
    assert promised["low"] <= promised["value"] <= promised["high"]  # type: ignore[operator]
    assert promised["value"] > said["Hits promised per 100 unscreened SCFs"]["value"]  # type: ignore[operator]


def test_a_campaign_alone_has_its_tables_and_figure(run: tuple[Path, Config]) -> None:
    names = {entry.name for entry in (*tables_of(run[1]), *figures_of(run[1]))}
    others = {entry.name for entry in (*tables_of(Config()), *figures_of(Config()))}
    assert names - others == {"campaign", "campaign_readiness", "campaign_found", "campaign_baselines", "campaign_hits"}


def test_a_run_may_be_a_campaign_alone() -> None:
    nothing = {"random": False, "bc": False, "ucql": False, "targets_ev": []}
    config = Config.model_validate({"policies": nothing, "labels": {"path": "source"}, "campaign": {"gap_ev": 1}})
    names = {entry.name for entry in (*tables_of(config), *figures_of(config))}
    assert {"campaign", "campaign_readiness", "campaign_hits", "figure5"} <= names
    assert not {"table1_composition", "figure2", "figure4", "desired_range"} & names


def test_what_is_handed_over(run: tuple[Path, Config]) -> None:
    folder, _ = run
    with (folder / "campaign/hits.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = tables.read_rows(folder / "campaign/confirmation.parquet", tables.CONFIRMATION)
    assert list(rows[0]) == list(HIT_COLUMNS)
    assert len(rows) == len(found)
    verdicts = [row["verdict"] for row in rows]
    n_confirmed = sum(row["verdict"] == CONFIRMED for row in found)
    assert verdicts[:n_confirmed] == [CONFIRMED] * n_confirmed
    assert CONFIRMED not in verdicts[n_confirmed:]
    by_rank = {row["rank"]: row for row in rows}
    for row in rows:
        if row["same_as_rank"]:
            first = by_rank[row["same_as_rank"]]
            assert (first["formula"], first["same_as_rank"]) == (row["formula"], "")
            assert int(first["rank"]) < int(row["rank"])
    schema = json.loads((RESOURCES / "schemas/evidence.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    records = sorted((folder / "campaign/designs").glob("*.json"))
    assert len(records) == 60
    told = [json.loads(path.read_text()) for path in records]
    for record in told:
        jsonschema.validate(record, schema)
    assert (
        sum(record["result"]["is_hit"] for record in told)
        == len(rows)
        == sum(record["confirmation"] is not None for record in told)
    )
    structure = Structure.from_file(folder / "campaign" / rows[0]["cif"])
    assert structure.composition.reduced_formula == rows[0]["formula"]


def test_the_report_lists_the_hits_with_the_nearest_known_crystal(run: tuple[Path, Config]) -> None:
    folder, config = run
    table = hits_table(Results.of(config, campaign_files(folder, config)), scoring_of(config))
    known = {
        row["material_id"]: row for row in tables.read_rows(folder / "structures/crystals.parquet", tables.CRYSTALS)
    }
    assert [row["rank"] for row in table.rows] == [str(rank) for rank in range(1, len(table.rows) + 1)]
    for row, line in zip(table.rows, table.text.rows, strict=True):
        assert known[str(row["nearest_crystal"])]["formula"] == row["nearest_formula"]
        assert (float(str(row["composition_distance"])) == 0) == (row["formula"] == row["nearest_formula"])
        assert str(row["nearest_formula"]) in line[9]


def test_baselines_stand_beside_the_campaign(run: tuple[Path, Config]) -> None:
    folder, config = run
    files = campaign_files(folder, config) | {name: folder / path for name, path in FILES.items()}
    results, scoring = Results.of(config, files), scoring_of(config)
    rows = {str(row["designs"]): row for row in baselines_table(results, scoring).rows}
    assert list(rows)[2:4] == ["random", "bc"]
    total = campaign_table(results, scoring).rows[-1]
    assert (rows["campaign"]["scfs"], rows["campaign"]["hits"]) == (total["scfs"], total["hits"])
    evaluation = tables.read_rows(files["evaluation"], tables.EVALUATION)
    cells = {row["material_id"] for row in tables.read_rows(files["campaign_skeletons"], tables.CRYSTALS)}
    scfs = {row["request_id"]: row for row in tables.read_rows(files["design_scf"], tables.SCF_OUTCOMES)}
    for name in ("random", "bc"):
        designs = {
            row["request_id"]: row["band_gap"]
            for row in evaluation
            if row["policy"] == name and row["request_id"] and row["material_id"] in cells
        }
        ran = {request: gap for request, gap in designs.items() if scfs[request]["attempts"]}
        assert rows[name]["scfs"] == len(ran)
        assert rows[name]["hits"] == sum(gap is not None and 3.5 < gap < 4.5 for gap in ran.values())


def test_cpu_per_hit_has_an_interval_where_every_resample_of_the_tail_has_a_hit() -> None:
    many = Spending("many", [True, False] * 20, [10.0] * 40).cpu_per_hit(500, 0.95)
    assert many.value == 20 and many.low is not None and many.high is not None and many.low < 20 < many.high
    few = Spending("few", [True] + [False] * 19, [10.0] * 20).cpu_per_hit(500, 0.95)
    assert (few.value, few.low, few.high) == (200, None, None)
    assert Spending("none", [False], [1.0]).cpu_per_hit(500, 0.95).value is None


def test_computed_designs_become_labels_failures_included(run: tuple[Path, Config]) -> None:
    folder, _ = run
    label_designs(
        folder / "campaign-1/evaluation.parquet",
        folder / "campaign-1/outcomes.parquet",
        folder / "campaign-1/labels.parquet",
    )
    labels = tables.read_rows(folder / "campaign-1/labels.parquet", tables.LABELS)
    evaluation = tables.read_rows(folder / "campaign-1/evaluation.parquet", tables.EVALUATION)
    assert [row["material_id"] for row in labels] == [row["request_id"] for row in evaluation]
    assert {row["split"] for row in labels} == {tables.DESIGN_SPLIT}
    assert any(row["band_gap"] is None and row["total_energy_ry"] is None for row in labels)
    assert all(row["source"] == "scf" for row in labels)


def test_nothing_is_learned_from_a_failure_of_the_machine(run: tuple[Path, Config], tmp_path: Path) -> None:
    folder, _ = run
    outcomes = tables.read_rows(folder / "campaign-1/outcomes.parquet", tables.SCF_OUTCOMES)
    failed = next(row for row in outcomes if row["total_energy_ry"] is None)
    failed["outcome"] = "killed"
    tables.write_rows(outcomes, tables.SCF_OUTCOMES, tmp_path / "outcomes.parquet")
    label_designs(folder / "campaign-1/evaluation.parquet", tmp_path / "outcomes.parquet", tmp_path / "labels.parquet")
    labelled = {row["material_id"] for row in tables.read_rows(tmp_path / "labels.parquet", tables.LABELS)}
    evaluation = tables.read_rows(folder / "campaign-1/evaluation.parquet", tables.EVALUATION)
    assert {row["request_id"] for row in evaluation} - labelled == {failed["request_id"]}


@pytest.mark.parametrize(("wanted", "near"), [((3.5, 4.5), True), ((25.0, 26.0), False), ((25.0, None), False)])
def test_a_target_far_from_all_labels_is_said_with_counts(
    run: tuple[Path, Config], wanted: tuple[float, float | None], near: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "xtalrl")
    warn_where_labels_are_far(run[0] / "labels.parquet", wanted)
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert bool(warned) == (not near)
    assert all("labels have a gap, from" in record.getMessage() for record in warned)


def test_labels_near_the_ends() -> None:
    labels = [{"band_gap": gap} for gap in (None, 0.0, 1.0, 2.0, 3.0, 4.1)]
    assert labels_near(labels, (2.0, 3.0)) == {"known": 5, "inside": 0, "near": 3, "lowest": 0.0, "highest": 4.1}
    assert labels_near(labels, (2.5, None))["inside"] == 2


def screen(folder: Path, config: Config, name: str, number: int = 1, **changed: Any) -> list[dict[str, Any]]:
    """The screening of a round with other arguments."""
    arguments: dict[str, Any] = {
        "wishes": config.campaign.wishes, "recovery": "extended", "round_number": 1, "rounds": 3, "budget": 60, "audit": 0.3, "seed": 0,
    }  # fmt: skip
    screen_designs(
        folder / f"campaign-{number}/assessments.parquet",
        folder / f"campaign-{number}/predictions.parquet",
        folder / "labels.parquet",
        folder / "family.json",
        folder / "campaign/skeletons.parquet",
        [folder / f"campaign-{earlier}/screening.parquet" for earlier in range(1, number)],
        folder / f"{name}.parquet",
        folder / f"{name}-chosen.parquet",
        **arguments | changed,
    )
    return tables.read_rows(folder / f"{name}.parquet", tables.SCREENING)


def test_another_arrangement_of_what_an_earlier_round_computed_is_left_out(
    run: tuple[Path, Config], tmp_path: Path
) -> None:
    """It is often the same crystal, and would count as another hit."""
    folder, config = run
    second = next(row for row in screenings(run)[1] if row["verdict"] == CHOSEN)
    before = [row | {"request_id": f"{row['request_id']}-other"} for row in screenings(run)[0]]
    computed = next(row for row in before if row["verdict"] in COMPUTED)
    computed |= {name: second[name] for name in ("material_id", "formula", "species")}
    (tmp_path / "campaign-1").mkdir()
    tables.write_rows(before, tables.SCREENING, tmp_path / "campaign-1/screening.parquet")
    for name in ("campaign", "campaign-2", "labels.parquet", "family.json"):
        (tmp_path / name).symlink_to(folder / name)
    rows = screen(tmp_path, config, "again", number=2, round_number=2)
    (again,) = (row for row in rows if row["request_id"] == second["request_id"])
    assert (again["verdict"], again["why"]) == (LEFT_OUT, "the same elements on the skeleton were computed before")


def test_the_same_crystal_is_computed_once_on_whatever_skeletons(run: tuple[Path, Config], tmp_path: Path) -> None:
    """The likelier of two designs with the same elements on skeletons that differ in size only; in a later round neither."""
    folder, config = run
    first = [row for row in screenings(run)[0] if not row["why"]]
    there = {(row["material_id"], row["formula"]) for row in first}
    one, other = next(
        (one, other)
        for one, other in permutations(first, 2)
        if len(one["species"]) == len(other["species"])
        and one["p_hit"] != other["p_hit"]
        and (other["material_id"], one["formula"]) not in there
    )
    skeletons = {
        row["material_id"]: row for row in tables.read_rows(folder / "campaign/skeletons.parquet", tables.CRYSTALS)
    }
    true = skeletons[one["material_id"]]
    skeletons[other["material_id"]] |= {
        "lattice": [1.1 * length for length in true["lattice"]], "frac_coords": true["frac_coords"],
    }  # fmt: skip
    assessments = tables.read_rows(folder / "campaign-1/assessments.parquet", tables.ASSESSMENTS)
    for row in assessments:
        if row["request_id"] == other["request_id"]:
            row |= {"species": one["species"], "formula": one["formula"]}
    for name in ("campaign", "campaign-1", "campaign-2"):
        (tmp_path / name).mkdir()
    for name in ("labels.parquet", "family.json"):
        (tmp_path / name).symlink_to(folder / name)
    tables.write_rows(skeletons.values(), tables.CRYSTALS, tmp_path / "campaign/skeletons.parquet")
    for place in ("campaign-1", "campaign-2"):
        tables.write_rows(assessments, tables.ASSESSMENTS, tmp_path / place / "assessments.parquet")
        (tmp_path / place / "predictions.parquet").symlink_to(folder / "campaign-1/predictions.parquet")

    def reasons(rows: list[dict[str, Any]]) -> dict[str, str]:
        return {
            row["request_id"]: row["why"]
            for row in rows
            if row["request_id"] in (one["request_id"], other["request_id"])
        }

    worse, better = sorted((one, other), key=lambda row: row["p_hit"])
    rows = screen(tmp_path, config, "now")
    assert reasons(rows) == {
        better["request_id"]: "",
        worse["request_id"]: "the same crystal is likelier on another skeleton",
    }
    # Had the better one been computed in a round before, under another name, the worse one would be left out for that.
    before = [
        row | {"request_id": "another", "verdict": CHOSEN} for row in rows if row["request_id"] == better["request_id"]
    ]
    tables.write_rows(before, tables.SCREENING, tmp_path / "campaign-1/screening.parquet")
    later = reasons(screen(tmp_path, config, "later", number=2, round_number=2))
    assert later[better["request_id"]] == "the same elements on the skeleton were computed before"
    assert later[worse["request_id"]] == "the same crystal was computed before"


def test_the_paper_s_rules_compute_no_odd_number_of_electrons(run: tuple[Path, Config]) -> None:
    rows = screen(*run, "paper", recovery="paper")
    assessments = tables.read_rows(run[0] / "campaign-1/assessments.parquet", tables.ASSESSMENTS)
    odd = {row["request_id"] for row in assessments if row["odd_electrons"]}
    assert odd
    assert all(row["request_id"] not in odd for row in rows if row["verdict"] in COMPUTED)


def test_wishes_that_leave_nothing_get_a_sentence(run: tuple[Path, Config], tmp_path: Path) -> None:
    folder, config = run
    known = tables.read(folder / "campaign-1/assessments.parquet", tables.ASSESSMENTS).to_pylist()
    tables.write_rows(
        [row | {"novel": False if row["valid"] else None} for row in known], tables.ASSESSMENTS, tmp_path / "a.parquet"
    )
    with pytest.raises(XtalrlError, match=r"none is left to compute \(.*a known composition"):
        screen_designs(
            tmp_path / "a.parquet", folder / "campaign-1/predictions.parquet", folder / "labels.parquet", folder / "family.json", folder / "campaign/skeletons.parquet",
            [], tmp_path / "s.parquet", tmp_path / "c.parquet", config.campaign.wishes | {"novel": True}, "extended", 1, 3, 60, 0.3, 0,
        )  # fmt: skip


def test_a_budget_of_core_hours_is_spent_by_estimated_costs(run: tuple[Path, Config]) -> None:
    folder, _ = run
    skeletons = folder / "campaign/skeletons.parquet"
    few = screen(*run, "few", budget=None, core_hours=0.6)
    more = screen(*run, "more", budget=None, core_hours=1.2)
    counts = [Counter(row["verdict"] for row in rows) for rows in (few, more)]
    assert 1 < counts[0][CHOSEN] < counts[1][CHOSEN]
    assert 1 <= counts[0][AUDITED] < counts[1][AUDITED]
    cells = {row["material_id"]: row for row in tables.read_rows(skeletons, tables.CRYSTALS)}
    family = describe_family(run[1].dft.family)
    costs = [
        FIRST_S_PER_COST * cost_of(Cell.from_row({**cells[row["material_id"]], "species": row["species"]}), family)
        for row in more
        if row["verdict"] == CHOSEN
    ]
    assert sum(costs) <= 1.2 * 3600 / 3 * 0.7


def test_later_rounds_know_what_earlier_ones_took(run: tuple[Path, Config]) -> None:
    folder, config = run
    second = {"round_number": 2, "budget": None, "core_hours": 2.0}
    chosen = []
    for factor in (1, 3):
        outcomes = tables.read_rows(folder / "campaign-1/outcomes.parquet", tables.SCF_OUTCOMES)
        path = folder / f"outcomes-{factor}.parquet"
        tables.write_rows([row | {"wall_s": factor * row["wall_s"]} for row in outcomes], tables.SCF_OUTCOMES, path)
        rows = screen(folder, config, f"second-{factor}", number=2, earlier_outcomes=[path], **second)
        chosen.append(sum(row["verdict"] == CHOSEN for row in rows))
    assert chosen[0] > chosen[1] >= 1
