"""What a predictor says of crystals, as distributions: probabilities, quantiles and conformal intervals. numpy alone.

The distribution of an ensemble is the mean of those of its members, so that it contains both the uncertainty of each member and their
disagreement.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SURE = 1e-9
"""Probabilities closer than this to 0 or 1 give no further quantiles."""
_HALVINGS = 60


@dataclass(frozen=True)
class Distribution(ABC):
    """Distributions of one quantity, each the mean of those of P members, for n crystals."""

    location: Floats
    """(P, n) most likely value, of a Laplace distribution."""
    scale: Floats
    """(P, n) mean absolute deviation of the Laplace distribution."""

    @abstractmethod
    def _members_cdf(self, value: Floats) -> Floats:
        """(P, n) probability of at most the value (n,), by each member."""

    @abstractmethod
    def _moments(self) -> tuple[Floats, Floats, Floats]:
        """(P, n) weight, mean and mean square by each member."""

    def cdf(self, value: float | Floats) -> Floats:
        """(n,) probability of at most a value: a number, or one for each crystal."""
        of_each = np.broadcast_to(np.asarray(value, float), self.location.shape[1:])
        probability: Floats = self._members_cdf(of_each).mean(0)
        return probability

    def quantile(self, probability: float | Floats) -> Floats:
        """(n,) smallest value that is not exceeded with at least a probability, by bisection."""
        probability = np.clip(probability, SURE, 1 - SURE)
        reach = self.scale.max(0) * -math.log(SURE / 2)
        low: Floats = self.location.min(0) - reach
        high: Floats = np.maximum(self.location.max(0), 0) + reach
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            enough = self.cdf(middle) >= probability
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        return high

    def mean(self) -> Floats:
        """(n,) expected value; of a gap, that of a nonmetal."""
        weight, mean, _ = self._moments()
        expected: Floats = np.average(mean, 0, weight)
        return expected

    def std(self) -> Floats:
        """(n,) standard deviation within and between the members; of a gap, that of a nonmetal."""
        weight, mean, square = self._moments()
        return np.sqrt(np.maximum(np.average(square, 0, weight) - np.average(mean, 0, weight) ** 2, 0))

    def spread(self) -> Floats:
        """(n,) standard deviation of the members' means; of a gap, that of a nonmetal."""
        weight, mean, _ = self._moments()
        return np.sqrt(np.average((mean - np.average(mean, 0, weight)) ** 2, 0, weight))

    def score(self, value: Floats) -> Floats:
        """(n,) how far from the middle of its distribution each value lies, from 0 to ½: the nonconformity of conformal prediction."""
        above = self.cdf(np.nextafter(value, -np.inf))  # a value of its own probability is as near as its nearest part
        return np.maximum(np.maximum(0.5 - self.cdf(value), above - 0.5), 0)

    def interval(self, radius: float | Floats) -> tuple[Floats, Floats]:
        """(n,) each: ends of the interval of the values whose score is at most a radius: one, or one for each crystal."""
        return self.quantile(0.5 - radius), self.quantile(0.5 + radius)


@dataclass(frozen=True)
class Energies(Distribution):
    """Formation energies in eV/atom: Laplace distributions."""

    def _members_cdf(self, value: Floats) -> Floats:
        return 1 - _survival((value - self.location) / self.scale)

    def _moments(self) -> tuple[Floats, Floats, Floats]:
        return np.ones_like(self.location), self.location, self.location**2 + 2 * self.scale**2


@dataclass(frozen=True)
class Gaps(Distribution):
    """Band gaps in eV: exactly 0 for a metal, else a Laplace distribution of which only the values above 0 count."""

    metal: Floats
    """(P, n) probability of a metal."""

    def quantile(self, probability: float | Floats) -> Floats:
        """(n,) quantile; exactly 0 if a metal is at least that probable."""
        return np.where(self.cdf(0.0) >= np.maximum(probability, SURE), 0.0, super().quantile(probability))

    def _members_cdf(self, value: Floats) -> Floats:
        # Where the most likely value is negative, what is left above 0 is an exponential distribution.
        beyond = np.where(
            self.location > 0,
            _survival((value - self.location) / self.scale) / _survival(-np.maximum(self.location, 0) / self.scale),
            np.exp(-np.maximum(value, 0) / self.scale),
        )
        return np.where(value < 0, 0.0, 1 - (1 - self.metal) * np.minimum(beyond, 1.0))

    def _moments(self) -> tuple[Floats, Floats, Floats]:
        at, scale = np.maximum(self.location, 0), self.scale
        tail = np.exp(-at / scale)
        kept = 1 - tail / 2
        mean = (at + scale * tail / 2) / kept
        square = (at**2 + 2 * scale**2 - scale**2 * tail) / kept
        return 1 - self.metal, mean, square

    def probability(self, above: float | None = None, below: float | None = None) -> Floats:
        """(n,) probability of a gap above and below a bound in eV, both excluded; None is no bound."""
        low = 0.0 if above is None else self.cdf(above)
        high = 1.0 if below is None else self.cdf(np.nextafter(below, -np.inf))
        return np.clip(high - low, 0, 1)


def conformal_radius(scores: Floats, confidence: float) -> float:
    """The radius whose intervals cover a new value with at least this probability, if its score and the given ones (n,) are exchangeable.

    Split conformal prediction (Papadopoulos et al., ECML 2002; Vovk, Gammerman, Shafer 2005): the ⌈(n + 1) c⌉-th smallest score, and the largest
    possible, ½, where n is too small. With the distribution function as the score it is that of Chernozhukov, Wüthrich and Zhu (PNAS 2021).
    """
    rank = math.ceil((len(scores) + 1) * confidence - 1e-9)
    return 0.5 if rank > len(scores) else float(np.sort(scores)[rank - 1])


def _survival(z: Floats) -> Floats:
    """Probability of more than z, of the Laplace distribution of location 0 and scale 1; exact far out."""
    tail = np.exp(-np.abs(z)) / 2
    return np.where(z >= 0, tail, 1 - tail)
