"""Graphs that were built before, found by their crystal: neither a changed selection nor a killed job builds a graph again."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.sharing import make_folder, share

logger = logging.getLogger(__name__)

PART = 500
"""Number of graphs per file; a kill loses fewer."""

EDGES = ("edge_source", "edge_target", "edge_image", "edge_distance")
_SCHEMA = pa.schema(
    [pa.field("key", pa.string(), nullable=False), *(tables.GRAPHS.field(name) for name in EDGES)],
    {"xtalrl_table": "graph_cache"},
)


def graph_key(crystal: Mapping[str, Any]) -> str:
    """SHA-256 of what the edges of a row of `tables.CRYSTALS` depend on: elements, cell, positions, and the version of pymatgen."""
    digest = hashlib.sha256(f"pymatgen-core {version('pymatgen-core')} {' '.join(crystal['species'])}".encode())
    for column in ("lattice", "frac_coords"):
        digest.update(np.asarray(crystal[column], dtype="<f8").tobytes())
    return digest.hexdigest()


class GraphCache:
    """Edges by `graph_key`, in the Parquet files of a folder; each is written once, by one process.

    Args:
        folder: folder of the files.
        keys: keys that will be asked for; other graphs are not kept in memory.
    """

    def __init__(self, folder: str | Path, keys: Collection[str]) -> None:
        self.folder = Path(folder)
        wanted = pa.array(sorted(keys), pa.string())
        parts = [_SCHEMA.empty_table()]
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                part = tables.read(path, _SCHEMA)
            except XtalrlError as error:
                logger.info("Left out of the cache of graphs: %s", error)
                continue
            parts.append(part.filter(pc.is_in(part["key"], wanted)))
        self._known = pa.concat_tables(parts)
        self._row = {key: row for row, key in enumerate(self._known["key"].to_pylist())}
        self._new: list[dict[str, Any]] = []

    def __len__(self) -> int:
        """Number of graphs that are here and were asked for."""
        return len(self._row)

    def __contains__(self, key: str) -> bool:
        """Whether the graph with this key is here."""
        return key in self._row

    def edges(self, key: str) -> dict[str, NDArray[Any]]:
        """The columns `EDGES` of a graph that is here."""
        return {name: self._known[name][self._row[key]].values.to_numpy() for name in EDGES}

    def add(self, key: str, edges: Mapping[str, Any]) -> None:
        """Keep the columns `EDGES` of a new graph; they are written when there are `PART` of them, or by `flush`."""
        self._new.append({"key": key} | {name: edges[name] for name in EDGES})
        if len(self._new) == PART:
            self.flush()

    def flush(self) -> None:
        """Write what is not on the disk yet."""
        if self._new:
            name = f"{os.uname().nodename}-{os.getpid()}-{time.time_ns()}.parquet"
            make_folder(self.folder)
            tables.write_rows(self._new, _SCHEMA, self.folder / name)
            share(self.folder / name)
            self._new = []
