"""The climb of one request up the recovery ladder: which attempts are made, no matter who computes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xtalrl.cells import Cell
from xtalrl.dft.cache import Record
from xtalrl.dft.outcomes import Outcome, Result, taken
from xtalrl.dft.protocols import Protocol
from xtalrl.dft.pseudopotentials import Family
from xtalrl.dft.recovery import Attempt, Recovery, Situation, final_result, first_attempt, next_attempt


@dataclass(frozen=True)
class AttemptLimits:
    """Seconds that the attempts of one request may take."""

    limits_s: tuple[float, ...]
    """One number per attempt; the last repeats."""
    in_all: bool
    """Whether all attempts together may take no longer than the sum of the numbers."""

    def of(self, walls_s: Sequence[float]) -> float:
        """The limit of the attempt after those that took `walls_s`."""
        limit = self.limits_s[min(len(walls_s), len(self.limits_s) - 1)]
        return min(limit, sum(self.limits_s) - sum(walls_s)) if self.in_all else limit


Compute = Callable[[Attempt, float], tuple[Record, Result]]
"""Computes an attempt within a number of seconds, or finds what was computed before."""


@dataclass
class Climb:
    """What was tried for one request and what came of it."""

    situation: Situation
    records: list[Record] = field(default_factory=list)
    """One per attempt of the situation's history."""
    verdict: Outcome | None = None
    """How the request ends without any attempt; None where there was one."""

    def paper_has_it(self) -> bool:
        """Whether `recovery: paper` would have ended with a usable result: its ladder is climbed with the same results."""
        paper = replace(self.situation, recovery="paper", history=[])
        following: Attempt | Outcome | None = first_attempt(paper)
        for attempt, result in self.situation.history:
            if attempt != following:
                break
            paper.history.append((attempt, result))
            following = next_attempt(paper)
        return bool(paper.history) and final_result(paper)[1].outcome.usable


def situation_of(request: Mapping[str, Any], protocol: Protocol, family: Family, recovery: Recovery) -> Situation:
    """What is known about a row of SCF_REQUESTS before anything has run."""
    return Situation(Cell.from_row(request), request["form"], protocol, family, recovery, request["tot_magnetization"])


def climb(situation: Situation, limits: AttemptLimits, compute: Compute, accept_not_saved: bool) -> Climb:
    """Make the attempts that the ladder asks for, until it asks for none or more time would not help.

    Args:
        situation: situation of a request before its first attempt; its history grows.
        compute: computes an attempt; an exception that it raises ends the climb.
        accept_not_saved: take the printed values of a pw.x that converged and then failed to save.
    """
    made = Climb(situation)
    following: Attempt | Outcome | None = first_attempt(situation)
    while isinstance(following, Attempt):
        limit_s = limits.of([record.wall_s for record in made.records])
        if made.records and _would_not_help(following, made.records[-1], limit_s, accept_not_saved):
            break
        record, result = compute(following, limit_s)
        made.records.append(record)
        situation.history.append((following, taken(result, accept_not_saved)))
        following = next_attempt(situation)
    made.verdict = following if isinstance(following, Outcome) else None
    return made


def _would_not_help(attempt: Attempt, last: Record, limit_s: float, accept_not_saved: bool) -> bool:
    """Whether no time is left, or a run that was cut off would get no more time than it had."""
    return limit_s < 1 or (attempt.strategy == "more_time" and last.answers(limit_s, accept_not_saved))
