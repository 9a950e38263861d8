"""Arrow schemas of every file that stages exchange, and the one way to write and read these files.

Every field has a description and, where they apply, a unit and a range of values. A quantity that could not be computed is null,
never 0. Coordinates are row-major flat lists: `lattice` is 9 numbers (rows are the lattice vectors, Å), `frac_coords` 3 per site.

A file describes itself: it holds the name of its schema, the units, and a SHA-256 of each column. All of these are compared when the file is
read, and the values are checked (`xtalrl.table_checks`), so that a changed or damaged file is refused. Files of older versions have no digests;
files of other programs may also lack the name and the units.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from xtalrl.errors import XtalrlError
from xtalrl.files import whole_file
from xtalrl.table_checks import ContentDigest, TableCheck

ROW_GROUP_ROWS = 8192
"""Number of rows in a row group: a reader holds one group in memory, and can skip the others."""

METALS = "metals"
"""Split that holds the metals of the training split (`structures.metals: train`): crystals to learn from that need no SCF, because their gap
is known to be 0."""

DESIGN_SPLIT = "design"
"""Split of designs that are treated as crystals of their own (`structures.filled`)."""

GAP_RANGE_EV = (-20.0, 30.0)
"""Band gaps in eV that a label may have, before clipping. No solid has a larger one; a negative gap says by how much bands overlap."""
FORMATION_ENERGY_RANGE_EV = (-20.0, 20.0)
"""Formation energies in eV/atom that a label may have. A value outside means a wrong unit, or references of other pseudopotentials."""

_DIGESTS = b"xtalrl_sha256"
"""Key in the footer of a file, under which the digest of each column is stored."""
_HAS_DIGESTS = {b"xtalrl_digests": b"1"}
"""Entry in the schema of a file that must have digests: other software that rewrites the table keeps this entry but loses the digests."""


def _field(
    name: str,
    kind: pa.DataType,
    description: str,
    unit: str = "",
    nullable: bool = False,
    within: tuple[float, float] | None = None,
    items: str = "",
) -> pa.Field:
    """A field; `within` is the range of its values, `items` the number of entries of a list: `9`, `1+` for one or more, or `3 species` for 3 per entry
    of the column `species`.
    """
    metadata = {"description": description} | ({"unit": unit} if unit else {}) | ({"items": items} if items else {})
    if within is not None:
        metadata["range"] = f"{within[0]:g} {within[1]:g}"
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


def _schema(name: str, description: str, *fields: pa.Field, key: str = "") -> pa.Schema:
    """A schema; no two rows have the same values in the columns of `key`."""
    metadata = {"xtalrl_table": name, "description": description} | ({"key": key} if key else {})
    return pa.schema(list(fields), metadata=metadata)


_MATERIAL_ID = _field("material_id", pa.string(), "Identifier of the crystal in its source, e.g. mp-149")
_SPLIT = _field(
    "split", pa.string(), "train, val or test, as in the source; metals: those of train (`structures.metals: train`)"
)
_SPECIES = _field("species", pa.list_(pa.string()), "Element of each site", items="1+")
_FILLED = _field(
    "species",
    pa.list_(pa.string()),
    "Element of each site; empty for an entry of an external set that is not a crystal that can be used",
)
_LATTICE = _field("lattice", pa.list_(pa.float64()), "Lattice vectors as rows, flattened (9)", "Å", items="9")
_FRAC_COORDS = _field(
    "frac_coords", pa.list_(pa.float64()), "Fractional coordinates, flattened (3 per site)", items="3 species"
)
_PROTOCOL = (
    _field("protocol", pa.string(), "Name of the DFT protocol", nullable=True),
    _field(
        "protocol_hash", pa.string(), "Hash of the protocol's settings and the pseudopotential family", nullable=True
    ),
    _field("family", pa.string(), "Pseudopotential family", nullable=True),
)
_RECOVERY = (
    _field(
        "strategy",
        pa.string(),
        "Rung of the recovery ladder that gave the result; null where there is none",
        nullable=True,
    ),
    _field(
        "recovered",
        pa.bool_(),
        "The result is there only thanks to a rung that `recovery: paper` does not have; null where there is none",
        nullable=True,
    ),
)
_SAMPLE = _field(
    "sample",
    pa.int32(),
    "Number among the designs of this skeleton by this policy and seed, best first; null for designs of others",
    nullable=True,
)
_DETAIL = _field("detail", pa.string(), "One sentence on the outcome, empty when there is nothing to say")

CRYSTALS = _schema(
    "crystals",
    "Crystals that passed the filters, as Niggli-reduced cells, one row per crystal",
    _MATERIAL_ID,
    _SPLIT,
    _field("formula", pa.string(), "Reduced formula"),
    _field("n_sites", pa.int32(), "Sites in the cell"),
    _SPECIES,
    _LATTICE,
    _FRAC_COORDS,
    _field("spacegroup_number", pa.int32(), "Space group number of the source"),
    _field("band_gap", pa.float64(), "Band gap of the source", "eV", nullable=True),
    _field("formation_energy_per_atom", pa.float64(), "Formation energy of the source", "eV/atom", nullable=True),
    _field("tot_magnetization", pa.float64(), "Total magnetization of the cell, from the source", "µB", nullable=True),
    _field("source", pa.string(), "File and row the crystal came from"),
    key="material_id",
)

REJECTED = _schema(
    "rejected",
    "Rows of the source that were not used, with the reason",
    _field("source", pa.string(), "File the row came from"),
    _field("row", pa.int64(), "Row number in that file, from 0"),
    _field("material_id", pa.string(), "Identifier, where it could be read", nullable=True),
    _SPLIT,
    _field("reason", pa.string(), "Name of the rejection reason"),
    _DETAIL,
)

GRAPHS = _schema(
    "graphs",
    "CrystalNN multigraph of each crystal; every bond appears in both directions",
    _MATERIAL_ID,
    _SPLIT,
    _field("actions", pa.list_(pa.int8()), "Action index of the true element of each site", within=(0, 87), items="1+"),
    _field(
        "lattice_parameters",
        pa.list_(pa.float32()),
        "a, b, c (Å) and alpha, beta, gamma (degrees)",
        "Å, degree",
        items="6",
    ),
    _field("spacegroup_number", pa.int32(), "Space group number"),
    _field("edge_source", pa.list_(pa.int16()), "Site u of the directed edge (u, v, image)"),
    _field("edge_target", pa.list_(pa.int16()), "Site v of the directed edge (u, v, image)", items="1 edge_source"),
    _field("edge_image", pa.list_(pa.int8()), "Cell of v relative to u, flattened (3 per edge)", items="3 edge_source"),
    _field("edge_distance", pa.list_(pa.float64()), "Length of the edge, eq. 9", "Å", items="1 edge_source"),
    key="material_id",
)

_REFERENCE_SOURCE = _field(
    "source", pa.string(), "Where the cell or the energy of an elemental reference comes from", nullable=True
)

SCF_REQUESTS = _schema(
    "scf_requests",
    "SCFs to be done: one row per crystal, elemental reference or design",
    _field("request_id", pa.string(), "material_id of a crystal, ref-<element> of a reference, design key of a design"),
    _field("kind", pa.string(), "crystal, reference or design"),
    _field(
        "form",
        pa.string(),
        "What the cell is: crystal (or design), elemental (the crystal of an element) or atom (in a box)",
    ),
    _field(
        "key",
        pa.string(),
        "SHA-256 of the physics: species, cell, positions, settings, pseudopotential md5s, magnetization",
    ),
    _field("shard", pa.int32(), "Shard that runs it"),
    _SPECIES,
    _LATTICE,
    _FRAC_COORDS,
    _field("tot_magnetization", pa.float64(), "Known total magnetization of the cell", "µB", nullable=True),
    _REFERENCE_SOURCE,
    key="request_id",
)

ATTEMPT = pa.struct(
    [
        _field("number", pa.int32(), "1 for the first"),
        _field("strategy", pa.string(), "Rung of the recovery ladder"),
        _field("outcome", pa.string(), "Outcome of this attempt"),
        _field("detail", pa.string(), "One sentence on it"),
        _field("nspin", pa.int32(), "1 or 2"),
        _field("tot_magnetization", pa.float64(), "Imposed total magnetization", "µB", nullable=True),
        _field("exit_code", pa.int32(), "Exit status of pw.x; negative for a signal", nullable=True),
        _field("wall_s", pa.float64(), "Wall time", "s"),
        _field(
            "restarted",
            pa.bool_(),
            "It went on from what a run that was cut off had saved; null where that was not recorded",
            nullable=True,
        ),
        _field("key", pa.string(), "Its record in the cache of finished runs"),
    ]
)

SCF_OUTCOMES = _schema(
    "scf_outcomes",
    "How each requested SCF ended: exactly one row per request",
    _field("request_id", pa.string(), "As in the request"),
    _field("kind", pa.string(), "crystal, reference or design"),
    _field("key", pa.string(), "As in the request"),
    _SPECIES,
    _field("outcome", pa.string(), "Name of the outcome (xtalrl.dft.outcomes.Outcome)"),
    _DETAIL,
    _field("total_energy_ry", pa.float64(), "Total energy of the cell as printed by pw.x", "Ry", nullable=True),
    _field("total_energy", pa.float64(), "Total energy of the cell", "eV", nullable=True),
    _field(
        "band_gap_raw",
        pa.float64(),
        "Lowest empty minus highest filled level over k and spin; may be negative",
        "eV",
        nullable=True,
    ),
    _field("band_gap", pa.float64(), "band_gap_raw clipped at 0", "eV", nullable=True),
    _field(
        "is_metallic",
        pa.bool_(),
        "The filled and empty bands overlap, or a smeared run has partly filled bands",
        nullable=True,
    ),
    _field("nspin", pa.int32(), "nspin of the attempt that ended it", nullable=True),
    _field(
        "tot_magnetization",
        pa.float64(),
        "Total magnetization imposed in the attempt that ended it",
        "µB",
        nullable=True,
    ),
    _REFERENCE_SOURCE,
    *_RECOVERY,
    *_PROTOCOL,
    _field("engine", pa.string(), "pw.x that ran it and its version", nullable=True),
    _field("wall_s", pa.float64(), "Wall time of all attempts", "s"),
    _field("attempts", pa.list_(ATTEMPT), "Every attempt, in order"),
    key="request_id",
)

REFERENCES = _schema(
    "references",
    "Energy per atom of each element in its reference form (eq. 15)",
    _field("element", pa.string(), "Chemical symbol"),
    _field("form", pa.string(), "crystal, atom (one atom in a box), imported, or none where nothing was run"),
    _field("n_sites", pa.int32(), "Atoms in the reference cell", nullable=True),
    _REFERENCE_SOURCE,
    _field("energy_per_atom", pa.float64(), "Total energy per atom", "eV/atom", nullable=True),
    _field("energy_per_atom_ry", pa.float64(), "Total energy per atom", "Ry/atom", nullable=True),
    _field("outcome", pa.string(), "Outcome of its SCF"),
    _DETAIL,
    *_PROTOCOL,
    key="element",
)

LABELS = _schema(
    "labels",
    "Gap and formation energy of every crystal; null where the SCF failed",
    _MATERIAL_ID,
    _SPLIT,
    _field("band_gap", pa.float64(), "Band gap, clipped at 0", "eV", nullable=True, within=(0, GAP_RANGE_EV[1])),
    _field("band_gap_raw", pa.float64(), "Band gap before clipping", "eV", nullable=True, within=GAP_RANGE_EV),
    _field("total_energy_ry", pa.float64(), "Total energy of the cell", "Ry", nullable=True),
    _field(
        "formation_energy_per_atom", pa.float64(), "Eq. 15", "eV/atom", nullable=True, within=FORMATION_ENERGY_RANGE_EV
    ),
    _field(
        "outcome",
        pa.string(),
        "Outcome of the SCF, or missing_reference, no_gap, implausible, imported, not_in_table, in_source",
    ),
    _DETAIL,
    *_PROTOCOL,
    _field(
        "source",
        pa.string(),
        "scf, unfinished where the machine ended the SCF (which says nothing about the crystal), or the table the value was imported from",
    ),
    key="material_id",
)

TRAJECTORIES = _schema(
    "trajectories",
    "Breadth-first orders of each labelled crystal with what the rewards need; step t fills site order[t] with actions[t]",
    _MATERIAL_ID,
    _SPLIT,
    _field("trajectory", pa.int32(), "Number of the trajectory within its crystal, from 0"),
    _field("order", pa.list_(pa.int16()), "Sites in the order they are filled; the first is the source of the search"),
    _field(
        "actions",
        pa.list_(pa.int8()),
        "Action index of the element placed at each step",
        within=(0, 87),
    ),
    _field(
        "band_gap", pa.float64(), "Band gap of the complete crystal, clipped at 0", "eV", within=(0, GAP_RANGE_EV[1])
    ),
    _field(
        "formation_energy_per_atom",
        pa.float64(),
        "Formation energy of the complete crystal",
        "eV/atom",
        within=FORMATION_ENERGY_RANGE_EV,
    ),
    _field("total_energy_ry", pa.float64(), "Total energy of the complete cell", "Ry", nullable=True),
    key="material_id trajectory",
)

DESIGNS = _schema(
    "designs",
    "Skeletons filled by a policy",
    _MATERIAL_ID,
    _field("policy", pa.string(), "Name of the policy"),
    _field("seed", pa.int32(), "Training seed of the policy"),
    _SAMPLE,
    _field("order", pa.list_(pa.int16()), "Sites in the order they were filled"),
    _FILLED,
)

_ASSESSMENT = (
    _MATERIAL_ID,
    _field("policy", pa.string(), "Name of the policy"),
    _field("seed", pa.int32(), "Training seed of the policy"),
    _SAMPLE,
    _FILLED,
    _field("formula", pa.string(), "Reduced formula of the design"),
    _field(
        "true_formula",
        pa.string(),
        "Reduced formula of the crystal the skeleton came from; null for an external crystal on its own cell",
        nullable=True,
    ),
    _field("n_sites", pa.int32(), "Sites of the skeleton"),
    _field("n_correct", pa.int32(), "Sites holding the true element; null where true_formula is", nullable=True),
    _field(
        "n_similar",
        pa.int32(),
        "Sites holding an element of the true element's class; null where true_formula is",
        nullable=True,
    ),
    _field("valid", pa.bool_(), "Charge-neutral by the rule in validity_rule"),
    _field("validity_rule", pa.string(), "Name of the validity rule"),
    _field("valid_smact14", pa.bool_(), "Valid by the rule smact-smact14"),
    _field("valid_icsd24", pa.bool_(), "Valid by the rule smact-icsd24, the default of smact >= 3"),
    _field(
        "odd_electrons",
        pa.bool_(),
        "Whether a cell has an odd number of electrons, so that it cannot be an insulator without spin",
    ),
    _field(
        "novel",
        pa.bool_(),
        "Composition absent from the formula list; null if invalid or no list was given",
        nullable=True,
    ),
    _field(
        "request_id",
        pa.string(),
        "SCF request of the design, shared by equal designs; null for an invalid one",
        nullable=True,
    ),
)

ASSESSMENTS = _schema("assessments", "Every design of every policy with what its composition tells", *_ASSESSMENT)

EVALUATION = _schema(
    "evaluation",
    "Every design of every policy with its composition verdicts and, where it was computed, its DFT properties",
    *_ASSESSMENT,
    _field("outcome", pa.string(), "Outcome of its SCF, or invalid_composition, or unusable_entry of an external set"),
    _DETAIL,
    _field("band_gap", pa.float64(), "Clipped at 0", "eV", nullable=True),
    _field("band_gap_raw", pa.float64(), "Before clipping", "eV", nullable=True),
    _field(
        "formation_energy_per_atom",
        pa.float64(),
        "Eq. 15; null also where a reference is missing",
        "eV/atom",
        nullable=True,
    ),
    *_RECOVERY,
    _field("true_band_gap", pa.float64(), "Label of the crystal the skeleton came from", "eV", nullable=True),
    _field("true_formation_energy_per_atom", pa.float64(), "Label of that crystal", "eV/atom", nullable=True),
)

_HIT = (
    _field("policy", pa.string(), "Name of the policy"),
    _field("seed", pa.int32(), "Training seed of the policy"),
    _MATERIAL_ID,
    _SAMPLE,
    _SPECIES,
    _field("formula", pa.string(), "Reduced formula of the design"),
    _field("request_id", pa.string(), "SCF request of the design, shared by equal designs"),
    _field("target_ev", pa.float64(), "Target gap of the policy", "eV"),
    _field("window_ev", pa.float64(), "Half width of the desired range", "eV"),
    _field("band_gap", pa.float64(), "Gap that made it a hit, clipped at 0", "eV"),
)

HITS = _schema("hits", "Designs whose gap lies in the desired range of their policy's target", *_HIT)

CONFIRMATION = _schema(
    "confirmation",
    "Every hit with its gap on a doubled k mesh and at the family's recommended cutoffs",
    *_HIT,
    _field("verdict", pa.string(), "hit confirmed, hit withdrawn, or hit where the finer SCF gave no gap"),
    _field("confirmed_band_gap", pa.float64(), "Gap of the finer SCF, clipped at 0", "eV", nullable=True),
    _field("difference", pa.float64(), "confirmed_band_gap less band_gap", "eV", nullable=True),
    _field("outcome", pa.string(), "Outcome of the finer SCF"),
    _DETAIL,
    *_PROTOCOL,
)

STABILITY = _schema(
    "stability",
    "Designs with a formation energy against the convex hull of the labelled crystals and the elements; nothing is relaxed",
    _field("request_id", pa.string(), "SCF request of the design, shared by equal designs"),
    _field("formula", pa.string(), "Reduced formula of the design"),
    _field("energy_above_hull", pa.float64(), "Negative where the design lies below the hull of the others", "eV/atom"),
    _field("n_competing", pa.int32(), "Labelled compounds made of the design's elements alone"),
    _field("decomposition", pa.list_(pa.string()), "Reduced formulas of the phases of the hull at this composition"),
    _field("flag", pa.string(), "Why the hull says little (xtalrl.metrics.stability); empty where it does not"),
    key="request_id",
)

PREDICTIONS = _schema(
    "predictions",
    "What a predictor says of complete crystals, before any SCF",
    _field("material_id", pa.string(), "The crystal: its material_id, or the request_id of a design"),
    _field(
        "p_failure",
        pa.float64(),
        "Probability that its SCF gives no gap; null where the predictor has seen no SCFs",
        "1",
        nullable=True,
        within=(0, 1),
    ),
    _field("p_metal", pa.float64(), "Probability that it is a metal, if its SCF gives a gap", "1", within=(0, 1)),
    _field("nonmetal_gap", pa.float64(), "Expected band gap, if it is not a metal", "eV"),
    _field("nonmetal_gap_std", pa.float64(), "Standard deviation of that gap, within and between the members", "eV"),
    _field("nonmetal_gap_spread", pa.float64(), "Standard deviation between the members alone", "eV"),
    _field("band_gap", pa.float64(), "Median of the gap, metals counted: 0 where p_metal is at least a half", "eV"),
    _field("band_gap_low", pa.float64(), "Lower end of the conformal interval of the gap, metals counted", "eV"),
    _field("band_gap_high", pa.float64(), "Upper end of that interval", "eV"),
    _field("formation_energy_per_atom", pa.float64(), "Median of the formation energy", "eV/atom"),
    _field(
        "formation_energy_std",
        pa.float64(),
        "Standard deviation of the formation energy, within and between the members",
        "eV/atom",
    ),
    _field("formation_energy_spread", pa.float64(), "Standard deviation between the members alone", "eV/atom"),
    _field("formation_energy_low", pa.float64(), "Lower end of its conformal interval", "eV/atom"),
    _field("formation_energy_high", pa.float64(), "Upper end of that interval", "eV/atom"),
    _field("confidence", pa.float64(), "Share of crystals whose value the intervals are to cover", "1", within=(0, 1)),
    _field(
        "calibrated_on",
        pa.string(),
        "Whose errors make the interval of the gap: crystals, or designs where enough have a gap",
    ),
    _field(
        "gap_from",
        pa.float64(),
        "The wanted gaps are above this; null where there is no such limit",
        "eV",
        nullable=True,
    ),
    _field(
        "gap_to",
        pa.float64(),
        "The wanted gaps are below this; null where there is no such limit",
        "eV",
        nullable=True,
    ),
    _field(
        "p_hit",
        pa.float64(),
        "Probability that its SCF gives a wanted gap; null where no gap is wanted",
        "1",
        nullable=True,
        within=(0, 1),
    ),
    _field("predictor", pa.string(), "First 16 digits of the SHA-256 of the predictor's file"),
    key="material_id",
)

SCREENING = _schema(
    "screening",
    "Every design proposed in a round of the campaign and what became of it",
    _field("round", pa.int32(), "Round of the campaign, from 1"),
    _MATERIAL_ID,
    _field("policy", pa.string(), "Name of the policy"),
    _field("seed", pa.int32(), "Training seed of the policy"),
    _SAMPLE,
    _SPECIES,
    _field("formula", pa.string(), "Reduced formula of the design"),
    _field("request_id", pa.string(), "SCF request of the design; null for an invalid one", nullable=True),
    _field(
        "novel",
        pa.bool_(),
        "Composition absent from the formula list; null if invalid or no list was given",
        nullable=True,
    ),
    _field(
        "verdict",
        pa.string(),
        "chosen: gets an SCF for its probability. audited: gets one by lot, from what the screen would have dropped. dropped: gets none. "
        "left out: was never up for choice",
    ),
    _field("why", pa.string(), "Why it was left out; empty where it was not"),
    _field("rank", pa.int32(), "Place among the designs of the round that were up for choice, from 1", nullable=True),
    _field(
        "p_hit", pa.float64(), "Predicted probability of a hit, all wishes counted", "1", nullable=True, within=(0, 1)
    ),
    _field("band_gap", pa.float64(), "Predicted band gap", "eV", nullable=True),
    _field("formation_energy_per_atom", pa.float64(), "Predicted formation energy", "eV/atom", nullable=True),
)

SCHEMAS: dict[str, pa.Schema] = {
    schema.metadata[b"xtalrl_table"].decode(): schema
    for schema in (
        CRYSTALS, REJECTED, GRAPHS, SCF_REQUESTS, SCF_OUTCOMES, REFERENCES, LABELS, TRAJECTORIES, DESIGNS, ASSESSMENTS, EVALUATION, HITS, CONFIRMATION,
        STABILITY, PREDICTIONS, SCREENING,
    )
}  # fmt: skip


def table_name(schema: pa.Schema) -> str:
    """Name of a stage table."""
    return str(schema.metadata[b"xtalrl_table"].decode())


def from_rows(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of this schema.

    Raises:
        ValueError: a key is not in the schema, or a value is null where the schema allows none; this is a bug.
    """
    rows = list(rows)
    for row in rows:
        if unknown := set(row) - set(schema.names):
            raise ValueError(f"{table_name(schema)} has no column {sorted(unknown)}; its columns are {schema.names}")
    columns = []
    for field in schema:
        values = [row.get(field.name) for row in rows]
        if not field.nullable and any(value is None for value in values):
            raise ValueError(f"{table_name(schema)}.{field.name} must not be null")
        columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def write(table: pa.Table, schema: pa.Schema, path: str | Path) -> None:
    """Write a stage table as zstd Parquet, completely or not at all: the final name appears only when the file is complete."""
    _write_all([table], schema, path)


def write_rows(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, path: str | Path) -> None:
    """Write rows as a stage table, one row group at a time, so that an iterator is never in memory as a whole.

    Raises:
        ValueError: as in `from_rows`.
    """
    iterator = iter(rows)
    parts = iter(lambda: list(islice(iterator, ROW_GROUP_ROWS)), [])
    _write_all((from_rows(part, schema) for part in parts), schema, path)


def _write_all(parts: Iterable[pa.Table], schema: pa.Schema, path: str | Path) -> None:
    digest = ContentDigest()
    with whole_file(path) as temporary:
        marked = schema.with_metadata(schema.metadata | _HAS_DIGESTS)
        with pq.ParquetWriter(temporary, marked, compression="zstd", write_page_checksum=True) as writer:
            digest.update(schema.empty_table())
            for part in parts:
                table = _conforming(part, schema)
                digest.update(table)
                writer.write_table(table.cast(marked), row_group_size=ROW_GROUP_ROWS)
            writer.add_key_value_metadata({_DIGESTS: json.dumps(digest.by_column())})


def read(path: str | Path, schema: pa.Schema) -> pa.Table:
    """Read a stage table, and check its values and all that the file says about itself.

    Raises:
        XtalrlError: the file is missing or not readable, is another table or has other units, lacks a column of the schema, holds a value that the
            schema does not allow, or was changed after it was written.
    """
    return pa.concat_tables([schema.empty_table(), *read_parts(path, schema)])


def read_parts(path: str | Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """Read and check a table as `read` does, one row group at a time; a changed file may be noticed only after the last group."""
    check, digest = TableCheck(schema), ContentDigest()
    with _open(path, schema) as file:
        for number in range(file.num_row_groups):
            part = file.read_row_group(number, columns=schema.names)
            digest.update(part)
            part = _conforming(part, schema)
            if fault := check.fault(part):
                raise XtalrlError(f"{path} cannot be used: {fault}. Delete it and run `snakemake {path}` again.")
            yield part
        _compare(digest, file, path)


def n_rows(path: str | Path, schema: pa.Schema) -> int:
    """Number of rows of a stage table, without reading them."""
    with _open(path, schema) as file:
        return int(file.metadata.num_rows)


def metadata_of(path: str | Path) -> dict[str, str]:
    """The metadata of a table's schema.

    Raises:
        XtalrlError: the file is missing or not readable.
    """
    with _reading(Path(path)) as path:
        return {name.decode(): value.decode() for name, value in (pq.read_schema(path).metadata or {}).items()}


def _conforming(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return table if table.schema == schema else table.select(schema.names).cast(schema)


@contextmanager
def _open(path: str | Path, schema: pa.Schema) -> Iterator[pq.ParquetFile]:
    """The open file, after its schema was compared with ours."""
    with _reading(Path(path)) as path, pq.ParquetFile(path, page_checksum_verification=True) as file:
        _compare_schemas(file.schema_arrow, schema, path)
        yield file


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Turn whatever Arrow raises while the file is read into one sentence."""
    try:
        yield path
    except XtalrlError:
        raise
    except FileNotFoundError:
        raise XtalrlError(f"{path} does not exist: run the stage that writes it first (`snakemake {path}`).") from None
    except PermissionError as error:
        error.filename = error.filename or str(path)
        raise
    except pa.ArrowTypeError as error:
        raise XtalrlError(
            f"{path} was written by another version of xtalrl ({error}): delete it and run "
            f"`snakemake {path}` again; what the cache holds is not computed again."
        ) from None
    except (
        Exception
    ) as error:  # For a damaged file, Arrow raises nearly anything: OSError, MemoryError, UnicodeDecodeError, ...
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise XtalrlError(
            f"{path} is not a readable Parquet file ({what}): delete it and run `snakemake {path}` again."
        ) from None


def _compare_schemas(theirs: pa.Schema, ours: pa.Schema, path: Path) -> None:
    """Raise XtalrlError if a file is another table, lacks columns, or has other units."""
    again = f"delete it and run `snakemake {path}` again."
    name = (theirs.metadata or {}).get(b"xtalrl_table")
    if name is not None and name != ours.metadata[b"xtalrl_table"]:
        raise XtalrlError(f"{path} is the table {name.decode()!r}, not {table_name(ours)!r}: {again}")
    if missing := [column for column in ours.names if column not in theirs.names]:
        raise XtalrlError(
            f"{path} lacks the column(s) {', '.join(missing)} of the table {table_name(ours)!r} (it has {', '.join(theirs.names)}): {again}"
        )
    if repeated := [column for column in ours.names if theirs.names.count(column) > 1]:
        raise XtalrlError(f"{path} has the column(s) {', '.join(repeated)} more than once: {again}")
    for field in ours:
        wanted, found = ((f.metadata or {}).get(b"unit") for f in (field, theirs.field(field.name)))
        if wanted != found and (found is not None or name is not None):
            units = [unit.decode() if unit else "no unit" for unit in (found, wanted)]
            raise XtalrlError(f"{path} gives {field.name} in {units[0]}, and it must be in {units[1]}: {again}")


def _compare(digest: ContentDigest, file: pq.ParquetFile, path: str | Path) -> None:
    """Raise XtalrlError if the values are not those that were written."""
    if not _HAS_DIGESTS.items() <= (file.schema_arrow.metadata or {}).items():
        return  # written by an older version, or by another program
    written = json.loads((file.metadata.metadata or {}).get(_DIGESTS, b"{}"))
    if changed := [name for name, found in digest.by_column().items() if written.get(name) != found]:
        raise XtalrlError(
            f"{path} was changed or damaged after it was written ({', '.join(changed)}): delete it and run `snakemake {path}` again. If you "
            "changed it, and mean it, write it without its metadata (`table.replace_schema_metadata()` of pyarrow)."
        )


def read_rows(path: str | Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """Read and check a table as `read` does, and return its rows as dictionaries."""
    rows: list[dict[str, Any]] = read(path, schema).to_pylist()
    return rows
