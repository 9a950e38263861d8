"""Design crystals with a wanted band gap: look after a run of the workflow, and use its parts by hand."""

from __future__ import annotations

import io
import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from xtalrl.errors import XtalrlError, explain_os_error

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=__doc__,
)


def _here_or_shipped(paths: list[Path] | None) -> list[Path]:
    from xtalrl.resources import here_or_of_project

    return [Path(here_or_of_project(str(path))) for path in paths or ()]


ConfigFile = Annotated[
    list[Path] | None,
    typer.Option(
        "--configfile",
        help="As given to snakemake, one or several; laid over config/config.yaml.",
        callback=_here_or_shipped,
    ),
]
Results = Annotated[
    Path | None,
    typer.Option(help="Folder of a run, e.g. results/demo, instead of the configuration that it was made with."),
]


cache_app = typer.Typer(no_args_is_help=True, help="Look into the cache of finished SCFs, and exchange it with others.")
app.add_typer(cache_app, name="cache")


class _Command(TyperCommand):
    """A command whose `--configfile a.yaml b.yaml` means what it means to snakemake."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from xtalrl.yaml_files import refuse_second_options

        try:
            refuse_second_options(args)
        except XtalrlError as error:
            typer.echo(f"ERROR: {error}", err=True)
            sys.exit(1)
        return super().parse_args(ctx, _one_file_an_option(args))


def _one_file_an_option(arguments: list[str]) -> list[str]:
    """`--configfile a.yaml b.yaml` as `--configfile a.yaml --configfile b.yaml`. Other words, such as `hits.json` of an export, are not taken as its files."""
    words: list[str] = []
    for word in arguments:
        is_file = word.endswith((".yaml", ".yml")) or (word.endswith(".json") and Path(word).is_file())
        if is_file and len(words) > 1 and words[-2] == "--configfile":
            words.append("--configfile")
        words.append(word)
    return words


def _command(function: Callable[..., None], group: typer.Typer = app, name: str = "") -> Callable[..., None]:
    """Register a command that answers a mistake of the user with a sentence and exit code 1."""

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            _refuse_what_is_not_finite(kwargs)
            function(*args, **kwargs)
        except XtalrlError as error:
            typer.echo(f"ERROR: {_with_options(str(error), **kwargs)}", err=True)
            sys.exit(1)
        except BrokenPipeError:
            sys.exit(0)
        except OSError as error:
            if (sentence := explain_os_error(error)) is None:
                raise
            typer.echo(f"ERROR: {sentence}", err=True)
            sys.exit(1)

    return group.command(name=name or function.__name__.replace("_", "-"), cls=_Command)(wrapper)


def _refuse_what_is_not_finite(options: Mapping[str, Any]) -> None:
    """Refuse nan and inf, which are numbers to Python, in any option.

    Raises:
        XtalrlError: an option is one of them.
    """
    for name, value in options.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise XtalrlError(f"--{name.replace('_', '-')} is {number}: give a finite number.")


def _with_options(message: str, **options: Any) -> str:
    """A message whose commands can be typed: with the configuration that this command was given."""
    from xtalrl.provenance import RECORD
    from xtalrl.workflow import completed, options_typed

    results = options.get("results")
    return completed(message, options_typed([results / RECORD] if results else options.get("configfile") or []))


def _load(configfile: list[Path] | None) -> Any:
    from xtalrl.commands.runs import load_config

    return load_config(configfile or [])


def _load_run(configfile: list[Path] | None, results: Path | None) -> Any:
    from xtalrl.commands.runs import load_run

    return load_run(configfile or [], results)


def _run(command: list[str]) -> int:
    """Print a snakemake command and run it."""
    typer.echo(shlex.join(command))
    return subprocess.run([sys.executable, "-m", *command]).returncode


def _print_version(asked: bool) -> None:
    if asked:
        from xtalrl import __version__

        typer.echo(f"xtalrl {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Design crystals with a wanted band gap: look after a run of the workflow, and use its parts by hand."""
    # A character that the terminal lacks, or a byte that is none, stops nothing.
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        Path.cwd()
    except FileNotFoundError:
        typer.echo("ERROR: The working directory was deleted: change to another, e.g. `cd ~`.", err=True)
        raise typer.Exit(1) from None


@_command
def init(folder: Annotated[Path, typer.Argument(help="Where to write; made if it is not there.")] = Path()) -> None:
    """Write the files that a run starts from into a folder of yours: config/config.yaml, profiles/ and a Snakefile."""
    from xtalrl.commands.init import write_starting_files

    write_starting_files(folder)


@_command
def demo(
    cores: Annotated[str, typer.Option(help="Cores to use, or `all`.")] = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the jobs.")] = False,
) -> None:
    """Run the whole pipeline on the embedded crystals, into results/demo of this folder: about a quarter of an hour on 2 cores."""
    _run_demo(["config/demo.yaml"], cores, dry_run)


@_command
def tour(
    cores: Annotated[str, typer.Option(help="Cores to use, or `all`.")] = "all",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the jobs.")] = False,
) -> None:
    """Make what `xtalrl demo` makes sooner, into results/tour: SCFs that were computed elsewhere ship with xtalrl, and the report says which."""
    _run_demo(["config/demo.yaml", "config/tour.yaml"], cores, dry_run)


def _run_demo(names: list[str], cores: str, dry_run: bool) -> None:
    from xtalrl.commands.status import print_summary
    from xtalrl.commands.workflow_commands import workflow_command

    configfiles = _here_or_shipped([Path(name) for name in names])
    options = ["--cores", cores, *(["--dry-run"] if dry_run else [])]
    if code := _run(workflow_command("all", "local", configfiles, options=options)):
        sys.exit(code)
    if not dry_run:
        print_summary(_load(configfiles))


@_command
def doctor(
    configfile: ConfigFile = None,
    profile: Annotated[
        str, typer.Option(help="As given to snakemake; `slurm` also checks what the cluster would make of the jobs.")
    ] = "local",
) -> None:
    """Say what is installed and what is missing, each with the command that fixes it."""
    from xtalrl.commands.doctor import print_checks

    if not print_checks(_load(configfile), profile, configfile or []):
        sys.exit(1)


@_command
def status(
    configfile: ConfigFile = None,
    results: Results = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Show how far each stage is and how its SCFs ended, from its files and the queue."""
    from xtalrl.commands.status import print_status

    config, _ = _load_run(configfile, results)
    print_status(config, as_json)


@_command
def rerun(
    configfile: ConfigFile = None,
    results: Results = None,
    outcome: Annotated[list[str] | None, typer.Option(help="Only SCFs with this outcome, e.g. not_converged.")] = None,
    element: Annotated[list[str] | None, typer.Option(help="Only SCFs with this element.")] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="Only SCFs of this protocol.")] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="Only SCFs of this stage: scf, references, evaluation or confirmation.")
    ] = None,
    request: Annotated[
        list[str] | None, typer.Option("--id", help="The SCF of this crystal, reference (ref-Si) or design.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Mark them; without it, only show what would be marked.")] = False,
) -> None:
    """Run finished SCFs again: those that match every given option. An option may be repeated to allow several values."""
    from xtalrl.commands.rerun import print_rerun

    criteria = {"outcome": outcome, "element": element, "protocol": protocol, "stage": stage, "id": request}
    config, files = _load_run(configfile, results)
    print_rerun(config, {name: values or [] for name, values in criteria.items()}, yes, files)


@_command
def summary(configfile: ConfigFile = None, results: Results = None) -> None:
    """List what a finished run made."""
    from xtalrl.commands.status import print_summary

    config, _ = _load_run(configfile, results)
    print_summary(config)


@_command
def evaluate(
    path: Annotated[
        Path,
        typer.Argument(
            help="CIF, folder or .zip of CIFs, POSCAR, .xyz or .extxyz file, or ASE database (.db) of crystals."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the set in tables and report; that of the folder or file if not given.")
    ] = None,
    configfile: ConfigFile = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Without the policies of the run, into RESULTS-NAME: nothing is trained.")
    ] = False,
    target: Annotated[
        list[float] | None,
        typer.Option(
            help="Target gap in eV to score them at (ν and κ); may be repeated. With --alone, the run's if not given."
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="Folder of profiles/ that snakemake runs with.")] = "local",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the jobs.")] = False,
) -> None:
    """Evaluate crystals that others designed like the policies': validity, novelty, SCFs, tables, report."""
    from xtalrl.commands.evaluate import evaluation_command, print_result, results_alone, set_name

    config, files = (_load(configfile), configfile or []) if alone else _load_run(configfile, None)
    if code := _run(evaluation_command(path, name, files, config, alone, profile, dry_run, target or ())):
        sys.exit(code)
    if not dry_run:
        name = set_name(path, name)
        print_result(results_alone(config, name) if alone else config.results, name)


@_command
def design(
    path: Annotated[
        Path,
        typer.Argument(
            help="Skeletons: a CIF, a folder or .zip of CIFs, POSCAR, .xyz or .extxyz file, or ASE database (.db); their elements are replaced."
        ),
    ],
    gap: Annotated[float, typer.Option(help="Wanted band gap in eV.")],
    best: Annotated[int, typer.Option(min=1, max=1000, help="Designs per skeleton, best first.")] = 5,
    allow: Annotated[list[str] | None, typer.Option(help="Only this element; may be repeated.")] = None,
    deny: Annotated[list[str] | None, typer.Option(help="Never this element; may be repeated.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="An element of the skeleton that stays on its sites; may be repeated.")
    ] = None,
    neutral: Annotated[bool, typer.Option(help="Only charge-neutral compositions.")] = True,
    even_electrons: Annotated[bool, typer.Option(help="Only even numbers of electrons.")] = True,
    policy: Annotated[str, typer.Option(help="Policy of resources/pretrained.")] = "mp20",
    output: Annotated[
        Path | None, typer.Option(help="For the crystals: a file as `xtalrl export` writes, e.g. designs.extxyz.")
    ] = None,
) -> None:
    """Fill skeletons of your own with elements for a wanted gap: no run, no DFT, seconds."""
    from xtalrl.commands.design import print_designs
    from xtalrl.rl.rollout_settings import RolloutSettings

    settings = RolloutSettings(
        designs=best,
        neutral=neutral,
        even_electrons=even_electrons,
        allow=tuple(allow or ()),
        deny=tuple(deny or ()),
    )
    print_designs(path, gap, policy, settings, output, keep or ())


@_command
def predict(
    path: Annotated[
        Path,
        typer.Argument(
            help="Crystals: a CIF, a folder or .zip of CIFs, POSCAR, .xyz or .extxyz file, or ASE database (.db)."
        ),
    ],
    gap: Annotated[float | None, typer.Option(help="Wanted band gap in eV: how probable is it?")] = None,
    window: Annotated[
        float | None, typer.Option(help="Half width of the range around it, in eV; 0.25 if not given.")
    ] = None,
    gap_from: Annotated[float | None, typer.Option(help="Instead: gaps above this are wanted, in eV.")] = None,
    gap_to: Annotated[float | None, typer.Option(help="Instead: gaps below this are wanted, in eV.")] = None,
    confidence: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Share of crystals that the intervals are to cover.")
    ] = 0.9,
    predictor: Annotated[
        Path | None, typer.Option(help="Predictor of a run; the one that ships with xtalrl if not given.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="CSV for all that is predicted.")] = None,
) -> None:
    """Predict whether crystals are metals, and their gaps and formation energies: no run, no DFT, seconds."""
    from xtalrl.commands.predict import Wanted, print_predictions

    wanted = Wanted.of_options(gap, window, gap_from, gap_to)
    print_predictions(path, wanted, predictor, confidence, output)


@_command
def relax(
    path: Annotated[
        Path,
        typer.Argument(
            help="Crystals: a CIF, a folder or .zip of CIFs (`campaign/designs`), POSCAR, .xyz or .extxyz file, or ASE database (.db)."
        ),
    ],
    known: Annotated[
        Path | None,
        typer.Option(help="Crystals of a run (`structures/crystals.parquet`) for the hull; no hull if not given."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="CSV for all that is found.")] = None,
) -> None:
    """Relax crystals by a universal potential: do they stay the same, how far above its hull are they? Needs the extra `relax`."""
    from xtalrl.commands.relax import print_relaxed

    print_relaxed(path, known, output)


@partial(_command, name="export")
def export_run(
    output: Annotated[
        Path,
        typer.Argument(
            help="Designs: folder or .zip of CIFs, .extxyz, .db (ASE), .json or .jsonl (OPTIMADE) or .csv. The whole run: .hf (Hugging Face) or .minari (trajectories)."
        ),
    ],
    policy: Annotated[
        list[str] | None, typer.Option(help="Only designs of this policy or external set; may be repeated.")
    ] = None,
    outcome: Annotated[list[str] | None, typer.Option(help="Only this outcome; may be repeated.")] = None,
    gap_from: Annotated[float | None, typer.Option(help="Only gaps of at least this, in eV.")] = None,
    gap_to: Annotated[float | None, typer.Option(help="Only gaps of at most this, in eV.")] = None,
    valid: Annotated[bool, typer.Option("--valid", help="Only compositions that can be charge-neutral.")] = False,
    novel: Annotated[bool, typer.Option("--novel", help="Only formulas that `evaluation.formulas` lacks.")] = False,
    max_hull: Annotated[
        float | None, typer.Option(help="Only designs at most this far above the hull, in eV/atom.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="Field to sort by, lowest first: e.g. energy_above_hull, band_gap.")
    ] = None,
    descending: Annotated[bool, typer.Option("--descending", help="Highest first.")] = False,
    one_per_formula: Annotated[
        bool, typer.Option("--one-per-formula", help="Only the first design of each formula.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, after sorting.")] = None,
    configfile: ConfigFile = None,
    results: Results = None,
) -> None:
    """Write the designs of a run for other programs, with gap, formation energy, outcome and provenance; or all of it as a data set."""
    from xtalrl.commands.exports import RUN_WRITERS, Selection, export_designs
    from xtalrl.commands.exports import export_run as export_whole_run

    config, _ = _load_run(configfile, results)
    selection = Selection(
        policy, outcome, gap_from, gap_to, valid, novel, max_hull, sort, descending, one_per_formula, limit
    )
    if output.suffix in RUN_WRITERS:
        counts = export_whole_run(config, output, selection)
        typer.echo(f"{', '.join(f'{count:,} {name}' for name, count in counts.items())}: {output}")
        return
    count = export_designs(config, output, selection)
    typer.echo(f"{count:,} designs: {output}")


@_command
def scf_parse(
    files: Annotated[list[Path], typer.Argument(help="Outputs of pw.x, plain or .gz.", readable=False)],
    jobs: Annotated[int, typer.Option(min=1, help="Number of reader processes.")] = 1,
) -> None:
    """Print how pw.x outputs ended, one JSON line per file, in the order given."""
    from xtalrl.dft.outcomes import scf_parse as parse

    unread = []
    for result in parse(files, jobs):
        typer.echo(json.dumps(result))
        if result["outcome"] is None:
            unread.append(f"{result['file']} {result['reason']}")
    if unread:
        from xtalrl.dft.exchange import shown

        raise XtalrlError(f"{len(unread):,} of {len(files):,} are not outputs of pw.x, plain or .gz:\n{shown(unread)}")


@partial(_command, group=cache_app)
def stats(configfile: ConfigFile = None) -> None:
    """Count the finished SCFs, how they ended, who ran them and how long."""
    from xtalrl.dft.exchange import cache_stats

    found = cache_stats(_load(configfile).cache)
    typer.echo(
        f"{found.folder}: {found.files:,} files, {found.megabytes:,.1f} MB, {found.lines:,} lines, {found.torn:,} torn or changed"
        + (f", {found.unchecked:,} without a checksum (`xtalrl cache seal`)" if found.unchecked else "")
    )
    typer.echo(
        f"{found.calculations:,} calculations, {found.wall_hours:,.2f} h of pw.x"
        + (f"; {found.unfinished:,} cut off by the end of their job wait for the next" if found.unfinished else "")
    )
    for counts in (found.outcomes, found.engines):
        typer.echo("\n".join(f"{n:>9,}  {name}" for name, n in counts.items()))


@partial(_command, group=cache_app)
def verify(configfile: ConfigFile = None) -> None:
    """Read every line: name what cannot be read, was torn or changed, and calculations with contradicting results."""
    from xtalrl.dft.exchange import cache_stats, shown, verify_cache

    cache = _load(configfile).cache
    if faults := verify_cache(cache):
        raise XtalrlError(f"{len(faults):,} in {cache}:\n{shown(faults)}")
    found = cache_stats(cache)
    typer.echo(
        f"{found.lines:,} lines, all readable, no calculation with two results"
        + (
            f"; {found.unchecked:,} of an older version are unchecked: `xtalrl cache seal` gives them a checksum"
            if found.unchecked
            else ""
        )
    )


@partial(_command, group=cache_app)
def seal(configfile: ConfigFile = None) -> None:
    """Add a checksum to lines that older versions wrote without one, so that no later change goes unnoticed."""
    from xtalrl.dft.exchange import seal_cache

    cache = _load(configfile).cache
    typer.echo(f"{seal_cache(cache):,} lines of {cache} got a checksum")


@partial(_command, group=cache_app)
def export(
    file: Annotated[
        Path,
        typer.Argument(
            help="File to write. What others can import: .parquet or .jsonl. Structures: as `xtalrl export` writes, e.g. .json (OPTIMADE) or .extxyz."
        ),
    ],
    configfile: ConfigFile = None,
    of_run: Annotated[
        bool,
        typer.Option("--of-run", help="Only the SCFs that the run of this configuration used, not the whole cache."),
    ] = False,
) -> None:
    """Write the finished SCFs, one row per calculation, to one file that others can read or import."""
    from xtalrl.dft.exchange import export_cache, keys_of_run

    config = _load(configfile)
    keys, finished = (keys_of_run(config.results), config.dft.finished) if of_run else (None, None)
    if file.suffix in (".parquet", ".jsonl"):
        if file.exists():
            raise XtalrlError(f"{file} exists already: name another, or delete it first.")
        count = export_cache(config.cache, file, keys, finished)
    else:
        from xtalrl.commands.exports import export_scfs

        count = export_scfs(config.cache, file, keys, finished)
    typer.echo(f"{count:,} calculations in {file}")


@partial(_command, group=cache_app, name="import")
def import_(
    source: Annotated[Path, typer.Argument(help="File of `xtalrl cache export`, or the cache folder of another run.")],
    configfile: ConfigFile = None,
) -> None:
    """Take over the finished SCFs of others; what contradicts ours is refused by name."""
    from xtalrl.dft.exchange import import_cache, shown

    taken = import_cache(_load(configfile).cache, source)
    typer.echo(f"{taken.new:,} calculations are new, {taken.known:,} were known")
    if taken.unchecked:
        typer.echo(
            f"{taken.unchecked:,} have no checksum, as in older versions: nothing tells whether they were changed"
        )
    if taken.refused:
        raise XtalrlError(f"Refused ({len(taken.refused):,}):\n{shown(taken.refused)}")


@_command
def validity(
    file: Annotated[Path | None, typer.Argument(help="Formulas, one per line; standard input if not given.")] = None,
    rule: Annotated[
        list[str] | None, typer.Option(help="Only this rule; may be repeated. All rules if not given.")
    ] = None,
) -> None:
    """Judge whether formulas can be charge-neutral: one line per formula and rule. A line that is not a formula is `unreadable`, and named at the end."""
    from xtalrl.dft.exchange import shown
    from xtalrl.metrics.validity import RULES, verdicts

    try:
        lines = file.read_text(encoding="utf-8-sig", errors="backslashreplace").splitlines() if file else sys.stdin
    except (FileNotFoundError, IsADirectoryError) as error:
        raise XtalrlError(
            f"{file} cannot be read ({error.strerror}): give a text file of formulas, one per line, "
            f"or the formulas themselves on standard input, e.g. `echo MgO | xtalrl validity`."
        ) from None
    rules = rule or list(RULES)
    unreadable, formula = [], None
    for formula, found in verdicts(lines, rules):
        if isinstance(found, str):
            unreadable.append(found)
        for name in rules:
            verdict = "unreadable" if isinstance(found, str) else "valid" if found[name] else "invalid"
            typer.echo(f"{formula}\t{name}\t{verdict}")
    if unreadable:
        raise XtalrlError(f"Not a formula ({len(unreadable):,}):\n{shown(unreadable)}")
    if formula is None:
        raise XtalrlError(
            f"{file or 'Standard input'} holds no formula: give one per line, e.g. `echo MgO | xtalrl validity`."
        )


@_command
def config_docs() -> None:
    """Write the generated files: config/config.yaml, docs/configuration.md, docs/tables.md, docs/commands.md, workflow/report/*.rst, .zenodo.json, codemeta.json."""
    from xtalrl.commands.citation_files import render_codemeta, render_zenodo
    from xtalrl.commands.command_docs import render_commands
    from xtalrl.commands.config_docs import render_markdown, render_yaml
    from xtalrl.commands.table_docs import render_tables
    from xtalrl.report.contents import render_captions
    from xtalrl.resources import PROJECT

    if not (PROJECT / "docs").is_dir():
        raise XtalrlError(
            "The documents are generated in a checkout of xtalrl, and this is an installed wheel: clone the project."
        )
    for name, text in (
        ("config/config.yaml", render_yaml()),
        ("docs/configuration.md", render_markdown()),
        ("docs/tables.md", render_tables()),
        ("docs/commands.md", render_commands(app)),
        (".zenodo.json", render_zenodo()),
        ("codemeta.json", render_codemeta()),
        *((f"workflow/report/{name}.rst", text) for name, text in render_captions().items()),
    ):
        (PROJECT / name).write_text(text)
        typer.echo(f"Wrote {name}")
