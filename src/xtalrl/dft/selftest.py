"""Silicon in two seconds: whether a pw.x gives the right energy, and how fast it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from xtalrl.cells import Cell
from xtalrl.dft.engines import Engine
from xtalrl.dft.inputs import Settings, render
from xtalrl.dft.outcomes import Result, classify, taken
from xtalrl.dft.pseudopotentials import load_family
from xtalrl.dft.scratch import scratch_folder

_A = 2.715
SILICON = Cell(("Si", "Si"), (0, _A, _A, _A, 0, _A, _A, _A, 0), (0, 0, 0, 0.25, 0.25, 0.25))
SETTINGS = Settings(
    ecutwfc_ry=36,
    ecutrho_ry=144,
    kpoints=(3, 3, 3),
    nbnd=20,
    conv_thr_ry=1e-9,
    electron_maxstep=100,
    mixing_beta=0.7,
    diagonalization="david",
)
KNOWN: dict[str, tuple[float, float]] = {
    "02fab3f35e82123ef5bf1cb05d5b1a5e": (-16.87930108, 1.3),  # PseudoDojo 0.4, PBE, scalar-relativistic, standard
    "0b0bb1205258b0d07b9f9672cf965d36": (-22.79424057, 2.0),  # SSSP 1.3.0 efficiency
}
"""Known answers by md5 of the pseudopotential: the energy in Ry of this input, and the CPU seconds of the embedded pw.x with OpenBLAS where this was
written. With its reference BLAS they were 1.5 and 2.3 s, and the energies the same to all eight digits."""
TOLERANCE_RY = 1e-6
TIMEOUT_S = 120.0
_CPU = re.compile(r"PWSCF\s+:\s+(?:(\d+)m)?\s*([\d.]+)s CPU")


@dataclass(frozen=True)
class SelfTest:
    """What the silicon run gave."""

    result: Result
    wall_s: float
    cpu_s: float | None
    """CPU time as pw.x prints it."""
    known: tuple[float, float] | None
    """Entry of `KNOWN`, if the pseudopotential is one of those."""

    @property
    def fault(self) -> str | None:
        """A sentence on what is wrong with this pw.x; None if nothing is."""
        energy = self.result.total_energy_ry
        if not self.result.outcome.usable or energy is None:
            return f"the SCF of silicon ends as {self.result.outcome} ({self.result.detail or self.result.outcome.sentence})"
        if self.known is not None and abs(energy - self.known[0]) > TOLERANCE_RY:
            return f"silicon has {energy:.8f} Ry instead of {self.known[0]:.8f} Ry: this pw.x computes something else"
        return None

    def __str__(self) -> str:
        """How fast it was, compared with the known time."""
        seconds = f"{self.wall_s:.1f} s" if self.cpu_s is None else f"{self.cpu_s:.1f} s of CPU"
        if self.known is None:
            return f"silicon in {seconds}"
        return f"silicon in {seconds} ({self.known[1]} s with OpenBLAS where this was written), its energy is right"


def compute_silicon(engine: Engine, family: str | Path, accept_not_saved: bool = False) -> SelfTest:
    """Run the silicon input with the pseudopotential of a fetched family (its `family.json`)."""
    described, folder = load_family(family)
    silicon = described.elements["Si"]
    with scratch_folder() as scratch:
        (scratch / silicon.file).write_bytes((folder / silicon.file).read_bytes())
        run = engine.run(render(SILICON, SETTINGS, described), scratch, TIMEOUT_S)
        result = taken(classify(run), accept_not_saved)
    cpu = _CPU.search(run.stdout)
    return SelfTest(
        result,
        run.wall_s,
        None if cpu is None else 60 * int(cpu[1] or 0) + float(cpu[2]),
        KNOWN.get(silicon.md5),
    )
