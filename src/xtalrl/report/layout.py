"""Tables as text: Markdown for people, LaTeX (booktabs) for manuscripts."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from xtalrl.csv_files import write_csv
from xtalrl.files import write_text
from xtalrl.metrics.intervals import Estimate

logger = logging.getLogger(__name__)

_ROWS_OF_A_PAGE = 45


@dataclass(frozen=True)
class TextTable:
    """Headings and rows as text; the first `n_keys` columns say what a row is about and are left-aligned."""

    title: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    n_keys: int = 1

    def markdown(self) -> str:
        """A pipe table whose columns are aligned, so that it can be read as plain text."""
        sides = ["left" if index < self.n_keys else "right" for index in range(len(self.headings))]
        table = tabulate(self.rows, self.headings, tablefmt="pipe", colalign=sides, disable_numparse=True)
        return f"**{self.title}** {self.caption}\n\n{table}\n"

    def latex(self) -> str:
        """A table in booktabs style, as a longtable if it does not fit on a page."""
        is_long = len(self.rows) > _ROWS_OF_A_PAGE
        rows = [[_latex_text(cell) for cell in row] for row in self.rows]
        text: str = pd.DataFrame(rows, columns=[_latex_text(heading) for heading in self.headings]).to_latex(
            index=False,
            escape=False,
            longtable=is_long,
            column_format="l" * self.n_keys + "r" * (len(self.headings) - self.n_keys),
            caption=f"{_latex_text(self.title)} {_latex_text(self.caption)}",
        )
        return f"% needs \\usepackage{{booktabs{',longtable' if is_long else ''}}}\n{text}"


@dataclass(frozen=True)
class Table:
    """A table for people, and its rows for programs; `columns` are the columns that the CSV has if there are no rows."""

    text: TextTable
    rows: Sequence[Mapping[str, object]]
    columns: Sequence[str]

    def noting(self, sentence: str) -> Table:
        """The same table with one more sentence in its caption."""
        return replace(self, text=replace(self.text, caption=f"{self.text.caption} {sentence}"))

    def write(self, csv: str | Path, markdown: str | Path, latex: str | Path, caption: str | Path) -> None:
        """Write the rows as CSV, the table for people as Markdown and LaTeX, and, for the report, the caption alone."""
        write_csv(csv, list(self.rows[0]) if self.rows else self.columns, self.rows)
        write_text(markdown, self.text.markdown())
        write_text(latex, self.text.latex())
        write_text(caption, f"{self.text.caption}\n")
        logger.info("Wrote %s, %s and %s", csv, markdown, latex)


def format_estimate(estimate: Estimate, decimals: int) -> str:
    """`49.4 [47.8, 51.0]`; `–` without a number, and the number alone without an interval."""
    if estimate.value is None:
        return "–"
    value = f"{estimate.value:.{decimals}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{estimate.low:.{decimals}f}, {estimate.high:.{decimals}f}]"


def verdict_on(promised: Estimate, found: float | None) -> str:
    """Whether a number lies in the interval that was predicted: kept, exceeded or missed; empty if there is no number or no interval."""
    if promised.low is None or promised.high is None or found is None:
        return ""
    return "missed" if found < promised.low else "exceeded" if found > promised.high else "kept"


_LATEX = str.maketrans(
    {
        "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "–": "--", "“": "``", "”": "''", "`": "", "≤": r"$\leq$", "±": r"$\pm$",
        "ω": r"$\omega$", "ν": r"$\nu$", "κ": r"$\kappa$", "α": r"$\alpha$", "β": r"$\beta$", "₁": r"$_1$", "₂": r"$_2$",
    }
)  # fmt: skip


def _latex_text(text: str) -> str:
    # A minus before a number is a sign, not a hyphen.
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(_LATEX))
