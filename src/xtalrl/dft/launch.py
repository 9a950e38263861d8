"""Start a command that does not outlive us: `python launch.py PARENT_PID COMMAND...`. Run as a file; imports nothing of ours.

The command leads its own session, so that it can be ended with all its children, and the kernel sends it SIGTERM when the process
that started it dies, even of SIGKILL (prctl(2), PR_SET_PDEATHSIG).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
COULD_NOT_START = 127
"""Exit code of a command that is not there, as in a shell."""


def main(parent: int, command: list[str]) -> None:
    """Become the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)  # The parent died before the kernel knew whom to watch.
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(COULD_NOT_START)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
