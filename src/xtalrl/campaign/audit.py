"""The results of the audit: recall of the screen, hits per SCF with and without the screen, and how certain these numbers are.

Every round is a stratum. The screen chose some of its designs, all of which were computed, and dropped the others, only a random sample of
which (the audited) was computed. Hits among the chosen are counted; hits among the dropped are estimated, where each audited design represents
dropped / audited designs. The interval comes from a beta-binomial posterior of the hits among the dropped designs that were not audited, with
Jeffreys' prior for their rate in each round (Brown, Cai and DasGupta, Statist. Sci. 16, 101 (2001), doi:10.1214/ss/1009213286); there is one
even where no audited design was a hit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xtalrl.metrics.intervals import NOTHING, Estimate, Floats, wilson

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
    """Wall time in s of the single-core SCFs of the chosen designs."""
    cpu_audited_s: float = 0.0


def missed(strata: Sequence[Stratum], samples: int) -> tuple[float, Floats] | None:
    """Estimated hits among the dropped designs, and (samples,) draws from their posterior; None where a round dropped designs but audited none."""
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
    """What a screen is worth over one round or several, as fractions rather than percent."""

    screened: Estimate
    """Hits per SCF among the designs that the screen chose."""
    unscreened: Estimate
    """Hits per SCF among designs drawn at random from all candidates."""
    acceleration: Estimate
    """`screened` divided by `unscreened`: matbench-discovery's discovery acceleration factor, precision over prevalence."""
    recall: Estimate
    """Fraction of the hits among all candidates that the screen chose."""
    recall_at_most: float | None
    """The largest recall that this number of SCFs could have reached, given the estimated number of hits."""


def judge(strata: Sequence[Stratum], samples: int, confidence: float) -> Verdict:
    """Judge the screen of these rounds.

    Args:
        strata: the stratum of each round.
        samples: number of posterior draws behind an interval.
        confidence: confidence level of the intervals.
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
        if not n_audited:  # Nothing was dropped, so that every hit is known.
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
