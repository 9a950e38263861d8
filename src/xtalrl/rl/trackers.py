"""Trackers of training curves: TensorBoard (files, no network) and Weights & Biases, both optional packages."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from xtalrl.errors import XtalrlError


class Tracker(Protocol):
    """Takes the rows of the training log as they come."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of a step."""

    def close(self) -> None:
        """End: no further values come."""


def open_trackers(
    names: Sequence[str], folder: Path, run: str, config: Mapping[str, Any], step: int = 0
) -> list[Tracker]:
    """The trackers `tensorboard` and `wandb` of a run that continues after `step`; they write below `folder`.

    Raises:
        XtalrlError: the package of one is not installed.
    """
    makers: dict[str, Callable[..., Tracker]] = {"tensorboard": _TensorBoard, "wandb": _WandB}
    return [makers[name](folder, run, config, step) for name in names]


class _TensorBoard:
    def __init__(self, folder: Path, run: str, config: Mapping[str, Any], step: int) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise _missing("tensorboard") from None
        # Rows after the checkpoint that a killed run left are hidden.
        self.writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if not math.isnan(value):
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _WandB:
    def __init__(self, folder: Path, run: str, config: Mapping[str, Any], step: int) -> None:
        try:
            wandb = importlib.import_module("wandb")
        except ImportError:
            raise _missing("wandb") from None
        self.run = wandb.init(project="xtalrl", name=run, dir=folder, config=dict(config), reinit="create_new")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({name: value for name, value in values.items() if not math.isnan(value)}, step=step)

    def close(self) -> None:
        self.run.finish()


def _missing(package: str) -> XtalrlError:
    return XtalrlError(
        f"`training.trackers` asks for {package}, which is not installed: run `pip install {package}`, "
        f"or take it out of the list (training.csv is written in any case)."
    )
