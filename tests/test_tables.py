from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from xtalrl import tables
from xtalrl.errors import XtalrlError


@pytest.mark.parametrize("schema", tables.SCHEMAS.values(), ids=tables.SCHEMAS)
def test_every_field_is_described(schema: pa.Schema) -> None:
    for field in schema:
        assert field.metadata[b"description"]
    assert schema.metadata[b"description"]


@pytest.mark.parametrize("schema", tables.SCHEMAS.values(), ids=tables.SCHEMAS)
def test_energies_and_gaps_carry_a_unit(schema: pa.Schema) -> None:
    for field in schema:
        if pa.types.is_floating(field.type):
            assert field.metadata.get(b"unit"), f"{tables.table_name(schema)}.{field.name} has no unit"


def reference(**changes: object) -> dict[str, object]:
    return {"element": "Si", "form": "crystal", "outcome": "converged", "detail": "", **changes}


def test_round_trip_keeps_descriptions_and_nulls(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "references.parquet"
    tables.write_rows([reference(energy_per_atom=-107.5), reference(element="Lu")], tables.REFERENCES, path)
    rows = tables.read_rows(path, tables.REFERENCES)
    assert [row["energy_per_atom"] for row in rows] == [-107.5, None]
    assert pq.read_schema(path).field("energy_per_atom").metadata[b"unit"] == b"eV/atom"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_an_empty_table_round_trips(tmp_path: Path) -> None:
    tables.write_rows([], tables.SCF_OUTCOMES, tmp_path / "a.parquet")
    assert tables.read_rows(tmp_path / "a.parquet", tables.SCF_OUTCOMES) == []


def test_a_null_where_none_is_allowed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"references\.outcome must not be null"):
        tables.from_rows([reference(outcome=None)], tables.REFERENCES)


def test_an_unknown_column_is_refused() -> None:
    with pytest.raises(ValueError, match="no column"):
        tables.from_rows([reference(energy=1.0)], tables.REFERENCES)


def test_reading_a_missing_broken_or_foreign_file_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(XtalrlError, match="does not exist"):
        tables.read(tmp_path / "none.parquet", tables.LABELS)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(XtalrlError, match="not a readable Parquet file"):
        tables.read(tmp_path / "broken.parquet", tables.LABELS)
    pq.write_table(pa.table({"material_id": ["mp-1"]}), tmp_path / "foreign.parquet")
    with pytest.raises(XtalrlError, match="lacks the column"):
        tables.read(tmp_path / "foreign.parquet", tables.LABELS)


def test_outcomes_of_an_older_version_are_read_or_get_a_sentence(tmp_path: Path) -> None:
    row = {field.name: "x" if pa.types.is_string(field.type) else None for field in tables.SCF_OUTCOMES}
    attempt = {"number": 1, "strategy": "s", "outcome": "o", "detail": "", "nspin": 1, "wall_s": 1.0, "key": "k"}
    row |= {"species": ["Si"], "wall_s": 1.0, "attempts": [attempt]}
    path = tmp_path / "outcomes.parquet"
    new = tables.SCF_OUTCOMES.field("attempts")
    for lacks in ("restarted", "key"):
        struct = pa.struct([field for field in new.type.value_type if field.name != lacks])
        older = tables.SCF_OUTCOMES.set(
            tables.SCF_OUTCOMES.get_field_index("attempts"), new.with_type(pa.list_(struct))
        )
        pq.write_table(pa.Table.from_pylist([row], older), path)
        if lacks == "restarted":
            assert tables.read_rows(path, tables.SCF_OUTCOMES)[0]["attempts"][0]["restarted"] is None
        else:
            with pytest.raises(XtalrlError, match="was written by another version of xtalrl"):
                tables.read(path, tables.SCF_OUTCOMES)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    table = pa.table({"element": ["Si"]})
    with pytest.raises(KeyError):
        tables.write(table, tables.REFERENCES, tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []
