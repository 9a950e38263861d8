"""The documentation holds together: pages are in the navigation, links land, and every printed command, path and target exists.

The strict build of the site and the links of its pages are CI's (`make site`); nothing here needs MkDocs.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import snakemake.cli
import typer
import yaml
from printed_commands import FENCE, PAGES, ROOT, printed_commands, words_of

from xtalrl.commands.cli import app

NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(#[^)\s]*)?\)")


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text())


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ +(.*?) *$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# ---------------------------------------------------------------------------------------------------- pages and links


def navigation(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for child in entry.values() if isinstance(entry, dict) else entry:
            yield from navigation(child)


def test_every_page_is_in_the_navigation_once() -> None:
    outside = load_tool("site_pages").OUTSIDE
    nav = list(navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2])))
    assert len(nav) == len(set(nav)) > 30
    assert {path if path in outside else f"docs/{path}" for path in nav} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_link_lands(name: str) -> None:
    page = ROOT / name
    outside = load_tool("site_pages").OUTSIDE
    for target, anchor in LINK.findall(prose(page)):
        path = (page.parent / target).resolve() if target else page
        assert path.is_file(), f"{name} links to {target}: no such file"
        where = str(path.relative_to(ROOT))
        assert where.startswith("docs/") or where in outside, f"{where}: name it in tools/site_pages.py"
        assert not anchor or anchor[1:] in anchors(path), f"{name} links to {target}{anchor}: no such heading"


@pytest.mark.parametrize(
    ("page", "link", "on_the_site"),
    [
        ("README.md", "docs/dft.md#pwx", "dft.md#pwx"),
        ("README.md", "config/README.md", "config/README.md"),
        ("dft.md", "results/scf_benchmark.md", "results/scf_benchmark.md"),
        ("dft.md", "../CONTRIBUTING.md", "CONTRIBUTING.md"),
        ("results/leak.md", "../deviations.md", "../deviations.md"),
        ("resources/pretrained/predictor/README.md", "../../../docs/predictor.md", "../../../predictor.md"),
        ("dft.md", "https://example.org/docs/dft.md", "https://example.org/docs/dft.md"),
        ("dft.md", "#pwx", "#pwx"),
    ],
)
def test_links_of_the_repository_become_those_of_the_site(page: str, link: str, on_the_site: str) -> None:
    class Site:
        class file:  # noqa: N801
            src_uri = page

    assert load_tool("site_pages").on_page_markdown(f"[x]({link})", Site, None, None) == f"[x]({on_the_site})"


def test_the_check_of_a_built_site_finds_what_does_not_land(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">1</a><a href="b.html#gone">2</a><a href="c.html">3</a><a href="https://example.org">4</a>'
        '<script src="https://example.org/x.js"></script><link href="/b.html">'
    )
    (tmp_path / "b.html").write_text('<h1 id="there">B</h1>')
    assert load_tool("check_site").faults(tmp_path) == [
        "a.html links to b.html#gone: there is no such anchor",
        "a.html links to c.html: there is no such file",
        "a.html loads https://example.org/x.js",
    ]


# ------------------------------------------------------------------------------------------------ commands and files

COMMANDS = typer.main.get_command(app)
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
TARGETS = set(re.findall(r"^rule (\w+):", (ROOT / "Snakefile").read_text(), re.MULTILINE)) | {"xtalrl_all"}
PLACEHOLDER = re.compile(r"[A-Z_-]+|…|\.\.\.")


def test_there_are_commands_to_check() -> None:
    pages = [page for page, _ in printed_commands()]
    assert len(pages) > 60
    assert len(set(pages)) > 15


@pytest.mark.parametrize(("page", "command"), printed_commands())
def test_a_printed_command_exists(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    program, *words = words_of(command)
    if program == "make":
        assert [word for word in words if "=" not in word and word not in MAKE_TARGETS] == []
    elif program == "xtalrl":
        parse_xtalrl(words)
    else:
        parse_snakemake(words[words.index("snakemake") + 1 :] if "snakemake" in words else words[program == "sbatch" :])


def parse_xtalrl(words: list[str]) -> None:
    """Let the command's own parser read the words; what it does not know is an error."""
    command: Any = COMMANDS
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands
        command, words = command.commands[words[0]], words[1:]
    if words != ["--version"] and not hasattr(command, "commands"):
        command.make_context("xtalrl", list(words))


def parse_snakemake(words: list[str]) -> None:
    """Let Snakemake's own parser read the words, and look at targets and configuration files: after --configfile all is a file to it."""
    if "--reporter" in words:  # the options of a plugin that is not installed here stand last, each with its value
        first = next(index for index, word in enumerate(words) if word.startswith("--report-"))
        assert all(word.startswith("--report-") for word in words[first::2])
        words = words[:first]
    _, arguments = snakemake.cli.parse_args(words)
    for target in arguments.targets:
        assert target in TARGETS or target.startswith("results/"), f"{target} is not a target"
    for file in map(str, arguments.configfile or []):
        name = Path(file).name
        assert name.endswith((".yaml", ".json")) or PLACEHOLDER.fullmatch(name), f"{name} is not a configuration file"
        assert "config/" not in file or (ROOT / file).exists(), f"there is no {file}"


INLINE = re.compile(r"`(make|xtalrl|snakemake) ([a-z][\w-]*)(?![\w/])( [a-z]+)?[^`]*`")
FOLDERS = ("src", "tests", "benchmarks", "tools", "config", "resources", "docs", "profiles", "rules", "envs", "workflow", "requirements")  # fmt: skip
PATH = re.compile(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./-]*\w)")
OF_A_FOLDER_OF_ONES_OWN = {"profiles/mine"}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_sentence_names_is_there(name: str) -> None:
    """Commands between backticks, and files of the repository."""
    text = (ROOT / name).read_text()
    for program, word, second in INLINE.findall(text):
        known = {"make": MAKE_TARGETS, "xtalrl": set(COMMANDS.commands), "snakemake": TARGETS}[program]  # type: ignore[attr-defined]
        assert word in known, f"`{program} {word}`"
        if word == "cache" and second:
            assert second.strip() in COMMANDS.commands["cache"].commands  # type: ignore[attr-defined]
    missing = {path for path in PATH.findall(text) if not (ROOT / path).exists()}
    assert missing <= OF_A_FOLDER_OF_ONES_OWN, missing


def test_every_target_has_its_row(root: Path) -> None:
    rows = "\n".join(re.findall(r"^\| (`.*?) \|", (root / "docs/targets.md").read_text(), re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", rows)) == TARGETS - {"xtalrl_all"}
