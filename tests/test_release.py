"""`make release`, in a clone of the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from xtalrl import __version__

TAG = f"v{__version__}"


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=A Tester", "-c", "user.email=tester@example.org")
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Path:
    """The last commit with the tool as it is now."""
    folder = tmp_path / "clone"
    cloned = subprocess.run(["git", "clone", "--quiet", "--no-tags", str(root), str(folder)], capture_output=True)
    if cloned.returncode:
        pytest.skip("this is not a git checkout")
    shutil.copy(root / "tools/release.py", folder / "tools")
    git(folder, "add", "tools")
    git(folder, "commit", "--allow-empty", "--quiet", "--message", "the tool")
    return folder


def release(clone: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "tools/release.py", *options], cwd=clone, capture_output=True, text=True)


def test_a_release_is_whole_and_the_same_twice(clone: Path, tmp_path: Path) -> None:
    git(clone, "tag", TAG)
    result = release(clone, "--folder", str(tmp_path / "one"))
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "one" / f"xtalrl-{__version__}"
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    sums = (folder / "SHA256SUMS").read_text()
    assert {line.split("  ")[1] for line in sums.splitlines()} == {p.name for p in folder.iterdir()} - {"SHA256SUMS"}

    tracked = set(git(clone, "ls-files").splitlines())
    with tarfile.open(folder / f"xtalrl-{__version__}.tar.gz") as archive:
        held = {name.removeprefix(f"xtalrl-{__version__}/") for name in archive.getnames()}
    assert tracked <= held
    with zipfile.ZipFile(folder / f"xtalrl-{__version__}-measurements.zip") as archive:
        measured = {Path(name).name for name in archive.namelist() if not name.endswith("/")}
    assert measured == {Path(name).name for name in tracked if name.startswith("docs/results/")}
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert "xtalrl/project/Snakefile" in archive.namelist()
    assert json.loads((folder / "zenodo.json").read_text())["version"] == __version__

    release(clone, "--folder", str(tmp_path / "two"))
    assert (tmp_path / "two" / folder.name / "SHA256SUMS").read_text() == sums
    assert "is there already: delete it first" in release(clone, "--folder", str(tmp_path / "two")).stderr


def test_what_would_be_no_release_is_refused(clone: Path) -> None:
    assert f"has no tag {TAG}" in release(clone).stderr
    git(clone, "tag", TAG)
    (clone / "README.md").write_text("changed")
    refused = release(clone)
    assert refused.returncode == 1
    assert "changes that are not committed" in refused.stderr and "README.md" in refused.stderr
    assert not (clone / "dist").exists()
