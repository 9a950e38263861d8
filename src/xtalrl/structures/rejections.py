"""Why an entry of a source is not used."""

from __future__ import annotations

import enum


class Reason(enum.StrEnum):
    """Why a row of the source is not used."""

    MALFORMED_ROW = "malformed_row"
    """It does not have as many fields as the header: a quote or a comma is wrong there."""
    NO_MATERIAL_ID = "no_material_id"
    DUPLICATE_ID = "duplicate_id"
    BAD_NUMBER = "bad_number"
    METAL = "metal"
    SPLIT_NOT_USED = "split_not_used"
    BEYOND_LIMIT = "beyond_limit"
    UNREADABLE_CIF = "unreadable_cif"
    NOT_AS_STATED = "not_as_stated"
    """What was read is not what the file itself states: its formula, its multiplicities, its space group."""
    TOO_MANY_SITES = "too_many_sites"
    DISORDERED = "disordered"
    ELEMENT_OUTSIDE_88 = "element_outside_88"
    OVERLAPPING_ATOMS = "overlapping_atoms"
    NO_REDUCED_CELL = "no_reduced_cell"
    NO_NEIGHBORS = "no_neighbors"
    """Reason of the graph stage: CrystalNN found none, or failed."""
    UNREADABLE_ENTRY = "unreadable_entry"
    NOT_PERIODIC = "not_periodic"
    """Reason for external crystals only, as is the one before it (`xtalrl.structures.external`)."""


class Rejection(Exception):
    """A row that is not used: its reason and one sentence on it."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail
