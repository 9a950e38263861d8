"""A CIF is read whole or rejected with a reason that says something; none that was right is lost."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import ase.io
import numpy as np
import pytest
import spglib
from ase.spacegroup import crystal
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifWriter

from xtalrl.csv_files import read_csv
from xtalrl.structures.cif import read_block, read_cif, split_blocks
from xtalrl.structures.crystals import parse_row
from xtalrl.structures.rejections import Reason, Rejection

pytestmark = pytest.mark.filterwarnings("ignore")

DAMAGED = int(os.environ.get("XTALRL_CIFS", "60"))
"""Damaged CIFs tried; the harness at full size is `XTALRL_CIFS=3000 pytest tests/test_structures_cif.py`."""

CELL = """data_x
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
"""
ATOMS = """loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""
TYPED = ATOMS.replace("_label\n", "_label\n_atom_site_type_symbol\n")
NACL = ATOMS + "Na1 0 0 0\nCl1 0.5 0.5 0.5\n"
CAF2 = """_chemical_formula_sum 'Ca4 F8'
loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_symmetry_multiplicity
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Ca Ca0 4 0 0 0
F F1 8 0.25 0.25 0.25
"""
P1 = "loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n"
FM3M = "_symmetry_space_group_name_H-M Fm-3m\n"
FLUORITE = Structure.from_spacegroup(225, Lattice.cubic(5.49), ["Ca", "F"], [[0, 0, 0], [0.25] * 3])
SYMMETRIZED = str(CifWriter(FLUORITE, symprec=0.01))
OPERATIONS = SYMMETRIZED[SYMMETRIZED.index("loop_") : SYMMETRIZED.index("loop_", SYMMETRIZED.index("loop_") + 1)]


def with_(name: str, x: str = "0.5") -> str:
    """Two sites, the second of this name."""
    return CELL + ATOMS + f"Na1 0 0 0\n{name} {x} 0.5 0.5\n"


REJECTED: dict[str, tuple[str, Reason, str]] = {
    "operations are P1, header and formula are not": (CELL + FM3M + P1 + CAF2, Reason.NOT_AS_STATED, "Ca4 F8; Ca1 F1 was read"),
    "group is not known, no operations": (
        CELL + "_symmetry_space_group_name_H-M 'F 9/q'\n" + CAF2, Reason.NOT_AS_STATED, "Ca4 F8; Ca1 F1 was read"),
    "no symmetry at all": (CELL + CAF2, Reason.NOT_AS_STATED, "Ca4 F8; Ca1 F1 was read"),
    "operations are P1, no formula but multiplicities": (
        CELL + FM3M + P1 + CAF2.partition("\n")[2], Reason.NOT_AS_STATED, "Ca0 has the multiplicity 4; 1 operations give 1"),
    "operations are P1, the header only tells": (CELL + FM3M + P1 + NACL, Reason.NOT_AS_STATED, "lists 1 of its 192 operations"),
    "group is not known, nothing else tells": (
        CELL + "_symmetry_space_group_name_H-M 'F 9/q'\n" + NACL, Reason.NOT_AS_STATED, "'F 9/q' is not known"),
    "two origins": (
        CELL + "_symmetry_space_group_name_H-M 'F d -3 m'\n" + ATOMS + "Si1 0.125 0.125 0.125\n", Reason.NOT_AS_STATED, "two origins"),
    "ratio right, too few": (CELL + P1 + "_chemical_formula_sum 'Na4 Cl4'\n" + NACL, Reason.NOT_AS_STATED, "makes 8 atoms in the cell; 2"),
    "Z tells": (
        CELL + P1 + "_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 4\n" + NACL, Reason.NOT_AS_STATED, "makes 8 atoms"),
    "an operation is missing": (
        SYMMETRIZED.replace("  3  '-y, x, z'\n", ""), Reason.NOT_AS_STATED, "are not a group"),
    "an operation is none": (CELL + P1.replace(" z", " q") + NACL, Reason.UNREADABLE_CIF, "'x, y, q' is not a symmetry operation"),
    "an operation is singular": (CELL + P1.replace(" z", " y") + NACL, Reason.UNREADABLE_CIF, "not a symmetry"),
    "the cell has another symmetry": (
        CELL.replace("c 5.64", "c 6.64") + FM3M + NACL, Reason.NOT_AS_STATED, "its cell does not have the symmetry Fm-3m"),
    "attached hydrogens": (
        CELL + ATOMS + "_atom_site_attached_hydrogens\nN1 0 0 0 4\nCl1 0.5 0.5 0.5 0\n", Reason.NOT_AS_STATED, "N1 has 4 hydrogens"),
    "hydrogens in the formula": (CELL + "_chemical_formula_sum 'H4 N Cl'\n" + ATOMS + "N1 0 0 0\nCl1 0.5 0.5 0.5\n",
        Reason.NOT_AS_STATED, "H4 N1 Cl1; N1 Cl1 was read"),
    "water": (with_("Wat1"), Reason.NOT_AS_STATED, "hydrogens without positions"),
    **{f"label {name}": (with_(name), Reason.UNREADABLE_CIF, f"'{name}' is not an element")
       for name in ("OH", "OH2", "NO3", "13C", "Vac", "Va1", "Hal", "Uue", "CO1", "X1", "?", "T1")},
    **{f"mixed or molecular label {name}": (with_(name), Reason.UNREADABLE_CIF, f"'{name}' is not an element")
       for name in ("Na/K", "Nb/Ta", "Fe,Co", "Ni0.5Co0.5", "H2O1", "H2O", "C6H6", "O2H", "N2H4", "B4C1",
                    "Na+K", "Na-K", "Na:K", "Na_K", "Fe(Co)", "Fe1+Co1", "Na1K", "O1-H1")},
    **{f"type {name}": (CELL + TYPED + f"Na1 Na 0 0 0\nX1 {name} 0.5 0.5 0.5\n", Reason.UNREADABLE_CIF, f"'{name}' is not an element")
       for name in ("H2O", "H3O+", "Na2O", "P2O7", "S2O3", "B4C", "C6H6", "N2H4", "O2H", "Na/K", "H2o")},
    **{f"formula in {key}": (CELL + f"_chemical_formula_{key} '{formula}'\n" + ATOMS + "N1 0 0 0\nCl1 0.5 0.5 0.5\n",
        Reason.NOT_AS_STATED, f"_chemical_formula_{key} names H; N1 Cl1 was read")
       for key, formula in (("moiety", "H4 N, Cl"), ("moiety", "2(H4 N 1+), 2(Cl 1-)"), ("iupac", "N H4 Cl"), ("analytical", "NH4Cl"), ("sum", "N Cl (H2 O)x"), ("sum", "N Cl (H2 O)y"))},
    "formula in a loop": (CELL + "loop_\n_chemical_formula_sum\n'H4 N Cl'\n" + ATOMS + "N1 0 0 0\nCl1 0.5 0.5 0.5\n",
        Reason.NOT_AS_STATED, "H4 N1 Cl1; N1 Cl1 was read"),
    "weight in a loop": (CELL + "loop_\n_chemical_formula_weight\n53.49\n" + ATOMS + "N1 0 0 0\nCl1 0.5 0.5 0.5\n",
        Reason.NOT_AS_STATED, "_chemical_formula_weight is 53.49"),
    "weight": (CELL + "_chemical_formula_weight 53.49\n" + ATOMS + "N1 0 0 0\nCl1 0.5 0.5 0.5\n",
        Reason.NOT_AS_STATED, "_chemical_formula_weight is 53.49; N1 Cl1 weighs 49.46"),
    "type symbol": (CELL + TYPED + "Na1 Na 0 0 0\nO1 OH 0.5 0.5 0.5\n", Reason.UNREADABLE_CIF, "'OH' is not an element"),
    "label dropped, formula tells": (
        CELL + "_chemical_formula_sum 'Na O H'\n" + ATOMS + "Na1 0 0 0\nOH1 0.5 0.5 0.5\n", Reason.NOT_AS_STATED, "Na1 O1 H1; Na1 was read"),
    "occupancy .": (CELL + ATOMS + "_atom_site_occupancy\nNa1 0 0 0 ?\nCl1 0.5 0.5 0.5 .\n", Reason.UNREADABLE_CIF, "occupancy of Cl1 is '.'"),
    "position ?": (with_("Cl1", "?"), Reason.UNREADABLE_CIF, "_atom_site_fract_x of Cl1 is '?', not a coordinate"),
    "position 1e300": (with_("Cl1", "1e300"), Reason.UNREADABLE_CIF, "_atom_site_fract_x of Cl1 is '1e300', not a coordinate"),
    "tiny edge": (with_("Cl1").replace("a 5.64", "a 1e-300"), Reason.UNREADABLE_CIF, "_cell_length_a is 1e-300, not a number between 0.1 and 1e+09"),
    "huge edge": (with_("Cl1").replace("a 5.64", "a 1e300"), Reason.UNREADABLE_CIF, "_cell_length_a is 1e300, not a number between"),
    "Z 0": (CELL + P1 + "_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 0\n" + NACL, Reason.UNREADABLE_CIF, "_cell_formula_units_Z is 0, not a number above 0"),
    "Z -1": (CELL + P1 + "_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z -1\n" + NACL, Reason.UNREADABLE_CIF, "_cell_formula_units_Z is -1"),
    "names in other letters": (CELL + "_CHEMICAL_FORMULA_WEIGHT 53.49\n" + ATOMS + "N1 0 0 0\nCl1 0.5 0.5 0.5\n",
        Reason.NOT_AS_STATED, "_chemical_formula_weight is 53.49"),
    "names with a dot": (CELL + "_chemical_formula.moiety 'N H4, Cl'\n" + ATOMS + "N1 0 0 0\nCl1 0.5 0.5 0.5\n",
        Reason.NOT_AS_STATED, "its _chemical_formula_moiety names H"),
    **{f"operation {operation}": (CELL + P1.replace("'x, y, z'", f"'x, y, z'\n'{operation}'") + NACL, Reason.UNREADABLE_CIF, f"'{operation}' is not a symmetry operation")
       for operation in ("-1*x, -y, -z", "x, y, z+1/2+1/2", "x+1/2/1, y, z", "2*x, y, z", "3x, y, z", "x+1/0, y, z", "x+x, y, z", "x, y")},
    **{f"position {x!a}": (with_("Cl1", x), Reason.UNREADABLE_CIF, "_atom_site_fract_x of Cl1 is '0") for x in ("0\u00b75", "0.\u0665", "0_1.5")},
    **{f"edge {edge!a}": (with_("Cl1").replace("_a 5.64", f"_a {edge}"), Reason.UNREADABLE_CIF, "_cell_length_a is") for edge in ("\uff15.64", "5_6.4")},
    **{f"symbol {symbol!a}": (with_(symbol), Reason.UNREADABLE_CIF, "is not an element") for symbol in ("\u0421o", "N\u0430")},
    "operation with another minus": (CELL + P1.replace("'x, y, z'", "'x, y, z'\n'\u2212x, \u2212y, z'") + "_cell_formula_units_Z 1\n_chemical_formula_sum 'Na Cl'\n"
        + with_("Cl1", "0.3")[len(CELL):], Reason.NOT_AS_STATED, "Na1 Cl2 was read"),
    "volume": (CELL + "_cell_volume 1794.1\n" + with_("Cl1")[len(CELL):], Reason.NOT_AS_STATED, "its _cell_volume is 1794.1; its edges and angles give 179.4"),
    "modulated": (CELL + "_cell_modulation_dimension 1\n" + with_("Cl1")[len(CELL):], Reason.NOT_AS_STATED, "it is a modulated structure"),
    "group 231": (CELL + "_symmetry_Int_Tables_number 231\n" + with_("Cl1")[len(CELL):], Reason.UNREADABLE_CIF, "has the number 231"),
    "dummy in capitals": (CELL + ATOMS + "_atom_site_calc_flag\nNa1 0 0 0 d\nCl1 0.5 0.5 0.5 Dum\n", Reason.NOT_AS_STATED, "Cl1 is a dummy"),
    "dummy": (CELL + ATOMS + "_atom_site_calc_flag\nNa1 0 0 0 d\nCl1 0.5 0.5 0.5 dum\n", Reason.NOT_AS_STATED, "Cl1 is a dummy"),
    **{f"attached hydrogens {value}": (CELL + ATOMS + f"_atom_site_attached_hydrogens\nN1 0 0 0 {value}\nCl1 0.5 0.5 0.5 0\n",
        Reason.UNREADABLE_CIF, f"'{value}' stands where a number is needed") for value in ("?", "four")},
    "negative length": (with_("Cl1").replace("a 5.64", "a -5.64"), Reason.UNREADABLE_CIF, "_cell_length_a is -5.64"),
    "angle": (with_("Cl1").replace("alpha 90", "alpha 190"), Reason.UNREADABLE_CIF, "_cell_angle_alpha is 190"),
    "angles": (with_("Cl1").replace("alpha 90", "alpha 10").replace("beta 90", "beta 20"), Reason.UNREADABLE_CIF, "no cell has the angles 10, 20, 90"),
    "no angle": (with_("Cl1").replace("_cell_angle_beta 90\n", ""), Reason.UNREADABLE_CIF, "does not give the edges and angles"),
    "one position twice": (with_("Na2", "0").replace("0 0.5 0.5\n", "0 0 0\n"), Reason.UNREADABLE_CIF, "several atoms are at one position"),
    "occupancy 1.5": (CELL + ATOMS + "_atom_site_occupancy\nNa1 0 0 0 1.5\n", Reason.UNREADABLE_CIF, "occupied more than once"),
    "no atoms": (CELL + ATOMS, Reason.UNREADABLE_CIF, "one of its loops has no values"),
    "cut loop": (with_("Cl1").rpartition(" 0.5")[0], Reason.UNREADABLE_CIF, "does not have as many values"),
    "no loop": (CELL + "_atom_site_label Na1\n_atom_site_fract_x 0\n_atom_site_fract_y 0\n_atom_site_fract_z 0\n",
        Reason.UNREADABLE_CIF, "_atom_site_label is not in the loop"),
    "stray text": (with_("Cl1").replace("_a 5.64", "_a 5.64 5.65"), Reason.UNREADABLE_CIF, "'5.65' belongs to nothing"),
    "401 atoms": (CELL + ATOMS + "H1 0 0 0\n" * 401, Reason.TOO_MANY_SITES, "401 sites; cells of at most 400 are read"),
    "expanded to too many": (SYMMETRIZED.replace("0.25000000  0.25000000  0.25000000  1", "0.1 0.2 0.3 1\n  F  F2  8  0.12 0.23 0.34 1\n  F  F3  8  0.11 0.24 0.33 1"),
        Reason.TOO_MANY_SITES, "484 sites"),
    "empty": ("", Reason.UNREADABLE_CIF, "it is empty"),
    "no CIF": ("NaCl", Reason.UNREADABLE_CIF, "no line begins a data block"),
    "no atoms in any block": (CELL + "data_y\n_a 1\n", Reason.UNREADABLE_CIF, "none of its 2 data blocks lists atoms"),
    "two crystals in one block": (with_("Cl1") + with_("K1").partition("\n")[2], Reason.UNREADABLE_CIF, "it has _cell_length_a 2 times"),
    "name and number of the group differ": (
        CELL + FM3M + "_symmetry_Int_Tables_number 1\n" + P1 + NACL, Reason.NOT_AS_STATED, "lists 1 of its 192 operations"),
    "newer name of the multiplicity": (
        (CELL + P1 + CAF2.partition("\n")[2]).replace("_symmetry_mult", "_site_symmetry_mult"), Reason.NOT_AS_STATED, "the multiplicity 4"),
    "two crystals": (with_("Cl1") + with_("K1").replace("data_x", "data_y"), Reason.UNREADABLE_CIF, "lists 2 crystals: x, y"),
}  # fmt: skip


@pytest.mark.parametrize("label", ["Cl1", "Cl1A", "Cl1B", "Cl(1)", "Cl-1", "Cl1'", "Cl1_2", "Cl12C", "Cl1_A", "Cl(1B)"])
@pytest.mark.parametrize("type_", [None, "Cl", "Cl1-", "Cl-", "Cl-1", "Cl0+", "Cl0.5-", "Cl1"])
def test_labels_and_types_of_one_element_are_read(label: str, type_: str | None) -> None:
    atoms = f"Na1 0 0 0\n{label} 0.5 0.5 0.5\n" if type_ is None else f"Na1 Na 0 0 0\n{label} {type_} 0.5 0.5 0.5\n"
    assert read_cif(CELL + (ATOMS if type_ is None else TYPED) + atoms).composition.reduced_formula == "NaCl"


@pytest.mark.parametrize(
    "line", ["_chemical_formula_moiety 'Na 1+, Cl 1-'", "_chemical_formula_iupac 'sodium chloride'", "_chemical_formula_structural 'rock salt'",
             "_chemical_formula_weight 58.44", "_chemical_formula_weight 58.4(2)", "_chemical_formula_weight ?", "_chemical_formula_moiety ?"],
)  # fmt: skip
def test_other_words_on_the_formula_do_no_harm(line: str) -> None:
    assert len(read_cif(CELL + line + "\n" + ATOMS + "Na1 0 0 0\nCl1 0.5 0.5 0.5\n")) == 2


@pytest.mark.parametrize(
    "cif",
    [
        with_("Cl1", "\u22120.5"), with_("Cl1", "\u20130.5"),
        with_("Cl1").replace("loop_", "LOOP_"), with_("Cl1").replace("data_", "DATA_"),
        CELL + "_cell_volume 179.41(2)\n_cell_modulation_dimension 0\n" + with_("Cl1")[len(CELL):],
        CELL + "_publ_author_name 'Ång\u00e9l'\n" + with_("Cl1")[len(CELL):],
        CELL + ATOMS + "_atom_site_occupancy\nNa1 0 0 0 1\nCl1 0.5 0.5 0.5 0.9995\n",
    ],
)  # fmt: skip
def test_other_spellings_are_read_as_what_they_mean(cif: str) -> None:
    found = read_cif(cif)
    assert found.is_ordered and found.composition.reduced_formula == "NaCl"
    assert np.allclose(found.frac_coords[1] % 1, 0.5)


@pytest.mark.parametrize("what", REJECTED)
def test_what_cannot_be_read_whole_is_rejected_with_its_reason(what: str) -> None:
    cif, reason, detail = REJECTED[what]
    with pytest.raises(Rejection) as rejection:
        read_cif(cif)
    assert (rejection.value.reason, detail in rejection.value.detail) == (reason, True), rejection.value.detail


def molecule(species: str, n: int, formula: str, units: int) -> str:
    sites = "".join(f"{species}{i} {i / n:.4f} 0 0\n" for i in range(n))
    return CELL + P1 + f"_chemical_formula_sum '{formula}'\n_cell_formula_units_Z {units}\n" + ATOMS + sites


READ: dict[str, tuple[str, str]] = {
    "operations": (SYMMETRIZED, "Ca4 F8"),
    "operations without a formula": (CELL + FM3M + OPERATIONS + ATOMS + "Ca1 0 0 0\nF1 0.25 0.25 0.25\n", "Ca4 F8"),
    "group without operations": (CELL + FM3M + CAF2, "Ca4 F8"),
    "group alone": (CELL + FM3M + NACL, "Na4 Cl4"),
    "number alone": (CELL + "_symmetry_Int_Tables_number 225\n" + NACL, "Na4 Cl4"),
    "all atoms, the header names their group": (CELL + FM3M + P1 + ATOMS + "".join(
        f"{site.specie}1 {' '.join(f'{x:.4f}' for x in site.frac_coords)}\n" for site in FLUORITE), "Ca4 F8"),
    "primitive cell, the header names its group": (
        str(CifWriter(FLUORITE.get_primitive_structure())).replace("'P 1'", "Fm-3m").replace("number   1", "number   225"), "Ca1 F2"),
    "formula of a unit and Z": (SYMMETRIZED.replace("'Ca4 F8'", "'Ca F2'"), "Ca4 F8"),
    "multiplicities that are orders, as SHELXL-97 writes them": (
        (CELL + FM3M + OPERATIONS + CAF2.partition("\n")[2]).replace(" 4 0 0 0", " 48 0 0 0").replace(" 8 0.25", " 24 0.25"), "Ca4 F8"),
    "neither formula nor symmetry": (CELL + NACL, "Na1 Cl1"),
    "formula is a name": (CELL + "_chemical_formula_sum 'rock salt'\n" + NACL, "Na1 Cl1"),
    "charges": (CELL + TYPED + "Na1 Na1+ 0 0 0\nCl1 Cl- 0.5 0.5 0.5\n", "Na1 Cl1"),
    "spins": (CELL + TYPED + "Ni1 Ni2+,spin=5 0 0 0\nO1 O2- 0.5 0.5 0.5\n", "Ni1 O1"),
    "capitals": (CELL + ATOMS + "NA1 0 0 0\nCL1 0.5 0.5 0.5\n", "Na1 Cl1"),
    "labels with a suffix": (CELL + ATOMS + "O1A 0 0 0\nMg(1) 0.5 0.5 0.5\n", "Mg1 O1"),
    "labels that the formula tells": (CELL + "_chemical_formula_sum 'Mg O'\n" + ATOMS + "Oax 0 0 0\nMG1 0.5 0.5 0.5\n", "Mg1 O1"),
    "CO that the formula tells": (CELL + "_chemical_formula_sum 'Co O'\n" + ATOMS + "CO1 0 0 0\nO1 0.5 0.5 0.5\n", "Co1 O1"),
    "deuterium": (with_("D1"), "Na1 H1"),
    "no hydrogens attached": (CELL + ATOMS + "_atom_site_attached_hydrogens\nN1 0 0 0 0\nCl1 0.5 0.5 0.5 .\n", "N1 Cl1"),
    "an empty site": (CELL + ATOMS + "_atom_site_occupancy\nNa1 0 0 0 1\nVac1 0.5 0.5 0.5 0\n", "Na1"),
    "occupancies ?": (CELL + ATOMS + "_atom_site_occupancy\nNa1 0 0 0 ?\nCl1 0.5 0.5 0.5 ?\n", "Na1 Cl1"),
    "position .": (with_("Cl1", "."), "Na1 Cl1"),
    "uncertainties": (with_("Cl1", "0.50(2)").replace("a 5.64", "a 5.64(1)"), "Na1 Cl1"),
    "byte order mark": ("\ufeff" + with_("Cl1"), "Na1 Cl1"),
    "line ends of Windows": (with_("Cl1").replace("\n", "\r\n"), "Na1 Cl1"),
    "capital data_": (with_("Cl1").replace("data_x", "DATA_x"), "Na1 Cl1"),
    "a block without atoms": ("data_global\n_journal_year 2000\n" + with_("Cl1"), "Na1 Cl1"),
    "data_ in a text": (CELL + "_publ_section_title\n;\ndata_collected at\n;\n" + NACL, "Na1 Cl1"),
    "a text that is not closed": (CELL + NACL + "_publ_section_title\n;\nnever closed\n", "Na1 Cl1"),
    "names in other capitals": (SYMMETRIZED.lower().replace("ca4 f8", "Ca4 F8").replace(" ca ", " Ca "), "Ca4 F8"),
    "names with dots": (with_("Cl1").replace("_cell_", "_cell.").replace("_site_", "_site."), "Na1 Cl1"),
    "names of data in a text": (CELL + "_publ_section_title\n;\n_cell_length_a 3\n;\n" + NACL, "Na1 Cl1"),
    "names of data in a comment": (CELL + "# _cell_length_a 3\n" + NACL + "K 1 1 1 # _atom_site_label\n".replace("K 1 1 1 ", ""), "Na1 Cl1"),
    "unquoted group": (SYMMETRIZED.replace("Fm-3m", "F m -3 m"), "Ca4 F8"),
    "chlorine": (molecule("Cl", 16, "Cl16", 8), "Cl16"),
    "oxygen": (molecule("O", 8, "O8", 4), "O8"),
    "half of a formula that divides": (molecule("C", 12, "C6", 2), "C12"),
}  # fmt: skip


@pytest.mark.parametrize("what", READ)
def test_what_is_right_is_read(what: str) -> None:
    cif, formula = READ[what]
    assert read_cif(cif).composition.formula == formula


def test_each_block_with_atoms_is_a_crystal() -> None:
    cell = str(CifWriter(FLUORITE))
    blocks = split_blocks(f"data_global\n_a 1\n{cell}data_two words\n{CELL.partition(chr(10))[2]}{NACL}")
    assert [(name, read_block(text).composition.formula) for name, text in blocks] == [
        ("CaF2", "Ca4 F8"),
        ("two words", "Na1 Cl1"),
    ]


def test_crystals_written_by_ase_are_read() -> None:
    made = [
        crystal(["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=[5.64] * 3 + [90] * 3),
        crystal("C", [(0, 0, 0)], spacegroup=227, cellpar=[3.57] * 3 + [90] * 3),
    ]
    file = io.BytesIO()
    ase.io.write(file, made, format="cif")
    assert [read_block(text).composition.formula for _, text in split_blocks(file.getvalue().decode())] == [
        "Na4 Cl4",
        "C8",
    ]


def test_a_row_of_mp20_is_compared_with_its_formula() -> None:
    row = {"material_id": "mp-1", "band_gap": "1", "spacegroup.number": "1", "cif": CELL + NACL}
    for formula in ("NaCl", "ClNa", "Na2Cl2", "", None):
        assert parse_row(row | {"pretty_formula": formula}, 20)["formula"] == "NaCl"
    for formula in ("CaF2", "NaCl2", "salt"):
        with pytest.raises(Rejection, match="pretty_formula is") as rejection:
            parse_row(row | {"pretty_formula": formula}, 20)
        assert rejection.value.reason == Reason.NOT_AS_STATED


def made(rng: random.Random) -> Structure:
    """A crystal that the operations of a random space group, in any of its settings, make of two sites."""
    while True:
        hall_number = rng.randrange(1, 531)
        setting = spglib.get_spacegroup_type(hall_number)
        a, c = rng.uniform(4, 6), rng.uniform(5, 9)
        if setting.choice == "R":
            lattice = Lattice.rhombohedral(a, 70)
        elif setting.number > 194:
            lattice = Lattice.cubic(a)
        else:
            lattice = Lattice.hexagonal(a, c) if setting.number > 142 else Lattice.tetragonal(a, c)
        operations = spglib.get_symmetry_from_database(hall_number)
        sites: list[np.ndarray] = []
        species: list[str] = []
        for element in ("Ca", "O"):
            position = [rng.choice([0, 0.25, 0.5, round(rng.random(), 3)]) for _ in range(3)]
            images = (operations["rotations"] @ position + operations["translations"]) % 1
            unique = np.unique(np.round(images, 6) % 1, axis=0)
            sites.extend(unique)
            species.extend([element] * len(unique))
        structure = Structure(lattice, species, sites)
        if len(structure) <= 48 and structure.is_valid(0.7):
            return structure


def damage(cif: str, rng: random.Random) -> str:
    """The CIF with one thing changed that a program or a hand may do to it."""
    lines = cif.split("\n")
    operations = [i for i, line in enumerate(lines) if line.count(",") == 2]
    atoms = [i for i, line in enumerate(lines) if line.startswith(("  Ca", "  O"))]
    how = rng.randrange(7)
    if how == 0:  # one of the operations is lost
        del lines[rng.choice(operations)]
    elif how == 1:  # all but the identity are lost
        lines = [line for i, line in enumerate(lines) if i not in operations[1:]]
    elif how == 2:  # an atom is lost
        del lines[rng.choice(atoms)]
    elif how == 3:  # an atom has a name that is none
        i = rng.choice(atoms)
        _, label, rest = lines[i].split(maxsplit=2)
        lines[i] = f"{rng.choice(['OH', 'Vac', 'X', '?', '13C', 'NO3', 'Wat'])} {label} {rest}"
    elif how == 4:  # the operations are lost, and the name of the group
        lines = [line for i, line in enumerate(lines) if i not in operations and "_equiv_pos" not in line]
        lines = [line for line in lines if "space_group" not in line and "Int_Tables" not in line]
        lines.remove("loop_")
    elif how == 5:  # a bit of an operation or an atom
        i = rng.choice(operations + atoms)
        where = rng.randrange(len(lines[i]))
        lines[i] = lines[i][:where] + chr(ord(lines[i][where]) ^ 1 << rng.randrange(7)) + lines[i][where + 1 :]
    else:  # cut off
        lines = lines[: rng.randrange(len(lines))]
    return "\n".join(lines)


def test_of_many_damaged_cifs_none_loses_an_atom_unseen() -> None:
    rng, rejected = random.Random(4), 0
    for _ in range(DAMAGED):
        cif = str(CifWriter(made(rng), symprec=0.01))
        whole = read_cif(cif)
        assert whole == Structure.from_str(cif, fmt="cif")
        damaged = damage(cif, rng)
        try:
            found = read_cif(damaged)
        except Rejection as rejection:
            rejected += bool(rejection.detail)
        else:
            assert found.composition == whole.composition, damaged
    assert rejected > DAMAGED / 3


def test_the_crystals_of_mp20_are_read_as_before(shared: Path) -> None:
    """Oracle: pymatgen, on a sample of crystals that it reads without a warning."""
    rows = [row for row in read_csv(shared / "mp20/val.csv.gz").rows if row["band_gap"] != "0.0"]
    for row in random.Random(5).sample(rows, min(DAMAGED, len(rows))):
        assert read_cif(row["cif"]) == Structure.from_str(row["cif"], fmt="cif")
        parse_row(row, 20)
