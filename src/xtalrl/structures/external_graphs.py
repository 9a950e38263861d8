"""External crystals with their graphs, for commands that need no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xtalrl.structures.external import crystal_row, in_words, read_designs
from xtalrl.structures.neighbor_graphs import edge_columns, graph_row


def read_with_graphs(
    path: str | Path, max_sites: int, prefix: str = ""
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Read the crystals of a set.

    Args:
        path: as in `read_designs`.
        max_sites: largest number of sites in a cell; a larger one is reduced to its primitive cell first.
        prefix: begins every material_id.

    Returns:
        Rows of `tables.CRYSTALS`, rows of `tables.GRAPHS` of the same crystals, and a sentence for each entry that is neither.

    Raises:
        XtalrlError: the path does not exist, is of no known kind, or holds nothing.
    """
    found, rejections = read_designs(path, max_sites)
    problems = [in_words(row) for row in rejections]
    crystals, graphs = [], []
    for entry in found:
        crystal = crystal_row(entry, f"{prefix}{entry.id}")
        edges = edge_columns(crystal)
        if isinstance(edges, str):
            problems.append(f"{entry.source}: {edges}")
        else:
            crystals.append(crystal)
            graphs.append(graph_row(crystal, edges))
    return crystals, graphs, problems
