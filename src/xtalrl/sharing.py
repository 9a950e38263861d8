"""Files in a shared folder: they take the folder's group and mode, whatever the umask of the user who writes them."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from xtalrl.files import whole_file


def make_folder(folder: Path) -> None:
    """Make a folder as `mkdir -p` does; every new folder takes the group and mode (including setgid) of the folder that it is in."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    share(folder)


def share_tree(folder: Path) -> None:
    """Apply `share` to a new folder of ours and everything in it, from the top down."""
    for path in (folder, *sorted(folder.rglob("*"))):
        share(path)


def share(path: Path) -> None:
    """Give a new file or folder of ours the group and mode of the folder that it is in; files are never made executable."""
    parent = path.parent.stat()
    mode = stat.S_IMODE(parent.st_mode) & ~stat.S_ISVTX
    with contextlib.suppress(OSError):  # Not our file, not a member of the group, or a file system without modes.
        if path.stat().st_gid != parent.st_gid:
            os.chown(path, -1, parent.st_gid)
    with contextlib.suppress(OSError):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def write_shared(path: Path, content: bytes) -> None:
    """Write a file as `whole_file` does, with the group and mode of its folder.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    make_folder(path.parent)
    with whole_file(path) as part:
        part.write_bytes(content)
        share(part)
