"""Breadth-first orders in which a crystal's sites are filled: the behaviour data the policies learn from.

A trajectory of a crystal with n sites has n transitions: step t fills site `order[t]` with the element `actions[t]`; only the last step is
rewarded. Trajectories are stored with what the rewards need instead of with rewards, because each policy has its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.rl.canonical import CrystalBonds, canonical_sites

logger = logging.getLogger(__name__)

Ties = Literal["index", "shuffled"]


@dataclass(frozen=True)
class Transition:
    """One step of a trajectory: `filled` sites hold their elements, `site` gets the action; `done` after the last."""

    filled: tuple[int, ...]
    site: int
    action: int
    done: bool


@dataclass(frozen=True)
class Trajectory:
    """A row of `tables.TRAJECTORIES`. Units: eV, eV/atom, Ry per cell."""

    material_id: str
    split: str
    trajectory: int
    order: list[int]
    actions: list[int]
    band_gap: float
    formation_energy_per_atom: float
    total_energy_ry: float | None

    def transitions(self) -> Iterator[Transition]:
        """The steps of the trajectory, as many as the crystal has sites."""
        for step, (site, action) in enumerate(zip(self.order, self.actions, strict=True)):
            yield Transition(tuple(self.order[:step]), site, action, step == len(self.order) - 1)


def iter_trajectories(path: str | Path, split: str | None = None) -> Iterator[Trajectory]:
    """The trajectories of a file, or of one split, read one row group at a time.

    Raises:
        XtalrlError: as in `tables.read`.
    """
    for part in tables.read_parts(path, tables.TRAJECTORIES):
        for row in part.to_pylist():
            if split is None or row["split"] == split:
                yield Trajectory(**row)


def build_trajectories(
    graphs: str | Path,
    labels: str | Path,
    trajectories: str | Path,
    per_crystal: int,
    seed: int = 0,
    metals: Literal["source", "dft"] = "source",
    disconnected: Literal["keep", "drop"] = "keep",
    ties: Ties = "index",
) -> None:
    """Write up to `per_crystal` trajectories, each from another source site, of every crystal that has a graph and both labels.

    Which sites are sources depends on the seed, the material_id and the crystal only, not on the order or number of rows.

    Args:
        graphs: `tables.GRAPHS`.
        labels: `tables.LABELS`; a crystal whose gap or formation energy is null gives none.
        trajectories: `tables.TRAJECTORIES` to write, in the order of the graphs.
        per_crystal: maximum number of trajectories per crystal; a crystal with fewer sites gives one per site.
        seed: seed of the choice of source sites.
        metals: `dft` leaves out crystals whose label has a gap of 0; `source` does not, because metals were dropped earlier.
        disconnected: what to do with a crystal whose graph falls into several parts (see `breadth_first_order`).
        ties: what decides between sites that the search reaches at once (see `orders`).

    Raises:
        XtalrlError: no crystal of the train split (of the validation split, where there is no other) has both labels, or a file cannot be used.
    """
    labelled = _complete_labels(tables.read(labels, tables.LABELS))
    counts: Counter[tuple[str, str]] = Counter()
    drop = {"metals": metals == "dft", "disconnected": disconnected == "drop"}
    progress = Progress("Breadth-first orders", tables.n_rows(graphs, tables.GRAPHS), "crystals")

    def rows() -> Iterator[dict[str, Any]]:
        for part in tables.read_parts(graphs, tables.GRAPHS):
            for batch in part.to_batches(max_chunksize=500):
                yield from _trajectories(batch.to_pylist(), labelled, per_crystal, seed, drop, ties, counts)
                progress.advance(len(batch))
        splits = {split for split, _ in counts}
        # Whoever reads the validation split alone has a policy that was trained elsewhere.
        split, lack = ("val", "no skeleton to fill") if splits == {"val"} else ("train", "nothing to learn from")
        if not counts[split, "crystals"]:
            raise XtalrlError(
                f"No crystal of the {split} split in {graphs} has both a band gap and a formation energy in {labels}: there is {lack}. "
                f"The columns `outcome` and `detail` of {labels} say why each label is missing."
            )

    tables.write_rows(rows(), tables.TRAJECTORIES, trajectories)
    for split in dict.fromkeys(name for name, _ in counts):
        logger.info(
            "%s: %s trajectories with %s transitions of %s crystals; left out: %s without both labels, %s metals, %s disconnected",
            split,
            *(
                f"{counts[split, what]:,}"
                for what in ("trajectories", "transitions", "crystals", "unlabelled", "metals", "disconnected")
            ),
        )


def _complete_labels(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Gap, formation energy and total energy by material_id, of crystals with both gap and formation energy."""
    columns = table.select(["material_id", "band_gap", "formation_energy_per_atom", "total_energy_ry"]).to_pylist()
    return {
        row.pop("material_id"): row
        for row in columns
        if row["band_gap"] is not None and row["formation_energy_per_atom"] is not None
    }


def _trajectories(
    graphs: list[dict[str, Any]],
    labels: dict[str, dict[str, Any]],
    per_crystal: int,
    seed: int,
    drop: dict[str, bool],
    ties: Ties,
    counts: Counter[tuple[str, str]],
) -> Iterator[dict[str, Any]]:
    for graph in graphs:
        material_id, split, actions = graph["material_id"], graph["split"], graph["actions"]
        if (label := labels.get(material_id)) is None:
            counts[split, "unlabelled"] += 1
            continue
        if drop["metals"] and label["band_gap"] == 0:
            counts[split, "metals"] += 1
            continue
        _check_bonds(graph)
        if drop["disconnected"] and not is_connected(
            adjacency(len(actions), graph["edge_source"], graph["edge_target"])
        ):
            counts[split, "disconnected"] += 1
            continue
        bonds = CrystalBonds(len(actions), graph["edge_source"], graph["edge_target"], graph["edge_distance"])
        found = orders(material_id, bonds, per_crystal, seed, ties)
        counts[split, "crystals"] += 1
        counts[split, "trajectories"] += len(found)
        counts[split, "transitions"] += len(found) * len(actions)
        for number, order in enumerate(found):
            yield {
                "material_id": material_id,
                "split": split,
                "trajectory": number,
                "order": order,
                "actions": [actions[site] for site in order],
                **label,
            }


def _check_bonds(graph: dict[str, Any]) -> None:
    """Raise where a bond is to a site that does not exist."""
    if not all(0 <= site < len(graph["actions"]) for site in (*graph["edge_source"], *graph["edge_target"])):
        raise XtalrlError(
            f"The edges of the graph of {graph['material_id']} are not those of its sites: run `snakemake --forcerun build_graphs` again."
        )


def orders(material_id: str, bonds: CrystalBonds, per_crystal: int, seed: int, ties: Ties) -> list[list[int]]:
    """The orders in which the trajectories of a crystal fill its sites, each breadth first from another source.

    `index`, as in the paper: of the sites that the search reaches at once the lower number comes first, and sources are drawn by
    number. Numbers follow the file, and files list their sites by electronegativity. `shuffled`: sites are
    renumbered by the crystal alone (`canonical_sites`), then shuffled for every trajectory by the seed and the
    material_id. Sites in another order in the file then give the same orders, up to a symmetry of the bonds.
    """
    sources = source_sites(material_id, bonds.n_sites, per_crystal, seed)
    if ties == "index":
        neighbors = adjacency(bonds.n_sites, bonds.source, bonds.target)
        return [breadth_first_order(neighbors, source) for source in sources]
    canonical = canonical_sites(bonds)
    found = []
    for trajectory, source in enumerate(sources):
        shuffled = _shuffled(f"{seed}:{material_id}:{trajectory}", bonds.n_sites)
        sites = [canonical[number] for number in shuffled]
        number_of = {site: number for number, site in enumerate(sites)}
        neighbors = adjacency(bonds.n_sites, [number_of[u] for u in bonds.source], [number_of[v] for v in bonds.target])
        found.append([sites[number] for number in breadth_first_order(neighbors, number_of[canonical[source]])])
    return found


def source_sites(material_id: str, n_sites: int, per_crystal: int, seed: int) -> list[int]:
    """Distinct sites in random order, at most `per_crystal`, determined by the seed and the material_id alone."""
    return _shuffled(f"{seed}:{material_id}", n_sites)[:per_crystal]


def _shuffled(key: str, n: int) -> list[int]:
    """The numbers below n in an order that depends on the key alone."""
    return sorted(range(n), key=lambda number: hashlib.sha256(f"{key}:{number}".encode()).digest())


def adjacency(n_sites: int, edge_source: Sequence[int], edge_target: Sequence[int]) -> list[list[int]]:
    """The neighbouring sites of each site in ascending order, each once even if there are parallel edges."""
    neighbors: list[set[int]] = [set() for _ in range(n_sites)]
    for u, v in zip(edge_source, edge_target, strict=True):
        neighbors[u].add(v)
    return [sorted(sites) for sites in neighbors]


def breadth_first_order(neighbors: list[list[int]], source: int) -> list[int]:
    """Every site once: breadth first from `source`, neighbours in ascending order.

    If the graph is disconnected, the search continues from the lowest site that it has not visited.
    """
    order: list[int] = []
    seen = [False] * len(neighbors)
    for start in (source, *range(len(neighbors))):
        if seen[start]:
            continue
        seen[start] = True
        queue = deque([start])
        while queue:
            site = queue.popleft()
            order.append(site)
            for neighbor in neighbors[site]:
                if not seen[neighbor]:
                    seen[neighbor] = True
                    queue.append(neighbor)
    return order


def is_connected(neighbors: list[list[int]]) -> bool:
    """Whether every site can be reached from every other."""
    reached, frontier = {0}, [0]
    while frontier:
        new = set(neighbors[frontier.pop()]) - reached
        reached |= new
        frontier += new
    return len(reached) == len(neighbors)
