"""Checks of a run on a SLURM cluster before anything is submitted: `xtalrl doctor --profile slurm`.

Each kind of job is shown to SLURM with `sbatch --test-only`, which says whether it could ever start and submits nothing. The options are
those that Snakemake gives to sbatch.
"""

from __future__ import annotations

import builtins
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from xtalrl.commands.checks import Check, State
from xtalrl.commands.slurm_limits import Limit, ask, limits_of, to_minutes
from xtalrl.commands.submissions import OTHER_JOBS, Submission, ask_snakemake
from xtalrl.commands.workflow_commands import find_profile
from xtalrl.config import Config
from xtalrl.dft.engines import EMBEDDED
from xtalrl.errors import XtalrlError
from xtalrl.progress import format_seconds

LONGEST_PAUSE_S = 180
"""Longest time in seconds between two questions of Snakemake about its jobs; squeue must remember finished jobs for longer."""
_KIND = {OTHER_JOBS: "the other jobs"}


def load_profile(name: str) -> dict[str, Any]:
    """The profile of this name, or in this folder (see `find_profile`).

    Raises:
        XtalrlError: there is no such profile, or it is not valid YAML.
    """
    path = find_profile(name) / "config.yaml"
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise XtalrlError(f"{path} is not a valid profile: {error}") from None
    if not isinstance(content, dict):
        raise XtalrlError(f"{path} is not a valid profile: it must hold `key: value` pairs.")
    return content


def check_cluster(config: Config, profile: Mapping[str, Any]) -> Iterator[Check]:
    """Whether SLURM would accept and run the jobs of this profile, and whether Snakemake would learn of their end."""
    try:
        settings = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", ask("scontrol", "show", "config"), re.MULTILINE))
        limits = dict(line.split() for line in ask("sinfo", "--noheader", "--format=%R %l").splitlines())
        default = next(
            (name[:-1] for name in ask("sinfo", "--noheader", "--format=%P").split() if name.endswith("*")), None
        )
    except XtalrlError as error:
        yield Check("SLURM", State.MISSING, str(error), "scontrol ping; log in to the cluster")
        return
    yield Check("SLURM", State.OK, f"partitions: {', '.join(name + '*' * (name == default) for name in limits)}")
    yield from _check_launcher(config)
    yield _check_status_command(profile, settings)
    yield from _check_names(profile)
    rules = sorted({*profile.get("set-resources", {}), *profile.get("set-threads", {})})
    try:
        asked = ask_snakemake(profile, [*rules, OTHER_JOBS])
    except XtalrlError as error:
        yield Check("profile", State.MISSING, str(error), "snakemake --profile profiles/slurm --dry-run  (says where)")
        return
    tightest: Limit | None = None
    for rule, submissions in asked.items():
        name = _KIND.get(rule, rule)
        if isinstance(submissions, str):
            yield Check(name, State.MISSING, submissions, _fix(submissions))
            continue
        partition = submissions[-1].value("-p", "--partition") or default or ""
        try:
            counts, minutes = limits_of(submissions[-1], partition.split(",")[0])
        except XtalrlError:  # no accounting database, and no limits of users
            counts, minutes = [], []
        # Of several partitions SLURM takes one that admits the job.
        of_partitions = [to_minutes(limits.get(name, "infinite")) for name in partition.split(",")]
        finite = [limit for limit in of_partitions if limit is not None]
        if len(finite) == len(of_partitions):
            minutes.append(Limit(max(finite), f"the limit of partition {partition}"))
        tightest = min([*counts, *([tightest] if tightest else [])], key=lambda limit: limit.value, default=None)
        yield _check_submissions(name, submissions, minutes, limits, default)
    yield _check_number(profile, settings, tightest)
    yield _check_downloads(config)


def _check_status_command(profile: Mapping[str, Any], settings: Mapping[str, str]) -> Check:
    accounting = settings.get("AccountingStorageType", "").strip("()") not in ("", "null", "accounting_storage/none")
    remembers_s = int(re.match(r"\d+", settings.get("MinJobAge", "0"))[0])  # type: ignore[index]
    squeue_works = remembers_s > LONGEST_PAUSE_S
    if profile.get("slurm-status-command") == "squeue":
        if squeue_works:
            return Check(
                "job states", State.OK, f"from squeue, which remembers a job for {format_seconds(remembers_s)}"
            )
        finding = f"squeue forgets a job after {remembers_s} s (MinJobAge), before Snakemake asks how it ended"
        fix = "slurm-status-command: sacct" if accounting else "ask the administrators for MinJobAge=300"
        return Check("job states", State.MISSING, finding, fix)
    if accounting:
        try:
            ask("sacct", "--allocations", "--noheader", "--starttime=now")
        except XtalrlError as error:
            return Check("job states", State.MISSING, str(error), "slurm-status-command: squeue  (in the profile)")
        return Check("job states", State.OK, "from sacct")
    return Check(
        "job states",
        State.MISSING,
        "sacct gives no answer (no accounting database): Snakemake would wait forever",
        "slurm-status-command: squeue",
    )


def _check_launcher(config: Config) -> Iterator[Check]:
    """A job's own step holds all its cores: a second step without --overlap waits forever."""
    words = (config.dft.command or "").split()
    if words and Path(words[0]).name == "srun" and "--overlap" not in words:
        finding = f"`dft.command` is {config.dft.command!r}: inside a job, this srun waits forever for cores that the job holds"
        yield Check("srun", State.MISSING, finding, f"dft.command: {' '.join([words[0], '--overlap', *words[1:]])}")


def _check_names(profile: Mapping[str, Any]) -> Iterator[Check]:
    """Snakemake evaluates resources as Python: a partition called `all` would be Python's function."""
    sections = {"default-resources": profile.get("default-resources", {}), **profile.get("set-resources", {})}
    for section, entries in sections.items():
        for key in ("slurm_partition", "slurm_account"):
            if hasattr(builtins, str(entries.get(key, ""))):
                finding = f"`{key}: {entries[key]}` of {section} is a word of Python"
                yield Check("profile", State.MISSING, finding, f"{key}: \"'{entries[key]}'\"")


def _check_submissions(
    name: str,
    submissions: Sequence[Submission],
    minutes: Sequence[Limit],
    partitions: Mapping[str, str],
    default: str | None,
) -> Check:
    first, last = submissions[0], submissions[-1]
    if unknown := set(filter(None, first.value("-p", "--partition").split(","))) - set(partitions):
        finding = f"there is no partition {', '.join(sorted(unknown))}; there are: {', '.join(partitions)}"
        return Check(name, State.MISSING, finding, f"slurm_partition: {default or next(iter(partitions), '')}")
    size = _size(first)
    if complaint := _refusal(first):
        return Check(name, State.MISSING, f"{size}: {complaint}", _fix(complaint))
    runtime_min = to_minutes(last.value("-t", "--time"))
    tightest = min(minutes, key=lambda limit: limit.value, default=None)
    if runtime_min is not None and tightest and runtime_min > tightest.value:
        finding = f"{runtime_min} min at the last attempt, and {tightest.name} is {tightest.value} min: the job would wait forever"
        return Check(name, State.MISSING, finding, f"runtime: at most {tightest.value} in the profile")
    runtime_min = to_minutes(first.value("-t", "--time"))
    size += f", {format_seconds(runtime_min * 60)}" if runtime_min is not None else ""
    size += f" on {first.value('-p', '--partition') or default}"
    if len(submissions) > 1 and (complaint := _refusal(last)):
        return Check(
            name, State.OPTIONAL, f"{size}; but the last attempt, {_size(last)}: {complaint}",
            "fewer threads, or a limit on mem_mb, in the profile",
        )  # fmt: skip
    return Check(name, State.OK, size)


def _size(submission: Submission) -> str:
    """What a job asks for, in a few words."""
    cpus = submission.value("-c", "--cpus-per-task")
    words = [f"{cpus} CPU{'s' if cpus != '1' else ''}"] if cpus else []
    for option, per in (("--mem", ""), ("--mem-per-cpu", " per CPU")):
        if (memory := submission.value(option)).isdigit():
            words.append(f"{int(memory) / 1000:g} GB{per}")
    if gpus := submission.value("--gpus"):
        words.append(f"gpus:{gpus}")
    words += filter(None, (submission.value("--gres"), submission.value("-C", "--constraint")))
    for option in ("--qos", "--reservation", "--clusters"):
        if value := submission.value(option):
            words.append(f"{option[2:]} {value}")
    return ", ".join(words)


def _fix(complaint: str) -> str:
    """The command that shows what SLURM offers instead."""
    for word, command in (
        (
            "account",
            "sacctmgr show associations user=$USER format=account,partition  (then `slurm_account` in the profile)",
        ),
        ("qos", "sacctmgr show associations user=$USER format=account,qos  (then `qos` in the profile)"),
        ("feature", "sinfo --format='%P %f'  (features of the nodes; then `constraint` in the profile)"),
        ("reservation", "scontrol show reservation"),
        ("generic resource", "sinfo --format='%P %G'  (then `gres` in the profile; no GPU nodes: delete it)"),
    ):
        if word in complaint.lower():
            return command
    return "sinfo --format='%P %c %m %G %l'  (CPUs, memory, GPUs and time of the nodes; then the top of the profile)"


def _refusal(submission: Submission) -> str:
    """Why SLURM would never start such a job; empty if it would."""
    command = ["sbatch", "--test-only", *submission.options, "--wrap=true"]
    try:
        tested = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "sbatch --test-only gives no answer within 60 s"
    if tested.returncode == 0:
        return ""
    lines = tested.stderr.strip().splitlines() or [f"sbatch --test-only ends with exit code {tested.returncode}"]
    return lines[-1].removeprefix("allocation failure: ").removeprefix("sbatch: error: ")


def _check_number(profile: Mapping[str, Any], settings: Mapping[str, str], tightest: Limit | None) -> Check:
    """Whether SLURM accepts as many jobs at a time as the profile submits."""
    known = [tightest] if tightest else []
    if (most := settings.get("MaxJobCount", "")).isdigit():
        known.append(Limit(int(most), "MaxJobCount of the cluster"))
    if not known:
        return Check("number of jobs", State.OK, f"`jobs: {profile.get('jobs')}`; SLURM names no limit")
    limit = min(known, key=lambda limit: limit.value)
    jobs = str(profile.get("jobs", ""))
    if not jobs.isdigit() or int(jobs) > limit.value:
        finding = f"`jobs: {jobs}` in the profile, and {limit.name} is {limit.value}: sbatch refuses the others, which wait outside the queue"
        return Check("number of jobs", State.OPTIONAL, finding, f"jobs: {limit.value}")
    return Check("number of jobs", State.OK, f"`jobs: {jobs}`; {limit.name} is {limit.value}")


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
