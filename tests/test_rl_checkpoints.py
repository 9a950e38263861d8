"""A checkpoint that is damaged, of another run or of another machine; weights and records that were changed."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from rl_data import random_dataset, write_dataset
from safetensors.torch import load_file

from xtalrl.errors import XtalrlError, explain_os_error
from xtalrl.rl import code_digest, tensor_files, training
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.pretrained import FOLDER, read_pretrained
from xtalrl.rl.rollout import rollout_policy
from xtalrl.rl.settings import TrainingSettings
from xtalrl.rl.tensor_files import DamagedError, read_tensors, save_tensors
from xtalrl.rl.training import train_policy

FLIPS = int(os.environ.get("XTALRL_FLIPS", "60"))
"""Random bit flips a test tries; the harness at full size is `XTALRL_FLIPS=400 pytest tests/test_rl_checkpoints.py`."""
SPEC = PolicySpec("ccql", omega=1.0, target_ev=1.12, reward=Reward())
SETTINGS = TrainingSettings(steps=6, batch_size=8, device="cpu", checkpoint_every=2, log_every=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_dataset(tmp_path_factory.mktemp("dataset"), *random_dataset(4, 2))


@pytest.fixture(scope="module")
def trained(dataset: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy after 6 steps, with its checkpoints at 4 and 6."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, dataset)
    return folder


@pytest.fixture(scope="module")
def whole(dataset: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights after 10 steps without a break."""
    return train(tmp_path_factory.mktemp("whole"), dataset, steps=10)


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def train(folder: Path, dataset: dict[str, Path], threads: int = 1, seed: int = 0, **changes: Any) -> bytes:
    train_policy(
        SPEC, TrainingSettings(**{**vars(SETTINGS), **changes}), seed=seed, threads=threads, folder=folder, **dataset
    )
    return (folder / "weights.safetensors").read_bytes()


def flipped(content: bytes, place: int, bit: int = 3) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbage": lambda path: path.write_bytes(random.Random(0).randbytes(1000)),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a huge header": lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]),
    "another key": lambda path: path.write_bytes(path.read_bytes().replace(b"identity", b"identitx")),
    "another step": lambda path: path.write_bytes(path.read_bytes().replace(b"step", b"stop")),
    "a weight's bit": lambda path: path.write_bytes(flipped(path.read_bytes(), path.stat().st_size - 3000)),
    "the checksum's bit": lambda path: path.write_bytes(
        flipped(path.read_bytes(), path.read_bytes().index(b"sha256:") + 9)
    ),
    "the checksum's name": lambda path: path.write_bytes(path.read_bytes().replace(b"sha256:", b"sha257:")),
    "a folder": make_a_folder,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    copy: Path,
    dataset: dict[str, Path],
    whole: bytes,
    steps_done: list[int],
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    DAMAGE[damage](copy / "checkpoint.safetensors")
    assert train(copy, dataset, steps=10) == whole
    assert steps_done == list(range(4, 10))
    assert f"{copy / 'checkpoint.safetensors'} is damaged (" in caplog.text
    assert "set aside as checkpoint.damaged-1" in caplog.text
    assert (copy / "checkpoint.damaged-1").exists()


def test_without_a_good_checkpoint_training_begins(
    copy: Path, dataset: dict[str, Path], whole: bytes, steps_done: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("checkpoint", "checkpoint.previous"):
        (copy / f"{name}.safetensors").write_bytes(b"")
    assert train(copy, dataset, steps=10) == whole
    assert steps_done == list(range(10))
    assert "starting from the beginning" in caplog.text
    # Damaged once more, nothing of the first damage is in the way.
    (copy / "checkpoint.safetensors").write_bytes(b"")
    assert train(copy, dataset, steps=10) == whole
    assert steps_done == [*range(10), 8, 9]
    assert (copy / "checkpoint.damaged-2").exists()


def test_a_kill_between_the_two_renames_loses_nothing(
    copy: Path, dataset: dict[str, Path], whole: bytes, steps_done: list[int]
) -> None:
    (copy / "checkpoint.safetensors").replace(copy / "checkpoint.previous.safetensors")
    assert train(copy, dataset, steps=10) == whole
    assert steps_done == [6, 7, 8, 9]


def test_no_flipped_bit_of_a_checkpoint_or_of_weights_is_used(trained: Path, tmp_path: Path) -> None:
    rng = random.Random(2)
    for name in ("checkpoint.safetensors", "weights.safetensors"):
        content = (trained / name).read_bytes()
        good, about = read_tensors(trained / name)
        for number in range(FLIPS):
            # A third in the header, which is small, so that its every part is met.
            place = rng.randrange(len(content) if number % 3 else 2000)
            (tmp_path / name).write_bytes(flipped(content, place, rng.randrange(8)))
            try:
                tensors, found = read_tensors(tmp_path / name)
            except DamagedError:
                continue
            # A key of another name is one of an older version, without a checksum; the tensors are the same.
            assert found in ({}, about)
            assert all(torch.equal(tensors[key], good[key]) for key in good)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 1e-4}, r"settings.learning_rate \(0.0003 there, 0.0001 here\)"),
        ({"seed": 1}, r"seed \(0 there, 1 here\)"),
        ({"batch_size": 4, "discount": 0.9}, r"settings.batch_size .*, settings.discount \(0.99 there, 0.9 here\)"),
        ({"steps": 2}, r"already at step 6, and `training.steps` is 2"),
    ],
)
def test_what_differs_is_named(
    copy: Path,
    dataset: dict[str, Path],
    changes: dict[str, Any],
    named: str,
    steps_done: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    train(copy, dataset, **changes)
    assert steps_done[0] == 0
    (message,) = (
        record.getMessage() for record in caplog.records if f"{copy / 'checkpoint.safetensors'} " in record.getMessage()
    )
    assert re.search(f"is not used: it is .*{named}", message)


def test_data_and_code_are_named_without_their_digests(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(training, "digest_of_code", lambda: "other")
    train(copy, write_dataset(tmp_path / "other", *random_dataset(4, 2, seed=1)))
    assert "is not used: it is of a run with other band_gaps_ev" in caplog.text
    assert "code, data.graphs, data.trajectories" in caplog.text


@pytest.mark.parametrize("elsewhere", ["threads", "device", "python", "compile"])
def test_a_checkpoint_survives_another_node(
    copy: Path, dataset: dict[str, Path], steps_done: list[int], elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {}
    if elsewhere == "threads":
        changes = {"threads": 2}
    elif elsewhere == "device":
        changes = {"device": "auto"}
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    elif elsewhere == "python":
        monkeypatch.setattr(training.platform, "python_version", lambda: "3.99.0")
    else:
        monkeypatch.setattr(training, "Stack", lambda settings, replay: _interpreted(settings, replay))
        changes = {"compile": True}
    try:
        train(copy, dataset, steps=8, **changes)
    finally:
        torch.set_num_threads(1)
    assert steps_done == [6, 7]
    record = json.loads((copy / "policy.json").read_text())
    assert record["threads"] == changes.get("threads", 1), "kept as a record"


def _interpreted(settings: TrainingSettings, replay: Any) -> Any:
    from xtalrl.rl.learner import Stack

    stack = Stack(TrainingSettings(**{**asdict(settings), "compile": False}), replay)
    stack.settings = settings
    return stack


def test_a_full_disk_at_a_checkpoint_says_so_and_loses_nothing(
    copy: Path, dataset: dict[str, Path], whole: bytes, steps_done: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name.startswith(".checkpoint"):
            write(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space") as caught:
            train(copy, dataset, steps=10)
    sentence = str(explain_os_error(caught.value))
    assert sentence.startswith(f"The disk is full while writing '{copy / 'checkpoint.safetensors'}'")
    assert not list(copy.glob(".*"))
    steps_done.clear()
    assert train(copy, dataset, steps=10) == whole
    assert steps_done == [6, 7, 8, 9]


def test_equal_tensors_give_equal_files_that_others_can_read(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2)}
    about = {"policy": "x, seed 0", "more": [1, {"deep": None}]}
    for name in ("one", "two"):
        save_tensors(tmp_path / name, tensors, about)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert load_file(tmp_path / "one").keys() == tensors.keys()
    assert read_tensors(tmp_path / "one")[1] == about


def test_a_file_of_an_older_version_has_no_checksum_and_is_read() -> None:
    tensors, about = read_tensors(FOLDER / "mp20/weights.safetensors")
    assert tensors and about == {}
    assert read_pretrained("mp20")[0]["name"] == "rvs"


def roll_out(folder: Path, dataset: dict[str, Path], designs: Path) -> bytes:
    rollout_policy(folder, dataset["graphs"], dataset["trajectories"], designs, "cpu")
    return designs.read_bytes()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_get_a_sentence(copy: Path, dataset: dict[str, Path], damage: str, tmp_path: Path) -> None:
    path = copy / "weights.safetensors"
    before = path.read_bytes()
    DAMAGE[damage](path)
    if path.is_file() and path.read_bytes() == before:
        return  # weights have neither identity nor step
    with pytest.raises(XtalrlError, match=rf"{path} cannot be used .*: delete it and run `snakemake {path}` again"):
        roll_out(copy, dataset, tmp_path / "designs.parquet")


def test_weights_of_another_network_or_none_get_a_sentence(
    copy: Path, dataset: dict[str, Path], tmp_path: Path
) -> None:
    save_tensors(copy / "weights.safetensors", {"x": torch.ones(1)}, {})
    with pytest.raises(XtalrlError, match="cannot be used"):
        roll_out(copy, dataset, tmp_path / "designs.parquet")
    (copy / "weights.safetensors").unlink()
    with pytest.raises(XtalrlError, match="train the policy first"):
        roll_out(copy, dataset, tmp_path / "designs.parquet")


def test_a_changed_record_is_never_used(copy: Path, dataset: dict[str, Path], tmp_path: Path) -> None:
    path, rng = copy / "policy.json", random.Random(4)
    content = path.read_bytes()
    good = roll_out(copy, dataset, tmp_path / "designs.parquet")
    damaged = [flipped(content, rng.randrange(len(content)), rng.randrange(8)) for _ in range(FLIPS // 3)]
    damaged += [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, content[:-100], content.replace(b"0.99", b"0.98")]
    for wrong in damaged:
        path.write_bytes(wrong)
        with contextlib.suppress(XtalrlError):
            assert roll_out(copy, dataset, tmp_path / "designs.parquet") == good
    path.unlink()
    path.mkdir()
    with pytest.raises(XtalrlError, match="is damaged"):
        roll_out(copy, dataset, tmp_path / "designs.parquet")


def test_code_counts_and_words_about_it_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_digest, "_SOURCES", tmp_path)
    (tmp_path / "rl").mkdir()
    digest = code_digest.digest_of_code.__wrapped__

    def write(learner: str, losses: str, other: str = "") -> str:
        for name, text in (("learner", learner), ("losses", losses), ("other", other)):
            (tmp_path / "rl" / f"{name}.py").write_text(text)
        return str(digest("xtalrl.rl.learner"))

    learner = 'from xtalrl.rl.losses import loss\n\ndef step():\n    """One."""\n    return loss()\n'
    losses = "import numpy\n\nW = 1\n\ndef loss():\n    return W\n"
    first = write(learner, losses)
    assert write(learner.replace("One.", "One step."), losses) == first
    assert write(learner, '"""Losses."""\n' + losses.replace("W = 1", 'W = 1  # eV\n"""A weight."""')) == first
    assert write(learner, losses, "x = 1") == first, "nothing that is learned needs it"
    assert write(learner, losses.replace("W = 1", "W = 2")) != first
    assert write(learner.replace("return loss()", "return -loss()"), losses) != first


def test_the_digest_covers_what_is_learned_and_no_more() -> None:
    covered = {name.removeprefix("xtalrl.rl.") for name in code_digest._trees("xtalrl.rl.learner")}
    assert {
        "learner",
        "replay",
        "losses",
        "network",
        "rewards",
        "algorithms.cql",
        "settings",
        "xtalrl.elements",
    } <= covered
    assert not {"training", "rollout", "pretrained", "trajectories", "trackers", "tensor_files"} & covered


def test_nothing_but_a_damaged_file_is_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none")
    monkeypatch.setattr(tensor_files.Path, "read_bytes", lambda _: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(PermissionError):
        read_tensors(tmp_path / "mine")
