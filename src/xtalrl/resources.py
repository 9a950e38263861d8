"""Where the project's own files are, and how rules and commands name them."""

from __future__ import annotations

from pathlib import Path

_IN_WHEEL = Path(__file__).resolve().parent / "project"
PROJECT = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).resolve().parents[2]
"""The folder of Snakefile, rules/, workflow/, envs/, config/, profiles/ and resources/: the checkout, or its copy in an installed wheel."""
RESOURCES = PROJECT / "resources"
DEFAULTS = "config/config.yaml"
"""Every key at its default, in the working directory or in `PROJECT`."""


def of_project(path: str) -> str:
    """Path of one of the project's own files: relative where the working directory is the checkout, so that results can be moved together with it."""
    return path if Path.cwd() == PROJECT else str(PROJECT / path)


def here_or_of_project(path: str) -> str:
    """The path unchanged if the working directory has such a file or folder, else the path of the project's own."""
    return of_project(path) if not Path(path).exists() and (PROJECT / path).exists() else path
