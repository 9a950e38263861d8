"""Random crystals with the sizes of MP-20's nonmetals, where the real graphs (one core-hour of CrystalNN) are not at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from xtalrl import tables


def write_synthetic_dataset(folder: Path, n_crystals: int, n_val: int = 0, seed: int = 0) -> tuple[Path, Path]:
    """Write graphs.parquet and trajectories.parquet: 4 to 20 sites, 6 directed edges per site, a quarter of them parallel."""
    generator = np.random.default_rng(seed)
    graphs, trajectories = [], []
    for number in range(n_crystals + n_val):
        graphs.append(_graph(generator, f"synthetic-{number}", "train" if number < n_crystals else "val"))
        trajectories += _trajectories(generator, graphs[-1])
    paths = folder / "graphs.parquet", folder / "trajectories.parquet"
    tables.write_rows(graphs, tables.GRAPHS, paths[0])
    tables.write_rows(trajectories, tables.TRAJECTORIES, paths[1])
    return paths


def _graph(generator: np.random.Generator, name: str, split: str) -> dict[str, Any]:
    n_sites = int(np.clip(generator.normal(12, 5), 4, 20))
    n_bonds = 3 * n_sites
    pairs = generator.integers(n_sites, size=(n_bonds, 2))
    lengths = generator.choice(generator.uniform(1.5, 3.5, max(2, n_sites // 2)), n_bonds)
    copies = generator.integers(n_bonds, size=n_bonds // 4)
    pairs[: len(copies)], lengths[: len(copies)] = pairs[copies], lengths[copies]
    return {
        "material_id": name,
        "split": split,
        "actions": generator.integers(88, size=n_sites).tolist(),
        "lattice_parameters": [*generator.uniform(3, 12, 3), *generator.uniform(60, 120, 3)],
        "spacegroup_number": int(generator.integers(1, 231)),
        "edge_source": pairs.reshape(-1).tolist(),
        "edge_target": pairs[:, ::-1].reshape(-1).tolist(),
        "edge_image": [0] * (6 * n_bonds),
        "edge_distance": np.repeat(lengths, 2).tolist(),
    }


def _trajectories(generator: np.random.Generator, graph: dict[str, Any]) -> list[dict[str, Any]]:
    label = {
        "band_gap": float(generator.uniform(0, 6)),
        "formation_energy_per_atom": float(generator.uniform(-4, 0.5)),
        "total_energy_ry": float(generator.uniform(-2000, -50)),
    }
    orders = [generator.permutation(len(graph["actions"])).tolist() for _ in range(min(5, len(graph["actions"])))]
    return [
        {
            "material_id": graph["material_id"],
            "split": graph["split"],
            "trajectory": number,
            "order": order,
            "actions": [graph["actions"][site] for site in order],
            **label,
        }
        for number, order in enumerate(orders)
    ]
