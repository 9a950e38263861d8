"""The sections of the report: the data that each one shows, and the functions that collect them from the files of a run."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.metadata
import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from markupsafe import Markup
from pydantic import BaseModel

from xtalrl import tables
from xtalrl.config import Config
from xtalrl.csv_files import read_csv
from xtalrl.dft.outcomes import Outcome
from xtalrl.dft.protocols import Protocol, load_protocol
from xtalrl.dft.pseudopotentials import describe_family
from xtalrl.energies import MISSING_REFERENCE
from xtalrl.errors import XtalrlError
from xtalrl.metrics.confirmation import CONFIRMED
from xtalrl.metrics.designs import SUCCESSFUL_OUTCOMES
from xtalrl.metrics.evaluation import INVALID_COMPOSITION, UNUSABLE_ENTRY
from xtalrl.report.citations import CITATIONS
from xtalrl.report.columns import Column
from xtalrl.report.contents import Content, figures_of, tables_of
from xtalrl.report.curves import learning_curves, read_training_log
from xtalrl.report.elsewhere import computed_elsewhere
from xtalrl.report.lists import DesignList, design_columns, failure_columns, heading, plain_columns, rejected_columns
from xtalrl.report.marks import marker_path
from xtalrl.report.style import Policies, PolicyStyle, policy_styles
from xtalrl.report.viewer_data import packed, viewer_data

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
    UNUSABLE_ENTRY: "The entry is not a crystal that can be used; its reason is among the rejected.",
    "imported": "Not computed here: taken from a published table.",
    MISSING_REFERENCE: "The SCF converged, but an element has no reference energy.",
} | {str(outcome): outcome.sentence for outcome in Outcome}
_KEY_HEADINGS = {"setting": "α₁-α₂-β"}

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class RunFiles:
    """The files of a results folder, read when a section first needs them; a missing file has no rows."""

    folder: Path
    config: Config

    def rows(self, path: str, schema: pa.Schema) -> Rows | None:
        """The rows of a table in the folder; None if it is missing."""
        file = self.folder / path
        return tables.read_rows(file, schema) if file.is_file() else None

    @functools.cached_property
    def evaluation(self) -> Rows:
        """Rows of `EVALUATION`, without which no report can be made."""
        return tables.read_rows(self.folder / "evaluation/evaluation.parquet", tables.EVALUATION)

    @functools.cached_property
    def labels(self) -> Rows:
        """Rows of `LABELS`."""
        return self.rows("labels.parquet", tables.LABELS) or []

    @functools.cached_property
    def references(self) -> Rows:
        """Rows of `REFERENCES`."""
        return self.rows("references.parquet", tables.REFERENCES) or []

    @functools.cached_property
    def rejected(self) -> Rows:
        """Rows of `REJECTED` for the source and every set of external crystals."""
        paths = ["structures/rejected", "structures/graph_failures"]
        paths += [f"external/{name}/rejected" for name in self.config.external]
        return [row for path in paths for row in self.rows(f"{path}.parquet", tables.REJECTED) or []]

    @functools.cached_property
    def crystals(self) -> Rows:
        """Rows of `CRYSTALS` for the source and every set of external crystals."""
        paths = ["structures", *(f"external/{name}" for name in self.config.external)]
        return [row for path in paths for row in self.rows(f"{path}/crystals.parquet", tables.CRYSTALS) or []]

    @functools.cached_property
    def crystal_scf(self) -> Rows | None:
        """Rows of `SCF_OUTCOMES` for the crystals of the data set; None if labels were imported."""
        return self.rows("scf/outcomes.parquet", tables.SCF_OUTCOMES)

    @functools.cached_property
    def design_scf(self) -> Rows:
        """Rows of `SCF_OUTCOMES` for the designs and the references added for them."""
        return self.rows("evaluation/outcomes.parquet", tables.SCF_OUTCOMES) or []

    @functools.cached_property
    def above_hull(self) -> dict[str, float]:
        """Energy above the hull in eV/atom, by request of the design's SCF."""
        rows = self.rows("evaluation/stability.parquet", tables.STABILITY) or []
        return {row["request_id"]: row["energy_above_hull"] for row in rows}

    @functools.cached_property
    def verdicts(self) -> dict[tuple[str, str], str]:
        """Verdict of the finer SCFs on the hits, by policy and request; empty if the run does not confirm hits."""
        path = "confirmation/confirmation.parquet"
        rows = self.rows(path, tables.CONFIRMATION) if self.config.evaluation.confirm else None
        return {(row["policy"], row["request_id"]): row["verdict"] for row in rows or []}

    @functools.cached_property
    def campaign_scf(self) -> Rows:
        """Rows of `SCF_OUTCOMES` for the campaign's designs and the references added for them."""
        return self.rows("campaign/outcomes.parquet", tables.SCF_OUTCOMES) or []

    @property
    def computed(self) -> Rows:
        """All SCFs of crystals and designs."""
        return [*(self.crystal_scf or []), *self.design_scf, *self.campaign_scf]

    @functools.cached_property
    def policies(self) -> Policies:
        """The policies and sets of external crystals, in the order of rows and legends."""
        return {**self.config.policy_specs(), **dict.fromkeys(self.config.external)}

    @functools.cached_property
    def protocol(self) -> Protocol:
        """The protocol of the run's SCFs."""
        return load_protocol(self.config.dft.protocol)


@dataclass(frozen=True)
class NamedPolicy:
    """A policy or a set of external crystals, with its style."""

    name: str
    style: PolicyStyle
    external: bool


@dataclass(frozen=True)
class Summary:
    """What the run is and what it produced, in numbers."""

    n_designs: int
    n_valid: int
    n_distinct: int
    n_novel: int
    novelty_known: bool
    n_converged: int
    n_hits: int
    n_confirmed: int | None
    """Number of hits that a finer SCF confirmed; None if none were run."""
    n_skeletons: int
    n_rejected: int
    labels_by_split: Mapping[str, int]
    validity_rules: Sequence[str]
    protocols: Sequence[tuple[str, str, str]]
    """Name, hash and pseudopotentials of each protocol that a number of the run comes from."""
    engines: Sequence[str]

    @classmethod
    def of(cls, run: RunFiles) -> Summary:
        """Count the designs and labels of a run."""
        evaluation = run.evaluation
        return cls(
            n_designs=len(evaluation),
            n_valid=sum(row["valid"] for row in evaluation),
            n_distinct=len({row["request_id"] for row in evaluation if row["request_id"]}),
            n_novel=sum(bool(row["novel"]) for row in evaluation),
            novelty_known=any(row["novel"] is not None for row in evaluation),
            n_converged=sum(row["outcome"] in SUCCESSFUL_OUTCOMES for row in evaluation),
            n_hits=len(run.verdicts),
            n_confirmed=Counter(run.verdicts.values())[CONFIRMED] if run.verdicts else None,
            n_skeletons=len({row["material_id"] for row in evaluation if row["true_formula"] is not None}),
            n_rejected=len(run.rejected),
            labels_by_split=Counter(row["split"] for row in run.labels if row["band_gap"] is not None),
            validity_rules=sorted({row["validity_rule"] for row in evaluation}),
            protocols=sorted(
                {
                    (row["protocol"], row["protocol_hash"] or "", row["family"] or "not named")
                    for row in [*run.computed, *run.labels, *run.references]
                    if row["protocol"]
                }
            ),
            engines=sorted({row["engine"] for row in run.computed if row["engine"]}),
        )


@dataclass(frozen=True)
class HighestNu:
    """The policy or set with the highest ν at a target, in percent with its interval, among `n_compared`."""

    target: str
    label: str
    nu: float
    interval: tuple[float, float] | None
    n_compared: int


def highest_nu(run: RunFiles, labels: Mapping[str, str]) -> list[HighestNu]:
    """The highest ν at each target of `tables/desired_range.csv`; empty without that table. Of equal ones a policy for this very target comes first."""
    path = run.folder / "tables/desired_range.csv"
    rows = [row for row in read_csv(path).rows if row.get("nu_pct")] if path.is_file() else []
    found = []
    for target in dict.fromkeys(row["target_ev"] for row in rows):

        def rank(row: Mapping[str, str], target: str = target) -> tuple[float, bool]:
            spec = run.policies.get(row["policy"])
            return float(row["nu_pct"]), spec is not None and spec.target_ev == float(target)

        compared = [row for row in rows if row["target_ev"] == target]
        best = max(compared, key=rank)
        ends = (best["nu_pct_low"], best["nu_pct_high"])
        interval = (float(ends[0]), float(ends[1])) if all(ends) else None
        label = labels.get(best["policy"], best["policy"])
        found.append(HighestNu(target, label, float(best["nu_pct"]), interval, len(compared)))
    return found


def campaign_totals(folder: Path) -> Mapping[str, str] | None:
    """The row of `tables/campaign.csv` that sums the rounds of a campaign up; None without one."""
    path = folder / "tables/campaign.csv"
    rows = read_csv(path).rows if path.is_file() else []
    return next((row for row in rows if row["round"] == "all"), None)


@dataclass(frozen=True)
class ScfStage:
    """How the SCFs of one stage ended; wall times are in seconds, and None if they were not kept."""

    name: str
    total: int
    outcomes: list[tuple[str, int]]
    rescued: int
    median_wall_s: float | None
    total_wall_s: float | None

    @classmethod
    def of(cls, name: str, rows: Sequence[Mapping[str, Any]] | None) -> ScfStage | None:
        """Count rows of `SCF_OUTCOMES` (or any rows with an outcome)."""
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
        """Number of SCFs that converged."""
        return sum(n for outcome, n in self.outcomes if outcome in SUCCESSFUL_OUTCOMES)

    @property
    def attempted(self) -> bool:
        """Whether there is anything to show."""
        return self.total > 0


def scf_stages(run: RunFiles) -> list[ScfStage]:
    """The stages of a run that have SCFs."""
    stages = (
        ScfStage.of("Crystals of the data set", run.crystal_scf),
        ScfStage.of("Elemental references", _reference_outcomes(run)),
        ScfStage.of("Designs", [row for row in run.design_scf if row["kind"] == "design"]),
        ScfStage.of("Designs of the campaign", [row for row in run.campaign_scf if row["kind"] == "design"]),
        ScfStage.of("References added for designs", [row for row in run.design_scf if row["kind"] == "reference"]),
    )
    return [stage for stage in stages if stage and stage.total]


def _reference_outcomes(run: RunFiles) -> Rows | None:
    """SCFs of the elements, with wall times if these were kept; None if the energies were imported."""
    if all(row["outcome"] == "imported" for row in run.references):
        return None
    return run.rows("references/outcomes.parquet", tables.SCF_OUTCOMES) or run.references


@dataclass(frozen=True)
class ResultSection:
    """A table as its rule wrote it: either estimates, each with the position of its interval on the column's scale (0 to 100), or a plain list."""

    id: str
    title: str
    caption: str
    csv: str
    n_rows: int
    columns: Markup | None = None
    """Columns of a table without estimates, as `packed` returns them."""
    about: Sequence[tuple[str, str]] = ()
    """Name and heading of the columns that say what a row is about."""
    headings: Sequence[str] = ()
    rows: Sequence[tuple[Sequence[tuple[str, str]], Sequence[Mapping[str, Any]]]] = ()
    """What each row is about, by name, and its estimates."""


def _result_table(folder: Path, content: Content, labels: Mapping[str, str]) -> ResultSection | None:
    """A table in the folder, its policies in the order of `labels`; None if it is missing."""
    path = folder / f"tables/{content.name}.csv"
    if not path.is_file():
        return None
    rows = [row for row in read_csv(path).rows if any(row.values())]
    named = [column.name for column in content.columns]
    if rows and (missing := [name for name in (*content.keys, *named) if name not in rows[0]]):
        raise XtalrlError(
            f"{path} lacks the column(s) {', '.join(missing)}: it is older than this xtalrl; delete it and run `snakemake tables`."
        )
    written = path.with_suffix(".txt")
    caption = written.read_text(encoding="utf-8").strip() if written.is_file() else content.caption
    section = ResultSection(
        id=content.name,
        title=content.title,
        caption=caption.replace("`", ""),
        csv=f"tables/{content.name}.csv",
        n_rows=len(rows),
    )
    if not content.columns or not rows:
        return replace(section, columns=packed(plain_columns(rows, content.keys, labels)))
    cells = [[_cell(row, rows, column) for column in content.columns] for row in rows]
    order = list(labels)
    ranked = sorted(
        zip(rows, cells, strict=True),
        key=lambda pair: order.index(name) if (name := pair[0].get("policy", "")) in order else len(order),
    )
    return replace(
        section,
        about=[(key, _KEY_HEADINGS.get(key, heading(key))) for key in content.keys],
        headings=[column.heading for column in content.columns],
        rows=[([(key, row[key]) for key in content.keys], cells) for row, cells in ranked],
    )


def _cell(row: Mapping[str, str], rows: Sequence[Mapping[str, str]], column: Column) -> dict[str, Any]:
    """An estimate, its interval, and the position of both on the column's scale."""
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


@dataclass(frozen=True)
class Provenance:
    """What the report was made from: data, versions, protocol, configuration, files."""

    data: Sequence[tuple[str, str]]
    protocol_yaml: str
    config_yaml: str
    versions: Mapping[str, str]
    files: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, run: RunFiles) -> Provenance:
        """Collect where the numbers of a run come from."""
        return cls(
            data=_data_versions(run.folder, run.config),
            protocol_yaml=_yaml(run.protocol),
            config_yaml=_yaml(run.config),
            versions={"Python": platform.python_version()}
            | {name: version for name in PACKAGES if (version := _version(name))},
            files=[_hashed(run.folder, name) for name in _FILES_HASHED if (run.folder / name).is_file()],
        )


def _yaml(settings: BaseModel) -> str:
    text: str = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _data_versions(folder: Path, config: Config) -> list[tuple[str, str]]:
    """Names and versions of the inputs: the data set, lists and tables that the configuration names, and releases of the Materials Project."""
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
        try:
            version = tables.metadata_of(path).get("database_version")
        except XtalrlError as error:
            version = str(error)
        if version:
            found.append((f"Materials Project, {path.stem}", version))
    return found


def _with_checksum(path: str) -> str:
    """The path, with its SHA-256 if it is a single file."""
    return f"{path}, SHA-256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()}" if Path(path).is_file() else path


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hashed(folder: Path, name: str) -> dict[str, Any]:
    content = (folder / name).read_bytes()
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def training_curves(run: RunFiles) -> list[tuple[str, Markup]]:
    """Title and SVG of the learning curves of every policy that was trained."""
    trained = run.config.trained_specs()
    order = list(trained)
    logs = [read_training_log(path) for path in sorted(run.folder.glob("policies/*/seed*/training.csv"))]
    shown = sorted((log for log in logs if log.policy in trained), key=lambda log: (order.index(log.policy), log.seed))
    styles = policy_styles({**run.policies, **trained})
    return [(label, Markup(svg)) for label, svg in learning_curves(shown, styles)]


def data_of_lists(run: RunFiles) -> dict[str, Markup]:
    """The data that report.js and viewer.js unpack, by name of the list."""
    designs = DesignList(
        run.evaluation,
        {name: style.label for name, style in policy_styles(run.policies).items()},
        {name: spec.target_ev if spec else None for name, spec in run.policies.items()},
        run.config.evaluation.window_ev,
        run.above_hull,
        run.verdicts,
    )
    family = describe_family(run.config.dft.family)
    return {
        "designs": packed(design_columns(designs)),
        "rejected": packed(rejected_columns(run.rejected)),
        "failures": packed(failure_columns(run.computed)),
        "viewer": packed(viewer_data(designs.ranked, run.crystals, run.design_scf, run.protocol, family)),
    }


def sections(run: RunFiles) -> dict[str, Any]:
    """The data that the template shows, by section."""
    styles = policy_styles(run.policies)
    labels = {name: style.label for name, style in styles.items()}
    results = (_result_table(run.folder, content, labels) for content in tables_of(run.config))
    return {
        "config": run.config,
        "elsewhere": computed_elsewhere(run.config),
        "policies": [NamedPolicy(name, styles[name], spec is None) for name, spec in run.policies.items()],
        "marker_path": marker_path,
        "summary": Summary.of(run),
        "highest": highest_nu(run, labels),
        "campaign": campaign_totals(run.folder),
        "tables": [table for table in results if table is not None],
        "figures": [
            _figure(run.folder, content)
            for content in figures_of(run.config)
            if (run.folder / f"figures/{content.name}.png").is_file()
        ],
        "stages": scf_stages(run),
        "n_failures": sum(row["outcome"] not in SUCCESSFUL_OUTCOMES for row in run.computed),
        "meanings": _MEANINGS,
        "curves": training_curves(run),
        "references": sorted(run.references, key=lambda row: row["element"]),
        "rejected_reasons": Counter(row["reason"] for row in run.rejected).most_common(),
        "provenance": Provenance.of(run),
        "citations": CITATIONS,
        "data": data_of_lists(run),
    }
