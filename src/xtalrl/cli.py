"""Design crystals with a wanted band gap: look after a run of the workflow, and use its parts by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from xtalrl.errors import XtalrlError, explain_os_error

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

ConfigFile = Annotated[
    list[Path] | None, typer.Option("--configfile", help="As given to snakemake; laid over config/config.yaml.")
]


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command that answers a user's mistake with a sentence and exit code 1."""

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except XtalrlError as error:
            typer.echo(f"ERROR: {error}", err=True)
            sys.exit(1)
        except BrokenPipeError:
            sys.exit(0)
        except OSError as error:
            if (sentence := explain_os_error(error)) is None:
                raise
            typer.echo(f"ERROR: {sentence}", err=True)
            sys.exit(1)

    return app.command(name=function.__name__.replace("_", "-"))(wrapper)


def _load(configfile: list[Path] | None) -> Any:
    from xtalrl.config import load

    return load("config/config.yaml", *(configfile or []))


@_command
def doctor(
    configfile: ConfigFile = None,
    profile: Annotated[
        str, typer.Option(help="As given to snakemake; `slurm` also checks what the cluster would make of the jobs.")
    ] = "local",
) -> None:
    """Say what is installed and what is missing, each with the command that mends it."""
    from xtalrl.doctor import print_checks

    if not print_checks(_load(configfile), profile):
        sys.exit(1)


@_command
def status(
    configfile: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Show how far each stage is and how its SCFs ended, from its files and the queue."""
    from xtalrl.status import print_status

    print_status(_load(configfile), as_json)


@_command
def summary(configfile: ConfigFile = None) -> None:
    """List what a finished run made."""
    from xtalrl.status import print_summary

    print_summary(_load(configfile))


@_command
def scf_parse(
    files: Annotated[list[Path], typer.Argument(help="Outputs of pw.x, plain or .gz.")],
    jobs: Annotated[int, typer.Option(min=1, help="Processes that read.")] = 1,
) -> None:
    """Print how pw.x outputs ended, one JSON line a file, in the order given."""
    from xtalrl.dft.outcomes import scf_parse as parse

    for result in parse(files, jobs):
        typer.echo(json.dumps(result))


@_command
def validity(
    file: Annotated[Path | None, typer.Argument(help="Formulas, one a line; standard input if not given.")] = None,
    rule: Annotated[
        list[str] | None, typer.Option(help="Only this rule; may be repeated. All rules if not given.")
    ] = None,
) -> None:
    """Judge whether formulas can be charge-neutral: one line a formula and rule."""
    from xtalrl.metrics.validity import RULES, verdicts

    try:
        lines = file.read_text().splitlines() if file else sys.stdin
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise XtalrlError(f"{file} cannot be read ({error}): give a text file of formulas, one a line.") from None
    for formula, by_rule in verdicts(lines, rule or tuple(RULES)):
        for name, valid in by_rule.items():
            typer.echo(f"{formula}\t{name}\t{'valid' if valid else 'invalid'}")


@_command
def config_docs() -> None:
    """Write config/config.yaml and docs/configuration.md from the configuration's models."""
    from xtalrl.config_docs import render_markdown, render_yaml
    from xtalrl.resources import PROJECT

    for name, text in (("config/config.yaml", render_yaml()), ("docs/configuration.md", render_markdown())):
        (PROJECT / name).write_text(text)
        typer.echo(f"Wrote {name}")
