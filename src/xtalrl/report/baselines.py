"""The cost of hits in a campaign, compared with that of policies whose designs were computed without a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtalrl import tables
from xtalrl.campaign.accounts import together
from xtalrl.campaign.wishes import Wishes
from xtalrl.metrics.intervals import NOTHING, Estimate, wilson
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.campaign import campaign_accounts
from xtalrl.report.contents import content
from xtalrl.report.layout import Table, TextTable, format_estimate
from xtalrl.report.results import Results

_RANDOM_SEED = 20260302  # any fixed number: the same SCFs give the same interval
_PER_SCF = "percentile bootstrap over SCFs"


@dataclass(frozen=True)
class Spending:
    """SCFs of designs, and which of them led to a hit."""

    name: str
    hits: Sequence[bool]
    cpu_s: Sequence[float]
    """Wall time in s of each single-core SCF, all attempts; finer SCFs of hits are not included."""

    def per_scf(self, confidence: float) -> Estimate:
        """Hits per SCF."""
        return wilson(sum(self.hits), len(self.hits), confidence)

    def cpu_per_hit(self, samples: int, confidence: float) -> Estimate:
        """Wall time in s of single-core SCFs per hit. The interval has no ends where a resample in its tail has no hit."""
        n, found = len(self.hits), sum(self.hits)
        if not found:
            return NOTHING
        value = sum(self.cpu_s) / found
        drawn = np.random.default_rng(_RANDOM_SEED).multinomial(n, np.full(n, 1 / n), samples)
        with np.errstate(divide="ignore"):
            ratios = drawn @ np.array(self.cpu_s) / (drawn @ np.array(self.hits, float))
        tail = (1 - confidence) / 2
        low, high = np.quantile(ratios, [tail, 1 - tail], method="inverted_cdf")
        if n < 2 or not np.isfinite(high):
            return Estimate(value, None, None, n)
        return Estimate(value, min(float(low), value), max(float(high), value), n, _PER_SCF)


def baselines_table(results: Results, scoring: Scoring) -> Table:
    """Hits per SCF and CPU time per hit: of the campaign, of the designs that its screen chose, of a design drawn from all candidates, and of each baseline."""
    entry = content("campaign_baselines")
    account = together(campaign_accounts(results))
    computed = account.computed
    spent = [
        Spending("campaign", [one.hit for one in computed], [one.cpu_s for one in computed]),
        Spending(
            "campaign, chosen by the screen",
            [one.hit for one in computed if not one.audited],
            [one.cpu_s for one in computed if not one.audited],
        ),
        *_baselines(results),
    ]
    rows: list[dict[str, object]] = []
    lines = []

    def add(name: str, n_scfs: int | None, hits: int | None, per_100: Estimate, cpu: Estimate) -> None:
        row: dict[str, object] = {"designs": name, "scfs": n_scfs, "hits": hits}
        for column, estimate in (("hits_per_100", per_100), ("cpu_per_hit_s", cpu)):
            row |= {
                column: estimate.value,
                f"{column}_low": estimate.low,
                f"{column}_high": estimate.high,
                f"{column}_interval": estimate.method,
            }
        rows.append(row | {"confidence": scoring.confidence})
        counts = ["–" if count is None else f"{count:,}" for count in (n_scfs, hits)]
        lines.append([name, *counts, format_estimate(per_100, 1), format_estimate(cpu, 0)])

    for each in spent:
        cpu = each.cpu_per_hit(scoring.bootstrap_samples, scoring.confidence)
        add(each.name, len(each.hits), sum(each.hits), each.per_scf(scoring.confidence).scaled(100), cpu)
    unscreened = account.verdict(scoring.bootstrap_samples, scoring.confidence).unscreened
    mean = account.unscreened_cpu_s
    price = Estimate(mean / unscreened.value, None, None, unscreened.n) if mean and unscreened.value else NOTHING
    add("campaign, without the screen (by the audit)", None, None, unscreened.scaled(100), price)
    headings = ["Designs", "SCFs", "Hits", "Hits per 100 SCFs", "CPU per hit (s)"]
    caption = (
        f"{entry.caption} Wanted: {Wishes(**results.campaign).in_words}. In brackets: {100 * scoring.confidence:g} % intervals (Wilson score; by the audit, the "
        f"posterior of the hits among the dropped; CPU: {_PER_SCF})."
    )
    return Table(TextTable(entry.title, caption, headings, lines), rows, entry.keys)


def _baselines(results: Results) -> list[Spending]:
    """SCFs of the distinct designs of each baseline that are on skeletons of the campaign and for which pw.x was run."""
    wishes = Wishes(**results.campaign)
    skeletons = {row["material_id"] for row in tables.read_rows(results.path("campaign_skeletons"), tables.CRYSTALS)}
    scfs = {row["request_id"]: row for row in tables.read_rows(results.path("design_scf"), tables.SCF_OUTCOMES)}
    above = {
        row["request_id"]: row["energy_above_hull"]
        for row in tables.read_rows(results.path("stability"), tables.STABILITY)
        if not row["flag"]
    }
    evaluation = tables.read_rows(results.path("evaluation"), tables.EVALUATION)
    found = []
    for name in results.baselines:
        designs = {
            row["request_id"]: row
            for row in evaluation
            if row["policy"] == name and row["material_id"] in skeletons and row["request_id"] in scfs
        }
        computed = {request_id: row for request_id, row in designs.items() if scfs[request_id]["attempts"]}
        hits = [wishes.are_met(row, above.get(request_id)) for request_id, row in computed.items()]
        found.append(Spending(name, hits, [scfs[request_id]["wall_s"] for request_id in computed]))
    return found
