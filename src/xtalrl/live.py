"""The foot of the terminal that Snakemake runs in: one line per running job with its rate and the time left, below everything that is printed.

Snakemake and its jobs are processes that write to the same terminal. The Snakemake process therefore replaces the terminal with a pipe, and one of its
threads shows what comes through, so that lines of different processes never mix.
"""

from __future__ import annotations

import atexit
import os
import select
import sys
import threading

from rich.ansi import AnsiDecoder
from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.live import Live
from rich.text import Text

from xtalrl.progress import LIVE, LIVE_MARK, address_of

STDOUT, STDERR = 1, 2


class Foot:
    """The lines of the running jobs, and everything else, which is printed above them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.lines: dict[int, str] = {}
        """Last progress line of each job, by the id of its process."""
        self._decoder = AnsiDecoder()
        self._rest = b""
        self.live = Live(
            get_renderable=self.render,
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def feed(self, data: bytes) -> None:
        """Show the complete lines of what was written, and keep the rest."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._show(line.decode(errors="replace"))

    def end(self) -> None:
        """Show the rest, although its line is incomplete."""
        if self._rest:
            self.feed(b"\n")

    def _show(self, line: str) -> None:
        pid, _, text = line.removeprefix(LIVE_MARK).partition(" ")
        if line.startswith(LIVE_MARK) and pid.isdecimal():
            self.lines[int(pid)] = text
        else:
            self.console.print(self._decoder.decode_line(line.rstrip("\r")), soft_wrap=True)

    def render(self) -> RenderableType:
        """A line for each job that still runs and has reported progress, as many as there is room for."""
        for pid in tuple(self.lines):
            if not _runs(pid):
                self.lines.pop(pid, None)
        lines = [text for _, text in sorted(self.lines.copy().items()) if text]
        room = max(1, self.console.height // 2)
        if len(lines) > room:
            lines[room - 1 :] = [f"… and {len(lines) - room + 1} jobs more"]
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))


class _Terminal(Console):
    """A console that takes its size from its own file, because stdout and stderr are now pipes."""

    @property
    def size(self) -> ConsoleDimensions:
        columns, rows = os.get_terminal_size(self.file.fileno())
        return ConsoleDimensions(columns or 80, rows or 24)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        raise NotImplementedError


def show_running_jobs() -> None:
    """Show the progress of this process's jobs at the foot of its terminal, if it has one, until the process ends."""
    if not os.isatty(STDERR) or os.environ.get("TERM", "dumb") == "dumb":
        return
    places = {number: os.dup(number) for number in (STDOUT, STDERR) if os.isatty(number)}
    terminal = open(places[STDERR], "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    foot = Foot(_Terminal(file=terminal, force_terminal=True))
    read, write = os.pipe()
    for number in places:
        os.dup2(write, number)
    os.close(write)
    os.environ[LIVE] = address_of(STDERR)
    ending = threading.Event()
    thread = threading.Thread(target=_show_what_is_written, args=(read, foot, ending), daemon=True)
    thread.start()

    def give_back() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, place in places.items():
            os.dup2(place, number)
        ending.set()
        thread.join(timeout=5)

    atexit.register(give_back)


def _show_what_is_written(read: int, foot: Foot, ending: threading.Event) -> None:
    """Show everything that comes through a pipe, until nothing more can come."""
    try:
        with foot.live:
            foot.console.show_cursor()  # If this process is killed, the terminal must not be left without a cursor.
            while True:
                if select.select([read], [], [], 0.1)[0]:
                    if not (data := os.read(read, 65536)):
                        break
                    foot.feed(data)
                elif ending.is_set():
                    break
            foot.end()
    except Exception as error:  # The run must not stop with its display: jobs block unless their output is read.
        terminal = foot.console.file.fileno()
        os.write(terminal, f"The display of the running jobs ended: {error!r}\n".encode())
        while data := os.read(read, 65536):
            os.write(terminal, data)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
