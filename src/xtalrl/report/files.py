"""Writing results as text, whole or not at all."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xtalrl.files import write_whole


def write_text(path: str | Path, content: str) -> None:
    """Write UTF-8 text by `xtalrl.files.write_whole`."""
    write_whole(path, content.encode())


def write_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows as CSV; None is an empty cell, a float keeps six significant digits."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
    write_text(path, buffer.getvalue())
