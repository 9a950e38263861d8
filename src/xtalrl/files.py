"""Writing files completely or not at all, synced before they get their name; JSON with a checksum that shows later changes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_CHECKSUM = "record_sha256"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends without an error, the file is synced and gets its final name.

    A reader sees either the old file or the complete new one, even after a crash of the machine. A missing folder is made.

    Raises:
        OSError: the file cannot be written, or the disk is full; the error names the file even where the system did not.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        put(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file with `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | Path, content: str) -> None:
    """Write UTF-8 text with `whole_file`."""
    write_whole(path, content.encode())


def put(written: Path, path: Path) -> None:
    """Give a finished file its final name once its content is on the disk.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    _sync(written)
    written.replace(path)
    with suppress(OSError):  # Some network file systems cannot sync a folder; the file itself is safe.
        _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal_json(record: Mapping[str, Any]) -> str:
    """A record as JSON text that includes a SHA-256 of the content."""
    return json.dumps({**record, _CHECKSUM: _digest(record)}, indent=2) + "\n"


def unseal_json(content: bytes) -> dict[str, Any]:
    """The record in JSON text written by `seal_json`, or by an older version that gave it no checksum.

    Raises:
        ValueError: the text is not a JSON object in UTF-8, or was changed after it was written.
        RecursionError: the text is nested too deeply to be ours.
    """
    record = json.loads(content.decode())
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    checksum = record.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _digest(record):
        raise ValueError("its checksum does not fit")
    return record


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
