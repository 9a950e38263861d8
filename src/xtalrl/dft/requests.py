"""SCFs to be computed: one request per crystal, elemental reference or distinct design, with its key and its shard."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.csv_files import read_csv
from xtalrl.dft.inputs import Form, physics_key, settings_for
from xtalrl.dft.protocols import CONFIRMING, Protocol, load_protocol
from xtalrl.dft.pseudopotentials import Family, load_family
from xtalrl.dft.recovery import Recovery
from xtalrl.elements import ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.tables import METALS

if TYPE_CHECKING:
    from pymatgen.core.structure import Structure

logger = logging.getLogger(__name__)

REFERENCE_PREFIX = "ref-"


def plan_crystal_scf(crystals: str, family: str, requests: str, protocol: str, shards: int) -> None:
    """Request the SCF of every crystal of `crystals.parquet` except those that are there as known metals."""
    planner = _Planner(family, protocol, shards)
    rows = _to_compute(crystals).to_pylist()
    planner.write(
        [planner.request(row["material_id"], "crystal", Cell.from_row(row), row["tot_magnetization"]) for row in rows],
        requests,
    )


def _to_compute(crystals: str) -> pa.Table:
    """The rows of `crystals.parquet` that need an SCF."""
    table = tables.read(crystals, tables.CRYSTALS)
    return table.filter(pc.not_equal(table["split"], METALS))


def plan_reference_scf(
    crystals: str,
    family: str,
    requests: str,
    elements: str | Sequence[str],
    elemental_crystals: str | None,
    protocol: str,
    shards: int,
) -> None:
    """Request the SCFs of elemental references: of all 88 elements (`all`), of those in the data (`data`), or of the named ones.

    The form is, in this order: the crystal in the user's CSV, the textbook crystal, one atom in a box (appendix A.1.7).
    """
    planner = _Planner(family, protocol, shards)
    if isinstance(elements, str):
        every = ELEMENTS if elements == "all" else pc.list_flatten(_to_compute(crystals)["species"]).to_pylist()
        wanted = set(every)
    else:
        wanted = set(elements)
    planner.write(planner.references(wanted, elemental_crystals), requests)


def plan_design_scf(
    assessments: str,
    crystals: str,
    references: str | None,
    family: str,
    requests: str,
    elemental_crystals: str | None,
    protocol: str,
    recovery: Recovery,
    shards: int,
    external_crystals: Sequence[str] | None = None,
) -> None:
    """Request the SCF of every distinct valid design, on the cell of its skeleton, and of each element it adds to the references.

    A design that ends without a run (`no_pseudopotential`, `odd_electrons`) needs no reference.
    """
    planner = _Planner(family, protocol, shards)
    rows = planner.designs(assessments, tables.ASSESSMENTS, crystals, external_crystals)
    known = set(tables.read(references, tables.REFERENCES)["element"].to_pylist()) if references else set()
    added = {
        element for row in rows if will_run(row["species"], planner.family, recovery) for element in row["species"]
    } - known
    planner.write(rows + planner.references(added, elemental_crystals), requests)


def plan_confirmation_scf(
    hits: str,
    crystals: str,
    family: str,
    requests: str,
    protocol: str,
    shards: int,
    external_crystals: Sequence[str] | None = None,
) -> None:
    """Request the SCF of every distinct hit with the finer protocol `confirm:<protocol>`; policies that share a design share its SCF."""
    planner = _Planner(family, CONFIRMING + protocol, shards)
    planner.write(planner.designs(hits, tables.HITS, crystals, external_crystals), requests)


def cost_of(cell: Cell, family: Family) -> float:
    """Rough cost of an SCF, without a unit: valence electrons (bands) times volume (plane waves). 0 if a pseudopotential is missing."""
    return 0.0 if family.missing(cell.species) else family.n_electrons(cell.species) * cell.volume


def will_run(species: Sequence[str], family: Family, recovery: Recovery) -> bool:
    """Whether a design of these species is worth a run of pw.x; `paper` drops an odd number of electrons."""
    if family.missing(species):
        return False
    return recovery == "extended" or family.n_electrons(species) % 2 == 0


def atom_in_box(element: str, protocol: Protocol) -> Cell:
    """The cell of an element without an elemental crystal."""
    box = float(protocol.references.atom.box_angstrom)
    return Cell((element,), (box, 0.0, 0.0, 0.0, box, 0.0, 0.0, 0.0, box), (0.0, 0.0, 0.0))


class _Planner:
    """Makes the requests of one stage."""

    def __init__(self, family: str, protocol: str, shards: int) -> None:
        self.family: Family = load_family(family)[0]
        self.protocol = load_protocol(protocol)
        self.shards = shards

    def request(
        self,
        request_id: str,
        kind: str,
        cell: Cell,
        tot_magnetization: float | None,
        form: Form = "crystal",
        source: str | None = None,
    ) -> dict[str, Any]:
        """One row of SCF_REQUESTS without its shard."""
        if self.family.missing(cell.species):
            settings: dict[str, Any] = {"protocol": self.protocol.digest(self.family)}
        else:
            settings = settings_for(cell, form, self.protocol, self.family).physics()
        key = physics_key(cell, settings | {"known_magnetization": tot_magnetization}, self.family)
        return {
            "request_id": request_id,
            "kind": kind,
            "form": form,
            "key": key,
            **cell.row,
            "tot_magnetization": tot_magnetization,
            "source": source,
        }

    def designs(
        self, table: str, schema: pa.Schema, crystals: str, external_crystals: Sequence[str] | None
    ) -> list[dict[str, Any]]:
        """One request per distinct valid design of a table with `material_id`, `species` and `request_id`, on the cell of its skeleton."""
        skeletons = {
            row["material_id"]: row
            for path in (crystals, *(external_crystals or ()))
            for row in tables.read_rows(path, tables.CRYSTALS)
        }
        designs = {row["request_id"]: row for row in tables.read_rows(table, schema) if row["request_id"] is not None}
        rows = []
        for request_id, design in sorted(designs.items()):
            skeleton = skeletons.get(design["material_id"])
            if skeleton is None:
                raise XtalrlError(
                    f"{table} holds a design on the skeleton {design['material_id']}, which {crystals} does not hold: "
                    "the designs are older than the structures; run `snakemake rollout` again."
                )
            rows.append(
                self.request(request_id, "design", Cell.from_row(skeleton | {"species": design["species"]}), None)
            )
        return rows

    def references(self, elements: Iterable[str], elemental_crystals: str | None) -> list[dict[str, Any]]:
        """One request per element, in alphabetical order."""
        given = _read_elemental_crystals(elemental_crystals) if elemental_crystals else {}
        rows, atoms = [], []
        for element in sorted(elements):
            if element in self.protocol.references.atom.elements:
                structure, source = None, "one atom in a box"
            else:
                structure, source = given.get(element) or _textbook_crystal(element)
            form: Form = "atom" if structure is None else "elemental"
            if structure is None:
                atoms.append(element)
                cell = atom_in_box(element, self.protocol)
            else:
                cell = Cell.from_structure(structure)
            rows.append(self.request(f"{REFERENCE_PREFIX}{element}", "reference", cell, None, form, source))
        if atoms:
            logger.info(
                "One atom in a box stands for the elements without an elemental crystal, or that the protocol names: %s",
                ", ".join(atoms),
            )
        return rows

    def write(self, rows: list[dict[str, Any]], path: str) -> None:
        """Deal the requests to the shards, write them, and log what they are.

        Equal calculations go to one shard. The others are dealt in turn, the most expensive first, so that shards take about
        the same time; with as many shards as calculations, each shard gets one.
        """
        by_key = {row["key"]: row for row in rows}
        order = sorted(by_key, key=lambda key: (-cost_of(Cell.from_row(by_key[key]), self.family), key))
        shard = {key: number % self.shards for number, key in enumerate(order)}
        rows = [row | {"shard": shard[row["key"]]} for row in rows]
        tables.write_rows(rows, tables.SCF_REQUESTS, path)
        kinds = Counter(row["kind"] for row in rows)
        lacking = sorted({element for row in rows for element in self.family.missing(row["species"])})
        logger.info(
            "%s requests (%s) in %d shards",
            f"{len(rows):,}",
            ", ".join(f"{n:,} {k}" for k, n in kinds.items()),
            self.shards,
        )
        if lacking:
            n = sum(bool(self.family.missing(row["species"])) for row in rows)
            logger.info(
                "%s has no pseudopotential for %s: %d requests will end as no_pseudopotential",
                self.family.name,
                ", ".join(lacking),
                n,
            )


def _textbook_crystal(element: str) -> tuple[Structure | None, str]:
    """The crystal and the book, or None and why there is none."""
    from xtalrl.structures.textbook import elemental_crystals, textbook_crystal

    return textbook_crystal(element), elemental_crystals()[element].source


def check_elemental_crystals(path: str) -> None:
    """Refuse a CSV of elemental crystals that cannot be used, before anything is computed.

    Raises:
        XtalrlError: the first thing that is wrong with it.
    """
    _read_elemental_crystals(path)


def _read_elemental_crystals(path: str) -> dict[str, tuple[Structure, str]]:
    """Elemental crystals and their sources by element, from a CSV with the columns `element` (or `symbol`), `cif` and optionally `material_id`.

    The cell stays as it is: with a fixed number of k points a primitive one has another energy (beryllium of the Materials
    Project: 4 atoms where 2 would do, and the released energy is that of the 4). It is checked as the crystals of the data are;
    rows of elements that are not among the 88 are left out.

    Raises:
        XtalrlError: the file is missing, lacks a column or names an element twice, or a CIF is unreadable, partly occupied, of
            overlapping atoms, or holds another element.
    """
    from pymatgen.core.periodic_table import Element

    from xtalrl.structures.cif import MAX_SITES_READ, read_cif
    from xtalrl.structures.crystals import reduce_cell
    from xtalrl.structures.rejections import Rejection

    table = read_csv(path, setting="references.crystals")
    name = "element" if "element" in table.columns else "symbol"
    if not {name, "cif"} <= set(table.columns):
        raise XtalrlError(
            f"{path} must have the columns `element` and `cif`; it has: {', '.join(table.columns) or 'nothing'}."
        )
    crystals: dict[str, tuple[Structure, str]] = {}
    for number, row in enumerate(table.rows, start=2):
        element, where = (row[name] or "").strip(), f"{path}, row {number}"
        if not Element.is_valid_symbol(element):
            raise XtalrlError(f"{where}: {element!r} is not an element.")
        if element not in ELEMENTS:
            continue
        if element in crystals:
            raise XtalrlError(f"{where}: {element} occurs twice; name one crystal of each element.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pymatgen's
                structure = read_cif(row["cif"] or "")
                reduce_cell(structure, MAX_SITES_READ)
        except Rejection as rejection:
            said = ": ".join(filter(None, (rejection.reason.value, rejection.detail)))
            raise XtalrlError(
                f"{where}: the crystal of {element} cannot be a reference ({said}). Give it another CIF, or remove the row: "
                "the textbook crystal or one atom in a box then takes its place."
            ) from None
        found = {site.specie.symbol for site in structure}
        if found != {element}:
            raise XtalrlError(f"{where}: the CIF of {element!r} holds {', '.join(sorted(found))}.")
        crystals[element] = structure, " ".join(filter(None, (Path(path).name, (row.get("material_id") or "").strip())))
    return crystals
