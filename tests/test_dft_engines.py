"""Engines: what is chosen, how it is run and ended, and the embedded pw.x against a system pw.x."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import threading
import time
from pathlib import Path

import pytest
from dft_data import SHARED, SILICON, fake_pids, fake_pw, is_alive, needs_shared, sssp

from xtalrl.dft import engines
from xtalrl.dft.engines import describe_engine, find_engine, prepare_engine
from xtalrl.dft.inputs import render, settings_for
from xtalrl.dft.outcomes import Outcome, Run, classify
from xtalrl.dft.protocols import load_protocol
from xtalrl.errors import XtalrlError
from xtalrl.resources import PROJECT


@pytest.fixture
def no_pw_on_path(monkeypatch, tmp_path) -> Path:
    empty = tmp_path / "bin"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    return empty


def test_the_command_comes_before_the_path(tmp_path, monkeypatch) -> None:
    command, _ = fake_pw(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_engine(None, tmp_path).kind == "path"
    engine = find_engine(f"env A=1 {command} -nk 1", tmp_path)
    assert (engine.kind, engine.version) == ("command", "7.2")
    assert engine.command == ("env", "A=1", command, "-nk", "1", "-in", "pw.in")
    assert command in describe_engine(command, tmp_path)
    prepare_engine(command, tmp_path)
    assert '"version": "7.2"' in (tmp_path / "engine" / "engine.json").read_text()


def test_without_any_pw_there_is_a_sentence(tmp_path, no_pw_on_path, monkeypatch) -> None:
    with pytest.raises(XtalrlError, match=r"no pw\.x\. Name the command in `dft\.command`"):
        describe_engine(None, tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(no_pw_on_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(XtalrlError, match=r"embedded one cannot be fetched.*copy the wheel into"):
        prepare_engine(None, tmp_path)
    assert not (tmp_path / "engine" / "engine.json").exists()
    monkeypatch.setattr(engines, "machine_fits", lambda _: False)
    with pytest.raises(XtalrlError, match="x86-64"):
        prepare_engine(None, tmp_path)


def test_one_thread_a_process_and_root_may_run_mpi(tmp_path) -> None:
    script = tmp_path / "pw.x"
    script.write_text('#!/bin/sh\necho "     Program PWSCF v.6.7 starts"\nenv\n')
    script.chmod(0o755)
    engine = find_engine(str(script), tmp_path)
    run = engine.run("", tmp_path, 10)
    assert {"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "OMPI_ALLOW_RUN_AS_ROOT=1"} <= set(run.stdout.splitlines())
    assert run.exit_code == 0
    assert classify(run).outcome is Outcome.OUTPUT_LOST


@pytest.mark.parametrize("how", ["timeout", "stop"])
def test_a_run_ends_with_all_its_children(tmp_path, how: str) -> None:
    command, log = fake_pw(tmp_path)
    engine = find_engine(command, tmp_path)
    text = "nat = 1\nATOMIC_SPECIES\nHe 4.0 pw.in\n"
    stop = threading.Event()
    if how == "stop":
        threading.Timer(0.7, stop.set).start()
    start = time.monotonic()
    run = engine.run(text, tmp_path, 0.7 if how == "timeout" else 60, stop)
    assert time.monotonic() - start < 5
    assert run.timed_out == (how == "timeout")
    assert not any(is_alive(pid, patience_s=3) for pid in fake_pids(log))


def _fetched_cache() -> Path | None:
    return next(
        (path.parents[4] for path in (PROJECT / "results").glob("**/engine/qepy-*/qepy/qepylibs/libqepy_pw.so")), None
    )


needs_embedded = pytest.mark.skipif(
    _fetched_cache() is None, reason="the embedded pw.x is not fetched (`snakemake …/engine/engine.json`)"
)


def _extract_silicon(folder: Path) -> None:
    file = "Si.pbe-n-rrkjus_psl.1.0.0.UPF"
    with tarfile.open(SHARED / "sssp" / "SSSP_1.3.0_PBE_efficiency.tar.gz") as archive:
        source = archive.extractfile(f"./{file}")
        assert source is not None
        with open(folder / file, "wb") as target:
            shutil.copyfileobj(source, target)


@needs_shared
@needs_embedded
def test_the_embedded_pw_agrees_with_a_system_pw(tmp_path, no_pw_on_path) -> None:
    cache = _fetched_cache()
    assert cache is not None
    case = SHARED / "pw_failures" / "32_stdin_input"
    text = re.sub(r"pseudo_dir = '[^']*'", "pseudo_dir = './'", (case / "pw.in").read_text())
    _extract_silicon(tmp_path)
    engine = find_engine(None, cache)
    assert engine.kind == "embedded"
    ours = classify(engine.run(text, tmp_path, 120))
    system = classify(Run((case / "pw.out").read_text(), "", 0, xml=case / "data-file-schema.xml"))
    assert ours.outcome is Outcome.CONVERGED
    assert ours.total_energy_ry == pytest.approx(system.total_energy_ry, abs=1e-7)
    assert ours.band_gap_raw_ev == pytest.approx(system.band_gap_raw_ev, abs=1e-4)


@needs_shared
@needs_embedded
@pytest.mark.slow
def test_a_run_that_ran_out_of_time_goes_on_where_it_was(tmp_path, no_pw_on_path) -> None:
    cache = _fetched_cache()
    assert cache is not None
    _extract_silicon(tmp_path)
    engine, settings = find_engine(None, cache), settings_for(SILICON, "crystal", load_protocol("paper"), sssp())
    first = classify(engine.run(render(SILICON, settings, sssp(), max_seconds=4), tmp_path, 300))
    assert first.outcome is Outcome.TIME_LIMIT
    second = engine.run(render(SILICON, settings, sssp(), restart=True), tmp_path, 300)
    shutil.rmtree(tmp_path / "out")
    whole = engine.run(render(SILICON, settings, sssp()), tmp_path, 300)
    assert classify(second).total_energy_ry == pytest.approx(classify(whole).total_energy_ry, abs=2e-6)
    assert second.stdout.count("estimated scf accuracy") <= whole.stdout.count("estimated scf accuracy")
