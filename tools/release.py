"""Pack a release into one folder: what the package index gets and what Zenodo gets.

    python tools/release.py                 # dist/xtalrl-0.1.0/ from the tag v0.1.0, which is the commit that is checked out
    python tools/release.py --untagged      # a trial, from a commit without the tag of its version

Everything comes from the commit and nothing from the folder, and the same commit gives the same bytes. docs/releasing.md says what comes before and after.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "codemeta.json")
MEASUREMENTS = "docs/results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "dist", help="where the folder of the release is made")
    parser.add_argument("--untagged", action="store_true", help="do without the tag of the version")
    arguments = parser.parse_args()
    if changes := git("status", "--porcelain"):
        fail(
            f"there are changes that are not committed, which a release would lack:\n{changes}\nCommit them, or stash them with `git stash -u`."
        )
    version = tomllib.loads(git("show", "HEAD:pyproject.toml"))["project"]["version"]
    tag = f"v{version}"
    if tag not in git("tag", "--points-at", "HEAD").split() and not arguments.untagged:
        fail(f"the commit that is checked out has no tag {tag}: `git tag --annotate {tag}`, or try with --untagged.")
    name = f"xtalrl-{version}"
    release = arguments.folder / name
    if release.exists():
        fail(f"{release} is there already: delete it first.")
    with tempfile.TemporaryDirectory() as scratch:
        packed = Path(scratch) / name
        packed.mkdir()
        pack(packed, name)
        arguments.folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(packed, release)
    for line in (release / "SHA256SUMS").read_text().splitlines():
        print(line)
    print(f"Packed {release}")


def pack(folder: Path, name: str) -> None:
    """Write all files of a release, and their checksums."""
    source = folder / f"{name}.tar.gz"
    git("archive", f"--prefix={name}/", f"--output={source}", "HEAD")
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(source) as archive:
            archive.extractall(scratch, filter="data")
        build_wheel(Path(scratch) / name, folder)
        for file in COPIED:
            shutil.copy(Path(scratch) / name / file, folder)
        shutil.copy(Path(scratch) / name / ".zenodo.json", folder / "zenodo.json")
    measurements = folder / f"{name}-measurements.zip"
    git("archive", f"--prefix={name}/", f"--output={measurements}", "HEAD", MEASUREMENTS)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")


def build_wheel(project: Path, folder: Path) -> None:
    """Build the wheel of an unpacked source archive, dated as the commit."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    environment = os.environ | {"SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct")}
    built = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    if built.returncode:
        fail(f"`{' '.join(command)}` ended with exit code {built.returncode}:\n{built.stdout}{built.stderr}")


def git(*words: str) -> str:
    """What a command of git prints, without the last newline."""
    result = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        fail(f"`git {' '.join(words)}` ended with exit code {result.returncode}: {result.stderr.strip()}")
    return result.stdout.rstrip("\n")


def fail(message: str) -> NoReturn:
    sys.exit(f"[release] ERROR: {message}")


if __name__ == "__main__":
    main()
