"""Chaos: the runner, pw.x or both are killed at random moments and the disk fills up; nothing is lost, nothing is computed twice.

The runs of one calculation beyond its first are bounded by what was in flight at the kills, counted as they happen.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dft_data import is_alive
from test_dft_engines import fetched_cache, needs_embedded
from test_dft_shards import LIMITS, Place, crystal

from xtalrl import tables
from xtalrl.dft.exchange import cache_stats, verify_cache
from xtalrl.dft.requests import plan_crystal_scf
from xtalrl.dft.shards import run_shard
from xtalrl.resources import PROJECT

WORKERS = 2

# Imports once, then forks a runner for every line it reads: a start of Python for each would take longer than the chaos.
_NURSERY = """
import json, logging, os, resource, sys
from xtalrl.dft.shards import run_shard
from xtalrl.errors import XtalrlError
logging.basicConfig(level="INFO")
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        if order["largest_file"]:
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)
        try:
            run_shard(**order["arguments"])
        except (XtalrlError, OSError) as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Runners of shards, one after another, each a process of its own."""

    def __init__(self, arguments: dict[str, Any], scratch: Path) -> None:
        self.arguments = arguments
        self.process = subprocess.Popen(
            [sys.executable, "-c", _NURSERY],
            env=os.environ | {"TMPDIR": str(scratch), "FAKE_PW_SLEEP": "0.03"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(scratch.parent / "runners.log", "w"),  # noqa: SIM115
            text=True,
        )

    def start(self, largest_file: int = 0) -> int:
        """The process of a new runner; files may not grow beyond this many bytes (0: as they like), as on a full disk."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"arguments": self.arguments, "largest_file": largest_file}) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """The exit code of the runner."""
        return int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        """End the nursery; its runner has ended."""
        self.process.communicate()


def pw_of(runner: int) -> list[int]:
    """The pw.x processes of a runner."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == runner:
                found.append(int(path.parent.name))
    return found


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def rage(nursery: Nursery, rng: random.Random, rounds: int, longest_s: float) -> tuple[int, list[int]]:
    """Start a runner, do harm after a random time, and again; how many runs of pw.x may have been lost, and every pw.x seen."""
    lost, seen = 0, []
    for _ in range(rounds):
        runner = nursery.start()
        time.sleep(rng.uniform(0.05, longest_s))
        victims = pw_of(runner)
        seen += victims
        harm = rng.choice(("runner", "runner", "pw.x", "both", "SIGTERM"))
        if harm in ("pw.x", "both"):
            for pid in rng.sample(victims, min(1, len(victims))):
                _kill(pid, signal.SIGKILL)
                lost += 1
            time.sleep(rng.uniform(0, 0.05) if harm == "both" else 0)
        if harm == "pw.x":
            time.sleep(rng.uniform(0, longest_s / 2))
        _kill(runner, signal.SIGTERM if harm == "SIGTERM" else signal.SIGKILL)
        lost += WORKERS
        nursery.wait()
    return lost, seen


def cut_off_while_saving(cache: Path) -> int:
    """Records of runs that were killed after the levels were printed: they are kept, and the next run goes before them."""
    lines = b"".join(path.read_bytes() for path in (cache / "scf").glob("*.jsonl")).splitlines()
    return sum(b'"outcome": "converged_not_saved"' in line for line in lines)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def verdict(place: Place) -> dict[str, Any]:
    """What a finished shard says of each request, less what depends on the clock and on who was killed."""
    return {
        row["request_id"]: (row["outcome"], row["total_energy_ry"], row["band_gap"], row["strategy"], row["recovered"])
        for row in tables.read_rows(place.outcomes, tables.SCF_OUTCOMES)
    }


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_whatever_is_killed_each_calculation_ends_once(tmp_path: Path, scratch: Path, seed: int) -> None:
    rng = random.Random(seed)
    kinds = [("Si", "Si"), ("Na", "Si"), ("C", "C"), ("Na", "Cl")]
    crystals = [crystal(f"c{i}", *kinds[i % 4], size=1 + i / 100) for i in range(20)]
    (tmp_path / "quiet").mkdir()
    quiet = Place(tmp_path / "quiet")
    quiet.plan(*crystals)
    quiet.run(workers=WORKERS, recovery="extended")

    place = Place(tmp_path)
    place.plan(*crystals)
    nursery = Nursery(place.arguments(workers=WORKERS, recovery="extended"), scratch)
    # A full disk: the third record of this runner does not fit in its file any more.
    nursery.start(largest_file=2500)
    assert nursery.wait() != 0
    lost, seen = rage(nursery, rng, rounds=10, longest_s=0.4)
    lost += WORKERS + 1
    nursery.start()
    assert nursery.wait() == 0, (tmp_path / "runners.log").read_text()[-2000:]
    nursery.close()

    assert verdict(place) == verdict(quiet)
    stats, undisturbed = cache_stats(place.cache), cache_stats(quiet.cache)
    cut = cut_off_while_saving(place.cache)
    assert stats.lines - stats.torn - cut == stats.calculations == undisturbed.calculations, (
        "one result each, none missing"
    )
    assert "converged_not_saved" not in stats.outcomes, "runs cut off while saving were made again"
    assert stats.torn == 1, "the line that met the full disk"
    assert len(verify_cache(place.cache)) == stats.torn
    runs = Counter(place.log.read_text().split())
    assert runs.keys() == Counter(quiet.log.read_text().split()).keys()
    assert 0 < sum(runs.values()) - len(runs) <= lost, "what was in flight ran again, and nothing else"
    assert not any(is_alive(pid, patience_s=10) for pid in seen)
    assert list(scratch.iterdir()) == []


@needs_embedded
@pytest.mark.slow
def test_the_same_with_a_real_pw(tmp_path: Path, scratch: Path) -> None:
    """Four rock salts, with the embedded pw.x and PseudoDojo of the checkout's cache."""
    family = next((PROJECT / "results").glob("**/families/pseudo-dojo-0.4-pbe-sr-standard/family.json"), None)
    if family is None:
        pytest.skip("PseudoDojo is not fetched (`make engine`)")
    cells = [
        crystal("LiF", "Li", "F", size=4.03 / 5.43),
        crystal("LiH", "Li", "H", size=4.08 / 5.43),
        crystal("LiCl", "Li", "Cl", size=5.13 / 5.43),
        crystal("MgS", "Mg", "S", size=5.20 / 5.43),
    ]
    tables.write_rows(cells, tables.CRYSTALS, tmp_path / "crystals.parquet")
    plan_crystal_scf(str(tmp_path / "crystals.parquet"), str(family), str(tmp_path / "requests.parquet"), "demo", 1)
    cache = tmp_path / "cache"
    cache.mkdir()
    fetched = fetched_cache()
    assert fetched is not None
    engine = fetched / "engine"
    (cache / "engine").symlink_to(engine)
    arguments = {
        "requests": str(tmp_path / "requests.parquet"), "family": str(family), "shard": 0, "workers": WORKERS, "protocol": "demo",
        "outcomes": str(tmp_path / "outcomes.parquet"), "recovery": "paper", "time_limits_min": LIMITS, "command": None,
        "cache": str(cache),
    }  # fmt: skip
    nursery = Nursery(arguments, scratch)
    _, seen = rage(nursery, random.Random(7), rounds=6, longest_s=4)
    nursery.start()
    assert nursery.wait() == 0, (tmp_path / "runners.log").read_text()[-2000:]
    nursery.close()
    rows = tables.read_rows(tmp_path / "outcomes.parquet", tables.SCF_OUTCOMES)
    stats = cache_stats(cache)
    assert stats.lines == stats.calculations == len(rows) == 4
    # Undisturbed, with a cache of its own: the same energies to what the SCF stops at.
    (tmp_path / "quiet").mkdir()
    (tmp_path / "quiet/engine").symlink_to(engine)
    run_shard(**arguments | {"cache": str(tmp_path / "quiet"), "outcomes": str(tmp_path / "quiet.parquet")})
    for row, other in zip(rows, tables.read_rows(tmp_path / "quiet.parquet", tables.SCF_OUTCOMES), strict=True):
        assert row["outcome"] == other["outcome"] == "converged"
        assert row["total_energy_ry"] == pytest.approx(other["total_energy_ry"], abs=1e-7)
    assert not any(is_alive(pid, patience_s=3) for pid in seen)
    assert list(scratch.iterdir()) == []
