"""Tables of estimates: CSV for programs, Markdown for people, LaTeX (booktabs) for manuscripts.

Every number comes with its interval, what it was counted over, the number of seeds and, where there is one, the name of the validity rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from xtalrl import tables
from xtalrl.metrics.designs import PolicyDesigns, read_compositions, read_policies
from xtalrl.metrics.intervals import Bootstrap, Estimate
from xtalrl.progress import Progress
from xtalrl.report.contents import TABLES, Content, content
from xtalrl.report.layout import TextTable, format_estimate, write_table
from xtalrl.report.paper import PAPER_TABLES, paper_values
from xtalrl.rl.policies import PolicySpec

Policies = Mapping[str, Mapping[str, Any] | None]
"""Names of policies in the order of the rows, each with its `PolicySpec` as plain data; None for a set of other people's crystals."""

_PAPER_NOTE = "“paper”: the published value of one seed, for orientation."


def specs_of(policies: Policies) -> dict[str, PolicySpec | None]:
    """The policies by name."""
    return {name: PolicySpec.from_dict(dict(data)) if data else None for name, data in policies.items()}


def settings_at(policies: Policies, target_ev: float) -> dict[str, PolicySpec]:
    """The policies without a target, then those of this one in the order of their settings, α1, α2, β and ω rising."""

    def rank(item: tuple[str, PolicySpec]) -> tuple[float, ...]:
        reward, omega = item[1].reward, item[1].omega
        if item[1].kind != "ccql" or reward is None or omega is None:
            return (-1.0,)
        return reward.alpha1, reward.alpha2, reward.beta2, omega

    chosen = {
        name: spec
        for name, spec in specs_of(policies).items()
        if spec and (spec.kind in ("random", "bc", "ucql") or (spec.kind == "ccql" and spec.target_ev == target_ev))
    }
    return dict(sorted(chosen.items(), key=rank))


@dataclass(frozen=True)
class Row:
    """What a row is about, the designs it was counted over (None for crystals of the data set), its estimates, the paper's values."""

    keys: Mapping[str, str | float | None]
    estimates: Sequence[Estimate]
    designs: PolicyDesigns | None = None
    paper: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class ResultTable:
    """Rows of estimates, with what it takes to read them; `note` ends the caption."""

    content: Content
    rows: Sequence[Row]
    bootstrap_samples: int
    confidence: float
    note: str = ""

    def csv_rows(self) -> list[dict[str, object]]:
        """The keys, then `<metric>`, `<metric>_low`, `_high`, `_n`, `_interval` and, where the paper has it, `_paper`."""
        rows = []
        for row in self.rows:
            cells: dict[str, object] = {**row.keys, **_facts(row.designs), "confidence": self.confidence}
            for column, estimate in zip(self.content.columns, row.estimates, strict=True):
                cells |= {
                    column.name: estimate.value,
                    f"{column.name}_low": estimate.low,
                    f"{column.name}_high": estimate.high,
                    f"{column.name}_n": estimate.n,
                    f"{column.name}_interval": estimate.method or None,
                }
                if column.in_paper:
                    cells[f"{column.name}_paper"] = (row.paper or {}).get(column.name)
            rows.append(cells)
        return rows

    def text(self) -> TextTable:
        """For people: a column for n where it differs between rows (else it is in the caption)."""
        headings = [key.replace("_", " ").capitalize().replace(" ev", " (eV)") for key in self.content.keys]
        cells = [[_key_text(row.keys[key]) for key in self.content.keys] for row in self.rows]
        for index, column in enumerate(self.content.columns):
            estimates = [row.estimates[index] for row in self.rows]
            headings.append(column.heading)
            for line, estimate in zip(cells, estimates, strict=True):
                line.append(format_estimate(estimate, column.decimals))
            if self._common_n(index) is None:
                headings.append(f"n ({column.unit_counted})")
                for line, estimate in zip(cells, estimates, strict=True):
                    line.append(f"{estimate.n:,}")
            if column.in_paper:
                headings.append("paper")
                for line, row in zip(cells, self.rows, strict=True):
                    value = (row.paper or {}).get(column.name)
                    line.append("–" if value is None else f"{value:.2f}")
        return TextTable(self.content.title, self.caption(), headings, cells, len(self.content.keys))

    def caption(self) -> str:
        """What the table shows, what the numbers were counted over, the seeds, the intervals and the validity rule."""
        all_designs = [row.designs for row in self.rows if row.designs]
        crystals = sorted({len(designs.material_ids) for designs in all_designs})
        seeds = sorted({designs.seeds for designs in all_designs})
        rules = sorted({designs.validity_rule for designs in all_designs})
        methods = list(dict.fromkeys(e.method for row in self.rows for e in row.estimates if e.method))
        intervals = "; ".join(
            f"{method}, {self.bootstrap_samples:,} resamples" if "bootstrap" in method else method for method in methods
        )
        common: dict[str, list[str]] = {}
        for index, column in enumerate(self.content.columns):
            if (n := self._common_n(index)) is not None:
                common.setdefault(f"{n:,} {column.unit_counted}", []).append(column.heading.partition(" (")[0])
        counted = "; ".join(f"{n} ({', '.join(names)})" for n, names in common.items())
        sentences = [
            self.content.caption,
            self.note,
            f"M = {' or '.join(f'{n:,}' for n in crystals)} validation crystals for each policy and seed."
            if crystals
            else "",
            f"Seeds: {' or '.join(', '.join(map(str, each)) for each in seeds)}." if seeds else "",
            f"Counted over {counted}." if counted else "",
            f"In brackets: {100 * self.confidence:g} % intervals ({intervals})."
            if intervals
            else "No interval: fewer than two crystals.",
            f"Validity rule: {', '.join(f'`{rule}`' for rule in rules)}." if rules else "",
            _PAPER_NOTE if any(column.in_paper for column in self.content.columns) else "",
        ]
        return " ".join(filter(None, sentences))

    def _common_n(self, index: int) -> int | None:
        counts = {row.estimates[index].n for row in self.rows}
        return counts.pop() if len(counts) == 1 else None

    def write(self, csv: str | Path, markdown: str | Path, latex: str | Path) -> None:
        """Write all three forms."""
        columns = [*self.content.keys, *(column.name for column in self.content.columns)]
        write_table(self.text(), columns, self.csv_rows(), csv, markdown, latex)


def _facts(designs: PolicyDesigns | None) -> dict[str, object]:
    if designs is None:
        return {}
    return {
        "n_seeds": len(designs.seeds),
        "seeds": " ".join(map(str, designs.seeds)),
        "n_crystals": len(designs.material_ids),
        "n_designs": int(designs.designed.sum()),
        "validity_rule": designs.validity_rule,
    }


def _key_text(value: str | float | None) -> str:
    return "–" if value is None else value if isinstance(value, str) else f"{value:g}"


def make_composition_table(
    assessments: str | Path,
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    policies: Policies,
    bootstrap_samples: int,
    confidence: float,
) -> None:
    """Table 1 of the paper, with its values beside ours; needs no SCF. Further arguments and errors as for `make_paper_table`.

    Args:
        assessments: `ASSESSMENTS` table.
    """
    all_designs = read_compositions(assessments, policies)
    _write_paper_table(1, all_designs, csv, markdown, latex, specs_of(policies), bootstrap_samples, confidence)


def make_paper_table(
    evaluation: str | Path,
    labels: str | Path,
    stability: str | Path,
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    number: Literal[2, 3, 4],
    policies: Policies,
    bootstrap_samples: int,
    confidence: float,
) -> None:
    """Table 2, 3 or 4 of the paper, with its values beside ours.

    Table 2 has a row a policy, in the order given; Tables 3 and 4 the baselines, then every setting of the reward at
    their target gap.

    Args:
        evaluation: `EVALUATION` table.
        labels: `LABELS` table.
        stability: `STABILITY` table.
        csv: table for programs (`ResultTable.csv_rows`).
        markdown: the same for people, with a caption.
        latex: the same for a manuscript.
        number: of the table.
        policies: names of the rows, with what each policy is.
        bootstrap_samples: resamples of an interval.
        confidence: its level.

    Raises:
        XtalrlError: see `read_policies`.
    """
    target_ev = next(each.target_ev for each in PAPER_TABLES if each.number == number)
    specs = specs_of(policies) if target_ev is None else settings_at(policies, target_ev)
    all_designs = read_policies(evaluation, labels, stability, specs)
    _write_paper_table(number, all_designs, csv, markdown, latex, specs, bootstrap_samples, confidence)


def _write_paper_table(
    number: int,
    all_designs: Sequence[PolicyDesigns],
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    specs: Mapping[str, PolicySpec | None],
    bootstrap_samples: int,
    confidence: float,
) -> None:
    paper = next(each for each in PAPER_TABLES if each.number == number)
    entry = next(each for each in TABLES if each.name.startswith(f"table{number}_"))
    progress = Progress(f"Table {number}", len(all_designs), "policies")
    rows = []
    for designs in all_designs:
        bootstrap = designs.bootstrap(bootstrap_samples, confidence)
        estimates = [column.estimate(designs, bootstrap) for column in entry.columns]
        spec = specs[designs.policy]
        reward = spec.reward if spec and spec.is_conditional else None
        keys = {
            "policy": designs.policy,
            "setting": reward.setting if reward else None,
            "omega": spec.omega if spec else None,
        }
        rows.append(Row({key: keys[key] for key in entry.keys}, estimates, designs, paper_values(paper, spec)))
        progress.advance()
    ResultTable(entry, rows, bootstrap_samples, confidence).write(csv, markdown, latex)


def make_stability_table(
    evaluation: str | Path,
    labels: str | Path,
    stability: str | Path,
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    policies: Policies,
    threshold_ev_per_atom: float,
    bootstrap_samples: int,
    confidence: float,
) -> None:
    """Energy above the hull, and stable, unique, novel designs; further arguments and errors as for `make_paper_table`.

    Args:
        threshold_ev_per_atom: largest energy above the hull of a stable design.
    """
    all_designs = read_policies(evaluation, labels, stability, policies)
    columns = content("stability").columns
    rows = []
    for designs in all_designs:
        bootstrap = designs.bootstrap(bootstrap_samples, confidence)
        with_threshold = {"stable_pct", "sun_pct"}
        estimates = [
            column.estimate(designs, bootstrap, *([threshold_ev_per_atom] if column.name in with_threshold else []))
            for column in columns
        ]
        rows.append(Row({"policy": designs.policy}, estimates, designs))
    note = f"Stable: at most {threshold_ev_per_atom:g} eV/atom above the hull."
    ResultTable(content("stability"), rows, bootstrap_samples, confidence, note).write(csv, markdown, latex)


def make_desired_range_table(
    evaluation: str | Path,
    labels: str | Path,
    stability: str | Path,
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    policies: Policies,
    targets_ev: Sequence[float],
    window_ev: float,
    bootstrap_samples: int,
    confidence: float,
) -> None:
    """ν and κ of every policy at every target, with each denominator; further arguments and errors as for `make_paper_table`.

    Args:
        targets_ev: target gaps.
        window_ev: half width of the desired range.
    """
    rows = []
    progress = Progress("Desired range", len(policies), "policies")
    for designs in read_policies(evaluation, labels, stability, policies):
        bootstrap = designs.bootstrap(bootstrap_samples, confidence)
        for target in targets_ev:
            estimates = [
                column.estimate(designs, bootstrap, target, window_ev) for column in content("desired_range").columns
            ]
            rows.append(Row({"policy": designs.policy, "target_ev": target}, estimates, designs))
        progress.advance()
    note = f"Window: ±{window_ev:g} eV."
    ResultTable(content("desired_range"), rows, bootstrap_samples, confidence, note).write(csv, markdown, latex)


def make_gap_error_table(
    crystals: str | Path,
    labels: str | Path,
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    bootstrap_samples: int,
    confidence: float,
) -> None:
    """Our gaps against the source's, by split.

    Args:
        crystals: `CRYSTALS` table, with the gaps of the source.
        labels: `LABELS` table, with ours.
        csv: table for programs.
        markdown: the same for people.
        latex: the same for a manuscript.
        bootstrap_samples: resamples of an interval.
        confidence: its level.

    Raises:
        XtalrlError: a file cannot be read.
    """
    ours = tables.read(labels, tables.LABELS).to_pandas().set_index("material_id")
    ours = ours[ours["split"] != tables.METALS]
    known = tables.read(crystals, tables.CRYSTALS).select(["material_id", "band_gap"])
    source = known.to_pandas().set_index("material_id")["band_gap"]
    rows = []
    for split in [*dict.fromkeys(ours["split"]), "all"]:
        part = ours if split == "all" else ours[ours["split"] == split]
        gaps, source_gaps = part["band_gap"].to_numpy(float), source.reindex(part.index).to_numpy(float)
        bootstrap = Bootstrap(1, len(part), bootstrap_samples, confidence)
        estimates = [column.estimate(gaps, source_gaps, bootstrap) for column in content("gap_error").columns]
        rows.append(Row({"split": split}, estimates))
    ResultTable(content("gap_error"), rows, bootstrap_samples, confidence).write(csv, markdown, latex)
