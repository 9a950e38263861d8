"""`xtalrl init`: the files of a checkout that a user edits, in a folder of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer

from xtalrl.errors import XtalrlError
from xtalrl.files import write_whole
from xtalrl.resources import DEFAULTS, PROJECT

SNAKEFILE = '''\
"""The workflow of the installed xtalrl: `snakemake all --profile profiles/local`, with what config/config.yaml says."""

from xtalrl.resources import PROJECT


include: f"{PROJECT}/Snakefile"


use rule all as default with:
    default_target: True
'''
"""Snakefile of the user's folder, in which every command of the documentation works as it does in a checkout."""


def starting_files() -> Iterator[tuple[str, bytes, int]]:
    """Path, content and permissions of every file to start from."""
    yield "Snakefile", SNAKEFILE.encode(), 0o644
    for path in (PROJECT / DEFAULTS, *sorted(PROJECT.glob("profiles/*/*"))):
        yield path.relative_to(PROJECT).as_posix(), path.read_bytes(), 0o755 if path.suffix == ".sh" else 0o644


def write_starting_files(folder: Path) -> None:
    """Write the files to start from into a folder; existing files stay as they are.

    Raises:
        XtalrlError: the folder is the checkout.
    """
    if folder.resolve() == PROJECT:
        raise XtalrlError(f"{folder.resolve()} is the checkout, which has these files: edit config/config.yaml there.")
    files = [(folder / name, content, mode) for name, content, mode in starting_files()]
    for path, _, _ in files:
        if blocking := next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None):
            raise XtalrlError(f"{blocking} is a file, where a folder is needed: move it, or name another folder.")
    for path, content, mode in files:
        if path.exists() or path.is_symlink():
            is_ours = path.is_file() and path.read_bytes() == content
            typer.echo(f"Kept   {path}" + ("" if is_ours else ", which differs from ours"))
            continue
        write_whole(path, content)
        path.chmod(mode)
        typer.echo(f"Wrote  {path}")
