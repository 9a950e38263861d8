"""Check the pages of a built site: every link lands on a file and an anchor of the site, and nothing is loaded from elsewhere.

`python tools/check_site.py site`, after `make site`.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
"""Attributes whose address the browser loads by itself."""


class Page(HTMLParser):
    """Anchors and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag refers to and where it can be referred to."""
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if tag in LOADED and LOADED[tag] in values:
            self.loaded.add(values[LOADED[tag]])


def faults(site: Path) -> list[str]:
    """A sentence for each address that does not land, or that would be loaded from elsewhere."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for address in sorted(page.links | page.loaded):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.loaded and parts.scheme != "data":
                    found.append(f"{name} loads {address}")
                continue
            folder = site if parts.path.startswith("/") else path.parent  # 404.html counts from the top
            target = (folder / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{name} links to {address}: there is no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name} links to {address}: there is no such anchor")
    return found


def main() -> None:
    site = Path(sys.argv[1])
    n_pages = len(list(site.rglob("*.html")))
    if not n_pages:
        sys.exit(f"{site} holds no page: run `make site`.")
    if found := faults(site):
        sys.exit("\n".join(found))
    print(f"{n_pages} pages in {site}: every link lands, and nothing is loaded from elsewhere")


if __name__ == "__main__":
    main()
