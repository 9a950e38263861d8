"""Training of one policy: behavioural cloning or conservative Q-learning (algorithm 1).

Reproducible: initial weights and batches depend on the seed alone, and on a CPU the same seed gives the same weights bit for bit,
whether or not the run was killed and resumed. That holds for one number of threads, because a sum split over threads is rounded
differently; so the number is set here, not left to the machine. On a GPU sums are made by atomic additions in no fixed order.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.rl.graphs import shorten
from xtalrl.rl.losses import Loss, behavioural_cloning_loss, cql_loss
from xtalrl.rl.network import Architecture, Focus, QNetwork
from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.replay import Replay, Transitions

logger = logging.getLogger(__name__)

LOG_COLUMNS = (
    "step", "loss", "td_loss", "conservative_loss", "q_data", "q_max", "accuracy", "grad_norm", "steps_per_s",
)  # fmt: skip
"""Columns of training.csv: the loss and its terms, the batch means of Q(s, a) for the data's action and of max_a Q(s, a), the share
of states whose greedy action is the data's, and the norm of the gradient before clipping. For BC the conservative loss is its
cross-entropy and td_loss is empty."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a policy is trained (appendix A.1.5); described in `xtalrl.config.TrainingConfig`."""

    steps: int = 250_000
    batch_size: int = 1024
    learning_rate: float = 3e-4
    discount: float = 0.99
    target_update_rate: float = 5e-3
    gradient_clip: float | None = 5.0
    focus: Focus = "index"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: int = 10_000
    log_every: int = 100


def train_policy(
    spec: PolicySpec,
    settings: TrainingSettings,
    *,
    seed: int,
    threads: int,
    graphs: str | Path,
    trajectories: str | Path,
    folder: str | Path,
) -> None:
    """Train a policy on the split train, or go on from its checkpoint.

    Writes in `folder` policy.json (all that made the policy), weights.safetensors and training.csv (`LOG_COLUMNS`). A policy with
    nothing to learn gets the same files, without weights or rows.

    Raises:
        XtalrlError: the data are missing or malformed, there is no such device, or the loss stops being finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    device = find_device(settings.device)
    torch.set_num_threads(threads)
    record: dict[str, Any] = {
        "name": spec.name,
        "spec": spec.to_dict(),
        "seed": seed,
        "settings": asdict(settings),
        "network": None,
        "data": {"graphs": _sha256(graphs), "trajectories": _sha256(trajectories)},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": threads,
        "versions": {name: importlib.metadata.version(name) for name in ("xtalrl", "torch", "numpy")}
        | {"python": platform.python_version()},
    }
    if not spec.is_learned:
        _write_policy(folder, record, {}, [])
        return

    replay = Replay(spec, graphs, trajectories, device=device)
    logger.info(
        "%s, seed %d: %s transitions of %s crystals, %.1f MB on %s",
        *(spec.name, seed, f"{len(replay):,}", f"{len(replay.graphs.material_ids):,}", replay.nbytes / 1e6, device),
    )
    learner = Learner(spec, settings, replay, seed)
    record["network"] = asdict(learner.network.architecture)
    # What changes the result, and so makes a checkpoint useless; not how often one looks at it.
    identity = {**record, "settings": asdict(dataclasses.replace(settings, checkpoint_every=1, log_every=1))}
    checkpoint = Checkpoint(folder / "checkpoint.safetensors", json.dumps(identity, sort_keys=True))
    rows = checkpoint.load(learner)

    progress = Progress(spec.name, settings.steps, "steps", done=learner.step)
    last_time, last_step = time.monotonic(), learner.step
    while learner.step < settings.steps:
        stats = learner.update()
        note = ""
        if learner.step % settings.log_every == 0 or learner.step == settings.steps:
            now = time.monotonic()
            rate = (learner.step - last_step) / max(now - last_time, 1e-9)
            last_time, last_step = now, learner.step
            row = [float(learner.step), *stats.tolist(), rate]
            learner.check_finite()
            rows.append(row)
            note = f"loss {row[1]:.3g}"
        if learner.step % settings.checkpoint_every == 0 and learner.step < settings.steps:
            learner.check_finite()
            checkpoint.save(learner, rows)
            _write_log(folder, rows)
        progress.advance(note=note)
    _write_policy(folder, record, learner.network.state_dict(), rows)
    checkpoint.path.unlink(missing_ok=True)


class Learner:
    """A Q-network, its target network and its optimizer on a data set."""

    def __init__(self, spec: PolicySpec, settings: TrainingSettings, replay: Replay, seed: int) -> None:
        """Draw the initial weights by the seed."""
        self.spec, self.settings, self.replay, self.seed = spec, settings, replay, seed
        self.step = 0
        """Updates done."""
        architecture = Architecture(conditional=spec.is_conditional, focus=settings.focus)
        device = replay.graphs.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = QNetwork(architecture)
            self.target = QNetwork(architecture) if spec.kind != "bc" else None
        if settings.focus == "node":
            self.network.standardise(replay.graphs.state.cpu())
        self.network.to(device)
        if self.target is not None:
            self.target.load_state_dict(self.network.state_dict())
            self.target.to(device).requires_grad_(False)
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=settings.learning_rate, fused=True)
        # The first step whose loss was not finite, found without waiting for a GPU at every step.
        self._first_bad_step = torch.full((), -1, device=device)

    def loss(self, batch: Transitions) -> tuple[Loss, Tensor]:
        """Loss of a batch, and the Q-values (B, 88) it came from."""
        target_ev = self.spec.target_ev
        q = self.network(batch.graphs, batch.node_types, batch.focus, target_ev)
        if self.target is None:
            return behavioural_cloning_loss(q, batch.action), q
        assert self.spec.omega is not None
        next_value = torch.zeros_like(batch.reward)
        with torch.no_grad():
            next_q = self.target(batch.next_graphs, batch.next_node_types, batch.next_focus, target_ev)
            next_value[: len(next_q)] = next_q.amax(1)
        loss = cql_loss(
            q,
            batch.action,
            batch.reward,
            batch.done,
            next_value,
            omega=self.spec.omega,
            discount=self.settings.discount,
        )
        return loss, q

    def update(self) -> Tensor:
        """One step of algorithm 1; returns the values of `LOG_COLUMNS` between step and steps_per_s."""
        settings = self.settings
        batch = self.replay.batch(self.replay.sample(settings.batch_size, seed=self.seed, step=self.step))
        self.optimizer.zero_grad(set_to_none=True)
        loss, q = self.loss(batch)
        torch.autograd.backward(loss.total)
        max_norm = math.inf if settings.gradient_clip is None else settings.gradient_clip
        norm = nn.utils.clip_grad_norm_(self.parameters, max_norm, foreach=True)
        self.optimizer.step()
        if self.target is not None:
            soft_update(self.target, self.network, settings.target_update_rate)
        self.step += 1

        with torch.no_grad():
            finite = loss.total.isfinite() & norm.isfinite()
            self._first_bad_step.masked_fill_(~finite & (self._first_bad_step < 0), self.step)
            if finite.device.type == "cpu":
                self.check_finite()
            highest, greedy = q.max(1)
            return torch.stack(
                [
                    loss.total,
                    loss.td if loss.td is not None else loss.total.new_full((), math.nan),
                    loss.conservative,
                    q.gather(1, batch.action[:, None]).mean(),
                    highest.mean(),
                    (greedy == batch.action).float().mean(),
                    norm,
                ]
            )

    def check_finite(self) -> None:
        """Raise XtalrlError, naming step and crystals, if the loss or gradient of any step was not finite."""
        if (bad := int(self._first_bad_step)) < 0:
            return
        settings = self.settings
        batch = self.replay.sample(settings.batch_size, seed=self.seed, step=bad - 1)
        raise XtalrlError(
            f"Training {self.spec.name}, seed {self.seed}: loss or gradient is not finite at step {bad}; its batch holds "
            f"{shorten(self.replay.material_ids(batch))}. Lower `training.learning_rate` ({settings.learning_rate:g}), "
            f"set `training.gradient_clip` (now {settings.gradient_clip}), or check the labels of these crystals."
        )


def soft_update(target: nn.Module, source: nn.Module, rate: float) -> None:
    """θ' ← (1 - rate) θ' + rate θ (algorithm 1)."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)


class Checkpoint:
    """The whole state of a run in one safetensors file, written all or nothing; resuming from it changes no bit of the result."""

    def __init__(self, path: Path, identity: str) -> None:
        """`identity` says what the run is; a file of another run is not used."""
        self.path, self.identity = path, identity

    def save(self, learner: Learner, rows: list[list[float]]) -> None:
        """Keep a run after its current step, with the rows of its log."""
        tensors = {f"network.{name}": value for name, value in learner.network.state_dict().items()}
        if learner.target is not None:
            tensors |= {f"target.{name}": value for name, value in learner.target.state_dict().items()}
        for number, state in learner.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in state.items()}
        tensors["log"] = torch.tensor(rows, dtype=torch.float64).reshape(-1, len(LOG_COLUMNS))
        _save_tensors(self.path, tensors, {"identity": self.identity, "step": str(learner.step)})

    def load(self, learner: Learner) -> list[list[float]]:
        """Bring a fresh learner to where the run was and return the rows of its log; without a usable file, leave it as it is."""
        if not self.path.exists():
            return []
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata()
            if metadata["identity"] != self.identity:
                logger.info("%s is of a run with other data, settings or versions: starting anew", self.path)
                return []
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict

        def part(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

        learner.network.load_state_dict(part("network."))
        if learner.target is not None:
            learner.target.load_state_dict(part("target."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in part("adam.").items():
            number, key = name.split(".")
            state.setdefault(int(number), {})[key] = value
        learner.optimizer.load_state_dict({**learner.optimizer.state_dict(), "state": state})
        learner.step = int(metadata["step"])
        logger.info("Resuming from %s at step %s", self.path, f"{learner.step:,}")
        return [list(row) for row in tensors["log"].tolist()]


def find_device(name: str) -> torch.device:
    """The device called auto, cpu or cuda; `auto` is a GPU where there is one.

    Raises:
        XtalrlError: cuda is asked for and torch sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise XtalrlError(
            f"`training.device` is 'cuda', but torch {torch.__version__} sees no GPU here: run on a node with one "
            f"(see the train rule in profiles/slurm), or set it to 'auto' or 'cpu'."
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _write_policy(
    folder: Path, record: Mapping[str, Any], weights: Mapping[str, Tensor], rows: list[list[float]]
) -> None:
    _write_log(folder, rows)
    # One key of metadata: safetensors writes several in no fixed order, and equal weights shall give equal files.
    _save_tensors(folder / "weights.safetensors", weights, {"policy": f"{record['name']}, seed {record['seed']}"})
    _write_whole(folder / "policy.json", lambda path: path.write_text(json.dumps(record, indent=2) + "\n"))


def _write_log(folder: Path, rows: list[list[float]]) -> None:
    def write(path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(LOG_COLUMNS)
            for step, *values in rows:
                writer.writerow([int(step), *("" if math.isnan(value) else f"{value:.6g}" for value in values)])

    _write_whole(folder / "training.csv", write)


def _save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    _write_whole(path, lambda temporary: save_file(contiguous, temporary, metadata))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sha256(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise XtalrlError(f"{path} does not exist: run the stage that writes it first (`snakemake {path}`).") from None
