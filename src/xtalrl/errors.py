"""Errors whose message says everything: what is wrong and where, what is allowed, and what to run next."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence


class XtalrlError(Exception):
    """A mistake or a missing thing that the user can fix, shown as one sentence, never as a traceback."""


def shorten(items: Sequence[str], n: int = 5, separator: str = ", ") -> str:
    """The first n of these words or sentences, and how many more there are."""
    more = len(items) - n
    return separator.join(items[:n]) + (f"{separator}and {more:,} more" if more > 0 else "")


def explain_os_error(error: OSError) -> XtalrlError | None:
    """The error with a sentence for an operating-system failure that a user can fix; None for any other failure."""
    where = f" while writing {error.filename!r}" if error.filename else ""
    which = f" for {error.filename!r}" if error.filename else ""
    if error.errno == errno.ENOSPC:
        return XtalrlError(f"The disk is full{where}: free some space (`df -h`), then run the same command again.")
    if error.errno == errno.EDQUOT:
        return XtalrlError(f"The disk quota is used up{where}: free some space, then run the same command again.")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return XtalrlError(
            f"Permission denied{which}: fix its permissions, or name another place (of a run: `results:` and `cache:` in the config)."
        )
    if error.errno in _IMPOSSIBLE and error.filename:
        return XtalrlError(
            f"{error.filename!r} is not a path that can be used here ({error.strerror}): choose another."
        )
    return None


_IMPOSSIBLE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)


def without_secrets(text: str) -> str:
    """The text with user, password and query of every address hidden: `https://***@host/path?***`."""
    without_users = re.sub(r"(?<=//)[^\s'\"]*@|(?<![^\s'\"(])(?!\w+://)[^\s'\"/(]+:[^\s'\"]*@", "***@", text)
    return re.sub(r"\?[^\s'\")>]+", "?***", without_users)
