"""Crystals from their prototype, elements and lattice constants, as textbooks give them.

`resources/demo/prototypes.yaml` holds the Wyckoff sites of each prototype, by the name that the tables of crystals use.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import ase.spacegroup
import yaml
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure
from pymatgen.io.ase import AseAtomsAdaptor

from xtalrl.errors import XtalrlError
from xtalrl.resources import RESOURCES

PROTOTYPES = RESOURCES / "demo" / "prototypes.yaml"


@functools.cache
def prototypes() -> dict[str, dict[str, Any]]:
    """Space group number and sites of each prototype."""
    content: dict[str, dict[str, Any]] = yaml.safe_load(PROTOTYPES.read_text())
    return content


def build_crystal(prototype: str, elements: Sequence[str], parameters: Mapping[str, float]) -> Structure:
    """The primitive cell of a crystal.

    Args:
        prototype: a name in `prototypes.yaml`.
        elements: one element per site of the prototype.
        parameters: lattice constants (a, b, c in Å; beta in degrees) and free coordinates (fractional).

    Raises:
        XtalrlError: unknown prototype or element, wrong number of elements, or a parameter too many or too few.
    """
    if prototype not in prototypes():
        raise XtalrlError(f"{prototype!r} is not a prototype; {PROTOTYPES} has: {', '.join(prototypes())}.")
    number, sites = prototypes()[prototype]["spacegroup"], prototypes()[prototype]["sites"]
    if len(elements) != len(sites):
        raise XtalrlError(
            f"The prototype {prototype!r} has {len(sites)} sites, but the elements are {' '.join(elements)!r}."
        )
    if unknown := [element for element in elements if not Element.is_valid_symbol(element)]:
        raise XtalrlError(f"{unknown[0]!r} is not an element.")
    names = _lattice_names(number) | {name for site in sites for coordinate in site if (name := _name(coordinate))}
    if names != set(parameters):
        raise XtalrlError(
            f"The prototype {prototype!r} has the parameters {', '.join(sorted(names))}, not {', '.join(sorted(parameters)) or 'none'}."
        )
    coordinates = [[_value(coordinate, parameters) for coordinate in site] for site in sites]
    # ASE applies a space group a hundred times faster than pymatgen's Structure.from_spacegroup, to the same crystal.
    atoms = ase.spacegroup.crystal(
        list(elements), coordinates, spacegroup=number, cell=_lattice(number, parameters).matrix
    )
    return AseAtomsAdaptor.get_structure(atoms).get_primitive_structure()


def parse_parameters(text: str) -> dict[str, float]:
    """`a=3.19 c=5.19 u=0.377` as a dict.

    Raises:
        XtalrlError: not of that form.
    """
    try:
        return {name: float(value) for name, value in (item.split("=") for item in text.split())}
    except ValueError:
        raise XtalrlError(f"{text!r} must be written as `a=3.19 c=5.19 u=0.377`.") from None


def _lattice_names(number: int) -> set[str]:
    """Free lattice constants of a space group's crystal system; triclinic prototypes are not used."""
    if number >= 195:
        return {"a"}
    if number >= 75:
        return {"a", "c"}
    return {"a", "b", "c"} | (set() if number >= 16 else {"beta"})


def _lattice(number: int, parameters: Mapping[str, float]) -> Lattice:
    a = parameters["a"]
    if number >= 195:
        return Lattice.cubic(a)
    if number >= 143:
        return Lattice.hexagonal(a, parameters["c"])
    if number >= 75:
        return Lattice.tetragonal(a, parameters["c"])
    return Lattice.from_parameters(a, parameters["b"], parameters["c"], 90, parameters.get("beta", 90), 90)


def _name(coordinate: Any) -> str | None:
    match = re.fullmatch(r"-?([a-z])", str(coordinate))
    return match.group(1) if match else None


def _value(coordinate: Any, parameters: Mapping[str, float]) -> float:
    if name := _name(coordinate):
        return -parameters[name] if str(coordinate).startswith("-") else parameters[name]
    return float(Fraction(str(coordinate)))
