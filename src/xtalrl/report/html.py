"""One HTML file that describes a run: results, failures, every design, provenance. It loads nothing from elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from xtalrl.config import validate
from xtalrl.errors import XtalrlError
from xtalrl.files import write_text
from xtalrl.report.sections import RunFiles, sections
from xtalrl.report.viewer_data import THREE_DMOL, three_dmol, three_dmol_licence

logger = logging.getLogger(__name__)


def make_report(results: str | Path, config: Mapping[str, Any], report: str | Path) -> None:
    """Write the report of a results folder.

    A section whose files are missing says so (imported labels, for example, have no SCFs).

    Args:
        results: folder of the run.
        config: configuration of the run, as plain data.
        report: HTML file to write.

    Raises:
        XtalrlError: the folder holds no evaluation, or a file in it is damaged.
    """
    folder = Path(results)
    settings = validate(config)
    if not (folder / "evaluation/evaluation.parquet").is_file():
        raise XtalrlError(f"{folder} holds no evaluation/evaluation.parquet: run `snakemake evaluate` first.")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xtalrl.report"),
        autoescape=jinja2.select_autoescape(("html", "j2")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["percent"] = lambda part, whole: f"{100 * part / whole:.1f} %" if whole else "–"
    environment.globals["three_dmol"] = three_dmol
    environment.globals["inline"] = lambda name: Markup(environment.loader.get_source(environment, name)[0])  # type: ignore[union-attr]
    html = environment.get_template("report.html.j2").render(
        sections(RunFiles(folder, settings)), viewer=THREE_DMOL, viewer_licence=three_dmol_licence()
    )
    write_text(report, html)
    logger.info("Wrote %s (%.1f MB)", report, len(html.encode()) / 1e6)
