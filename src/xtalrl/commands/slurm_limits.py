"""SLURM's limits on the number and the wall time of a user's jobs, as sacctmgr and scontrol tell them (resource limits page of SLURM)."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from xtalrl.commands.submissions import Submission
from xtalrl.errors import XtalrlError


@dataclass(frozen=True)
class Limit:
    """A limit that SLURM has for some of our jobs."""

    value: int
    """A number of jobs, or minutes."""
    name: str
    """Name of the limit in SLURM and its owner: `MaxSubmit of user alice in account proj`."""


def ask(*command: str) -> str:
    """The answer of a SLURM command.

    Raises:
        XtalrlError: the command is missing, fails or does not answer.
    """
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except FileNotFoundError:
        raise XtalrlError(f"{command[0]} is not on PATH: this is not a login node of a SLURM cluster.") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip() or f"exit code {error.returncode}").splitlines()[-1]
        raise XtalrlError(f"`{' '.join(command)}` fails: {said}") from None
    except subprocess.TimeoutExpired:
        raise XtalrlError(f"`{' '.join(command)}` does not answer within 30 s.") from None


def limits_of(submission: Submission, partition: str) -> tuple[list[Limit], list[Limit]]:
    """The limits on the number of jobs that may be queued and run at once, and on the minutes of one, for jobs such as this.

    Args:
        submission: submission of a job.
        partition: where it goes; of several, the first.

    Raises:
        XtalrlError: the accounting database does not answer.
    """
    counts: list[Limit] = []
    minutes: list[Limit] = []

    def note(row: Mapping[str, str], names: Mapping[str, str], whose: str) -> None:
        for name, text in ((name, row.get(column, "")) for name, column in names.items()):
            if name == "MaxWall":
                if (value := to_minutes(text)) is not None:
                    minutes.append(Limit(value, f"{name} of {whose}"))
            elif text.isdigit():
                counts.append(Limit(int(text), f"{name} of {whose}"))

    user = getpass.getuser()
    qos = [submission.value("--qos", "-q")]
    own = list(
        _rows(
            "associations",
            ("Account", "User", "Partition", "MaxSubmit", "GrpSubmit", "MaxWall", "DefaultQOS"),
            f"user={user}",
        )
    )
    account = submission.value("-A", "--account") or _default_account(user)
    for row in own:
        if row["Account"] == (account or row["Account"]).lower() and row["Partition"] in ("", partition):
            of_partition = f" in partition {partition}" if row["Partition"] else ""
            note(
                row,
                {"MaxSubmitJobs": "MaxSubmit", "GrpSubmitJobs": "GrpSubmit", "MaxWall": "MaxWall"},
                f"user {user} in account {row['Account']}{of_partition}",
            )
            qos[0] = qos[0] or row["DefaultQOS"]
    seen: set[str] = set()
    while account and account not in seen:  # GrpSubmitJobs holds for all below, and is not handed down
        seen.add(account)
        above = list(_rows("associations", ("Account", "User", "ParentName", "GrpSubmit"), f"account={account}"))
        of_account = [row for row in above if not row["User"]]
        for row in of_account:
            note(row, {"GrpSubmitJobs": "GrpSubmit"}, f"account {account}")
        account = of_account[0]["ParentName"] if of_account else ""
    # A partition may have a QOS of its own, whose limits hold too.
    found = re.search(r"\bQoS=(\S+)", ask("scontrol", "show", "partition", partition)) if partition else None
    qos.append(found[1] if found and found[1] != "N/A" else "")
    for name in filter(None, dict.fromkeys(qos)):
        for row in _rows("qos", ("Name", "MaxSubmitPU", "MaxSubmitPA", "GrpSubmit", "MaxWall"), f"name={name}"):
            note(
                row,
                {"MaxSubmitJobsPerUser": "MaxSubmitPU", "MaxSubmitJobsPerAccount": "MaxSubmitPA", "GrpSubmitJobs": "GrpSubmit", "MaxWall": "MaxWall"},
                f"QOS {name}",
            )  # fmt: skip
    return counts, minutes


def _default_account(user: str) -> str:
    return next((row["DefaultAccount"] for row in _rows("users", ("User", "DefaultAccount"), f"name={user}")), "")


def _rows(entity: str, columns: tuple[str, ...], condition: str) -> Iterator[dict[str, str]]:
    answer = ask(
        "sacctmgr",
        "--noheader",
        "--parsable2",
        "--readonly",
        "show",
        entity,
        "where",
        condition,
        f"format={','.join(columns)}",
    )
    for line in answer.splitlines():
        values = line.split("|")
        if len(values) == len(columns):
            yield dict(zip(columns, values, strict=True))


def to_minutes(limit: str) -> int | None:
    """Minutes of a SLURM time limit (minutes, minutes:seconds, hours:minutes:seconds, days-hours...); None for infinite."""
    days, dash, clock = limit.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in parts) or not (days or "0").isdigit():
        return None
    numbers = [int(part) for part in parts]
    # From hours on with days; else the last of one or two is minutes or seconds.
    hours, minutes = [*numbers, 0, 0][:2] if dash or len(numbers) == 3 else (0, numbers[0])
    return int(days or 0) * 1440 + hours * 60 + minutes
