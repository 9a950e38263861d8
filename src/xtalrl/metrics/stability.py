"""Energy above the convex hull of our own consistent energies, and stable-unique-novel designs.

The competing phases are the labelled crystals of the run and the elements, all of one protocol. This hull is incomplete: it knows no phase
outside the data set, and no structure is relaxed. So a design is flagged if no compound competes with it, or if the reference of one of its
elements is an isolated atom.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import linprog

from xtalrl import tables
from xtalrl.cells import reduced_formula
from xtalrl.dft.references import reference_rows
from xtalrl.elements import ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.metrics.designs import PolicyDesigns
from xtalrl.metrics.intervals import Bools, Estimate, Floats
from xtalrl.metrics.scoring import Scoring
from xtalrl.progress import Progress

logger = logging.getLogger(__name__)

NO_COMPOUND = "no_compound"
"""Flag of a design whose elements form no labelled compound: its energy above the hull is its formation energy."""
ATOM_REFERENCE = "atom_reference"
"""Flag of a design with an element whose reference is an isolated atom, far above its crystal: the formation energy is too low."""


@dataclass(frozen=True)
class Decomposition:
    """The hull at a composition: its formation energy in eV/atom and the phases of the mixture."""

    energy: float
    formulas: tuple[str, ...]
    n_competing: int


class Hull:
    """Convex hull of crystals (lowest formation energy of each composition) and the elements at 0.

    The hull energy at a composition is the solution of a linear programme: the energy of the cheapest mixture of competing phases with that
    composition. This works for 18 elements as easily as for two, unlike a hull of all facets.
    """

    def __init__(self, phases: Mapping[str, tuple[Mapping[str, int], float]]) -> None:
        """`phases`: reduced formula to (number of atoms of each element, formation energy in eV/atom)."""
        self.formulas = list(phases)
        fractions = np.zeros((len(phases), len(ELEMENTS)))
        for row, (counts, _) in zip(fractions, phases.values(), strict=True):
            for element, count in counts.items():
                row[ELEMENTS.index(element)] = count
        self._elements = [tuple(counts) for counts, _ in phases.values()]
        self._fractions = fractions / np.maximum(fractions.sum(1, keepdims=True), 1)
        self._energies = np.array([energy for _, energy in phases.values()])

    def decompose(self, counts: Mapping[str, int]) -> Decomposition:
        """The hull at this composition."""
        columns = np.array([ELEMENTS.index(element) for element in counts])
        composition = np.array(list(counts.values()), dtype=float) / sum(counts.values())
        inside = self._fractions[:, columns].sum(1)
        competing = np.nonzero(inside > 1 - 1e-9)[0]
        if not competing.size:
            return Decomposition(0.0, tuple(counts), 0)
        phases = np.vstack([self._fractions[competing][:, columns], np.eye(len(columns))])
        cost = np.concatenate([self._energies[competing], np.zeros(len(columns))])
        solution = linprog(cost, A_eq=phases.T, b_eq=composition, method="highs")
        assert solution.x is not None and solution.fun is not None, solution.message
        names = [*(self.formulas[index] for index in competing), *counts]
        used = tuple(name for name, amount in zip(names, solution.x, strict=True) if amount > 1e-6)
        n_compounds = sum(len(self._elements[index]) > 1 for index in competing)
        return Decomposition(float(solution.fun), used, n_compounds)


def assess_stability(
    evaluation: str | Path,
    outcomes: str | Path,
    labels: str | Path | None,
    crystals: str | Path,
    references: str | Path | None,
    stability: str | Path,
) -> None:
    """Write the `STABILITY` table: one row for each distinct design that has a formation energy.

    Args:
        evaluation: `EVALUATION` table.
        outcomes: `SCF_OUTCOMES` of the designs, for the references added for them.
        labels: `LABELS`, of which those of the references' protocol compete; None if there are none.
        crystals: `CRYSTALS` of the labels.
        references: `REFERENCES` of the labels; None if `outcomes` holds all references.
        stability: `STABILITY` table to write.

    Raises:
        XtalrlError: a file cannot be read.
    """
    used = [
        *(tables.read_rows(references, tables.REFERENCES) if references else ()),
        *reference_rows(tables.read_rows(outcomes, tables.SCF_OUTCOMES)),
    ]
    atoms = {row["element"] for row in used if row["form"] == "atom"}
    phases = _phases(labels, crystals, {row["protocol_hash"] for row in used}) if labels else {}
    hull = Hull(phases)
    # An elemental crystal among the labels stands in for a reference that is an atom.
    atoms -= {element for counts, _ in phases.values() if len(counts) == 1 for element in counts}
    designs = {
        row["request_id"]: row
        for row in tables.read_rows(evaluation, tables.EVALUATION)
        if row["formation_energy_per_atom"] is not None
    }
    if None in designs:
        raise XtalrlError(
            f"{evaluation} holds a formation energy of the design {designs[None]['formula']} without an SCF request: delete it and run "
            f"`snakemake {evaluation}` again."
        )
    rows = []
    progress = Progress("Energy above the hull", len(designs), "designs")
    for request_id, design in designs.items():
        counts = Counter(design["species"])
        found = hull.decompose(counts)
        flags = [NO_COMPOUND] * (not found.n_competing and len(counts) > 1) + [ATOM_REFERENCE] * bool(
            atoms & set(counts)
        )
        rows.append(
            {
                "request_id": request_id,
                "formula": design["formula"],
                "energy_above_hull": design["formation_energy_per_atom"] - found.energy,
                "n_competing": found.n_competing,
                "decomposition": list(found.formulas),
                "flag": ", ".join(flags),
            }
        )
        progress.advance()
    tables.write_rows(rows, tables.STABILITY, stability)
    logger.info(
        "%s designs against a hull of %s labelled crystals; %s without a flag",
        f"{len(rows):,}", f"{len(hull.formulas):,}", f"{sum(not row['flag'] for row in rows):,}",
    )  # fmt: skip


def _phases(
    labels: str | Path, crystals: str | Path, protocols: set[str | None]
) -> dict[str, tuple[Counter[str], float]]:
    species = {
        row["material_id"]: row["species"]
        for row in tables.read(crystals, tables.CRYSTALS).select(["material_id", "species"]).to_pylist()
    }
    phases: dict[str, tuple[Counter[str], float]] = {}
    for row in tables.read_rows(labels, tables.LABELS):
        energy = row["formation_energy_per_atom"]
        if energy is None or row["protocol_hash"] not in protocols:
            continue
        if row["material_id"] not in species:
            raise XtalrlError(
                f"{labels} has the crystal {row['material_id']}, which {crystals} lacks: run `snakemake labels` again."
            )
        counts = Counter(species[row["material_id"]])
        formula = reduced_formula(species[row["material_id"]])
        if energy < phases.get(formula, (counts, np.inf))[1]:
            phases[formula] = (counts, energy)
    return phases


def _stable(designs: PolicyDesigns, scoring: Scoring) -> Bools:
    complete = np.equal(designs.hull_is_complete, 1)
    return complete & (np.nan_to_num(designs.energy_above_hull, nan=np.inf) <= scoring.stable_ev_per_atom)


def hull_coverage(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of the designs with a formation energy whose hull carries no flag."""
    known = np.isfinite(designs.energy_above_hull)
    return designs.bootstrap(scoring).proportion(known & np.equal(designs.hull_is_complete, 1), known)


def mean_energy_above_hull(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Mean energy above the hull of the designs without a flag, eV/atom."""
    return designs.bootstrap(scoring).mean(
        np.where(np.equal(designs.hull_is_complete, 1), designs.energy_above_hull, np.nan)
    )


def stable_share(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of all designs that are stable (at most `stable_ev_per_atom` above the hull), flagged ones not counted as stable."""
    return designs.bootstrap(scoring).proportion(_stable(designs, scoring), designs.designed)


def stable_unique_novel(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """S.U.N.: distinct compositions of a seed that are stable and novel, divided by all its designs; null without a formula list."""
    if not np.isfinite(designs.novel).any():
        return designs.bootstrap(scoring).proportion(np.zeros(designs.novel.shape), np.zeros(designs.novel.shape))
    chosen = _stable(designs, scoring) & np.equal(designs.novel, 1)
    shares: Floats = designs.share_of_composition(chosen)
    return designs.bootstrap(scoring).proportion(shares, designs.designed)
