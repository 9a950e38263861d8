"""Tables of magnetizations in place of the Materials Project's API, and the conversion between cells."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Composition

from xtalrl.errors import XtalrlError
from xtalrl.structures.magnetizations import (
    PER_CELL,
    PER_FORMULA_UNIT,
    add_magnetizations,
    cell_magnetization,
    read_magnetizations,
)


@given(
    formula=st.sampled_from(["FeO", "Fe2O3", "O2", "NaO", "KO", "CsO2", "N", "MnF2", "Cl", "H", "HgCl"]),
    theirs=st.integers(1, 6),
    ours=st.integers(1, 6),
    magnetization=st.floats(0, 50),
)
@settings(max_examples=25)
def test_conversion_undoes_the_division_of_the_materials_project(
    formula: str, theirs: int, ours: int, magnetization: float
) -> None:
    """Oracle: emmet-core's own document, built from a cell of another size."""
    from emmet.core.magnetism import MagnetismDoc
    from pymatgen.core import Lattice, Structure

    def species(copies: int) -> list[str]:
        return [s for element, n in Composition(formula).items() for s in [element.symbol] * int(n * copies)]

    structure = Structure(Lattice.cubic(50), species(theirs), [[i / 37, 0, 0] for i in range(len(species(theirs)))])
    document = MagnetismDoc.from_structure(structure=structure, total_magnetization=magnetization, material_id="mp-1")
    values = {PER_FORMULA_UNIT: document.total_magnetization_normalized_formula_units, PER_CELL: magnetization}
    assert cell_magnetization(values, species(ours)) == pytest.approx(magnetization * ours / theirs)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_read(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"material_id": ["mp-1", "mp-2", "mp-3"], PER_CELL: [1.5, None, 0.0], "other": ["x", "y", "z"]}
    )
    path = tmp_path / f"m.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    assert {name: values[PER_CELL] for name, values in read_magnetizations(path).items()} == {
        "mp-1": 1.5,
        "mp-2": None,
        "mp-3": 0.0,
    }


def test_the_value_per_formula_unit_goes_first_and_the_csvs_own_value_stays(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"material_id,{PER_CELL},{PER_FORMULA_UNIT}\na,5,5\nb,5,\nc,,\nd,5,5\n")
    crystals = [
        {"material_id": name, "species": ["Mn", "O", "Mn", "O"], "tot_magnetization": 7.0 if name == "d" else None}
        for name in "abcde"
    ]
    add_magnetizations(crystals, tmp_path / "m.csv")
    assert [crystal["tot_magnetization"] for crystal in crystals] == [10.0, 5.0, None, 7.0, None]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("no.csv", None, "does not exist: run the stage that writes it, or fix `structures.magnetizations`"),
        ("m.csv", "", "it has: nothing"),
        (
            "m.csv",
            "material_id,gap\nmp-1,2\n",
            "needs the columns `material_id` and `total_magnetization`.*it has: material_id, gap",
        ),
        (
            "m.csv",
            f"material_id,{PER_CELL}\nmp-1,many\n",
            "row 2: total_magnetization is 'many', which is not a number",
        ),
        ("m.csv", f"material_id,{PER_CELL}\nmp-1,inf\n", "'inf'"),
        ("m.csv", f"material_id,{PER_CELL}\nmp-1,1\nmp-1,2\n", "row 3: mp-1 has other values in an earlier row"),
        ("m.csv", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("m.parquet", b"no parquet", "cannot be read"),
    ],
)
def test_a_bad_table_gets_a_sentence(name: str, content: str | bytes | None, expected: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(XtalrlError, match=expected):
        read_magnetizations(tmp_path / name)


@given(st.text(max_size=60), st.sampled_from(["csv", "parquet"]))
def test_any_text_is_read_or_refused_with_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, text: str, kind: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz.{kind}"
    path.write_bytes(f"material_id,{PER_CELL}\n{text}\n".encode("utf-8", "surrogatepass"))
    try:
        assert all(set(values) == {PER_CELL, PER_FORMULA_UNIT} for values in read_magnetizations(path).values())
    except XtalrlError as error:
        assert str(path) in str(error)  # noqa: PT017 (either outcome is right, a traceback is not)
