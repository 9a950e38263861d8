"""Tables of estimates: CSV for programs, Markdown for people, LaTeX (booktabs) for manuscripts.

Every number comes with its interval, with what it was counted over, with the number of seeds and, where one applies, with the name of the
validity rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.metrics.designs import PolicyDesigns
from xtalrl.metrics.intervals import Estimate
from xtalrl.metrics.properties import GapPairs
from xtalrl.metrics.scoring import Scoring
from xtalrl.progress import Progress
from xtalrl.report.contents import TABLES, Content, content
from xtalrl.report.layout import Table, TextTable, format_estimate
from xtalrl.report.paper import PAPER_TABLES, paper_values
from xtalrl.report.results import Results
from xtalrl.report.style import Policies

_PAPER_NOTE = "“paper”: the published value of one seed, for orientation."


@dataclass(frozen=True)
class Row:
    """A row: what it is about, the designs it was counted over (None for crystals of the data set), its estimates, and the paper's values."""

    keys: Mapping[str, str | float | None]
    estimates: Sequence[Estimate]
    designs: PolicyDesigns | None = None
    paper: Mapping[str, float | None] | None = None


@dataclass(frozen=True)
class ResultTable:
    """Rows of estimates, with everything that is needed to read them; `note` is the end of the caption."""

    content: Content
    rows: Sequence[Row]
    scoring: Scoring
    note: str = ""

    def csv_rows(self) -> list[dict[str, object]]:
        """Rows of the CSV: the keys, then `<metric>`, `<metric>_low`, `_high`, `_n`, `_interval` and, where the paper has the number, `_paper`."""
        rows = []
        for row in self.rows:
            cells: dict[str, object] = {**row.keys, **_facts(row.designs), "confidence": self.scoring.confidence}
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
        """The table for people; n is a column where it differs between rows, and in the caption where it does not."""
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
        on_skeletons = any(np.isfinite(designs.n_correct).any() for designs in all_designs)
        seeds = sorted({designs.seeds for designs in all_designs})
        rules = sorted({designs.validity_rule for designs in all_designs})
        methods = list(dict.fromkeys(e.method for row in self.rows for e in row.estimates if e.method))
        intervals = "; ".join(
            f"{method}, {self.scoring.bootstrap_samples:,} resamples" if "bootstrap" in method else method
            for method in methods
        )
        common: dict[str, list[str]] = {}
        for index, column in enumerate(self.content.columns):
            if (n := self._common_n(index)) is not None:
                common.setdefault(f"{n:,} {column.unit_counted}", []).append(column.heading.partition(" (")[0])
        counted = "; ".join(f"{n} ({', '.join(names)})" for n, names in common.items())
        sentences = [
            self.content.caption,
            self.note,
            f"M = {' or '.join(f'{n:,}' for n in crystals)} {'validation crystals' if on_skeletons else 'entries'} for each policy and seed."
            if crystals
            else "",
            f"Seeds: {' or '.join(', '.join(map(str, each)) for each in seeds)}." if seeds else "",
            f"Counted over {counted}." if counted else "",
            f"In brackets: {100 * self.scoring.confidence:g} % intervals ({intervals})."
            if intervals
            else "No interval: fewer than two crystals.",
            f"Validity rule: {', '.join(f'`{rule}`' for rule in rules)}." if rules else "",
            _PAPER_NOTE if any(column.in_paper for column in self.content.columns) else "",
        ]
        return " ".join(filter(None, sentences))

    def _common_n(self, index: int) -> int | None:
        counts = {row.estimates[index].n for row in self.rows}
        return counts.pop() if len(counts) == 1 else None

    def table(self) -> Table:
        """The table in the form in which it is written."""
        columns = [*self.content.keys, *(column.name for column in self.content.columns)]
        return Table(self.text(), self.csv_rows(), columns)


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


def table1(results: Results, scoring: Scoring) -> Table:
    """Table 1 of the paper, with its values next to ours; it needs no SCF."""
    return _paper_table(1, results.compositions, results.policies, scoring)


def table2(results: Results, scoring: Scoring) -> Table:
    """Table 2 of the paper, with its values next to ours."""
    return _paper_table(2, results.designs, results.policies, scoring)


def table3(results: Results, scoring: Scoring) -> Table:
    """Table 3 of the paper: the baselines, then every setting of the reward at the table's target gap."""
    return _settings_table(3, results, scoring)


def table4(results: Results, scoring: Scoring) -> Table:
    """Table 4 of the paper: the same as Table 3 at another target gap."""
    return _settings_table(4, results, scoring)


def _settings_table(number: int, results: Results, scoring: Scoring) -> Table:
    target_ev = next(each.target_ev for each in PAPER_TABLES if each.number == number)
    assert target_ev is not None
    return _paper_table(number, results.designs, results.settings_at(target_ev), scoring)


def _paper_table(number: int, designs_of: Mapping[str, PolicyDesigns], policies: Policies, scoring: Scoring) -> Table:
    paper = next(each for each in PAPER_TABLES if each.number == number)
    entry = next(each for each in TABLES if each.name.startswith(f"table{number}_"))
    progress = Progress(f"Table {number}", len(policies), "policies")
    rows = []
    for name, spec in policies.items():
        designs = designs_of[name]
        reward = spec.reward if spec and spec.is_conditional else None
        keys = {
            "policy": name,
            "setting": reward.setting if reward else None,
            "omega": spec.omega if spec else None,
        }
        estimates = [column.estimate(designs, scoring) for column in entry.columns]
        rows.append(Row({key: keys[key] for key in entry.keys}, estimates, designs, paper_values(paper, spec)))
        progress.advance()
    return ResultTable(entry, rows, scoring).table()


def stability_table(results: Results, scoring: Scoring) -> Table:
    """Energy above the hull, and the shares of stable, unique and novel designs."""
    entry = content("stability")
    rows = [
        Row({"policy": name}, [column.estimate(designs, scoring) for column in entry.columns], designs)
        for name, designs in results.designs.items()
    ]
    note = f"Stable: at most {scoring.stable_ev_per_atom:g} eV/atom above the hull."
    return ResultTable(entry, rows, scoring, note).table()


def desired_range_table(results: Results, scoring: Scoring) -> Table:
    """ν and κ of every policy at every target, with each denominator."""
    entry = content("desired_range")
    rows = []
    progress = Progress("Desired range", len(results.designs), "policies")
    for name, designs in results.designs.items():
        for target in scoring.targets_ev:
            estimates = [column.estimate(designs, scoring.at(target)) for column in entry.columns]
            rows.append(Row({"policy": name, "target_ev": target}, estimates, designs))
        progress.advance()
    return ResultTable(entry, rows, scoring, f"Window: ±{scoring.window_ev:g} eV.").table()


def gap_error_table(results: Results, scoring: Scoring) -> Table:
    """Our gaps compared with those of the source, by split."""
    entry = content("gap_error")
    ours = tables.read(results.path("labels"), tables.LABELS).to_pandas().set_index("material_id")
    ours = ours[ours["split"] != tables.METALS]
    if ours.empty:
        raise XtalrlError(f"{results.path('labels')} has no crystal to compare: run `snakemake labels` again.")
    known = tables.read(results.path("crystals"), tables.CRYSTALS).select(["material_id", "band_gap"])
    source = known.to_pandas().set_index("material_id")["band_gap"]
    rows = []
    for split in [*dict.fromkeys(ours["split"]), "all"]:
        part = ours if split == "all" else ours[ours["split"] == split]
        gaps = GapPairs(part["band_gap"].to_numpy(float), source.reindex(part.index).to_numpy(float))
        rows.append(Row({"split": split}, [column.estimate(gaps, scoring) for column in entry.columns]))
    return ResultTable(entry, rows, scoring).table()
