"""Tables 1 and 2: CSV for programs, Markdown for people, LaTeX (booktabs) for manuscripts.

Every number comes with its interval, what it was counted over, the number of seeds and, where there is one, the name of the validity rule.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtalrl.metrics import composition, properties
from xtalrl.metrics.designs import PolicyDesigns, read_policies
from xtalrl.metrics.intervals import Bootstrap, Estimate
from xtalrl.progress import Progress
from xtalrl.report.files import write_csv, write_text
from xtalrl.report.paper import paper_table

logger = logging.getLogger(__name__)

_RANDOM_NOTE = (
    "“paper”: the published value of one seed, for orientation (its row `random` is printed there as a fraction)."
)

Metric = Callable[[PolicyDesigns, Bootstrap], Estimate]


@dataclass(frozen=True)
class Column:
    """A metric in a table: its CSV name (with the unit), its heading for people, what its n counts, the paper's name of it."""

    name: str
    heading: str
    unit_counted: str
    metric: Metric
    factor: float = 1.0
    decimals: int = 1
    in_paper: bool = False

    def estimate(self, designs: PolicyDesigns, bootstrap: Bootstrap) -> Estimate:
        """The metric in the column's unit."""
        return self.metric(designs, bootstrap).scaled(self.factor)


TABLE1 = (
    Column("accuracy_pct", "Accuracy (%)", "atoms", composition.accuracy, 100, in_paper=True),
    Column("similarity_pct", "Similarity (%)", "atoms", composition.similarity, 100, in_paper=True),
    Column("validity_pct", "Validity (%)", "designs", composition.validity, 100, in_paper=True),
    Column("novelty_pct", "Novelty (%)", "valid designs", composition.novelty, 100, in_paper=True),
    Column("exact_match_pct", "Exact match (%)", "designs", composition.exact_match, 100),
)
TABLE2 = (
    Column("dft_success_pct", "DFT success of valid (%)", "valid designs", properties.dft_success, 100, in_paper=True),
    Column("dft_success_of_all_pct", "DFT success of all (%)", "designs", properties.dft_success_of_all, 100),
    Column(
        "mean_formation_energy_ev_per_atom",
        "Mean E_form (eV/atom)",
        "successes",
        properties.mean_formation_energy,
        decimals=2,
    ),
    Column("mean_band_gap_ev", "Mean gap (eV)", "successes", properties.mean_band_gap, decimals=2),
)


@dataclass(frozen=True)
class ResultTable:
    """Estimates of every policy (rows) and metric (columns), with what it takes to read them."""

    title: str
    columns: Sequence[Column]
    designs: Sequence[PolicyDesigns]
    estimates: Sequence[Sequence[Estimate]]
    paper: Mapping[str, Mapping[str, float | None]]
    bootstrap_samples: int
    confidence: float

    def csv_rows(self) -> list[dict[str, object]]:
        """One row a policy: `<metric>`, `<metric>_low`, `_high`, `_n`, `_interval` and, where the paper has it, `_paper`."""
        rows = []
        for designs, estimates in zip(self.designs, self.estimates, strict=True):
            row: dict[str, object] = {
                "policy": designs.policy,
                "n_seeds": len(designs.seeds),
                "seeds": " ".join(map(str, designs.seeds)),
                "n_crystals": len(designs.material_ids),
                "n_designs": int(designs.designed.sum()),
                "validity_rule": designs.validity_rule,
                "confidence": self.confidence,
            }
            for column, estimate in zip(self.columns, estimates, strict=True):
                row |= {
                    column.name: estimate.value,
                    f"{column.name}_low": estimate.low,
                    f"{column.name}_high": estimate.high,
                    f"{column.name}_n": estimate.n,
                    f"{column.name}_interval": estimate.method or None,
                }
                if column.in_paper:
                    row[f"{column.name}_paper"] = self._paper_value(designs, column)
            rows.append(row)
        return rows

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows as text; a column for n where it differs between policies (else it is in the caption)."""
        headings = ["Policy"]
        rows = [[designs.policy] for designs in self.designs]
        for index, column in enumerate(self.columns):
            estimates = [estimates[index] for estimates in self.estimates]
            headings.append(column.heading)
            for row, estimate in zip(rows, estimates, strict=True):
                row.append(format_estimate(estimate, column.decimals))
            if self._common_n(index) is None:
                headings.append(f"n ({column.unit_counted})")
                for row, estimate in zip(rows, estimates, strict=True):
                    row.append(f"{estimate.n:,}")
            if column.in_paper:
                headings.append("paper")
                for row, designs in zip(rows, self.designs, strict=True):
                    value = self._paper_value(designs, column)
                    row.append("–" if value is None else f"{value:.2f}")
        return headings, rows

    def caption(self) -> str:
        """What the numbers were counted over, the seeds, the intervals and the validity rule."""
        crystals = sorted({len(designs.material_ids) for designs in self.designs})
        seeds = sorted({designs.seeds for designs in self.designs})
        rules = sorted({designs.validity_rule for designs in self.designs})
        methods = list(dict.fromkeys(e.method for estimates in self.estimates for e in estimates if e.method))
        intervals = "; ".join(
            f"{method}, {self.bootstrap_samples:,} resamples" if "bootstrap" in method else method for method in methods
        )
        common: dict[str, list[str]] = {}
        for index, column in enumerate(self.columns):
            if (n := self._common_n(index)) is not None:
                common.setdefault(f"{n:,} {column.unit_counted}", []).append(column.heading.partition(" (")[0])
        counted = "; ".join(f"{n} ({', '.join(names)})" for n, names in common.items())
        sentences = [
            f"M = {' or '.join(f'{n:,}' for n in crystals)} validation crystals for each policy and seed.",
            f"Seeds: {' or '.join(', '.join(map(str, each)) for each in seeds)}.",
            f"Counted over {counted}." if counted else "",
            f"In brackets: {100 * self.confidence:g} % intervals ({intervals})."
            if intervals
            else "No interval: fewer than two crystals.",
            f"Validity rule: {', '.join(f'`{rule}`' for rule in rules)}.",
            _RANDOM_NOTE if any(column.in_paper for column in self.columns) else "",
        ]
        return " ".join(filter(None, sentences))

    def markdown(self) -> str:
        """A pipe table, aligned so that it can be read as it is."""
        headings, rows = self.cells()
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        lines = [
            "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
            for row in (headings, *rows)
        ]
        rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
        return "\n".join([f"**{self.title}** {self.caption()}", "", lines[0], rule, *lines[1:], ""])

    def latex(self) -> str:
        """A floating table in booktabs style."""
        headings, rows = self.cells()
        body = [" & ".join(map(_latex_text, row)) + r" \\" for row in rows]
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}",
                r"\begin{table*}",
                r"\centering",
                rf"\caption{{{_latex_text(self.title)} {_latex_text(self.caption())}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
                r"\toprule",
                " & ".join(map(_latex_text, headings)) + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table*}",
                "",
            ]
        )

    def _paper_value(self, designs: PolicyDesigns, column: Column) -> float | None:
        return self.paper.get(designs.policy, {}).get(column.name)

    def _common_n(self, index: int) -> int | None:
        counts = {estimates[index].n for estimates in self.estimates}
        return counts.pop() if len(counts) == 1 else None


def make_table1(
    evaluation: str | Path,
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    policies: Sequence[str],
    bootstrap_samples: int,
    confidence: float,
) -> None:
    """Table 1: accuracy, similarity, validity, novelty; one row a policy, in the order given.

    Args:
        evaluation: `EVALUATION` table.
        csv: table for programs (`ResultTable.csv_rows`).
        markdown: the same for people, with a caption.
        latex: the same for a manuscript.
        policies: names of the rows.
        bootstrap_samples: resamples of an interval.
        confidence: its level.

    Raises:
        XtalrlError: see `read_policies`.
    """
    table = _result_table(
        "Table 1. Compositions of the designs, before any SCF.",
        TABLE1, "table1_presimulation.csv", evaluation, policies, bootstrap_samples, confidence,
    )  # fmt: skip
    _write(table, csv, markdown, latex)


def make_table2(
    evaluation: str | Path,
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    policies: Sequence[str],
    bootstrap_samples: int,
    confidence: float,
) -> None:
    """Table 2: SCF success of the designs, mean formation energy and gap; arguments and errors as for `make_table1`."""
    table = _result_table(
        "Table 2. SCFs of the designs.",
        TABLE2, "table2_dft_success.csv", evaluation, policies, bootstrap_samples, confidence,
    )  # fmt: skip
    _write(table, csv, markdown, latex)


def _result_table(
    title: str,
    columns: Sequence[Column],
    paper_file: str,
    evaluation: str | Path,
    policies: Sequence[str],
    bootstrap_samples: int,
    confidence: float,
) -> ResultTable:
    all_designs = read_policies(evaluation, policies)
    progress = Progress(title.partition(".")[0], len(policies), "policies")
    estimates = []
    for designs in all_designs:
        bootstrap = designs.bootstrap(bootstrap_samples, confidence)
        estimates.append([column.estimate(designs, bootstrap) for column in columns])
        progress.advance()
    return ResultTable(title, columns, all_designs, estimates, paper_table(paper_file), bootstrap_samples, confidence)


def _write(table: ResultTable, csv: str | Path, markdown: str | Path, latex: str | Path) -> None:
    rows = table.csv_rows()
    write_csv(csv, list(rows[0]), rows)
    write_text(markdown, table.markdown())
    write_text(latex, table.latex())
    logger.info("Wrote %s, %s and %s", csv, markdown, latex)


def format_estimate(estimate: Estimate, decimals: int) -> str:
    """`49.4 [47.8, 51.0]`; `–` where there is no number, the number alone where there is no interval."""
    if estimate.value is None:
        return "–"
    value = f"{estimate.value:.{decimals}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low:.{decimals}f}, {estimate.high:.{decimals}f}]"


_LATEX = str.maketrans(
    {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "–": "--", "“": "``", "”": "''", "ω": r"$\omega$", "`": ""}
)


def _latex_text(text: str) -> str:
    # A minus between digits and brackets is a sign, not a hyphen.
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(_LATEX))
