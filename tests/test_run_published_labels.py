"""From published labels to trajectories with the one command of docs/published-labels.md, through Snakemake."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from xtalrl import tables
from xtalrl.resources import RESOURCES
from xtalrl.structures.demo import write_csvs

pytestmark = pytest.mark.slow


def make_trajectories(root: Path, results: Path, *config: str) -> None:
    result = subprocess.run(
        [
            sys.executable, "-m", "snakemake", "--nolock", "trajectories", "--cores", "2", "--configfile", "config/paper.yaml",
            "--config", f"results={results}", f"cache={results / 'cache'}", *config,
        ],
        cwd=root, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def n_parts(graph: dict[str, Any]) -> int:
    """Into how many parts a crystal's graph falls, by scipy."""
    n = len(graph["actions"])
    edges = coo_array(([1] * len(graph["edge_source"]), (graph["edge_source"], graph["edge_target"])), shape=(n, n))
    return int(connected_components(edges, directed=False, return_labels=False))


def test_a_table_of_ones_own(root, tmp_path):
    csvs = {split: str(tmp_path / f"{split}.csv") for split in ("train", "val", "test")}
    write_csvs(RESOURCES / "demo" / "crystals.csv", csvs)
    with open(csvs["train"], newline="") as file:
        ids = [row["material_id"] for row in csv.DictReader(file) if float(row["band_gap"]) > 0][:7]
    (tmp_path / "labels.csv").write_text(
        "material_id,band_gap,formation_energy_per_atom,protocol,source\n"
        + "".join(f"{material_id},{1 + n},{-n},theirs,doi:10.1/x\n" for n, material_id in enumerate(ids))
    )
    make_trajectories(
        root, tmp_path / "run", f"structures={{path: {tmp_path}}}", f"labels={{path: {tmp_path / 'labels.csv'}}}"
    )
    rows = tables.read_rows(tmp_path / "run/trajectories.parquet", tables.TRAJECTORIES)
    assert {row["material_id"]: (row["band_gap"], row["formation_energy_per_atom"]) for row in rows} == {
        material_id: (1.0 + n, -float(n)) for n, material_id in enumerate(ids)
    }
    labels = tables.read_rows(tmp_path / "run/labels.parquet", tables.LABELS)
    assert {row["source"] for row in labels if row["outcome"] == "imported"} == {"doi:10.1/x"}
    assert {row["outcome"] for row in labels if row["material_id"] not in ids} == {"not_in_table"}


def test_the_released_labels(root, shared, tmp_path):
    make_trajectories(
        root, tmp_path / "run", f"structures={{path: {shared / 'mp20'}, limit: 60}}", f"labels={{path: {shared / 'qe_labels'}}}",
        f"references={{energies: {shared / 'qe_labels' / 'elemental_reference_energies.csv'}}}",
    )  # fmt: skip
    published = {
        row["material_id"]: row
        for split in ("train", "val")
        for row in csv.DictReader((shared / "qe_labels" / f"{split}.csv").read_text().splitlines())
    }
    graphs = tables.read_rows(tmp_path / "run/structures/graphs.parquet", tables.GRAPHS)
    labelled = {graph["material_id"] for graph in graphs} & set(published)
    connected = {graph["material_id"] for graph in graphs if n_parts(graph) == 1}
    assert labelled - connected, (
        "without a graph in several parts this says nothing about paper.yaml's leaving them out"
    )
    rows = tables.read_rows(tmp_path / "run/trajectories.parquet", tables.TRAJECTORIES)
    assert {row["material_id"] for row in rows} == labelled & connected
    assert {row["split"] for row in rows} == {"train", "val"}
    for row in rows:
        entry = published[row["material_id"]]
        assert row["band_gap"] == float(entry["qe_band_gap_eV"])
        assert row["total_energy_ry"] == float(entry["qe_total_energy_Ry"])
        if row["split"] == "train":
            expected = float(entry["qe_formation_energy_eV_atom"])
            assert row["formation_energy_per_atom"] == pytest.approx(expected, abs=1e-6)
