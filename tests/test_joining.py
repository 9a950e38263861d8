"""What people meet who join: hooks that are `make lint`, forms of issues, a changelog that is in order."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from xtalrl import __version__
from xtalrl.commands.cli import app

CHANGES = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def hooks(root: Path) -> list[dict[str, Any]]:
    (repository,) = yaml.safe_load((root / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local", "a hook of another repository would bring versions of its own"
    return list(repository["hooks"])


def test_the_hooks_are_those_of_make_lint(root: Path) -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (root / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    lint = [line.strip() for line in recipe[1].splitlines() if "snakemake --lint" not in line]
    hooked = [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in hooks(root)]
    assert len(lint) == len(hooked)
    assert all(line.startswith(command) for line, command in zip(lint, hooked, strict=True)), (lint, hooked)


def test_snakefmt_sees_the_files_of_make_lint(root: Path) -> None:
    pattern = next(hook["files"] for hook in hooks(root) if hook["id"] == "snakefmt")
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    seen = {path for path in listed.stdout.splitlines() if re.search(pattern, path)}
    rules = {path.relative_to(root).as_posix() for path in (root / "rules").iterdir()}
    assert seen == {"Snakefile", "workflow/Snakefile", *rules}


@pytest.mark.parametrize("name", ["bug", "question"])
def test_a_form_of_an_issue_is_whole(root: Path, name: str) -> None:
    form = yaml.safe_load((root / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
    assert form["name"] and form["description"]
    assert {item["type"] for item in form["body"]} <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    ids = [item["id"] for item in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(item["attributes"]["label"] for item in form["body"])
    assert any(item.get("validations", {}).get("required") for item in form["body"])


def test_the_commands_that_a_form_asks_for_are_there(root: Path) -> None:
    asked = set(re.findall(r"`xtalrl (\w+)", (root / ".github/ISSUE_TEMPLATE/bug.yml").read_text()))
    assert "doctor" in asked
    assert asked <= set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def changelog(root: Path) -> list[str]:
    return re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_changelog_is_in_order(root: Path) -> None:
    first, *releases = changelog(root)
    assert first == "[Unreleased]"
    found = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", heading) for heading in releases]
    assert all(found), releases
    versions = [(tuple(map(int, match.groups()[:3])), match[4]) for match in found if match]
    assert versions == sorted(versions, reverse=True)
    if versions:  # The newest release is the version, or the one before it.
        assert versions[0][0] <= tuple(map(int, re.findall(r"\d+", __version__)))


def test_the_changelog_has_the_sections_of_its_format(root: Path) -> None:
    sections = re.findall(r"^### (.+)$", (root / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert set(sections) <= CHANGES
