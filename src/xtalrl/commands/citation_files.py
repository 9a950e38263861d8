"""CITATION.cff in the forms of Zenodo and CodeMeta, so that no fact about the project is written twice."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import yaml

from xtalrl.resources import PROJECT


def render_zenodo() -> str:
    """.zenodo.json: the metadata with which Zenodo archives a release."""
    cited, project = _facts()
    paper = cited["preferred-citation"]
    return _json(
        {
            "upload_type": "software",
            "title": cited["title"],
            "description": project["description"],
            "version": cited["version"],
            "license": cited["license"],
            "creators": [{"name": _name(author)} for author in cited["authors"]],
            "keywords": project["keywords"],
            "related_identifiers": [
                {"identifier": paper["doi"], "relation": "cites", "resource_type": "publication-article"}
            ],
        }
    )


def render_codemeta() -> str:
    """codemeta.json: the metadata that search engines for research software read (CodeMeta 2.0)."""
    cited, project = _facts()
    paper = cited["preferred-citation"]
    return _json(
        {
            "@context": "https://doi.org/10.5063/schema/codemeta-2.0",
            "@type": "SoftwareSourceCode",
            "name": project["name"],
            "description": project["description"],
            "version": cited["version"],
            "license": f"https://spdx.org/licenses/{cited['license']}",
            "author": [{"@type": "Organization", "name": _name(author)} for author in cited["authors"]],
            "keywords": project["keywords"],
            "programmingLanguage": "Python",
            "runtimePlatform": f"Python {project['requires-python']}",
            "operatingSystem": "Linux",
            "softwareRequirements": project["dependencies"],
            "referencePublication": {
                "@type": "ScholarlyArticle",
                "name": paper["title"],
                "author": [{"@type": "Person", "name": _name(author)} for author in paper["authors"]],
                "datePublished": str(paper["year"]),
                "identifier": f"https://doi.org/{paper['doi']}",
            },
        }
    )


def _facts() -> tuple[dict[str, Any], dict[str, Any]]:
    cited = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return cited, project


def _name(author: dict[str, str]) -> str:
    """Name with the family name first, as Zenodo wants it, or the name of a group."""
    return author.get("name") or f"{author['family-names']}, {author['given-names']}"


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
