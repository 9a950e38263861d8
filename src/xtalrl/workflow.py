"""What every job shares: calling the function of its rule, logging, and turning a user's mistake into one sentence.

This module needs only the standard library when it is imported, so that a GPU node can train.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtalrl.errors import XtalrlError, explain_os_error
from xtalrl.progress import PaceHandler, TerminalFormatter
from xtalrl.sharing import make_folder, share

if TYPE_CHECKING:
    from xtalrl.config import Config


def run_job(snakemake: Any) -> None:
    """Run the job of a rule: call its function, with a log.

    Args:
        snakemake: the object that Snakemake gives to a script.
    """
    with job(snakemake.log[0]):
        function, keywords = call_of(snakemake)
        function(**keywords)


def call_of(snakemake: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function that a rule names in its parameter `call`, and its keyword arguments: the rule's named files and parameters.

    An empty list of input files, which means a file that the run does not have, becomes None.

    Args:
        snakemake: the object that Snakemake gives to a script, or a job of its plan.

    Raises:
        TypeError: the rule gives the same name to two of them.
    """
    params = dict(snakemake.params.items())
    module, _, name = params.pop("call").rpartition(".")
    inputs, outputs = (
        {key: path if isinstance(path, str) else [*path] or None for key, path in files.items()}
        for files in (snakemake.input, snakemake.output)
    )
    return getattr(importlib.import_module(module), name), dict(**inputs, **outputs, **params)


@contextlib.contextmanager
def job(log: str) -> Iterator[None]:
    """Run a job that logs to its file and to stderr; a mistake that the user can fix ends it with one sentence and exit code 1."""
    style = "%(asctime)s  %(message)s", "%H:%M:%S"
    logger = logging.getLogger("xtalrl")
    logger.setLevel(logging.INFO)
    handlers = (
        (logging.FileHandler(log, mode="w"), logging.Formatter(*style)),
        (logging.StreamHandler(sys.stderr), TerminalFormatter(*style)),
    )
    share(Path(log))
    for handler, formatter in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logger.addHandler(PaceHandler(Path(log)))
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(logger.handlers[0])
    end_with_snakemake()
    try:
        yield
    except XtalrlError as error:
        logger.error("ERROR: %s", completed(str(error), os.environ.get(TYPED, options_typed(()))))
        sys.exit(1)
    except OSError as error:
        if (sentence := explain_os_error(error)) is None:
            logger.exception("Unexpected failure")
            raise
        logger.error("ERROR: %s", sentence)
        sys.exit(1)
    except Exception:
        logging.getLogger("xtalrl").exception("Unexpected failure")
        raise


def end_with_snakemake() -> None:
    """Send this process SIGTERM within a second after any Snakemake among its ancestors is gone, even if that was killed by SIGKILL.

    The kernel's PR_SET_PDEATHSIG is not enough: between a job and the Snakemake that was killed there are a second Snakemake and a shell.
    A cluster job is not a descendant of the Snakemake that submitted it, and therefore outlives it.
    """
    if not (watched := _snakemakes_above()):
        return

    def watch() -> None:
        while all(_parent_and_start(pid)[1] == start for pid, start in watched.items()):
            time.sleep(0.5)
        logging.getLogger("xtalrl").error("Snakemake is gone: this job ends.")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _snakemakes_above() -> dict[int, str]:
    """Start time, by process id, of each ancestor that is a Snakemake; empty where there is no /proc (proc(5))."""
    found = {}
    pid = os.getppid()
    while pid > 1:
        parent, start = _parent_and_start(pid)
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            break
        # A shell with that word in its script does not count: it may end before the Snakemake that it started.
        if "python" in Path(command[0]).name and "snakemake" in (Path(word).name for word in command[1:4]):
            found[pid] = start
        pid = parent
    return found


def _parent_and_start(pid: int) -> tuple[int, str]:
    """Parent of a process, and its start time in ticks since boot; (0, "") for a process that is gone."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, ""
    return (0, "") if after[0] in "ZX" else (int(after[1]), after[19])


def check_folders(config: Config) -> None:
    """Check, before anything runs, that the folders of a run can be written and are separate.

    An existing cache may be read-only. A folder of results that did not exist is removed again, because this may be a dry run.

    Raises:
        XtalrlError: a folder cannot be made or written, or holds the checkout, or results and cache are the same folder.
    """
    results, cache = (Path(os.path.realpath(folder)) for folder in (config.results, config.cache))
    for key, folder in (("results", results), ("cache", cache)):
        if Path.cwd().is_relative_to(folder):
            raise XtalrlError(
                f"`{key}` is {getattr(config, key)!r}, the folder of the checkout or one above it: name one of their own, e.g. `results/mine`."
            )
    if results.is_relative_to(cache):
        raise XtalrlError(
            f"`results` is {config.results!r}, and `cache`, which all runs share, is {config.cache!r}: a run needs a folder outside of it."
        )
    for key in ("results", "cache"):
        folder = Path(getattr(config, key))
        is_new = key == "results" and not folder.exists()
        probe = folder / f".write-test-{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(
                FileNotFoundError
            ):  # another Snakemake that starts has just removed the empty folder that it had made
                probe.write_bytes(b"\0" * 4096)
        except OSError as error:
            if key == "cache" and error.errno in (errno.EACCES, errno.EROFS) and os.access(folder, os.R_OK | os.X_OK):
                continue
            raise XtalrlError(
                f"The {key} folder {str(folder)!r} cannot be written ({error.strerror}): "
                f"choose another with `{key}:` in the config, free some space, or fix its permissions."
            ) from None
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
                if is_new:
                    folder.rmdir()


def make_cache_folders(config: Config) -> None:
    """Make the folders of the cache, which Snakemake would otherwise make with the umask of whoever comes first."""
    names = ["benchmarks", "engine", f"families/{config.dft.family}", "logs"]
    if config.structures.source == "mp20" and not config.structures.path:
        names.append("mp20")
    if "materials-project" in (
        config.references.crystals,
        config.evaluation.formulas,
        config.structures.magnetizations,
    ):
        names.append("materials_project")
    with contextlib.suppress(OSError):  # The cache is read-only.
        for name in names:
            make_folder(Path(config.cache) / name)


def trains_together(config: Config) -> bool:
    """Whether one job trains all policies of a seed. On a CPU, one policy fills a core, so that separate jobs in parallel are faster.

    A cluster's login node has no GPU: there, and on any machine that only submits jobs, `training.device: cuda` decides.
    """
    training = config.training
    if training.policies_per_pass != "auto":
        return training.policies_per_pass > 1
    return training.device == "cuda" or (training.device == "auto" and Path("/proc/driver/nvidia/version").exists())


def as_typed(command: str, configfiles: Sequence[Path]) -> str:
    """A command for the user, with the configuration files that were given, in the form that snakemake or xtalrl accepts.

    Where there is no Snakefile, `xtalrl init` comes first: it creates one, together with the profiles.
    """
    if command.startswith("snakemake ") and not Path("Snakefile").exists():
        command = f"xtalrl init && {command}"
    if not configfiles:
        return command
    return f"{command} --configfile {' '.join(str(path) for path in configfiles)}"


TYPED = "XTALRL_TYPED"
"""Environment variable that tells a job the options its Snakemake was started with, for the commands in its messages."""


def options_typed(configfiles: Sequence[str | Path], arguments: Sequence[str] = ()) -> str:
    """Profile and configuration files as options of snakemake: the profile that its command line names, else the one for one machine."""
    words = [part for argument in arguments for part in argument.split("=", 1)]
    named = [value for option, value in pairwise(words) if option in ("--profile", "--workflow-profile")]
    files = ["--configfile", *map(str, configfiles)] if configfiles else []
    return shlex.join(["--profile", named[-1] if named else "profiles/local", *files])


def completed(message: str, options: str) -> str:
    """A message in which each command `snakemake …` that names neither a profile nor cores has these options, without which it would not start."""
    return re.sub(
        r"`(snakemake (?![^`]*--(?:profile|cores)\b)[^`]+)`", lambda found: f"`{found[1]} {options}`", message
    )


def rerun_marks(results: str) -> frozenset[tuple[str, str]]:
    """Stage and shard of every mark that `xtalrl rerun` left in a folder of results."""
    return frozenset((path.parents[1].name, path.stem) for path in Path(results).glob("*/reruns/*.json"))
