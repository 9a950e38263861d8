"""RvS and the ingredients of `training.preset: modern`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rl_data import killed_at, random_dataset, write_dataset
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from xtalrl import tables
from xtalrl.config import validate
from xtalrl.elements import ACTION, ATOMIC_NUMBERS, ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.report.style import policy_styles
from xtalrl.rl.learner import Learner, Stack
from xtalrl.rl.network import Architecture, QNetwork
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.pretrained import read_pretrained, ship_policy, take_pretrained
from xtalrl.rl.replay import Replay
from xtalrl.rl.rollout import rollout_policy
from xtalrl.rl.rollout_settings import RolloutSettings
from xtalrl.rl.settings import PRESETS, TrainingSettings
from xtalrl.rl.training import train_policy

RVS, BC = PolicySpec("rvs"), PolicySpec("bc")
MODERN = TrainingSettings(
    steps=12, batch_size=16, device="cpu", checkpoint_every=5, warmup_steps=3, **PRESETS["modern"]
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_dataset(tmp_path_factory.mktemp("dataset"), *random_dataset(n_val=12))


@pytest.fixture(scope="module")
def trained(dataset: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    settings = dataclasses.replace(MODERN, hide_target=0.2)
    train_policy(RVS, settings, seed=0, threads=1, folder=folder, **dataset)
    return folder


def designs(folder: Path, dataset: dict[str, Path], target_ev: float, **settings: Any) -> dict[str, list[str]]:
    path = folder / "designs.parquet"
    rollout_policy(
        folder, designs=path, device="cpu", target_ev=target_ev, settings=RolloutSettings(**settings), **dataset
    )
    return {row["material_id"]: row["species"] for row in tables.read_rows(path, tables.DESIGNS)}


def test_its_loss_is_the_cross_entropy_given_the_own_gap(dataset: dict[str, Path]) -> None:
    stack = Stack(dataclasses.replace(MODERN, target_noise_ev=0.0), Replay(**dataset))
    learner = Learner([RVS], stack, seed=0)
    batch = stack.draw_batch(0, 0, bootstrap=False)
    network = QNetwork(stack.architecture(conditional=True))
    network.load_state_dict(stack.state_dict(RVS, learner.weights[0]))
    gap = stack.replay.band_gap[batch.trajectory]
    expected = cross_entropy(network.q_values(batch.graphs, batch.node_types, batch.focus, gap), batch.action)
    torch.testing.assert_close(learner.update(batch)[0, 0], expected.detach(), rtol=1e-5, atol=1e-5)


def test_its_target_is_the_own_gap_with_noise_and_a_gap_of_0_stays_0(dataset: dict[str, Path]) -> None:
    replay = Replay(**dataset)
    replay.band_gap[::2] = 0.0
    trajectory = torch.arange(len(replay.band_gap)).repeat(500)
    outcomes = replay.outcomes(trajectory, seed=0, step=0)
    settings = TrainingSettings(target_noise_ev=0.1, hide_target=0.3, **PRESETS["modern"])
    target = RVS.algorithm.trained_for(RVS, outcomes, settings)
    assert isinstance(target, torch.Tensor)
    hidden = target.isnan()
    assert hidden.float().mean() == pytest.approx(0.3, abs=0.02)
    metal = outcomes.band_gap == 0
    assert (target[metal & ~hidden] == 0).all()
    error = (target - outcomes.band_gap)[~metal & ~hidden & (outcomes.band_gap > 0.5)]
    assert error.mean().item() == pytest.approx(0, abs=0.01)
    assert error.std().item() == pytest.approx(0.1, abs=0.01)


def test_a_hidden_target_adds_nothing(dataset: dict[str, Path]) -> None:
    replay = Replay(**dataset)
    torch.manual_seed(0)
    conditional = QNetwork(Architecture(conditional=True, focus="node", target_embedding="gaussians"))
    plain = QNetwork(Architecture(conditional=False, focus="node"))
    plain.load_state_dict({k: v for k, v in conditional.state_dict().items() if not k.startswith("target_to_")})
    batch = replay.batch(np.arange(12))
    inputs = batch.graphs, batch.node_types, batch.focus
    torch.testing.assert_close(conditional(*inputs, float("nan")), plain(*inputs, None))
    assert not torch.allclose(conditional(*inputs, 1.0), plain(*inputs, None))
    assert not torch.allclose(conditional(*inputs, 1.0), conditional(*inputs, 3.0))


@pytest.mark.parametrize("condition_on_energy", [False, True])
def test_company_changes_nothing(dataset: dict[str, Path], condition_on_energy: bool) -> None:
    settings = dataclasses.replace(MODERN, condition_on_energy=condition_on_energy, electrons=True)
    stack = Stack(settings, Replay(**dataset))
    ccql = PolicySpec("ccql", omega=5.0, target_ev=2.0, reward=Reward())
    together = Learner([BC, RVS, ccql], stack, seed=0)
    alone = {spec: Learner([spec], stack, seed=0) for spec in (BC, RVS, ccql)}
    for step in range(3):
        batch = stack.draw_batch(0, step, bootstrap=True)
        together.update(batch)
        for learner in alone.values():
            learner.update(batch)
    for spec, learner in alone.items():
        for name, tensor in together.state(spec).tensors.items():
            torch.testing.assert_close(tensor, learner.state(spec).tensors[name], rtol=1e-4, atol=1e-5)
    # An unconditional policy is exported as its own, smaller network, which must know all that it has learned.
    network = QNetwork(stack.architecture(conditional=False))
    row = alone[BC].weights
    network.load_state_dict(stack.state_dict(BC, row[0]))
    inputs = batch.graphs, batch.node_types, batch.focus
    hidden = torch.tensor([float("nan")])
    of_targets = sum(v.numel() for name, v in stack.network.named_parameters() if name.startswith("target_to_"))
    assert (row[0, -of_targets:] == 0).all()  # they come last
    torch.testing.assert_close(network.q_values(*inputs, None), stack.q_values(row, *inputs, hidden)[0])


def test_weights_are_averaged_exponentially(dataset: dict[str, Path]) -> None:
    settings = dataclasses.replace(MODERN, weight_averaging=0.9)
    stack = Stack(settings, Replay(**dataset))
    learner = Learner([RVS], stack, seed=0)
    average = learner.weights.detach().clone()
    for step in range(30):
        learner.update(stack.draw_batch(0, step, bootstrap=False))
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * learner.weights.detach()
    torch.testing.assert_close(learner.state(RVS).result, average[0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(learner.state(RVS).result, learner.weights[0].detach())


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    settings = TrainingSettings(steps=1000, learning_rate=2.0, warmup_steps=100, schedule="cosine")
    rates = [settings.learning_rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[49] == pytest.approx(1.0)
    assert max(rates) == pytest.approx(2.0, rel=2e-3)
    assert rates[550] == pytest.approx(1.0, rel=0.01)
    assert rates[-1] < 0.01
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert {TrainingSettings().learning_rate_at(step) for step in (0, 10, 10**6)} == {3e-4}


@pytest.mark.parametrize("stop", [5, 9])
def test_a_resumed_run_is_bit_for_bit_the_whole_one(
    tmp_path: Path, dataset: dict[str, Path], stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_policy(RVS, MODERN, seed=0, threads=1, folder=tmp_path / "whole", **dataset)

    with killed_at(stop, monkeypatch):
        train_policy(RVS, MODERN, seed=0, threads=1, folder=tmp_path / "killed", **dataset)
    train_policy(RVS, MODERN, seed=0, threads=1, folder=tmp_path / "killed", **dataset)
    whole, killed = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


@pytest.mark.parametrize("weighting", ["crystals", "sizes"])
def test_crystals_or_sizes_are_drawn_alike(dataset: dict[str, Path], weighting: Any) -> None:
    replay = Replay(**dataset)
    drawn = np.concatenate([replay.sample(1000, seed=0, step=step, weighting=weighting) for step in range(20)])
    crystal = replay.orders.crystal[replay.trajectory[drawn]]
    group = crystal if weighting == "crystals" else replay.graphs.n_sites[crystal]
    _, counts = np.unique(group, return_counts=True)
    expected = 20_000 / len(np.unique(crystal if weighting == "crystals" else replay.graphs.n_sites))
    assert len(counts) * expected == pytest.approx(20_000)
    assert (abs(counts - expected) < 6 * expected**0.5).all()
    assert (drawn[:1000] == replay.sample(1000, seed=0, step=0, weighting=weighting)).all()


def test_exact_returns_are_the_discounted_reward(dataset: dict[str, Path]) -> None:
    spec = PolicySpec("ccql", omega=0.0, target_ev=2.0, reward=Reward())
    stack = Stack(dataclasses.replace(MODERN, returns="monte_carlo", discount=0.9), Replay(**dataset))
    learner = Learner([spec], stack, seed=0)
    assert learner.target is None
    batch = stack.draw_batch(0, 0, bootstrap=False)
    q = stack.q_values(learner.weights, batch.graphs, batch.node_types, batch.focus, torch.tensor([2.0]))[0].detach()
    returns = stack.replay.rewards(spec)[batch.trajectory] * 0.9**batch.steps_left
    assert ((batch.steps_left == 0) == batch.done).all()
    td = (q.gather(1, batch.action[:, None])[:, 0] - returns).square().mean()
    torch.testing.assert_close(learner.update(batch)[0, 1], td, rtol=1e-4, atol=1e-4)


def test_guidance_is_between_hidden_and_beyond_the_target(trained: Path, dataset: dict[str, Path]) -> None:
    assert designs(trained, dataset, 3.0, guidance=1.0) == designs(trained, dataset, 3.0)
    unguided = designs(trained, dataset, 3.0, guidance=0.0)
    assert unguided == designs(trained, dataset, 1.0, guidance=0.0)


@pytest.mark.parametrize("kind", ["ccql", "bc"])
def test_guidance_is_for_policies_that_can_be_guided(tmp_path: Path, dataset: dict[str, Path], kind: str) -> None:
    """In a run with `rvs` the others design as without guidance: p̂ was never hidden from them."""
    spec = PolicySpec("ccql", omega=5.0, target_ev=2.0, reward=Reward()) if kind == "ccql" else BC
    paper = TrainingSettings(steps=5, batch_size=16, device="cpu")
    train_policy(spec, paper, seed=0, threads=1, folder=tmp_path, **dataset)
    assert designs(tmp_path, dataset, 2.0, guidance=3.0, target_energy=-2.0) == designs(tmp_path, dataset, 2.0)


def test_what_a_policy_was_not_trained_for_is_refused(trained: Path, tmp_path: Path, dataset: dict[str, Path]) -> None:
    with pytest.raises(XtalrlError, match=r"rvs-1ev was trained without `training.condition_on_energy`"):
        designs(trained, dataset, 1.0, target_energy=-2.0)
    train_policy(RVS, MODERN, seed=0, threads=1, folder=tmp_path, **dataset)
    with pytest.raises(XtalrlError, match=r"rvs-1ev was trained without `training.hide_target`"):
        designs(tmp_path, dataset, 1.0, guidance=2.0)


def electrons(species: list[str]) -> int:
    return sum(ATOMIC_NUMBERS[ACTION[element]] for element in species)


@pytest.mark.parametrize("neutral", [False, True])
@pytest.mark.parametrize("select", ["greedy", "softmax"])
def test_no_design_has_an_odd_number_of_electrons(
    trained: Path, dataset: dict[str, Path], neutral: bool, select: str
) -> None:
    free = designs(trained, dataset, 1.0, select=select, neutral=neutral)
    even = designs(trained, dataset, 1.0, select=select, neutral=neutral, even_electrons=True)
    assert even.keys() == free.keys()
    if select == "softmax":
        assert any(electrons(species) % 2 for species in free.values())
    assert not any(electrons(species) % 2 for species in even.values())


@hypothesis_settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), allow=st.sets(st.sampled_from(ELEMENTS), min_size=1, max_size=5))
def test_what_may_be_placed_goes_before_the_electrons(seed: int, allow: set[str]) -> None:
    """With elements of one parity only, an odd crystal may have no way out: it is completed all the same."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_dataset(Path(folder), *random_dataset(2, 3, seed=seed))
        random = Path(folder) / "random"
        train_policy(PolicySpec("random"), MODERN, seed=0, threads=1, folder=random, **dataset)
        found = designs(random, dataset, 0.0, even_electrons=True, allow=tuple(allow))
    assert len(found) == 3
    both = len({ATOMIC_NUMBERS[ACTION[element]] % 2 for element in allow}) == 2
    for species in found.values():
        assert set(species) <= allow
        assert electrons(species) % 2 == 0 or not both


def test_a_target_outside_what_was_learned_is_a_warning(
    trained: Path, dataset: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        designs(trained, dataset, 2.0)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        designs(trained, dataset, 9.0)
    assert "the target of 9 eV is outside the gaps that it has learned from" in caplog.text


def test_metals_are_data_of_rvs_alone(tmp_path: Path) -> None:
    graphs, trajectories = random_dataset()
    metal = graphs[0]["material_id"]
    for row in (*graphs, *trajectories):
        if row["material_id"] == metal:
            row |= {"split": tables.METALS} | ({"band_gap": 0.0} if "band_gap" in row else {})
    paths = write_dataset(tmp_path, graphs, trajectories)
    assert metal not in Replay(**paths).graphs.material_ids
    assert metal in Replay(**paths, metals=True).graphs.material_ids
    assert RVS.algorithm.learns_from_metals
    assert not BC.algorithm.learns_from_metals


def test_configuration() -> None:
    config = validate({"policies": {"targets_ev": [], "rvs_targets_ev": [1.12, 3], "ucql": False}})
    assert list(config.policy_specs()) == ["random", "bc", "rvs-1.12ev", "rvs-3ev"]
    assert list(config.trained_specs()) == ["random", "bc", "rvs"]
    assert not config.even_electrons
    modern = validate({"training": {"preset": "modern", "steps": 100}})
    assert modern.training.focus == "node"
    assert modern.training.steps == 100
    assert modern.training.batch_size == 256
    assert modern.ties == "shuffled"
    assert modern.even_electrons
    assert not validate({"training": {"preset": "modern"}, "rollout": {"even_electrons": False}}).even_electrons


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ({"training": {"preset": "moderm"}}, "`training.preset` is 'moderm'"),
        ({"training": {"preset": "modern", "focus": "index"}}, "`focus: index` contradicts it"),
        ({"training": {"hide_target": 0.1}}, "`hide_target` needs `target_embedding: gaussians`"),
        ({"training": {"condition_on_energy": True}}, "`condition_on_energy` needs `target_embedding: gaussians`"),
        (
            {"rollout": {"guidance": 2}},
            "`rollout.guidance` 2 needs a policy that was trained with `training.hide_target`",
        ),
        ({"rollout": {"target_energy": -1}}, "`rollout.target_energy` needs `training.condition_on_energy: true`"),
        ({"policies": {"pretrained": "mp"}}, "`policies.rvs_targets_ev`, which is empty"),
        (
            {"policies": {"pretrained": "mp", "rvs_targets_ev": [1], "seeds": [0, 1]}},
            "`policies.pretrained` is one training, and `policies.seeds` [0, 1] asks for several",
        ),
    ],
)
def test_mistakes_are_sentences(mistake: dict[str, Any], sentence: str) -> None:
    with pytest.raises(XtalrlError) as raised:
        validate(mistake)
    assert sentence in str(raised.value)


def test_shipped_policies_are_checked(trained: Path, tmp_path: Path) -> None:
    ship_policy(trained, "mine", tmp_path)
    record, weights = read_pretrained("mine", tmp_path)
    assert record["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    with pytest.raises(XtalrlError, match=r"There is no pretrained policy .* there are: mine"):
        read_pretrained("yours", tmp_path)
    path = tmp_path / "mine/policy.json"
    good = path.read_text()
    path.write_text(json.dumps(json.loads(good) | {"format": 99}))
    with pytest.raises(XtalrlError, match="is of format 99, and this version of xtalrl reads format 1"):
        read_pretrained("mine", tmp_path)
    path.write_text(good)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(XtalrlError, match="is not the file that was shipped"):
        read_pretrained("mine", tmp_path)


def test_the_shipped_policy_designs(dataset: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    take_pretrained("mp20", tmp_path / "policy.json", tmp_path / "weights.safetensors")
    assert (tmp_path / "weights.safetensors").stat().st_size < 1e6
    assert len(designs(tmp_path, dataset, 1.34, even_electrons=True, guidance=2.0)) == 12
    rows = tables.read_rows(tmp_path / "designs.parquet", tables.DESIGNS)
    assert {row["policy"] for row in rows} == {"rvs-mp20-1.34ev"}
    assert not caplog.records
    designs(tmp_path, dataset, 20.0)
    assert "outside the gaps that it has learned from" in caplog.text


def test_a_run_takes_the_shipped_policy_instead_of_training() -> None:
    config = validate({"policies": {"targets_ev": [], "ucql": False, "rvs_targets_ev": [1.12], "pretrained": "mp20"}})
    assert list(config.policy_specs()) == ["random", "bc", "rvs-mp20-1.12ev"]
    assert list(config.trained_specs()) == ["random", "bc"]
    assert config.policy_specs()["rvs-mp20-1.12ev"].trained.name == "rvs-mp20"
    style = policy_styles(config.policy_specs())["rvs-mp20-1.12ev"]
    assert (style.label, style.marker) == ("RvS mp20 1.12 eV", "P")
