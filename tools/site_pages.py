"""Files outside docs/ as pages of the site: README, CONTRIBUTING, model cards. A hook of MkDocs, named in mkdocs.yml.

On the site docs/ is the top, and a file from elsewhere keeps its path from the root of the repository. Links in the
Markdown are those that work in the repository, and are rewritten here.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "config/README.md",
    "profiles/README.md",
    "resources/paper/README.md",
    "resources/pretrained/mp20/README.md",
    "resources/pretrained/predictor/README.md",
    "resources/schemas/evidence.schema.json",
)
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from outside docs/."""
    from mkdocs.structure.files import File

    for path in OUTSIDE:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite relative links, which are those of the repository, to those of the site."""
    path = page.file.src_uri
    folder = posixpath.dirname(path if path in OUTSIDE else f"docs/{path}")

    def on_the_site(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        return posixpath.relpath(target.removeprefix("docs/"), posixpath.dirname(path) or ".")

    return _LINK.sub(on_the_site, markdown)
