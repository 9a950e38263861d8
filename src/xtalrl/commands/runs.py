"""The run that a command is about: the one of the given configuration, the one in a folder of results, or the only one in the working directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from xtalrl.config import Config, load, validate
from xtalrl.errors import XtalrlError
from xtalrl.provenance import RECORD, read_record
from xtalrl.resources import DEFAULTS, here_or_of_project


def load_config(configfiles: Sequence[Path]) -> Config:
    """The configuration that snakemake would use: config/config.yaml, the user's or the shipped one, with the given files laid over it."""
    return load(here_or_of_project(DEFAULTS), *configfiles)


def load_run(configfiles: Sequence[Path], results: Path | None = None) -> tuple[Config, list[Path]]:
    """The configuration of a run and the files that give it to snakemake.

    Args:
        configfiles: files that the user gave.
        results: folder of a run, whose own record is then the configuration.

    Raises:
        XtalrlError: both are given, the folder holds no run, or there are several runs and none is named.
    """
    if results is not None:
        if configfiles:
            raise XtalrlError("`--results` and `--configfile` both say which run is meant: give one of them.")
        return _recorded(results)
    config = load_config(configfiles)
    folder = Path(config.results)
    if configfiles or folder.exists():
        return config, list(configfiles)
    runs = [path.parent for path in sorted(folder.parent.glob(f"*/{RECORD}"))]
    if len(runs) > 1:
        raise XtalrlError(
            f"{folder} is not in {Path.cwd()}, and there are several other runs: name one, `--results {runs[0]}` "
            f"({', '.join(map(str, runs))})."
        )
    if not runs:
        typer.echo(f"There is no run in {folder.absolute().parent}.", err=True)
        return config, []
    typer.echo(f"{runs[0]} is the only run here.", err=True)
    return _recorded(runs[0])


def _recorded(results: Path) -> tuple[Config, list[Path]]:
    record = read_record(results)
    if record is None:
        runs = ", ".join(str(path.parent) for path in sorted(results.absolute().parent.glob(f"*/{RECORD}"))) or "none"
        raise XtalrlError(f"{results.absolute()} holds no run. Runs beside it: {runs}.")
    return validate({**record, "results": str(results)}), [results / RECORD]
