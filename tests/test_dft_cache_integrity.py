"""A stored result cannot change unseen: every change of a line is named and never used, by runs, verify, import and export alike."""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from test_dft_exchange import an_older_version_wrote, fill, record

from xtalrl.dft.cache import Cache, seal
from xtalrl.dft.exchange import cache_stats, export_cache, import_cache, seal_cache, verify_cache
from xtalrl.errors import XtalrlError

FLIPS = int(os.environ.get("XTALRL_FLIPS", "60"))
"""Random bit flips a test tries; the harness at full size is `XTALRL_FLIPS=400 pytest tests/test_dft_cache_integrity.py`."""

GOOD = record()
CALCULATION = ("species", "lattice", "frac_coords", "settings", "pseudopotential_md5s")
CHANGES: dict[str, dict[str, Any]] = {
    "energy x10": {"total_energy_ry": -200.0},
    "energy's sign": {"total_energy_ry": 20.0},
    "energy null": {"total_energy_ry": None},
    "energy NaN": {"total_energy_ry": float("nan")},
    "energy inf": {"total_energy_ry": float("inf")},
    "energy text": {"total_energy_ry": "-20.0"},
    "energy list": {"total_energy_ry": [1]},
    "gap": {"band_gap_raw_ev": 99.0},
    "outcome": {"outcome": "not_converged"},
    "outcome unknown": {"outcome": "foo"},
    "outcome object": {"outcome": {"a": 1}},
    "generation": {"generation": 10**9, "total_energy_ry": -1.0},
    "generation text": {"generation": "2"},
    "calculation removed": dict.fromkeys(CALCULATION),
    "lattice removed": {"lattice": None},
    "settings text": {"settings": "x"},
    "species numbers": {"species": [1, 2]},
    "species text": {"species": "Si"},
    "species unknown": {"species": ["Xx"]},
    "another cell": {"lattice": [1.0] * 9},
    "another crystal's key": {"key": record(1.1).key},
    "key list": {"key": [1]},
    "key null": {"key": None},
    "key number": {"key": 5},
    "key with a path": {"key": "../../../x"},
    "time text": {"wall_s": "x"},
}
OF_ONE_LINE = {
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "a long number": b'{"key": ' + b"9" * 5000 + b"}",
    "list": b"[1, 2]",
    "null": b"null",
    "hole": b"\0" * 4096,
    "binary": bytes(range(128, 256)),
}


def line_of(cache: Path) -> bytes:
    (path,) = (cache / "scf").glob("*.jsonl")
    return path.read_bytes()


def write(cache: Path, line: bytes) -> Path:
    (cache / "scf").mkdir(parents=True, exist_ok=True)
    (cache / "scf/a-1-1.jsonl").write_bytes(line + b"\n")
    return cache


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_record_is_named_and_never_used(tmp_path: Path, change: str) -> None:
    content = json.loads(line_of(fill(tmp_path / "made", GOOD))) | CHANGES[change]
    changed = write(tmp_path / "changed", json.dumps(content).encode())
    assert len(verify_cache(changed)) == 1
    for key in (GOOD.key, CHANGES[change].get("key")):
        if isinstance(key, str):
            assert Cache(changed).find(key, 60) is None
    assert export_cache(changed, tmp_path / "all.jsonl") == 0
    taken = import_cache(tmp_path / "ours", changed)
    assert (taken.new, len(taken.refused)) == (0, 1)


@pytest.mark.parametrize(
    "change",
    [
        name
        for name in CHANGES
        if name not in ("energy x10", "energy's sign", "gap", "outcome", "generation", "calculation removed")
    ],
)
def test_types_and_ranges_are_checked_where_there_is_no_checksum(tmp_path: Path, change: str) -> None:
    """As an older version wrote it, or somebody who computes the checksum himself. Only what is possible cannot be told."""
    content = json.loads(line_of(fill(tmp_path / "made", GOOD))) | CHANGES[change]
    del content["sha256"]
    changed = write(tmp_path / "changed", json.dumps(content).encode())
    assert len(verify_cache(changed)) == 1
    assert Cache(changed).find(GOOD.key, 60) is None
    assert import_cache(tmp_path / "ours", changed).new == 0


@pytest.mark.parametrize("what", OF_ONE_LINE)
def test_a_line_that_is_no_record_costs_only_itself(tmp_path: Path, what: str) -> None:
    good = line_of(fill(tmp_path / "made", GOOD))
    cache = write(tmp_path / "cache", OF_ONE_LINE[what] + b"\n" + good.rstrip())
    (fault,) = verify_cache(cache)
    assert "line 1" in fault
    assert Cache(cache).find(GOOD.key, 60) == Cache(tmp_path / "made").find(GOOD.key, 60)
    assert len(import_cache(tmp_path / "ours", cache).refused) == 1


def test_every_flipped_bit_of_a_line_is_named(tmp_path: Path) -> None:
    line, rng = line_of(fill(tmp_path / "made", GOOD)).rstrip(), random.Random(1)
    for _ in range(FLIPS):
        flipped = bytearray(line)
        flipped[rng.randrange(len(line))] ^= 1 << rng.randrange(8)
        cache = write(tmp_path / "flipped", bytes(flipped))
        assert verify_cache(cache), flipped
        assert Cache(cache).find(GOOD.key, 60) is None, flipped


def test_no_flipped_bit_of_an_export_changes_what_is_taken(tmp_path: Path) -> None:
    export_cache(fill(tmp_path / "made", GOOD, record(1.1)), tmp_path / "all.parquet")
    content, rng = (tmp_path / "all.parquet").read_bytes(), random.Random(3)
    good = {key: Cache(tmp_path / "made").find(key, 60) for key in (GOOD.key, record(1.1).key)}
    for number in range(FLIPS):
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file = tmp_path / "flipped.parquet"
        file.write_bytes(flipped)
        ours = tmp_path / f"ours-{number}"
        with contextlib.suppress(XtalrlError):
            import_cache(ours, file)
        cache = Cache(ours)
        assert all(cache.find(key, 60) in (None, kept) for key, kept in good.items())


def test_an_exported_row_that_was_changed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "all.parquet"
    export_cache(fill(tmp_path / "made", GOOD), file)
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[0]["total_energy_ry"] = -21.0
    pq.write_table(table.from_pylist(rows, table.schema), file)
    assert "row 1 was changed" in import_cache(tmp_path / "ours", file).refused[0]


def test_sealing_gives_old_lines_a_checksum_and_keeps_what_they_say(tmp_path: Path) -> None:
    cache = fill(tmp_path, GOOD)
    an_older_version_wrote(cache)
    torn = cache / "scf/torn-1-1.jsonl"
    torn.write_text('{"key": "ab')
    before = Cache(cache).find("0" * 64, 60)
    assert cache_stats(cache).unchecked == 1
    assert seal_cache(cache) == 1
    assert seal_cache(cache) == cache_stats(cache).unchecked == 0
    assert Cache(cache).find("0" * 64, 60) == before
    assert torn.read_text() == '{"key": "ab'
    old = cache / "scf/older-1-1.jsonl"
    old.write_bytes(old.read_bytes().replace(b"-1.5", b"-2.5"))
    assert "its checksum does not fit" in " ".join(verify_cache(cache))


@pytest.mark.parametrize(
    "line", [b'{"key": "abc", "gene', b"\xff\xfe\x00", b'{"key":"a","generation":"x"}', b"[1]", b"[" * 100_000]
)
def test_a_damaged_void_stops_nobody_and_is_named(tmp_path: Path, line: bytes) -> None:
    cache = fill(tmp_path, GOOD)
    (cache / "scf/x.void").write_bytes(line + b"\n" + seal({"key": GOOD.key, "generation": 1}))
    assert Cache(cache).find(GOOD.key, 60) is None, "the other line asks for it again"
    (fault,) = verify_cache(cache)
    assert "x.void, line 1" in fault


def test_what_is_no_file_stops_nobody_and_is_named(tmp_path: Path) -> None:
    cache = fill(tmp_path, GOOD)
    (cache / "scf/folder.jsonl").mkdir()
    (cache / "scf/link.jsonl").symlink_to("/nonexistent")
    os.mkfifo(cache / "scf/pipe.jsonl")
    assert Cache(cache).find(GOOD.key, 60) is not None
    assert len(verify_cache(cache)) == 3
    assert cache_stats(cache).calculations == 1


def test_what_others_add_is_seen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    early = Cache(tmp_path)
    later = fill(tmp_path, GOOD)
    assert early.find(GOOD.key, 60) is None
    early.refresh()
    assert early.find(GOOD.key, 60) is not None
    (path,) = (later / "scf").glob("*.jsonl")
    whole = line_of(fill(tmp_path / "other", record(1.1)))
    for part in (whole[:200], whole[200:]):
        with path.open("ab") as file:
            file.write(part)
        early.refresh()
    assert early.find(record(1.1).key, 60) is not None, "a line that was seen half written is read when it is whole"
    assert not caplog.records


def test_files_take_group_and_mode_of_the_folder_whatever_the_umask(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o2770)
    old = os.umask(0o077)
    try:
        cache = fill(tmp_path / "cache", GOOD)
        Cache(cache).void([GOOD.key])
        import_cache(cache, fill(tmp_path / "theirs", record(1.1)))
    finally:
        os.umask(old)
    assert (cache / "scf").stat().st_mode & 0o7777 == 0o2770
    assert [path.stat().st_mode & 0o7777 for path in sorted((cache / "scf").iterdir())] == [0o660] * 3
