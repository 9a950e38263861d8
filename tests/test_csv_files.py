from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xtalrl.csv_files import read_csv, write_csv
from xtalrl.errors import XtalrlError

# Before Python 3.13, csv does not quote a lone carriage return; no text of ours has one.
text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(text, text)), st.booleans())
def test_what_is_written_is_read(tmp_path: Path, rows: list[tuple[str, str]], packed: bool) -> None:
    path = tmp_path / "a.csv"
    write_csv(path, ("one", "two"), ({"one": one, "two": two} for one, two in rows))
    if packed:
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "a.csv.gz"
    found = read_csv(path, ("two",))
    assert found.columns == ("one", "two")
    assert [(row["one"], row["two"]) for row in found.rows] == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.sampled_from(["a.csv", "a.csv.gz"]))
def test_any_bytes_are_read_or_refused_with_a_sentence(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    try:
        read_csv(tmp_path / name, ("x",))
    except XtalrlError as error:
        assert name in str(error)  # noqa: PT017 (either outcome is right, a traceback is not)


def test_a_row_with_other_fields_than_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffone,two\n1\n1,2,3\n", encoding="utf-8")
    assert read_csv(tmp_path / "a.csv").rows == [{"one": "1", "two": None}, {"one": "1", "two": "2", None: ["3"]}]


def test_numbers_and_what_is_not_known(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("a", "b", "c"), [{"a": 1 / 3, "b": None}, {"a": 12345678, "c": True}])
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["a", "b", "c"], ["0.333333", "", ""], ["12345678", "", "True"]]


def test_the_key_that_names_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(XtalrlError, match=r"gone\.csv does not exist: .*fix `labels\.path`\."):
        read_csv(tmp_path / "gone.csv", setting="labels.path")
    with pytest.raises(XtalrlError, match=r"is a folder, not a CSV: fix `labels\.path`\."):
        read_csv(tmp_path, setting="labels.path")
