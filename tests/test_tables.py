from __future__ import annotations

import errno
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtalrl import tables
from xtalrl.errors import XtalrlError, explain_os_error
from xtalrl.table_checks import ContentDigest


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


LABEL = {"split": "train", "outcome": "converged", "detail": "", "source": "scf", "band_gap": 1.5, "band_gap_raw": 1.5}
LABELS = [{**LABEL, "material_id": f"mp-{number}", "formation_energy_per_atom": -0.1 * number} for number in range(5)]


def changed(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """What other software does: read the table, change it, and write it with all the metadata that it has seen."""
    pq.write_table(change(pq.read_table(path)), path, compression="zstd")


def with_value(table: pa.Table, column: str, value: object) -> pa.Table:
    index = table.column_names.index(column)
    values = [value, *table[column].to_pylist()[1:]]
    return table.set_column(index, table.schema.field(column), pa.array(values, table.schema.field(column).type))


def in_unit(table: pa.Table, unit: str) -> pa.Table:
    index = table.column_names.index("band_gap")
    return table.set_column(index, table.schema.field("band_gap").with_metadata({"unit": unit}), table["band_gap"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: with_value(table, "band_gap", 1.4), r"was changed or damaged .*band_gap"),
        (lambda table: with_value(table, "detail", "x"), "was changed"),
        (lambda table: with_value(table, "band_gap", None), "was changed"),
        (lambda table: with_value(table, "band_gap", math.nan), r"band_gap of row 0 \(mp-0\) is nan"),
        (lambda table: with_value(table, "band_gap", 31.0), "31, and must be between 0 and 30 eV"),
        (lambda table: with_value(table, "band_gap_raw", -20.1), "between -20 and 30 eV"),
        (lambda table: with_value(table, "formation_energy_per_atom", -1e30), "between -20 and 20 eV/atom"),
        (lambda table: with_value(table, "total_energy_ry", math.inf), "inf, which is not a finite number"),
        (lambda table: table.slice(1), "was changed"),
        (lambda table: table.slice(0, 0), "was changed"),
        (lambda table: pa.concat_tables([table, table.slice(3, 1)]), r"row 5 \(mp-3\) is there twice"),
        (lambda table: in_unit(table, "meV"), "gives band_gap in meV, and it must be in eV"),
        (lambda table: in_unit(table, ""), "gives band_gap in no unit"),
        (
            lambda table: table.replace_schema_metadata({"xtalrl_table": "crystals"}),
            "is the table 'crystals', not 'labels'",
        ),
        (lambda table: table.append_column("band_gap", table["band_gap"]), "more than once"),
    ],
)
def test_a_table_that_was_changed_is_refused(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    path = tmp_path / "labels.parquet"
    tables.write_rows(LABELS, tables.LABELS, path)
    changed(path, change)
    with pytest.raises(XtalrlError, match=message) as error:
        tables.read(path, tables.LABELS)
    assert f"`snakemake {path}`" in str(error.value)


def test_a_table_of_another_program_is_read_and_its_values_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    tables.write_rows(LABELS, tables.LABELS, path)
    changed(path, lambda table: with_value(table, "band_gap", 1.4).replace_schema_metadata())
    assert tables.read_rows(path, tables.LABELS)[0]["band_gap"] == 1.4
    changed(path, lambda table: table.cast(pa.schema([field.remove_metadata() for field in table.schema])))
    assert len(tables.read(path, tables.LABELS)) == 5
    changed(path, lambda table: with_value(table, "band_gap", math.nan))
    with pytest.raises(XtalrlError, match="is nan"):
        tables.read(path, tables.LABELS)
    changed(path, lambda table: in_unit(with_value(table, "band_gap", 1400.0), "meV"))
    with pytest.raises(XtalrlError, match="in meV"):
        tables.read(path, tables.LABELS)


GRAPH = {
    "material_id": "a", "split": "train", "actions": [0, 87], "lattice_parameters": [3.0] * 6, "spacegroup_number": 1,
    "edge_source": [0, 1], "edge_target": [1, 0], "edge_image": [0] * 6, "edge_distance": [2.0, 2.0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": [0, 88]}, r"actions of row 1 \(b\) is 88, and must be between 0 and 87"),
        ({"actions": []}, r"actions of row 1 \(b\) has 0 entries, and must have 1\+"),
        ({"edge_target": [1]}, "edge_target .* has 1 entries, and must have 1 for each of edge_source"),
        ({"edge_image": [0] * 5}, "edge_image .* has 5 entries, and must have 3 for each of edge_source"),
        ({"lattice_parameters": [3.0] * 5}, "lattice_parameters .* has 5 entries, and must have 6"),
        ({"edge_distance": [2.0, None]}, "edge_distance .* is null"),
        ({"edge_distance": [2.0, math.inf]}, "edge_distance .* is inf"),
    ],
)
def test_lists_are_checked(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tables.write_rows([GRAPH, GRAPH | {"material_id": "b"} | change], tables.GRAPHS, tmp_path / "graphs.parquet")
    with pytest.raises(XtalrlError, match=message):
        tables.read(tmp_path / "graphs.parquet", tables.GRAPHS)


def test_the_digest_does_not_depend_on_how_a_table_is_cut(tmp_path: Path) -> None:
    table = tables.from_rows(LABELS, tables.LABELS)
    whole, cut = ContentDigest(), ContentDigest()
    whole.update(table)
    for start in range(0, 5, 2):
        cut.update(table.slice(start, 2))
    assert whole.by_column() == cut.by_column()
    tables.write(table, tables.LABELS, tmp_path / "a.parquet")
    tables.write(table, tables.LABELS, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@given(
    st.lists(st.tuples(st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=3), st.integers(-9, 9))),
    st.lists(st.tuples(st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=3), st.integers(-9, 9))),
)
def test_two_tables_have_one_digest_only_if_they_are_equal(one: list[Any], other: list[Any]) -> None:
    schema = pa.schema([("names", pa.list_(pa.string())), ("number", pa.int32())])
    digests = []
    for rows in (one, other):
        digests.append(ContentDigest())
        digests[-1].update(pa.Table.from_pylist([{"names": names, "number": number} for names, number in rows], schema))
    assert (digests[0].by_column() == digests[1].by_column()) == (one == other)


@pytest.mark.parametrize(
    "error",
    [OSError("thrift"), MemoryError(), UnicodeDecodeError("utf-8", b"", 0, 1, "x"), pa.ArrowNotImplementedError("y")],
)
def test_whatever_the_library_raises_becomes_a_sentence(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "labels.parquet"
    tables.write_rows(LABELS, tables.LABELS, path)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", fail)
    with pytest.raises(XtalrlError, match="not a readable Parquet file"):
        tables.read(path, tables.LABELS)


def test_what_one_may_not_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(pq, "ParquetFile", refuse)
    with pytest.raises(PermissionError) as error:
        tables.read(tmp_path / "labels.parquet", tables.LABELS)
    assert "Permission denied for" in str(explain_os_error(error.value))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    table = pa.table({"element": ["Si"]})
    with pytest.raises(KeyError):
        tables.write(table, tables.REFERENCES, tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []


def test_what_a_table_says_of_itself(tmp_path: Path) -> None:
    tables.write_rows(LABELS, tables.LABELS, tmp_path / "labels.parquet")
    assert tables.metadata_of(tmp_path / "labels.parquet")["xtalrl_table"] == "labels"
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(XtalrlError, match="not a readable Parquet file"):
        tables.metadata_of(tmp_path / "broken.parquet")
