"""A policy that goes on learning from the SCFs of its own designs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rl_data import random_dataset, random_graph, write_dataset

from xtalrl import tables
from xtalrl.campaign.preflight import check_campaign
from xtalrl.config import validate
from xtalrl.elements import ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.rl import campaign_learning
from xtalrl.rl.campaign_learning import learn_from_designs
from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.rollout import load_network, read_record, rollout_policy
from xtalrl.rl.settings import PRESETS, TrainingSettings
from xtalrl.rl.training import train_policy

SETTINGS = TrainingSettings(steps=12, batch_size=64, device="cpu", warmup_steps=3, **PRESETS["modern"])
TARGET_EV = 2.0


def label(graph: dict[str, Any], gap: float | None, source: str = "file") -> dict[str, Any]:
    """A row of `LABELS`."""
    outcome = "not_converged" if gap is None else "converged"
    return {
        "material_id": graph["material_id"],
        "split": graph["split"],
        "source": source,
        "outcome": outcome,
        "detail": "",
        "band_gap": gap,
        "formation_energy_per_atom": None if gap is None or source == "file" else -1.0,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained policy, the run's graphs and labels, and designs: nitrogen everywhere has the gap that is wanted, gold is a metal, and copper fails."""
    folder = tmp_path_factory.mktemp("run")
    graphs, trajectories = random_dataset(n_train=30, n_val=8)
    paths = write_dataset(folder, graphs, trajectories)
    gaps = {row["material_id"]: row["band_gap"] for row in trajectories}
    paths["labels"] = folder / "labels.parquet"
    tables.write_rows([label(row, gaps[row["material_id"]]) for row in graphs], tables.LABELS, paths["labels"])
    paths["policy"] = folder / "policy"
    train_policy(
        PolicySpec("rvs"),
        SETTINGS,
        seed=0,
        threads=1,
        folder=paths["policy"],
        graphs=paths["graphs"],
        trajectories=paths["trajectories"],
    )
    generator = np.random.default_rng(1)
    designs, labels = [], []
    for element, gap in (("N", TARGET_EV), ("Au", 0.0), ("Cu", None)):
        for number in range(12):
            graph = random_graph(generator, f"{element}-{number}", tables.DESIGN_SPLIT, int(generator.integers(2, 9)))
            graph["actions"] = [ELEMENTS.index(element)] * len(graph["actions"])
            designs.append(graph)
            labels.append(label(graph, gap, "scf"))
    paths |= {"design_graphs": folder / "design_graphs.parquet", "design_labels": folder / "design_labels.parquet"}
    tables.write_rows(designs, tables.GRAPHS, paths["design_graphs"])
    tables.write_rows(labels, tables.LABELS, paths["design_labels"])
    return paths


def learn(run: dict[str, Path], folder: Path, steps: int) -> Path:
    folder.mkdir(exist_ok=True)
    learn_from_designs(
        run["policy"],
        run["graphs"],
        run["labels"],
        [run["design_graphs"]],
        [run["design_labels"]],
        folder / "policy.json",
        steps,
        "cpu",
        0,
        1,
    )
    return folder


def share_of(run: dict[str, Path], policy: Path, element: str, target_ev: float, path: Path) -> float:
    """The share of sites that a policy fills with an element."""
    rollout_policy(policy, run["graphs"], run["trajectories"], path, "cpu", target_ev=target_ev)
    placed = [site for row in tables.read_rows(path, tables.DESIGNS) for site in row["species"]]
    return placed.count(element) / len(placed)


def test_it_repeats_what_hit_where_that_is_wanted_and_not_what_failed(
    run: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign_learning, "LEARNING_RATE", 5e-3)  # the policy of this test has hardly learned anything
    learned = learn(run, tmp_path / "learned", 120)

    def share(policy: Path, element: str, target_ev: float) -> float:
        return share_of(run, policy, element, target_ev, tmp_path / "designs.parquet")

    assert share(learned, "N", TARGET_EV) > share(run["policy"], "N", TARGET_EV) + 0.3
    assert share(learned, "Au", 0.0) > share(run["policy"], "Au", 0.0) + 0.3
    assert share(learned, "N", TARGET_EV) > share(learned, "N", 0.0)
    assert share(learned, "Au", 0.0) > share(learned, "Au", TARGET_EV)
    assert share(learned, "Cu", TARGET_EV) <= share(run["policy"], "Cu", TARGET_EV)


def test_it_begins_with_the_weights_and_the_inputs_of_the_policy(run: dict[str, Path], tmp_path: Path) -> None:
    learned = learn(run, tmp_path / "learned", 1)
    records = [read_record(folder / "policy.json")[0] for folder in (run["policy"], learned)]
    before, after = (
        load_network(record, folder / "weights.safetensors").state_dict()
        for record, folder in zip(records, (run["policy"], learned), strict=True)
    )
    assert before.keys() == after.keys()
    assert before["state_mean"].equal(after["state_mean"])
    assert before["state_scale"].equal(after["state_scale"])
    largest = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < largest < 1e-3  # one step of Adam at a learning rate of 3e-4
    assert records[1]["further_training"]["designs"] == 24


def test_the_same_results_give_the_same_policy(run: dict[str, Path], tmp_path: Path) -> None:
    one, other = (learn(run, tmp_path / name, 3) for name in ("one", "other"))
    for name in ("policy.json", "weights.safetensors", "training.csv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    assert len((one / "training.csv").read_text().splitlines()) == 4


def test_without_a_known_crystal_it_says_so(run: dict[str, Path], tmp_path: Path) -> None:
    rows = tables.read_rows(run["labels"], tables.LABELS)
    tables.write_rows([row | {"band_gap": None} for row in rows], tables.LABELS, tmp_path / "labels.parquet")
    with pytest.raises(XtalrlError, match=r"rvs cannot learn further: no crystal .* `campaign\.policy_steps: 0`"):
        learn(run | {"labels": tmp_path / "labels.parquet"}, tmp_path / "learned", 1)


def test_a_policy_that_clones_does_not_clone_its_misses() -> None:
    sections: dict[str, Any] = {"campaign": {"gap_ev": 2.0, "policy": "bc", "policy_steps": 10}}
    with pytest.raises(XtalrlError, match="bc does not learn from gaps"):
        check_campaign(validate(sections))
    sections["campaign"]["policy_steps"] = 0
    check_campaign(validate(sections))
