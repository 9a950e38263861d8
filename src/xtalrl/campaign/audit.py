"""What the audit tells: recall of the screen, hits per SCF with and without it, and how sure that is.

Every round is a stratum: the screen chose some of its designs, all of which were computed, and dropped the others, of which a random sample
was. The hits among the chosen are counted, those among the dropped estimated: each audited design stands for as many as were dropped for
one audited. The interval is that of a beta-binomial posterior of the hits among the dropped that were not audited, with Jeffreys' prior for
their rate in each round (Brown, Cai and DasGupta, Statist. Sci. 16, 101 (2001), doi:10.1214/ss/1009213286); it is there even where no audited design was a hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from xtalrl.metrics.intervals import NOTHING, WILSON, Estimate, Floats

METHOD = "beta-binomial posterior of the audit"
_RANDOM_SEED = 20260301  # any fixed number: the same counts give the same interval


@dataclass(frozen=True)
class Stratum:
    """Counts of one round; `dropped` includes the audited."""

    chosen: int
    hits_chosen: int
    dropped: int
    audited: int
    hits_audited: int
    cpu_chosen_s: float = 0.0
    """Wall time in s of the single-core SCFs of the chosen."""
    cpu_audited_s: float = 0.0


def missed(strata: Sequence[Stratum], samples: int) -> tuple[float, Floats] | None:
    """Hits among the dropped designs: the estimate, and (samples,) draws of the posterior; None where a round dropped designs and audited none."""
    if any(round_.dropped and not round_.audited for round_ in strata):
        return None
    generator = np.random.default_rng(_RANDOM_SEED)
    estimate, draws = 0.0, np.zeros(samples)
    for round_ in strata:
        if not round_.dropped:
            continue
        estimate += round_.dropped * round_.hits_audited / round_.audited
        rates = generator.beta(round_.hits_audited + 0.5, round_.audited - round_.hits_audited + 0.5, samples)
        draws += round_.hits_audited + generator.binomial(round_.dropped - round_.audited, rates)
    return estimate, draws


@dataclass(frozen=True)
class Verdict:
    """What a screen is worth, over one round or several; shares, not percent."""

    screened: Estimate
    """Hits per SCF of the designs that the screen chose."""
    unscreened: Estimate
    """Hits per SCF of a design drawn from all that were up for choice."""
    acceleration: Estimate
    """The first over the second: matbench-discovery's discovery acceleration factor, precision over prevalence."""
    recall: Estimate
    """Share of the hits among all that were up for choice which the screen chose."""
    recall_at_most: float | None
    """The largest recall that so few SCFs could have had, by the estimate of the hits there are."""


def judge(strata: Sequence[Stratum], samples: int, confidence: float) -> Verdict:
    """Judge the screen of these rounds.

    Args:
        strata: one for each round.
        samples: draws behind an interval.
        confidence: its level.
    """
    chosen = sum(round_.chosen for round_ in strata)
    hits = sum(round_.hits_chosen for round_ in strata)
    there = chosen + sum(round_.dropped for round_ in strata)
    screened = wilson(hits, chosen, confidence)
    found = missed(strata, samples)
    if found is None or not there:
        return Verdict(screened, NOTHING, NOTHING, NOTHING, None)
    estimate, draws = found
    n_audited = sum(round_.audited for round_ in strata)

    def of(value: float | None, resamples: Floats) -> Estimate:
        known = resamples[np.isfinite(resamples)]
        if value is None or not known.size:
            return NOTHING
        if not n_audited:  # Nothing was dropped: there is nothing that is not known.
            return Estimate(value, value, value, there, "complete")
        tail = (1 - confidence) / 2
        low, high = np.quantile(known, [tail, 1 - tail])
        return Estimate(value, min(float(low), value), max(float(high), value), n_audited, METHOD)

    total = hits + estimate
    with np.errstate(divide="ignore", invalid="ignore"):
        recalls = np.where(hits + draws > 0, hits / (hits + draws), np.nan)
        ratios = (hits / chosen if chosen else np.nan) * there / (hits + draws)
    return Verdict(
        screened,
        of(total / there, (hits + draws) / there),
        of(hits / chosen * there / total if chosen and total else None, ratios),
        of(hits / total if total else None, recalls),
        min(1.0, chosen / total) if total else None,
    )


def wilson(successes: int, trials: int, confidence: float) -> Estimate:
    """A share with Wilson's interval."""
    if not trials:
        return NOTHING
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high), trials, WILSON)
