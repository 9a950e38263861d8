"""The calls of sbatch that Snakemake would make with a profile, found with Snakemake and its SLURM plugin themselves.

Snakemake runs a workflow with one empty rule per kind of job, with a stand-in for sbatch on PATH that records its arguments and
refuses. A refusal is a failed attempt, so that the calls of later attempts are seen, too.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from xtalrl.errors import XtalrlError
from xtalrl.resources import PROJECT

OTHER_JOBS = "other_jobs"
"""Name that stands for every rule that the profile does not name."""
_NOT_OF_THE_JOBS = frozenset({
    "config", "configfile", "configfiles", "directory", "snakefile", "sdm", "software-deployment-method", "use-conda", "use-apptainer",
    "max-jobs-per-timespan", "batch", "report", "slurm-efficiency-report", "slurm-efficiency-report-path",
})  # fmt: skip
"""Entries of a profile that concern the workflow and not the requests to SLURM."""
_SBATCH = """#!/bin/sh
call=$(mktemp "$XTALRL_CALLS/XXXXXXXX")
printf '%s\\0' "$@" > "$call"
echo 'written down by xtalrl' >&2
exit 1
"""


@dataclass(frozen=True)
class Submission:
    """The options of sbatch with which Snakemake submits a job of a rule at one attempt."""

    rule: str
    options: tuple[str, ...]

    def value(self, *names: str) -> str:
        """The value of an option, given by its names (`-p`, `--partition`); the last one counts, empty if there is none."""
        found = ""
        for option, following in pairwise((*self.options, "")):
            name, is_joined, value = option.partition("=")
            if name in names:
                found = value if is_joined else following
        return found


def ask_snakemake(profile: Mapping[str, Any], rules: Iterable[str]) -> dict[str, list[Submission] | str]:
    """The submissions of each rule, one per attempt, or the reason why Snakemake submits nothing.

    Raises:
        XtalrlError: Snakemake does not accept the profile, or does not answer.
    """
    rules = list(rules)
    with tempfile.TemporaryDirectory(prefix="xtalrl-") as name:
        folder = Path(name)
        calls = folder / "calls"
        for part in (calls, folder / "bin", folder / "profile"):
            part.mkdir()
        sbatch = folder / "bin/sbatch"
        sbatch.write_text(_SBATCH)
        sbatch.chmod(0o700)
        (folder / "Snakefile").write_text(_workflow(rules))
        (folder / "profile/config.yaml").write_text(yaml.safe_dump(_without_workflow(profile)))
        try:
            result = subprocess.run(
                [sys.executable, "-m", "snakemake", "--profile", "profile", "--snakefile", "Snakefile"],
                cwd=folder, capture_output=True, text=True, timeout=300,
                env={**os.environ, "PATH": f"{sbatch.parent}:{os.environ.get('PATH', '')}", "XTALRL_CALLS": str(calls)},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise XtalrlError(
                "Snakemake does not say within 5 minutes what it would submit: does sinfo answer?"
            ) from None
        paths = sorted(calls.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        lines = [path.read_text().split("\0")[:-1] for path in paths]
    said = result.stdout + result.stderr
    refused = dict(
        re.findall(r"^Error in rule (\w+):\n\s+message: (.*?)For further error details", said, re.MULTILINE | re.DOTALL)
    )
    found: dict[str, list[Submission] | str] = {}
    for rule in rules:
        # The command of the job is the last argument, --wrap or /dev/stdin.
        submissions = [Submission(rule, tuple(line[:-1])) for line in lines if f"rule_{rule}" in line]
        if submissions:
            found[rule] = submissions
        elif rule in refused:
            found[rule] = " ".join(refused[rule].removeprefix("Job submission failed with exception: ").split())
        else:
            raise XtalrlError(f"Snakemake does not accept the profile: {_complaint(said)}")
    return found


def _complaint(said: str) -> str:
    if about := re.search(r" in rule (\w+) .*?\nError:\s+(.*?)\nWildcards:", said, re.DOTALL):
        return f"{about[1]}: {' '.join(about[2].split())}"
    return (said.strip().splitlines() or ["it says nothing"])[-1]


def _workflow(rules: Iterable[str]) -> str:
    declared = _declared_threads()
    texts = [f"rule all:\n    input: {', '.join(repr(rule) for rule in rules)}\n"]
    texts += [
        f"rule {rule}:\n    output: {rule!r}\n    threads: {declared.get(rule, 1)}\n    shell: 'true'\n"
        for rule in rules
    ]
    return "\n".join(texts)


def _declared_threads() -> dict[str, int]:
    """The threads that the rules name themselves, which apply if the profile names none."""
    found: dict[str, int] = {}
    for path in (PROJECT / "rules").glob("*.smk"):
        for text in re.split(r"^(?:rule|checkpoint) ", path.read_text(), flags=re.MULTILINE)[1:]:
            if threads := re.search(r"^    threads: (\d+)$", text, re.MULTILINE):
                found[text.partition(":")[0]] = int(threads[1])
    return found


def _without_workflow(profile: Mapping[str, Any]) -> dict[str, Any]:
    entries = {key: value for key, value in profile.items() if key not in _NOT_OF_THE_JOBS}
    if partitions := entries.get("slurm-partition-config"):
        entries["slurm-partition-config"] = str(Path(partitions).absolute())
    return entries | {
        "keep-going": True,
        "show-failed-logs": False,
        "slurm-logdir": "logs",
        "slurm-init-seconds-before-status-checks": 1,
    }
