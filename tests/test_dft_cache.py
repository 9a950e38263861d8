"""The cache: many writers, torn lines, time-outs that more time undoes, and nothing that speaks about the machine."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from xtalrl.dft.cache import Cache, Record
from xtalrl.dft.outcomes import Category, Outcome


def record(key: str, outcome: Outcome = Outcome.CONVERGED, timeout_s: float = 60.0) -> Record:
    return Record(
        key, str(outcome), "", -1.0 if outcome.usable else None, None, None, False, 0, 1.0, timeout_s, "pw.x 7.2 (path)"
    )


def _write(folder: str, writer: int) -> None:
    cache = Cache(folder)
    for number in range(50):
        cache.add(record(f"{writer}-{number}"))


def test_many_writers_lose_nothing(tmp_path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write, args=(str(tmp_path), writer)) for writer in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    cache = Cache(tmp_path)
    assert all(cache.find(f"{writer}-{number}", 60) for writer in range(3) for number in range(50))
    assert len(list((tmp_path / "scf").glob("*.jsonl"))) == 3


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_torn_line_costs_one_record(tmp_path, cut: int) -> None:
    cache = Cache(tmp_path)
    for key in ("a", "b", "c"):
        cache.add(record(key))
    (path,) = (tmp_path / "scf").glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:cut] + b"\n" + b'{"key": "d", "outcome": "no such outcome"}\n' + lines[2])
    later = Cache(tmp_path)
    assert [later.find(key, 60) is not None for key in ("a", "b", "c", "d")] == [True, False, True, False]


def test_a_time_out_counts_until_there_is_more_time(tmp_path) -> None:
    cache = Cache(tmp_path)
    cache.add(record("slow", Outcome.TIME_LIMIT, 60))
    assert cache.find("slow", 60) is not None
    assert cache.find("slow", 30) is not None
    assert cache.find("slow", 120) is None
    cache.add(record("slow", Outcome.TIME_LIMIT, 120))
    cache.add(record("slow", Outcome.TIME_LIMIT, 90))
    for either in (cache, Cache(tmp_path)):
        assert either.find("slow", 120) is not None
    Cache(tmp_path).add(record("slow", Outcome.CONVERGED, 500))
    found = Cache(tmp_path).find("slow", 10_000)
    assert found is not None
    assert found.result.outcome is Outcome.CONVERGED


def test_what_was_not_saved_answers_only_where_it_is_accepted(tmp_path) -> None:
    cache = Cache(tmp_path)
    cache.add(record("x", Outcome.CONVERGED_NOT_SAVED))
    assert cache.find("x", 60) is None
    assert cache.find("x", 60, accept_not_saved=True) is not None
    cache.add(record("x"))
    cache.add(record("x", Outcome.CONVERGED_NOT_SAVED))
    for either in (cache, Cache(tmp_path)):
        assert either.find("x", 60).outcome == "converged"


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome.category is Category.ENVIRONMENT])
def test_a_failure_of_the_machine_is_never_kept(tmp_path, outcome: Outcome) -> None:
    cache = Cache(tmp_path)
    cache.add(record("x", outcome))
    assert cache.find("x", 60) is None
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_disk_that_fills_up_in_the_middle_of_a_line(tmp_path, monkeypatch) -> None:
    """The record counts as not kept, and what is added later is not torn with it."""
    cache, write = Cache(tmp_path), os.write
    cache.add(record("a"))
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:30]))
        with pytest.raises(OSError, match="No space left") as error:
            cache.add(record("b"))
    assert error.value.filename == str(tmp_path / "scf")
    assert cache.find("b", 60) is None
    cache.add(record("c"))
    later = Cache(tmp_path)
    assert [later.find(key, 60) is not None for key in ("a", "b", "c")] == [True, False, True]
