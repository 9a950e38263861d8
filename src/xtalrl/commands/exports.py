"""Designs for other programs and for people: CIF, extxyz, ASE database, OPTIMADE, CSV, each with gap, energies, outcome and provenance.

Finished SCFs of a cache in the same formats. And whole runs: a data set for Hugging Face, trajectories for Minari.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import itertools
import json
import logging
import os
import re
import shutil
import sqlite3
import urllib.parse
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ase
import ase.db
import ase.io
import pyarrow as pa
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.cif import parse_cif
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict
from pymatgen.io.cif import CifBlock, CifFile, CifWriter

from xtalrl import tables
from xtalrl.cells import Cell, reduced_formula, write_formula
from xtalrl.commands.export_huggingface import write_huggingface
from xtalrl.commands.export_minari import write_minari
from xtalrl.config import Config
from xtalrl.csv_files import csv_text
from xtalrl.dft.cache import Record
from xtalrl.dft.exchange import records_of
from xtalrl.dft.outcomes import Outcome
from xtalrl.energies import RYDBERG_EV_PAPER
from xtalrl.errors import XtalrlError
from xtalrl.files import put
from xtalrl.metrics.formulas import reduce_counts
from xtalrl.progress import Progress
from xtalrl.structures.external import space_group

logger = logging.getLogger(__name__)

OPTIMADE_VERSION = "1.2.0"
PREFIX = "_xtalrl_"
"""Prefix of our own fields: CIF and OPTIMADE demand one for fields that are not in their standards."""
CIF_FIGURES = 10
MAX_FILE_NAME = 200
"""Largest number of characters of a file name; file systems take 255 bytes."""
_OF_EVALUATION = (
    "policy", "seed", "sample", "material_id", "true_formula", "valid", "validity_rule", "novel", "n_correct", "outcome", "detail",
    "band_gap", "band_gap_raw", "formation_energy_per_atom", "strategy", "recovered", "true_band_gap",
    "true_formation_energy_per_atom",
)  # fmt: skip
_OF_SCF = ("total_energy", "nspin", "tot_magnetization", "protocol", "protocol_hash", "family", "engine")
_OF_HULL = {"energy_above_hull": "energy_above_hull", "hull_flag": "flag"}
_OF_CONFIRMATION = {"verdict": "verdict", "confirmed_band_gap": "confirmed_band_gap"}
FIELDS: dict[str, pa.Field] = (
    {name: tables.EVALUATION.field(name) for name in _OF_EVALUATION}
    | {name: tables.SCF_OUTCOMES.field(name) for name in _OF_SCF}
    | {name: tables.STABILITY.field(column) for name, column in _OF_HULL.items()}
    | {name: tables.CONFIRMATION.field(column) for name, column in _OF_CONFIRMATION.items()}
    | {"spacegroup_number": tables.CRYSTALS.field("spacegroup_number")}
)
"""Fields that are exported with a crystal, by name; descriptions and units are those of the tables. Null values are left out."""


@dataclass(frozen=True)
class Design:
    """A filled skeleton: a unique name, its cell, and `FIELDS`."""

    name: str
    cell: Cell
    values: Mapping[str, Any]

    @property
    def reduced_formula(self) -> str:
        """Reduced formula, e.g. BeO."""
        return reduced_formula(self.cell.species)

    @property
    def formula(self) -> dict[str, int]:
        """Number of atoms of each element, in alphabetical order."""
        return dict(sorted(Counter(self.cell.species).items()))


SORT_KEYS = (
    "band_gap",
    "formation_energy_per_atom",
    "energy_above_hull",
    "total_energy",
    "confirmed_band_gap",
    "n_correct",
)
"""Fields to sort by."""


@dataclass(frozen=True)
class Selection:
    """Which designs to export and in which order; by default all, in the order of the evaluation.

    The ends of the range of gaps (eV) and `max_hull` (eV/atom above the hull) are included. `one_per_formula` keeps the first design of each reduced
    formula in the chosen order, and `limit` then keeps the first ones.
    """

    policies: Sequence[str] | None = None
    outcomes: Sequence[str] | None = None
    gap_from: float | None = None
    gap_to: float | None = None
    valid: bool = False
    novel: bool = False
    max_hull: float | None = None
    sort: str | None = None
    descending: bool = False
    one_per_formula: bool = False
    limit: int | None = None

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether a design with these `FIELDS` is selected; a design without a gap or a hull is in no range."""
        gap, hull = values.get("band_gap"), values.get("energy_above_hull")
        return (
            (not self.policies or values["policy"] in self.policies)
            and (not self.outcomes or values["outcome"] in self.outcomes)
            and (self.gap_from is None or (gap is not None and gap >= self.gap_from))
            and (self.gap_to is None or (gap is not None and gap <= self.gap_to))
            and (not self.valid or values["valid"] is True)
            and (not self.novel or values.get("novel") is True)
            and (self.max_hull is None or (hull is not None and hull <= self.max_hull))
        )

    def arranged(self, designs: Sequence[Design]) -> list[Design]:
        """The designs in the chosen order and number; those without a value to sort by come last."""
        chosen = list(designs)
        if self.sort is not None:
            sort, sign = self.sort, -1 if self.descending else 1
            chosen.sort(key=lambda d: (sort not in d.values, sign * d.values.get(sort, 0)))
        if self.one_per_formula:
            first = {design.reduced_formula: design for design in reversed(chosen)}
            chosen = [design for design in chosen if first[design.reduced_formula] is design]
        return chosen[: self.limit]


def export_designs(config: Config, output: str | Path, selection: Selection) -> int:
    """Write designs of an evaluated run in the format that the ending of `output` names.

    Args:
        config: configuration of the run.
        output: a folder of CIFs (no ending), or .zip of CIFs, .xyz or .extxyz, .db (ASE), .json or .jsonl (OPTIMADE), .csv. It must not exist.
        selection: designs to write.

    Returns:
        The number of designs that were written.

    Raises:
        XtalrlError: the run is not evaluated yet, nothing fits the selection, or `output` exists or has another ending.
    """
    output = check_output(output)
    designs = select_designs(config, selection)
    write_designs(designs, output)
    logger.info("Wrote %s designs to %s", f"{len(designs):,}", output)
    return len(designs)


def export_run(config: Config, output: str | Path, selection: Selection) -> dict[str, int]:
    """Write a whole run, into a folder whose ending says for what.

    Args:
        config: configuration of the run.
        output: .hf, a data set for Hugging Face with designs, crystals, SCFs and labels, or .minari, the trajectories. It must not exist.
        selection: must select everything.

    Returns:
        The number of rows of each table, or of episodes and steps.

    Raises:
        XtalrlError: a table of the run is missing, a library is not installed, something is selected, or `output` exists.
    """
    output = check_output(output)
    if selection != Selection():
        raise XtalrlError(
            f"{output}: a {output.suffix} holds the whole run: leave out the options that select or sort designs."
        )
    with _made_whole(output) as temporary:
        temporary.mkdir()
        return RUN_WRITERS[output.suffix](config, temporary)


def export_scfs(
    cache: str | Path, output: str | Path, keys: Collection[str] | None = None, finished: str | None = None
) -> int:
    """Write the finished SCFs of a cache as structures, in any format of `export_designs`.

    Args:
        cache: folder of the cache.
        output: as `export_designs` takes it. It must not exist.
        keys: the calculations to write; None writes all.
        finished: as `records_of` takes it.

    Returns:
        The number of SCFs that were written. Those of the first version of the cache, which did not hold their cells, are left out.

    Raises:
        XtalrlError: there is no cache or no SCF in it, what `finished` names cannot be taken, or `output` exists or has another ending.
    """
    output = check_output(output)
    if output.suffix in RUN_WRITERS:
        raise XtalrlError(f"{output}: a {output.suffix} is of a run: `xtalrl export {output}`.")
    scfs = [_scf(record) for record in records_of(cache, keys, finished) if record.is_complete]
    if not scfs:
        raise XtalrlError(f"{cache} holds no finished SCF with its cell that was asked for.")
    write_designs(scfs, output)
    return len(scfs)


def _scf(record: Record) -> Design:
    """A calculation under its key. A gap or energy that a failed one printed is left out."""
    settings, usable = record.settings or {}, Outcome(record.outcome).usable
    values = {
        "outcome": record.outcome,
        "detail": record.detail,
        "band_gap_raw": record.band_gap_raw_ev if usable else None,
        "total_energy": record.total_energy_ry * RYDBERG_EV_PAPER
        if usable and record.total_energy_ry is not None
        else None,
        "nspin": settings.get("nspin"),
        "tot_magnetization": settings.get("tot_magnetization"),
        "protocol": record.protocol,
        "family": record.family,
        "engine": record.engine,
    }
    cell = Cell.from_row({"species": record.species, "lattice": record.lattice, "frac_coords": record.frac_coords})
    return Design(record.key, cell, {name: value for name, value in values.items() if value not in (None, "")})


def check_output(output: str | Path) -> Path:
    """The path that designs, or a whole run, are to be written to.

    Raises:
        XtalrlError: the path exists, or does not have one of the endings that `export_designs` and `export_run` name.
    """
    output = Path(output)
    if output.suffix not in (*_WRITERS, *RUN_WRITERS):
        raise XtalrlError(
            f"{output}: the ending {output.suffix!r} is not known. Name a folder (no ending) or a .zip for CIFs, .xyz or .extxyz, .db for an ASE "
            "database, .json or .jsonl for OPTIMADE, .csv for a list; or, of a whole run, .hf for Hugging Face or .minari for Minari."
        )
    if output.exists():
        raise XtalrlError(f"{output} exists already: name another, or delete it first.")
    return output


def write_designs(designs: Sequence[Design], output: Path) -> None:
    """Write designs to a path of `check_output`, completely or not at all."""
    with _made_whole(output) as temporary:
        _WRITERS[output.suffix](_with_progress(designs), temporary)


@contextlib.contextmanager
def _made_whole(output: Path) -> Iterator[Path]:
    """A path to write to, whose file or folder becomes `output` if all goes well."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{os.getpid()}.{output.name}")
    try:
        yield temporary
        put(temporary, output)
    except sqlite3.OperationalError as error:  # as of a full disk
        raise XtalrlError(f"{output} cannot be written ({error}): free some space, or choose another folder.") from None
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def select_designs(config: Config, selection: Selection) -> list[Design]:
    """The designs of a run that fit, as the selection arranges them.

    Raises:
        XtalrlError: a table is missing, a name or value of the selection is unknown, or no design fits.
    """
    folder = Path(config.results)
    rows = tables.read_rows(folder / "evaluation/evaluation.parquet", tables.EVALUATION)
    evaluation = [row for row in rows if row["species"]]  # Entries of external sets that are not crystals have none.
    _check(selection, evaluation, folder)
    scfs = _by_request(folder / "evaluation/outcomes.parquet", tables.SCF_OUTCOMES)
    hull = _by_request(folder / "evaluation/stability.parquet", tables.STABILITY)
    confirmed = {
        (row["policy"], row["request_id"]): row
        for row in _rows_if_there(folder / "confirmation/confirmation.parquet", tables.CONFIRMATION)
    }
    chosen = []
    for row in evaluation:
        request = row["request_id"]
        values = {name: row[name] for name in _OF_EVALUATION}
        for names, source in (
            (dict(zip(_OF_SCF, _OF_SCF, strict=True)), scfs.get(request)),
            (_OF_HULL, hull.get(request)),
            (_OF_CONFIRMATION, confirmed.get((row["policy"], request))),
        ):
            values |= {name: source[column] for name, column in names.items()} if source else {}
        values = {name: value for name, value in values.items() if value not in (None, "")}
        if selection.holds(values):
            chosen.append((row, values))
    if not chosen:
        raise XtalrlError(f"None of the {len(evaluation):,} designs of {folder} fits: {_widest(selection)}.")
    cells = {
        row["material_id"]: row
        for path in ("structures", *(f"external/{name}" for name in config.external))
        for row in tables.read_rows(folder / path / "crystals.parquet", tables.CRYSTALS)
    }
    designs = []
    for row, values in chosen:
        cell = cells.get(row["material_id"])
        if cell is None:
            raise XtalrlError(
                f"The cell of {row['material_id']}, a design of {row['policy']}, is not among the structures of {folder}: is it an external set "
                f"that the configuration does not name any more? Give the one that the run was made with: `--results {folder}`."
            )
        name = f"{row['policy']}/seed{row['seed']}/{row['material_id']}"
        name += f"/{row['sample']}" if row["sample"] else ""
        designs.append(Design(name, Cell.from_row(cell | {"species": row["species"]}), values))
    return [
        replace(design, values={**design.values, "spacegroup_number": space_group(design.cell.to_structure())})
        for design in selection.arranged(designs)
    ]


def _check(selection: Selection, evaluation: Sequence[Mapping[str, Any]], folder: Path) -> None:
    for what, asked in (("policy", selection.policies), ("outcome", selection.outcomes)):
        there = {row[what] for row in evaluation}
        if unknown := [name for name in asked or () if name not in there]:
            raise XtalrlError(
                f"No design of {folder} has the {what} {unknown[0]!r}; there are: {', '.join(sorted(there))}."
            )
    if selection.gap_from is not None and selection.gap_to is not None and selection.gap_from > selection.gap_to:
        raise XtalrlError(
            f"--gap-from {selection.gap_from:g} is above --gap-to {selection.gap_to:g}, and no gap is between them: exchange the two."
        )
    if selection.sort is not None and selection.sort not in SORT_KEYS:
        raise XtalrlError(f"--sort {selection.sort!r} is not known; there are: {', '.join(SORT_KEYS)}.")
    if selection.novel and all(row["novel"] is None for row in evaluation):
        raise XtalrlError(
            f"Whether a design of {folder} is novel is not known: name known formulas in `evaluation.formulas`, or leave --novel out."
        )


def _widest(selection: Selection) -> str:
    """A sentence on what to change if no design fits."""
    if selection.max_hull is not None:
        return "raise --max-hull, or leave it out (the hull is in evaluation/stability.parquet)"
    return "widen the selection"


def _by_request(path: Path, schema: pa.Schema) -> dict[str, dict[str, Any]]:
    return {row["request_id"]: row for row in _rows_if_there(path, schema)}


def _rows_if_there(path: Path, schema: pa.Schema) -> list[dict[str, Any]]:
    """The rows of a table of the run; none if the run does not have the table."""
    return tables.read_rows(path, schema) if path.exists() else []


def to_atoms(design: Design) -> ase.Atoms:
    """The design as ASE's atoms; the energy of the cell (eV) is in a calculator, everything else in `info`."""
    atoms = design.cell.to_atoms()
    atoms.info = {"name": design.name} | {
        name: value for name, value in design.values.items() if name != "total_energy"
    }
    if "total_energy" in design.values:
        calculator: Any = SinglePointCalculator
        atoms.calc = calculator(atoms, energy=design.values["total_energy"])
    return atoms


def to_cif(design: Design) -> str:
    """A CIF without symmetry, every site listed; our fields have the prefix `_xtalrl_` (see `read_cif_values`)."""
    (block,) = CifWriter(design.cell.to_structure(), significant_figures=CIF_FIGURES).cif_file.data.values()
    block.header = _file_name(design)
    fields = [f"{PREFIX}{name}   {_cif_value(value)}\n" for name, value in design.values.items()]
    return "".join([f"{block}\n", *fields])


def read_cif_values(text: str) -> dict[str, Any]:
    """The values that `to_cif` wrote beside the crystal, by the names of `FIELDS`.

    A text is written unchanged if the CIF readers of ASE and pymatgen return it unchanged. Any other text is percent-encoded UTF-8 between quotation
    marks, because CIF is ASCII, and ASE reads a backslash as the beginning of a Greek letter and two hyphens as a dash. Other values are JSON.
    """
    (block,) = CifFile.from_str(text).data.values()
    values = {key.removeprefix(PREFIX): value for key, value in block.data.items() if key.startswith(PREFIX)}
    return {
        name: json.loads(value)
        if not pa.types.is_string(FIELDS[name].type)
        else urllib.parse.unquote(value[1:-1])
        if value.startswith('"')
        else value
        for name, value in values.items()
    }


def _cif_value(value: Any) -> str:
    """A value as a CIF holds it."""
    if not isinstance(value, str):
        return json.dumps(value)
    if value.isascii() and value.isprintable() and not value.startswith('"'):
        for written in (f"'{value}'", f'"{value}"', f"\n;{value}\n;"):
            cif = f"data_x\n_x {written}\n"
            with contextlib.suppress(Exception), warnings.catch_warnings():  # of a reader, on what is not a CIF
                warnings.simplefilter("ignore")
                blocks: Any = (CifBlock.from_str(cif), next(parse_cif(io.StringIO(cif), reader="ase")))
                if all(block["_x"] == value for block in blocks):
                    return written
    return f"""'"{urllib.parse.quote(value, safe=" ()*,./:;=@").replace("~", "%7E").replace("-", "%2D")}"'"""


def _extxyz_value(value: Any) -> Any:
    """A value in the form in which ASE reads it back from the comment line; a text that ASE would take for something else is JSON."""
    if not isinstance(value, str):
        return value
    info = {"x": value, "y": 1}
    write, read = cast(Any, key_val_dict_to_str), cast(Any, key_val_str_to_dict)
    if value.isascii() and value.isprintable():
        back = read(write(info))
        if back.keys() == info.keys() and isinstance(back["x"], str) and back["x"] == value:
            return value
    # ASE takes a backslash away when it reads, and adds none but before the quotation marks when it writes.
    escaped = json.dumps(value)[1:-1].replace('\\"', "\\u0022").replace("\\", "\\\\")
    return f'_JSON "{escaped}"'


def to_optimade(design: Design) -> dict[str, Any]:
    """A resource of type `structures` (OPTIMADE 1.2)."""
    counts = design.formula
    reduced = reduce_counts(counts)
    ranked = sorted(reduced.values(), reverse=True)
    return {
        "id": design.name,
        "type": "structures",
        "attributes": {
            "immutable_id": None,
            "last_modified": None,
            "elements": list(counts),
            "nelements": len(counts),
            "elements_ratios": [n / len(design.cell.species) for n in counts.values()],
            "chemical_formula_descriptive": write_formula(counts),
            "chemical_formula_reduced": write_formula(reduced),
            "chemical_formula_anonymous": write_formula(dict(zip(_LETTERS, ranked, strict=False))),
            "dimension_types": [1, 1, 1],
            "nperiodic_dimensions": 3,
            "lattice_vectors": design.cell.vectors.tolist(),
            "cartesian_site_positions": (design.cell.positions @ design.cell.vectors).tolist(),
            "nsites": len(design.cell.species),
            "species": [{"name": element, "chemical_symbols": [element], "concentration": [1.0]} for element in counts],
            "species_at_sites": list(design.cell.species),
            "structure_features": [],
            **{PREFIX + name: value for name, value in design.values.items()},
        },
    }


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Letters of an anonymous formula; a cell of 20 sites has at most 20 elements."""


def _file_name(design: Design) -> str:
    """File name of a design: its formula, then its origin. BeO_bc_seed0_BN-hexagonal fills the cell of boron nitride."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{write_formula(reduce_counts(design.formula))}_{design.name}")[
        :MAX_FILE_NAME
    ]


def _named_cifs(designs: Iterable[Design]) -> Iterator[tuple[str, str]]:
    names: set[str] = set()
    for design in designs:
        name = _file_name(design)
        numbered = itertools.chain((name,), (f"{name}__{number}" for number in itertools.count(2)))
        free = next(candidate for candidate in numbered if candidate.lower() not in names)
        names.add(free.lower())  # Some file systems do not tell a from A.
        yield f"{free}.cif", to_cif(design)


def _write_cif_folder(designs: Iterable[Design], path: Path) -> None:
    path.mkdir()
    for name, text in _named_cifs(designs):
        (path / name).write_text(text, encoding="utf-8")


def _write_cif_zip(designs: Iterable[Design], path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in _named_cifs(designs):
            archive.writestr(name, text)


def _write_list(designs: Iterable[Design], path: Path) -> None:
    lengths = ("a", "b", "c", "alpha", "beta", "gamma")
    rows: Iterable[dict[str, object]] = (
        {
            "name": design.name,
            "formula": design.reduced_formula,
            "n_sites": len(design.cell.species),
            **design.values,
            **dict(zip(lengths, design.cell.to_structure().lattice.parameters, strict=True)),
        }
        for design in designs
    )
    path.write_text(csv_text(("name", "formula", "n_sites", *FIELDS, *lengths), rows), encoding="utf-8")


def _write_extxyz(designs: Iterable[Design], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for design in designs:
            atoms = to_atoms(design)
            atoms.info = {name: _extxyz_value(value) for name, value in atoms.info.items()}
            ase.io.write(file, atoms, format="extxyz")


def _write_database(designs: Iterable[Design], path: Path) -> None:
    connect: Any = ase.db.connect
    check: Any = ase.db.core.check
    with connect(path, type="db", append=False) as database:
        for design in designs:
            atoms = to_atoms(design)
            values, atoms.info = atoms.info, {}
            # A key that ASE keeps for itself, or a text that looks like a number, is in `data` only.
            pairs = {}
            for name, value in values.items():
                with contextlib.suppress(ValueError):
                    check({name: value})
                    pairs[name] = value
            database.write(atoms, key_value_pairs=pairs, data={"xtalrl": values})


def _write_optimade_lines(designs: Iterable[Design], path: Path) -> None:
    """OPTIMADE's JSON Lines, from which a server can be started: a header, a line on our own fields, then a resource per line."""
    fields = {PREFIX + name: _described(field) for name, field in FIELDS.items()}
    header = {"x-optimade": {"meta": {"api_version": OPTIMADE_VERSION}}}
    info = {"type": "info", "id": "structures", "properties": fields}
    with path.open("w", encoding="utf-8") as file:
        for line in itertools.chain([header, info], map(to_optimade, designs)):
            file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def _write_optimade(designs: Iterable[Design], path: Path) -> None:
    version = importlib.metadata.version("xtalrl")
    data = [to_optimade(design) for design in designs]
    response = {
        "data": data,
        "meta": {
            "api_version": OPTIMADE_VERSION,
            "query": {"representation": "/structures"},
            "more_data_available": False,
            "data_returned": len(data),
            "implementation": {"name": "xtalrl", "version": version},
            f"{PREFIX}fields": {PREFIX + name: _described(field) for name, field in FIELDS.items()},
        },
    }
    path.write_text(json.dumps(response, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def _described(field: pa.Field) -> dict[str, str]:
    return {
        key: field.metadata[key.encode()].decode() for key in ("description", "unit") if key.encode() in field.metadata
    }


def _with_progress(designs: Sequence[Design]) -> Iterator[Design]:
    progress = Progress("Exporting", len(designs), "designs")
    for design in designs:
        yield design
        progress.advance()


_WRITERS: dict[str, Callable[[Iterable[Design], Path], None]] = {
    "": _write_cif_folder,
    ".zip": _write_cif_zip,
    ".xyz": _write_extxyz,
    ".extxyz": _write_extxyz,
    ".db": _write_database,
    ".json": _write_optimade,
    ".jsonl": _write_optimade_lines,
    ".csv": _write_list,
}
RUN_WRITERS: Mapping[str, Callable[[Config, Path], dict[str, int]]] = {
    ".hf": write_huggingface,
    ".minari": write_minari,
}
"""How a whole run is written into an empty folder, by its ending."""
