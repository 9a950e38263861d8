"""A CIF is read completely or rejected: pymatgen reads it, and the result is compared with what the file states.

pymatgen drops labels that it does not know, takes P1 if it cannot find the symmetry, and only warns. Therefore

- each atom must name an element, and nothing may be left to guess: no hydrogens without positions, no occupancies, coordinates or symmetry
  operations that cannot be read;
- the elements and their ratios must be those of `_chemical_formula_sum`;
- the number of atoms must be that of the formula and `_cell_formula_units_Z`. A file that does not state it must not contradict its
  multiplicities and its space group.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure
from pymatgen.io.cif import CifBlock, CifParser

from xtalrl.structures.rejections import Reason, Rejection

MAX_SITES_READ = 400
"""Maximum number of atoms in the cell of a CIF: 20 in a primitive cell are at most 80 in its conventional one. pymatgen needs minutes for some thousands."""
MAX_OPERATIONS = 1000
RATIO_TOLERANCE = 0.01
"""Relative tolerance of the ratio of two elements: one atom among 20 is 5 %."""
SITE_TOLERANCE = 1e-4
"""Tolerance in fractional coordinates: images of an atom nearer than this are one (pymatgen's)."""
TRANSLATION_TOLERANCE = 0.01
"""Tolerance of the translation of a product of operations: a file may round 1/3 to two digits."""
METRIC_TOLERANCE = 0.02
"""Tolerance of the metric tensor that an operation must leave as it is, relative to its largest element."""
SYMPRECS = (0.1, 0.01, 0.001)
"""Tolerances in Å for the space group of the crystal that was read."""

_DATA_NAME = re.compile(r"data_(.*?)(?=\s_|\sloop_|\s#|\s*$)", re.IGNORECASE)
_OF_ATOMS = re.compile(r"\s*_atom_site[_.](?!aniso)", re.IGNORECASE)
_TERM = r"(?:[xyz]|\d+/0*[1-9]\d*|\d+\.?\d*|\.\d+)"
_COORDINATE = re.compile(rf"[-+]?{_TERM}(?:[-+]{_TERM})*", re.IGNORECASE)
"""A coordinate of a symmetry operation. pymatgen reads some others, such as 2*x or 1/2/1, as something else."""
_OPERATIONS = (
    "_symmetry_equiv_pos_as_xyz",
    "_symmetry_equiv_pos_as_xyz_",
    "_space_group_symop_operation_xyz",
    "_space_group_symop_operation_xyz_",
)
_MAGNETIC = ("_space_group_magn", "_atom_site_moment", "_space_group_symop_magn")
"""Parts of data names by which pymatgen recognizes a magCIF."""
_GROUP_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_GROUP_NAMES = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m",
    "_space_group_name_hall",
    "_symmetry_space_group_name_hall",
)
_GROUP_KEYS = {*_GROUP_NUMBERS, *_GROUP_NAMES, "_symmetry_space_group_name_h_m"}
_UNKNOWN = ("", "?", ".")
SMALLEST_EDGE, LARGEST_EDGE = 0.1, 1e9
"""Å: edges beyond these are mistakes."""
LARGEST_COORDINATE = 1_000_000.0
"""Fractional coordinates beyond this are mistakes, and lose their digits."""
_ISOTOPES = {"D": "H", "T": "H"}
_FORMULAS = tuple(f"_chemical_formula_{kind}" for kind in ("sum", "structural", "moiety", "iupac", "analytical"))
"""Formulas that a block may state; only the first two can be counted."""
OCCUPANCY_TOLERANCE = 1e-3
"""Deviation of an occupancy from 1 up to which a site counts as full."""
VOLUME_TOLERANCE = 0.05
"""Relative difference from a stated volume beyond which an edge or angle is wrong."""
WEIGHT_TOLERANCE = 0.02
"""Relative difference from a whole number of stated weights beyond which a cell lacks atoms."""
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?:\(.*)?", re.IGNORECASE | re.ASCII)
"""A number with or without its uncertainty. What `float` takes beside these, such as 3_9.8, is a mistake in a CIF."""
_MINUS_SIGNS = str.maketrans("\u2212\u2013", "--")
_LOOP = re.compile(r"(?<!\S)loop_(?!\S)", re.IGNORECASE)
_NAME = re.compile(r"(?<!\S)_[^\s'\"]+")
_COMMENT = re.compile(r"(^|\s)#.*$", re.MULTILINE)
_TEXT = re.compile(r"^;.*?^;", re.MULTILINE | re.DOTALL)
_NAMES = {
    name.lower(): name
    for name in (
        *(f"_cell_length_{edge}" for edge in "abc"),
        *(f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma")),
        *(f"_atom_site_fract_{axis}" for axis in "xyz"),
        *(f"_atom_site_{what}" for what in ("label", "type_symbol", "occupancy", "attached_hydrogens", "calc_flag", "symmetry_multiplicity")),
        *_OPERATIONS, *_FORMULAS,
        "_chemical_formula_weight", "_cell_formula_units_Z", "_cell_volume", "_cell_modulation_dimension", "_symmetry_Int_Tables_number", "_space_group_IT_number",
        "_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt", "_space_group_name_Hall", "_symmetry_cell_setting",
        "_atom_type_symbol", "_atom_type_oxidation_number",
    )
}  # fmt: skip
"""Data names as pymatgen and this module know them, by the name in lower case: in a CIF, case does not matter, and a dot may stand for an underscore."""


def split_blocks(text: str) -> list[tuple[str, str]]:
    """Name and text of each data block that lists atoms. The text begins with a name that pymatgen takes.

    Raises:
        Rejection: there is none.
    """
    if text.lstrip("\ufeff").strip() == "":
        raise Rejection(Reason.UNREADABLE_CIF, "it is empty")
    blocks: list[tuple[str, list[str]]] = []
    in_text = False  # of a value of several lines, between lines that begin with a semicolon
    lines = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    closed = sum(line.startswith(";") for line in lines) % 2 == 0
    for line in lines:
        found = _DATA_NAME.match(line.lstrip())
        if line.startswith(";"):
            in_text = not in_text
        elif found and not (in_text and closed):
            blocks.append((found[1], ["data_block", line.lstrip()[found.end() :]]))
            in_text = False
            continue
        elif found:
            line = f".{line}"  # pymatgen would begin a block there
        elif not in_text:
            line = _LOOP.sub("loop_", line)
            line = _NAME.sub(lambda name: _NAMES.get(name[0].lower().replace(".", "_"), name[0]), line)
        if blocks:
            blocks[-1][1].append(line)
    if not blocks:
        raise Rejection(Reason.UNREADABLE_CIF, "it is not a CIF: no line begins a data block with data_")
    with_atoms = [(name, "\n".join(lines)) for name, lines in blocks if any(map(_OF_ATOMS.match, lines))]
    if not with_atoms:
        raise Rejection(Reason.UNREADABLE_CIF, f"none of its {len(blocks)} data blocks lists atoms")
    return with_atoms


def read_cif(cif: str) -> Structure:
    """The cell of a CIF with one crystal, as it is given.

    Raises:
        Rejection: the CIF cannot be read, contradicts itself, lists several crystals, or has more than `MAX_SITES_READ` sites.
    """
    blocks = split_blocks(cif)
    if len(blocks) > 1:
        raise Rejection(Reason.UNREADABLE_CIF, f"it lists {len(blocks)} crystals: {', '.join(n for n, _ in blocks)}")
    return read_block(blocks[0][1])


def read_block(text: str) -> Structure:
    """The cell of one block of `split_blocks`, as it is given. Deuterium and tritium are hydrogen.

    Raises:
        Rejection: as `read_cif`.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return _read(text, caught)
        except Rejection:
            raise
        except Exception as error:  # pymatgen raises nearly everything on bad text.
            raise Rejection(Reason.UNREADABLE_CIF, _explained(error)) from None


def _read(text: str, caught: Sequence[warnings.WarningMessage]) -> Structure:
    """The cell of a block, checked; `caught` collects pymatgen's warnings."""
    names = Counter(_NAME.findall(_COMMENT.sub("", _TEXT.sub("", text))))
    if twice := [name for name in _NAMES.values() if names[name] > 1]:
        raise Rejection(Reason.UNREADABLE_CIF, f"it has {twice[0]} {names[twice[0]]} times")
    # pymatgen would drop what is not ASCII, a minus sign included; escaped, it stands where no number and no element can.
    parser = CifParser.from_str(text.translate(_MINUS_SIGNS).encode("ascii", "backslashreplace").decode())
    (data,) = parser.as_dict().values()
    guessed = _check_atoms(data)
    _check_cell(data)
    operations = _Operations(parser, data)
    structure = _with_full_sites(operations.read())
    if not structure.is_ordered:
        return structure  # `reduce_cell` says so
    _check_volume(structure, data)
    if "implicit_hydrogens" in structure.site_properties:
        raise Rejection(Reason.NOT_AS_STATED, "it has hydrogens without positions")
    stated = _stated_formula(data)
    if stated:
        _check_ratios(structure, stated)
    else:
        _check_named_elements(structure, data)
        if guessed:
            raise Rejection(
                Reason.UNREADABLE_CIF,
                f"{guessed[0]!r} is not an element, and there is no _chemical_formula_sum to tell it",
            )
    if not (stated and _count_confirmed(structure, stated, data)):
        stray = [str(w.message) for w in caught if str(w.message).startswith("Possible issue in CIF file")]
        if stray:
            raise Rejection(Reason.UNREADABLE_CIF, f"{stray[0].partition(': ')[2][:80]!r} belongs to nothing")
        if not operations.multiplicities_confirmed():
            operations.check_group(structure)
    return structure


def _explained(error: Exception) -> str:
    """The meaning of pymatgen's error, in words about the file."""
    said = " ".join(str(error).split())
    said = re.sub(r"^No structure parsed for section \d+ in CIF\. ?", "", said)
    if isinstance(error, ZeroDivisionError):
        return "one of its loops has no values"
    if "zip()" in said or "is not a multiple" in said:
        return "one of its loops does not have as many values as columns times rows"
    if found := re.match(r"could not convert string to float: (.*)", said):
        return f"{found[1]} stands where a number is needed"
    if isinstance(error, IndexError):
        return "it breaks off"
    if isinstance(error, KeyError) or re.fullmatch(r"'_\w+'", said):
        return f"it has no {said}"
    if said.startswith("Invalid CIF file with no structures"):
        return "none of its atoms can be read"
    if said.startswith("Occupancy"):
        return f"several atoms are at one position, or it is occupied more than once ({said.rstrip('.')})"
    return f"{type(error).__name__}: {said}"[:200]


def _atom_columns(data: Mapping[str, Any]) -> dict[str, list[str] | None]:
    """The columns of the loop of atoms, without the prefix `_atom_site_`, all of one length; None for an optional column that is missing."""
    columns = {name: data.get(f"_atom_site_{name}") for name in ("label", "fract_x", "fract_y", "fract_z")}
    if missing := [name for name, values in columns.items() if values is None]:
        raise Rejection(Reason.UNREADABLE_CIF, f"its atoms have no _atom_site_{missing[0]}")
    n_atoms = len(columns["label"] or ())
    if not n_atoms:
        raise Rejection(Reason.UNREADABLE_CIF, "its loop of atoms is empty")
    if n_atoms > MAX_SITES_READ:
        raise _too_many(n_atoms)
    for name in ("type_symbol", "occupancy", "attached_hydrogens", "symmetry_multiplicity"):
        columns[name] = data.get(f"_atom_site_{name}")
    for name, values in columns.items():
        if values is not None and (isinstance(values, str) or len(values) != n_atoms):
            raise Rejection(Reason.UNREADABLE_CIF, f"_atom_site_{name} is not in the loop of the {n_atoms} atoms")
    return columns


def _check_atoms(data: Mapping[str, Any]) -> list[str]:
    """Check that each atom has an element, a position and an occupancy.

    Returns:
        Symbols that may be no element.
    """
    columns = _atom_columns(data)
    labels = columns["label"] or []
    for name in ("fract_x", "fract_y", "fract_z"):
        for label, value in zip(labels, columns[name] or (), strict=True):
            number = 0.0 if value == "." else _number(value)  # "." is the default, 0.
            if number is None or abs(number) > LARGEST_COORDINATE:
                raise Rejection(Reason.UNREADABLE_CIF, f"_atom_site_{name} of {label} is {value!r}, not a coordinate")
    for label, value in zip(labels, columns["attached_hydrogens"] or (), strict=False):
        if _number(value) not in (None, 0.0):
            raise Rejection(Reason.NOT_AS_STATED, f"{label} has {value} hydrogens without positions")
    for label, flag in zip(labels, data.get("_atom_site_calc_flag") or (), strict=False):
        if flag.lower() == "dum":
            raise Rejection(Reason.NOT_AS_STATED, f"{label} is a dummy (_atom_site_calc_flag dum), not an atom")
    occupancies = columns["occupancy"] or ["1"] * len(labels)
    for label, value in zip(labels, occupancies, strict=True):
        if value != "?" and ((number := _number(value)) is None or number < 0):
            raise Rejection(Reason.UNREADABLE_CIF, f"the occupancy of {label} is {value!r}, not a number from 0 to 1")
    guessed: list[str] = []
    symbols, certain = (
        (labels, _label_names_element) if columns["type_symbol"] is None else (columns["type_symbol"], _names_element)
    )
    for symbol, occupancy in zip(symbols, occupancies, strict=True):
        if (occupancy == "?" or _number(occupancy)) and not certain(symbol):
            guessed.append(symbol)
    return guessed


def _too_many(n_sites: int) -> Rejection:
    return Rejection(Reason.TOO_MANY_SITES, f"{n_sites:,} sites; cells of at most {MAX_SITES_READ} are read")


def _names_element(symbol: str) -> bool:
    """Whether the symbol of an atom's type is certainly an element, with or without a charge or a number, and not a molecule, such as H2O."""
    return _begins_with_element(symbol) and not re.search(r"[A-Z/]|\d[a-z]", symbol[len(_letters(symbol)) :])


def _label_names_element(label: str) -> bool:
    """Whether a label is certainly that of one element: neither a molecule, as H2O1, nor a mixed site, as Na/K or Ni0.5Co0.5.

    A letter after the number, as in O1A or O1B, tells atoms of one element apart.
    """
    rest = label[len(_letters(label)) :]
    others = [found[0] for found in re.finditer(r"(?<=[/,;&|+:])[A-Za-z]+", rest)]
    others += [
        found[0] for found in re.finditer(r"(?<=[-_(])(?:[A-Z][a-z]|[G-Z])(?![A-Za-z])", rest)
    ]  # A to F may be parts
    others += [found[1] for found in re.finditer(r"\d([A-Z][a-z]|[A-Z](?=\d)|[HNOKVYUI]$)", rest)]
    return _begins_with_element(label) and not any(Element.is_valid_symbol(other.title()) for other in others)


def _letters(symbol: str) -> str:
    return re.match(r"[A-Za-z]*", symbol)[0]  # type: ignore[index]


def _begins_with_element(symbol: str) -> bool:
    """Whether the first letters of a symbol or label are certainly an element.

    Two capitals that are both elements, as in CO, are not: carbon can be meant as well as cobalt. Nor are letters before one of another script,
    which is escaped.
    """
    letters = _letters(symbol)
    if not Element.is_valid_symbol(letters.title()) or letters == "T" or symbol[len(letters) :].startswith("\\"):
        return False
    return not (len(letters) == 2 and letters.isupper() and all(map(Element.is_valid_symbol, letters)))


def _check_cell(data: Mapping[str, Any]) -> None:
    """Check the given edges and angles, and that they are those of all of the crystal. pymatgen takes missing ones from the crystal system."""
    if _number(_single(data.get("_cell_modulation_dimension"))):
        raise Rejection(
            Reason.NOT_AS_STATED, "it is a modulated structure (_cell_modulation_dimension), which no single cell holds"
        )
    given: dict[str, list[float]] = {"length": [], "angle": []}
    for kind, names in (("length", ("a", "b", "c")), ("angle", ("alpha", "beta", "gamma"))):
        for name in names:
            value = data.get(f"_cell_{kind}_{name}")
            if value is None:
                continue
            number = _number(_single(value))
            low, high = (SMALLEST_EDGE, LARGEST_EDGE) if kind == "length" else (0, 180)
            if number is None or not low < number < high:
                raise Rejection(
                    Reason.UNREADABLE_CIF, f"_cell_{kind}_{name} is {value}, not a number between {low:g} and {high:g}"
                )
            given[kind].append(number)
    angles = given["angle"]
    if len(angles) == 3:
        cosines = [math.cos(math.radians(angle)) for angle in angles]
        if 1 - sum(c**2 for c in cosines) + 2 * math.prod(cosines) <= 1e-9:
            raise Rejection(Reason.UNREADABLE_CIF, f"no cell has the angles {', '.join(f'{a:g}' for a in angles)}")


def _check_volume(structure: Structure, data: Mapping[str, Any]) -> None:
    """Check the cell against the volume that the file states, if any."""
    stated = _number(_single(data.get("_cell_volume")))
    if stated and abs(structure.volume - stated) > VOLUME_TOLERANCE * structure.volume:
        raise Rejection(
            Reason.NOT_AS_STATED, f"its _cell_volume is {stated:g}; its edges and angles give {structure.volume:g} Å³"
        )


def _with_full_sites(structure: Structure) -> Structure:
    """The crystal with every site full that one element occupies up to `OCCUPANCY_TOLERANCE`."""
    for site in structure:
        if len(site.species) == 1 and 0 < abs(site.species.num_atoms - 1) <= OCCUPANCY_TOLERANCE:
            site.species = next(iter(site.species))
    return structure


class _Operations:
    """The symmetry operations that a block is read with, and what the block states about them."""

    def __init__(self, parser: Any, data: Mapping[str, Any]) -> None:
        self.parser, self.data = parser, data
        self.lower = {name.lower(): value for name, value in data.items()}
        for key in _GROUP_NUMBERS:
            number = _number(_single(self.lower.get(key)))
            if number is not None and number not in range(1, 231):
                raise Rejection(
                    Reason.UNREADABLE_CIF, f"its space group has the number {number:g}, and they end at 230"
                )
        block = CifBlock(dict(data), [], "block")
        listed = [data[name] for name in _OPERATIONS if data.get(name)]
        for operation in (item for value in listed for item in ([value] if isinstance(value, str) else value)):
            if not _is_operation(operation):
                raise Rejection(Reason.UNREADABLE_CIF, f"{operation[:40]!r} is not a symmetry operation")
        magnetic = any(name.startswith(_MAGNETIC) for name in data)
        self.listed = bool(listed) or magnetic
        if magnetic:
            found = parser.get_magsymops(block)
        elif listed:
            found = parser.get_symops(block)
        else:
            stated = tuple((key, str(value)) for key, value in data.items() if key.lower().rstrip("_") in _GROUP_KEYS)
            found = _named_operations(stated)
        # pymatgen would ask again, and needs seconds for a space group of 192 operations.
        parser.get_symops = parser.get_magsymops = lambda block: found
        self.count = len(found)
        if self.count > MAX_OPERATIONS:
            raise Rejection(Reason.TOO_MANY_SITES, f"{self.count} symmetry operations, at most {MAX_OPERATIONS}")
        rotations = np.array([operation.rotation_matrix for operation in found])
        translations = np.array([operation.translation_vector for operation in found])
        for rotation in rotations:
            if not (np.abs(rotation - np.round(rotation)) < 1e-6).all() or abs(abs(np.linalg.det(rotation)) - 1) > 1e-6:
                raise Rejection(
                    Reason.UNREADABLE_CIF, f"an operation has the matrix {rotation.tolist()}, which is not a symmetry"
                )
        lattice = parser.get_lattice(block)
        if lattice is None:
            raise Rejection(Reason.UNREADABLE_CIF, "it does not give the edges and angles of the cell")
        metric = lattice.matrix @ lattice.matrix.T
        changed = np.swapaxes(rotations, 1, 2) @ metric @ rotations - metric
        if (np.abs(changed) > METRIC_TOLERANCE * metric.max()).any():
            named = self.name or f"of its {self.count} operations"
            raise Rejection(Reason.NOT_AS_STATED, f"its cell does not have the symmetry {named}")
        coords = np.array([[_number(value) or 0 for value in data[f"_atom_site_fract_{axis}"]] for axis in "xyz"]).T
        if not _is_group(rotations.tobytes(), translations.tobytes()):
            raise Rejection(
                Reason.NOT_AS_STATED, f"its {self.count} symmetry operations are not a group: some are missing"
            )
        self.orbits = [_orbit_size(position, rotations, translations) for position in coords]
        if sum(self.orbits) > MAX_SITES_READ:
            raise _too_many(sum(self.orbits))

    def read(self) -> Structure:
        structure: Structure
        (structure,) = self.parser.parse_structures(primitive=False, on_error="raise")
        return structure

    @property
    def name(self) -> str:
        """The name or number of the space group that is stated, if any."""
        for key in (*_GROUP_NAMES, *_GROUP_NUMBERS):
            value = self.lower.get(key)
            if isinstance(value, str) and value.strip() not in _UNKNOWN:
                return value.strip()
        return ""

    @property
    def numbers(self) -> set[int]:
        """The numbers of the stated space groups: a name and a number may differ if one of them was left at its default."""
        of_numbers = (_number(self.lower.get(key)) for key in _GROUP_NUMBERS)
        of_names = (_group_numbers().get(_squeezed(str(self.lower.get(key)))) for key in _GROUP_NAMES)
        return {int(number) for number in (*of_numbers, *of_names) if number and number in range(1, 231)}

    def multiplicities_confirmed(self) -> bool:
        """Whether the file states the multiplicity of each site and agrees with what was read.

        SHELXL-97 writes the order of the site symmetry there, which serves as well.

        Raises:
            Rejection: the multiplicities disagree.
        """
        found = (
            self.lower.get(f"_atom_site_{name}") for name in ("symmetry_multiplicity", "site_symmetry_multiplicity")
        )
        stated = [_number(value) for value in next(filter(None, found), ())]
        if not stated or None in stated:
            return False
        if stated == self.orbits or all((m or 0) * n == self.count for m, n in zip(stated, self.orbits, strict=True)):
            return True
        label, multiplicity, read = next(
            line for line in zip(self.data["_atom_site_label"], stated, self.orbits, strict=True) if line[1] != line[2]
        )
        raise Rejection(
            Reason.NOT_AS_STATED, f"{label} has the multiplicity {multiplicity:g}; {self.count} operations give {read}"
        )

    def check_group(self, structure: Structure) -> None:
        """Check what was read against the space group that is stated.

        Raises:
            Rejection: the space group is unknown, or is not that of the crystal.
        """
        if not self.name or self.numbers == {1}:
            return
        if not self.numbers:
            if self.listed:
                return
            raise Rejection(
                Reason.NOT_AS_STATED, f"it lists no operations, and the space group {self.name!r} is not known"
            )
        order, has_origins = _group(max(self.numbers))
        if not self.listed and has_origins and not re.search(r":\s*[12]", self.name):
            raise Rejection(
                Reason.NOT_AS_STATED, f"it lists no operations, and the space group {self.name!r} has two origins"
            )
        if self.count >= order:
            return
        cell: Any = (structure.lattice.matrix, structure.frac_coords, [site.specie.Z for site in structure])
        found = [spglib.get_symmetry_dataset(cell, symprec=symprec) for symprec in SYMPRECS]
        numbers = [dataset.number for dataset in found if dataset]
        if len(numbers) == len(found) and not self.numbers & set(numbers):
            raise Rejection(
                Reason.NOT_AS_STATED,
                f"it names the space group {self.name!r} and lists {self.count} of its {order} operations; "
                f"the {len(structure)} atoms that they give have the space group {numbers[-1]}",
            )


def _is_operation(text: str) -> bool:
    """Whether a text is a symmetry operation whose coordinates each name a variable once and at most one translation."""
    coordinates = "".join(text.split()).lower().split(",")
    return len(coordinates) == 3 and all(
        _COORDINATE.fullmatch(coordinate)
        and max(map(coordinate.count, "xyz")) == 1
        and len(re.findall(r"[\d./]+", coordinate)) <= 1
        for coordinate in coordinates
    )


def _orbit_size(coords: NDArray[np.float64], rotations: NDArray[np.float64], translations: NDArray[np.float64]) -> int:
    """The number of different images of a position, (3,), under operations, (n, 3, 3) and (n, 3)."""
    images = rotations @ coords + translations
    differences = images[:, None] - images[None, :]
    same = (np.abs(differences - np.round(differences)) < SITE_TOLERANCE).all(axis=2)
    return int((~np.tril(same, -1).any(axis=1)).sum())


@functools.lru_cache(1024)
def _named_operations(stated: tuple[tuple[str, str], ...]) -> list[Any]:
    """The operations that pymatgen takes for the names and numbers of a space group, by the name of the data; the identity without."""
    found: list[Any] = CifParser.from_str("data_block\n").get_symops(CifBlock(dict(stated), [], "block"))
    return found


@functools.lru_cache(1024)
def _is_group(rotations: bytes, translations: bytes) -> bool:
    """Whether each product of two operations, arrays of floats (n, 3, 3) and (n, 3), is one of them, up to lattice vectors."""
    matrices = np.round(np.frombuffer(rotations).reshape(-1, 3, 3))
    shifts = np.frombuffer(translations).reshape(-1, 3)
    codes = matrices.reshape(-1, 9) @ 3.0 ** np.arange(9)
    for matrix, shift in zip(matrices, shifts, strict=True):
        same = ((matrix @ matrices).reshape(-1, 9) @ 3.0 ** np.arange(9))[:, None] == codes
        differences = (shifts @ matrix.T + shift)[:, None] - shifts
        same &= (np.abs(differences - np.round(differences)) < TRANSLATION_TOLERANCE).all(axis=2)
        if not same.any(axis=1).all():
            return False
    return True


def _single(value: Any) -> Any:
    """The value itself where it stands alone in a loop."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _number(value: Any) -> float | None:
    """The number in a value of a CIF, without its uncertainty; None if it is not a number."""
    found = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    number = float(found[1]) if found else math.inf
    return number if math.isfinite(number) else None


def _stated_formula(data: Mapping[str, Any]) -> dict[str, float]:
    """Number of atoms of each element in the stated formula, if any."""
    for key in ("_chemical_formula_sum", "_chemical_formula_structural"):
        value = _single(data.get(key))
        if isinstance(value, str) and value.strip() not in _UNKNOWN:
            try:
                return _amounts(Composition(value))
            except Exception:  # A name, or a formula with text in it: pymatgen raises of many kinds.
                continue
    return {}


def _formula_units(data: Mapping[str, Any]) -> float:
    """Number Z of formula units in the cell; 1 where the file does not say it.

    Raises:
        Rejection: it is not above 0.
    """
    value = data.get("_cell_formula_units_Z", "")
    number = _number(value)
    if number is not None and number <= 0:
        raise Rejection(Reason.UNREADABLE_CIF, f"_cell_formula_units_Z is {value}, not a number above 0")
    return number or 1


def _is_symbol(symbol: str) -> bool:
    return symbol in _ISOTOPES or Element.is_valid_symbol(symbol)


def _check_named_elements(structure: Structure, data: Mapping[str, Any]) -> None:
    """Check a file without a formula that can be counted by what else it says of one: the elements of other formulas, and the weight.

    Raises:
        Rejection: an element that is named was not read, as the hydrogen of a file that gives no positions for it, or the weight is another.
    """
    read = _amounts(structure.composition.element_composition)
    for key in _FORMULAS:
        values = data.get(key)
        for value in [values] if isinstance(values, str) else values or []:
            words = re.findall(r"[A-Za-z]+", value)
            named = [symbol for word in words for symbol in re.findall(r"[A-Z][a-z]?", word)]
            is_formula = all(map(_is_symbol, named)) and {*"".join(words)} <= {*"".join(named), *"xyznm"}
            if is_formula and (missing := [symbol for symbol in named if _ISOTOPES.get(symbol, symbol) not in read]):
                raise Rejection(Reason.NOT_AS_STATED, f"its {key} names {missing[0]}; {_written(read)} was read")
    weight = _single(data.get("_chemical_formula_weight"))
    if isinstance(weight, str) and (unit := _number(weight)):
        units = structure.composition.weight / unit
        if abs(units - max(1, round(units))) > WEIGHT_TOLERANCE * units:
            raise Rejection(
                Reason.NOT_AS_STATED,
                f"its _chemical_formula_weight is {weight}; {_written(read)} weighs {structure.composition.weight:.2f}",
            )


def _amounts(composition: Composition) -> dict[str, float]:
    return {element.symbol: amount for element, amount in composition.items() if amount > 0}


def _check_ratios(structure: Structure, stated: Mapping[str, float]) -> None:
    read = _amounts(structure.composition.element_composition)
    factor = len(structure) / sum(stated.values())
    if read.keys() != stated.keys() or any(
        abs(read[element] - factor * amount) > RATIO_TOLERANCE * read[element] for element, amount in stated.items()
    ):
        raise Rejection(
            Reason.NOT_AS_STATED,
            f"its formula is {_written(stated)}; {_written(read)} was read",
        )


def _written(amounts: Mapping[str, float]) -> str:
    return " ".join(f"{element}{amount:g}" for element, amount in amounts.items())


def _count_confirmed(structure: Structure, stated: Mapping[str, float], data: Mapping[str, Any]) -> bool:
    """Whether the file states the number of atoms in the cell and as many were read.

    The formula is that of one of Z units. pymatgen and other programs state the formula of the whole cell instead, together with Z.

    Raises:
        Rejection: fewer atoms were read.
    """
    n_stated, n_read = sum(stated.values()), len(structure)
    units = _formula_units(data)
    divisor = math.gcd(*map(round, stated.values()))
    of_cell = divisor % units == 0  # Cl16 are 8 units of Cl2.
    expected = n_stated if of_cell else n_stated * units
    if n_read < expected * (1 - RATIO_TOLERANCE):
        said = _written(stated) + ("" if of_cell else f" and Z {units:g}")
        raise Rejection(
            Reason.NOT_AS_STATED, f"its formula {said} makes {expected:g} atoms in the cell; {n_read} were read"
        )
    confirming = {n_stated * units} | ({n_stated} if divisor == units else set())
    return "_cell_formula_units_Z" in data and any(abs(n_read - n) <= RATIO_TOLERANCE * n_read for n in confirming)


def _squeezed(name: str) -> str:
    return re.sub(r"[\s_'\"]|:\w+$", "", name).lower()


@functools.cache
def _settings() -> list[Any]:
    return [spglib.get_spacegroup_type(hall_number) for hall_number in range(1, 531)]


@functools.cache
def _group_numbers() -> dict[str, int]:
    """Numbers of the space groups by name: short, full and Hall's."""
    return {
        _squeezed(name): setting.number
        for setting in _settings()
        for name in (
            setting.international_short,
            setting.international_full,
            setting.international,
            setting.hall_symbol,
        )
        for name in name.split(" = ")
    }


@functools.cache
def _group(number: int) -> tuple[int, bool]:
    """How many operations a space group has in its conventional cell, and whether there are two choices of the origin."""
    settings = [(hall, setting) for hall, setting in enumerate(_settings(), 1) if setting.number == number]
    operations: list[Any] = [spglib.get_symmetry_from_database(hall) for hall, _ in settings]
    order = max(len(found["rotations"]) for found in operations)
    return order, {"1", "2"} <= {setting.choice for _, setting in settings}
