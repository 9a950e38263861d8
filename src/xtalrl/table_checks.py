"""What is checked in every stage table that is read: its values, its key, and a digest of its contents."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class TableCheck:
    """The check of one table, which may be given in parts."""

    def __init__(self, schema: pa.Schema) -> None:
        """Begin the check of a table whose schema says, in its metadata and that of its fields, what is allowed (`xtalrl.tables`)."""
        self.schema = schema
        metadata = schema.metadata or {}
        self._key = metadata[b"key"].decode().split() if b"key" in metadata else []
        self._seen: set[tuple[Any, ...]] = set()
        self._rows = 0

    def fault(self, part: pa.Table) -> str | None:
        """A clause about the first value of the next part that is not allowed, or about a row whose key occurs twice; None if all is well.

        Values that are not allowed: null where the schema has none, NaN, infinity, and numbers outside the range of a field.
        """
        for field in self.schema:
            if not (pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type)):
                bad = _bad_value(part[field.name], field) or _bad_length(part, field)
                if bad is not None:
                    row, fault = bad
                    return f"{field.name} of {self._name(part, row)} {fault}"
        if self._key:
            for row, key in enumerate(zip(*(part[name].to_pylist() for name in self._key), strict=True)):
                if key in self._seen:
                    return f"{self._name(part, row)} is there twice"
                self._seen.add(key)
        self._rows += len(part)
        return None

    def _name(self, part: pa.Table, row: int) -> str:
        key = ", ".join(str(part[name][row].as_py()) for name in self._key)
        return f"row {self._rows + row}" + (f" ({key})" if key else "")


def _bad_value(column: pa.ChunkedArray, field: pa.Field) -> tuple[int, str] | None:
    """Row of the first value of a column that its field does not allow, and a clause about the value."""
    values = column.combine_chunks()
    if not field.nullable and values.null_count:
        return pc.index(pc.is_null(values), True).as_py(), "is null"
    owner = None
    if pa.types.is_list(field.type):
        owner, values = pc.list_parent_indices(values), values.flatten()
    bad = None
    if owner is not None and values.null_count:
        bad = pc.is_null(values)
    elif pa.types.is_floating(values.type) or pa.types.is_integer(values.type):
        low, high = allowed_range(field)
        bad = pc.invert(pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high)))  # NaN fails both
        bad = pc.fill_null(bad, False)
    if bad is None or (first := pc.index(bad, True).as_py()) < 0:
        return None
    value = values[first].as_py()
    row = first if owner is None else owner[first].as_py()
    return row, f"is {'null' if value is None else f'{value:g}'}{_allowed(field)}"


def _bad_length(part: pa.Table, field: pa.Field) -> tuple[int, str] | None:
    """The first row whose list does not have as many entries as its field says (`items`), and a clause about it."""
    items = (field.metadata or {}).get(b"items", b"").decode()
    if not items:
        return None
    lengths = pc.list_value_length(part[field.name])
    if items == "1+":
        bad = pc.less(lengths, 1)
    else:
        factor, _, other = items.partition(" ")
        wanted = pc.multiply(pc.list_value_length(part[other]), int(factor)) if other else int(factor)
        bad = pc.not_equal(lengths, wanted)
    if (row := pc.index(bad, True).as_py()) < 0:
        return None
    return row, f"has {lengths[row]} entries, and must have {items.replace(' ', ' for each of ')}"


def allowed_range(field: pa.Field) -> tuple[float, float]:
    """The smallest and the largest allowed value of a numeric field; those of all finite numbers where the field names no range."""
    metadata = field.metadata or {}
    if b"range" in metadata:
        low, high = map(float, metadata[b"range"].split())
        return low, high
    largest = float(np.finfo(np.float64).max)
    return -largest, largest


def _allowed(field: pa.Field) -> str:
    metadata = field.metadata or {}
    if b"range" not in metadata:
        return ", which is not a finite number"
    low, high = allowed_range(field)
    return f", and must be between {low:g} and {high:g}" + (
        f" {metadata[b'unit'].decode()}" if b"unit" in metadata else ""
    )


class ContentDigest:
    """A SHA-256 of the values of each column, independent of row groups, encoding and order of the columns."""

    def __init__(self) -> None:
        self._hashes: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(hashlib.sha256))

    def update(self, part: pa.Table) -> None:
        """Add the next rows."""
        for name in part.column_names:
            hashes = self._hashes[name]
            for chunk in part[name].chunks:
                for path, content in _contents(chunk, ""):
                    hashes[path].update(content)

    def by_column(self) -> dict[str, str]:
        """The digest of each column."""
        return {
            name: hashlib.sha256(
                "".join(f"{path} {digest.hexdigest()}\n" for path, digest in sorted(hashes.items())).encode()
            ).hexdigest()
            for name, hashes in self._hashes.items()
        }


def _contents(array: pa.Array, path: str) -> Iterator[tuple[str, bytes]]:
    """Paths and bytes of an array's values and of the mask of its nulls; nested values have paths of their own."""
    yield f"{path}?", array.is_valid().cast(pa.uint8()).to_numpy().tobytes()
    if pa.types.is_list(array.type):
        yield f"{path}#", pc.fill_null(pc.list_value_length(array), 0).to_numpy().tobytes()
        yield from _contents(array.flatten(), f"{path}[]")
    elif pa.types.is_struct(array.type):
        for field, values in zip(array.type, array.flatten(), strict=True):
            yield from _contents(values, f"{path}.{field.name}")
    elif pa.types.is_string(array.type):
        texts = array.fill_null("")
        yield f"{path}#", pc.binary_length(texts).to_numpy().tobytes()
        yield path, "".join(texts.to_pylist()).encode()
    elif pa.types.is_boolean(array.type):
        yield path, array.fill_null(False).cast(pa.uint8()).to_numpy().tobytes()
    elif not pa.types.is_null(array.type):
        yield path, array.fill_null(0).to_numpy().tobytes()
