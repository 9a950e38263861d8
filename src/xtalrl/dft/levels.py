"""Energy and gap of a run of pw.x: from its XML, which has all decimals, or from the levels that it prints."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HARTREE_EV = 27.211386245988
"""CODATA 2018; pw.x writes its XML in Hartree and its stdout in eV."""

FLOAT = r"([-+]?\d+\.\d*(?:[EeDd][-+]?\d+)?)"
"""A number as Fortran writes it, with E or D before the exponent."""
_LEVELS = re.compile(rf"highest occupied, lowest unoccupied level \(ev\):\s*{FLOAT}\s*{FLOAT}")
_HIGHEST_ONLY = "highest occupied level (ev):"
_FERMI = re.compile(r"the (?:spin up/dw )?Fermi energ(?:y is|ies are)\s+(-?\d+\.\d+)\s*(-?\d+\.\d+)?")
_WIDTH = re.compile(r"(?:broad|smearing, width|degauss).*\(Ry\)\s*=\s*(\d+\.\d+)")
_ROWS = r"\s*\n\s*\n((?:[ \t]+[-\d. ]+\n)+)"
_LEVELS_OF_K = re.compile(
    rf"SPIN (UP|DOWN)|band(?:s| energies) \(ev\):{_ROWS}(?:\s*occupation numbers\s*\n((?:[ \t]+[-\d. ]+\n)+))?"
)
_HEADINGS = re.compile(r"band(?:s| energies) \(ev\):")
_DECIMAL = re.compile(r"-?\d+\.\d{4}")

_PARTLY_FILLED = 0.1
"""Distance of an occupation from 0 and 1 beyond which it is that of a metal: the level lies within about one smearing width of the Fermi energy."""

_Point = tuple[str, list[float], list[float]]
"""Spin, levels (eV) and their occupations (0 to 1) at one k point."""


def number(text: str) -> float:
    """A number as Fortran writes it; NaN for anything else: asterisks instead of a number too wide for its field, `NaN`, a decimal comma."""
    try:
        return float(text.upper().replace("D", "E"))
    except ValueError:
        return math.nan


def clip_gap(gap_ev: float | None) -> float | None:
    """The gap a crystal is credited with: a negative one (overlapping bands) counts as 0."""
    return None if gap_ev is None else max(gap_ev, 0.0)


@dataclass(frozen=True)
class XmlResult:
    """What a `data-file-schema.xml` says about a converged SCF."""

    total_energy_ry: float
    band_gap_raw_ev: float | None
    """Gap in eV over all k points and spins, by occupations; None without an empty band or if bands are partly filled."""


def read_xml(path: str | Path) -> XmlResult | None:
    """Energy and gap of a `data-file-schema.xml`; None where it is missing, cut off, or of an SCF that did not converge."""
    try:
        root = ElementTree.parse(path).getroot()
        if (root.findtext("output/convergence_info/scf_conv/convergence_achieved") or "").strip().lower() != "true":
            return None
        energy_ry = 2 * float(root.findtext("output/total_energy/etot") or "")
        # Both spins of a k point stand in one list, up first.
        up = int(root.findtext("output/band_structure/nbnd_up") or 0)
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
    return XmlResult(energy_ry, gap) if math.isfinite(energy_ry) else None


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


def is_smeared(text: str) -> bool:
    """Whether occupations are smeared (or by tetrahedra): pw.x then prints a Fermi energy."""
    return _FERMI.search(text) is not None


def band_gap(output: str, calculation: str, xml: XmlResult | None) -> tuple[float | None, str]:
    """The gap in eV (negative if bands overlap), and a note on why it is doubtful or missing.

    The printed levels have four decimals; the XML has them all and is preferred where both agree.

    Args:
        output: everything that the run printed; its beginning has the width of the smearing.
        calculation: the part whose levels count, from its headline on.
        xml: content of the XML of the run, or None.
    """
    levels = _LEVELS.findall(calculation)
    if not levels and is_smeared(calculation):
        return _smeared_gap(output, calculation, xml)
    if not levels:
        return (
            None,
            f"no {'empty band was computed' if _HIGHEST_ONLY in calculation else 'levels were printed'}: no gap",
        )
    printed = number(levels[-1][1]) - number(levels[-1][0])
    if xml is not None and xml.band_gap_raw_ev is not None:
        if abs(xml.band_gap_raw_ev - printed) < 1e-3:
            return xml.band_gap_raw_ev, ""
        return printed, f"the XML's gap {xml.band_gap_raw_ev:.4f} eV differs from the printed {printed:.4f} eV"
    return round(printed, 4), ""


def _smeared_gap(output: str, calculation: str, xml: XmlResult | None) -> tuple[float | None, str]:
    """`band_gap` of a run with smearing: pw.x prints no gap, but the XML has the occupations, and often the output has them, too."""
    if xml is not None:
        gap = xml.band_gap_raw_ev
    else:
        points = list(_printed_points(output, calculation))
        if not points:
            return None, "smeared, and the levels were not printed: no gap can be read"
        if len(points) < len(_HEADINGS.findall(calculation)):
            return None, "smeared, and some levels are printed as something else than numbers: no gap can be read"
        if not _says_how_occupied(output, calculation):
            return None, "smeared, and the width of the smearing was not printed: no gap can be read"
        gap = _gap_by_occupations(points)
        gap = None if gap is None else round(gap, 4)
    return gap, "" if gap is not None else "smeared, with partly filled bands: no gap"


def _says_how_occupied(output: str, calculation: str) -> bool:
    """Whether the occupations follow from what was printed: all of them, a width, or that they are those of tetrahedra."""
    complete = calculation.count("occupation numbers") == len(_HEADINGS.findall(calculation))
    return complete or _WIDTH.search(output) is not None or "tetrahedr" in output.lower()


def _printed_points(output: str, calculation: str) -> Iterator[_Point]:
    """The levels of each k point, with the printed occupations (`verbosity = 'high'`) or those that follow from the Fermi energy.

    A level within half the width of the smearing around the Fermi energy counts as partly filled.
    """
    fermi, width = _FERMI.findall(calculation)[-1], _WIDTH.search(output)
    margin = float(width[1]) * HARTREE_EV / 2 if width else 0.0
    spin = ""
    for named, block, printed in _LEVELS_OF_K.findall(calculation):
        spin = named or spin
        if not block:
            continue
        levels = [float(word) for word in _DECIMAL.findall(block)]
        occupations = [float(word) for word in _DECIMAL.findall(printed)]
        if len(occupations) != len(levels):
            level_of_spin = float(fermi[1] if spin == "DOWN" and fermi[1] else fermi[0])
            distances = [level - level_of_spin for level in levels]
            occupations = [0.5 if abs(d) <= margin else float(d < 0) for d in distances]
        yield spin, levels, occupations
