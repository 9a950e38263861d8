"""How an SCF ended: one named outcome for every run of pw.x, and what could be read from it.

`classify` looks at the exit code, stdout and stderr together, because none of them is enough: pw.x 6.7 exits with 0 after a
late disk failure, prints `JOB DONE.` without having converged, and says nothing at all when it is killed.
"""

from __future__ import annotations

import enum
import gzip
import re
import signal
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HARTREE_EV = 27.211386245988
"""CODATA 2018; pw.x writes its XML in Hartree and its stdout in eV."""


class Category(enum.StrEnum):
    """Whom an outcome speaks about."""

    SUCCESS = "success"
    """The energy can be used."""
    PHYSICS = "physics"
    """The crystal and the method do not agree; the same run would end in the same way."""
    INPUT = "input"
    """What was asked for cannot be computed as it was asked."""
    ENVIRONMENT = "environment"
    """The machine failed, not the SCF: never kept as a result."""


class Outcome(enum.StrEnum):
    """The name of an outcome, its category and one sentence on it."""

    category: Category
    sentence: str

    def __new__(cls, name: str, category: Category = Category.PHYSICS, sentence: str = "") -> Outcome:
        """Make a member; its value is the name that tables show. (The defaults let type checkers accept a look-up by name.)"""
        member = str.__new__(cls, name)
        member._value_ = name
        member.category = category
        member.sentence = sentence
        return member

    CONVERGED = "converged", Category.SUCCESS, "The SCF converged and everything was written."
    CONVERGED_NOT_SAVED = (
        "converged_not_saved",
        Category.SUCCESS,
        "The SCF converged, then pw.x failed while saving; the printed energy and levels are complete and were taken.",
    )

    ODD_ELECTRONS = (
        "odd_electrons",
        Category.PHYSICS,
        "An odd number of electrons, and the total magnetization is not known.",
    )
    CHARGE_WRONG = (
        "charge_wrong",
        Category.PHYSICS,
        "Fixed occupations do not fit: the charge is wrong, smearing is needed.",
    )
    NOT_CONVERGED = "not_converged", Category.PHYSICS, "The SCF did not converge in the allowed number of iterations."
    TIME_LIMIT = "time_limit", Category.PHYSICS, "The SCF did not end within the time limit."
    ATOMS_OVERLAP = "atoms_overlap", Category.PHYSICS, "Two atoms sit on the same place."
    DIAGONALIZATION_FAILED = (
        "diagonalization_failed",
        Category.PHYSICS,
        "The Kohn-Sham Hamiltonian could not be diagonalized.",
    )
    STOPPED = "stopped", Category.PHYSICS, "pw.x stopped with an error that has no name here; the detail quotes it."

    TOO_FEW_BANDS = "too_few_bands", Category.INPUT, "Fewer bands were asked for than the electrons fill."
    MORE_BANDS_THAN_PLANE_WAVES = (
        "more_bands_than_plane_waves",
        Category.INPUT,
        "More bands were asked for than the basis has plane waves.",
    )
    MAGNETIZATION_MISSING = (
        "magnetization_missing",
        Category.INPUT,
        "nspin 2 with fixed occupations needs tot_magnetization.",
    )
    INVALID_CELL = "invalid_cell", Category.INPUT, "The lattice vectors do not span a volume."
    INVALID_INPUT = "invalid_input", Category.INPUT, "pw.x could not read its input."
    NO_PSEUDOPOTENTIAL = (
        "no_pseudopotential",
        Category.INPUT,
        "The family has no pseudopotential for one of the elements.",
    )

    PSEUDOPOTENTIAL_NOT_FOUND = (
        "pseudopotential_not_found",
        Category.ENVIRONMENT,
        "A pseudopotential file was not found.",
    )
    PSEUDOPOTENTIAL_UNREADABLE = (
        "pseudopotential_unreadable",
        Category.ENVIRONMENT,
        "A pseudopotential file is damaged.",
    )
    INPUT_NOT_FOUND = "input_not_found", Category.ENVIRONMENT, "pw.x did not find the input file."
    SCRATCH_UNUSABLE = (
        "scratch_unusable",
        Category.ENVIRONMENT,
        "The scratch folder could not be made, or what was written to it could not be read.",
    )
    DISK_FULL = "disk_full", Category.ENVIRONMENT, "The disk of the scratch folder is full."
    OUT_OF_MEMORY = "out_of_memory", Category.ENVIRONMENT, "There was not enough memory."
    KILLED = "killed", Category.ENVIRONMENT, "pw.x was killed by a signal."
    MPI_FAILED = "mpi_failed", Category.ENVIRONMENT, "The parallel launcher failed; check the command that runs pw.x."
    ENGINE_FAILED = "engine_failed", Category.ENVIRONMENT, "The command that runs pw.x did not start it."
    OUTPUT_LOST = "output_lost", Category.ENVIRONMENT, "pw.x ended well, but its output did not arrive."
    NOT_SAVED = (
        "not_saved",
        Category.ENVIRONMENT,
        "As converged_not_saved, but `dft.accept_not_saved` is off: what was printed is not taken.",
    )

    @property
    def usable(self) -> bool:
        """Whether the energy can be used."""
        return self.category is Category.SUCCESS


@dataclass(frozen=True)
class Run:
    """What one run of pw.x left behind."""

    stdout: str
    stderr: str
    exit_code: int | None
    """Exit status; negative for a signal; None when not known (a file found somewhere)."""
    wall_s: float = 0.0
    timed_out: bool = False
    """The run was ended by us at its time limit."""
    xml: Path | None = None
    """`data-file-schema.xml`, if it was written."""


@dataclass(frozen=True)
class Result:
    """An outcome with everything that could be read; what could not is None."""

    outcome: Outcome
    detail: str = ""
    total_energy_ry: float | None = None
    """Of the cell."""
    band_gap_raw_ev: float | None = None
    """Lowest empty minus highest filled level over k and spin; negative where they overlap, None with smearing where bands are partly filled."""
    total_magnetization: float | None = None
    """µB per cell, of a spin-polarised run."""
    smearing: bool = False

    @property
    def is_metallic(self) -> bool | None:
        """Whether filled and empty bands overlap, or a smeared run shows no gap; None where that is not known."""
        if not self.outcome.usable:
            return None
        if self.band_gap_raw_ev is None:
            return True if self.smearing else None
        return self.band_gap_raw_ev < 0


def clip_gap(gap_ev: float | None) -> float | None:
    """The gap a crystal is credited with: a negative one (overlapping bands) counts as 0."""
    return None if gap_ev is None else max(gap_ev, 0.0)


_FLOAT = r"([-+]?\d+\.\d*(?:[EeDd][-+]?\d+)?)"
"""A number as Fortran writes it, with E or D before the exponent."""
_ENERGY = re.compile(rf"^!\s+total energy\s+=\s*{_FLOAT}\s+Ry", re.M)
_LEVELS = re.compile(rf"highest occupied, lowest unoccupied level \(ev\):\s*{_FLOAT}\s*{_FLOAT}")
_HIGHEST_ONLY = "highest occupied level (ev):"
_FERMI = re.compile(r"the (?:spin up/dw )?Fermi energ(?:y is|ies are)")
_FERMI_LEVEL = re.compile(r"the Fermi energy is\s+(-?\d+\.\d+)\s+ev", re.I)
_WIDTH = re.compile(r"(?:broad|smearing, width|degauss).*\(Ry\)\s*=\s*(\d+\.\d+)")
_LEVELS_OF_K = re.compile(r"SPIN (UP|DOWN)|bands \(ev\):\s*\n\s*\n((?:[ \t]+[-\d. ]+\n)+)")
_SCF_ENDS = "End of self-consistent calculation"
_MAGNETIZATION = re.compile(rf"total magnetization\s+=\s*{_FLOAT}\s+Bohr")
_SPIN_POLARISED = ("Starting magnetic structure", "lsda need tot_magnetization", "too few spin ")
_SCF_BEGINS = "Self-consistent Calculation"
_CONVERGED = "convergence has been achieved in"
_ITERATION = re.compile(r"^ +iteration # *(\d+)", re.M)
_NOT_CONVERGED = "convergence NOT achieved after"
_ERROR = re.compile(r"Error in routine\s+(\S.*?) \(\s*(-?\d+)\):\s*\n\s*(.*?)\s*\n")

_CPU_TIME_EXCEEDED = "Maximum CPU time exceeded"
_STOP_REQUESTED = "Program stopped by user request"
_TIMEOUT_EXIT_CODE = 124
"""Of timeout(1), should the configured command use it."""

# Text in the box pw.x prints its errors in → outcome. The first that fits wins.
_ERRORS: tuple[tuple[re.Pattern[str], Outcome], ...] = tuple(
    (re.compile(pattern), outcome)
    for pattern, outcome in (
        # More processes than the cell can be divided among. First: `Too few bands for …` is not `too few bands`.
        (r"no planes|some nodes have no k-points|(?i:too few bands for)|^check_para_diag|^n_plane_waves", Outcome.MPI_FAILED),
        (r"charge is wrong", Outcome.CHARGE_WRONG),
        (r"too few (spin (up|dw) )?bands", Outcome.TOO_FEW_BANDS),
        (r"more bands than PWs", Outcome.MORE_BANDS_THAN_PLANE_WAVES),
        (r"fixed occupations and lsda need tot_magnetization", Outcome.MAGNETIZATION_MISSING),
        (r"atoms #.* overlap!", Outcome.ATOMS_OVERLAP),
        (r"^inlocalhostat|^recips|^latgen|^volume|wrong volume|^cell_base|^invmat", Outcome.INVALID_CELL),
        (r"^readpp.*not found", Outcome.PSEUDOPOTENTIAL_NOT_FOUND),
        (r"^(readpp|read_pseudo|upf|read_upf)", Outcome.PSEUDOPOTENTIAL_UNREADABLE),
        (r"opening input file", Outcome.INPUT_NOT_FOUND),
        (r"^check_tempdir|^(davcio|read_rhog|read_wfc|read_collected_wfc): error reading", Outcome.SCRATCH_UNUSABLE),
        (r"^(write_rhog|davcio|diropn|pw_restart|write_collected_wfc|write_wfc|buffers|qexsd)|error writing", Outcome.DISK_FULL),
        (r"cannot allocate|error allocating", Outcome.OUT_OF_MEMORY),
        (r"^mp_start|^mp_init|number of pools", Outcome.MPI_FAILED),
        (r"cholesky|S matrix not positive|eigenvectors failed|too many bands are not converged|"
         r"^(cdiaghg|rdiaghg|cegterg|regterg|c_bands|diag|pcdiaghg|prdiaghg)", Outcome.DIAGONALIZATION_FAILED),
        (r"^(read_namelists|read_cards|card_|iosys|init_pos|set_occupations|read_input|read_pseudo_file|setup|find_nat)",
         Outcome.INVALID_INPUT),
    )
)  # fmt: skip

# Text on stderr where pw.x itself had no chance to say anything.
_STDERR: tuple[tuple[str, Outcome], ...] = (
    ("Cannot allocate memory", Outcome.OUT_OF_MEMORY),
    ("oom-kill", Outcome.OUT_OF_MEMORY),
    ("Out Of Memory", Outcome.OUT_OF_MEMORY),
    ("No space left on device", Outcome.DISK_FULL),
    ("Disk quota exceeded", Outcome.DISK_FULL),
    ("xmltools.f90", Outcome.PSEUDOPOTENTIAL_UNREADABLE),
    ("read_upf", Outcome.PSEUDOPOTENTIAL_UNREADABLE),
    ("not enough slots available", Outcome.MPI_FAILED),
    ("srun: error", Outcome.MPI_FAILED),
)


def classify(run: Run) -> Result:
    """Name how a run ended and read what it gives.

    A run that ended because of the machine is told from one that ended because of the crystal; see `Category`.
    """
    text = run.stdout
    energies = _ENERGY.findall(text)
    errors = _ERROR.findall(text)
    detail = f"{errors[-1][0]}: {errors[-1][2]}" if errors else ""

    if energies and _CONVERGED in text and _NOT_CONVERGED not in text:
        xml = read_xml(run.xml) if run.xml is not None else None
        # After a late disk failure pw.x 6.7 prints `JOB DONE.` and exits with 0; what it left is missing or cut off.
        done = "JOB DONE." in text and run.exit_code in (0, None)
        saved = done and (xml is not None or run.exit_code is None)
        if done and not saved:
            detail = "no XML was written" if run.xml is None else "the XML is cut off or did not converge"
        elif not saved and not detail:
            detail = "the output ends after the convergence message"
        moments = _MAGNETIZATION.findall(text)
        energy, (gap, note) = _number(energies[-1]), _band_gap(text, xml)
        if xml is not None and abs(xml.total_energy_ry - energy) > 1e-6:
            note += f"; the XML's energy {xml.total_energy_ry:.8f} Ry differs from the printed {energy:.8f} Ry"
        return Result(
            Outcome.CONVERGED if saved else Outcome.CONVERGED_NOT_SAVED,
            "; ".join(filter(None, (detail, note.removeprefix("; ")))),
            total_energy_ry=energy,
            band_gap_raw_ev=gap,
            total_magnetization=_number(moments[-1]) if moments else None,
            smearing=_FERMI.search(text) is not None,
        )
    if _NOT_CONVERGED in text:
        return Result(Outcome.NOT_CONVERGED, _line_with(text, _NOT_CONVERGED))
    timed_out = run.timed_out or run.exit_code == _TIMEOUT_EXIT_CODE
    if timed_out and "Program PWSCF" not in text and run.stderr.strip():
        # What waited was the launcher (srun: "step creation temporarily disabled"), not pw.x.
        return Result(Outcome.ENGINE_FAILED, f"pw.x did not start in time: {_last_line(run.stderr)}")
    if timed_out or _CPU_TIME_EXCEEDED in text:
        return Result(Outcome.TIME_LIMIT, f"{_iterations(text)} iterations done")
    if _STOP_REQUESTED in text:
        return Result(Outcome.KILLED, _line_with(text, _STOP_REQUESTED))
    if errors:
        routine, _, message = errors[-1]
        named = next((o for pattern, o in _ERRORS if pattern.search(f"{routine}: {message}")), Outcome.STOPPED)
        return Result(named, detail)
    for mark, outcome in _STDERR:
        if mark in run.stderr:
            return Result(outcome, _line_with(run.stderr, mark))
    if run.exit_code is not None and (number := _signal_of(run.exit_code)) is not None:
        return Result(Outcome.KILLED, f"signal {number}")
    if "Program PWSCF" not in text:
        if run.exit_code == 0:
            return Result(Outcome.OUTPUT_LOST, "pw.x ended with exit code 0 and printed nothing")
        printed = "no output of pw.x" if run.exit_code is None else f"exit code {run.exit_code}, nothing printed"
        return Result(Outcome.ENGINE_FAILED, _last_line(run.stderr) or printed)
    if run.exit_code is None:
        return Result(Outcome.KILLED, "the output ends in the middle")
    if run.exit_code == 0:
        return Result(Outcome.OUTPUT_LOST, "the output ends in the middle although the exit code is 0")
    # pw.x says in a box what it holds against a crystal. Without one, the machine ended it (a Fortran runtime error, a GPU, a file handle).
    return Result(Outcome.KILLED, _last_line(run.stderr) or f"exit code {run.exit_code} without a message of pw.x")


def _number(text: str) -> float:
    return float(text.upper().replace("D", "E"))


def _signal_of(exit_code: int) -> int | None:
    """The signal that ended a process: as Python tells it (negative), as shells, timeout(1), srun and Open MPI do (128 + signal), or as
    MPICH's Hydra does, which gives the bare number of SIGKILL.
    """
    if exit_code < 0:
        return -exit_code
    if 128 < exit_code <= 128 + 64:
        return exit_code - 128
    return signal.SIGKILL.value if exit_code == signal.SIGKILL else None


@dataclass(frozen=True)
class XmlResult:
    """What a `data-file-schema.xml` says about a converged SCF."""

    total_energy_ry: float
    band_gap_raw_ev: float | None
    """Over all k points and spins, by occupations; None without an empty band or where bands are partly filled."""


def read_xml(path: str | Path) -> XmlResult | None:
    """Energy and gap of a `data-file-schema.xml`; None where it is missing, cut off, or of an SCF that did not converge."""
    try:
        root = ElementTree.parse(path).getroot()
        if (root.findtext("output/convergence_info/scf_conv/convergence_achieved") or "").strip().lower() != "true":
            return None
        energy_ry = 2 * float(root.findtext("output/total_energy/etot") or "")
        up = int(
            root.findtext("output/band_structure/nbnd_up") or 0
        )  # Both spins of a k point stand in one list, up first.
        points: list[_Point] = []
        for point in root.iter("ks_energies"):
            levels = [float(word) * HARTREE_EV for word in (point.findtext("eigenvalues") or "").split()]
            occupations = [float(word) for word in (point.findtext("occupations") or "").split()]
            if up:
                points.append(("up", levels[:up], occupations[:up]))
            points.append(("down" if up else "", levels[up:], occupations[up:]))
        gap = _gap_by_occupations(points)
    except (ElementTree.ParseError, OSError, ValueError):  # Fortran prints a number that does not fit as asterisks.
        return None
    return XmlResult(energy_ry, gap)


_Point = tuple[str, list[float], list[float]]
"""Spin, levels (eV) and their occupations (0 to 1) at one k point."""
_PARTLY_FILLED = 0.1
"""An occupation further than this from 0 and 1 is a metal's: the level lies within about one smearing width of the Fermi energy."""


def _gap_by_occupations(points: Iterable[_Point]) -> float | None:
    """Lowest empty minus highest filled level in eV; None without an empty or a filled one, or where bands are partly filled.

    Smeared bands are partly filled where an occupation is a fraction, or where the k points of one spin do not all fill the same number.
    """
    filled: list[float] = []
    empty: list[float] = []
    counts: dict[str, set[int]] = {}
    for spin, levels, occupations in points:
        if any(_PARTLY_FILLED < occupation < 1 - _PARTLY_FILLED for occupation in occupations):
            return None
        for level, occupation in zip(levels, occupations, strict=True):
            (filled if occupation > 0.5 else empty).append(level)
        counts.setdefault(spin, set()).add(sum(occupation > 0.5 for occupation in occupations))
    if not filled or not empty or any(len(numbers) > 1 for numbers in counts.values()):
        return None
    return min(empty) - max(filled)


def _band_gap(text: str, xml: XmlResult | None) -> tuple[float | None, str]:
    """The gap in eV (negative where bands overlap) and a note where it is not known or doubtful.

    The printed levels have four decimals; the XML has them all and is preferred where both agree.
    """
    levels = _LEVELS.findall(text)
    if not levels and _FERMI.search(text):
        return _smeared_gap(text, xml)
    if not levels:
        return None, "no empty band was computed: no gap" if _HIGHEST_ONLY in text else ""
    printed = _number(levels[-1][1]) - _number(levels[-1][0])
    if xml is not None and xml.band_gap_raw_ev is not None:
        if abs(xml.band_gap_raw_ev - printed) < 1e-3:
            return xml.band_gap_raw_ev, ""
        return printed, f"the XML's gap {xml.band_gap_raw_ev:.4f} eV differs from the printed {printed:.4f} eV"
    return round(printed, 4), ""


def _smeared_gap(text: str, xml: XmlResult | None) -> tuple[float | None, str]:
    """As `_band_gap`, of a run with smearing: pw.x prints no gap, but the XML has the occupations.

    Without an XML the printed levels are compared with the Fermi energy; one within the width of the smearing counts as partly filled.
    """
    if xml is not None:
        return (
            xml.band_gap_raw_ev,
            "" if xml.band_gap_raw_ev is not None else "smeared, with partly filled bands: no gap",
        )
    fermi, width = _FERMI_LEVEL.findall(text), _WIDTH.search(text)
    points: list[_Point] = []
    spin = ""
    for named, block in _LEVELS_OF_K.findall(text.rpartition(_SCF_ENDS)[2]):
        spin = named or spin
        if block and fermi:
            levels = [float(word) for word in re.findall(r"-?\d+\.\d+", block)]
            distances = [level - float(fermi[-1]) for level in levels]
            margin = float(width[1]) * HARTREE_EV / 2 if width else 0.0
            points.append((spin, levels, [0.5 if abs(d) <= margin else float(d < 0) for d in distances]))
    if not points:
        return None, "smeared, and the levels were not printed: no gap can be read"
    gap = _gap_by_occupations(points)
    return (None, "smeared, with partly filled bands: no gap") if gap is None else (round(gap, 4), "")


def _iterations(text: str) -> int:
    """SCF iterations that were completed; a run that goes on from a saved state counts on from those before it."""
    first = _ITERATION.search(text)
    return text.count("estimated scf accuracy") + (int(first[1]) - 1 if first else 0)


def _line_with(text: str, mark: str) -> str:
    return next((line.strip() for line in text.splitlines() if mark in line), mark)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip(" -=%")]
    return lines[-1][:200] if lines else ""


def scf_parse(files: Iterable[str | Path], jobs: int = 1) -> Iterator[dict[str, Any]]:
    """Read pw.x outputs (plain or .gz), in the order given, on `jobs` processes.

    Yields:
        One dictionary a file: file, outcome, total_energy_ry, band_gap_ev (clipped), band_gap_raw_ev, nspin,
        total_magnetization, reason. A file that is missing or cannot be read has no outcome, and the reason says why.
    """
    paths = [str(path) for path in files]
    if jobs <= 1 or len(paths) < 2 * jobs:
        yield from map(_parse_file, paths)
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_parse_file, paths, chunksize=16)


_PARSED = (
    "file", "outcome", "total_energy_ry", "band_gap_ev", "band_gap_raw_ev", "nspin", "total_magnetization", "reason",
)  # fmt: skip


def _parse_file(path: str) -> dict[str, Any]:
    try:
        data = Path(path).read_bytes()
        data = gzip.decompress(data) if path.endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as error:
        return dict.fromkeys(_PARSED) | {"file": path, "reason": f"cannot be read ({error})"}
    text = data.decode(errors="replace")
    result = classify(Run(stdout=text, stderr="", exit_code=None))
    return {
        "file": path,
        "outcome": str(result.outcome),
        "total_energy_ry": result.total_energy_ry,
        "band_gap_ev": clip_gap(result.band_gap_raw_ev),
        "band_gap_raw_ev": result.band_gap_raw_ev,
        "nspin": _nspin(text),
        "total_magnetization": result.total_magnetization,
        "reason": result.detail or ("" if result.outcome.usable else result.outcome.sentence),
    }


def _nspin(text: str) -> int | None:
    """1 or 2; None where the output ends before it tells."""
    if _MAGNETIZATION.search(text) or any(mark in text for mark in _SPIN_POLARISED):
        return 2
    return 1 if _SCF_BEGINS in text or _ENERGY.search(text) else None
