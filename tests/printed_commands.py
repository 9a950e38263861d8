"""The pages of the documentation, and the commands that they print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), *ROOT.glob("config/*.md"), *ROOT.glob("profiles/*.md"), *ROOT.glob("resources/**/*.md")])  # fmt: skip
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def printed_commands() -> list[tuple[str, str]]:
    """The commands in the code blocks of all pages, each with its page."""
    found = []
    for page in PAGES:
        for _, language, block in FENCE.findall(page.read_text()):
            if language in ("", "sh", "bash", "console"):
                lines = block.replace("\\\n", " ").splitlines()
                found += [(str(page.relative_to(ROOT)), part.strip()) for line in lines for part in line.split("&&")]
    return [
        (page, line)
        for page, line in found
        if re.match(r"(make|xtalrl|snakemake|sbatch profiles/\S+|\S+ -m snakemake) (?! )", line)
    ]


def words_of(command: str) -> list[str]:
    words = shlex.split(command, comments=True)
    if "|" in words:
        words = words[: words.index("|")]
    return words
