"""Runs of pw.x that the end of a job cut off: their saved states wait in the cache for the job that continues them.

`{cache}/unfinished/{key}/` holds pw.x's `out/` and a `state.json`; the key is that of the calculation, as in the cache. A state is copied and
not moved, so that it survives a kill of the run that continues from it, and deleted when that run has its record. It may be deleted at
any time: the run then starts from the beginning.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from xtalrl.sharing import make_folder, share

logger = logging.getLogger(__name__)

MOST_BYTES = 50e9
"""Largest total size of the states in a cache; further ones are not kept. The state of 20 atoms has some 0.2 GB, and a job leaves at most one per core."""
OLDEST_S = 30 * 86400.0
"""Seconds without use after which a state is deleted."""


@dataclass(frozen=True)
class SavedState:
    """A run that was cut off."""

    spent_s: float
    """Wall time of the attempt so far; it counts towards the time limit."""
    engine: str
    """Engine that ran it, with its command: pw.x reads only the files of the same version with as many processes."""


class Unfinished:
    """The states in `{cache}/unfinished`."""

    def __init__(self, cache: str | Path) -> None:
        self.folder = Path(cache) / "unfinished"

    def keep(self, key: str, out: Path, state: SavedState) -> bool:
        """Copy pw.x's `out/`, completely or not at all, and return whether it was kept."""
        try:
            self._delete_old()
            size = _bytes_in(out)
            if _bytes_in(self.folder) + size > MOST_BYTES:
                logger.info(
                    "%s is full (%.0f GB): a run that was cut off will start again from the beginning",
                    self.folder,
                    MOST_BYTES / 1e9,
                )
                return False
            part = self.folder / f".{key}.{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
            try:
                shutil.copytree(out, part / "out")
                (part / "state.json").write_text(json.dumps(asdict(state)))
                for path in (part, *sorted(part.rglob("*"))):
                    share(path)
                self.drop(key)  # One of an earlier job, of less use.
                os.rename(part, self.folder / key)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        except OSError as error:  # Full, or over quota: only time is lost.
            logger.info(
                "The state of a run that was cut off cannot be kept (%s): it will start again from the beginning", error
            )
            return False
        return True

    def restore(self, key: str, out: Path, engine: str) -> SavedState | None:
        """Copy the state of a calculation to pw.x's `out/`, which must not exist; None if there is no state for this engine."""
        kept = self.folder / key
        try:
            state = SavedState(**json.loads((kept / "state.json").read_text()))
            if state.engine != engine:
                return None
            shutil.copytree(kept / "out", out)
        except (OSError, ValueError, TypeError):  # There is none, or it was deleted meanwhile.
            shutil.rmtree(out, ignore_errors=True)
            return None
        return state

    def drop(self, key: str) -> None:
        """Delete the state of a calculation, if there is one."""
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def keys(self) -> list[str]:
        """The calculations whose state is here."""
        return sorted(path.parent.name for path in self.folder.glob("[!.]*/state.json"))

    def _delete_old(self) -> None:
        make_folder(self.folder)
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # Other jobs are at work here, too.
                if time.time() - path.stat().st_mtime > OLDEST_S:
                    shutil.rmtree(path, ignore_errors=True)


def _bytes_in(folder: Path) -> int:
    size = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(os.path.join(parent, name)).st_size
    return size
