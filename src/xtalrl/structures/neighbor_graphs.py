"""CrystalNN multigraphs of the crystals, many at a time."""

from __future__ import annotations

import logging
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.elements import ACTION
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.structures.graph_cache import GraphCache, graph_key
from xtalrl.structures.neighbors import find_neighbors
from xtalrl.structures.rejections import Reason

logger = logging.getLogger(__name__)

CHUNK = 8
"""Number of crystals that a worker process gets at a time."""
MIN_PER_WORKER = 200
"""Number of crystals that make up for starting a process, which imports pymatgen first."""


@dataclass(frozen=True)
class Edges:
    """Directed edges (source u, target v, image): v lies in the cell `image` seen from u.

    Shapes: source, target (e,); image (e, 3); distance (e,) in Å.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    image: NDArray[np.int64]
    distance: NDArray[np.float64]


def build_graphs(
    crystals: str | Path, graphs: str | Path, failures: str | Path, cache: str | Path, workers: int = 1
) -> None:
    """Write the graph of every crystal (`tables.GRAPHS`), and crystals without a graph with the reason (`tables.REJECTED`).

    Args:
        crystals: `tables.CRYSTALS`.
        graphs: the Parquet file to write; rows are in the order of the crystals for any number of workers.
        failures: the Parquet file to write of crystals without a graph, with the reason.
        cache: folder of downloads and finished work; graphs found there are not built again, and new ones are added.
        workers: maximum number of processes.

    Raises:
        XtalrlError: `crystals` is missing or not such a table, or a process was killed.
    """
    rows = tables.read_rows(crystals, tables.CRYSTALS)
    keys = [graph_key(row) for row in rows]
    known = GraphCache(Path(cache) / "graphs", set(keys))
    if len(known):
        logger.info("%s graphs were built before", f"{len(known):,}")
    failed: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()

    def built() -> Iterator[dict[str, Any]]:
        new = _map([row for row, key in zip(rows, keys, strict=True) if key not in known], workers)
        progress = Progress("Building graphs", len(rows), "crystals")
        for number, (row, key) in enumerate(zip(rows, keys, strict=True)):
            edges = known.edges(key) if key in known else next(new)
            if isinstance(edges, str):
                failed.append(
                    {
                        "source": Path(crystals).name,
                        "row": number,
                        "material_id": row["material_id"],
                        "split": row["split"],
                        "reason": Reason.NO_NEIGHBORS.value,
                        "detail": edges,
                    }
                )
            else:
                if key not in known:
                    known.add(key, edges)
                counts[row["split"]] += 1
                yield graph_row(row, edges)
            progress.advance()

    try:
        tables.write_rows(built(), tables.GRAPHS, graphs)
    finally:
        known.flush()
    tables.write_rows(failed, tables.REJECTED, failures)
    for split, count in counts.items():
        logger.info("%s: %s graphs", split, f"{count:,}")
    for row in failed:
        logger.info("%s has no graph: %s", row["material_id"], row["detail"])


def _map(rows: list[dict[str, Any]], workers: int) -> Iterator[dict[str, Any] | str]:
    workers = min(workers, len(rows) // MIN_PER_WORKER)
    if workers <= 1:
        yield from map(edge_columns, rows)
        return
    logger.info("Starting %d processes", workers)
    # spawn: a forked child of a process with threads (Arrow's) may hang.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            yield from pool.map(edge_columns, rows, chunksize=CHUNK)
    except BrokenProcessPool:
        raise XtalrlError(
            f"One of {workers} processes that build graphs was killed, most likely for lack of memory: give the job more memory "
            "or fewer threads (`set-threads` in the profile), then run the same command again."
        ) from None


def edge_columns(crystal: dict[str, Any]) -> dict[str, Any] | str:
    """The edges of a row of `tables.CRYSTALS` as columns of `tables.GRAPHS`, or one sentence on why there are none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            edges = find_edges(Cell.from_row(crystal).to_structure())
    except Exception as error:  # CrystalNN, qhull and pymatgen have no common error.
        return f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
    if not len(edges.source):
        return "CrystalNN finds no neighbours: the atoms are too far apart"
    return {
        "edge_source": edges.source,
        "edge_target": edges.target,
        "edge_image": edges.image.ravel(),
        "edge_distance": edges.distance,
    }


def graph_row(crystal: dict[str, Any], edges: dict[str, Any]) -> dict[str, Any]:
    """A row of `tables.GRAPHS` of a row of `tables.CRYSTALS` and its `edge_columns`."""
    return {
        "material_id": crystal["material_id"],
        "split": crystal["split"],
        "actions": [ACTION[element] for element in crystal["species"]],
        "lattice_parameters": Lattice(Cell.from_row(crystal).vectors).parameters,
        "spacegroup_number": crystal["spacegroup_number"],
    } | edges


def find_edges(structure: Structure) -> Edges:
    """The directed multigraph of CrystalNN neighbours, sorted by (source, target, image).

    A bond that CrystalNN finds from one side only is a bond, and every bond gives an edge each way: the rule of pymatgen's
    `StructureGraph.from_local_env_strategy` and of the paper's code. Parallel edges (to several images of a site) and self-loops
    (to images of the site itself; (u, u, image) and (u, u, -image) are the two ways of one bond) are kept.
    Lengths are eq. 9: |(x_v + image - x_u) · lattice|.

    Raises:
        RuntimeError, ValueError: CrystalNN fails.
    """
    edges: set[tuple[int, int, int, int, int]] = set()
    for u in range(len(structure)):
        for v, (x, y, z) in find_neighbors(structure, u):
            edges |= {(u, v, x, y, z), (v, u, -x, -y, -z)}
    array = np.array(sorted(edges), dtype=np.int64).reshape(-1, 5)
    source, target, image = array[:, 0], array[:, 1], array[:, 2:]
    vectors = (structure.frac_coords[target] + image - structure.frac_coords[source]) @ structure.lattice.matrix
    return Edges(source, target, image, np.linalg.norm(vectors, axis=1))
