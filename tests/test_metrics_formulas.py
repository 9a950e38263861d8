"""Formulas: reading, comparing, lists of known ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core.composition import Composition

from xtalrl.cells import reduced_formula
from xtalrl.elements import ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.metrics.formulas import composition_key, parse_formula, read_known_compositions

counts_of_elements = st.dictionaries(st.sampled_from(ELEMENTS), st.integers(1, 12), min_size=1, max_size=6)


@given(counts_of_elements)
def test_parsing_equals_pymatgen(counts: dict[str, int]) -> None:
    formula = "".join(f"{symbol}{n if n > 1 else ''}" for symbol, n in counts.items())
    assert parse_formula(formula) == Composition(formula).get_el_amt_dict() == counts


@given(counts_of_elements, st.integers(1, 4))
def test_one_composition_has_one_key(counts: dict[str, int], factor: int) -> None:
    multiple = {symbol: factor * n for symbol, n in reversed(counts.items())}
    conventional = reduced_formula([symbol for symbol, n in counts.items() for _ in range(n)])
    assert composition_key(multiple) == composition_key(counts) == composition_key(parse_formula(conventional))


def test_parentheses_and_repeated_elements() -> None:
    assert parse_formula("Ca(OH)2") == {"Ca": 1, "O": 2, "H": 2}
    assert parse_formula("CH3CH2OH") == {"C": 2, "H": 6, "O": 1}
    assert composition_key({"O": 2}) == composition_key({"O": 1}) == "O1"


def test_reduced_formula_is_pymatgens() -> None:
    assert reduced_formula(["Ti", "O", "O", "Sr", "O"]) == "SrTiO3"
    assert reduced_formula(["O", "O"]) == "O2"


@pytest.mark.parametrize("text", ["", "nacl", "Xx2", "Na0", "Na0.5Cl", "Na-Cl", "Na+", "(", "42"])
def test_no_formula_gets_a_sentence(text: str) -> None:
    with pytest.raises(XtalrlError, match="is not a chemical formula"):
        parse_formula(text)


@pytest.mark.parametrize("name", ["known.txt", "known.txt.gz"])
def test_lists_of_known_compositions(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = b"NaCl\n\nO3SrTi\nCa(OH)2\n"
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read_known_compositions(path) == {"Cl1Na1", "O3Sr1Ti1", "Ca1H2O2"}


def test_bad_lists_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(XtalrlError, match=r"gone.txt does not exist.*evaluation.formulas"):
        read_known_compositions(tmp_path / "gone.txt")
    (tmp_path / "bad.txt").write_text("NaCl\nsalt\n")
    with pytest.raises(XtalrlError, match=r"bad.txt, line 2: 'salt'"):
        read_known_compositions(tmp_path / "bad.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(XtalrlError, match=r"empty.txt is empty"):
        read_known_compositions(tmp_path / "empty.txt")
    (tmp_path / "text.gz").write_text("NaCl\n")
    with pytest.raises(XtalrlError, match=r"text.gz cannot be read"):
        read_known_compositions(tmp_path / "text.gz")


def test_the_formulas_of_the_materials_project(shared: Path) -> None:
    known = read_known_compositions(shared / "mp_formulas.txt.gz")
    assert len(known) == 106_583
    assert {"O3Sr1Ti1", "Cl1Na1"} <= known
