"""Training of policies: behavioural cloning and conservative Q-learning (algorithm 1), several policies in one pass.

Training is reproducible: initial weights and batches depend on the seed alone, and on a CPU the same seed gives the same weights bit for bit,
whether or not the run was killed and resumed, and no matter which policies are trained together. This holds for one number of threads,
because a sum that is split over threads is rounded differently; so the number is set here and not left to the machine. A run may continue with
another number, or on another machine; only the last bits change. On a GPU, sums are atomic additions in no fixed order, and the products of a
stack of policies are rounded differently from those of one.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.metadata
import json
import logging
import math
import platform
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xtalrl import __version__
from xtalrl.csv_files import write_csv
from xtalrl.errors import XtalrlError
from xtalrl.files import seal_json, whole_file, write_whole
from xtalrl.progress import Progress
from xtalrl.rl.code_digest import digest_of_code
from xtalrl.rl.learner import STATISTICS, Learner, PolicyState, Stack, activation_bytes
from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.replay import Replay
from xtalrl.rl.settings import TrainingSettings, snapshot_steps
from xtalrl.rl.tensor_files import DamagedError, read_tensors, save_tensors, tensors_to_bytes
from xtalrl.rl.trackers import Tracker, open_trackers

logger = logging.getLogger(__name__)

LOG_COLUMNS = ("step", *STATISTICS, "steps_per_s")
"""Columns of training.csv; `xtalrl.rl.learner.STATISTICS` says what they are. Steps per second are those of the pass: each of its policies makes
as many."""
_CHECKPOINT_FORMAT = 1
"""Version of the checkpoints. Raise it when the content of a checkpoint or the training loop changes; `digest_of_code` covers what is learned."""
_OF_THE_MACHINE = ("threads", "device", "versions")
"""Entries of a policy's record in which a checkpoint may differ: the machine changes only the last bits of a result, which is no reason to train again. The versions of torch
and numpy must agree, because other versions may draw other random numbers."""
_SNAPSHOT = "snapshot-"
"""Prefix of the step in the name of a snapshot's weights in a checkpoint."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3), from glibc's malloc.h."""
GPU_MEMORY_SHARE = 0.5
"""Share of the free memory for what a pass keeps for the backward pass; the rest is for temporary gradients and for larger batches."""


def train_job(
    specs: Sequence[dict[str, Any]],
    settings: Mapping[str, Any],
    seed: int,
    threads: int,
    graphs: str | Path,
    trajectories: str | Path,
    policies: Sequence[str | Path],
) -> None:
    """`train_policies` for the workflow, which hands over plain data.

    Args:
        specs: fields of the policies' `PolicySpec` (`PolicySpec.to_dict`).
        settings: fields of `TrainingSettings`.
        seed: seed of the policies.
        threads: number of threads that torch uses.
        graphs: `tables.GRAPHS`.
        trajectories: `tables.TRAJECTORIES`.
        policies: policy.json of each policy; its other files are written beside it.

    Raises:
        XtalrlError: as in `train_policies`.
    """
    train_policies(
        [PolicySpec.from_dict(spec) for spec in specs],
        TrainingSettings(**settings),
        seed=seed,
        threads=threads,
        graphs=graphs,
        trajectories=trajectories,
        folders=[Path(policy).parent for policy in policies],
    )


def train_policies(
    specs: Sequence[PolicySpec],
    settings: TrainingSettings,
    *,
    seed: int,
    threads: int,
    graphs: str | Path,
    trajectories: str | Path,
    folders: Sequence[str | Path],
) -> None:
    """Train policies on the split train, or continue from their checkpoints; `folders` follows `specs`.

    Writes into the folder of each policy policy.json (everything that it was made from), weights.safetensors, training.csv (`LOG_COLUMNS`), and
    snapshots/{step}.safetensors: the weights at each of `snapshot_steps`, which are those that a run of so many steps would end with. A
    policy with nothing to learn gets the same files, without weights or rows. The checkpoint of a finished policy stays, so that the policy
    is not trained again, and continues from there if more steps are wanted.

    Raises:
        XtalrlError: the data are missing or malformed, there is no such device, a tracker is not installed, or a loss stops being
            finite.
    """
    device = find_device(settings.device)
    torch.set_num_threads(threads)
    keep_freed_memory()
    record: dict[str, Any] = {
        "seed": seed,
        "settings": asdict(settings),
        "network": None,
        "data": {"graphs": _sha256(graphs), "trajectories": _sha256(trajectories)},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": threads,
        "versions": {"xtalrl": __version__}
        | {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
        | {"python": platform.python_version()},
    }
    learned = []
    for spec, folder in zip(specs, map(Path, folders), strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        its_record = {"name": spec.name, "spec": spec.to_dict(), **record}
        if spec.is_learned:
            learned.append((spec, its_record, folder))
        else:
            snapshots: dict[int, dict[str, Tensor]]
            snapshots = {step: {} for step in snapshot_steps(settings.steps, settings.snapshots)}
            write_policy(folder, its_record, {}, snapshots, [])
    if not learned:
        return

    # Those that learn from metals too have transitions of their own, and so batches.
    for metals in (False, True):
        same_data = [run for run in learned if run[0].algorithm.learns_from_metals == metals]
        if same_data:
            replay = Replay(graphs, trajectories, metals=metals, device=device)
            _train(same_data, Stack(settings, replay), seed)


def _train(learned: Sequence[tuple[PolicySpec, dict[str, Any], Path]], stack: Stack, seed: int) -> None:
    """Train policies, each with its record and folder, on the data of a stack."""
    settings, replay = stack.settings, stack.replay
    gaps = [float(bound) for bound in replay.band_gap.aminmax()]
    runs = [_Training(spec, {**record, "band_gaps_ev": gaps}, folder, stack, seed) for spec, record, folder in learned]
    logger.info(
        "Seed %d: %s; %s transitions of %s crystals, %.1f MB on %s",
        seed,
        ", ".join(run.spec.name for run in runs),
        *(f"{len(replay):,}", f"{len(replay.graphs.material_ids):,}", replay.nbytes / 1e6, stack.device),
    )
    size = policies_per_pass([run.spec for run in runs], stack, seed)
    for first in range(0, len(runs), size):
        together = runs[first : first + size]
        while (step := min(run.state.step for run in together)) < settings.steps:
            # One that was killed, or asked for, later than the others catches up; then all go on together.
            behind = [run for run in together if run.state.step == step]
            ahead = [run.state.step for run in together if run.state.step > step]
            _advance(behind, stack, seed, min(ahead, default=settings.steps))
        for run in together:
            run.finish(stack)


def train_policy(spec: PolicySpec, settings: TrainingSettings, *, folder: str | Path, **inputs: Any) -> None:
    """Train one policy: `train_policies` for it alone."""
    train_policies([spec], settings, folders=[folder], **inputs)


def policies_per_pass(specs: Sequence[PolicySpec], stack: Stack, seed: int) -> int:
    """Number of these policies that are trained together: as the settings say, or as memory allows, in passes of similar size."""
    wanted = stack.settings.policies_per_pass
    if wanted == "auto" and stack.device.type == "cuda":
        # A policy that bootstraps needs the most.
        hungriest = min(specs, key=lambda spec: not spec.algorithm.bootstraps(stack.settings))
        free, _ = torch.cuda.mem_get_info(stack.device)
        wanted = int(GPU_MEMORY_SHARE * free / activation_bytes(Learner([hungriest], stack, seed)))
    elif wanted == "auto":
        wanted = len(specs)  # one after another on each batch
    n_passes = math.ceil(len(specs) / max(wanted, 1))
    return math.ceil(len(specs) / n_passes)


def _advance(runs: Sequence[_Training], stack: Stack, seed: int, until: int) -> None:
    """Train policies that are at the same step up to another step."""
    settings = stack.settings
    # A CPU is busy with one policy: others gain by the batch alone. A GPU fills up with the products of all.
    groups = [runs] if stack.device.type == "cuda" else [[run] for run in runs]
    learners = [Learner([run.spec for run in group], stack, seed, [run.state for run in group]) for group in groups]
    by_spec = {run.spec: run for run in runs}
    step = runs[0].state.step
    snapshots = snapshot_steps(settings.steps, settings.snapshots)
    bootstrap = any(learner.target is not None for learner in learners)
    label = runs[0].spec.name if len(runs) == 1 else f"{len(runs)} policies"
    progress = Progress(f"{label}, seed {seed}", settings.steps, "steps", done=step, side_by_side=len(runs))
    last_time, last_step = time.monotonic(), step
    with contextlib.ExitStack() as opened:
        for run in runs:
            run.open_trackers()
            opened.callback(run.close_trackers)
        while step < until:
            batch = stack.draw_batch(seed, step, bootstrap=bootstrap)
            statistics = [learner.update(batch) for learner in learners]
            step += 1
            note = ""
            to_log = step % settings.log_every == 0 or step == settings.steps
            to_save = step % settings.checkpoint_every == 0 or step in snapshots or step == until
            if to_log or to_save:
                for learner in learners:
                    learner.check_finite()
            if to_log:
                now = time.monotonic()
                rate = (step - last_step) / max(now - last_time, 1e-9)
                last_time, last_step = now, step
                for learner, its_statistics in zip(learners, statistics, strict=True):
                    for spec, values in zip(learner.specs, its_statistics.tolist(), strict=True):
                        by_spec[spec].log([float(step), *values, rate])
                note = f"loss {runs[0].rows[-1][1]:.3g}"
            if to_save:
                for learner in learners:
                    for spec in learner.specs:
                        by_spec[spec].save(learner.state(spec))
            progress.advance(note=note)


class _Training:
    """A policy in training: its folder, its state, its log, and its checkpoint.

    The checkpoint holds the whole state in one safetensors file, written completely or not at all; resuming from it changes no bit of the result.
    The previous checkpoint is kept beside it. The snapshots are part of it until the policy is finished, because Snakemake deletes the outputs of a
    job that was killed.
    """

    def __init__(self, spec: PolicySpec, record: dict[str, Any], folder: Path, stack: Stack, seed: int) -> None:
        """Continue from the checkpoint in the folder if it belongs to the same run, or else begin."""
        self.spec, self.folder, self.settings = spec, folder, stack.settings
        self.record = {**record, "network": asdict(stack.architecture(conditional=spec.is_conditional))}
        self.path = folder / "checkpoint.safetensors"
        self.previous = folder / "checkpoint.previous.safetensors"
        identity = {name: value for name, value in self.record.items() if name not in _OF_THE_MACHINE} | {
            "settings": asdict(self.settings.of_the_result(spec.algorithm)),
            "torch": record["versions"]["torch"],
            "numpy": record["versions"]["numpy"],
            "code": digest_of_code(),
            "format": _CHECKPOINT_FORMAT,
        }
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        self.rows: list[list[float]] = []
        self.snapshot_steps = snapshot_steps(self.settings.steps, self.settings.snapshots)
        self.snapshots: dict[int, Tensor] = {}
        self.trackers: list[Tracker] = []
        self.state = self._load() or stack.initial_state(spec, seed)

    def log(self, row: list[float]) -> None:
        """A row of the training log."""
        self.rows.append(row)
        for tracker in self.trackers:
            tracker.log(int(row[0]), dict(zip(LOG_COLUMNS[1:], row[1:], strict=True)))

    def save(self, state: PolicyState) -> None:
        """Write the checkpoint and the log so far."""
        self.state = state
        if state.step in self.snapshot_steps:
            self.snapshots[state.step] = state.result.clone()
        snapshots = {f"{_SNAPSHOT}{step}": weights for step, weights in self.snapshots.items()}
        log = torch.tensor(self.rows, dtype=torch.float64).reshape(-1, len(LOG_COLUMNS))
        content = tensors_to_bytes(
            {**state.tensors, **snapshots, "log": log}, {"identity": self.identity, "step": state.step}
        )
        with whole_file(self.path) as temporary:
            temporary.write_bytes(content)
            if self.path.exists():  # A copy: a kill at any moment leaves a whole checkpoint in its place.
                shutil.copyfile(self.path, self.previous)
        _write_log(self.folder, self.rows)

    def finish(self, stack: Stack) -> None:
        """Write the policy. The checkpoint stays: Snakemake deletes the outputs of a job it runs again."""
        weights = stack.state_dict(self.spec, self.state.result)
        snapshots = {step: stack.state_dict(self.spec, row) for step, row in self.snapshots.items()}
        write_policy(self.folder, self.record, weights, snapshots, self.rows)

    def open_trackers(self) -> None:
        """Open the trackers that the settings name."""
        name = f"{self.spec.name}-seed{self.record['seed']}"
        self.trackers = open_trackers(self.settings.trackers, self.folder, name, self.record, self.state.step)

    def close_trackers(self) -> None:
        """Make the trackers write what they still hold."""
        for tracker in self.trackers:
            tracker.close()

    def _load(self) -> PolicyState | None:
        """The state in the newest checkpoint that is whole and of this run."""
        there = False
        for path in (self.path, self.previous):
            try:
                tensors, about = read_tensors(path)
            except FileNotFoundError:
                continue
            except DamagedError as error:
                there = True
                aside = next(
                    name for n in range(1, 10_000) if not (name := path.with_name(f"{path.stem}.damaged-{n}")).exists()
                )
                path.replace(aside)
                logger.warning("%s is damaged (%s): set aside as %s", path, error, aside.name)
                continue
            there = True
            if reason := self._is_of_another_run(about):
                logger.info("%s is not used: %s", path, reason)
            elif (state := self._state_in(path, tensors, about["step"])) is not None:
                return state
        if there:
            logger.info("%s: starting from the beginning", self.spec.name)
        return None

    def _is_of_another_run(self, about: Mapping[str, Any]) -> str:
        """Why training cannot continue from a checkpoint; empty if it can."""
        if "identity" not in about:
            return "it was written by an older version of xtalrl"
        if different := [_shown(*difference) for difference in _differences(about["identity"], self.identity)]:
            return f"it is of a run with other {', '.join(different)}"
        if about["step"] > self.settings.steps:
            return f"it is already at step {about['step']:,}, and `training.steps` is {self.settings.steps:,}"
        return ""

    def _state_in(self, path: Path, tensors: dict[str, Tensor], step: int) -> PolicyState | None:
        """Take log, snapshots and state from the tensors of a checkpoint; nothing if it lacks a snapshot."""
        kept = {int(name.removeprefix(_SNAPSHOT)): name for name in tensors if name.startswith(_SNAPSHOT)}
        snapshots = {number: tensors.pop(name) for number, name in kept.items()} | {
            step: PolicyState(step, tensors).result.clone()
        }
        passed = [number for number in self.snapshot_steps if number <= step]
        if lost := [number for number in passed if number not in snapshots]:
            logger.info("%s is not used: it kept no weights of step %s for a snapshot", path, f"{lost[0]:,}")
            return None
        self.snapshots = {number: snapshots[number] for number in passed}
        # The last row of a run that is now asked for more steps would not be there had it been asked at once.
        rows = tensors.pop("log").tolist()
        self.rows = [row for row in rows if row[0] % self.settings.log_every == 0 or row[0] == self.settings.steps]
        logger.info("%s: resuming from %s at step %s", self.spec.name, path, f"{step:,}")
        return PolicyState(step, tensors)


def _differences(theirs: Any, ours: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Name and both values of each entry in which two nested dicts differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in sorted({*theirs, *ours}):
            yield from _differences(theirs.get(key), ours.get(key), f"{name}.{key}" if name else key)
    elif theirs != ours:
        yield name, theirs, ours


def _shown(name: str, theirs: Any, ours: Any) -> str:
    """A difference in words; the values of digests are not shown."""
    return name if name == "code" or name.startswith("data.") else f"{name} ({theirs} there, {ours} here)"


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


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next request; with another C library, do nothing.

    By default glibc returns the tensors of a step to the system, which hands out every page again at the next step, set to zero: this takes
    a fifth of the time of a step on a CPU. The process then holds as much memory as it ever needed at one moment.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the largest allowed; what is larger comes from the system every time
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def write_policy(
    folder: Path,
    record: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    snapshots: Mapping[int, Mapping[str, Tensor]],
    rows: list[list[float]],
) -> None:
    """Write the files of a policy into a folder: policy.json, weights.safetensors, snapshots by step, and training.csv with rows of `LOG_COLUMNS`."""
    _write_log(folder, rows)
    about = {"policy": f"{record['name']}, seed {record['seed']}"}
    for step, its_weights in snapshots.items():
        save_tensors(folder / f"snapshots/{step}.safetensors", its_weights, about)
    save_tensors(folder / "weights.safetensors", weights, about)
    write_whole(folder / "policy.json", seal_json(record).encode())


def _write_log(folder: Path, rows: list[list[float]]) -> None:
    write_csv(
        folder / "training.csv",
        LOG_COLUMNS,
        (
            {
                name: int(value) if name == "step" else None if math.isnan(value) else value
                for name, value in zip(LOG_COLUMNS, row, strict=True)
            }
            for row in rows
        ),
    )


def _sha256(path: str | Path) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise XtalrlError(f"{path} does not exist: run the stage that writes it first (`snakemake {path}`).") from None
