"""Shards with a stand-in for pw.x: one row a request, nothing twice, nothing left behind by a kill, and one real silicon."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dft_data import SILICON, SSSP, fake_pids, fake_pw, is_alive, sssp
from pymatgen.core import Lattice, Structure

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.dft.engines import Engine, find_engine
from xtalrl.dft.outcome_rows import count_outcomes, credited_gap, gather_outcomes
from xtalrl.dft.outcomes import Outcome, Result, Run
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.pseudopotentials import load_family, md5_of
from xtalrl.dft.recovery import Situation
from xtalrl.dft.requests import cost_of, plan_crystal_scf, plan_design_scf, plan_reference_scf
from xtalrl.dft.shards import run_shard
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress

LIMITS = {"crystal": [5], "reference": [5], "design": [5]}


def crystal(name: str, *species: str, moment: float | None = None, size: float = 1.0) -> dict[str, Any]:
    n = len(species)
    return {
        "material_id": name,
        "split": "train",
        "formula": "".join(species),
        "n_sites": n,
        "species": species,
        "lattice": [size * x for x in SILICON.lattice],
        "frac_coords": [i / n for i in range(n) for _ in range(3)],
        "spacegroup_number": 1,
        "band_gap": None,
        "formation_energy_per_atom": None,
        "tot_magnetization": moment,
        "source": "test",
    }


class Place:
    """A folder with a family of empty files, a stand-in for pw.x, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command, self.log = fake_pw(folder)
        self.cache = folder / "cache"
        family = self.cache / "families" / SSSP
        family.mkdir(parents=True)
        empty = {e: p.model_copy(update={"md5": md5_of(b"")}) for e, p in sssp().elements.items()}
        (family / "family.json").write_text(sssp().model_copy(update={"elements": empty}).model_dump_json())
        for pseudo in empty.values():
            (family / pseudo.file).touch()
        self.family = str(family / "family.json")
        self.requests = str(folder / "requests.parquet")
        self.outcomes = str(folder / "outcomes.parquet")

    def plan(self, *crystals: dict[str, Any], shards: int = 1) -> None:
        path = str(self.folder / "crystals.parquet")
        tables.write_rows(crystals, tables.CRYSTALS, path)
        plan_crystal_scf(path, self.family, self.requests, "paper-fast", shards)

    def arguments(self, **changes: Any) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "family": self.family,
            "shard": 0,
            "outcomes": self.outcomes,
            "workers": 2,
            "protocol": "paper-fast",
            "recovery": "paper",
            "time_limits_min": LIMITS,
            "command": self.command,
            "cache": str(self.cache),
        } | changes

    def run(self, **changes: Any) -> dict[str, dict[str, Any]]:
        """The outcomes by request."""
        run_shard(**self.arguments(**changes))
        return {row["request_id"]: row for row in tables.read_rows(self.outcomes, tables.SCF_OUTCOMES)}

    @property
    def runs(self) -> int:
        """How many times pw.x was started on an input."""
        return len(self.log.read_text().splitlines())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_every_request_ends_in_one_row_and_nothing_runs_twice(place: Place) -> None:
    place.plan(
        crystal("good", "Si", "Si"),
        crystal("same", "Si", "Si"),
        crystal("odd", "Na", "Si"),
        crystal("known", "Na", "Si", moment=1.0),
        crystal("unconverged", "C", "C"),
    )
    rows = place.run()
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "good": "converged",
        "same": "converged",
        "odd": "odd_electrons",
        "known": "converged",
        "unconverged": "not_converged",
    }
    assert place.runs == 3
    good, odd, failed = rows["good"], rows["odd"], rows["unconverged"]
    assert (good["total_energy_ry"], good["band_gap"], good["nspin"], good["is_metallic"]) == (-20.0, 1.25, 1, False)
    assert good["total_energy"] == pytest.approx(-20 * 13.6057039763)
    assert good["engine"] == "pw.x 7.2 (command)"
    assert odd["attempts"] == []
    assert (failed["total_energy_ry"], failed["band_gap"], failed["is_metallic"]) == (None, None, None)
    assert rows["known"]["tot_magnetization"] == 1.0
    assert [attempt["strategy"] for attempt in rows["known"]["attempts"]] == ["known_magnetization"]
    assert {name: (row["strategy"], row["recovered"]) for name, row in rows.items()} == {
        "good": ("unpolarised", False),
        "same": ("unpolarised", False),
        "odd": (None, None),
        "known": ("known_magnetization", False),
        "unconverged": (None, None),
    }
    assert len({row["protocol_hash"] for row in rows.values()}) == 1

    again = place.run()
    assert place.runs == 3
    assert again == rows
    # Another ladder goes on where this one ended. Of its three further attempts the low spin of `odd` is the run of `known`.
    extended = place.run(recovery="extended")
    assert place.runs == 5
    assert [attempt["strategy"] for attempt in extended["unconverged"]["attempts"]] == [
        "unpolarised",
        "smear_to_find_moment",
        "mix_gently",
    ]
    assert {name: (row["strategy"], row["recovered"]) for name, row in extended.items()} == {
        "good": ("unpolarised", False),
        "same": ("unpolarised", False),
        "odd": ("low_spin", True),
        "known": ("known_magnetization", False),
        "unconverged": ("mix_gently", True),
    }
    assert count_outcomes(list(extended.values())) == (
        "5 of 5 usable: 5 converged; given by: 2 unpolarised, 1 low_spin, 1 known_magnetization, 1 mix_gently; "
        "2 thanks to the extended recovery"
    )


def test_what_was_not_saved_is_taken_by_choice(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.plan(crystal("good", "Si", "Si"))
    monkeypatch.setenv("FAKE_PW_UNSAVED", "1")
    row = place.run()["good"]
    assert (row["outcome"], row["total_energy_ry"], row["band_gap"], row["recovered"]) == (
        "not_saved",
        None,
        None,
        None,
    )
    assert row["detail"] == "no XML was written"
    # The machine failed, not the crystal: it was tried once more.
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["converged_not_saved"] * 2
    # What was printed is kept: accepting it needs no run.
    row = place.run(accept_not_saved=True)["good"]
    assert (row["outcome"], row["total_energy_ry"], row["band_gap"]) == ("converged_not_saved", -20.0, 1.25)
    assert place.runs == 2
    # Not accepting it is a reason to run again, and a run that was saved takes its place.
    monkeypatch.delenv("FAKE_PW_UNSAVED")
    assert place.run()["good"]["outcome"] == "converged"
    assert place.run(accept_not_saved=True)["good"]["outcome"] == "converged"
    assert place.runs == 3


def test_nothing_starts_once_the_job_is_told_to_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.plan(crystal("endless", "He", "He", size=2), crystal("waiting", "Si", "Si"))
    told: list[bool] = []
    run, shutdown = Engine.run, ThreadPoolExecutor.shutdown

    def watched(self: Engine, text: str, folder: Path, timeout_s: float, stop: threading.Event | None = None) -> Run:
        if stop is not None:  # None: asked for its version.
            told.append(stop.is_set())
        return run(self, text, folder, timeout_s, stop)

    def late(self: ThreadPoolExecutor, *args: Any, **kwargs: Any) -> None:
        time.sleep(1)  # A worker is free before what waits is cancelled.
        shutdown(self, *args, **kwargs)

    monkeypatch.setattr(Engine, "run", watched)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", late)
    with pytest.raises(XtalrlError, match="nearly over"):
        place.run(workers=1, runtime_min=0.05)
    assert told == [False]


def test_as_many_shards_as_crystals_give_each_its_own(place: Place) -> None:
    crystals = [crystal(f"c{i}", "Si", "Si", size=1 + i / 100) for i in range(20)]
    place.plan(*crystals, crystal("same", "Si", "Si"), shards=20)
    shards = {row["request_id"]: row["shard"] for row in tables.read_rows(place.requests, tables.SCF_REQUESTS)}
    assert shards.pop("same") == shards["c0"]
    assert sorted(shards.values()) == list(range(20))
    assert shards["c19"] == 0, "the largest comes first"
    run_shard(**place.arguments(shard=shards["c7"]))
    assert [row["request_id"] for row in tables.read_rows(place.outcomes, tables.SCF_OUTCOMES)] == ["c7"]


def test_a_job_stops_before_its_wall_time_is_over(place: Place) -> None:
    place.plan(crystal("good", "Si", "Si"), crystal("endless", "He", "He", size=2))
    start = time.monotonic()
    with pytest.raises(XtalrlError, match=r"wall time of 0\.05 min is nearly over\. 1 of 2 SCFs are done and kept"):
        place.run(runtime_min=0.05)
    assert time.monotonic() - start < 10
    assert not any(is_alive(pid, patience_s=3) for pid in fake_pids(place.log))
    assert not Path(place.outcomes).exists()
    with pytest.raises(XtalrlError, match="No SCF ended in this job: give `run_scf_shard` a `runtime`"):
        place.run(runtime_min=0.05)
    # Being cut off by the job is no outcome of the crystal: with the next job it runs again, and only it.
    rows = place.run(runtime_min=60, time_limits_min=LIMITS | {"crystal": [0.01]})
    assert {name: row["outcome"] for name, row in rows.items()} == {"good": "converged", "endless": "time_limit"}
    assert place.runs == 4


def test_shards_share_the_requests_without_overlap(place: Place) -> None:
    place.plan(*(crystal(f"c{i}", "Si", "Si", size=1 + i / 100) for i in range(20)), shards=3)
    paths = []
    for shard in range(3):
        paths.append(str(place.folder / f"{shard}.parquet"))
        run_shard(**place.arguments(shard=shard, outcomes=paths[-1]))
    gather_outcomes(paths, place.outcomes, place.requests)
    rows = tables.read_rows(place.outcomes, tables.SCF_OUTCOMES)
    assert [row["request_id"] for row in rows] == sorted(f"c{i}" for i in range(20))
    assert place.runs == 20


def test_another_number_of_shards_runs_nothing_and_gives_the_same_table(place: Place) -> None:
    """Byte for byte, so that nothing is made again below it."""
    tables_of = []
    for count in (3, 1, 7):
        place.plan(*(crystal(f"c{i}", "Si", "Si", size=1 + i / 100) for i in range(20)), shards=count)
        paths = [str(place.folder / f"{shard}.parquet") for shard in range(count)]
        for shard, path in enumerate(paths):
            run_shard(**place.arguments(shard=shard, outcomes=path))
        gather_outcomes(paths, place.outcomes, place.requests)
        tables_of.append(Path(place.outcomes).read_bytes())
    assert place.runs == 20
    assert len(set(tables_of)) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], r"1 of 6 requests are missing .* \(c0\)"),
        (lambda rows: [*rows, rows[0]], r"row 6 \(c0\) is there twice"),
        (lambda rows: [rows[0] | {"request_id": "c9"}, *rows[1:]], r"2 of 6 requests .*not asked for \(c0, c9\)"),
        (lambda rows: [rows[0] | {"key": "0" * 64}, *rows[1:]], r"1 of 6 requests .*of another calculation.* \(c0\)"),
        (lambda rows: [rows[0] | {"species": ["Ge", "Ge"]}, *rows[1:]], r"1 of 6 requests"),
        (lambda rows: [rows[0] | {"outcome": "fine"}, *rows[1:]], "c0 has the unknown outcome 'fine'"),
        (lambda rows: [row | {"protocol_hash": "other"} for row in rows[:3]] + rows[3:], "of different protocols"),
        (
            lambda rows: [rows[0] | {"total_energy_ry": float("nan")}, *rows[1:]],
            r"total_energy_ry of row 0 \(c0\) is nan",
        ),
    ],
)
def test_shards_that_are_not_those_of_the_requests_are_refused(
    place: Place, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], message: str
) -> None:
    place.plan(*(crystal(f"c{i}", "Si", "Si", size=1 + i / 100) for i in range(6)))
    rows = sorted(place.run().values(), key=lambda row: row["request_id"])
    tables.write_rows(change(rows), tables.SCF_OUTCOMES, place.outcomes)
    with pytest.raises(XtalrlError, match=message):
        gather_outcomes([place.outcomes], str(place.folder / "all.parquet"), place.requests)
    assert not (place.folder / "all.parquet").exists()


def test_a_request_in_two_shards_is_refused(place: Place) -> None:
    place.plan(crystal("c0", "Si", "Si"))
    place.run()
    with pytest.raises(XtalrlError, match="c0 is also in another shard"):
        gather_outcomes(
            [place.outcomes, shutil.copy(place.outcomes, place.folder / "1.parquet")], "never", place.requests
        )


def test_a_time_out_is_a_row_until_the_limit_grows(place: Place) -> None:
    place.plan(crystal("endless", "He", "He"))
    short = LIMITS | {"crystal": [0.01]}
    row = place.run(time_limits_min=short)["endless"]
    assert (row["outcome"], len(row["attempts"])) == ("time_limit", 1)
    assert not any(is_alive(pid, patience_s=3) for pid in fake_pids(place.log))
    place.run(time_limits_min=short)
    assert place.runs == 1
    row = place.run(time_limits_min=LIMITS | {"crystal": [0.01, 0.02]})["endless"]
    assert [attempt["strategy"] for attempt in row["attempts"]] == ["unpolarised", "more_time"]
    assert place.runs == 2


def test_a_crystal_that_only_smearing_converges_is_a_metal(place: Place) -> None:
    place.plan(crystal("metal", "Xe", "Xe"))
    row = place.run(recovery="extended")["metal"]
    assert [a["strategy"] for a in row["attempts"]] == ["unpolarised", "smear_to_find_moment", "converge_as_a_metal"]
    assert (row["outcome"], row["strategy"], row["recovered"]) == ("converged", "converge_as_a_metal", True)
    assert (row["band_gap"], row["band_gap_raw"], row["is_metallic"]) == (0.0, None, True)


def test_a_smeared_insulator_keeps_its_gap() -> None:
    s = Situation(SILICON, "crystal", load_protocol("paper-fast"), sssp(), "extended", None)
    smeared = Result(Outcome.CONVERGED, total_energy_ry=-1.0, band_gap_raw_ev=6.09, smearing=True)
    assert (credited_gap(s, smeared), smeared.is_metallic) == (6.09, False)
    metal = replace(smeared, band_gap_raw_ev=None)
    assert (credited_gap(s, metal), metal.is_metallic) == (0.0, True)
    assert credited_gap(replace(s, form="elemental"), metal) is None


def test_the_limit_of_a_design_is_for_all_attempts(place: Place) -> None:
    place.plan(crystal("d", "He", "He"))
    rows = [row | {"kind": "design"} for row in tables.read_rows(place.requests, tables.SCF_REQUESTS)]
    tables.write_rows(rows, tables.SCF_REQUESTS, place.requests)
    start = time.monotonic()
    row = place.run(time_limits_min=LIMITS | {"design": [0.02]}, recovery="extended")["d"]
    assert row["outcome"] == "time_limit"
    assert time.monotonic() - start < 10
    assert sum(attempt["wall_s"] for attempt in row["attempts"]) < 3


def test_a_killed_pw_is_tried_again_and_never_remembered(place: Place) -> None:
    place.plan(crystal("killed", "Ne", "Ne"))
    row = place.run()["killed"]
    assert [attempt["outcome"] for attempt in row["attempts"]] == ["killed", "killed"]
    assert row["outcome"] == "killed"
    place.run()
    assert place.runs == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": "no-such-program pw.x"}, "no-such-program.*dft.command"),
        ({"command": "true"}, "does not start pw.x"),
        ({"command": "pw.x '"}, "not a command line"),
    ],
)
def test_a_missing_engine_stops_the_job_with_a_sentence(place: Place, change: dict[str, str], message: str) -> None:
    place.plan(crystal("good", "Si", "Si"))
    with pytest.raises(XtalrlError, match=message):
        place.run(**change)
    assert not Path(place.outcomes).exists()


def unlike_the_others(
    place: Place, element: str, stdout: str = "", stderr: str = "", crash: str = "", code: int = 1
) -> dict[str, str]:
    """A command that ends as told for cells with this element, and is the stand-in for pw.x for all others."""
    banner = "     Program PWSCF v.7.2 starts on today\n"
    for name, text in {"said": banner + stdout, "noise": stderr, "left": crash}.items():
        (place.folder / name).write_text(text)
    script = place.folder / "wrapper"
    script.write_text(
        f"#!/bin/sh\nif grep -q '^{element} ' pw.in; then\necho other >> {place.log}; cat {place.folder}/said; cat {place.folder}/noise >&2\n"
        f'cat {place.folder}/left >> CRASH; exit {code}; fi\nexec {place.command} "$@"\n'
    )
    script.chmod(0o755)
    return {"command": str(script)}


def test_an_error_without_a_name_is_tried_again_and_never_remembered(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The next pw.x may not have it; the shard goes on, because one crystal may be all it concerns."""
    place.plan(crystal("good", "Si", "Si"), crystal("odd one", "Ge", "Ge"))
    box = " %%%\n     Error in routine zsqmred (1):\n     something wrong with row 1\n %%%\n\n     stopping ...\n"
    rows = place.run(**unlike_the_others(place, "Ge", box, "mlx5: completion with error\n"))
    assert rows["good"]["outcome"] == "converged"
    assert [attempt["outcome"] for attempt in rows["odd one"]["attempts"]] == ["stopped", "stopped"]
    assert rows["odd one"]["detail"] == "zsqmred: something wrong with row 1; stderr: mlx5: completion with error"
    with caplog.at_level(logging.WARNING):
        gather_outcomes([place.outcomes], str(place.folder / "all.parquet"), place.requests)
    assert (
        "1 stopped: no verdict on the crystals, and not kept. To try them again: `xtalrl rerun --outcome stopped`, then"
        in caplog.text
    )
    assert place.runs == 3
    assert place.run()["odd one"]["outcome"] == "converged"
    assert place.runs == 4


def test_an_input_that_this_pw_cannot_read_is_a_row_and_never_remembered(place: Place) -> None:
    place.plan(crystal("odd one", "Ge", "Ge"))
    box = " %%%\n     Error in routine read_namelists (1):\n     bad line in namelist &system\n %%%\n"
    assert place.run(**unlike_the_others(place, "Ge", box))["odd one"]["outcome"] == "invalid_input"
    assert place.run()["odd one"]["outcome"] == "converged"


def test_a_command_that_loses_the_input_stops_the_job(place: Place) -> None:
    place.plan(crystal("good", "Si", "Si"))
    with pytest.raises(
        XtalrlError, match=r"could not find namelist &control.*passes on `-in pw\.in` or its standard input"
    ):
        place.run(command=f"sh -c '{place.command} < /dev/null'")


def test_what_an_older_version_kept_without_a_name_answers_nothing(place: Place) -> None:
    place.plan(crystal("good", "Si", "Si"))
    place.run()
    for path in (place.cache / "scf").glob("*.jsonl"):
        record = json.loads(path.read_text())
        record.pop("sha256", None)
        lacking = dict.fromkeys(("total_energy_ry", "band_gap_raw_ev", "total_magnetization"))
        path.write_text(
            json.dumps(record | lacking | {"outcome": "stopped", "detail": "fft_type_set: no planes"}) + "\n"
        )
    assert place.run()["good"]["outcome"] == "converged"
    assert place.runs == 2
    assert place.run()["good"]["outcome"] == "converged"
    assert place.runs == 2


def test_crash_speaks_where_the_box_was_lost_and_only_about_its_own_run(place: Place) -> None:
    """Charge wrong, then, on the same folder, a run that is killed without a word."""
    crash = "\n %%%\n     task #         0\n     from electrons : error #         1\n     charge is wrong: smearing is needed\n %%%\n\n"
    place.plan(crystal("odd one", "Ge", "Ge"))
    row = place.run(**unlike_the_others(place, "Ge", crash=crash))["odd one"]
    assert (row["outcome"], row["detail"]) == ("charge_wrong", "electrons: charge is wrong: smearing is needed")
    here = place.folder / "scratch"
    here.mkdir()
    (here / "CRASH").write_text(crash)
    run = find_engine(place.command, place.cache).run("ATOMIC_SPECIES\nNe 20.0 Ne.upf\nnat = 1", here, 60)
    assert run.crash == ""


def test_a_layout_that_does_not_fit_stops_the_job_and_says_what_to_change(place: Place) -> None:
    place.plan(crystal("first", *["Si"] * 8), crystal("layout", "Ge", "Ge", size=0.9))
    box = " %%%\n     Error in routine divide_et_impera (1):\n     some nodes have no k-points\n %%%\n"
    noise = "MPI_ABORT was invoked on rank 3 in communicator MPI_COMM_WORLD\n"
    with pytest.raises(XtalrlError) as stopped:
        place.run(workers=1, **unlike_the_others(place, "Ge", box, noise))
    said = str(stopped.value)
    assert "layout: The parallel launcher failed, or the cell cannot be divided" in said
    assert "some nodes have no k-points" in said
    assert "MPI_ABORT was invoked on rank 3" in said
    assert "Change `dft.command`: an SCF takes one process (`srun --overlap -n 1 pw.x`" in said
    assert not Path(place.outcomes).exists()
    before = place.runs
    assert {row["outcome"] for row in place.run(workers=1).values()} == {"converged"}
    assert place.runs == before + 1, "what had finished was kept"


def test_a_broken_scratch_disk_stops_the_job(place: Place) -> None:
    place.plan(crystal("first", "Si", "Si"), crystal("broken", "Kr", "Kr", "Kr", "Kr"))
    with pytest.raises(XtalrlError, match="TMPDIR"):
        place.run(workers=1)
    assert not Path(place.outcomes).exists()


def test_a_scratch_disk_that_is_full_at_the_end_stops_the_job(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.plan(crystal("good", "Si", "Si"), crystal("next", "Si", "Si", size=0.9))
    monkeypatch.setenv("FAKE_PW_UNSAVED", "1")
    free = shutil.disk_usage(place.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free._replace(free=1e6))
    with pytest.raises(
        XtalrlError, match=r"good: The disk of the scratch folder is full\. \(no XML was written\).*TMPDIR"
    ):
        place.run(workers=1)
    # What was printed is kept, for a run that accepts it.
    assert {row["outcome"] for row in place.run(workers=1, accept_not_saved=True).values()} == {"converged_not_saved"}
    assert place.runs == 2


def test_missing_pseudopotential_files_stop_the_job(place: Place) -> None:
    place.plan(crystal("good", "Si", "Si"))
    (Path(place.family).parent / sssp().elements["Si"].file).unlink()
    with pytest.raises(XtalrlError, match=sssp().elements["Si"].file):
        place.run()


def test_a_changed_pseudopotential_stops_the_job(place: Place) -> None:
    place.plan(crystal("good", "Si", "Si"))
    path = Path(place.family).parent / sssp().elements["Si"].file
    path.write_text("another")
    with pytest.raises(
        XtalrlError, match=f"{path.name} was changed .md5 {md5_of(b'another')} instead of {md5_of(b'')}"
    ):
        place.run()
    assert place.runs == 0


def test_an_engine_is_not_needed_when_all_is_done(place: Place) -> None:
    place.plan(crystal("good", "Si", "Si"))
    place.run()
    assert place.run(command="no-such-program")["good"]["outcome"] == "converged"


def test_an_element_the_family_lacks_is_an_outcome(place: Place) -> None:
    place.plan(crystal("plutonium", "Ar", "Si"))
    family = load_family(place.family)[0]
    without = family.model_copy(update={"elements": {e: p for e, p in family.elements.items() if e != "Ar"}})
    Path(place.family).write_text(without.model_dump_json())
    row = place.run()["plutonium"]
    assert (row["outcome"], row["detail"]) == ("no_pseudopotential", f"{SSSP} lacks Ar")


def test_a_line_appears_every_three_seconds(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.plan(crystal("endless", "He", "He"))
    with caplog.at_level(logging.INFO, "xtalrl"):
        place.run(time_limits_min=LIMITS | {"crystal": [0.11]})
    times = [record.created for record in caplog.records]
    assert max(b - a for a, b in itertools.pairwise(times)) < 3.2
    assert any("running endless (unpolarised" in record.message for record in caplog.records)


def test_what_the_cache_had_says_nothing_about_the_pace(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "xtalrl"):
        progress = Progress("Shard 0", 12, "SCFs", every_s=0)
        progress.advance(9, at_once=True)
        progress.start -= 10
        progress.advance(note="10 converged")
    first, second = (record.message for record in caplog.records)
    assert first == "Shard 0: 9 of 12 SCFs"
    assert second == "Shard 0: 10 of 12 SCFs, 10.0 s each, 20 s left, 10 converged"


def test_the_time_left_goes_by_the_cost_and_not_by_the_number(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "xtalrl"):
        progress = Progress("Shard 0", 100, "SCFs", every_s=0, work=1000.0)
        progress.advance(at_once=True, work=300.0)
        progress.start -= 60
        progress.advance(work=600.0)  # The largest first: what is left is 98 small ones.
    assert caplog.records[-1].message == "Shard 0: 2 of 100 SCFs, 60.0 s each, 10 s left"


def test_the_cost_goes_by_electrons_and_volume() -> None:
    small = cost_of(Cell.from_row(crystal("small", "Si", "Si")), sssp())
    assert cost_of(Cell.from_row(crystal("heavy", "Pb", "Pb")), sssp()) / small == pytest.approx(28 / 8), (
        "electrons of SSSP's Pb and Si"
    )
    assert cost_of(Cell.from_row(crystal("large", "Si", "Si", size=2)), sssp()) / small == pytest.approx(8)
    assert cost_of(Cell.from_row(crystal("unknown", "Og", "Si")), sssp()) == 0, "pw.x will not run"


def test_a_shard_tells_what_its_calculations_cost(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = [crystal("large", "Na", "Cl", "Na", "Cl", size=3), crystal("small", "Si", "Si")]
    place.plan(*crystals, crystal("same", "Si", "Si"))
    made: list[Progress] = []
    monkeypatch.setattr(Progress, "show", lambda self, note="": made.append(self))
    place.run()
    family, _ = load_family(place.family)
    assert made[-1].work_done == pytest.approx(sum(cost_of(Cell.from_row(row), family) for row in crystals))
    assert made[-1].work_left == pytest.approx(0, abs=1e-6)


def test_references_of_the_data(place: Place) -> None:
    place.plan(crystal("salt", "Na", "Cl"))
    plan_reference_scf(
        str(place.folder / "crystals.parquet"), place.family, place.requests, "data", None, "paper-fast", 1
    )
    rows = place.run()
    assert sorted(rows) == ["ref-Cl", "ref-Na"]
    assert all(row["outcome"] == "converged" and row["is_metallic"] for row in rows.values())
    assert rows["ref-Na"]["source"], "the book"


def test_the_paper_took_one_atom_of_elements_that_have_a_crystal(place: Place) -> None:
    place.plan(crystal("a", "P", "Lu"), crystal("b", "Se", "Fe"))
    given = place.folder / "elements.csv"
    cif = Structure(Lattice.cubic(3), ["P", "P"], [[0, 0, 0], [0.5, 0.5, 0.5]]).to(fmt="cif")
    with given.open("w", newline="") as file:
        csv.writer(file).writerows([["element", "cif", "material_id"], ["P", cif, "mp-157"]])
    sites, sources = {}, {}
    for protocol in ("paper", "paper-fast", "sssp"):
        crystals = str(place.folder / "crystals.parquet")
        plan_reference_scf(crystals, place.family, place.requests, "data", str(given), protocol, 1)
        rows = tables.read_rows(place.requests, tables.SCF_REQUESTS)
        sites[protocol] = {row["species"][0]: len(row["species"]) for row in rows}
        sources[protocol] = {row["species"][0]: row["source"] for row in rows}
    assert sites["paper"] == sites["paper-fast"] == {"P": 1, "Lu": 1, "Se": 1, "Fe": 1}
    assert sites["sssp"] == {"P": 2, "Lu": 2, "Se": 3, "Fe": 1}, "the given crystal, textbook ones"
    assert (sources["paper"]["P"], sources["sssp"]["P"]) == ("one atom in a box", "elements.csv mp-157")
    assert sources["sssp"]["Lu"] == "Spedding et al. 1961"


def test_an_element_without_a_small_crystal_says_why(place: Place) -> None:
    place.plan(crystal("sulfur", "S", "S"))
    crystals = str(place.folder / "crystals.parquet")
    plan_reference_scf(crystals, place.family, place.requests, "data", None, "sssp", 1)
    (row,) = tables.read_rows(place.requests, tables.SCF_REQUESTS)
    assert (len(row["species"]), row["source"]) == (1, "alpha-S8 has 32 atoms in its primitive cell: one atom in a box")


_JOB = (
    "import json, logging, sys; from xtalrl.dft.shards import run_shard; logging.basicConfig(level='INFO'); "
    "run_shard(**json.loads(sys.argv[1]))"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_kill_loses_at_most_what_was_running(
    place: Place, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.plan(
        *(crystal(f"c{i}", "Si", "Si", size=1 + i / 100) for i in range(5)), crystal("endless", "He", "He", size=0.5)
    )
    scratch = place.folder / "scratch"
    scratch.mkdir()
    environment = os.environ | {"TMPDIR": str(scratch)}
    job = subprocess.Popen(
        [sys.executable, "-c", _JOB, json.dumps(place.arguments(workers=1))],
        env=environment,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    engine, child = fake_pids(place.log)
    job.send_signal(number)
    _, log = job.communicate(timeout=30)
    assert job.returncode == (143 if number == signal.SIGTERM else -9)
    if number == signal.SIGTERM:
        assert "told to stop: 5 of 6 SCFs are done and kept; run the same command again" in log
    assert not is_alive(engine, patience_s=5)
    assert not is_alive(child, patience_s=3)
    if number == signal.SIGTERM:
        assert list(scratch.iterdir()) == []
    assert place.runs == 6
    assert not Path(place.outcomes).exists()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    rows = place.run(time_limits_min=LIMITS | {"crystal": [0.01]})
    assert list(scratch.iterdir()) == []
    assert place.runs == 7
    assert [name for name, row in rows.items() if row["outcome"] != "converged"] == ["endless"]


def test_designs_and_the_elements_they_add(place: Place) -> None:
    place.plan(crystal("skeleton", "Na", "Cl"))
    common = {
        "material_id": "skeleton",
        "seed": 0,
        "formula": "x",
        "true_formula": "NaCl",
        "n_sites": 2,
        "n_correct": 0,
        "n_similar": 0,
        "validity_rule": "r",
        "valid_smact14": True,
        "valid_icsd24": True,
        "odd_electrons": False,
    }
    designs = [
        common | {"policy": "a", "species": ["K", "Br"], "valid": True, "request_id": "d1"},
        common | {"policy": "b", "species": ["K", "Br"], "valid": True, "request_id": "d1"},
        common | {"policy": "b", "species": ["Na", "Na"], "valid": False, "request_id": None},
        common | {"policy": "c", "species": ["Na", "F"], "valid": True, "request_id": "d2"},
    ]
    assessments, references = str(place.folder / "assessments.parquet"), str(place.folder / "references.parquet")
    tables.write_rows(designs, tables.ASSESSMENTS, assessments)
    known = [{"element": e, "form": "imported", "outcome": "imported", "detail": ""} for e in ("Na", "Cl", "K")]
    tables.write_rows(known, tables.REFERENCES, references)
    crystals = str(place.folder / "crystals.parquet")
    plan_design_scf(assessments, crystals, references, place.family, place.requests, None, "paper-fast", "paper", 1)
    rows = place.run()
    assert {name: row["kind"] for name, row in rows.items()} == {
        "d1": "design",
        "d2": "design",
        "ref-Br": "reference",
        "ref-F": "reference",
    }
    assert rows["d1"]["species"] == ["K", "Br"]
    other = str(place.folder / "other.parquet")
    tables.write_rows([], tables.CRYSTALS, other)
    with pytest.raises(XtalrlError, match="skeleton skeleton"):
        plan_design_scf(assessments, other, references, place.family, place.requests, None, "paper-fast", "paper", 1)
