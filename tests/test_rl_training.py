from __future__ import annotations

import csv
import json
import math
import os
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rl_data import killed_at, random_dataset, write_dataset
from safetensors.torch import load_file

from xtalrl.errors import XtalrlError
from xtalrl.rl import training
from xtalrl.rl.activation import compiled_values
from xtalrl.rl.learner import STATISTICS, Learner, Stack, activation_bytes, soft_update
from xtalrl.rl.network import MLP, QNetwork
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.replay import Replay
from xtalrl.rl.settings import TrainingSettings, snapshot_steps
from xtalrl.rl.training import find_device, train_policies, train_policy

SPECS = {
    "random": PolicySpec("random"),
    "bc": PolicySpec("bc"),
    "ucql": PolicySpec("ucql", omega=5.0, reward=Reward().without_gap()),
    "ccql": PolicySpec("ccql", omega=1.0, target_ev=1.12, reward=Reward()),
}
CHECKPOINTS = {"checkpoint.safetensors", "checkpoint.previous.safetensors"}
SETTINGS = TrainingSettings(steps=12, batch_size=16, device="cpu", checkpoint_every=5, log_every=4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_dataset(tmp_path_factory.mktemp("dataset"), *random_dataset())


def train(
    folder: Path, dataset: dict[str, Path], kind: str = "ccql", seed: int = 0, **changes: Any
) -> dict[str, bytes]:
    settings = TrainingSettings(**{**vars(SETTINGS), **changes})
    train_policy(SPECS[kind], settings, seed=seed, threads=1, folder=folder, **dataset)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("focus", ["index", "node"])
@pytest.mark.parametrize("kind", SPECS)
def test_files(tmp_path: Path, dataset: dict[str, Path], kind: str, focus: str) -> None:
    files = train(tmp_path, dataset, kind, focus=focus)
    assert set(files) - CHECKPOINTS == {"policy.json", "weights.safetensors", "training.csv"}
    record = json.loads(files["policy.json"])
    assert PolicySpec.from_dict(record["spec"]) == SPECS[kind]
    weights = load_file(tmp_path / "weights.safetensors")
    header, *rows = csv.reader(files["training.csv"].decode().splitlines())
    assert tuple(header) == training.LOG_COLUMNS
    if kind == "random":
        assert (weights, rows, record["network"]) == ({}, [], None)
        return
    assert record["network"]["conditional"] == (kind == "ccql")
    assert record["network"]["focus"] == focus
    assert [int(row[0]) for row in rows] == [4, 8, 12]
    assert all((row[header.index("td_loss")] == "") == (kind == "bc") for row in rows)
    for row in rows:
        values = dict(zip(header, row, strict=True))
        assert float(values["q_max"]) >= float(values["q_data"])
        if kind != "bc":
            total = SPECS[kind].omega * float(values["conservative_loss"]) + 0.5 * float(values["td_loss"])
            assert float(values["loss"]) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("kind", ["bc", "ccql"])
def test_same_seed_same_bits(tmp_path: Path, dataset: dict[str, Path], kind: str) -> None:
    first = train(tmp_path / "a", dataset, kind)["weights.safetensors"]
    torch.manual_seed(99)  # nobody else's random numbers matter
    assert train(tmp_path / "b", dataset, kind)["weights.safetensors"] == first
    other = train(tmp_path / "c", dataset, kind, seed=1)
    assert (
        load_file(tmp_path / "c" / "weights.safetensors").keys()
        == load_file(tmp_path / "a" / "weights.safetensors").keys()
    )
    assert other["weights.safetensors"] != first


@pytest.mark.parametrize("kind", ["bc", "ccql"])
@pytest.mark.parametrize("stop", [5, 9, 10])
def test_resumed_run_is_bit_for_bit_the_whole_one(
    tmp_path: Path, dataset: dict[str, Path], kind: str, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", dataset, kind)

    with killed_at(stop, monkeypatch):
        train(tmp_path / "killed", dataset, kind)
    update = Learner.update
    assert {path.name for path in (tmp_path / "killed").iterdir()} - CHECKPOINTS == {"training.csv"}
    # Snakemake removes the outputs of a failed job.
    (tmp_path / "killed" / "training.csv").unlink()
    steps_done = []
    monkeypatch.setattr(Learner, "update", lambda self, batch: steps_done.append(self.step) or update(self, batch))
    resumed = train(tmp_path / "killed", dataset, kind)
    assert steps_done == list(range(stop // 5 * 5, 12))
    assert resumed["weights.safetensors"] == whole["weights.safetensors"]
    assert resumed["policy.json"] == whole["policy.json"]
    assert without_speed(resumed["training.csv"]) == without_speed(whole["training.csv"])


def without_speed(log: bytes) -> list[str]:
    return [line.rpartition(",")[0] for line in log.decode().splitlines()]


SNAPSHOTS: dict[str, Any] = {"steps": 13, "snapshots": 2}


def snapshots_in(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (folder / "snapshots").iterdir()}


@pytest.mark.parametrize(
    ("steps", "snapshots", "expected"),
    [(100, 0, []), (100, 1, [50]), (250_000, 4, [50_000, 100_000, 150_000, 200_000]), (3, 9, [1, 2]), (1, 5, [])],
)
def test_steps_of_snapshots(steps: int, snapshots: int, expected: list[int]) -> None:
    assert snapshot_steps(steps, snapshots) == expected


@pytest.mark.parametrize("kind", ["bc", "ccql"])
def test_a_snapshot_is_what_a_run_of_so_many_steps_ends_with(
    tmp_path: Path, dataset: dict[str, Path], kind: str
) -> None:
    whole = train(tmp_path / "whole", dataset, kind, **SNAPSHOTS)
    kept = snapshots_in(tmp_path / "whole")
    assert set(kept) == {"4", "8"}
    for step, content in kept.items():
        assert content == train(tmp_path / step, dataset, kind, steps=int(step))["weights.safetensors"]
    # They change nothing else.
    assert whole["weights.safetensors"] == train(tmp_path / "without", dataset, kind, steps=13)["weights.safetensors"]


def test_snapshots_of_policies_trained_together(tmp_path: Path, dataset: dict[str, Path]) -> None:
    settings = TrainingSettings(**{**vars(SETTINGS), **SNAPSHOTS})
    folders = [tmp_path / kind for kind in SPECS]
    train_policies(list(SPECS.values()), settings, seed=0, threads=1, folders=folders, **dataset)
    for kind in ("bc", "ccql"):
        train(tmp_path / "alone" / kind, dataset, kind, **SNAPSHOTS)
        assert snapshots_in(tmp_path / kind) == snapshots_in(tmp_path / "alone" / kind)
    # One with nothing to learn has the same files.
    assert set(snapshots_in(tmp_path / "random")) == {"4", "8"}
    assert load_file(tmp_path / "random/snapshots/4.safetensors") == {}


@pytest.mark.parametrize("stop", [4, 6, 8, 9, 12])
def test_a_killed_run_loses_no_snapshot(
    tmp_path: Path, dataset: dict[str, Path], stop: int, steps_done: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "whole", dataset, **SNAPSHOTS)
    update = Learner.update

    def update_until_killed(self: Learner, batch: Any) -> torch.Tensor:
        if self.step == stop:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", update_until_killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", dataset, **SNAPSHOTS)
    # Snakemake removes the outputs of a failed job.
    for path in (tmp_path / "killed").iterdir():
        if path.name not in CHECKPOINTS:
            path.unlink()
    steps_done.clear()
    train(tmp_path / "killed", dataset, **SNAPSHOTS)
    assert steps_done[0] == max(step for step in (4, 5, 8, 10) if step <= stop)
    assert snapshots_in(tmp_path / "killed") == snapshots_in(tmp_path / "whole")


@pytest.mark.parametrize(("first", "then", "done"), [(0, 2, list(range(13))), (2, 0, []), (2, 2, []), (5, 2, [])])
def test_a_finished_run_is_made_again_only_for_snapshots_that_it_lacks(
    tmp_path: Path, dataset: dict[str, Path], first: int, then: int, done: list[int], steps_done: list[int]
) -> None:
    train(tmp_path / "run", dataset, steps=13, snapshots=first)
    steps_done.clear()
    train(tmp_path / "run", dataset, steps=13, snapshots=then)
    assert steps_done == done


def test_more_steps_where_the_old_end_is_a_snapshot(
    tmp_path: Path, dataset: dict[str, Path], steps_done: list[int]
) -> None:
    end = train(tmp_path, dataset, steps=6)["weights.safetensors"]
    train(tmp_path, dataset, steps=12, snapshots=1)
    assert steps_done == list(range(12))
    assert snapshots_in(tmp_path) == {"6": end}


@pytest.mark.slow
def test_killed_at_random_by_the_system(tmp_path: Path, dataset: dict[str, Path]) -> None:
    """SIGKILL a real process again and again until it gets through."""
    changes: dict[str, Any] = {"steps": 60, "checkpoint_every": 10}
    whole = train(tmp_path / "whole", dataset, **changes)
    settings = {**vars(SETTINGS), **changes}
    program = (
        "from xtalrl.rl.policies import PolicySpec; from xtalrl.rl.training import TrainingSettings, train_policy\n"
        f"train_policy(PolicySpec.from_dict({SPECS['ccql'].to_dict()!r}), TrainingSettings(**{settings!r}), seed=0, threads=1,"
        f" folder={str(tmp_path / 'killed')!r}, graphs={str(dataset['graphs'])!r},"
        f" trajectories={str(dataset['trajectories'])!r})"
    )
    kills = 0
    delay = random.Random(0)
    while True:
        process = subprocess.Popen([sys.executable, "-c", program])
        checkpoint = tmp_path / "killed" / "checkpoint.safetensors"
        seen = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == seen):
            time.sleep(0.01)
        time.sleep(delay.uniform(0, 0.4))
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.returncode == 0
    assert kills >= 2
    assert (tmp_path / "killed" / "weights.safetensors").read_bytes() == whole["weights.safetensors"]


def test_checkpoint_of_another_run_is_not_used(tmp_path: Path, dataset: dict[str, Path]) -> None:
    whole = train(tmp_path / "b", dataset, learning_rate=1e-3)
    train(tmp_path / "c", dataset)
    assert train(tmp_path / "c", dataset, learning_rate=1e-3)["weights.safetensors"] == whole["weights.safetensors"]


def test_a_finished_policy_goes_on_when_more_steps_are_wanted(
    tmp_path: Path, dataset: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", dataset, steps=15)
    at_11 = train(tmp_path / "more", dataset, steps=11)["weights.safetensors"]
    update = Learner.update
    steps_done = []
    monkeypatch.setattr(Learner, "update", lambda self, batch: steps_done.append(self.step) or update(self, batch))
    more = train(tmp_path / "more", dataset, steps=15)
    assert steps_done == [11, 12, 13, 14]
    assert more["weights.safetensors"] == whole["weights.safetensors"]
    assert without_speed(more["training.csv"]) == without_speed(whole["training.csv"])
    # Fewer steps than it has made are in the checkpoint before, or cannot be had from it.
    assert train(tmp_path / "more", dataset, steps=11)["weights.safetensors"] == at_11
    assert steps_done[4:] == []
    fewer = train(tmp_path / "more", dataset, steps=10)
    assert steps_done[4:] == list(range(10))
    assert fewer["weights.safetensors"] != whole["weights.safetensors"]


def test_soft_update_by_hand() -> None:
    target, source = torch.randn(2, 3), torch.randn(2, 3)
    old, new = target.clone(), source.clone()
    soft_update(target, source, 0.25)
    torch.testing.assert_close(target, 0.75 * old + 0.25 * new)
    torch.testing.assert_close(source, new)


def make_stack(dataset: dict[str, Path], **changes: Any) -> Stack:
    settings = TrainingSettings(**{**vars(SETTINGS), **changes})
    return Stack(settings, Replay(**dataset))


def make_learner(dataset: dict[str, Path], kind: str, **changes: Any) -> Learner:
    return Learner([SPECS[kind]], make_stack(dataset, **changes), seed=0)


def update(learner: Learner) -> torch.Tensor:
    batch = learner.stack.draw_batch(learner.seed, learner.step, bootstrap=learner.target is not None)
    return learner.update(batch)


def test_one_update_by_hand(dataset: dict[str, Path]) -> None:
    """Adam's first step moves each weight by the learning rate against the sign of its gradient; the target follows."""
    learner = make_learner(dataset, "ccql", gradient_clip=None, target_update_rate=0.5)
    old = learner.weights.detach().clone()
    update(learner)
    gradient, new = learner.weights.grad, learner.weights.detach()
    assert gradient is not None and learner.target is not None
    moved = gradient.abs() > 1e-4
    torch.testing.assert_close((new - old)[moved], (-3e-4 * gradient.sign())[moved], rtol=1e-2, atol=1e-7)
    torch.testing.assert_close(learner.target, (old + new) / 2)
    assert not learner.target.requires_grad


def test_initial_weights_are_the_networks(dataset: dict[str, Path]) -> None:
    stack = make_stack(dataset)
    for kind in ("bc", "ccql"):
        torch.manual_seed(3)
        network = QNetwork(stack.architecture(conditional=kind == "ccql"))
        state = stack.initial_state(SPECS[kind], seed=3)
        assert state.tensors.keys() == {"weights", "exp_avg", "exp_avg_sq"} | ({"target"} if kind == "ccql" else set())
        torch.testing.assert_close(
            stack.state_dict(SPECS[kind], state.tensors["weights"]), dict(network.state_dict()), rtol=0, atol=0
        )


def test_gradient_is_clipped(dataset: dict[str, Path]) -> None:
    learner = make_learner(dataset, "ccql", gradient_clip=0.01)
    norm = update(learner)[0, STATISTICS.index("grad_norm")]
    assert norm > 0.01
    assert learner.weights.grad is not None
    assert learner.weights.grad.norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("kind", ["bc", "ccql"])
def test_it_learns_the_data(tmp_path: Path, kind: str) -> None:
    """Two crystals are learnt by heart: the loss falls and greedy actions become the data's."""
    learner = make_learner(
        write_dataset(tmp_path, *random_dataset(n_train=2)), kind, batch_size=16, learning_rate=3e-3, focus="node"
    )
    accuracy = STATISTICS.index("accuracy")
    first, *_, last = (update(learner)[0] for _ in range(200))
    assert last[0] < first[0] / 2
    assert last[accuracy] > 0.25  # chance is 0.011


def test_a_loss_that_is_not_finite_names_step_and_crystals(
    tmp_path: Path, dataset: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Learner.evaluate

    def broken(self: Learner, *inputs: Any) -> Any:
        total, statistics = evaluate(self, *inputs)
        return (total * math.nan, statistics * math.nan) if self.step == 6 else (total, statistics)

    monkeypatch.setattr(Learner, "evaluate", broken)
    with pytest.raises(XtalrlError, match=r"not finite at step 7; its batch holds x-\d.*training.learning_rate"):
        train(tmp_path, dataset)


def test_a_loss_that_runs_away(tmp_path: Path, dataset: dict[str, Path]) -> None:
    with pytest.raises(
        XtalrlError, match=r"bc, seed 0: loss or gradient is not finite at step \d+; its batch holds x-\d"
    ):
        train(tmp_path, dataset, "bc", learning_rate=1e30)


# --- many policies in one pass ---------------------------------------------------------------------------------------

COMPANY = [
    SPECS["bc"],
    SPECS["ucql"],
    SPECS["ccql"],
    PolicySpec("ccql", omega=5.0, target_ev=4.0, reward=Reward(energy="total", beta2=1.0)),
    PolicySpec("ccql-any", omega=1.0, reward=Reward(), target_range_ev=(0.0, 5.0)),
]


@pytest.mark.parametrize(("focus", "edge_features"), [("index", "paper"), ("node", "gaussian_basis")])
def test_a_stack_learns_what_its_policies_learn_alone(dataset: dict[str, Path], focus: str, edge_features: str) -> None:
    """Weights, targets, Adam's moments and statistics, after 10 steps at a large learning rate, up to rounding."""
    stack = make_stack(dataset, focus=focus, edge_features=edge_features, learning_rate=1e-3, gradient_clip=0.5)
    together = Learner(COMPANY, stack, seed=0)
    alone = {spec: Learner([spec], stack, seed=0) for spec in COMPANY}
    for _ in range(10):
        statistics = update(together)
        for spec, row in zip(together.specs, statistics, strict=True):
            torch.testing.assert_close(row, update(alone[spec])[0], rtol=1e-4, atol=1e-5, equal_nan=True)
    for spec, learner in alone.items():
        ours, theirs = together.state(spec), learner.state(spec)
        start = stack.initial_state(spec, 0).tensors["weights"]
        assert (ours.tensors["weights"] - start).abs().max() > 5e-3
        torch.testing.assert_close(ours.tensors, theirs.tensors, rtol=1e-4, atol=1e-6)
        assert ours.step == theirs.step == 10


@pytest.mark.parametrize("focus", ["index", "node"])
def test_the_file_holds_the_network_that_learnt(dataset: dict[str, Path], focus: str) -> None:
    """Conditional or not, the weights written give the Q-values of the row of the stack."""
    stack = make_stack(dataset, focus=focus, learning_rate=1e-2)
    learner = Learner(COMPANY, stack, seed=0)
    for _ in range(3):
        update(learner)
    batch = stack.draw_batch(5, 5, bootstrap=False)
    gap = torch.full((len(COMPANY), 1), 2.0)  # which an unconditional policy, its column being 0 still, does not see
    q = stack.q_values(learner.weights, batch.graphs, batch.node_types, batch.focus, gap)
    for row, spec in zip(q, learner.specs, strict=True):
        network = QNetwork(stack.architecture(conditional=spec.is_conditional))
        network.load_state_dict(stack.state_dict(spec, learner.state(spec).tensors["weights"]))
        alone = network.q_values(batch.graphs, batch.node_types, batch.focus, 2.0)
        torch.testing.assert_close(row, alone, rtol=1e-4, atol=1e-5)


def test_a_policy_that_fails_leaves_the_others_alone(dataset: dict[str, Path]) -> None:
    stack = make_stack(dataset)
    healthy, ill = Learner(COMPANY, stack, seed=0), Learner(COMPANY, stack, seed=0)
    with torch.no_grad():
        ill.weights[1] = math.nan
    update(healthy)
    with pytest.raises(XtalrlError, match=rf"{ill.specs[1].name}, seed 0: .* step 1;"):
        update(ill)
    others = [0, 2, 3, 4]
    torch.testing.assert_close(ill.weights[others], healthy.weights[others], rtol=0, atol=0)


def train_together(
    folder: Path, dataset: dict[str, Path], specs: list[PolicySpec], seed: int = 0, **changes: Any
) -> dict[str, bytes]:
    settings = TrainingSettings(**{**vars(SETTINGS), **changes})
    folders = [folder / spec.name for spec in specs]
    train_policies(specs, settings, seed=seed, threads=1, folders=folders, **dataset)
    return {spec.name: (folder / spec.name / "weights.safetensors").read_bytes() for spec in specs}


@pytest.mark.parametrize("policies_per_pass", ["auto", 1, 3])
def test_company_changes_no_bit_on_a_cpu(
    tmp_path: Path, dataset: dict[str, Path], policies_per_pass: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {}
    for spec in COMPANY:
        alone |= train_together(tmp_path / "alone", dataset, [spec])
    batch = Replay.batch
    batches = []
    monkeypatch.setattr(Replay, "batch", lambda self, *inputs: batches.append(1) or batch(self, *inputs))
    together = train_together(tmp_path / "all", dataset, COMPANY, policies_per_pass=policies_per_pass)
    assert together == alone
    # 5 policies in 1, 5 and 2 passes: each pass assembles the batches of its 12 steps once.
    assert len(batches) == 12 * {"auto": 1, 1: 5, 3: 2}[policies_per_pass]


def test_finished_policies_are_not_trained_again(
    tmp_path: Path, dataset: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed list of policies makes Snakemake delete the outputs of all and start the job again."""
    whole = train_together(tmp_path / "whole", dataset, COMPANY)
    first = train_together(tmp_path / "run", dataset, COMPANY[:2])
    for spec in COMPANY[:2]:
        for name in ("policy.json", "weights.safetensors", "training.csv"):
            (tmp_path / "run" / spec.name / name).unlink()
    trained = []
    update = Learner.update
    monkeypatch.setattr(Learner, "update", lambda self, batch: trained.extend(self.specs) or update(self, batch))
    assert train_together(tmp_path / "run", dataset, COMPANY) == whole
    assert whole.items() >= first.items()
    assert set(trained) == set(COMPANY[2:])


def test_policies_killed_at_different_steps_catch_up(
    tmp_path: Path, dataset: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_together(tmp_path / "whole", dataset, COMPANY)
    train_together(tmp_path / "run", dataset, COMPANY[:1], steps=10)
    train_together(tmp_path / "run", dataset, COMPANY[1:3], steps=5)
    sizes: dict[int, int] = {}
    update = Learner.update

    def count(self: Learner, batch: Any) -> torch.Tensor:
        sizes[self.step] = sizes.get(self.step, 0) + len(self.specs)
        return update(self, batch)

    monkeypatch.setattr(Learner, "update", count)
    assert train_together(tmp_path / "run", dataset, COMPANY) == whole
    assert [sizes[step] for step in range(12)] == 5 * [2] + 5 * [4] + 2 * [5]


def test_memory_of_a_stack_is_foretold_from_one_policy(dataset: dict[str, Path]) -> None:
    stack = make_stack(dataset, batch_size=64)
    one, five = (activation_bytes(Learner(specs, stack, seed=0)) for specs in (COMPANY[1:2], COMPANY))
    assert 4.4 * one < five < 5.1 * one


def test_a_pass_holds_what_a_gpu_can(dataset: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    stack = make_stack(dataset, batch_size=64)
    each = 1000
    stack.device = torch.device("cuda")  # asked for its memory only
    monkeypatch.setattr(training, "Learner", lambda *inputs: None)
    monkeypatch.setattr(training, "activation_bytes", lambda learner: each)
    specs = [SPECS["ccql"]] * 11
    for room, size in [(100, 11), (11, 11), (10.5, 6), (4.2, 4), (1, 1), (0.1, 1)]:
        free = math.ceil(room * each / training.GPU_MEMORY_SHARE)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 0))
        assert training.policies_per_pass(specs, stack, seed=0) == size, room


# --- options -----------------------------------------------------------------------------------------------------------


def test_bfloat16_is_close(dataset: dict[str, Path]) -> None:
    exact, rough = (make_learner(dataset, "ccql", precision=precision) for precision in ("float32", "bfloat16"))
    for _ in range(20):
        one, other = update(exact)[0], update(rough)[0]
        assert other[0] == pytest.approx(one[0].item(), rel=0.02)
    assert rough.weights.dtype == torch.float32
    assert one[0] != other[0]


@pytest.mark.slow
def test_compiled_learns_the_same(dataset: dict[str, Path]) -> None:
    plain, compiled = (make_learner(dataset, "ccql", compile=option) for option in (False, True))
    for _ in range(5):
        torch.testing.assert_close(update(compiled), update(plain), rtol=1e-4, atol=1e-5)
    assert all(
        module.softplus2_values is compiled_values()
        for module in compiled.stack.network.modules()
        if isinstance(module, MLP)
    )


def test_compiling_is_for_cpus() -> None:
    replay: Any = SimpleNamespace(graphs=SimpleNamespace(device=torch.device("meta")))
    with pytest.raises(XtalrlError, match=r"for CPUs, and this is to train on meta: set `training.compile: false`"):
        Stack(TrainingSettings(compile=True), replay)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed(
    tmp_path: Path, dataset: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, {"tensorboard": "torch.utils.tensorboard.writer"}.get(name, name), None)
    with pytest.raises(XtalrlError, match=rf"asks for {name}, .* `pip install {name}`"):
        train(tmp_path, dataset, trackers=(name,))


def test_tensorboard_gets_the_rows_of_the_log(tmp_path: Path, dataset: dict[str, Path]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, dataset, trackers=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    _, *rows = csv.reader((tmp_path / "training.csv").read_text().splitlines())
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(int(row[0]), pytest.approx(float(row[1]), rel=1e-4)) for row in rows]


def test_cuda_is_asked_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert find_device("auto") == find_device("cpu") == torch.device("cpu")
    with pytest.raises(XtalrlError, match="sees no GPU here"):
        find_device("cuda")


def test_missing_file_gets_a_sentence(tmp_path: Path, dataset: dict[str, Path]) -> None:
    with pytest.raises(XtalrlError, match="run the stage that writes it first"):
        train(tmp_path, {**dataset, "graphs": tmp_path / "graphs.parquet"})


def test_a_gpu_node_needs_torch_and_arrow_only() -> None:
    program = (
        "import sys, xtalrl.rl.training, xtalrl.rl.rollout, xtalrl.workflow\n"
        "heavy = {'pymatgen', 'pydantic', 'pandas', 'snakemake', 'scipy', 'matplotlib', 'ase', 'yaml'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_freed_memory_is_kept() -> None:
    """A tensor as large as those of a step costs new pages once, not every time."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("the C library is not glibc, whose malloc this is about")
    code = """
import resource, torch
from xtalrl.rl.training import keep_freed_memory
keep_freed_memory()
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [torch.ones(2**22) for _ in range(8)]
    del parts
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*faults)
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    first, *later = map(int, result.stdout.split())
    assert max(later) < 0.5 * first  # Where the heap has gaps, one or two of the eight find no room.
