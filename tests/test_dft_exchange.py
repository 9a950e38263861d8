"""The cache as a collection: counted, verified, exported, and shared by two users without contradiction."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.json
import pyarrow.parquet as pq
import pytest
from dft_data import SILICON, sssp
from typer.testing import CliRunner

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.commands.cli import app
from xtalrl.dft.cache import Cache, Record
from xtalrl.dft.exchange import (
    SAME_ENERGY_RY,
    cache_stats,
    contradiction,
    export_cache,
    finished_scfs,
    import_cache,
    verify_cache,
)
from xtalrl.dft.inputs import calculation, key_of, settings_for
from xtalrl.dft.outcomes import Outcome, Result, Run
from xtalrl.dft.protocols import load_protocol
from xtalrl.errors import XtalrlError


def record(
    size: float = 1.0, outcome: Outcome = Outcome.CONVERGED, energy_ry: float = -20.0, timeout_s: float = 60
) -> Record:
    cell = replace(SILICON, lattice=tuple(size * x for x in SILICON.lattice))
    protocol = load_protocol("paper-fast")
    content = calculation(cell, settings_for(cell, "crystal", protocol, sssp()).physics(), sssp())
    result = Result(outcome, "", energy_ry if outcome.usable else None, 1.25 if outcome.usable else None)
    run = Run("", "", 0, wall_s=36.0)
    return Record.of(key_of(content), run, result, timeout_s, "pw.x 7.2 (path)", protocol.name, sssp().name, content)


def fill(cache: Path, *records: Record) -> Path:
    writer = Cache(cache)
    for one in records:
        writer.add(one)
    return cache


def an_older_version_wrote(cache: Path) -> None:
    """A line of the first version of the cache, which did not hold the calculation."""
    line = {
        "key": "0" * 64, "outcome": "converged", "detail": "", "total_energy_ry": -1.5, "band_gap_raw_ev": None,
        "total_magnetization": None, "smearing": True, "exit_code": 0, "wall_s": 1.0, "timeout_s": 60.0, "engine": "pw.x 6.7 (path)",
    }  # fmt: skip
    (cache / "scf" / "older-1-1.jsonl").write_text(json.dumps(line) + "\n")


def test_stats_count_calculations_and_work(tmp_path) -> None:
    cache = fill(tmp_path, record(), record(1.1, Outcome.NOT_CONVERGED), record(1.2, Outcome.TIME_LIMIT))
    fill(cache, record(1.2, Outcome.TIME_LIMIT, timeout_s=120), record(1.2))
    an_older_version_wrote(cache)
    (cache / "scf" / "torn-1-1.jsonl").write_text('{"key": "ab')
    found = cache_stats(cache)
    assert (found.files, found.lines, found.torn, found.calculations) == (4, 7, 1, 4)
    assert found.outcomes == {"converged": 3, "not_converged": 1}
    assert found.engines == {"pw.x 7.2 (path)": 5, "pw.x 6.7 (path)": 1}
    assert found.wall_hours == pytest.approx((5 * 36 + 1) / 3600)


@pytest.mark.parametrize("name", ["all.parquet", "all.jsonl"])
def test_an_export_holds_everything_and_comes_back(tmp_path, name: str) -> None:
    cache = fill(tmp_path / "ours", record(), record(1.1, Outcome.CHARGE_WRONG), record(1.2, Outcome.TIME_LIMIT))
    an_older_version_wrote(cache)
    file = tmp_path / name
    assert export_cache(cache, file) == 4
    table = pq.read_table(file) if name.endswith("parquet") else pyarrow.json.read_json(file)
    silicon = next(row for row in table.to_pylist() if row["outcome"] == "converged" and row["species"])
    assert (silicon["total_energy_ry"], silicon["protocol"], silicon["family"]) == (-20.0, "paper-fast", sssp().name)
    assert (silicon["settings"]["nspin"], silicon["settings"]["nbnd"], silicon["settings"]["kpoints"]) == (
        1,
        8,
        [3, 3, 3],
    )
    assert silicon["lattice"] == list(SILICON.lattice)
    assert dict(silicon["pseudopotential_md5s"]) == {"Si": sssp().elements["Si"].md5}

    theirs = tmp_path / "theirs"
    taken = import_cache(theirs, file)
    assert (taken.new, taken.known) == (3, 0)
    (refused,) = taken.refused
    assert "without its calculation" in refused
    assert verify_cache(theirs) == []
    for size in (1.0, 1.1, 1.2):
        key = record(size).key
        assert Cache(theirs).find(key, 60) == Cache(cache).find(key, 60)
    # Once more, from the file or from the folder, adds nothing.
    assert import_cache(theirs, file).new == import_cache(theirs, cache).new == 0
    assert len(list((theirs / "scf").iterdir())) == 1


@pytest.mark.parametrize("name", ["all.parquet", "all.jsonl"])
def test_a_start_given_site_by_site_comes_back(tmp_path, name: str) -> None:
    """Beside a record without one, whose key must not change for the column that the other needs."""
    protocol = load_protocol("paper-fast")
    settings = settings_for(SILICON, "crystal", protocol, sssp())
    content = calculation(SILICON, replace(settings, nspin=2, site_magnetization=(0.5, -0.5)).physics(), sssp())
    run, result = Run("", "", 0), Result(Outcome.CONVERGED, "", -20.0, 1.0)
    split = Record.of(key_of(content), run, result, 60.0, "pw.x", protocol.name, sssp().name, content)
    cache = fill(tmp_path / "ours", record(), split)
    assert export_cache(cache, tmp_path / name) == 2
    taken = import_cache(tmp_path / "theirs", tmp_path / name)
    assert (taken.new, taken.refused) == (2, [])
    assert verify_cache(tmp_path / "theirs") == []


def test_an_import_takes_what_says_more_and_refuses_what_contradicts(tmp_path) -> None:
    ours = fill(tmp_path / "ours", record(), record(1.1, Outcome.TIME_LIMIT), record(1.3, Outcome.CHARGE_WRONG))
    theirs = fill(
        tmp_path / "theirs", record(energy_ry=-20.5), record(1.1), record(1.2), record(1.3, Outcome.NOT_CONVERGED)
    )
    taken = import_cache(ours, theirs)
    assert (taken.new, taken.known) == (2, 1)
    (refused,) = taken.refused
    assert f"{record().key[:16]} (Si): two results" in refused
    assert "-20.00000000 (pw.x 7.2 (path)) and -20.50000000 Ry" in refused
    cache = Cache(ours)
    assert [cache.find(record(size).key, 60).outcome for size in (1.0, 1.1, 1.2, 1.3)] == [
        "converged", "converged", "converged", "charge_wrong",
    ]  # fmt: skip
    assert cache.find(record().key, 60).total_energy_ry == -20.0


def test_a_changed_record_is_found_out_and_refused(tmp_path) -> None:
    forged = replace(record(), species=["Ge", "Ge"])
    theirs = fill(tmp_path / "theirs", forged, record(1.1))
    (fault,) = verify_cache(theirs)
    assert "line 1 is torn or changed (the key is not that of the calculation" in fault
    taken = import_cache(tmp_path / "ours", theirs)
    assert (taken.new, taken.refused) == (1, [fault])
    assert Cache(theirs).find(forged.key, 60) is None


def test_a_run_that_was_asked_for_again_may_give_something_else(tmp_path) -> None:
    cache = fill(tmp_path / "ours", record())
    again = Cache(cache)
    again.void([record().key])
    again.add(record(energy_ry=-20.5))
    assert verify_cache(cache) == []
    assert export_cache(cache, tmp_path / "all.jsonl") == 1
    exported = json.loads((tmp_path / "all.jsonl").read_text())
    assert exported["total_energy_ry"] == -20.5
    assert "generation" not in exported, "what was asked for again here means nothing elsewhere"


def test_what_speaks_about_a_machine_is_refused(tmp_path) -> None:
    file = tmp_path / "theirs.jsonl"
    file.write_text(json.dumps({**record().__dict__, "outcome": "killed"}))
    assert "killed says something about the machine" in import_cache(tmp_path / "ours", file).refused[0]


def test_a_source_that_contradicts_itself_is_refused(tmp_path) -> None:
    theirs = fill(tmp_path / "theirs", record(1.1), record())
    fill(theirs, record(energy_ry=-20.5))
    for order in (1, -1):
        file = tmp_path / f"{order}.jsonl"
        lines = [line for path in sorted(theirs.glob("scf/*.jsonl")) for line in path.read_text().splitlines()]
        file.write_text("\n".join(lines[::order]) + "\n")
        taken = import_cache(tmp_path / f"ours{order}", file)
        assert (taken.new, len(taken.refused)) == (1, 1)
        assert "two results of one calculation" in taken.refused[0]
        with pytest.raises(XtalrlError, match="two results of one calculation"):
            finished_scfs(str(file))


@pytest.mark.parametrize(
    ("field", "value"), [("total_energy_ry", 1e30), ("total_energy_ry", 5.0), ("band_gap_raw_ev", 99.0)]
)
def test_what_cannot_be_true_is_refused(tmp_path, field: str, value: float) -> None:
    file = tmp_path / "theirs.jsonl"
    lines = [json.dumps({**record(size).__dict__, **changes}) for size, changes in ((1.0, {field: value}), (1.1, {}))]
    file.write_text("\n".join(lines) + "\n")
    taken = import_cache(tmp_path / "ours", file)
    assert (taken.new, taken.unchecked) == (1, 2)
    assert f"{field} is {value:g}" in taken.refused[0] and "cannot be true" in taken.refused[0]


def test_an_empty_source_is_named(tmp_path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(XtalrlError, match=r"empty\.jsonl holds no finished SCF"):
        import_cache(tmp_path / "ours", tmp_path / "empty.jsonl")


def test_noise_of_two_engines_is_no_contradiction() -> None:
    one = record()
    assert contradiction(one, record(energy_ry=-20.0 + 0.9 * SAME_ENERGY_RY)) is None
    assert contradiction(one, record(energy_ry=-20.0 + 1.1 * SAME_ENERGY_RY)) is not None
    assert contradiction(one, record(outcome=Outcome.CHARGE_WRONG)) is not None
    assert contradiction(one, record(outcome=Outcome.TIME_LIMIT)) is None
    assert contradiction(one, replace(one, band_gap_raw_ev=1.3)) is not None


def test_the_commands(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/config.yaml").write_text("cache: here\n")
    run = CliRunner().invoke
    nothing = run(app, ["cache", "stats"])
    assert nothing.exit_code == 1
    assert "here holds no finished SCF" in nothing.output
    fill(tmp_path / "here", record(), record(1.1, Outcome.NOT_CONVERGED))
    stats = run(app, ["cache", "stats"]).output
    assert "2 calculations, 0.02 h of pw.x" in stats
    assert "1  not_converged" in stats
    assert "2 lines, all readable" in run(app, ["cache", "verify"]).output
    assert run(app, ["cache", "export", "out.parquet"]).output.strip() == "2 calculations in out.parquet"
    assert "2 calculations in out.json" in run(app, ["cache", "export", "out.json"]).output
    assert "the ending '.txt' is not known" in run(app, ["cache", "export", "out.txt"]).output
    Path("config/config.yaml").write_text("cache: there\n")
    assert run(app, ["cache", "import", "out.parquet"]).output.strip() == "2 calculations are new, 0 were known"
    (tmp_path / "there/scf/x.jsonl").write_bytes(b"\x00{torn\n")
    verified = run(app, ["cache", "verify"])
    assert verified.exit_code == 1
    assert "x.jsonl, line 1 is torn" in verified.output
    for source, message in (("nowhere", "is neither a cache folder"), ("bad.parquet", "was not written by")):
        Path("bad.parquet").write_text("no")
        answer = run(app, ["cache", "import", source])
        assert answer.exit_code == 1
        assert message in answer.output


def test_reordered_and_turned_cells_have_keys_of_their_own() -> None:
    """Decided in docs/decisions.md: the numbers are not the same, so the results are not shared."""
    settings = settings_for(SILICON, "crystal", load_protocol("paper-fast"), sssp()).physics()
    a, b, c = (SILICON.lattice[i : i + 3] for i in (0, 3, 6))
    sheared = Cell(SILICON.species, (*a, *b, *(x + y for x, y in zip(a, c, strict=True))), SILICON.frac_coords)
    reordered = Cell(SILICON.species, SILICON.lattice, SILICON.frac_coords[3:] + SILICON.frac_coords[:3])
    keys = {key_of(calculation(cell, settings, sssp())) for cell in (SILICON, sheared, reordered)}
    assert len(keys) == 3


def test_a_folder_without_records_is_named(tmp_path) -> None:
    with pytest.raises(XtalrlError, match="holds no finished SCF"):
        verify_cache(tmp_path)


def test_the_scfs_of_one_run_are_exported_alone(tmp_path: Path) -> None:
    """Every attempt of every stage, and nothing that other runs left in the cache."""
    records = [record(), record(1.1, Outcome.NOT_CONVERGED), record(1.2), record(1.3)]
    cache = fill(tmp_path / "cache", *records)
    used = {"scf": [records[0]], "evaluation": [records[1], records[2]]}
    for stage, attempts in used.items():
        row = {
            "request_id": stage, "kind": "design", "key": attempts[-1].key, "species": ["Si", "Si"], "outcome": "converged", "detail": "",
            "nspin": 1, "wall_s": 1.0, "protocol": "paper-fast", "protocol_hash": "aaaa", "family": "sssp",
            "attempts": [
                {"number": n, "strategy": "first", "outcome": one.outcome, "detail": "", "nspin": 1, "wall_s": 1.0, "restarted": False, "key": one.key}
                for n, one in enumerate(attempts, start=1)
            ],
        }  # fmt: skip
        (tmp_path / "results" / stage).mkdir(parents=True)
        tables.write_rows([row], tables.SCF_OUTCOMES, tmp_path / "results" / stage / "outcomes.parquet")
    (tmp_path / "config.yaml").write_text(f"results: {tmp_path}/results\ncache: {cache}\n")
    command = [
        "cache",
        "export",
        str(tmp_path / "run.jsonl"),
        "--configfile",
        str(tmp_path / "config.yaml"),
        "--of-run",
    ]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert {line["key"] for line in lines} == {one.key for one in records[:3]}
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1 and "run.jsonl exists already" in again.output
    (tmp_path / "run.jsonl").unlink()
    # The same where another's SCFs were taken as they are (`dft.finished`), and the run's own cache is empty.
    export_cache(cache, tmp_path / "others.parquet")
    shutil.rmtree(cache)
    with (tmp_path / "config.yaml").open("a") as config:
        config.write(f"dft: {{finished: {tmp_path}/others.parquet}}\n")
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    again = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert {line["key"] for line in again} == {one.key for one in records[:3]}
    (tmp_path / "results/scf/outcomes.parquet").unlink()
    (tmp_path / "results/evaluation/outcomes.parquet").unlink()
    (tmp_path / "run.jsonl").unlink()
    empty = CliRunner().invoke(app, command)
    assert empty.exit_code == 1
    assert (
        "holds no finished stage of SCFs: run `snakemake evaluate --profile profiles/local --configfile "
        in empty.output
    )
