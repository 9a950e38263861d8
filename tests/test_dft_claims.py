"""Runs side by side on one cache: each SCF is computed once, whoever dies."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from test_dft_shards import Place, crystal

from xtalrl.dft import claims
from xtalrl.dft.cache import Cache, read_records
from xtalrl.dft.claims import Claims, Taken
from xtalrl.errors import XtalrlError

RUNS, CRYSTALS, KILLS = (
    int(os.environ.get(f"XTALRL_{name}", n)) for name, n in (("RUNS", 2), ("CRYSTALS", 8), ("KILLS", 1))
)
"""At full size: `XTALRL_RUNS=4 XTALRL_CRYSTALS=47 XTALRL_KILLS=6 pytest tests/test_dft_claims.py`."""


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_one_holds_a_claim_and_others_are_told_who(tmp_path: Path) -> None:
    with Claims(tmp_path).held("a"):
        with pytest.raises(Taken, match=f"process {os.getpid()} on {socket.gethostname()}"), Claims(tmp_path).held("a"):
            pass
        with Claims(tmp_path).held("b"):
            pass
    with Claims(tmp_path).held("a"):
        pass
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_claim_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    path = tmp_path / "claims/a"
    for owner in ({"pid": dead_pid()}, {"started": "1"}):  # Gone, or its number was given to another process.
        path.write_text(json.dumps(claims._us() | owner))
        with Claims(tmp_path).held("a"):
            assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list((tmp_path / "claims").iterdir()) == []


@pytest.mark.parametrize("content", [None, "", "[1]", '{"pid": "x"}'])
def test_a_claim_of_another_node_is_dead_when_nobody_touches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    (tmp_path / "claims").mkdir()
    path = tmp_path / "claims/a"
    path.write_text(json.dumps(claims._us() | {"machine": "n7", "host": "n7"}) if content is None else content)
    ours = Claims(tmp_path)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for passed, alive in ((0, True), (claims.STALE_S - 1, True), (2, False)):
        now[0] += passed
        if alive:
            with pytest.raises(Taken), ours.held("a"):
                pass
            os.utime(path, (1, 1)) if passed == 0 else None  # Touched, by a clock that is far off.
            if passed == 0:
                with pytest.raises(Taken), ours.held("a"):
                    pass
        else:
            with ours.held("a"):
                assert json.loads(path.read_text())["pid"] == os.getpid()


def test_claims_of_processes_that_are_gone_are_buried(tmp_path: Path) -> None:
    """One killed after its run had ended, before its claim did: the result is there, so that nobody would ever take it over."""
    (tmp_path / "claims").mkdir()
    owners = {
        "dead": claims._us() | {"started": "1"},
        "elsewhere": claims._us() | {"machine": "n7"},
        "ours": claims._us(),
    }
    for key, owner in owners.items():
        (tmp_path / "claims" / key).write_text(json.dumps(owner))
    Claims(tmp_path).bury_dead()
    assert {path.name for path in (tmp_path / "claims").iterdir()} == {"elsewhere", "ours"}
    Claims(tmp_path / "no_cache").bury_dead()


def test_what_is_held_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT_S", 0.0)
    ours = Claims(tmp_path)
    with ours.held("a"):
        os.utime(tmp_path / "claims/a", (1, 1))
        ours.beat()
        assert time.time() - (tmp_path / "claims/a").stat().st_mtime < 60


@pytest.mark.parametrize("error", [PermissionError(1, "Operation not permitted"), OSError(95, "Not supported")])
def test_a_file_system_without_links_costs_the_claim_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "link", refuse)
    with Claims(tmp_path).held("a"):
        assert list((tmp_path / "claims").iterdir()) == []


def test_a_cache_that_can_only_be_read_serves_a_run_that_needs_nothing_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    place.plan(crystal("a", "Si", "Si"))
    place.run()

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(claims, "make_folder", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert place.run()["a"]["outcome"] == "converged"
    place.plan(crystal("b", "Si", "C"))
    with pytest.raises(XtalrlError, match="can only be read"):
        place.run()
    assert place.runs == 1


_RUN = """
import sys; sys.path.insert(0, {tests!r})
from pathlib import Path
from test_dft_shards import Place
from xtalrl.dft.shards import run_shard
place = Place.__new__(Place)
place.__dict__.update({place!r})
run_shard(**place.arguments(outcomes=sys.argv[1]))
"""


def start(place: Place, number: int) -> subprocess.Popen[bytes]:
    state = {name: str(value) if isinstance(value, Path) else value for name, value in vars(place).items()}
    code = _RUN.format(tests=str(Path(__file__).parent), place=state)
    environment = os.environ | {"FAKE_PW_SLEEP": "0.3"}
    return subprocess.Popen([sys.executable, "-c", code, str(place.folder / f"{number}.parquet")], env=environment)


def computed(place: Place) -> Counter[str]:
    found = [record for path in (place.cache / "scf").glob("*.jsonl") for _, record in read_records(path)]
    return Counter(record.key for record in found if not isinstance(record, str))


@pytest.mark.parametrize("kills", [0, KILLS])
def test_runs_side_by_side_compute_each_scf_once(tmp_path: Path, kills: int) -> None:
    place = Place(tmp_path)
    place.plan(*(crystal(f"c{i}", "Si", "Si", size=1 + i / 100) for i in range(CRYSTALS)))
    runs = {number: start(place, number) for number in range(RUNS)}
    rng = random.Random(1)
    for _ in range(kills):
        time.sleep(rng.uniform(2, 4))
        number = rng.randrange(RUNS)
        runs[number].send_signal(signal.SIGKILL)
        runs[number].wait()
        runs[number] = start(place, number)
    assert [run.wait(timeout=120 + CRYSTALS) for run in runs.values()] == [0] * RUNS
    assert computed(place) == Counter(dict.fromkeys(computed(place), 1)), "each has one record"
    assert len(computed(place)) == CRYSTALS
    assert CRYSTALS <= place.runs <= CRYSTALS + 2 * kills, "only what was in flight at a kill, on 2 workers, ran again"
    assert list((place.cache / "claims").iterdir()) == []


def test_a_run_that_waits_says_so_and_gets_on_with_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    place = Place(tmp_path)
    place.plan(crystal("first", "Si", "Si", size=1.2), crystal("own", "Si", "Si"))
    place.run()
    (path,) = (place.cache / "scf").glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    records = Cache(place.cache)
    assert not records.find("x", 1)
    kept = [record for _, record in read_records(_write(tmp_path / "old.jsonl", lines))]
    large = max(kept, key=lambda record: record.lattice[1])
    with Claims(place.cache).held(large.key):
        run = start(place, 0)
        deadline = time.monotonic() + 60
        while not computed(place) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        assert run.poll() is None, "it waits"
        assert set(computed(place)) == {record.key for record in kept} - {large.key}
        records.add(large)
    assert run.wait(timeout=60) == 0
    assert place.runs == 3


def _write(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path
