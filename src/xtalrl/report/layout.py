"""Tables as text: Markdown for people, LaTeX (booktabs) for manuscripts."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xtalrl.metrics.intervals import Estimate
from xtalrl.report.files import write_csv, write_text

logger = logging.getLogger(__name__)

_ROWS_OF_A_PAGE = 45


@dataclass(frozen=True)
class TextTable:
    """Headings and rows as text; the first `n_keys` columns say what a row is about and are set flush left."""

    title: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    n_keys: int = 1

    def markdown(self) -> str:
        """A pipe table, aligned so that it can be read as it is."""
        widths = [max(3, *map(len, column)) for column in zip(self.headings, *self.rows, strict=True)]
        lines = [
            "| "
            + " | ".join(
                cell.ljust(width) if index < self.n_keys else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            + " |"
            for row in (self.headings, *self.rows)
        ]
        rule = "".join(
            "|" + ("-" * (width + 2) if index < self.n_keys else "-" * (width + 1) + ":")
            for index, width in enumerate(widths)
        )
        return "\n".join([f"**{self.title}** {self.caption}", "", lines[0], f"{rule}|", *lines[1:], ""])

    def latex(self) -> str:
        """A floating table in booktabs style, or a longtable where it does not fit on a page."""
        caption = rf"\caption{{{_latex_text(self.title)} {_latex_text(self.caption)}}}"
        columns = "l" * self.n_keys + "r" * (len(self.headings) - self.n_keys)
        heading = " & ".join(map(_latex_text, self.headings)) + r" \\"
        body = [" & ".join(map(_latex_text, row)) + r" \\" for row in self.rows]
        if len(self.rows) > _ROWS_OF_A_PAGE:
            lines = [
                r"% needs \usepackage{booktabs,longtable}",
                rf"\begin{{longtable}}{{{columns}}}",
                caption + r"\\",
                r"\toprule", heading, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot",
                *body,
                r"\end{longtable}",
            ]  # fmt: skip
        else:
            lines = [
                r"% needs \usepackage{booktabs}",
                r"\begin{table*}", r"\centering", caption, rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule", heading, r"\midrule", *body, r"\bottomrule",
                r"\end{tabular}", r"\end{table*}",
            ]  # fmt: skip
        return "\n".join([*lines, ""])


@dataclass(frozen=True)
class Table:
    """A table for people, and its rows for programs; `columns` are those of the CSV of a table without rows."""

    text: TextTable
    rows: Sequence[Mapping[str, object]]
    columns: Sequence[str]

    def write(self, csv: str | Path, markdown: str | Path, latex: str | Path) -> None:
        """Write the rows as CSV, and the table for people as Markdown and LaTeX."""
        write_csv(csv, list(self.rows[0]) if self.rows else self.columns, self.rows)
        write_text(markdown, self.text.markdown())
        write_text(latex, self.text.latex())
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
    {
        "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "–": "--", "“": "``", "”": "''", "`": "", "≤": r"$\leq$", "±": r"$\pm$",
        "ω": r"$\omega$", "ν": r"$\nu$", "κ": r"$\kappa$", "α": r"$\alpha$", "β": r"$\beta$", "₁": r"$_1$", "₂": r"$_2$",
    }
)  # fmt: skip


def _latex_text(text: str) -> str:
    # A minus before a number is a sign, not a hyphen.
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text.translate(_LATEX))
