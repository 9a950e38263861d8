"""What a run on a SLURM cluster needs, checked before anything is submitted: `xtalrl doctor --profile slurm`.

Each kind of job is shown to SLURM with `sbatch --test-only`, which says whether it could ever start and submits nothing.
"""

from __future__ import annotations

import builtins
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from xtalrl.config import Config
from xtalrl.dft.engines import EMBEDDED
from xtalrl.doctor import Check, State
from xtalrl.errors import XtalrlError
from xtalrl.progress import format_seconds

LONGEST_PAUSE_S = 180
"""Snakemake's SLURM plugin asks for its jobs at least this often; squeue must remember finished jobs for longer."""
_FROM_SACCT = "from sacct, where Snakemake waits for ever for a job that somebody cancels"
"""The state is then `CANCELLED by <user id>`, which the plugin (2.8.0) does not know."""


@dataclass(frozen=True)
class Request:
    """What the jobs of a rule ask for at one attempt."""

    rule: str
    partition: str | None
    account: str | None
    gres: str | None
    threads: int
    mem_mb: int
    runtime_min: int

    def options(self) -> list[str]:
        """As options of sbatch."""
        options = [f"--cpus-per-task={self.threads}", f"--mem={self.mem_mb}", f"--time={self.runtime_min}"]
        for name in ("partition", "account", "gres"):
            if value := getattr(self, name):
                options.append(f"--{name}={value}")
        return options


def load_profile(name: str) -> dict[str, Any]:
    """The profile of this name in `profiles/`, or in this folder.

    Raises:
        XtalrlError: there is none, or it is not valid YAML.
    """
    for folder in (Path("profiles") / name, Path(name)):
        path = folder / "config.yaml"
        if path.is_file():
            try:
                return dict(yaml.safe_load(path.read_text()))
            except (yaml.YAMLError, TypeError, ValueError) as error:
                raise XtalrlError(f"{path} is not a valid profile: {error}") from None
    known = (
        ", ".join(sorted(path.parent.name for path in Path("profiles").glob("*/config.yaml"))) or "none in profiles/"
    )
    raise XtalrlError(f"There is no profile {name!r}; there are: {known}.")


def check_cluster(config: Config, profile: Mapping[str, Any]) -> Iterator[Check]:
    """Whether SLURM would take and run the jobs of this profile, and Snakemake would hear of their end."""
    try:
        settings = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", _ask("scontrol", "show", "config"), re.MULTILINE))
        limits = dict(line.split() for line in _ask("sinfo", "--noheader", "--format=%R %l").splitlines())
        default = next(
            (name[:-1] for name in _ask("sinfo", "--noheader", "--format=%P").split() if name.endswith("*")), None
        )
    except XtalrlError as error:
        yield Check("SLURM", State.MISSING, str(error), "scontrol ping; log in to the cluster")
        return
    yield Check("SLURM", State.OK, f"partitions: {', '.join(name + '*' * (name == default) for name in limits)}")
    yield from _check_launcher(config)
    yield _check_status_command(profile, settings)
    yield from _check_names(profile)
    rules = {"the other jobs", *profile.get("set-resources", {})}
    last = int(profile.get("retries", 0)) + 1
    for rule in sorted(rules):
        yield _check_request(request_of(profile, rule, attempt=1), request_of(profile, rule, last), limits, default)
    yield _check_downloads(config)


def request_of(profile: Mapping[str, Any], rule: str, attempt: int) -> Request:
    """What the profile asks for a rule's jobs.

    Raises:
        XtalrlError: an entry is no number.
    """
    threads = int(profile.get("set-threads", {}).get(rule, 1))
    entries = {**profile.get("default-resources", {}), **profile.get("set-resources", {}).get(rule, {})}
    names = {"attempt": attempt, "threads": threads, "min": min, "max": max}

    def number(key: str) -> int:
        try:
            return int(eval(str(entries.get(key, 1)), {"__builtins__": {}}, names))  # as Snakemake does
        except Exception as error:
            raise XtalrlError(f"`{key}` of {rule} in the profile is {entries[key]!r}: {error}.") from None

    def word(key: str) -> str | None:
        return str(entries[key]).strip("'\"") if entries.get(key) else None

    return Request(
        rule, word("slurm_partition"), word("slurm_account"), word("gres"), threads, number("mem_mb"), number("runtime")
    )


def _check_status_command(profile: Mapping[str, Any], settings: Mapping[str, str]) -> Check:
    accounting = settings.get("AccountingStorageType", "").strip("()") not in ("", "null", "accounting_storage/none")
    remembers_s = int(re.match(r"\d+", settings.get("MinJobAge", "0"))[0])  # type: ignore[index]
    squeue_works = remembers_s > LONGEST_PAUSE_S
    if profile.get("slurm-status-command") == "squeue":
        if squeue_works:
            return Check(
                "job states", State.OK, f"from squeue, which remembers a job for {format_seconds(remembers_s)}"
            )
        finding = f"squeue forgets a job after {remembers_s} s (MinJobAge): Snakemake would wait for it for ever"
        mend = "slurm-status-command: sacct" if accounting else "ask the administrators for MinJobAge=300"
        return Check("job states", State.MISSING, finding, mend)
    if accounting:
        try:
            _ask("sacct", "--allocations", "--noheader", "--starttime=now")
        except XtalrlError as error:
            return Check("job states", State.MISSING, str(error), "slurm-status-command: squeue  (in the profile)")
        if squeue_works:
            return Check("job states", State.OPTIONAL, _FROM_SACCT, "slurm-status-command: squeue")
        return Check("job states", State.OK, f"{_FROM_SACCT}: Ctrl-C, and the same command again")
    return Check(
        "job states",
        State.MISSING,
        "sacct gives no answer (no accounting database): Snakemake would wait for ever",
        "slurm-status-command: squeue",
    )


def _check_launcher(config: Config) -> Iterator[Check]:
    """A job's own step holds all its cores: a second step without --overlap waits for ever."""
    words = (config.dft.command or "").split()
    if words and Path(words[0]).name == "srun" and "--overlap" not in words:
        finding = f"`dft.command` is {config.dft.command!r}: inside a job, this srun waits for ever for cores that the job holds"
        yield Check("srun", State.MISSING, finding, f"dft.command: {' '.join([words[0], '--overlap', *words[1:]])}")


def _check_names(profile: Mapping[str, Any]) -> Iterator[Check]:
    """Snakemake evaluates resources as Python: a partition called `all` would be Python's function."""
    sections = {"default-resources": profile.get("default-resources", {}), **profile.get("set-resources", {})}
    for section, entries in sections.items():
        for key in ("slurm_partition", "slurm_account"):
            if hasattr(builtins, str(entries.get(key, ""))):
                finding = f"`{key}: {entries[key]}` of {section} is a word of Python"
                yield Check("profile", State.MISSING, finding, f"{key}: \"'{entries[key]}'\"")


def _check_request(first: Request, last: Request, limits: Mapping[str, str], default: str | None) -> Check:
    if first.partition and (unknown := set(first.partition.split(",")) - set(limits)):
        finding = f"there is no partition {', '.join(sorted(unknown))}; there are: {', '.join(limits)}"
        return Check(first.rule, State.MISSING, finding, f"slurm_partition: {default or next(iter(limits), '')}")
    size = f"{first.threads} CPU{'s' if first.threads > 1 else ''}, {first.mem_mb / 1000:g} GB{', ' + first.gres if first.gres else ''}"
    if complaint := _refusal(first):
        mend = "sinfo; then the lines of your cluster at the top of the profile"
        if "account" in complaint:
            mend = (
                "sacctmgr show associations user=$USER format=account,partition  (then `slurm_account` in the profile)"
            )
        elif first.gres:
            mend += " (no GPU nodes: delete `gres`)"
        return Check(first.rule, State.MISSING, f"{size}: {complaint}", mend)
    partition = last.partition or default or ""
    limit_min = _minutes(limits.get(partition, "infinite"))
    if limit_min is not None and last.runtime_min > limit_min:
        finding = f"{last.runtime_min} min at the last attempt, and {partition} allows {limit_min}: the job would wait for ever"
        return Check(first.rule, State.MISSING, finding, f"runtime: at most {limit_min} in the profile")
    size += f", {format_seconds(first.runtime_min * 60)} on {partition}"
    if complaint := _refusal(last):
        finding = f"{size}; but the last attempt with {last.mem_mb / 1000:g} GB: {complaint}"
        return Check(first.rule, State.OPTIONAL, finding, "fewer threads, or a limit on mem_mb, in the profile")
    return Check(first.rule, State.OK, size)


def _refusal(request: Request) -> str:
    """Why SLURM would never start such a job; empty if it would."""
    tested = subprocess.run(
        ["sbatch", "--test-only", *request.options(), "--wrap=true"], capture_output=True, text=True, timeout=60
    )
    if tested.returncode == 0:
        return ""
    lines = tested.stderr.strip().splitlines() or [f"sbatch --test-only ends with exit code {tested.returncode}"]
    return lines[-1].removeprefix("allocation failure: ").removeprefix("sbatch: error: ")


def _minutes(limit: str) -> int | None:
    """Minutes of a SLURM time limit (days-hours:minutes:seconds); None for infinite."""
    days, _, clock = limit.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts):
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return (seconds // 60 if len(parts) > 1 else seconds) + 1440 * int(days or 0)


def _check_downloads(config: Config) -> Check:
    cache = Path(config.cache)
    lacking = [str(path) for path in (cache / "families" / config.dft.family / "family.json",) if not path.exists()]
    if config.dft.command in (None, EMBEDDED) and not (cache / "engine/engine.json").exists():
        lacking.append(str(cache / "engine/engine.json"))
    if config.structures.source == "mp20" and not config.structures.path and not (cache / "mp20/train.csv").exists():
        lacking += [str(cache / f"mp20/{split}.csv") for split in ("train", "val", "test")]
    if not lacking:
        return Check("downloads", State.OK, f"all in {cache}: no network is needed")
    return Check(
        "downloads",
        State.OPTIONAL,
        "made on this node when the run starts; compute nodes need no network",
        f"snakemake --profile profiles/local {' '.join(lacking)}  (to make them now)",
    )


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except FileNotFoundError:
        raise XtalrlError(f"{command[0]} is not on PATH: this is no login node of a SLURM cluster.") from None
    except subprocess.CalledProcessError as error:
        raise XtalrlError(f"`{' '.join(command)}` fails: {error.stderr.strip().splitlines()[-1]}") from None
    except subprocess.TimeoutExpired:
        raise XtalrlError(f"`{' '.join(command)}` does not answer within 30 s.") from None
