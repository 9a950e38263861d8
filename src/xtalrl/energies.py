"""Formation energies (eq. 15 of the paper) and the table of reference energies, independent of the DFT code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xtalrl.errors import XtalrlError

RYDBERG_EV_PAPER = 13.6057039763
"""One Rydberg in eV as in eq. 15 of the paper; CODATA 2018 has 13.605693122994."""

CHECKED_ELEMENTS = ("Al", "Ne", "Si")
"""Elements whose imported energies are compared with SCFs of the stated protocol: a metal, a rare gas and a covalent crystal, all fast."""

MISSING_REFERENCE = "missing_reference"
"""Outcome of a crystal whose energy is known but whose formation energy is not."""


def formation_energy_per_atom(
    total_energy_ry: float, species: Sequence[str], reference_energies_ry: Mapping[str, float]
) -> float:
    """Formation energy in eV/atom, eq. 15: (E_tot - sum of the N_i E_i/n_i) / N · 13.6057039763.

    Args:
        total_energy_ry: E_tot of the cell in Ry.
        species: element of each of the cell's N sites.
        reference_energies_ry: E_i/n_i, energy per atom of each element's reference form in Ry.

    Raises:
        KeyError: an element has no reference energy.
    """
    references = sum(n * reference_energies_ry[element] for element, n in Counter(species).items())
    return (total_energy_ry - references) / len(species) * RYDBERG_EV_PAPER


class ReferenceTable:
    """Reference energies of one protocol and family.

    Args:
        rows: rows of `tables.REFERENCES`; where an element occurs twice, a row with an energy wins.

    Raises:
        XtalrlError: the energies come from more than one protocol or family.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows: dict[str, Mapping[str, Any]] = {}
        for row in rows:
            if row["element"] not in self._rows or row["energy_per_atom_ry"] is not None:
                self._rows[row["element"]] = row
        self._energies = {
            e: row["energy_per_atom_ry"] for e, row in self._rows.items() if row["energy_per_atom_ry"] is not None
        }
        origins = {_origin(self._rows[element]) for element in self._energies}
        if len(origins) > 1:
            raise XtalrlError(
                "The reference energies come from different protocols or pseudopotential families "
                f"({'; '.join(sorted(_name(origin) for origin in origins))}): energies of different protocols never mix. "
                "Compute or import all of them with one."
            )
        self.origin = origins.pop() if origins else None
        """The protocol_hash, family and protocol of all energies; None where there is no energy."""

    def formation_energy(self, row: Mapping[str, Any]) -> tuple[float | None, str]:
        """Formation energy in eV/atom of a row with total_energy_ry, species, protocol, protocol_hash and family.

        Returns:
            The energy and an empty string, or None and a sentence about the references that are missing or failed.

        Raises:
            XtalrlError: the row and the references differ in protocol or family.
        """
        if row["total_energy_ry"] is None:
            return None, ""
        if self.origin is not None and _origin(row) != self.origin:
            raise XtalrlError(
                f"The total energy was computed with {_name(_origin(row))}, the reference energies with {_name(self.origin)}: "
                "energies of different protocols never mix. Compute or import the references with the protocol of the crystals."
            )
        if missing := sorted(set(row["species"]) - set(self._energies)):
            reasons = [f"{e} ({self._rows[e]['outcome']})" if e in self._rows else e for e in missing]
            return None, f"no reference energy of {', '.join(reasons)}"
        return formation_energy_per_atom(row["total_energy_ry"], row["species"], self._energies), ""


def _origin(row: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    return row["protocol_hash"], row["family"], row["protocol"]


def _name(origin: tuple[str | None, str | None, str | None]) -> str:
    digest, family, protocol = origin
    return f"protocol {protocol}, family {family}" + (f" ({digest[:8]})" if digest else "")
