"""One HTML file that tells a run: results, failures, every design, provenance. It loads nothing from anywhere."""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import importlib.metadata
import json
import logging
import platform
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import yaml
from markupsafe import Markup

from xtalrl import tables
from xtalrl.config import Config, validate
from xtalrl.dft.outcomes import Outcome
from xtalrl.energies import MISSING_REFERENCE
from xtalrl.errors import XtalrlError
from xtalrl.metrics.designs import SUCCESSFUL_OUTCOMES
from xtalrl.metrics.evaluation import INVALID_COMPOSITION
from xtalrl.metrics.properties import in_window
from xtalrl.report.citations import CITATIONS
from xtalrl.report.curves import learning_curves, read_training_log
from xtalrl.report.files import write_text
from xtalrl.report.style import policy_styles
from xtalrl.report.tables import TABLE1, TABLE2, Column

logger = logging.getLogger(__name__)

PACKAGES = (
    "xtalrl",
    "numpy",
    "pyarrow",
    "pandas",
    "scipy",
    "pymatgen",
    "smact",
    "matplotlib",
    "torch",
    "snakemake",
)
_FILES_HASHED = (
    "structures/crystals.parquet", "structures/rejected.parquet", "scf/outcomes.parquet", "references.parquet", "labels.parquet",
    "trajectories.parquet", "designs/assessments.parquet", "evaluation/outcomes.parquet", "evaluation/evaluation.parquet",
)  # fmt: skip
_MEANINGS = {
    INVALID_COMPOSITION: "No SCF was asked for: the composition is not valid.",
    "imported": "Not computed here: taken from a published table.",
    MISSING_REFERENCE: "The SCF converged, but an element has no reference energy.",
} | {str(outcome): outcome.sentence for outcome in Outcome}


def make_report(results: str | Path, config: Mapping[str, Any], report: str | Path) -> None:
    """Write the report of a results folder.

    Sections whose files are missing (imported labels have no SCFs) say so instead.

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
    environment.globals["inline"] = lambda name: Markup(environment.loader.get_source(environment, name)[0])  # type: ignore[union-attr]
    html = environment.get_template("report.html.j2").render(_context(folder, settings))
    write_text(report, html)
    logger.info("Wrote %s (%.1f MB)", report, len(html.encode()) / 1e6)


def _read(path: Path, schema: pa.Schema) -> list[dict[str, Any]] | None:
    return tables.read_rows(path, schema) if path.is_file() else None


def _context(folder: Path, config: Config) -> dict[str, Any]:
    evaluation = tables.read_rows(folder / "evaluation/evaluation.parquet", tables.EVALUATION)
    labels = _read(folder / "labels.parquet", tables.LABELS) or []
    references = _read(folder / "references.parquet", tables.REFERENCES) or []
    rejected = [
        row
        for name in ("rejected", "graph_failures")
        for row in _read(folder / f"structures/{name}.parquet", tables.REJECTED) or []
    ]
    scf = _read(folder / "scf/outcomes.parquet", tables.SCF_OUTCOMES)
    design_scf = _read(folder / "evaluation/outcomes.parquet", tables.SCF_OUTCOMES) or []
    specs = config.policy_specs()
    styles = policy_styles(specs)
    logs = [read_training_log(path) for path in sorted(folder.glob("policies/*/seed*/training.csv"))]
    order = list(specs)
    logs = sorted((log for log in logs if log.policy in specs), key=lambda log: (order.index(log.policy), log.seed))
    stages = [
        Stage.of("Crystals of the data set", scf),
        Stage.of("Elemental references", _reference_outcomes(folder, references)),
        Stage.of("Designs", [row for row in design_scf if row["kind"] == "design"]),
        Stage.of("References added for designs", [row for row in design_scf if row["kind"] == "reference"] or None),
    ]
    computed = [*(scf or []), *design_scf]
    return {
        "config": config,
        "config_yaml": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        "policies": [
            {"name": name, "style": styles[name], "target_ev": spec.target_ev, "omega": spec.omega}
            for name, spec in specs.items()
        ],
        "n_designs": len(evaluation),
        "n_valid": sum(row["valid"] for row in evaluation),
        "n_novel": sum(bool(row["novel"]) for row in evaluation),
        "novelty_known": any(row["novel"] is not None for row in evaluation),
        "n_converged_designs": sum(row["outcome"] in SUCCESSFUL_OUTCOMES for row in evaluation),
        "n_distinct": len({row["request_id"] for row in evaluation if row["request_id"]}),
        "n_skeletons": len({row["material_id"] for row in evaluation}),
        "validity_rules": sorted({row["validity_rule"] for row in evaluation}),
        "labels_by_split": Counter(row["split"] for row in labels if row["band_gap"] is not None),
        "n_rejected": len(rejected),
        "labels_imported": scf is None,
        "stages": [stage for stage in stages if stage],
        "protocols": sorted(
            {
                (row["protocol"], row["protocol_hash"] or "", row["family"] or "not named")
                for row in [*computed, *labels, *references]
                if row["protocol"]
            }
        ),
        "engines": sorted({row["engine"] for row in computed if row["engine"]}),
        "tables": [
            table
            for table in (
                _result_table(folder, "table1_composition", "Table 1 – compositions", TABLE1, order),
                _result_table(folder, "table2_dft_success", "Table 2 – SCFs of the designs", TABLE2, order),
            )
            if table
        ],
        "figures": [_figure(path) for path in sorted((folder / "figures").glob("*.png"))],
        "references": sorted(references, key=lambda row: row["element"]),
        "rejected_reasons": Counter(row["reason"] for row in rejected).most_common(),
        "curves": [(label, Markup(svg)) for label, svg in learning_curves(logs, styles)],
        "meanings": _MEANINGS,
        "data": {
            "designs": _json(_design_columns(evaluation, config)),
            "rejected": _json(_rejected_columns(rejected)),
            "failures": _json(_failure_columns([*(scf or []), *design_scf])),
        },
        "n_failures": sum(row["outcome"] not in SUCCESSFUL_OUTCOMES for row in computed),
        "versions": {"Python": platform.python_version()}
        | {name: version for name in PACKAGES if (version := _version(name))},
        "files": [_hashed(folder, name) for name in _FILES_HASHED if (folder / name).is_file()],
        "citations": CITATIONS,
    }


@dataclass(frozen=True)
class Stage:
    """How the SCFs of one stage ended; wall times in seconds, None where they were not kept."""

    name: str
    total: int
    outcomes: list[tuple[str, int]]
    rescued: int
    median_wall_s: float | None
    total_wall_s: float | None

    @classmethod
    def of(cls, name: str, rows: Sequence[Mapping[str, Any]] | None) -> Stage | None:
        """Count rows of `SCF_OUTCOMES` (or of anything with an outcome)."""
        if rows is None:
            return None
        walls = [row["wall_s"] for row in rows if row.get("wall_s") is not None]
        counts = Counter(row["outcome"] for row in rows)
        return cls(
            name,
            len(rows),
            sorted(counts.items(), key=lambda item: (item[0] not in SUCCESSFUL_OUTCOMES, -item[1])),
            sum(row["outcome"] in SUCCESSFUL_OUTCOMES and len(row.get("attempts") or ()) > 1 for row in rows),
            statistics.median(walls) if walls else None,
            sum(walls) if walls else None,
        )

    @property
    def succeeded(self) -> int:
        """SCFs that converged."""
        return sum(n for outcome, n in self.outcomes if outcome in SUCCESSFUL_OUTCOMES)

    @property
    def attempted(self) -> bool:
        """Whether there is anything to show."""
        return self.total > 0


def _reference_outcomes(folder: Path, references: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """SCFs of the elements with their wall times where they were kept, else without; None if they were imported."""
    if all(row["outcome"] == "imported" for row in references):
        return None
    return _read(folder / "references/outcomes.parquet", tables.SCF_OUTCOMES) or references


def _result_table(
    folder: Path, name: str, title: str, columns: Sequence[Column], order: Sequence[str]
) -> dict[str, Any] | None:
    """A table as `xtalrl.report.tables` wrote it, with the place of each interval on its column's common scale (0 to 100)."""
    path = folder / f"tables/{name}.csv"
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    markdown = path.with_suffix(".md")
    caption = markdown.read_text().partition("** ")[2].partition("\n")[0] if markdown.is_file() else ""
    cells: dict[str, list[dict[str, Any]]] = {row["policy"]: [] for row in rows}
    for column in columns:
        numbers = [
            float(row[column.name + end]) for row in rows for end in ("", "_low", "_high") if row[column.name + end]
        ]
        low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
        span = (high - low) or 1.0
        for row in rows:
            value, bottom, top = (
                float(row[column.name + end]) if row[column.name + end] else None for end in ("", "_low", "_high")
            )
            paper = row.get(f"{column.name}_paper")
            cells[row["policy"]].append(
                {
                    "value": value,
                    "text": "–" if value is None else f"{value:.{column.decimals}f}",
                    "interval": ""
                    if bottom is None or top is None
                    else f"[{bottom:.{column.decimals}f}, {top:.{column.decimals}f}]",
                    "n": f"{int(row[f'{column.name}_n']):,} {column.unit_counted}",
                    "method": row[f"{column.name}_interval"],
                    "paper": f"{float(paper):.2f}" if paper else "",
                    "place": None if value is None else 100 * (value - low) / span,
                    "bar": None
                    if bottom is None or top is None
                    else (100 * (bottom - low) / span, 100 * (top - bottom) / span),
                }
            )
    ranked = sorted(rows, key=lambda row: order.index(row["policy"]) if row["policy"] in order else len(order))
    return {
        "id": name,
        "title": title,
        "caption": caption.replace("`", ""),
        "headings": [column.heading for column in columns],
        "rows": [(row["policy"], cells[row["policy"]]) for row in ranked],
        "csv": f"tables/{name}.csv",
    }


def _figure(path: Path) -> dict[str, str]:
    return {
        "name": path.stem,
        "src": "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode(),
        "pdf": f"figures/{path.stem}.pdf",
        "csv": f"figures/{path.stem}.csv",
    }


def _column(
    key: str, label: str, values: Sequence[Any], *, kind: str, filter_by: str = "", decimals: int = 0
) -> dict[str, Any]:
    """A column for report.js: `kind` is text (values coded by a dictionary) or number; `filter_by` is select or range."""
    column: dict[str, Any] = {"key": key, "label": label, "kind": kind, "filter": filter_by, "decimals": decimals}
    if kind == "text":
        dictionary = {value: code for code, value in enumerate(dict.fromkeys(values))}
        column |= {"dictionary": list(dictionary), "data": [dictionary[value] for value in values]}
    else:
        column["data"] = [
            None if value is None else round(value, decimals) if decimals else int(value) for value in values
        ]
    return column


def _named_column(rows: list[dict[str, Any]], key: str, label: str, **options: Any) -> dict[str, Any]:
    return _column(key, label, [row[key] for row in rows], **options)


def _design_columns(evaluation: list[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    targets = {name: spec.target_ev for name, spec in config.policy_specs().items()}

    def values(name: str) -> list[Any]:
        return [row[name] for row in evaluation]

    def hit(row: Mapping[str, Any]) -> str:
        target = targets.get(row["policy"])
        if target is None or row["band_gap"] is None:
            return ""
        return "yes" if in_window(np.array(row["band_gap"]), target, config.evaluation.window_ev) else "no"

    novel = {True: "yes", False: "no", None: ""}
    seeds = [str(seed) for seed in values("seed")]
    text = functools.partial(_named_column, evaluation, kind="text")
    number = functools.partial(_named_column, evaluation, kind="number")
    return [
        text("material_id", "Skeleton of"),
        text("true_formula", "True"),
        text("formula", "Design"),
        text("policy", "Policy", filter_by="select"),
        *([_column("seed", "Seed", seeds, kind="text", filter_by="select")] if len(set(seeds)) > 1 else []),
        text("outcome", "Outcome", filter_by="select"),
        number("band_gap", "Gap (eV)", filter_by="range", decimals=2),
        number("true_band_gap", "true", decimals=2),
        _column("hit", "In range", [hit(row) for row in evaluation], kind="text", filter_by="select"),
        number("formation_energy_per_atom", "E_form (eV/atom)", filter_by="range", decimals=3),
        number("true_formation_energy_per_atom", "true", decimals=3),
        _column("novel", "Novel", [novel[value] for value in values("novel")], kind="text", filter_by="select"),
        number("n_correct", "Correct"),
        number("n_sites", "of sites"),
    ]


def _rejected_columns(rejected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        _column("material_id", "Crystal", [row["material_id"] or "" for row in rejected], kind="text"),
        _named_column(rejected, "source", "File", kind="text"),
        _named_column(rejected, "row", "Row", kind="number"),
        _named_column(rejected, "reason", "Reason", kind="text", filter_by="select"),
        _named_column(rejected, "detail", "Detail", kind="text"),
    ]


def _failure_columns(outcomes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = [dict(row) for row in outcomes if row["outcome"] not in SUCCESSFUL_OUTCOMES]
    return [
        _named_column(rows, "request_id", "Request", kind="text"),
        _named_column(rows, "kind", "Kind", kind="text", filter_by="select"),
        _column("species", "Species", [_contracted(row["species"]) for row in rows], kind="text"),
        _named_column(rows, "outcome", "Outcome", kind="text", filter_by="select"),
        _named_column(rows, "detail", "Detail", kind="text"),
        _column("attempts", "Attempts", [len(row["attempts"] or ()) for row in rows], kind="number"),
        _named_column(rows, "wall_s", "Wall time (s)", kind="number", decimals=1),
    ]


def _contracted(species: Sequence[str]) -> str:
    """Na2Cl2: the elements in the order they first occur."""
    return "".join(f"{element}{n if n > 1 else ''}" for element, n in Counter(species).items())


def _json(columns: list[dict[str, Any]]) -> Markup:
    """JSON that cannot end its script element."""
    text = json.dumps(columns, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hashed(folder: Path, name: str) -> dict[str, Any]:
    content = (folder / name).read_bytes()
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
