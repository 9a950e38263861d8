"""One HTML file that tells a run: results, failures, every design, provenance. It loads nothing from anywhere."""

from __future__ import annotations

import base64
import csv
import functools
import hashlib
import importlib.metadata
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
import pyarrow.parquet as pq
import yaml
from markupsafe import Markup

from xtalrl import tables
from xtalrl.config import Config, validate
from xtalrl.dft.outcomes import Outcome
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.pseudopotentials import describe_family
from xtalrl.energies import MISSING_REFERENCE
from xtalrl.errors import XtalrlError
from xtalrl.metrics.designs import SUCCESSFUL_OUTCOMES
from xtalrl.metrics.evaluation import INVALID_COMPOSITION
from xtalrl.metrics.properties import in_window
from xtalrl.report.citations import CITATIONS
from xtalrl.report.columns import Column
from xtalrl.report.contents import Content, figures_of, tables_of
from xtalrl.report.curves import learning_curves, read_training_log
from xtalrl.report.files import write_text
from xtalrl.report.style import Policies, policy_styles
from xtalrl.report.viewer_data import THREE_DMOL, packed, three_dmol, three_dmol_licence, viewer_data

logger = logging.getLogger(__name__)

PACKAGES = (
    "xtalrl",
    "numpy",
    "pyarrow",
    "pandas",
    "scipy",
    "pymatgen",
    "ase",
    "spglib",
    "smact",
    "matplotlib",
    "torch",
    "snakemake",
)
_FILES_HASHED = (
    "structures/crystals.parquet", "structures/rejected.parquet", "materials_project/magnetizations.parquet",
    "scf/outcomes.parquet", "references.parquet", "labels.parquet", "trajectories.parquet", "designs/assessments.parquet", "evaluation/outcomes.parquet", "evaluation/evaluation.parquet",
)  # fmt: skip
_MEANINGS = {
    INVALID_COMPOSITION: "No SCF was asked for: the composition is not valid.",
    "imported": "Not computed here: taken from a published table.",
    MISSING_REFERENCE: "The SCF converged, but an element has no reference energy.",
} | {str(outcome): outcome.sentence for outcome in Outcome}
_KEY_HEADINGS = {
    "policy": "Policy",
    "omega": "ω",
    "target_ev": "Target (eV)",
    "split": "Split",
    "setting": "α₁-α₂-β",
    "step": "Step",
}
_MOST_CHOICES = 100
"""Of a filter: more are found by the search."""


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
    environment.globals["three_dmol"] = three_dmol
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
    lists = [folder / f"structures/{name}.parquet" for name in ("rejected", "graph_failures")]
    rejected = [
        row
        for path in [*lists, *(folder / f"external/{name}/rejected.parquet" for name in config.external)]
        for row in _read(path, tables.REJECTED) or []
    ]
    cells = [
        row
        for path in ("structures", *(f"external/{name}" for name in config.external))
        for row in _read(folder / path / "crystals.parquet", tables.CRYSTALS) or []
    ]
    scf = _read(folder / "scf/outcomes.parquet", tables.SCF_OUTCOMES)
    design_scf = _read(folder / "evaluation/outcomes.parquet", tables.SCF_OUTCOMES) or []
    specs = config.policy_specs()
    targets = {name: spec.target_ev for name, spec in specs.items()} | dict.fromkeys(config.external)
    policies: Policies = {**specs, **dict.fromkeys(config.external)}
    styles = policy_styles(policies)
    protocol = load_protocol(config.dft.protocol)
    logs = [read_training_log(path) for path in sorted(folder.glob("policies/*/seed*/training.csv"))]
    order, trained = list(targets), list(config.trained_specs())
    logs = sorted((log for log in logs if log.policy in trained), key=lambda log: (trained.index(log.policy), log.seed))
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
        "policies": [{"name": name, "style": styles[name], "external": name in config.external} for name in targets],
        "n_designs": len(evaluation),
        "n_valid": sum(row["valid"] for row in evaluation),
        "n_novel": sum(bool(row["novel"]) for row in evaluation),
        "novelty_known": any(row["novel"] is not None for row in evaluation),
        "n_converged_designs": sum(row["outcome"] in SUCCESSFUL_OUTCOMES for row in evaluation),
        "n_distinct": len({row["request_id"] for row in evaluation if row["request_id"]}),
        "n_skeletons": len({row["material_id"] for row in evaluation if row["true_formula"] is not None}),
        "validity_rules": sorted({row["validity_rule"] for row in evaluation}),
        "labels_by_split": Counter(row["split"] for row in labels if row["band_gap"] is not None),
        "n_rejected": len(rejected),
        "labels_imported": bool(config.labels.path),
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
            table for content in tables_of(config) if (table := _result_table(folder, content, order)) is not None
        ],
        "figures": [
            _figure(folder, content)
            for content in figures_of(config)
            if (folder / f"figures/{content.name}.png").is_file()
        ],
        "references": sorted(references, key=lambda row: row["element"]),
        "rejected_reasons": Counter(row["reason"] for row in rejected).most_common(),
        "curves": [
            (label, Markup(svg))
            for label, svg in learning_curves(logs, policy_styles({**policies, **config.trained_specs()}))
        ],
        "meanings": _MEANINGS,
        "data": {
            "designs": packed(_design_columns(evaluation, targets, config.evaluation.window_ev)),
            "rejected": packed(_rejected_columns(rejected)),
            "failures": packed(_failure_columns(computed)),
            "viewer": packed(viewer_data(evaluation, cells, design_scf, protocol, describe_family(config.dft.family))),
        },
        "protocol_yaml": yaml.safe_dump(protocol.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        "data_versions": _data_versions(folder, config),
        "viewer": THREE_DMOL,
        "viewer_licence": three_dmol_licence(),
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


def _result_table(folder: Path, content: Content, order: Sequence[str]) -> dict[str, Any] | None:
    """A table as its rule wrote it: estimates with the place of each interval on its column's scale (0 to 100), or columns as they stand."""
    path = folder / f"tables/{content.name}.csv"
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if any(row.values())]
    named = [column.name for column in content.columns]
    if rows and (missing := [name for name in (*content.keys, *named) if name not in rows[0]]):
        raise XtalrlError(
            f"{path} lacks the column(s) {', '.join(missing)}: it is older than this xtalrl; delete it and run `snakemake tables`."
        )
    markdown = path.with_suffix(".md")
    caption = markdown.read_text().partition("** ")[2].partition("\n")[0] if markdown.is_file() else ""
    table = {
        "id": content.name,
        "title": content.title,
        "caption": (caption or content.caption).replace("`", ""),
        "csv": f"tables/{content.name}.csv",
    }
    if not content.columns or not rows:
        return table | {"columns": packed(_plain_columns(rows, content.keys)), "n_rows": len(rows)}
    cells = [[_cell(row, rows, column) for column in content.columns] for row in rows]
    ranked = sorted(
        zip(rows, cells, strict=True),
        key=lambda pair: order.index(name) if (name := pair[0].get("policy", "")) in order else len(order),
    )
    return table | {
        "about": [(key, _KEY_HEADINGS.get(key, key.replace("_", " "))) for key in content.keys],
        "headings": [column.heading for column in content.columns],
        "rows": [([(key, row[key]) for key in content.keys], cells) for row, cells in ranked],
    }


def _cell(row: Mapping[str, str], rows: Sequence[Mapping[str, str]], column: Column) -> dict[str, Any]:
    """An estimate, its interval, and where both lie in the column."""
    ends = ("", "_low", "_high")
    numbers = [float(other[column.name + end]) for other in rows for end in ends if other[column.name + end]]
    smallest = min(numbers, default=0.0)
    span = (max(numbers, default=1.0) - smallest) or 1.0
    value, low, high = (float(row[column.name + end]) if row[column.name + end] else None for end in ends)
    paper = row.get(f"{column.name}_paper")
    known = low is not None and high is not None
    return {
        "value": value,
        "text": "–" if value is None else f"{value:.{column.decimals}f}",
        "interval": f"[{low:.{column.decimals}f}, {high:.{column.decimals}f}]" if known else "",
        "n": f"{int(row[f'{column.name}_n']):,} {column.unit_counted}",
        "method": row[f"{column.name}_interval"],
        "paper": f"{float(paper):.2f}" if paper else "",
        "place": None if value is None else 100 * (value - smallest) / span,
        "bar": (100 * (low - smallest) / span, 100 * (high - low) / span)
        if low is not None and high is not None
        else None,
    }


def _plain_columns(rows: Sequence[Mapping[str, str]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """A table as it stands: a column is numbers where all that is in it is; one with few texts can be filtered by them."""
    columns = []
    for key in keys:
        texts = [row[key] for row in rows]
        numbers = [_number(text) for text in texts]
        if all(number is not None or not text for number, text in zip(numbers, texts, strict=True)) and any(texts):
            columns.append(
                {"key": key, "label": key.replace("_", " "), "kind": "number", "decimals": None, "data": numbers}
            )
        else:
            choice = "select" if 1 < len(set(texts)) <= _MOST_CHOICES else ""
            columns.append(_column(key, key.replace("_", " "), texts, kind="text", filter_by=choice))
    return columns


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _figure(folder: Path, content: Content) -> dict[str, str]:
    return {
        "name": content.name,
        "title": content.title,
        "caption": content.caption,
        "src": "data:image/png;base64,"
        + base64.b64encode((folder / f"figures/{content.name}.png").read_bytes()).decode(),
        "pdf": f"figures/{content.name}.pdf",
        "csv": f"figures/{content.name}.csv",
    }


def _data_versions(folder: Path, config: Config) -> list[tuple[str, str]]:
    """What was put in: the data set, lists and tables that the configuration names, releases of the Materials Project."""
    named = {
        "Crystals": config.structures.path or config.structures.source,
        "Magnetizations": config.structures.magnetizations,
        "Labels": config.labels.path,
        "Elemental crystals": config.references.crystals,
        "Reference energies": config.references.energies,
        "Known formulas": config.evaluation.formulas,
    } | {f"External crystals {name}": path for name, path in config.external.items()}
    found = [(what, _with_checksum(path)) for what, path in named.items() if path]
    cached = [*folder.glob("materials_project/*.parquet"), *Path(config.cache).glob("materials_project/*.parquet")]
    for path in sorted(cached):
        if version := (pq.read_schema(path).metadata or {}).get(b"database_version"):
            found.append((f"Materials Project, {path.stem}", version.decode()))
    return found


def _with_checksum(path: str) -> str:
    """The path, and the SHA-256 of what lies there if it is one file."""
    return f"{path}, SHA-256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()}" if Path(path).is_file() else path


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


def _design_columns(
    evaluation: list[dict[str, Any]], targets: Mapping[str, float | None], window_ev: float
) -> list[dict[str, Any]]:
    def values(name: str) -> list[Any]:
        return [row[name] for row in evaluation]

    def hit(row: Mapping[str, Any]) -> str:
        target = targets.get(row["policy"])
        if target is None or row["band_gap"] is None:
            return ""
        return "yes" if in_window(np.array(row["band_gap"]), target, window_ev) else "no"

    novel = {True: "yes", False: "no", None: ""}
    seeds = [str(seed) for seed in values("seed")]
    text = functools.partial(_named_column, evaluation, kind="text")
    number = functools.partial(_named_column, evaluation, kind="number")
    return [
        text("material_id", "Skeleton of"),
        _column("true_formula", "True", [row["true_formula"] or "" for row in evaluation], kind="text"),
        text("formula", "Design"),
        text("policy", "Policy", filter_by="select"),
        _column(
            "target_ev",
            "Target (eV)",
            [_target(targets.get(row["policy"])) for row in evaluation],
            kind="text",
            filter_by="select",
        ),
        *([_column("seed", "Seed", seeds, kind="text", filter_by="select")] if len(set(seeds)) > 1 else []),
        *([number("sample", "Sample")] if any(values("sample")) else []),
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


def _target(target_ev: float | None) -> str:
    return "" if target_ev is None else f"{target_ev:g}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hashed(folder: Path, name: str) -> dict[str, Any]:
    content = (folder / name).read_bytes()
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
