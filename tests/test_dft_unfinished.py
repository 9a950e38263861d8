"""A run of pw.x that the end of its job cuts off saves its state, and the next job goes on from it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dft_data import SHARED, SSSP, needs_shared
from test_dft_engines import fetched_cache, needs_embedded
from test_dft_shards import LIMITS, Place, crystal

from xtalrl import tables
from xtalrl.dft import pw_job, unfinished
from xtalrl.dft.exchange import cache_stats
from xtalrl.dft.outcomes import Result, Run, classify
from xtalrl.dft.pseudopotentials import fetch_family
from xtalrl.dft.requests import plan_crystal_scf
from xtalrl.dft.shards import run_shard
from xtalrl.dft.unfinished import SavedState, Unfinished
from xtalrl.errors import XtalrlError

JOB_MIN = 0.05
"""It stops after 2.7 s, 2 of which are left to pw.x, while argon takes its stand-in 3 s."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """As in a real job, but everything takes a hundredth of the time."""
    monkeypatch.setattr(pw_job, "SAVE_MARGIN_S", 0.3)
    monkeypatch.setattr(pw_job, "KEEP_MARGIN_S", 0.3)
    place = Place(tmp_path)
    place.plan(crystal("argon", "Ar", "Ar"))
    return place


def stop_the_clock(monkeypatch: pytest.MonkeyPatch, at_s: float) -> None:
    """How far the job is, whatever else this machine is doing."""
    monkeypatch.setattr(pw_job, "time", SimpleNamespace(monotonic=lambda: at_s))


@pytest.fixture
def cut(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """After a job that ended before argon did."""
    with monkeypatch.context() as patch:
        stop_the_clock(patch, 0.0)
        with pytest.raises(
            XtalrlError, match=r"0 of 1 SCFs are done and kept, and the states of 1 more are saved; the same"
        ):
            place.run(runtime_min=JOB_MIN)
    return place


def states(place: Place) -> list[Path]:
    return list((place.cache / "unfinished").iterdir())


def iterations(place: Place) -> int:
    """How far the saved run had come."""
    (state,) = states(place)
    return int((state / "out/pw.restart_scf").read_text())


def test_the_next_job_goes_on_where_the_last_one_ended(cut: Place) -> None:
    done = iterations(cut)
    assert 20 < done < 60
    assert not list((cut.cache / "scf").glob("*.jsonl")), "what a job cut off is not a result"
    row = cut.run()["argon"]
    assert (row["outcome"], row["total_energy_ry"]) == ("converged", -20.0)
    (attempt,) = row["attempts"]
    assert attempt["restarted"]
    assert attempt["wall_s"] > 3, "both jobs together"
    made = cut.log.with_name("runs.log.iterations").read_text().split()
    assert made == [str(n) for n in range(1, 61)], "no iteration twice"
    assert states(cut) == [], "nothing is left when it has ended"
    assert cut.runs == 2


def test_a_run_that_is_not_cut_off_is_not_restarted(place: Place) -> None:
    (attempt,) = place.run(runtime_min=60)["argon"]["attempts"]
    assert attempt["restarted"] is False
    assert not (place.cache / "unfinished").exists()


def test_the_time_limit_counts_all_jobs(cut: Place) -> None:
    (kept,) = states(cut)
    spent = json.loads((kept / "state.json").read_text())["spent_s"]
    assert spent >= 2
    (kept / "out/pw.restart_scf").write_text("0")  # It needs 3 s more, of which it gets 2.
    row = cut.run(time_limits_min=LIMITS | {"crystal": [(spent + 2) / 60]})["argon"]
    assert row["outcome"] == "time_limit"
    assert spent + 1 <= row["wall_s"] < spent + 2.5


def test_a_job_that_ends_shortly_before_the_time_limit_gives_no_verdict(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the limit has left is too short to be saved again, but is the run's all the same."""
    limits = LIMITS | {"crystal": [2.9 / 60]}
    with monkeypatch.context() as patch:
        stop_the_clock(patch, 0.0)
        with pytest.raises(XtalrlError, match="the states of 1 more are saved"):
            place.run(runtime_min=JOB_MIN, time_limits_min=limits)
    assert not list((place.cache / "scf").glob("*.jsonl"))
    (kept,) = states(place)
    (kept / "out/pw.restart_scf").write_text("0")
    row = place.run(time_limits_min=limits)["argon"]
    assert (row["outcome"], [attempt["restarted"] for attempt in row["attempts"]]) == ("time_limit", [True])
    assert 2.8 <= row["wall_s"] < 3.5


@pytest.mark.parametrize("harm", ["torn", "of another engine", "without its description"])
def test_a_state_that_cannot_be_used_costs_only_time(cut: Place, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    (kept,) = states(cut)
    if harm == "torn":
        (kept / "out/pw.restart_scf").write_text("#")
    elif harm == "of another engine":
        text = (kept / "state.json").read_text()
        (kept / "state.json").write_text(text.replace("kind='command'", "kind='path'"))
    else:
        (kept / "state.json").unlink()
    with caplog.at_level(logging.INFO, "xtalrl"):
        row = cut.run()["argon"]
    assert row["outcome"] == "converged"
    assert [attempt["restarted"] for attempt in row["attempts"]] == [False]
    assert ("davcio: error reading file ./out/pw.wfc): started again from the beginning" in caplog.text) == (
        harm == "torn"
    )
    assert states(cut) == []


def test_a_kill_of_the_restarted_run_leaves_the_state(cut: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    done = iterations(cut)
    with pytest.raises(XtalrlError, match="0 of 1 SCFs are done and kept; the same command"):
        cut.run(runtime_min=0.01)  # Too short to save anything: pw.x is killed.
    assert iterations(cut) == done


def test_what_timed_out_at_the_end_of_a_job_is_saved_for_the_next_attempt(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = LIMITS | {"crystal": [2.4 / 60, 5 / 60]}

    def classified(run: Run) -> Result:
        stop_the_clock(patch, 3509.0)  # A second before a job of an hour stops.
        return classify(run)

    with monkeypatch.context() as patch:
        stop_the_clock(patch, 0.0)
        patch.setattr(pw_job, "classify", classified)
        with pytest.raises(XtalrlError, match="the states of 1 more are saved"):
            place.run(runtime_min=60, time_limits_min=limits)
    stats = cache_stats(place.cache)
    assert (stats.outcomes, stats.unfinished) == ({"time_limit": 1}, 1)
    assert iterations(place) >= 20
    row = place.run(time_limits_min=limits)["argon"]
    assert [(a["strategy"], a["outcome"], a["restarted"]) for a in row["attempts"]] == [
        ("unpolarised", "time_limit", False),
        ("more_time", "converged", True),
    ]
    assert states(place) == []


def test_a_state_is_kept_whole_and_for_its_calculation_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "pw.wfc").write_bytes(b"x" * 1000)
    kept = Unfinished(tmp_path)
    (kept.folder / ".a.node-1-1/out").mkdir(parents=True)  # What a kill in the middle of a copy leaves.
    (kept.folder / ".a.node-1-1/state.json").write_text('{"spent_s": 5.0, "engine": "engine"}')
    assert kept.restore("a", tmp_path / "a", "engine") is None
    assert kept.keys() == []
    assert kept.keep("a", out, SavedState(10.0, "engine"))
    assert kept.restore("b", tmp_path / "b", "engine") is None
    assert kept.restore("a", tmp_path / "a", "engine") == SavedState(10.0, "engine")
    assert (tmp_path / "a/pw.wfc").read_bytes() == b"x" * 1000
    assert kept.keep("a", out, SavedState(20.0, "engine")), "a later state takes the place of an earlier one"
    shutil.rmtree(tmp_path / "a")
    assert kept.restore("a", tmp_path / "a", "engine") == SavedState(20.0, "engine")
    assert kept.keys() == ["a"]


def test_the_folder_of_states_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(unfinished, "MOST_BYTES", 2500)
    out = tmp_path / "out"
    out.mkdir()
    (out / "pw.wfc").write_bytes(b"x" * 1000)
    kept = Unfinished(tmp_path)
    assert [kept.keep(key, out, SavedState(10.0, "engine")) for key in "abc"] == [True, True, False]
    old = time.time() - unfinished.OLDEST_S - 1
    os.utime(kept.folder / "a", (old, old))
    assert kept.keep("c", out, SavedState(10.0, "engine"))
    assert sorted(path.name for path in kept.folder.iterdir()) == ["b", "c"]


def test_a_disk_without_room_for_a_state_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(shutil, "copytree", full)
    assert not Unfinished(tmp_path).keep("a", out, SavedState(10.0, "engine"))
    assert list((tmp_path / "unfinished").iterdir()) == []


@needs_shared
@needs_embedded
@pytest.mark.slow
def test_a_crystal_in_two_jobs_has_the_energy_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gallium arsenide with the real pw.x, cut off in the middle; conv_thr is 1e-8 Ry."""
    fetched = fetched_cache()
    assert fetched is not None
    family = fetch_family(SSSP, str(SHARED / "sssp/SSSP_1.3.0_PBE_efficiency.tar.gz"), tmp_path)
    monkeypatch.setattr(pw_job, "SAVE_MARGIN_S", 0.5)
    monkeypatch.setattr(pw_job, "KEEP_MARGIN_S", 0.5)
    half = 5.653 / 2
    gallium_arsenide = crystal("GaAs", "Ga", "As") | {
        "lattice": [0, half, half, half, 0, half, half, half, 0],
        "frac_coords": [0, 0, 0, 0.25, 0.25, 0.25],
    }
    tables.write_rows([gallium_arsenide], tables.CRYSTALS, tmp_path / "crystals.parquet")
    requests = str(tmp_path / "requests.parquet")
    plan_crystal_scf(str(tmp_path / "crystals.parquet"), str(family), requests, "paper-fast", 1)

    def run(name: str, runtime_min: float | None = None) -> dict[str, Any]:
        cache, outcomes = tmp_path / name, tmp_path / f"{name}.parquet"
        cache.mkdir(exist_ok=True)
        if not (cache / "engine").exists():
            (cache / "engine").symlink_to(fetched / "engine")
        run_shard(
            requests, str(family), 0, str(outcomes), 1, "paper-fast", "paper", LIMITS, "embedded", str(cache),
            runtime_min=runtime_min,
        )  # fmt: skip
        return tables.read_rows(outcomes, tables.SCF_OUTCOMES)[0]

    start = time.monotonic()
    whole = run("whole")
    job_s = time.monotonic() - start - whole["wall_s"] / 2
    with pytest.raises(XtalrlError, match="the states of 1 more are saved"):
        run("parts", runtime_min=job_s / 54)  # A tenth is kept for the end of the job.
    parts = run("parts")
    assert [attempt["restarted"] for attempt in parts["attempts"]] == [True]
    assert (parts["outcome"], whole["outcome"]) == ("converged", "converged")
    assert parts["total_energy_ry"] == pytest.approx(whole["total_energy_ry"], abs=2e-8)
    assert parts["band_gap"] == pytest.approx(whole["band_gap"], abs=1e-3)
