"""CSV files, written by people and by us: one way to read them and one to write them."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtalrl.errors import XtalrlError
from xtalrl.files import write_whole


@dataclass(frozen=True)
class Csv:
    """The content of a CSV.

    A row is a dictionary by column, in which a missing field is None and fields beyond the header are under the key None. A file without a
    header has no columns.
    """

    columns: tuple[str, ...]
    rows: list[dict[Any, Any]]


def read_csv(path: str | Path, needed: Sequence[str] = (), setting: str = "") -> Csv:
    """Read a CSV or .csv.gz in UTF-8.

    Args:
        path: file to read; a name that ends in .gz means gzip.
        needed: columns that must be there.
        setting: key of the configuration that names the file, for messages.

    Raises:
        XtalrlError: the file is missing, a folder, empty though columns are needed, not gzip, cut off, not UTF-8, not CSV, or without a
            needed column.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    fix = f"fix `{setting}`" if setting else ""
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            try:
                found = Csv(tuple(reader.fieldnames or ()), list(reader))
            except csv.Error as error:
                raise XtalrlError(f"{path} is not a readable CSV, line {reader.line_num}: {error}.") from None
    except FileNotFoundError:
        raise XtalrlError(
            f"{path} does not exist: run the stage that writes it{', or ' if fix else ''}{fix}."
        ) from None
    except IsADirectoryError:
        raise XtalrlError(f"{path} is a folder, not a CSV{': ' if fix else ''}{fix}.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        if str(error).startswith("Not a gzipped file"):
            problem = "ends in .gz but is not a gzip file: rename it, or compress it with `gzip`"
        else:
            problem = f"is a damaged gzip file ({error}): get it again"
        raise XtalrlError(f"{path} {problem}.") from None
    except UnicodeDecodeError as error:
        raise XtalrlError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it, or get it again."
        ) from None
    except OSError as error:
        raise XtalrlError(f"{path} cannot be read ({error.strerror or error}){': ' if fix else ''}{fix}.") from None
    if needed and not found.columns:
        raise XtalrlError(f"{path} is empty: it must be a CSV with the columns {', '.join(needed)}.")
    if missing := [name for name in needed if name not in found.columns]:
        raise XtalrlError(
            f"{path} lacks the column(s) {', '.join(missing)}; it has {', '.join(map(repr, found.columns))}."
        )
    return found


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as CSV (see `csv_text`), completely or not at all."""
    write_whole(path, csv_text(columns, rows).encode())


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Rows as CSV text; None and missing values are empty cells, a float keeps six significant digits."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
    return buffer.getvalue()
