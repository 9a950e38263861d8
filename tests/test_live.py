"""What the terminal of a run shows: a line for each running job at its foot, everything else above it, and nothing garbled."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from xtalrl.live import Foot
from xtalrl.progress import LIVE, LIVE_MARK

JOB = """
import sys, time
from xtalrl.progress import Progress
from xtalrl.workflow import job
with job(sys.argv[1]):
    progress = Progress(sys.argv[2], 40, "steps", every_s=0)
    for step in range(40):
        progress.advance()
        time.sleep(0.02)
"""
SNAKEMAKE = """
import subprocess, sys
from xtalrl.live import show_running_jobs
show_running_jobs()
print("Job 1", file=sys.stderr)
names = sys.argv[2:]
jobs = [subprocess.Popen([sys.executable, "-c", sys.argv[1], f"{name}.log", name]) for name in names]
print([job.wait() for job in jobs])
"""
PROGRESS = re.compile(r"(?:\d\d:\d\d:\d\d  )?(a|b): \d+ of 40 steps.*")


def on_a_terminal(command: list[str], folder: Path) -> str:
    """What a command writes to its terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    written = b""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if select.select([master], [], [], 0.1)[0]:
            try:
                written += os.read(master, 65536)
            except OSError:  # nobody has the terminal any more
                break
        elif process.poll() is not None:
            break
    os.close(master)
    assert process.wait() == 0, written
    return written.decode()


def screen_of(written: str) -> list[str]:
    """The lines that stay on a terminal that is high enough, which knows what rich uses: \\r, cursor up, erase the line."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif up := re.fullmatch(r"\x1b\[(\d+)A", piece):
            row -= int(up[1])
        elif piece[0] not in "\x1b\r":
            lines[row] += piece
    return [line for line in lines if line]


def test_two_jobs_on_a_terminal(tmp_path: Path) -> None:
    written = on_a_terminal([sys.executable, "-c", SNAKEMAKE, JOB, "a", "b"], tmp_path)
    assert {"a", "b"} <= {found[1] for found in PROGRESS.finditer(written) if " 40 of 40" not in found[0]}, "live"
    stays = screen_of(written)
    assert stays[0] == "Job 1"
    assert stays[-1] == "[0, 0]"
    assert sorted(line[10:25] for line in stays[1:-1]) == ["a: 40 of 40 ste", "b: 40 of 40 ste"], stays
    for name in ("a", "b"):
        log = (tmp_path / f"{name}.log").read_text()
        assert len(log.splitlines()) == 40, "the file has every line"
        assert LIVE_MARK not in log


@pytest.mark.parametrize("live", [None, "0:0"])
def test_without_a_terminal_each_line_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: str | None
) -> None:
    if live:  # a job on another machine, or one whose stderr leads elsewhere
        monkeypatch.setenv(LIVE, live)
    command = [sys.executable, "-c", SNAKEMAKE, JOB, "a"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, *lines = done.stderr.splitlines()
    assert first == "Job 1"
    assert len(lines) == 40
    assert all(PROGRESS.fullmatch(line) for line in lines)


def test_what_a_job_said_goes_with_it() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=40, height=8, color_system=None)
    foot = Foot(console)
    ours = f"{LIVE_MARK}{os.getpid()}"
    foot.feed(
        f"{ours} a: 1 of 3\n{LIVE_MARK}{2**22 + 1} gone\n{ours} a: 2 of 3, and a note that is longer than the line\nwhole\npart".encode()
    )
    with console.capture() as shown:
        console.print(foot.render())
    assert shown.get() == "a: 2 of 3, and a note that is longer th…\n"
    foot.feed(f" of a line\n{ours} \n".encode())
    with console.capture() as shown:
        console.print(foot.render(), end="")
    assert shown.get() == ""
    foot.feed(b"end")
    foot.end()
    assert console.file.getvalue() == "whole\npart of a line\nend\n"  # type: ignore[attr-defined]


def test_more_jobs_than_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xtalrl.live._runs", lambda pid: True)
    console = Console(file=io.StringIO(), force_terminal=True, width=40, height=8, color_system=None)
    foot = Foot(console)
    foot.feed("".join(f"{LIVE_MARK}{pid} job {pid}\n" for pid in range(1, 8)).encode())
    with console.capture() as shown:
        console.print(foot.render())
    assert shown.get().splitlines() == ["job 1", "job 2", "job 3", "… and 4 jobs more"]
