"""Downloads: resumed, retried, checked as a whole, never incomplete under their final name, and made by one run at a time.

`resources/downloads.yaml` is the manifest: name, url, checksum, description and licence of each file. The environment variable
XTALRL_MIRROR, the URL of a folder that holds the files under their names in the manifest, replaces the published locations.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import tenacity
import urllib3
import yaml

from xtalrl.errors import XtalrlError, without_secrets
from xtalrl.files import put
from xtalrl.progress import Progress
from xtalrl.resources import RESOURCES
from xtalrl.sharing import make_folder, share

logger = logging.getLogger(__name__)
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)  # Its warnings show addresses with their secrets.

MIRROR_VARIABLE = "XTALRL_MIRROR"
ATTEMPTS = 6
FIRST_WAIT_S = 1.0
"""Seconds to wait after the first failure; doubled after each further one, with jitter."""
TIMEOUT_S = (15.0, 60.0)
"""Longest wait in s for a connection, and between two pieces of the answer."""
CHUNK_BYTES = 1 << 16
"""Maximum number of bytes that a broken connection loses."""
MAX_BYTES = 1_000_000_000
"""Maximum size of a download. None of our files has a tenth of it: anything larger is the wrong file, or never ends."""
SLOW_S, SLOW_BYTES = 300.0, 300_000
"""A connection that brings fewer than `SLOW_BYTES` in `SLOW_S` seconds counts as broken."""
TRANSIENT_STATUS = frozenset((408, 425, 429, 500, 502, 503, 504))


@dataclass(frozen=True)
class Download:
    """One file of the manifest; `checksum` is `<kind>:<hex digest>` (see `checksum_of`)."""

    url: str
    checksum: str
    description: str
    licence: str


def manifest() -> dict[str, Download]:
    """Every file the project can download, by name."""
    return {
        name: Download(**entry) for name, entry in yaml.safe_load((RESOURCES / "downloads.yaml").read_text()).items()
    }


def fetch(name: str, path: str | Path) -> None:
    """Download a file of the manifest to `path`, from the mirror if one is set (see `download`)."""
    entry = manifest()[name]
    mirror = os.environ.get(MIRROR_VARIABLE)
    download(f"{mirror.rstrip('/')}/{name}" if mirror else entry.url, path, entry.checksum)


def checksum_of(path: str | Path, kind: str) -> str:
    """`<kind>:<hex digest>` of a file. Kinds: sha256, md5, sha1, and git-blob-sha1 (what `git hash-object` prints).

    Raises:
        ValueError: the kind is none of these.
    """
    match kind:
        case "sha256" | "md5" | "sha1":
            digest = hashlib.new(kind, usedforsecurity=False)
        case "git-blob-sha1":
            digest = hashlib.sha1(b"blob %d\0" % os.path.getsize(path), usedforsecurity=False)
        case _:
            raise ValueError(f"unknown kind of checksum {kind!r}")
    with open(path, "rb") as file:
        hashlib.file_digest(file, lambda: digest)
    return f"{kind}:{digest.hexdigest()}"


def download(url: str, path: str | Path, checksum: str) -> None:
    """Download `url` to `path` unless the file is there already; `path` appears only when its checksum is right.

    What has arrived is kept beside it (`.<name>.part`), so that a later call resumes where this one was interrupted. While one run writes there,
    others that want the same file wait. Redirects to any http or https address are followed, since the checksum tells whether the file is right.

    Args:
        url: address of the file; no message shows its password or query.
        path: file to write.
        checksum: `<kind>:<hex digest>`, kinds as in `checksum_of`.

    Raises:
        XtalrlError: the server refuses, cannot be reached in `ATTEMPTS` attempts, or sends a different file.
    """
    path = Path(path)
    if path.is_dir():
        raise XtalrlError(
            f"{path} is a folder, and a downloaded file belongs there: remove it, then run the same command again."
        )
    make_folder(path.parent)
    while not _is_there(path, checksum):
        with _locked_part(path) as part:
            if part is not None and not _is_there(path, checksum):
                _complete(url, part, path, checksum)
                share(part)
                put(part, path)
                logger.info("%s: %s bytes, %s", path, f"{path.stat().st_size:,}", checksum)
                return
    logger.info("%s is there already", path)


def _is_there(path: Path, checksum: str) -> bool:
    return path.is_file() and checksum_of(path, checksum.partition(":")[0]) == checksum


@contextmanager
def _locked_part(path: Path) -> Iterator[Path | None]:
    """The file beside `path` that collects the download, locked for this process; None if it is gone once we have the lock."""
    part = path.with_name(f".{path.name}.part")
    with open(part, "ab") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("Another run is downloading %s: waiting for it", path)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            # Without locks, each run has a part of its own.
            logger.info("%s has no locks (%s)", path.parent, error.strerror)
            if not part.stat().st_size:
                part.unlink()
            part = part.with_name(f"{part.name}-{os.uname().nodename}-{os.getpid()}")
            part.touch()
        else:
            if not part.exists() or not os.path.samestat(part.stat(), os.fstat(file.fileno())):
                yield None
                return
        try:
            yield part
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()


def _complete(url: str, part: Path, path: Path, checksum: str) -> None:
    """Download the rest of the file into `part`, resuming from what is already there."""
    kind = checksum.partition(":")[0]
    resumed = part.stat().st_size > 0
    _retrieve(url, part)
    if resumed and checksum_of(part, kind) != checksum:
        logger.info("The rest of %s does not fit what an earlier run had left: downloading it again", path.name)
        os.truncate(part, 0)
        _retrieve(url, part)
    if (actual := checksum_of(part, kind)) != checksum:
        size = part.stat().st_size
        os.truncate(part, 0)
        raise XtalrlError(
            f"{without_secrets(url)} sent another file than expected for {path} ({size:,} bytes): its checksum is {actual} instead of "
            f"{checksum}. A proxy may have answered, or the file was changed. Try again later, or name a mirror in {MIRROR_VARIABLE}."
        )


class _Interrupted(Exception):
    """A failure that may be temporary; the message says what happened."""


def _retrieve(url: str, part: Path) -> None:
    """Fetch all of `url` into `part`, appending to what is already there."""
    shown = without_secrets(url)
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Interrupted),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=60) + tenacity.wait_random(0, FIRST_WAIT_S),
        before_sleep=lambda state: logger.info(
            "%s: %s, attempt %d of %d",
            shown,
            state.outcome and state.outcome.exception(),
            state.attempt_number,
            ATTEMPTS,
        ),
        reraise=True,
    )
    try:
        attempts(_attempt, url, part)
    except _Interrupted as error:
        raise XtalrlError(
            f"{shown} could not be downloaded in {ATTEMPTS} attempts ({error}). Check the network and the proxy settings "
            f"(HTTPS_PROXY), or name a mirror in {MIRROR_VARIABLE}; the same command goes on where it stopped."
        ) from None


def _attempt(url: str, part: Path) -> None:
    shown, offset = without_secrets(url), part.stat().st_size
    # Content encodings and byte ranges cannot be combined.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if response.status_code in TRANSIENT_STATUS:
                raise _Interrupted(f"the server answered {response.status_code} {response.reason}")
            if offset and response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # Nothing is missing; the checksum tells whether the file is right.
            if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
                raise XtalrlError(
                    f"{shown}: the server answered {response.status_code} {response.reason}. The file was moved or is not public: "
                    f"name a mirror in the environment variable {MIRROR_VARIABLE}, or get the file by other means."
                )
            if response.headers.get("Content-Range", "").partition("-")[0] != f"bytes {offset}":
                offset = 0  # The server sends the whole file, not the range that was requested.
            announced = response.headers.get("Content-Length", "")
            _save(response, part, offset, int(announced) if announced.isdecimal() and len(announced) < 20 else 0, shown)
    except requests.exceptions.SSLError as error:
        raise XtalrlError(
            f"{shown}: the server's certificate was refused ({without_secrets(str(error))}). Check the clock, the proxy and "
            "REQUESTS_CA_BUNDLE."
        ) from None
    except requests.exceptions.TooManyRedirects as error:
        raise XtalrlError(
            f"{shown} redirects in circles ({without_secrets(str(error))}): name another mirror in {MIRROR_VARIABLE}."
        ) from None
    except requests.exceptions.InvalidHeader as error:
        raise _Interrupted(f"a header of the answer is invalid: {without_secrets(str(error))}") from None
    except (
        ValueError
    ) as error:  # InvalidURL, MissingSchema, InvalidSchema, and what urllib raises for what is not an address.
        raise XtalrlError(
            f"{shown!r} is not a URL that can be downloaded, or redirects to one ({without_secrets(str(error))}): check {MIRROR_VARIABLE} "
            "and the proxy settings (HTTPS_PROXY)."
        ) from None
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException) as error:
        raise _Interrupted(f"{type(error).__name__}: {without_secrets(str(error))}") from None


def _save(response: requests.Response, part: Path, offset: int, announced: int, shown: str) -> None:
    """Write the body of a response into `part`, starting at `offset`."""
    progress = Progress(f"Downloading {part.name[1:].partition('.part')[0]}", offset + announced, "bytes", done=offset)
    size, since, came = offset, time.monotonic(), 0
    with open(part, "r+b") as file:
        file.seek(offset)
        file.truncate()
        try:
            while chunk := response.raw.read1(CHUNK_BYTES, decode_content=True):
                size, came = size + len(chunk), came + len(chunk)
                if max(size, offset + announced) > MAX_BYTES:
                    size = offset = 0
                    raise XtalrlError(
                        f"{shown} sends more than {MAX_BYTES:,} bytes, which no file of xtalrl has: check {MIRROR_VARIABLE}, or get the file "
                        "by other means."
                    )
                file.write(chunk)
                progress.advance(len(chunk))
                if time.monotonic() - since > SLOW_S:
                    if came < SLOW_BYTES:
                        raise _Interrupted(f"only {came:,} bytes came in {SLOW_S:.0f} s")
                    since, came = time.monotonic(), 0
        finally:
            if size == offset:  # What an earlier run left may be too long: then nothing can follow it.
                file.truncate(0)
