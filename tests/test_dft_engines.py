"""Engines: what is chosen, how it is run and ended, and the embedded pw.x against a system pw.x."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from dft_data import SHARED, SILICON, fake_pids, fake_pw, is_alive, needs_shared, sssp

from xtalrl.cells import Cell
from xtalrl.dft import engines
from xtalrl.dft.engines import Engine, describe_engine, find_engine, prepare_engine
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
    assert describe_engine(engine, tmp_path) == f"pw.x 7.2: `env A=1 {command} -nk 1`"
    prepare_engine(command, tmp_path)
    assert '"version": "7.2"' in (tmp_path / "engine" / "engine.json").read_text()


def test_without_any_pw_there_is_a_sentence(tmp_path, no_pw_on_path, monkeypatch) -> None:
    with pytest.raises(XtalrlError, match=r"no pw\.x\. Name the command in `dft\.command`"):
        find_engine(None, tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(no_pw_on_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(XtalrlError, match=r"embedded one cannot be fetched.*copy the wheel into"):
        prepare_engine(None, tmp_path)
    assert not (tmp_path / "engine" / "engine.json").exists()
    monkeypatch.setattr(engines, "machine_fits", lambda _: False)
    with pytest.raises(XtalrlError, match="x86-64"):
        prepare_engine(None, tmp_path)


def test_the_embedded_one_is_meant_by_name_whatever_is_on_path(tmp_path, monkeypatch) -> None:
    pw = tmp_path / "pw.x"
    pw.write_text("#!/bin/sh\necho Program PWSCF v.7.2 starts")
    pw.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert find_engine(None, tmp_path).kind == "path"
    with pytest.raises(XtalrlError, match="fetch the embedded one"):
        find_engine("embedded", tmp_path)


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("5.4.0", False), ("6.0", False), ("6.3MaX", False), ("6.4.1", False), ("6.1 (svn rev. 13369)", False),
        ("6.5", True), ("6.7MaX", True), ("7.2", True), ("7.10", True), ("10.0", True), ("GIT-7a", True), ("0.0", True),
    ],
)  # fmt: skip
def test_an_old_pw_is_refused_by_name(tmp_path: Path, version: str, fits: bool) -> None:
    command, _ = fake_pw(tmp_path)
    script = Path(command)
    script.write_text(script.read_text().replace("v.7.2", f"v.{version}"))
    if fits:
        assert find_engine(command, tmp_path).version == version
    else:
        with pytest.raises(
            XtalrlError,
            match=rf"pw\.x -in pw\.in` is pw\.x {version.split()[0]}; xtalrl needs 6\.5 or later.*newer one",
        ):
            find_engine(command, tmp_path)


# Each writes down how it was called, and becomes what stands after its own options, as the real ones do.
_LAUNCHERS = {
    "srun": 'echo "srun $*" >> "$CALLS"; shift 3; exec "$@"',
    "mpirun": 'echo "mpirun $*" >> "$CALLS"; shift 2; exec "$@"',
    "apptainer": 'echo "apptainer $*" >> "$CALLS"; shift 2; exec "$@"',
    "docker-like": 'echo "docker-like $*" >> "$CALLS"; shift 1; exec env -i PATH="$PATH" "$@"',
}


@pytest.mark.parametrize(
    ("command", "calls"),
    [
        ("srun --overlap -n 1 pw.x", "srun --overlap -n 1 pw.x -in pw.in"),
        ("mpirun -n 1 pw.x", "mpirun -n 1 pw.x -in pw.in"),
        ("mpirun -n 1 pw.x -nk 1", "mpirun -n 1 pw.x -nk 1 -in pw.in"),
        ("apptainer exec qe.sif pw.x", "apptainer exec qe.sif pw.x -in pw.in"),
        ("docker-like image pw.x", "docker-like image pw.x -in pw.in"),
        ("pw.x", ""),
        ("bash -c 'module() { PATH=$PATH:$1; }; module load; exec pw.x'", ""),
    ],
)
def test_the_forms_of_a_command(tmp_path, monkeypatch, command: str, calls: str) -> None:
    """Launchers and containers become pw.x in the folder of the run, with its input on stdin and after `-in`."""
    fake_pw(tmp_path)
    for name, text in _LAUNCHERS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("SLURM_JOB_ID", "1")  # Outside a job srun is not tried.
    engine = find_engine(command, tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "Si.upf").touch()
    run = engine.run("nat = 2\nATOMIC_SPECIES\nSi 28.0 Si.upf\n", scratch, 60)
    assert classify(run).outcome is Outcome.CONVERGED, run
    assert classify(run).total_energy_ry == -20.0
    if calls:
        assert (tmp_path / "calls").read_text().splitlines() == [calls, calls]  # the look for a version, and the run
    assert run.xml == scratch / "out/pw.save/data-file-schema.xml"


@pytest.mark.parametrize("command", ["{}", "env A=1 {}", "mpirun {}", "srun -n 1 {}"])
def test_the_environment_of_a_run(tmp_path, monkeypatch, command: str) -> None:
    """One core each; no trace of the job step around us, unless a launcher needs it."""
    for name in ("pw.x", "mpirun", "srun"):
        (tmp_path / name).write_text('#!/bin/sh\necho "     Program PWSCF v.6.7 starts"\nenv\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("SLURM_STEP_ID", "PMI_RANK", "PMIX_NAMESPACE"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "64")
    engine = find_engine(command.format(tmp_path / "pw.x"), tmp_path)
    run = engine.run("", tmp_path, 10)
    seen = set(run.stdout.splitlines())
    assert {"OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1", "OMPI_ALLOW_RUN_AS_ROOT=1"} <= seen
    assert {"OMPI_MCA_hwloc_base_binding_policy=none", "I_MPI_PIN=0"} <= seen
    # Freed memory stays with pw.x, unless whoever started us has said how malloc is to behave.
    assert {"MALLOC_MMAP_MAX_=64", f"MALLOC_TRIM_THRESHOLD_={2**30}"} <= seen
    assert "GFORTRAN_UNBUFFERED_PRECONNECTED=y" in seen
    step = {"SLURM_STEP_ID=7", "PMI_RANK=7", "PMIX_NAMESPACE=7"}
    launched = command.startswith(("mpirun", "srun"))
    assert seen & step == (step if launched else set())
    assert ("OMPI_MCA_ess_singleton_isolated=1" in seen) != launched
    assert run.exit_code == 0
    assert classify(run).outcome is Outcome.OUTPUT_LOST


def test_a_launcher_that_is_a_script_leaves_nothing_behind_when_its_job_is_killed(tmp_path) -> None:
    """It does not say `exec`, so that pw.x is a child of its own, which the kernel does not end with it."""
    command, log = fake_pw(tmp_path)
    script = tmp_path / "launch.sh"
    script.write_text(f'#!/bin/sh\n{command} "$@"\necho over\n')
    script.chmod(0o755)
    code = (
        "from xtalrl.dft.engines import Engine; "
        f"Engine('command', ({str(script)!r},)).run('nat = 1\\nATOMIC_SPECIES\\nHe 4.0 pw.in\\n', {str(tmp_path)!r}, 600)"
    )
    job = subprocess.Popen([sys.executable, "-c", code])
    pids = fake_pids(log)
    job.kill()
    job.wait()
    assert not any(is_alive(pid, patience_s=8) for pid in pids)


@pytest.mark.parametrize(
    ("ending", "code"),
    [("exit 7", 7), ("kill -9 $$", -9), ("kill -TERM $$", -15), ("kill -SEGV $$", -11), ("exit 137", 137)],
)
def test_a_run_ends_as_its_command_has_ended(tmp_path, ending: str, code: int) -> None:
    script = tmp_path / "launch.sh"
    script.write_text(f"#!/bin/sh\n{ending}\n")
    script.chmod(0o755)
    assert Engine("command", (str(script),)).run("", tmp_path, 10).exit_code == code


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are those of glibc's malloc")
def test_freed_memory_is_kept(tmp_path) -> None:
    """An array that is allocated and freed again and again, as pw.x does in each iteration, costs page faults only the first time."""
    lines = (
        "import ctypes, resource",
        "libc = ctypes.CDLL(None)",
        "libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)",
        "for _ in range(20):",
        "    array = libc.malloc(ctypes.c_size_t(48 * 2**20))",  # the augmentation charges of SrTiO3
        "    ctypes.memset(array, 1, 48 * 2**20)",
        "    libc.free(array)",
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)",
    )
    (tmp_path / "churn.py").write_text("\n".join(lines))
    (tmp_path / "empty").mkdir()
    run = Engine("command", (sys.executable, "-I", "-S", str(tmp_path / "churn.py"))).run("", tmp_path / "empty", 60)
    assert int(run.stdout) < 2 * 48 * 2**20 / resource.getpagesize(), run.stderr


def fetched_cache() -> Path | None:
    return next(
        (path.parents[4] for path in (PROJECT / "results").glob("**/engine/qepy-*/qepy/qepylibs/libqepy_pw.so")), None
    )


needs_embedded = pytest.mark.skipif(
    fetched_cache() is None, reason="the embedded pw.x is not fetched (`snakemake …/engine/engine.json`)"
)


def _extract(folder: Path, file: str) -> None:
    with tarfile.open(SHARED / "sssp" / "SSSP_1.3.0_PBE_efficiency.tar.gz") as archive:
        source = archive.extractfile(f"./{file}")
        assert source is not None
        with open(folder / file, "wb") as target:
            shutil.copyfileobj(source, target)


@needs_shared
@needs_embedded
def test_the_embedded_pw_agrees_with_a_system_pw(tmp_path, no_pw_on_path) -> None:
    cache = fetched_cache()
    assert cache is not None
    case = SHARED / "pw_failures" / "32_stdin_input"
    text = re.sub(r"pseudo_dir = '[^']*'", "pseudo_dir = './'", (case / "pw.in").read_text())
    _extract(tmp_path, sssp().elements["Si"].file)
    engine = find_engine(None, cache)
    assert engine.kind == "embedded"
    ours = classify(engine.run(text, tmp_path, 120))
    system = classify(Run((case / "pw.out").read_text(), "", 0, xml=case / "data-file-schema.xml"))
    assert ours.outcome is Outcome.CONVERGED
    assert ours.total_energy_ry == pytest.approx(system.total_energy_ry, abs=1e-7)
    assert ours.band_gap_raw_ev == pytest.approx(system.band_gap_raw_ev, abs=1e-4)


@needs_shared
@pytest.mark.skipif(shutil.which("pw.x") is None, reason="there is no pw.x on PATH")
def test_what_an_eigensolver_says_before_it_aborts_is_not_lost(tmp_path) -> None:
    """With MPI it ends in MPI_Abort without a flush, and the exit code is its error number: 134 would look like SIGABRT (Debian's pw.x 6.7)."""
    _extract(tmp_path, sssp().elements["C"].file)
    diamond = Cell(("C", "C"), tuple(0.6569 * x for x in SILICON.lattice), SILICON.frac_coords)
    settings = replace(settings_for(diamond, "crystal", load_protocol("paper"), sssp()), nbnd=88)
    result = classify(find_engine("pw.x", tmp_path).run(render(diamond, settings, sssp()), tmp_path, 120))
    assert (result.outcome, result.detail) == (
        Outcome.DIAGONALIZATION_FAILED,
        "cdiaghg: S matrix not positive definite",
    )


@needs_shared
@needs_embedded
@pytest.mark.slow
def test_a_run_that_ran_out_of_time_goes_on_where_it_was(tmp_path, no_pw_on_path) -> None:
    cache = fetched_cache()
    assert cache is not None
    _extract(tmp_path, sssp().elements["Si"].file)
    engine, settings = find_engine(None, cache), settings_for(SILICON, "crystal", load_protocol("paper"), sssp())
    first = classify(engine.run(render(SILICON, settings, sssp(), max_seconds=4), tmp_path, 300))
    assert first.outcome is Outcome.TIME_LIMIT
    second = engine.run(render(SILICON, settings, sssp(), restart=True), tmp_path, 300)
    shutil.rmtree(tmp_path / "out")
    whole = engine.run(render(SILICON, settings, sssp()), tmp_path, 300)
    assert classify(second).total_energy_ry == pytest.approx(classify(whole).total_energy_ry, abs=2e-6)
    assert second.stdout.count("estimated scf accuracy") <= whole.stdout.count("estimated scf accuracy")
