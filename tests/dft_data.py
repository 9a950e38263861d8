"""What the tests of the DFT part share: silicon, the real pw.x runs in ../shared, and a stand-in for pw.x."""

from __future__ import annotations

import functools
import stat
import sys
import time
from pathlib import Path

import pytest

from xtalrl.cells import Cell
from xtalrl.dft.pseudopotentials import Family, describe_family
from xtalrl.resources import PROJECT

SHARED = PROJECT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the collection of real data (../shared) is not here")

_A = 2.7155
SILICON = Cell(("Si", "Si"), (0, _A, _A, _A, 0, _A, _A, _A, 0), (0, 0, 0, 0.25, 0.25, 0.25))
SSSP = "sssp-1.3.0-efficiency"


@functools.cache
def sssp() -> Family:
    """The family of the paper."""
    return describe_family(SSSP)


# Speaks like pw.x 7.2 as far as this project listens. What it does is told by the letters of ATOMIC_SPECIES and the cutoff:
# energy = -10 Ry per atom, odd electron counts (H) with fixed occupations and nspin 1 fail, He never ends, Ne is killed, Ar takes
# 60 iterations of 0.05 s and can be interrupted.
_FAKE_PW = """#!{python}
import hashlib, os, re, signal, sys, time
text = sys.stdin.read()
print("     Program PWSCF v.7.2 starts on today", flush=True)
def stop(routine, message, code=1):
    print(" %%%%%%\\n     Error in routine " + routine + " (1):\\n     " + message + "\\n %%%%%%\\n     stopping ...", flush=True)
    sys.exit(code)
if "ATOMIC_SPECIES" not in text:
    stop("read_namelists", "could not find namelist &control")
with open({log!r}, "a") as log:
    log.write(hashlib.sha256(text.encode()).hexdigest()[:16] + "\\n")
elements = re.findall(r"^([A-Z][a-z]?) [\\d.]+ \\S+$", text, re.M)
for file in re.findall(r"^[A-Z][a-z]? [\\d.]+ (\\S+)$", text, re.M):
    if not os.path.exists(file):
        stop("readpp", "file " + file + " not found")
nat = int(re.search(r"nat = (\\d+)", text)[1])
if "He" in elements:
    if os.fork() == 0:
        with open({log!r} + ".child", "w") as log:
            log.write(f"{{os.getppid()}} {{os.getpid()}}")
    time.sleep(600)
if "Ne" in elements:
    os.kill(os.getpid(), signal.SIGKILL)
if "Kr" in elements:
    stop("check_tempdir", "temporary directory ./out/ cannot be created or accessed")
if "Ar" in elements:
    state, limit = "out/pw.restart_scf", re.search(r"max_seconds = ([\\d.]+)", text)
    start, done = time.monotonic(), 0
    if "restart_mode = 'restart'" in text:
        with open(state) as file:
            saved = file.read()
        if not saved.isdigit():
            stop("davcio", "error reading file ./out/pw.wfc")
        done = int(saved)
    while done < 60:
        if limit and time.monotonic() - start > float(limit[1]):
            os.makedirs("out", exist_ok=True)
            with open(state, "w") as file:
                file.write(str(done))
            print("     Maximum CPU time exceeded\\n   JOB DONE.")
            sys.exit(255)
        done += 1
        with open({log!r} + ".iterations", "a") as log:
            log.write(str(done) + "\\n")
        print("     iteration #%3d\\n     estimated scf accuracy    <       0.1 Ry" % done)
        time.sleep(0.05)
time.sleep(float(os.environ.get("FAKE_PW_SLEEP", "0")))
if "H" in elements and "nspin = 2" not in text:
    stop("electrons", "charge is wrong: smearing is needed")
if ("C" in elements and "mixing_beta = 0.7" in text) or ("Xe" in elements and "occupations = 'fixed'" in text):
    print("     convergence NOT achieved after 1000 iterations: stopping\\n   JOB DONE.")
    sys.exit(2)
if "smearing" in text.replace("'smearing'", ""):
    print("     the Fermi energy is     5.0 ev")
else:
    print("     highest occupied, lowest unoccupied level (ev):     5.0000    6.2500")
print("!    total energy              =     %.8f Ry" % (-10.0 * nat))
if "FAKE_PW_UNSAVED" in os.environ:
    print("     convergence has been achieved in   4 iterations\\n   JOB DONE.")
    sys.exit()
os.makedirs("out/pw.save", exist_ok=True)
with open("out/pw.save/data-file-schema.xml", "w") as xml:
    xml.write("<x><output><convergence_info><scf_conv><convergence_achieved>true</convergence_achieved></scf_conv></convergence_info>"
              "<total_energy><etot>%.8f</etot></total_energy></output></x>" % (-5.0 * nat))
print("     convergence has been achieved in   4 iterations\\n   JOB DONE.")
"""


def fake_pw(folder: Path) -> tuple[str, Path]:
    """A command that stands in for pw.x, and the file that gets a line for each of its runs."""
    script, log = folder / "pw.x", folder / "runs.log"
    log.touch()
    script.write_text(_FAKE_PW.format(python=sys.executable, log=str(log)))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script), log


def fake_pids(log: Path) -> list[int]:
    """The stand-in that never ends and its child, once both run."""
    path = log.with_name("runs.log.child")
    for _ in range(600):
        if path.exists() and len(words := path.read_text().split()) == 2:
            return [int(word) for word in words]
        time.sleep(0.05)
    raise AssertionError("the stand-in for pw.x did not start")


def is_alive(pid: int, patience_s: float = 0.0) -> bool:
    """Whether a process is still there (and not merely unburied) after this much patience."""
    end = time.monotonic() + patience_s
    while True:
        try:
            alive = "zombie" not in Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            alive = False
        if not alive or time.monotonic() >= end:
            return alive
        time.sleep(0.05)
