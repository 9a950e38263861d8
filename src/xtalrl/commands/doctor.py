"""`xtalrl doctor`: whether everything that a run needs is here, and the commands that fix what is not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xtalrl.commands.checks import Check, State
from xtalrl.commands.cluster import check_cluster, load_profile
from xtalrl.config import Config
from xtalrl.errors import XtalrlError, explain_os_error
from xtalrl.provenance import refuse_other_files
from xtalrl.workflow import as_typed, check_folders


def print_checks(config: Config, profile: str, configfiles: Sequence[Path]) -> bool:
    """Print every check; True if nothing that the run needs is missing.

    Args:
        config: configuration of the run.
        profile: name in `profiles/`, or folder; jobs on a cluster are checked if it submits any.
        configfiles: files that the user gave, for the commands that fix.

    Raises:
        XtalrlError: there is no such profile.
    """
    checks = list(run_checks(config, profile))
    table = Table(title="xtalrl doctor", title_justify="left", box=None, pad_edge=False)
    for column in ("what", "state", "found"):
        table.add_column(column, overflow="fold")
    for check in checks:
        table.add_row(check.name, check.state.value, escape(check.finding))
    console = Console()
    console.print(table)
    for check in checks:
        if check.fix:  # On a line of its own, whole, to be copied.
            command, _, remark = check.fix.partition("  ")
            if command.startswith(("snakemake ", "xtalrl ")):
                command = as_typed(command, configfiles)
            console.print(
                f"\n# {check.name}, {check.state.name.lower()} {remark}".rstrip(),
                style="dim",
                highlight=False,
                markup=False,
            )
            console.print(command, soft_wrap=True, highlight=False, markup=False)
    return all(check.state is not State.MISSING for check in checks)


def run_checks(config: Config, profile: str) -> Iterator[Check]:
    """All checks, in the order in which a run meets them."""
    content = load_profile(profile)
    on_cluster = content.get("executor") == "slurm"
    functions: dict[str, Callable[[Config], Check]] = {
        "Python": _check_python,
        "packages": _check_packages,
        "folders": _check_folders,
        "home": _check_home,
        "structures": _check_structures,
        "pw.x": _check_engine,
        "pseudopotentials": _check_pseudopotentials,
        "PyTorch, GPU": partial(_check_torch, on_cluster=on_cluster),
        "Materials Project": _check_api_key,
    }
    for name, function in functions.items():
        with _no_traceback(name) as failed:
            yield function(config)
        yield from failed
    with _no_traceback("SLURM") as failed:
        if on_cluster:
            yield from check_cluster(config, content)
        else:
            yield _check_slurm()
    yield from failed


@contextmanager
def _no_traceback(name: str) -> Iterator[list[Check]]:
    """A check that fails unexpectedly is a finding, too, and not a traceback."""
    failed: list[Check] = []
    try:
        yield failed
    except Exception as error:
        sentence = explain_os_error(error) if isinstance(error, OSError) else None
        finding = str(sentence or (error if isinstance(error, XtalrlError) else f"{type(error).__name__}: {error}"))
        failed.append(Check(name, State.MISSING, f"cannot be checked: {finding}"))


def _check_slurm() -> Check:
    if shutil.which("sbatch"):
        return Check(
            "SLURM", State.OK, "sbatch is on PATH", "xtalrl doctor --profile slurm  (asks it about every kind of job)"
        )
    return Check(
        "SLURM", State.OPTIONAL, "sbatch is not on PATH", "log in to the cluster, or use --profile profiles/local"
    )


def _check_python(config: Config) -> Check:
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Check("Python", State.OK, f"{version} at {sys.executable}")
    return Check("Python", State.MISSING, f"{version}; 3.11 or 3.12 is needed", "make PYTHON=python3.11 demo")


def _check_packages(config: Config) -> Check:
    names = ("snakemake", "snakemake-executor-plugin-slurm", "pymatgen", "ase", "smact", "pyarrow", "pydantic")
    versions, missing = [], []
    for name in names:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check(
            "packages", State.MISSING, f"not installed: {', '.join(missing)}", "rm -rf .venv && make .venv/.complete"
        )
    return Check("packages", State.OK, ", ".join(versions))


def _check_folders(config: Config) -> Check:
    try:
        check_folders(config)
        refuse_other_files(config)
    except XtalrlError as error:
        return Check("folders", State.MISSING, str(error))
    results = Path(config.results).absolute()
    free_gb = shutil.disk_usage(next(place for place in (results, *results.parents) if place.exists())).free / 1e9
    if os.access(config.cache, os.W_OK):
        cache = f"{config.cache} can be written"
    else:
        cache = f"{config.cache} can only be read, so that a run that needs anything new must name another `cache:`"
    mode = os.stat(config.cache).st_mode
    for who, bit in ((_group(config.cache), stat.S_IWGRP), ("everybody", stat.S_IWOTH)):
        cache += f", by {who} too" if mode & bit else ""
    finding = f"{config.results} can be written, {cache}, {free_gb:,.0f} GB free"
    if free_gb < 2:
        return Check(
            "folders", State.MISSING, f"{finding}; 2 GB are needed", f"df -h {config.results}  (free some space)"
        )
    return Check("folders", State.OK, finding)


def _group(folder: str) -> str:
    try:
        return f"group {Path(folder).group()}"
    except (KeyError, OSError):
        return "its group"


def _check_home(config: Config) -> Check:
    """Whether the user's cache folder can be written: Snakemake keeps copies of its script there, and fails with a traceback if it cannot."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 2**20)
            probe.flush()
    except OSError as error:
        finding = f"{folder}, where Snakemake keeps copies of scripts, cannot be written ({error.strerror})"
        return Check("home", State.MISSING, finding, f"export XDG_CACHE_HOME={Path.cwd()}/.snakemake/cache")
    return Check("home", State.OK, f"{folder} can be written")


def _check_structures(config: Config) -> Check:
    from xtalrl.structures.mp20 import find_csvs

    if config.structures.path:
        try:
            return Check(
                "structures", State.OK, f"{', '.join(str(path) for path in find_csvs(config.structures.path).values())}"
            )
        except XtalrlError as error:
            return Check("structures", State.MISSING, str(error), "fix `structures.path` in the config")
    if config.structures.source == "demo":
        return Check("structures", State.OK, "the embedded textbook crystals")
    if all((Path(config.cache) / "mp20" / f"{split}.csv").exists() for split in ("train", "val", "test")):
        return Check("structures", State.OK, f"MP-20 in {config.cache}/mp20")
    return Check(
        "structures",
        State.OPTIONAL,
        "MP-20 is not downloaded yet",
        f"snakemake --profile profiles/local {config.cache}/mp20/train.csv",
    )


def _check_engine(config: Config) -> Check:
    from xtalrl.dft.engines import describe_engine, find_engine, means_embedded
    from xtalrl.dft.selftest import compute_silicon

    fetched = Path(config.cache) / "engine/engine.json"
    fetch = f"snakemake --profile profiles/local {fetched}"
    if means_embedded(config.dft.command) and not fetched.exists():
        finding = "none here: the embedded pw.x is fetched at the first run, unless you name yours in `dft.command`"
        return Check("pw.x", State.OPTIONAL, finding, f"{fetch}  (to fetch it now)")
    try:
        engine = find_engine(config.dft.command, config.cache)
    except XtalrlError as error:
        remedy = fetch if means_embedded(config.dft.command) else "name another pw.x in `dft.command`"
        return Check("pw.x", State.MISSING, str(error), remedy)
    if not engine.version:
        return Check("pw.x", State.OK, f"`{config.dft.command}` starts only in a job, and was not tried here")
    finding = describe_engine(engine, config.cache)
    family = Path(config.cache) / "families" / config.dft.family / "family.json"
    if not family.exists():
        return Check("pw.x", State.OK, f"{finding}; its speed is told once the pseudopotentials are here")
    try:
        test = compute_silicon(engine, family, config.dft.accept_not_saved)
    except FileNotFoundError as error:  # `_check_pseudopotentials` says what to do.
        return Check("pw.x", State.OK, f"{finding}; its speed is told once {error.filename} is here")
    if test.fault is not None:
        return Check("pw.x", State.MISSING, f"{finding}; {test.fault}", "name another pw.x in `dft.command`")
    return Check("pw.x", State.OK, f"{finding}; {test}")


def _check_pseudopotentials(config: Config) -> Check:
    from xtalrl.dft.pseudopotentials import load_family

    family = Path(config.cache) / "families" / config.dft.family / "family.json"
    fetch = f"snakemake --profile profiles/local {family}"
    if family.exists():
        try:
            known, folder = load_family(family)
        except XtalrlError as error:
            return Check("pseudopotentials", State.MISSING, str(error), f"rm {family}; {fetch}")
        if lacking := sorted({p.file for p in known.elements.values() if not (folder / p.file).is_file()}):
            finding = f"{folder} lacks {len(lacking)} of its files, {lacking[0]} for one"
            return Check("pseudopotentials", State.MISSING, finding, f"rm {family}; {fetch}")
        return Check("pseudopotentials", State.OK, f"{config.dft.family} in {family.parent}")
    if config.dft.pseudopotentials and not Path(config.dft.pseudopotentials).exists():
        finding = f"`dft.pseudopotentials` is {config.dft.pseudopotentials}, which does not exist"
        return Check("pseudopotentials", State.MISSING, finding, "dft.pseudopotentials: null  (downloads them)")
    where = config.dft.pseudopotentials or "a download at the first run"
    return Check(
        "pseudopotentials",
        State.OPTIONAL,
        f"{config.dft.family} will come from {where}",
        fetch,
    )


def _check_torch(config: Config, on_cluster: bool) -> Check:
    try:
        import torch
    except ImportError:
        return Check("PyTorch, GPU", State.MISSING, "torch is not installed", "rm -rf .venv && make .venv/.complete")
    version = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        return Check("PyTorch, GPU", State.OK, f"{version}, {torch.cuda.get_device_name(0)}")
    if on_cluster:
        return Check("PyTorch, GPU", State.OPTIONAL, f"{version}, no GPU here", "nvidia-smi  (on a GPU node)")
    if config.training.device == "cuda":
        return Check(
            "PyTorch, GPU",
            State.MISSING,
            f"{version} sees no GPU, and training.device is cuda",
            "set training.device to auto or cpu",
        )
    return Check(
        "PyTorch, GPU",
        State.OPTIONAL,
        f"{version}, no GPU here: training runs on the CPU",
        "nvidia-smi  (on a GPU node)",
    )


def _check_api_key(config: Config) -> Check:
    if os.environ.get("MP_API_KEY"):  # never printed
        return Check("Materials Project", State.OK, "MP_API_KEY is set")
    return Check(
        "Materials Project",
        State.OPTIONAL,
        "MP_API_KEY is not set",
        "export MP_API_KEY=...  (your key from the dashboard)",
    )
