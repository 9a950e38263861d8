"""Whole runs for other ecosystems, read back by the libraries they are for: `make oracles` and CI install these; without them the tests skip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from report_data import write_results

from xtalrl import tables
from xtalrl.commands.exports import Selection, export_run
from xtalrl.config import Config
from xtalrl.elements import ACTION, UNFILLED
from xtalrl.errors import XtalrlError

EVERYTHING = Selection()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = write_results(tmp_path_factory.mktemp("run"), 24, (0, 1), targets_ev=[2.0], omegas=[5], bc=False)
    results = Path(config.results)
    rows = [
        {
            "material_id": row["material_id"],
            "split": row["split"],
            "trajectory": number,
            "order": order,
            "actions": [ACTION[row["species"][site]] for site in order],
            "band_gap": 1.5,
            "formation_energy_per_atom": -0.5 * number,
            "total_energy_ry": -20.0,
        }
        for row in tables.read_rows(results / "structures/crystals.parquet", tables.CRYSTALS)
        for number, order in enumerate([list(range(row["n_sites"])), list(range(row["n_sites"]))[::-1]])
    ]
    tables.write_rows(rows, tables.TRAJECTORIES, results / "trajectories.parquet")
    return config


def card(folder: Path) -> dict[str, Any]:
    head = (folder / "README.md").read_text().split("---\n")[1]
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def test_the_card_says_what_the_files_hold(run: Config, tmp_path: Path) -> None:
    counts = export_run(run, tmp_path / "run.hf", EVERYTHING)
    head = card(tmp_path / "run.hf")
    assert {"designs", "crystals", "scfs", "trajectories"} <= counts.keys()
    assert [entry["config_name"] for entry in head["configs"]] == list(counts)
    for entry, info in zip(head["configs"], head["dataset_info"], strict=True):
        path = tmp_path / "run.hf" / entry["data_files"]
        table = pq.read_table(path)
        assert info["splits"] == [{"name": "train", "num_bytes": table.nbytes, "num_examples": table.num_rows}]
        assert info["download_size"] == path.stat().st_size
        assert [feature["name"] for feature in info["features"]] == table.column_names
    text = (tmp_path / "run.hf/README.md").read_text()
    assert "| `band_gap` | eV | Clipped at 0 |" in text
    units = {
        name: field.metadata.get(b"unit")
        for name, field in zip(tables.EVALUATION.names, tables.EVALUATION, strict=True)
    }
    assert all(f"| `{name}` | {unit.decode()} |" in text for name, unit in units.items() if unit)


@pytest.mark.parametrize("name", ["designs", "crystals", "scfs", "trajectories"])
def test_datasets_reads_it(name: str, run: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    folder = tmp_path / "run.hf"
    export_run(run, folder, EVERYTHING)
    read = datasets.load_dataset(
        str(folder), name, split="train", cache_dir=str(tmp_path / "cache"), verification_mode="all_checks"
    )
    written = pq.read_table(folder / f"data/{name}.parquet")
    assert read.features == datasets.Features.from_arrow_schema(written.schema.remove_metadata())
    assert read.to_list() == written.to_pylist()
    (info,) = (info for info in card(folder)["dataset_info"] if info["config_name"] == name)
    assert datasets.Features._from_yaml_list(info["features"]) == read.features


def test_minari_reads_it(run: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari", reason="minari is not installed")
    pytest.importorskip("h5py", reason="h5py is not installed")
    counts = export_run(run, tmp_path / "run.minari", EVERYTHING)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "run.minari"))
    data_set = minari.load_dataset("xtalrl/skeletons-v0")
    results = Path(run.results)
    crystals = {
        row["material_id"]: row for row in tables.read_rows(results / "structures/crystals.parquet", tables.CRYSTALS)
    }
    trajectories = tables.read_rows(results / "trajectories.parquet", tables.TRAJECTORIES)
    assert counts == {"episodes": len(trajectories), "steps": sum(len(row["order"]) for row in trajectories)}
    options = list(data_set.storage.get_episode_metadata(range(len(trajectories))))
    for episode, row, about in zip(data_set.iterate_episodes(), trajectories, options, strict=True):
        crystal = crystals[row["material_id"]]
        n_sites, seen = crystal["n_sites"], episode.observations
        assert about["options/material_id" if "options/material_id" in about else "options"]
        np.testing.assert_allclose(seen["lattice"][0].ravel(), crystal["lattice"], rtol=1e-6)
        np.testing.assert_allclose(
            seen["positions"][-1, :n_sites].ravel(), crystal["frac_coords"], rtol=1e-6, atol=1e-7
        )
        assert episode.actions.tolist() == row["actions"]
        assert seen["site"][:, 0].tolist() == [*row["order"], -1]
        # The site that an action fills is open before it and holds it after; the last observation is the crystal.
        for step, (site, action) in enumerate(zip(row["order"], row["actions"], strict=True)):
            assert seen["elements"][step, site] == UNFILLED
            assert seen["elements"][step + 1, site] == action
        assert seen["elements"][-1, :n_sites].tolist() == [ACTION[element] for element in crystal["species"]]
        assert (seen["elements"][:, n_sites:] == UNFILLED + 1).all()
        assert episode.terminations.tolist() == [False] * (n_sites - 1) + [True] and not episode.truncations.any()
        assert not episode.rewards[:-1].any()
        assert episode.rewards[-1] == pytest.approx(np.exp(0.5 * row["trajectory"] / 5)), "eq. 7 without a gap"
        for step in range(n_sites + 1):
            assert data_set.observation_space.contains({name: values[step] for name, values in seen.items()})


def test_without_its_library_a_sentence(run: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minari", None)
    with pytest.raises(XtalrlError, match=r'pip install "minari>=0\.5\.3" h5py'):
        export_run(run, tmp_path / "run.minari", EVERYTHING)
    assert not list(tmp_path.iterdir())


def test_a_selection_is_refused(run: Config, tmp_path: Path) -> None:
    with pytest.raises(XtalrlError, match="holds the whole run: leave out the options"):
        export_run(run, tmp_path / "run.hf", Selection(limit=3))
    (tmp_path / "there.hf").mkdir()
    with pytest.raises(XtalrlError, match="exists already"):
        export_run(run, tmp_path / "there.hf", EVERYTHING)
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == '["there.hf"]'
