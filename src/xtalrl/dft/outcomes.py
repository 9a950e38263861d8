"""How an SCF ended: one named outcome for every run of pw.x, with the values that could be read.

`classify` looks at the exit code, stdout and stderr together, because none of them is enough: pw.x 6.7 exits with 0 after a
late disk failure, prints `JOB DONE.` without having converged, and prints nothing when it is killed.
"""

from __future__ import annotations

import enum
import gzip
import math
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtalrl.dft import messages
from xtalrl.dft.levels import band_gap, clip_gap, is_smeared, number, read_xml


class Category(enum.StrEnum):
    """What an outcome is a statement about."""

    SUCCESS = "success"
    """The energy can be used."""
    PHYSICS = "physics"
    """The method fails for this crystal; the same run would end in the same way."""
    INPUT = "input"
    """The request cannot be computed as it was made."""
    ENVIRONMENT = "environment"
    """The machine failed, not the SCF, or the cause is unknown: never kept as a result."""


class Outcome(enum.StrEnum):
    """An outcome: its name, its category and one sentence that explains it."""

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
    MIXING_FAILED = "mixing_failed", Category.PHYSICS, "The mixing of the densities of earlier iterations broke down."
    SYMMETRY_FAILED = "symmetry_failed", Category.PHYSICS, "pw.x could not make sense of the symmetry of the crystal."

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
    BANDS_DONE = (
        "bands_done",
        Category.INPUT,
        "Not an SCF: bands of a given density (nscf, bands), computed to the end; they have no energy.",
    )
    INVALID_CELL = "invalid_cell", Category.INPUT, "The lattice vectors do not span a volume, or a very odd one."
    INVALID_INPUT = (
        "invalid_input",
        Category.INPUT,
        "pw.x could not read its input, or this pw.x cannot do what it asks; another may, so this is not kept.",
    )
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
    INPUT_NOT_FOUND = "input_not_found", Category.ENVIRONMENT, "pw.x did not get its input."
    SCRATCH_UNUSABLE = (
        "scratch_unusable",
        Category.ENVIRONMENT,
        "The scratch folder could not be made, or what was written to it could not be read.",
    )
    DISK_FULL = "disk_full", Category.ENVIRONMENT, "The disk of the scratch folder is full."
    OUT_OF_MEMORY = "out_of_memory", Category.ENVIRONMENT, "There was not enough memory."
    KILLED = "killed", Category.ENVIRONMENT, "The machine ended pw.x: a signal, an accelerator, the network, a library."
    MPI_FAILED = (
        "mpi_failed",
        Category.ENVIRONMENT,
        "The parallel launcher failed, or the cell cannot be divided among so many processes.",
    )
    ENGINE_FAILED = "engine_failed", Category.ENVIRONMENT, "The command that runs pw.x did not start it."
    NO_ENERGY = (
        "no_energy",
        Category.ENVIRONMENT,
        "The SCF converged, but the energy that pw.x printed is not a number (NaN, asterisks).",
    )
    OUTPUT_LOST = "output_lost", Category.ENVIRONMENT, "pw.x ended well, but its output did not arrive."
    NOT_SAVED = (
        "not_saved",
        Category.ENVIRONMENT,
        "As converged_not_saved, but `dft.accept_not_saved` is off: what was printed is not taken.",
    )

    STOPPED = (
        "stopped",
        Category.ENVIRONMENT,
        "pw.x stopped with an error that has no name here; the detail quotes it. It need not be the crystal's fault.",
    )

    @property
    def usable(self) -> bool:
        """Whether the energy can be used."""
        return self.category is Category.SUCCESS

    @property
    def is_kept(self) -> bool:
        """Whether the outcome is a final answer to its calculation. Input that pw.x could not read is none: that depends on version and command, too."""
        return self.category is not Category.ENVIRONMENT and self is not Outcome.INVALID_INPUT


@dataclass(frozen=True)
class Run:
    """The output and files of one run of pw.x."""

    stdout: str
    stderr: str
    exit_code: int | None
    """Exit code; negative for a signal; None if unknown (an output without its run)."""
    wall_s: float = 0.0
    timed_out: bool = False
    """Whether we ended the run at its time limit."""
    xml: Path | None = None
    """`data-file-schema.xml`, if it was written."""
    crash: str = ""
    """Content of the file CRASH, if it was written: the errors of pw.x, even if its stdout was lost."""


@dataclass(frozen=True)
class Result:
    """An outcome with all values that could be read; the others are None."""

    outcome: Outcome
    detail: str = ""
    total_energy_ry: float | None = None
    """Total energy of the cell."""
    band_gap_raw_ev: float | None = None
    """Lowest empty minus highest filled level over all k points and spins; negative if bands overlap, None with smearing if bands are partly filled."""
    total_magnetization: float | None = None
    """Total magnetization of a spin-polarised run in µB per cell; the length of the vector for a noncollinear one."""
    smearing: bool = False
    iterations: int | None = None
    """Number of SCF iterations that a run had completed when it was cut off; None for all other runs."""

    @property
    def is_metallic(self) -> bool | None:
        """Whether filled and empty bands overlap, or a run with smearing shows no gap; None if unknown."""
        if not self.outcome.usable:
            return None
        if self.band_gap_raw_ev is None:
            return True if self.smearing else None
        return self.band_gap_raw_ev < 0


_LABEL = re.compile(r"^ *(?:\d+: ?|\[(?:(?:[\w.-]+@)?\w+,)?\d+\](?:<\w+>)?:? ?)", re.M)
"""Labels that a launcher puts before each line on request: `srun -l`, `mpirun --tag-output` (4: `[1,0]<stdout>:`, 5: `[prterun-host-12@1,0]<stdout>: ` or
`[job1,0]<stdout>: `), `mpiexec.hydra -prepend-rank`."""
_ENERGY = re.compile(r"^!\s+total energy\s+=\s*(\S+?)\s*Ry", re.M)
_HYBRID_ENERGY = re.compile(r"^!!\s+total energy\s+=\s*(\S+?)\s*Ry", re.M)
_EXX_FRACTION = re.compile(r"EXX-fraction\s+=\s+(\d*\.\d+)")
_EXX_STOPPED = "Calculation (EXX) stopped after iteration"
_MAGNETIZATION = re.compile(r"total magnetization\s+=\s*(.*?)\s*Bohr")
_NONCOLLINEAR = ("Noncollinear calculation", "Non magnetic calculation with spin-orbit")
_SPIN_POLARISED = ("Starting magnetic structure", "lsda need tot_magnetization", "too few spin ")
_HEADLINES = ("Self-consistent Calculation", "Band Structure Calculation")
_BANDS_END = "End of band structure calculation"
_CONVERGED = "convergence has been achieved in"
_ITERATION = re.compile(r"^ +iteration # *(\d+)", re.M)
_NOT_CONVERGED = "convergence NOT achieved after"
_HEADER = "Program PWSCF"
_CPU_TIME_EXCEEDED = "Maximum CPU time exceeded"
_STOP_REQUESTED = "Program stopped by user request"
_STEPS_ENDED = "The maximum number of steps has been reached"
_ABORTED = re.compile(r"\bMPI_ABORT was invoked|called MPI_Abort\(")
"""What Open MPI and MPICH say of a process that ends all of them by itself."""
_TIMEOUT_EXIT_CODE = 124
"""Exit code of timeout(1), should the configured command use it."""
_MAKES_WAIT = frozenset((Outcome.OUT_OF_MEMORY, Outcome.DISK_FULL))
"""Failures after which the other processes of a run wait until its time is over. (Launchers complain about the end by the time limit itself, too.)"""
_TAIL_LINES = 40
"""Lines at the end of stdout in which a launcher or library may complain (`dft.command` may send stderr there)."""
_DETAIL = 300
"""Characters of stderr in a detail."""
_NO_OUTPUT = "no output of pw.x"


def classify(run: Run) -> Result:
    """Name how a run ended, and read its values.

    A run that the machine ended is distinguished from one that failed because of the crystal (`Category`). The detail of the
    former ends with what was written to stderr.
    """
    output = _last_run(run.stdout)
    scf, number_of_scf = _last_calculation(output)
    # A relaxation makes many SCFs, and a hybrid functional refines its exchange from SCF to SCF: say how far the run came.
    where = f" of SCF {number_of_scf} of the run" if number_of_scf > 1 else ""
    result = _completed(run, output, scf) or _failed(run, output, scf, where)
    noise = _excerpt([line for line in _lines(run.stderr) if line not in result.detail])
    if result.outcome.category is Category.ENVIRONMENT and noise:
        return replace(result, detail="; ".join(filter(None, (result.detail, f"stderr: {noise}"))))
    return result


def taken(result: Result, accept_not_saved: bool) -> Result:
    """The result that counts for a run: one that was not saved is used only if that is accepted (`dft.accept_not_saved`)."""
    if result.outcome is Outcome.CONVERGED_NOT_SAVED and not accept_not_saved:
        return replace(result, outcome=Outcome.NOT_SAVED)
    return result


def _completed(run: Run, output: str, scf: str) -> Result | None:
    """The result of an SCF that converged or of a complete band structure; None if there is neither."""
    energies = (_HYBRID_ENERGY if _is_hybrid(output) else _ENERGY).findall(scf)
    done = "JOB DONE." in output
    if energies and _CONVERGED in scf and _NOT_CONVERGED not in scf:
        energy = number(energies[-1])
        if not math.isfinite(energy):
            return Result(Outcome.NO_ENERGY, f"the energy is printed as {energies[-1]}")
        errors = messages.boxes(output)
        detail = str(errors[-1]) if errors else ""
        xml = read_xml(run.xml) if run.xml is not None else None
        # After a late disk failure pw.x 6.7 prints `JOB DONE.` and exits with 0; what it left is missing or cut off.
        done = done and run.exit_code in (0, None)
        saved = done and (xml is not None or run.exit_code is None)
        if done and not saved:
            detail = "no XML was written" if run.xml is None else "the XML is cut off or did not converge"
        elif not saved and not detail:
            detail = "the output ends after the convergence message"
        gap, note = band_gap(output, scf, xml)
        notes = [detail, note, *(_line_with(scf, mark) for mark in (_STEPS_ENDED, _CPU_TIME_EXCEEDED) if mark in scf)]
        if xml is not None and abs(xml.total_energy_ry - energy) > 1e-6:
            notes.append(f"the XML's energy {xml.total_energy_ry:.8f} Ry differs from the printed {energy:.8f} Ry")
        return Result(
            Outcome.CONVERGED if saved else Outcome.CONVERGED_NOT_SAVED,
            "; ".join(filter(None, notes)),
            total_energy_ry=energy,
            band_gap_raw_ev=gap,
            total_magnetization=_magnetization(scf),
            smearing=is_smeared(scf),
        )
    if _BANDS_END in scf and done:
        gap, note = band_gap(output, scf, None)
        return Result(Outcome.BANDS_DONE, note, band_gap_raw_ev=gap, smearing=is_smeared(scf))
    return None


def _failed(run: Run, output: str, scf: str, where: str) -> Result:
    """The result of a failure. pw.x prints its errors in a box; without a box, the machine ended the run."""
    if _NOT_CONVERGED in scf:
        return Result(Outcome.NOT_CONVERGED, _line_with(scf, _NOT_CONVERGED) + where)
    timed_out = run.timed_out or run.exit_code == _TIMEOUT_EXIT_CODE
    began = _HEADER in output or (run.exit_code is None and not timed_out)  # A file found somewhere may lack its head.
    left = messages.crash(run.crash)
    if errors := messages.boxes(f"{output}\n{run.stderr}\n") + left:
        named = _name(errors)
        if began or left or named.outcome.category is Category.ENVIRONMENT:
            return named
        return Result(Outcome.ENGINE_FAILED, f"{_NO_OUTPUT}, but {named.detail}")
    noise = messages.name_noise("\n".join((run.stderr, *output.splitlines()[-_TAIL_LINES:])))
    if timed_out and not (noise and noise[0] in _MAKES_WAIT):
        return _cut_off(scf, where) if began else _never_began(run, output)
    if _CPU_TIME_EXCEEDED in output:
        return _cut_off(scf, where)
    if _STOP_REQUESTED in output:
        return Result(Outcome.KILLED, _line_with(output, _STOP_REQUESTED))
    if _EXX_STOPPED in scf:
        return Result(Outcome.NOT_CONVERGED, f"{_line_with(scf, _EXX_STOPPED)}, and the exchange has not converged")
    if noise:
        return Result(Outcome(noise[0]), noise[1][:_DETAIL])
    return _ended_without_a_word(run, output, where)


def _never_began(run: Run, output: str) -> Result:
    """The result of a run whose time was over before pw.x printed its first line."""
    if words := _last_line(run.stderr) or _last_line(output):
        # What waited was the launcher (srun: "step creation temporarily disabled"), not pw.x.
        return Result(Outcome.ENGINE_FAILED, f"pw.x did not start in time: {words}")
    return Result(Outcome.KILLED, "nothing was printed within the time limit")


def _ended_without_a_word(run: Run, output: str, where: str) -> Result:
    """The result of a run that ended without any explanation: the exit code and the missing parts of the output decide."""
    if _HEADER in output and _ABORTED.search(run.stderr):
        # The code is then pw.x's own, whatever signal it looks like.
        return Result(Outcome.KILLED, f"pw.x gave up with exit code {run.exit_code}, and its message is lost")
    if run.exit_code is not None and (sent := _signal_of(run.exit_code)) is not None:
        return Result(Outcome.KILLED, f"signal {sent}")
    if _HEADER not in output:
        if run.exit_code == 0:
            return Result(Outcome.OUTPUT_LOST, "pw.x ended with exit code 0 and printed nothing")
        printed = _NO_OUTPUT if run.exit_code is None else f"exit code {run.exit_code}, nothing printed"
        return Result(Outcome.ENGINE_FAILED, _last_line(run.stderr) or printed)
    if run.exit_code is None:
        if "JOB DONE." in output:
            return Result(Outcome.OUTPUT_LOST, "JOB DONE, but neither a converged SCF nor complete bands were printed")
        return Result(Outcome.KILLED, f"the output ends in the middle{where}")
    if run.exit_code == 0:
        return Result(Outcome.OUTPUT_LOST, "the output ends in the middle although the exit code is 0")
    return Result(Outcome.KILLED, _last_line(run.stderr) or f"exit code {run.exit_code} without a message of pw.x")


def _cut_off(scf: str, where: str) -> Result:
    """The result of a run whose time was over; `cache.iterations_in` reads the number back from records, which hold the detail alone."""
    iterations = _iterations(scf)
    done = "1 iteration" if iterations == 1 else f"{iterations} iterations"
    return Result(Outcome.TIME_LIMIT, f"{done} done{where}", iterations=iterations)


def _name(errors: Sequence[messages.Error]) -> Result:
    """The outcome of the errors of all processes: failures of the machine come first, errors without a name (a torn box) last."""

    def weight(result: Result) -> int:
        if result.outcome is Outcome.STOPPED:
            return 0
        return 2 if result.outcome.category is Category.ENVIRONMENT else 1

    return max([Result(Outcome(messages.name_error(error)), str(error)) for error in reversed(errors)], key=weight)


def _last_run(text: str) -> str:
    """The output of the last run, if several were appended to one file, without the labels of a launcher."""
    at = text.rfind(_HEADER)
    while at >= 0:
        start = text.rfind("\n", 0, at) + 1
        label = _LABEL.match(text[start:at])
        if not text[start + (label.end() if label else 0) : at].strip():
            return _LABEL.sub("", text[start:]) if label else text[start:]
        at = text.rfind(_HEADER, 0, at)  # That was a mention of pw.x, not its first line.
    return text


def _last_calculation(output: str) -> tuple[str, int]:
    """The last SCF, or band structure, of a run from its headline on, and how many there are."""
    last = max(output.rfind(headline) for headline in _HEADLINES)
    return output[max(last, 0) :], sum(output.count(headline) for headline in _HEADLINES)


def _is_hybrid(output: str) -> bool:
    """Whether the functional has exact exchange: its SCFs are repeated until the exchange converges, too, and only then is `!!` printed."""
    if any(sign in output for sign in ("\n!!", "EXX: now go back to refine", "est. exchange err")):
        return True
    return any(float(fraction) > 0 for fraction in _EXX_FRACTION.findall(output))


def _magnetization(scf: str) -> float | None:
    """µB per cell; the length of the vector of a noncollinear run."""
    printed = _MAGNETIZATION.findall(scf)
    if not printed:
        return None
    vector = [number(word) for word in printed[-1].split()]
    moment = vector[0] if len(vector) == 1 else math.hypot(*vector)
    return moment if math.isfinite(moment) else None


def _signal_of(exit_code: int) -> int | None:
    """The signal that ended a process, in the convention of Python (negative), of shells, timeout(1), srun and Open MPI (128 + signal), or of
    MPICH's Hydra (the bare number of SIGKILL).
    """
    if exit_code < 0:
        return -exit_code
    # Above are signals that no machine sends, and exit codes of Intel's Fortran library: its 174 is a SIGSEGV.
    if 128 < exit_code < 128 + 32:
        return exit_code - 128
    return signal.SIGKILL.value if exit_code == signal.SIGKILL else None


def _iterations(text: str) -> int:
    """SCF iterations that were completed; a run that goes on from a saved state counts on from those before it."""
    first = _ITERATION.search(text)
    return text.count("estimated scf accuracy") + (int(first[1]) - 1 if first else 0)


def _line_with(text: str, mark: str) -> str:
    return next((line.strip() for line in text.splitlines() if mark in line), mark)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip(" -=%*")]


def _last_line(text: str) -> str:
    lines = _lines(text)
    return lines[-1][:_DETAIL] if lines else ""


def _excerpt(lines: Sequence[str]) -> str:
    """All lines joined into one; if they are too long, the first line and the end."""
    whole = " | ".join(lines)
    if len(whole) <= _DETAIL:
        return whole
    first = lines[0][: _DETAIL // 3]
    return f"{first} … {whole[len(first) - _DETAIL :]}"


def scf_parse(files: Iterable[str | Path], jobs: int = 1) -> Iterator[dict[str, Any]]:
    """Read pw.x outputs (plain or .gz), in the order given, on `jobs` processes.

    Yields:
        One dictionary per file: file, outcome, total_energy_ry, band_gap_ev (clipped), band_gap_raw_ev, nspin,
        total_magnetization, reason. A file that is missing, cannot be read or is not an output of pw.x has no outcome, and the reason says why.
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
        text = _read(path)
        result = classify(Run(stdout=text, stderr="", exit_code=None))
    except Exception as error:  # Whatever is wrong with one file, the others are read.
        return dict.fromkeys(_PARSED) | {"file": path, "reason": f"cannot be read ({error or type(error).__name__})"}
    if result == Result(Outcome.ENGINE_FAILED, _NO_OUTPUT):
        return dict.fromkeys(_PARSED) | {
            "file": path,
            "reason": "is not an output of pw.x" if text.strip() else "is empty",
        }
    return {
        "file": path,
        "outcome": str(result.outcome),
        "total_energy_ry": result.total_energy_ry,
        "band_gap_ev": clip_gap(result.band_gap_raw_ev),
        "band_gap_raw_ev": result.band_gap_raw_ev,
        "nspin": _nspin(_last_run(text)),
        "total_magnetization": result.total_magnetization,
        "reason": result.detail or ("" if result.outcome.usable else result.outcome.sentence),
    }


def _read(path: str) -> str:
    if Path(path).exists() and not Path(path).is_file():  # Reading a pipe without a writer would never end.
        raise OSError("not a file")
    data = Path(path).read_bytes()
    if path.endswith(".gz") or data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    if b"\0" in data[:1024]:
        raise ValueError("not text")
    return data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def _nspin(output: str) -> int | None:
    """Number of spin components as pw.x counts them: 1, 2, or 4 for a noncollinear run; None if the output ends before it shows."""
    if any(mark in output for mark in _NONCOLLINEAR):
        return 4
    if _MAGNETIZATION.search(output) or any(mark in output for mark in _SPIN_POLARISED):
        return 2
    return 1 if any(headline in output for headline in _HEADLINES) or _ENERGY.search(output) else None
