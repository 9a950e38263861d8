"""Designs as crystals of their own: skeletons with their elements, for steps that look at the filled crystal and not at its skeleton."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.errors import XtalrlError
from xtalrl.structures.external import space_group
from xtalrl.structures.neighbor_graphs import build_graphs


def fill_skeletons(
    assessments: str | Path,
    crystals: str | Path,
    filled: str | Path,
    graphs: str | Path,
    failures: str | Path,
    cache: str | Path,
    workers: int,
    external_crystals: Sequence[str | Path] | None = None,
) -> None:
    """Write the distinct valid designs of a table as crystals, as `fill_crystals` does, and their graphs, as `build_graphs` does.

    Raises:
        XtalrlError: as in either.
    """
    fill_crystals(assessments, crystals, filled, external_crystals)
    build_graphs(filled, graphs, failures, cache, workers)


def fill_crystals(
    assessments: str | Path,
    crystals: str | Path,
    filled: str | Path,
    external_crystals: Sequence[str | Path] | None = None,
) -> None:
    """Write the distinct valid designs of a table as crystals, with their request_id as material_id and the split `tables.DESIGN_SPLIT`.

    `build_graphs` gives them graphs whose bonds and space group are those of the filled crystal.

    Args:
        assessments: `tables.ASSESSMENTS`, or another table with its columns material_id, species and request_id.
        crystals: `tables.CRYSTALS`, the skeletons.
        filled: `tables.CRYSTALS` to write, in the order of the request_ids.
        external_crystals: `tables.CRYSTALS` of external sets, which are skeletons too; None: there are none.

    Raises:
        XtalrlError: a file is missing or malformed, or a design is on a skeleton that is not there.
    """
    skeletons = {
        row["material_id"]: row
        for path in (crystals, *(external_crystals or ()))
        for row in tables.read_rows(path, tables.CRYSTALS)
    }
    designs = {
        row["request_id"]: row
        for row in tables.read_rows(assessments, tables.ASSESSMENTS)
        if row["request_id"] is not None
    }
    rows = []
    for request_id, design in sorted(designs.items()):
        skeleton = skeletons.get(design["material_id"])
        if skeleton is None:
            raise XtalrlError(
                f"{assessments} holds a design on the skeleton {design['material_id']}, which {crystals} does not hold: "
                "the designs are older than the structures; run `snakemake rollout` again."
            )
        cell = Cell.from_row(skeleton | {"species": design["species"]})
        rows.append(
            {
                "material_id": request_id,
                "split": tables.DESIGN_SPLIT,
                "formula": design["formula"],
                "n_sites": design["n_sites"],
                **cell.row,
                "spacegroup_number": space_group(cell.to_structure()),
                "source": f"design on {design['material_id']}",
            }
        )
    tables.write_rows(rows, tables.CRYSTALS, filled)
