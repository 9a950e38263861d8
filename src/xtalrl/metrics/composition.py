"""Metrics of compositions, which need no SCF: accuracy, similarity, validity, uniqueness and novelty (appendix A.1.1)."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xtalrl import tables
from xtalrl.cells import reduced_formula
from xtalrl.elements import SIMILARITY_CLASS, has_odd_electrons
from xtalrl.errors import XtalrlError
from xtalrl.metrics.designs import PolicyDesigns
from xtalrl.metrics.formulas import composition_key, read_known_compositions
from xtalrl.metrics.intervals import Estimate, Floats
from xtalrl.metrics.scoring import Scoring
from xtalrl.metrics.validity import PAPER_RULE, is_valid
from xtalrl.progress import Progress

logger = logging.getLogger(__name__)


def count_correct(species: Sequence[str], true_species: Sequence[str]) -> int:
    """Number of sites that hold the true element (A.1.1.1)."""
    return sum(placed == true for placed, true in zip(species, true_species, strict=True))


def count_similar(species: Sequence[str], true_species: Sequence[str]) -> int:
    """Number of sites that hold an element of the true element's class (A.1.1.2); the classes are those of `xtalrl.elements`."""
    return sum(
        SIMILARITY_CLASS[placed] == SIMILARITY_CLASS[true] for placed, true in zip(species, true_species, strict=True)
    )


def design_id(material_id: str, species: Sequence[str]) -> str:
    """Identifier of a filled skeleton, `mp-149/0f3a…`: the same design of another policy has the same one."""
    return f"{material_id}/{hashlib.sha256(' '.join(species).encode()).hexdigest()[:12]}"


def assess_designs(
    designs: Sequence[str | Path] | None,
    crystals: str | Path,
    formulas: str | Path | None,
    assessments: str | Path,
    external_crystals: Sequence[str | Path] | None = None,
) -> None:
    """Judge the compositions of all designs and write one table of the results.

    Args:
        designs: `DESIGNS` tables, one per policy and seed; None where no policy designs.
        crystals: `CRYSTALS` table that the skeletons came from.
        formulas: list of known reduced formulas for novelty (see `read_known_compositions`), or None.
        assessments: `ASSESSMENTS` table to write.
        external_crystals: `CRYSTALS` tables of crystals that are designs themselves, so that there is no true crystal to compare with.

    Raises:
        XtalrlError: a file cannot be read; a design belongs to no crystal, has another number of sites than its crystal, or
            occurs twice.
    """
    known = read_known_compositions(formulas) if formulas else None
    truth = {
        row["material_id"]: row["species"]
        for path in (crystals, *(external_crystals or ()))
        for row in tables.read(path, tables.CRYSTALS).select(["material_id", "species"]).to_pylist()
    }
    own_cells = {
        material_id
        for path in external_crystals or ()
        for material_id in tables.read(path, tables.CRYSTALS)["material_id"].to_pylist()
    }
    rows: list[dict[str, Any]] = []
    seen: set[tuple[str, int, str, int | None]] = set()
    progress = Progress("Judging compositions", len(designs or ()), "design files")
    for path in designs or ():
        for design in tables.read_rows(path, tables.DESIGNS):
            true_species = truth.get(design["material_id"])
            unusable = not design["species"]
            if not unusable and (true_species is None or len(true_species) != len(design["species"])):
                sites = (
                    "is not"
                    if true_species is None
                    else f"has {len(true_species)} sites, the design {len(design['species'])},"
                )
                raise XtalrlError(
                    f"{path}: the crystal {design['material_id']} {sites} in {crystals}. The designs were made from other structures: "
                    "delete them and run `snakemake rollout` again."
                )
            key = (design["policy"], design["seed"], design["material_id"], design["sample"])
            if key in seen:
                raise XtalrlError(
                    f"{path}: policy {key[0]}, seed {key[1]} fills the skeleton {key[2]} a second time. "
                    "Delete the file and run `snakemake rollout` again."
                )
            seen.add(key)
            is_alone = unusable or design["material_id"] in own_cells
            rows.append(_assess(design, None if is_alone else true_species, known))
        progress.advance(note=f"{len(rows):,} designs")
    tables.write_rows(rows, tables.ASSESSMENTS, assessments)
    n_valid = sum(row["valid"] for row in rows)
    distinct = len({row["request_id"] for row in rows if row["valid"]})
    logger.info(
        "%s designs, %s valid by %s, %s distinct valid designs to simulate",
        f"{len(rows):,}",
        f"{n_valid:,}",
        PAPER_RULE,
        f"{distinct:,}",
    )


def _assess(design: dict[str, Any], true_species: list[str] | None, known: frozenset[str] | None) -> dict[str, Any]:
    species = design["species"]
    counts = Counter(species)
    valid = bool(species) and is_valid(counts, PAPER_RULE)
    return {
        "material_id": design["material_id"],
        "policy": design["policy"],
        "seed": design["seed"],
        "sample": design["sample"],
        "species": species,
        "formula": reduced_formula(species) if species else "",
        "true_formula": reduced_formula(true_species) if true_species else None,
        "n_sites": len(species),
        "n_correct": count_correct(species, true_species) if true_species else None,
        "n_similar": count_similar(species, true_species) if true_species else None,
        "valid": valid,
        "validity_rule": PAPER_RULE,
        "valid_smact14": bool(species) and is_valid(counts, "smact-smact14"),
        "valid_icsd24": bool(species) and is_valid(counts, "smact-icsd24"),
        "odd_electrons": has_odd_electrons(species),
        "novel": composition_key(counts) not in known if valid and known is not None else None,
        "request_id": design_id(design["material_id"], species) if valid else None,
    }


def accuracy(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of the atoms of all designs that are the true ones (A.1.1.1); only designs on a skeleton count."""
    return designs.bootstrap(scoring).proportion(np.nan_to_num(designs.n_correct), _sites_of_skeletons(designs))


def similarity(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of the atoms of all designs that are in the class of the true ones (A.1.1.2), counted as in `accuracy`."""
    return designs.bootstrap(scoring).proportion(np.nan_to_num(designs.n_similar), _sites_of_skeletons(designs))


def _sites_of_skeletons(designs: PolicyDesigns) -> Floats:
    """Number of sites of each design that can be compared with a true crystal."""
    return np.where(np.isfinite(designs.n_correct), np.nan_to_num(designs.n_sites), 0.0)


def exact_match(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of the designs on a skeleton that equal the true crystal at every site (A.1.1.1)."""
    return designs.bootstrap(scoring).proportion(designs.n_correct == designs.n_sites, np.isfinite(designs.n_correct))


def validity(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of designs with a valid composition (A.1.1.3)."""
    return designs.bootstrap(scoring).proportion(designs.valid == 1, designs.designed)


def validity_smact14(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of designs valid by smact >= 3 with its oxidation states of 2014."""
    return designs.bootstrap(scoring).proportion(designs.valid_smact14 == 1, designs.designed)


def validity_icsd24(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of designs valid by the default of smact >= 3."""
    return designs.bootstrap(scoring).proportion(designs.valid_icsd24 == 1, designs.designed)


def odd_electrons(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of the valid designs with an odd number of electrons per cell."""
    valid = designs.valid == 1
    return designs.bootstrap(scoring).proportion(valid & (designs.odd_electrons == 1), valid)


def uniqueness(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Number of distinct reduced compositions of a seed over its number of designs; each of m designs with the same composition counts 1/m."""
    return designs.bootstrap(scoring).proportion(designs.share_of_composition(designs.designed), designs.designed)


def novelty(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of the valid designs whose composition is not in the list of known formulas (A.1.1.4); no number if there was no list."""
    return designs.bootstrap(scoring).proportion(designs.novel == 1, np.isfinite(designs.novel))
