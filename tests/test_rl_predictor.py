"""The predictor of complete crystals: its network, its training on tables, its file, its predictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rl_data import random_graph

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.rl import predictor as module
from xtalrl.rl import predictor_training
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.predictor import (
    ARCHITECTURE,
    Prediction,
    Predictor,
    fold_of,
    predict_at_targets,
    predict_crystals,
    prediction_rows,
)
from xtalrl.rl.predictor_training import LabelledCrystals, PredictorSettings, loss, train_predictor

TINY = PredictorSettings(members=2, steps=30, batch_size=16, learning_rate=3e-3)


SMALL = replace(ARCHITECTURE, n_blocks=2, encoder=(16, 8), block=(16, 8), head=(8,))


@pytest.fixture(scope="module", autouse=True)
def small_networks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor_training, "ARCHITECTURE", SMALL)
        yield


def crystals(n: int, split: str = "train", *, seed: int = 0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [random_graph(generator, f"{split}-{number}", split, int(generator.integers(1, 9))) for number in range(n)]


def label(graph: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A gap that the elements tell: a metal where the mean action is low."""
    mean = float(np.mean(graph["actions"]))
    return {
        "material_id": graph["material_id"],
        "split": graph["split"],
        "band_gap": max(0.0, mean / 20 - 1.5),
        "formation_energy_per_atom": -mean / 30,
        "total_energy_ry": -10.0,
        "outcome": "converged",
        "detail": "",
        "source": "scf",
        **values,
    }


def write(folder: Path, graphs: list[dict[str, Any]], labels: list[dict[str, Any]]) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    tables.write_rows(graphs, tables.GRAPHS, folder / "graphs.parquet")
    tables.write_rows(labels, tables.LABELS, folder / "labels.parquet")
    return folder / "graphs.parquet", folder / "labels.parquet"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    graphs = crystals(60)
    return write(tmp_path_factory.mktemp("data"), graphs, [label(graph) for graph in graphs])


@pytest.fixture(scope="module")
def trained(small_networks: None, data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "predictor.safetensors"
    train_predictor([data], path, path.with_name("held_out.parquet"), TINY)
    return path


def predictions(graphs: Path, predictor: Path, path: Path, **wanted: float) -> list[dict[str, Any]]:
    predict_crystals(graphs, predictor, path, **wanted)
    return tables.read_rows(path, tables.PREDICTIONS)


def test_it_learns(data: tuple[Path, Path], tmp_path: Path) -> None:
    settings = PredictorSettings(members=2, steps=250, batch_size=32, learning_rate=1e-2)
    train_predictor([data], tmp_path / "p.safetensors", settings=settings)
    rows = predictions(data[0], tmp_path / "p.safetensors", tmp_path / "predictions.parquet")
    labels = tables.read(data[1], tables.LABELS).to_pandas()
    metal, gap, energy = labels["band_gap"] == 0, labels["band_gap"], labels["formation_energy_per_atom"]
    assert np.mean([(row["p_metal"] > 0.5) == is_metal for row, is_metal in zip(rows, metal, strict=True)]) > 0.85
    for column, truth in (("band_gap", gap), ("formation_energy_per_atom", energy)):
        predicted = np.array([row[column] for row in rows])
        assert np.abs(predicted - truth).mean() < 0.8 * np.abs(truth - truth.median()).mean()


def test_training_is_deterministic_for_a_seed(data: tuple[Path, Path], trained: Path, tmp_path: Path) -> None:
    train_predictor([data], tmp_path / "same.safetensors", settings=TINY)
    train_predictor([data], tmp_path / "other.safetensors", settings=TINY, seed=1)
    assert (tmp_path / "same.safetensors").read_bytes() == trained.read_bytes()
    assert (tmp_path / "other.safetensors").read_bytes() != trained.read_bytes()


def test_the_order_of_the_sites_does_not_matter(trained: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    graphs, turned = crystals(12, seed=3), []
    for graph in graphs:
        place = generator.permutation(len(graph["actions"]))
        actions = np.empty(len(place), int)
        actions[place] = graph["actions"]
        edges = generator.permutation(len(graph["edge_source"]))
        turned.append(
            graph
            | {"actions": actions.tolist(), "edge_distance": np.array(graph["edge_distance"])[edges].tolist()}
            | {end: place[np.array(graph[end])[edges]].tolist() for end in ("edge_source", "edge_target")}
        )
    rows = []
    for name, some in (("as they are", graphs), ("turned", turned)):
        path, _ = write(tmp_path / name, some, [label(graph) for graph in some])
        rows.append(predictions(path, trained, tmp_path / "predictions.parquet", gap_from=0.5, gap_to=1.5))
    for one, other in zip(*rows, strict=True):
        assert {k: v for k, v in one.items() if isinstance(v, float)} == pytest.approx(
            {k: v for k, v in other.items() if isinstance(v, float)}, rel=1e-4, abs=1e-5
        )


def test_batches_do_not_matter(
    data: tuple[Path, Path], trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    together = predictions(data[0], trained, tmp_path / "a.parquet")
    monkeypatch.setattr(module, "BATCH", 7)
    apart = predictions(data[0], trained, tmp_path / "b.parquet")
    assert [row["band_gap"] for row in together] == pytest.approx([row["band_gap"] for row in apart], abs=1e-5)


def test_the_held_out_answer_is_that_of_one_member(data: tuple[Path, Path], trained: Path) -> None:
    graphs, predictor = CrystalGraphs(tables.read(data[0], tables.GRAPHS)), Predictor.load(trained)
    fold = np.arange(len(graphs.material_ids)) % 2
    everyone, outside = predictor.predict(graphs), predictor.predict_held_out(graphs, fold)
    assert outside.gaps.location[0] == pytest.approx(everyone.gaps.location[fold, np.arange(len(fold))], abs=1e-5)


def test_the_fold_is_that_of_the_reduced_composition() -> None:
    assert fold_of(np.array([3, 3, 7]), 5) == fold_of(np.array([7, 3, 3, 7, 3, 3]), 5)
    assert len({fold_of(np.array([a, b]), 4) for a in range(10) for b in range(10)}) == 4


def test_what_is_held_out_was_not_learned_from(tmp_path: Path) -> None:
    """Labels without any pattern: a member knows those of its own folds, and nothing of those it has not seen."""
    generator = np.random.default_rng(1)
    graphs = crystals(40, seed=8)
    labels = [label(graph, band_gap=float(generator.uniform(1, 5))) for graph in graphs]
    pair = write(tmp_path / "noise", graphs, labels)
    settings = PredictorSettings(members=2, steps=300, batch_size=32, learning_rate=1e-2)
    train_predictor([pair], tmp_path / "p.safetensors", tmp_path / "held_out.parquet", settings)
    truth = np.array([row["band_gap"] for row in labels])
    outside = np.array(
        [row["nonmetal_gap"] for row in tables.read_rows(tmp_path / "held_out.parquet", tables.PREDICTIONS)]
    )
    inside = np.array(
        [row["nonmetal_gap"] for row in predictions(pair[0], tmp_path / "p.safetensors", tmp_path / "all.parquet")]
    )
    constant = np.abs(truth - np.median(truth)).mean()
    assert np.abs(inside - truth).mean() < 0.8 * constant
    assert np.abs(outside - truth).mean() > 0.9 * constant


def test_failures_metals_and_designs_of_several_tables(data: tuple[Path, Path], trained: Path, tmp_path: Path) -> None:
    graphs = crystals(40, tables.DESIGN_SPLIT, seed=9)
    nothing = {"band_gap": None, "formation_energy_per_atom": None, "total_energy_ry": None, "outcome": "not_converged"}
    labels = [label(graph, **(nothing if number % 4 == 0 else {})) for number, graph in enumerate(graphs)]
    designs = write(tmp_path / "designs", graphs, labels)
    read = LabelledCrystals.read([data, designs])
    assert read.is_design.sum() == 40
    assert np.nansum(read.failure) == 10
    path = tmp_path / "tuned.safetensors"
    train_predictor([data, designs], path, tmp_path / "held_out.parquet", PredictorSettings(steps=20), start=trained)
    tuned = Predictor.load(path)
    assert len(tuned.members) == 2
    assert sum(len(tuned.scores.get(f"gap {group} designs", ())) for group in module.GROUPS) == 30
    assert len(tables.read_rows(tmp_path / "held_out.parquet", tables.PREDICTIONS)) == 100
    rows = predictions(designs[0], path, tmp_path / "predictions.parquet", gap_from=0.5)
    assert all(0 < row["p_failure"] < 1 and row["p_hit"] <= 1 - row["p_failure"] for row in rows)
    assert {(row["gap_from"], row["gap_to"]) for row in rows} == {(0.5, None)}


def test_each_group_has_its_own_intervals_and_designs_come_first(data: tuple[Path, Path], trained: Path) -> None:
    predictor = Predictor.load(trained)
    predictor.scores = {
        "gap metals crystals": np.linspace(0, 0.1, 50),
        "gap nonmetals crystals": np.linspace(0, 0.4, 50),
        "gap nonmetals designs": np.linspace(0, 0.2, module.MIN_DESIGNS),
        "energy nonmetals crystals": np.linspace(0, 0.3, 50),
        "energy nonmetals designs": np.linspace(0, 0.2, module.MIN_DESIGNS - 1),
    }
    assert predictor.radius("gap", "metals", 0.5) == pytest.approx(0.05, abs=0.003)
    assert predictor.radius("gap", "nonmetals", 0.5) == pytest.approx(0.1, abs=0.005)
    assert predictor.radius("energy", "nonmetals", 0.5) == pytest.approx(0.15, abs=0.005)
    assert predictor.radius("energy", "metals", 0.5) == 0.5  # nothing known: everything
    graphs = CrystalGraphs(tables.read(data[0], tables.GRAPHS))
    rows = prediction_rows(predictor, graphs.material_ids, predictor.predict(graphs)).to_pylist()
    kinds = {(row["p_metal"] >= 0.5, row["calibrated_on"]) for row in rows}
    assert kinds <= {(True, "crystals"), (False, "designs")}


def test_labels_of_the_source_tell_nothing_of_failures(tmp_path: Path) -> None:
    graphs = crystals(30)
    pair = write(tmp_path / "mp", graphs, [label(graph, source="structures", outcome="in_source") for graph in graphs])
    train_predictor([pair], tmp_path / "p.safetensors", settings=TINY)
    [*rows] = predictions(pair[0], tmp_path / "p.safetensors", tmp_path / "predictions.parquet")
    assert {row["p_failure"] for row in rows} == {None}
    assert {row["p_hit"] for row in rows} == {None}


def test_the_loss_is_the_likelihood_of_the_distribution() -> None:
    """Against the distribution functions that predictions are made with, differentiated numerically."""
    generator = np.random.default_rng(0)
    outputs = generator.normal(size=(1, 50, 6)) * [1, 1, 1, 0.5, 1, 0.5]
    gap, energy = generator.uniform(0.1, 3, 50), generator.normal(size=50)
    gap[::5] = 0
    said = Prediction.of_outputs(outputs, knows_failures=True)
    step = 1e-6
    density = (said.gaps.cdf(gap + step) - said.gaps.cdf(gap - step)) / (2 * step)
    metal = said.gaps.metal[0]
    of_energy = (said.energies.cdf(energy + step) - said.energies.cdf(energy - step)) / (2 * step)
    assert said.failure is not None
    expected = -np.log(1 - said.failure[0]).mean() - np.log(of_energy).mean()
    is_metal = gap == 0
    expected -= np.log(np.where(is_metal, metal, 1 - metal)).mean()
    expected -= np.log(density[~is_metal] / (1 - metal[~is_metal])).mean()
    found = loss(torch.tensor(outputs[0]), torch.zeros(50), torch.tensor(gap), torch.tensor(energy))
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_too_few_labels_are_a_sentence(tmp_path: Path) -> None:
    graphs = crystals(5)
    pair = write(tmp_path / "few", graphs, [label(graph) for graph in graphs])
    with pytest.raises(XtalrlError, match="5 crystals with a graph and a band gap"):
        train_predictor([pair], tmp_path / "p.safetensors", settings=TINY)


def test_one_composition_is_a_sentence(tmp_path: Path) -> None:
    graphs = [{**graph, "actions": [3] * len(graph["actions"])} for graph in crystals(30)]
    pair = write(tmp_path / "one", graphs, [label(graph) for graph in graphs])
    with pytest.raises(XtalrlError, match="All 30 crystals fall into one fold"):
        train_predictor([pair], tmp_path / "p.safetensors", settings=TINY)


def test_no_crystals_give_no_predictions(trained: Path, tmp_path: Path) -> None:
    pair = write(tmp_path / "none", [], [])
    assert predictions(pair[0], trained, tmp_path / "predictions.parquet", gap_from=1.0) == []


@pytest.mark.parametrize("damage", ["changed", "cut off", "of a policy", "missing"])
def test_a_file_that_is_no_predictor_is_a_sentence(
    data: tuple[Path, Path], trained: Path, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "p.safetensors"
    content = bytearray(trained.read_bytes())
    if damage == "changed":
        content[-5] ^= 1
    if damage == "of a policy":
        content = bytearray(
            (module.Path(__file__).parents[1] / "resources/pretrained/mp20/weights.safetensors").read_bytes()
        )
    if damage != "missing":
        path.write_bytes(content[:-100] if damage == "cut off" else content)
    with pytest.raises(XtalrlError, match=r"p\.safetensors"):
        predict_crystals(data[0], path, tmp_path / "predictions.parquet")


def test_several_targets_are_predicted_as_each_by_itself(
    data: tuple[Path, Path], trained: Path, tmp_path: Path
) -> None:
    targets = (0.5, 1.5)
    paths = [tmp_path / f"{target}.parquet" for target in targets]
    predict_at_targets(data[0], trained, paths, targets, 0.25)
    for target, path in zip(targets, paths, strict=True):
        alone = predictions(data[0], trained, tmp_path / "alone.parquet", gap_from=target - 0.25, gap_to=target + 0.25)
        assert tables.read_rows(path, tables.PREDICTIONS) == alone
