"""Claims on runs of pw.x under way, so that other users of the cache wait for the result instead of computing it too.

`{cache}/claims/{key}` says who computes what: host, process and time. The file is made with link(2), which is atomic on network file systems
too, and deleted when the run has ended. A claim is dead when its process is gone or, on another node, when its file has not been touched
for `STALE_S` by our own clock; whoever finds a dead claim takes it over. No result depends on claims: if two runs take over the same claim at the
same instant, or a node hangs for too long, the same run is merely done twice.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from xtalrl.errors import XtalrlError
from xtalrl.sharing import make_folder, share

logger = logging.getLogger(__name__)

BEAT_S = 30.0
"""Seconds between two touches of the claims of a run."""
STALE_S = 300.0
"""Seconds without a touch after which the claim of another node is dead."""


class Taken(Exception):
    """Another process computes it: the message says which."""


class Claims:
    """What this process has claimed in a cache. Several threads may use it."""

    def __init__(self, cache: str | Path) -> None:
        self.folder = Path(cache) / "claims"
        self._held: set[Path] = set()
        self._seen: dict[Path, tuple[bytes, int, float]] = {}
        """Claims of others: content, mtime, and when we first saw both, on the monotonic clock."""
        self._lock = threading.Lock()
        self._beaten = time.monotonic()

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Hold the claim on a calculation.

        Raises:
            Taken: another run, or another thread of this one, holds it.
            XtalrlError: the cache can only be read.
        """
        path = self.folder / key
        with self._lock:
            is_ours = self._take(path)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(path)
                if is_ours:
                    path.unlink(missing_ok=True)

    def bury_dead(self) -> None:
        """Remove the claims of processes that are gone: nobody else would, where one was killed between the end of its run and that of its claim."""
        for path in self.folder.glob("[!.]*"):
            with self._lock:
                self._living_owner(path)

    def beat(self) -> None:
        """Touch what is held, so that other nodes see that this process lives; call it about once per second."""
        if time.monotonic() - self._beaten < BEAT_S:
            return
        with self._lock:
            self._beaten = time.monotonic()
            for path in self._held:
                with contextlib.suppress(OSError):
                    os.utime(path)

    def _take(self, path: Path) -> bool:
        """Whether the claim was made; False if the file system does not support claims."""
        if (owner := self._living_owner(path)) is not None:
            raise Taken(owner)
        mine = path.with_name(f".{socket.gethostname()}-{os.getpid()}-{time.time_ns()}")
        try:
            make_folder(self.folder)
            mine.write_text(json.dumps(_us() | {"claimed": datetime.now(UTC).isoformat(timespec="seconds")}))
            share(mine)
            with contextlib.suppress(FileExistsError):
                os.link(mine, path)
            # Whether it was made tells the number of links: an answer of NFS may get lost.
            if mine.stat().st_nlink != 2:
                raise Taken(self._living_owner(path) or "another run")
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM) and not os.access(self.folder.parent, os.W_OK):
                raise XtalrlError(
                    f"The cache {str(self.folder.parent)!r} can only be read, and this run needs an SCF that is not in it: choose "
                    "another with `cache:` in the config (`xtalrl cache import` takes over what this one holds), or ask its owner."
                ) from None
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
                raise
            logger.info("%s cannot hold claims (%s): runs side by side may compute the same", self.folder, error)
            return False
        finally:
            mine.unlink(missing_ok=True)
        self._held.add(path)
        return True

    def _living_owner(self, path: Path) -> str | None:
        """The holder of a claim; None if there is no claim, or a dead one, which is removed."""
        try:
            content, mtime = path.read_bytes(), path.stat().st_mtime_ns
        except FileNotFoundError:
            self._seen.pop(path, None)
            return None
        except OSError as error:
            return f"somebody ({error.strerror})"
        try:
            owner = json.loads(content)
            name, is_dead = f"process {owner['pid']} on {owner['host']}", _is_gone(owner)
        except (ValueError, TypeError, KeyError):
            name, is_dead = "somebody", False  # Damaged: it will not be touched either.
        seen = self._seen.get(path)
        if seen is None or seen[:2] != (content, mtime):
            self._seen[path] = seen = (content, mtime, time.monotonic())
        if not is_dead and time.monotonic() - seen[2] < STALE_S:
            return name
        # Renamed first, so that of two that find it dead one removes it, and never the new claim of the other.
        grave = path.with_name(f".dead-{socket.gethostname()}-{os.getpid()}-{time.time_ns()}")
        try:
            os.rename(path, grave)
            if grave.read_bytes() != content:
                os.link(grave, path)
                return "another run"
        except OSError:
            return "another run"
        finally:
            grave.unlink(missing_ok=True)
        logger.info("%s is gone: its claim on %s is void", name, path.name[:16])
        return None


def _us() -> dict[str, str | int]:
    """This process as others on its machine can look for it."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine(), "started": _start_of(os.getpid())}


def _is_gone(owner: dict[str, str | int]) -> bool:
    """Whether a process was on this machine and has ended; of another machine this cannot be known."""
    return owner["machine"] == _machine() and owner["started"] != _start_of(int(owner["pid"]))


def _machine() -> str:
    """Name of the machine, its boot, and the processes we can see: two containers of one name are two machines."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"  # No Linux: nobody else is on it, and only the touches count.


def _start_of(pid: int) -> str:
    """When a process started, in ticks since the boot (proc(5), field 22); empty where there is none, or it is dead already."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after[0] in "ZX" else after[19]
