"""Relaxation by a universal potential, and the hull of its energies: a model's word on stability, without a cluster and without DFT.

The potential is CHGNet (Deng et al., Nat. Mach. Intell. 5, 1031 (2023), doi:10.1038/s42256-023-00716-3), whose weights lie in its wheel. It learned energies to which the
Materials Project's corrections of 2020 were applied, so energies of oxides, fluorides, metals and elements lie on one scale, and a hull of them needs nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.structure import Structure

from xtalrl.cells import Cell
from xtalrl.errors import XtalrlError
from xtalrl.structures.textbook import textbook_crystal

FORCE_EV_PER_A = 0.05
"""A crystal is relaxed when no force is larger."""
STEPS = 500
"""Steps after which a relaxation is given up."""


@dataclass(frozen=True)
class Relaxed:
    """A crystal as the potential has relaxed its cell and positions."""

    structure: Structure
    energy_per_atom: float
    """eV/atom, on the potential's scale."""
    converged: bool


class Potential:
    """CHGNet on the CPU."""

    def __init__(self) -> None:
        """Load the weights of the wheel.

        Raises:
            XtalrlError: the package is not installed.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from chgnet.model import CHGNet, StructOptimizer
        except ImportError:
            raise XtalrlError(
                "Relaxation needs the package chgnet, which is not installed: run `pip install chgnet==0.4.2`, best in an environment of its own."
            ) from None
        self._model = CHGNet.load(use_device="cpu", verbose=False)
        self._optimizer = StructOptimizer(model=self._model, use_device="cpu")
        self.name = f"CHGNet {self._model.version}"

    def relax(self, structure: Structure) -> Relaxed:
        """Relax cell and positions."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._optimizer.relax(structure, fmax=FORCE_EV_PER_A, steps=STEPS, verbose=False)
        trajectory = found["trajectory"]
        largest = float(np.linalg.norm(trajectory.forces[-1], axis=1).max())
        energy = float(trajectory.energies[-1]) / len(structure)
        return Relaxed(found["final_structure"], energy, largest <= FORCE_EV_PER_A)

    def energies(self, structures: Sequence[Structure]) -> list[float]:
        """Energies of crystals as they stand, eV/atom."""
        if not structures:
            return []
        found = self._model.predict_structure(list(structures), task="e", batch_size=16)
        return [float(each["e"]) for each in (found if isinstance(found, list) else [found])]


class KnownPhases:
    """What competes with a crystal: known crystals as their source has relaxed them, and the textbook crystal of each element, relaxed."""

    def __init__(self, potential: Potential, crystals: Sequence[Mapping[str, Any]]) -> None:
        """`crystals`: rows of `CRYSTALS`."""
        self._potential = potential
        self._crystals = [(frozenset(row["species"]), row) for row in crystals]
        self._energy: dict[str, float] = {}
        self._element: dict[str, PDEntry | None] = {}

    def above_hull(self, structure: Structure, energy_per_atom: float) -> dict[str, Any]:
        """Place a crystal on the hull of the phases of its elements.

        Returns:
            `energy_above_hull` in eV/atom, negative below the hull of the others, null where an element has no textbook crystal; `n_competing`
            known compounds; `decomposition`, the formulas of the hull at this composition.
        """
        elements = {element.symbol for element in structure.elements}
        inside = [row for species, row in self._crystals if species <= elements]
        new = [row for row in inside if row["material_id"] not in self._energy]
        energies = self._potential.energies([Cell.from_row(row).to_structure() for row in new])
        self._energy |= {row["material_id"]: energy for row, energy in zip(new, energies, strict=True)}
        n_competing = sum(len(set(row["species"])) > 1 for row in inside)
        ends = [end for element in sorted(elements) if (end := self._end(element)) is not None]
        if len(ends) < len(elements):
            return {"energy_above_hull": None, "n_competing": n_competing, "decomposition": ""}
        phases = [
            PDEntry(each.composition, self._energy[row["material_id"]] * len(each))
            for row in inside
            for each in [Cell.from_row(row).to_structure()]
        ]
        diagram = PhaseDiagram([*ends, *phases])
        entry = PDEntry(structure.composition, energy_per_atom * len(structure))
        decomposition, above = diagram.get_decomp_and_e_above_hull(entry, allow_negative=True)
        names = sorted({phase.composition.reduced_formula for phase in decomposition or {}})
        assert above is not None  # The elements are there, so the hull has an energy everywhere.
        return {"energy_above_hull": float(above), "n_competing": n_competing, "decomposition": " + ".join(names)}

    def _end(self, element: str) -> PDEntry | None:
        """The element; None where no crystal of it is in the textbooks."""
        if element not in self._element:
            crystal = textbook_crystal(element)
            if crystal is None:
                self._element[element] = None
            else:
                relaxed = self._potential.relax(crystal)
                self._element[element] = PDEntry(crystal.composition, relaxed.energy_per_atom * len(crystal))
        return self._element[element]


def compare(before: Structure, relaxed: Relaxed) -> dict[str, Any]:
    """What relaxation did to a crystal.

    Returns:
        `converged`; `same_structure`, whether pymatgen's StructureMatcher takes the relaxed crystal for the one before; `volume_change_pct`;
        `energy_per_atom` in eV/atom on the potential's scale.
    """
    return {
        "converged": relaxed.converged,
        "same_structure": bool(StructureMatcher().fit(before, relaxed.structure)),
        "volume_change_pct": 100 * (relaxed.structure.volume / before.volume - 1),
        "energy_per_atom": relaxed.energy_per_atom,
    }
