"""Files from the network: resumed, retried, checked as a whole, and never half under their final name.

`resources/downloads.yaml` is the manifest: name, url, checksum, description and licence of each file. The environment variable
XTALRL_MIRROR, the URL of a folder that holds the files under their names in the manifest, replaces the published locations.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import requests
import tenacity
import yaml

from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.resources import RESOURCES

logger = logging.getLogger(__name__)

MIRROR_VARIABLE = "XTALRL_MIRROR"
ATTEMPTS = 6
FIRST_WAIT_S = 1.0
"""Wait after the first failure; doubled after each further one, with jitter."""
TIMEOUT_S = (15.0, 60.0)
"""To connect, and between two pieces of the answer."""
CHUNK_BYTES = 1 << 16
"""What a broken connection loses at most."""
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
        ValueError: another kind.
    """
    match kind:
        case "sha256" | "md5" | "sha1":
            digest = hashlib.new(kind, usedforsecurity=False)
        case "git-blob-sha1":
            digest = hashlib.sha1(b"blob %d\0" % os.path.getsize(path), usedforsecurity=False)
        case _:
            raise ValueError(f"unknown kind of checksum {kind!r}")
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"


def download(url: str, path: str | Path, checksum: str) -> None:
    """Download `url` to `path` unless it is there already; `path` appears only when its checksum is right.

    What arrived is kept beside it (`.<name>.part`), so that a later call goes on where this one was cut off.

    Args:
        checksum: `<kind>:<hex digest>`, kinds as in `checksum_of`.

    Raises:
        XtalrlError: the server refuses, cannot be reached in `ATTEMPTS` attempts, or sends another file.
    """
    path = Path(path)
    kind = checksum.partition(":")[0]
    if path.is_file() and checksum_of(path, kind) == checksum:
        logger.info("%s is there already", path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    resumed = part.exists()
    _retrieve(url, part)
    if resumed and checksum_of(part, kind) != checksum:
        logger.info("The rest of %s does not fit what an earlier run had left: downloading it anew", path.name)
        part.unlink()
        _retrieve(url, part)
    if (actual := checksum_of(part, kind)) != checksum:
        size = part.stat().st_size
        part.unlink()
        raise XtalrlError(
            f"{url} sent another file than expected for {path} ({size:,} bytes): its checksum is {actual}, it must be {checksum}. "
            f"A proxy may have answered, or the file was changed. Try again later, or name a mirror in {MIRROR_VARIABLE}."
        )
    os.replace(part, path)
    logger.info("%s: %s bytes, %s", path, f"{path.stat().st_size:,}", checksum)


class _Transient(Exception):
    """A failure that may pass; its text says what happened."""


def _retrieve(url: str, part: Path) -> None:
    """Fetch all of `url` into `part`, appending to what is there."""
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Transient),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_S, max=60) + tenacity.wait_random(0, FIRST_WAIT_S),
        before_sleep=lambda state: logger.info(
            "%s: %s, attempt %d of %d", url, state.outcome and state.outcome.exception(), state.attempt_number, ATTEMPTS
        ),
        reraise=True,
    )
    try:
        attempts(_attempt, url, part)
    except _Transient as error:
        raise XtalrlError(
            f"{url} could not be downloaded in {ATTEMPTS} attempts ({error}). Check the network and the proxy settings "
            f"(HTTPS_PROXY), or name a mirror in {MIRROR_VARIABLE}; the same command goes on where it stopped."
        ) from None


def _attempt(url: str, part: Path) -> None:
    offset = part.stat().st_size if part.exists() else 0
    # Content codings and byte ranges do not go together.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if response.status_code in TRANSIENT_STATUS:
                raise _Transient(f"the server answered {response.status_code} {response.reason}")
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                return  # Nothing is missing; the checksum tells whether what is there is right.
            if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
                raise XtalrlError(
                    f"{url}: the server answered {response.status_code} {response.reason}. The file was moved or is not public: "
                    f"name a mirror in the environment variable {MIRROR_VARIABLE}, or get the file by other means."
                )
            if response.headers.get("Content-Range", "").partition("-")[0] != f"bytes {offset}":
                offset = 0  # The whole file, not the range that was asked for.
            missing = int(response.headers.get("Content-Length") or 0)
            progress = Progress(f"Downloading {part.name[1:-5]}", offset + missing, "bytes", done=offset)
            with open(part, "r+b" if offset else "wb") as file:
                file.seek(offset)
                for chunk in response.iter_content(CHUNK_BYTES):
                    file.write(chunk)
                    progress.advance(len(chunk))
    except requests.exceptions.SSLError as error:
        raise XtalrlError(
            f"{url}: the server's certificate was refused ({error}). Check the clock, the proxy and REQUESTS_CA_BUNDLE."
        ) from None
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidSchema,
    ) as error:
        raise XtalrlError(f"{url!r} is not a URL that can be downloaded ({error}): check {MIRROR_VARIABLE}.") from None
    except requests.exceptions.RequestException as error:
        raise _Transient(f"{type(error).__name__}: {error}") from None
