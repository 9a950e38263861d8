"""Where the facts the project owns are kept, and how rules and commands name its files."""

from __future__ import annotations

from pathlib import Path

_IN_WHEEL = Path(__file__).resolve().parent / "project"
PROJECT = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).resolve().parents[2]
"""The folder of Snakefile, rules/, workflow/, envs/, config/, profiles/ and resources/: the checkout, or its copy in an installed wheel."""
RESOURCES = PROJECT / "resources"
DEFAULTS = "config/config.yaml"
"""Every key at its default, in the working directory or in `PROJECT`."""


def of_project(path: str) -> str:
    """The path of a file that the project owns: as it stands where the working directory is the checkout, so that results move with it."""
    return path if Path.cwd() == PROJECT else str(PROJECT / path)


def here_or_of_project(path: str) -> str:
    """The path as it stands where the working directory has such a file or folder, else that of the project's own."""
    return path if Path(path).exists() else of_project(path)
