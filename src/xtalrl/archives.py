"""Files from zip and tar archives that may be damaged or hostile: found by name and read into memory, up to a limit; nothing is unpacked."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zipfile
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Any, cast

from xtalrl.errors import XtalrlError

SUFFIXES = (".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MAX_FILE_BYTES = 100_000_000
MAX_BYTES = 4_000_000_000
"""Maximum number of bytes that are read from an archive, or decompressed to get there."""


def is_archive(path: Path) -> bool:
    """Whether a file is an archive, judged by its name."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def files_in(source: Path, names: Container[str]) -> Iterator[tuple[str, bytes]]:
    """Name (without folder) and content of the files with these names in an archive, in any of its folders.

    A link is followed to another file of the archive, never out of it.

    Raises:
        XtalrlError: the file is not an archive, is damaged or encrypted, or exceeds the limits on size.
    """
    read = 0
    try:
        for name, content in _zip_files(source, names) if zipfile.is_zipfile(source) else _tar_files(source, names):
            read += len(content)
            if len(content) > MAX_FILE_BYTES or read > MAX_BYTES:
                raise _TooLarge(f"{name} or the files before it are too large")
            yield name, content
    except Exception as error:  # Besides their own errors, zipfile and tarfile raise whatever the data cause: RuntimeError, KeyError, zlib.error …
        reason = str(error) or type(error).__name__
        raise XtalrlError(f"The archive {source} is damaged or cannot be read ({reason}): get it again.") from None


class _TooLarge(Exception):
    pass


def _zip_files(source: Path, names: Container[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if not info.is_dir() and (name := info.filename.rpartition("/")[2]) in names:
                with archive.open(info) as file:
                    yield name, file.read(MAX_FILE_BYTES + 1)


def _tar_files(source: Path, names: Container[str]) -> Iterator[tuple[str, bytes]]:
    with source.open("rb") as file:
        magic = file.read(2)
    unpack: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    with (
        unpack.get(magic, open)(source, "rb") as plain,
        tarfile.TarFile(fileobj=cast(IO[bytes], _Bounded(plain))) as archive,
    ):
        for entry in archive:
            if (name := entry.name.rpartition("/")[2]) in names and (content := archive.extractfile(entry)) is not None:
                yield name, content.read(MAX_FILE_BYTES + 1)


class _Bounded:
    """A file for tarfile, which would otherwise read any size that a header states into memory, and seek to wherever the data point."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.tell = file.tell

    def seek(self, position: int, whence: int = 0) -> int:
        if position > MAX_BYTES:
            raise _TooLarge(f"it goes on at {position:,}, more than can be right")
        return self.file.seek(position, whence)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_FILE_BYTES + 1 or self.tell() + size > MAX_BYTES:
            raise _TooLarge(f"{size:,} bytes at {self.tell():,} are more than can be right")
        return self.file.read(size)
