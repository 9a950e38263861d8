"""The Snakemake commands that xtalrl runs for the user, from any folder: the workflow and its profiles are the project's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xtalrl.errors import XtalrlError
from xtalrl.resources import PROJECT, of_project


def workflow_command(
    target: str,
    profile: str,
    configfiles: Sequence[str | Path],
    settings: Sequence[str] = (),
    options: Sequence[str] = (),
) -> list[str]:
    """The command, from `snakemake` on, that makes a target in the working directory.

    Args:
        target: target of the Snakefile.
        profile: as `find_profile` takes it.
        configfiles: laid over config/config.yaml.
        settings: entries of `--config`.
        options: further words, e.g. `--dry-run`.

    Raises:
        XtalrlError: there is no such profile.
    """
    return [
        "snakemake",
        target,
        *([] if Path.cwd() == PROJECT else ["--snakefile", of_project("Snakefile")]),
        "--profile",
        str(find_profile(profile)),
        *(["--configfile", *map(str, configfiles)] if configfiles else []),
        *(["--config", *settings] if settings else []),
        *options,
    ]


def find_profile(name: str) -> Path:
    """The folder of a profile: of this name in profiles/, or this folder, or of this name among those that ship.

    Raises:
        XtalrlError: there is none.
    """
    shipped = Path(of_project("profiles"))
    for folder in (Path("profiles") / name, Path(name), shipped / name):
        if (folder / "config.yaml").is_file():
            return folder
    names = {path.parent.name for place in (Path("profiles"), shipped) for path in place.glob("*/config.yaml")}
    raise XtalrlError(
        f"There is no profile {name!r}, neither in profiles/ nor as a folder of {Path.cwd()}; there are: {', '.join(sorted(names))}."
    )
