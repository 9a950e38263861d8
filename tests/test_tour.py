"""`dft.finished`: SCFs of others answer and are written nowhere; what ships with xtalrl is what the demo needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from report_data import write_results
from test_dft_shards import Place, crystal

import xtalrl.report.elsewhere
from xtalrl import tables
from xtalrl.commands.status import print_summary
from xtalrl.config import Config, load
from xtalrl.dft.climb import situation_of
from xtalrl.dft.exchange import DEMO_SCFS, export_cache, finished_scfs
from xtalrl.dft.inputs import calculation, key_of
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.pseudopotentials import describe_family, load_family
from xtalrl.dft.recovery import first_attempt
from xtalrl.dft.requests import plan_crystal_scf, plan_reference_scf
from xtalrl.errors import XtalrlError
from xtalrl.report import sections
from xtalrl.report.elsewhere import ComputedElsewhere, computed_elsewhere
from xtalrl.report.html import make_report
from xtalrl.structures.crystals import build_crystals
from xtalrl.structures.demo import write_csvs


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place whose finished SCFs of silicon and diamond's odd cousin were exported, and whose cache of SCFs was then emptied."""
    place = Place(tmp_path)
    place.plan(crystal("good", "Si", "Si"), crystal("known", "Na", "Si", moment=1.0))
    place.run()
    export_cache(place.cache, tmp_path / "finished.parquet")
    shutil.rmtree(place.cache / "scf")
    return place


def config_of(place: Place) -> Config:
    """A run of `place`, with its outcomes as a stage."""
    results = place.folder / "results"
    (results / "scf").mkdir(parents=True, exist_ok=True)
    shutil.copy(place.outcomes, results / "scf/outcomes.parquet")
    return Config.model_validate({"results": str(results), "dft": {"finished": str(place.folder / "finished.parquet")}})


def test_what_is_finished_is_taken_and_written_nowhere(place: Place) -> None:
    before = place.runs
    taken = place.run(finished=str(place.folder / "finished.parquet"))
    assert place.runs == before
    assert not list(place.cache.glob("scf/*"))
    assert {row["outcome"] for row in taken.values()} == {"converged"}
    elsewhere = computed_elsewhere(config_of(place))
    assert elsewhere is not None and elsewhere.taken == elsewhere.total == 2
    assert "2 of the 2 runs of pw.x" in elsewhere.sentence and "none was computed here" in elsewhere.sentence
    assert elsewhere.engines == ("pw.x 7.2 (command)",)

    place.run()  # A run without it computes all of them.
    assert place.runs == before + 2
    assert computed_elsewhere(config_of(place).model_copy(update={"dft": Config().dft})) is None


def test_report_and_summary_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_results(tmp_path, 24, (0,), targets_ev=[2.0], omegas=[5], bc=False)
    make_report(tmp_path, config.model_dump(mode="json"), tmp_path / "report.html")
    assert "computed elsewhere" not in (tmp_path / "report.html").read_text()
    elsewhere = ComputedElsewhere("a file", 3, 4, ("pw.x 7.2 (embedded)",), "2026-11-30T14:05", "2026-12-01T15:10")
    for module in (sections, xtalrl.report.elsewhere):
        monkeypatch.setattr(module, "computed_elsewhere", lambda config: elsewhere)
    make_report(tmp_path, config.model_dump(mode="json"), tmp_path / "report.html")
    print_summary(config)
    sentence = (
        "3 of the 4 runs of pw.x behind these results were computed elsewhere, by pw.x 7.2 (embedded), 2026-11-30 to 2026-12-01, and taken from a file; "
        "1 was computed here."
    )
    assert sentence in (tmp_path / "report.html").read_text()
    assert sentence in capsys.readouterr().out


def test_what_is_missing_is_computed_and_kept(place: Place) -> None:
    before = place.runs
    place.plan(crystal("good", "Si", "Si"), crystal("other", "C", "Si"))
    place.run(finished=str(place.folder / "finished.parquet"))
    assert place.runs == before + 1
    assert sum(path.read_text().count("\n") for path in place.cache.glob("scf/*.jsonl")) == 1
    elsewhere = computed_elsewhere(config_of(place))
    assert elsewhere is not None and (elsewhere.taken, elsewhere.total) == (1, 2)
    assert elsewhere.sentence.endswith("1 was computed here.")


def test_an_own_result_is_not_called_anothers(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same calculations, computed here: their records differ in the time that they took."""
    monkeypatch.setenv("FAKE_PW_SLEEP", "0.3")
    place.run()
    assert computed_elsewhere(config_of(place)) is None


def test_a_changed_export_is_refused(place: Place) -> None:
    file = place.folder / "finished.jsonl"
    place.run()
    export_cache(place.cache, file)
    lines = file.read_text().splitlines()
    energy = json.loads(lines[0])["total_energy_ry"]
    file.write_text("\n".join([lines[0].replace(str(energy), str(energy - 1)), *lines[1:]]) + "\n")
    with pytest.raises(
        XtalrlError, match=r"1 records of .*finished\.jsonl, which `dft.finished` names, cannot be taken"
    ):
        place.run(finished=str(file))


@pytest.mark.parametrize("value", ["nowhere.parquet", "/"])
def test_a_missing_export_is_named(value: str, place: Place) -> None:
    with pytest.raises(XtalrlError, match=f"^{value} (is neither a cache folder|holds no finished SCF)"):
        place.run(finished=value)


def test_the_tour_is_the_demo_with_other_results(root: Path) -> None:
    files = [root / "config/config.yaml", root / "config/demo.yaml"]
    demo, tour = load(*files), load(*files, root / "config/tour.yaml")
    changed = {"results": "results/tour", "dft": demo.dft.model_copy(update={"finished": "demo"})}
    assert tour == demo.model_copy(update=changed)
    assert tour.cache == demo.cache


def test_what_ships_is_small_and_of_one_program(root: Path) -> None:
    records = finished_scfs("demo")
    assert (root / DEMO_SCFS).stat().st_size < 500_000
    assert {record.engine for record in records} == {"pw.x 7.2 (embedded)"}
    assert {record.protocol for record in records} == {"demo"}
    assert all(record.ended for record in records)


def test_what_ships_holds_every_crystal_and_reference_of_the_demo(root: Path, tmp_path: Path) -> None:
    """Planned from what the demo is made of: a changed crystal, protocol or family is found out."""
    config = load(root / "config/config.yaml", root / "config/demo.yaml")
    csvs = {split: str(tmp_path / f"{split}.csv") for split in ("train", "val", "test")}
    write_csvs(root / "resources/demo/crystals.csv", csvs)
    crystals, family = str(tmp_path / "crystals.parquet"), str(tmp_path / "family.json")
    source = config.structures
    build_crystals(csvs, crystals, tmp_path / "rejected.parquet", source.max_sites, splits=source.splits)
    Path(family).write_text(describe_family(config.dft.family).model_dump_json())
    requests = [str(tmp_path / f"{stage}.parquet") for stage in ("scf", "references")]
    plan_crystal_scf(crystals, family, requests[0], config.dft.protocol, 1)
    plan_reference_scf(crystals, family, requests[1], "data", None, config.dft.protocol, 1)
    protocol, chosen = load_protocol(config.dft.protocol), load_family(family)[0]
    wanted = {}
    for row in (row for path in requests for row in tables.read_rows(path, tables.SCF_REQUESTS)):
        situation = situation_of(row, protocol, chosen, config.dft.recovery)
        first = first_attempt(situation)
        wanted[key_of(calculation(situation.cell, first.settings.physics(), chosen))] = row["request_id"]
    assert len(wanted) > 60
    shipped = {record.key for record in finished_scfs("demo")}
    assert not {name for key, name in wanted.items() if key not in shipped}
