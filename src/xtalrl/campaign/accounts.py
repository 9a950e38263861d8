"""The books of a campaign: what each round spent, found and missed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xtalrl.campaign.audit import Stratum, Verdict, judge
from xtalrl.campaign.screening import AUDITED, CHOSEN, COMPUTED, LEFT_OUT
from xtalrl.metrics.designs import SUCCESSFUL_OUTCOMES
from xtalrl.metrics.intervals import Estimate, expected_hits

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Computed:
    """A design that got an SCF. Their order is that of spending: by round, within a round the likeliest first and the audited last."""

    request_id: str
    round: int
    audited: bool
    probability: float
    converged: bool
    hit: bool
    confirmed: bool
    cpu_s: float
    """Wall time of its single-core SCF, all attempts."""
    confirmation_cpu_s: float
    """Wall time of its finer SCF, if it had one."""


@dataclass(frozen=True)
class Account:
    """What one round, or several together, proposed and computed."""

    proposed: int
    candidates: int
    """Designs that the screen could choose from."""
    strata: tuple[Stratum, ...]
    computed: tuple[Computed, ...]

    def verdict(self, samples: int, confidence: float) -> Verdict:
        """What the screen was worth."""
        return judge(self.strata, samples, confidence)

    def promised(self, confidence: float) -> Estimate:
        """Hits that the predictor expected of the computed designs."""
        return expected_hits([one.probability for one in self.computed], confidence)

    def count(self, name: str) -> int:
        """Computed designs that are `converged`, a `hit`, `confirmed` or `audited`."""
        return sum(getattr(one, name) for one in self.computed)

    @property
    def cpu_s(self) -> float:
        """Wall time in s of all single-core SCFs of designs, including the finer ones of hits."""
        return sum(one.cpu_s + one.confirmation_cpu_s for one in self.computed)

    @property
    def unscreened_cpu_s(self) -> float | None:
        """Mean wall time in s of the single-core SCF of a design drawn from all candidates; None where the audit cannot tell."""
        if any(stratum.dropped and not stratum.audited for stratum in self.strata) or not self.candidates:
            return None
        total = sum(
            stratum.cpu_chosen_s + (stratum.dropped / stratum.audited * stratum.cpu_audited_s if stratum.audited else 0)
            for stratum in self.strata
        )
        return total / self.candidates


def accounts(
    screenings: Iterable[Sequence[Row]],
    outcomes: Sequence[Row],
    hits: Sequence[Row],
    confirmation: Sequence[Row],
    confirmation_outcomes: Sequence[Row],
    confirmed: str,
) -> list[Account]:
    """The account of each round.

    Args:
        screenings: rows of `SCREENING`, one table for each round.
        outcomes: rows of `SCF_OUTCOMES` of all designs.
        hits: rows of `HITS` of the campaign.
        confirmation, confirmation_outcomes: rows of `CONFIRMATION` of the hits, and of the `SCF_OUTCOMES` behind it.
        confirmed: the verdict that a confirmed hit has.
    """
    scfs = {row["request_id"]: row for row in outcomes}
    hit_ids = {row["request_id"] for row in hits}
    confirmed_ids = {row["request_id"] for row in confirmation if row["verdict"] == confirmed}
    finer_s = {row["request_id"]: row["wall_s"] for row in confirmation_outcomes}
    found = []
    for screening in screenings:
        candidates = [row for row in screening if row["verdict"] != LEFT_OUT]
        in_order = sorted(candidates, key=lambda row: (row["verdict"] == AUDITED, row["rank"]))
        computed = tuple(
            Computed(
                request_id=row["request_id"],
                round=row["round"],
                audited=row["verdict"] == AUDITED,
                probability=row["p_hit"],
                converged=scfs[row["request_id"]]["outcome"] in SUCCESSFUL_OUTCOMES,
                hit=row["request_id"] in hit_ids,
                confirmed=row["request_id"] in confirmed_ids,
                cpu_s=scfs[row["request_id"]]["wall_s"],
                confirmation_cpu_s=finer_s.get(row["request_id"], 0.0),
            )
            for row in in_order
            if row["verdict"] in COMPUTED
        )
        chosen = [one for one in computed if not one.audited]
        audited = [one for one in computed if one.audited]
        stratum = Stratum(
            len(chosen),
            sum(one.hit for one in chosen),
            sum(row["verdict"] != CHOSEN for row in candidates),
            len(audited),
            sum(one.hit for one in audited),
            sum(one.cpu_s for one in chosen),
            sum(one.cpu_s for one in audited),
        )
        found.append(Account(len(screening), len(candidates), (stratum,), computed))
    return found


def together(parts: Sequence[Account]) -> Account:
    """The account of several rounds together."""
    return Account(
        sum(part.proposed for part in parts),
        sum(part.candidates for part in parts),
        tuple(stratum for part in parts for stratum in part.strata),
        tuple(one for part in parts for one in part.computed),
    )
