"""Start a command that does not outlive us: `python launch.py PIPE COMMAND...`. Run as a file; imports nothing of ours.

It leads a session of its own, waits for the command in it, and ends as the command has ended. PIPE is the number of a file descriptor, the reading end of
a pipe whose other end the process that started us holds. When that process dies, even of SIGKILL, the pipe ends, and then the whole session is ended: a
command that is a script would else leave what it has started.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
COULD_NOT_START = 127
"""Exit code of a command that is not there, as in a shell."""
GRACE_S = 5.0
"""Time between SIGTERM and SIGKILL."""


def main(pipe: int, command: list[str]) -> None:
    """Run the command, and end as it does."""
    child = os.fork()
    if child == 0:
        os.close(pipe)
        become(command)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Whoever ends the session means the command.
    threading.Thread(target=end_with, args=(pipe,), daemon=True).start()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # The command has left its own core, if any.
        with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler.
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def become(command: list[str]) -> None:
    """Execute the command, which gets SIGTERM if we, who wait for it, are killed alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(COULD_NOT_START)


def end_with(pipe: int) -> None:
    """Wait until nobody holds the other end of the pipe, and then end the session, us included."""
    os.read(pipe, 1)
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
