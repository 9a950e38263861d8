from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rl_data import random_dataset, write_dataset
from safetensors.torch import load_file

from xtalrl import config
from xtalrl.errors import XtalrlError
from xtalrl.rl import training
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.replay import Replay
from xtalrl.rl.training import Learner, TrainingSettings, find_device, soft_update, train_policy

SPECS = {
    "random": PolicySpec("random"),
    "bc": PolicySpec("bc"),
    "ucql": PolicySpec("ucql", omega=5.0, reward=Reward().without_gap()),
    "ccql": PolicySpec("ccql", omega=1.0, target_ev=1.12, reward=Reward()),
}
SETTINGS = TrainingSettings(steps=12, batch_size=16, device="cpu", checkpoint_every=5, log_every=4)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_dataset(tmp_path_factory.mktemp("dataset"), *random_dataset())


def train(
    folder: Path, dataset: dict[str, Path], kind: str = "ccql", seed: int = 0, **changes: Any
) -> dict[str, bytes]:
    settings = TrainingSettings(**{**vars(SETTINGS), **changes})
    train_policy(SPECS[kind], settings, seed=seed, threads=1, folder=folder, **dataset)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("focus", ["index", "node"])
@pytest.mark.parametrize("kind", SPECS)
def test_files(tmp_path: Path, dataset: dict[str, Path], kind: str, focus: str) -> None:
    files = train(tmp_path, dataset, kind, focus=focus)
    assert set(files) == {"policy.json", "weights.safetensors", "training.csv"}
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


def test_settings_are_the_configs() -> None:
    assert vars(TrainingSettings()) == config.TrainingConfig().model_dump()


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

    class Killed(Exception):
        pass

    update = Learner.update

    def update_until_killed(self: Learner) -> torch.Tensor:
        if self.step == stop:
            raise Killed
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", update_until_killed)
        with pytest.raises(Killed):
            train(tmp_path / "killed", dataset, kind)
    assert {path.name for path in (tmp_path / "killed").iterdir()} == {"checkpoint.safetensors", "training.csv"}
    # Snakemake removes the outputs of a failed job.
    (tmp_path / "killed" / "training.csv").unlink()
    steps_done = []
    monkeypatch.setattr(Learner, "update", lambda self: steps_done.append(self.step) or update(self))
    resumed = train(tmp_path / "killed", dataset, kind)
    assert steps_done == list(range(stop // 5 * 5, 12))
    assert resumed["weights.safetensors"] == whole["weights.safetensors"]
    assert resumed["policy.json"] == whole["policy.json"]
    assert without_speed(resumed["training.csv"]) == without_speed(whole["training.csv"])


def without_speed(log: bytes) -> list[str]:
    return [line.rpartition(",")[0] for line in log.decode().splitlines()]


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


def test_checkpoint_of_another_run_is_not_used(
    tmp_path: Path, dataset: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept.safetensors"
    unlink = Path.unlink
    monkeypatch.setattr(
        Path,
        "unlink",
        lambda self, **options: self.rename(kept) if self.name == "checkpoint.safetensors" else unlink(self, **options),
    )
    train(tmp_path / "a", dataset)
    whole = train(tmp_path / "b", dataset, learning_rate=1e-3)
    (tmp_path / "c").mkdir()
    train(tmp_path / "d", dataset)
    kept.rename(tmp_path / "c" / "checkpoint.safetensors")
    assert train(tmp_path / "c", dataset, learning_rate=1e-3)["weights.safetensors"] == whole["weights.safetensors"]


def test_soft_update_by_hand() -> None:
    target, source = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    old, new = target.weight.detach().clone(), source.weight.detach().clone()
    soft_update(target, source, 0.25)
    torch.testing.assert_close(target.weight, 0.75 * old + 0.25 * new)
    torch.testing.assert_close(source.weight, new)


def make_learner(dataset: dict[str, Path], kind: str, **changes: Any) -> Learner:
    settings = TrainingSettings(**{**vars(SETTINGS), **changes})
    return Learner(SPECS[kind], settings, Replay(SPECS[kind], **dataset), seed=0)


def test_one_update_by_hand(dataset: dict[str, Path]) -> None:
    """Adam's first step moves each weight by the learning rate against the sign of its gradient; the target follows."""
    learner = make_learner(dataset, "ccql", gradient_clip=None, target_update_rate=0.5)
    before = [parameter.detach().clone() for parameter in learner.parameters]
    learner.update()
    assert learner.target is not None
    for old, new, target in zip(before, learner.parameters, learner.target.parameters(), strict=True):
        assert new.grad is not None
        moved = new.grad.abs() > 1e-4
        torch.testing.assert_close((new - old)[moved], (-3e-4 * new.grad.sign())[moved], rtol=1e-2, atol=1e-7)
        torch.testing.assert_close(target, (old + new) / 2)
        assert not target.requires_grad


def test_gradient_is_clipped(dataset: dict[str, Path]) -> None:
    learner = make_learner(dataset, "ccql", gradient_clip=0.01)
    norm = learner.update()[training.LOG_COLUMNS.index("grad_norm") - 1]
    clipped = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in learner.parameters if p.grad is not None]))
    assert norm > 0.01
    assert clipped.item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("kind", ["bc", "ccql"])
def test_it_learns_the_data(tmp_path: Path, kind: str) -> None:
    """Two crystals are learnt by heart: the loss falls and greedy actions become the data's."""
    learner = make_learner(
        write_dataset(tmp_path, *random_dataset(n_train=2)), kind, batch_size=16, learning_rate=3e-3, focus="node"
    )
    accuracy = training.LOG_COLUMNS.index("accuracy") - 1
    first, *_, last = (learner.update() for _ in range(200))
    assert last[0] < first[0] / 2
    assert last[accuracy] > 0.25  # chance is 0.011


def test_a_loss_that_is_not_finite_names_step_and_crystals(
    tmp_path: Path, dataset: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = Learner.loss

    def broken(self: Learner, batch: Any) -> Any:
        result, q = loss(self, batch)
        return (
            (type(result)(result.total * float("nan"), result.conservative, result.td), q)
            if self.step == 6
            else (result, q)
        )

    monkeypatch.setattr(Learner, "loss", broken)
    with pytest.raises(XtalrlError, match=r"not finite at step 7; its batch holds x-\d.*training.learning_rate"):
        train(tmp_path, dataset)


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
