"""A test whether two policies differ: their designs of a skeleton are swapped, and the difference is computed again.

If the policies are alike, every swap of the two designs of a skeleton is as likely as the observed assignment (Fisher's randomization test for
pairs; a sign-flip test if each policy has one number per skeleton). The p value is the share of swaps whose difference is at least as large.
The test is about these trained policies and says nothing about other training seeds: the designs of all seeds of a skeleton are swapped together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EXACT_UP_TO = 12
"""Number of skeletons on which two policies differ up to which all swaps are tried."""
_RANDOM_SEED = 20240322
_CHUNK = 1_000_000  # numbers held at once


class Terms(Protocol):
    """The contributions to a policy's number, skeleton by skeleton, so that they can be swapped with those of another policy."""

    def unlike(self, other: Self) -> Bools:
        """Skeletons on which the policies differ, (M,)."""

    def differences(self, other: Self, kept: Floats) -> Floats:
        """The number of this policy minus that of the other, (B,), with each skeleton `kept` (1) or swapped (0), (B, M); NaN if undefined."""


@dataclass(frozen=True)
class Ratio:
    """A sum of numerators over a sum of denominators, each (M,)."""

    numerator: Floats
    denominator: Floats

    def unlike(self, other: Self) -> Bools:
        """Where a numerator or denominator differs."""
        differs: Bools = (self.numerator != other.numerator) | (self.denominator != other.denominator)
        return differs

    def differences(self, other: Self, kept: Floats) -> Floats:
        """See `Terms`."""
        above, below = self.numerator - other.numerator, self.denominator - other.denominator
        gained, grown = kept @ above, kept @ below
        with np.errstate(invalid="ignore", divide="ignore"):
            first = (other.numerator.sum() + gained) / (other.denominator.sum() + grown)
            second = (self.numerator.sum() - gained) / (self.denominator.sum() - grown)
        difference: Floats = first - second
        return difference


@dataclass(frozen=True)
class Distance:
    """The earth mover's distance of values (S, M) from a reference (M,), NaN where unknown."""

    values: Floats
    reference: Floats

    def unlike(self, other: Self) -> Bools:
        """Where a value differs."""
        alike: Bools = ((self.values == other.values) | (np.isnan(self.values) & np.isnan(other.values))).all(axis=0)
        return ~alike

    def differences(self, other: Self, kept: Floats) -> Floats:
        """See `Terms`."""
        table = np.vstack([self.values, other.values, self.reference])
        rows, crystals = np.nonzero(np.isfinite(table))
        order = np.argsort(table[rows, crystals], kind="stable")
        rows, crystals = rows[order], crystals[order]
        widths = np.diff(table[rows, crystals])
        ours, theirs = rows < len(self.values), (rows >= len(self.values)) & (rows < len(table) - 1)
        reference = np.where(rows == len(table) - 1, 1.0, 0.0)
        found = []
        chunk = max(1, _CHUNK // len(rows))
        for start in range(0, len(kept), chunk):
            stays = kept[start : start + chunk, crystals]
            distances = []
            for mine, yours in ((ours, theirs), (theirs, ours)):
                weights = mine * stays + yours * (1 - stays)
                with np.errstate(invalid="ignore", divide="ignore"):
                    signed = weights / weights.sum(axis=1, keepdims=True) - reference / reference.sum()
                distances.append(np.abs(np.cumsum(signed, axis=1)[:, :-1]) @ widths)
            found.append(distances[0] - distances[1])
        return np.concatenate(found)


@dataclass(frozen=True)
class SwapTest:
    """The two-sided p of no difference."""

    p: float
    swaps: int
    """Number of swaps that were tried, including the observed assignment."""
    is_exact: bool
    """Whether all swaps were tried; otherwise they are drawn at random, and p is at least 1 / swaps."""

    @property
    def name(self) -> str:
        """How p was found, for tables."""
        return f"all {self.swaps:,} swaps" if self.is_exact else f"{self.swaps - 1:,} random swaps"

    @property
    def floor(self) -> float:
        """The smallest p that the test can give. Swapping all skeletons reverses the difference, so that at least two swaps are as large."""
        return (2 if self.is_exact else 1) / self.swaps


T = TypeVar("T", bound=Terms)


def swap_test(first: T, second: T, samples: int) -> SwapTest | None:
    """Test whether two policies that filled the same skeletons differ; None if they differ on no skeleton.

    Args:
        first: terms of one policy.
        second: terms of the other policy, of the same kind and skeletons.
        samples: number of random swaps if there are too many to try all.
    """
    unlike = np.flatnonzero(first.unlike(second))
    if not len(unlike):
        return None
    n_skeletons = len(first.unlike(second))
    is_exact = len(unlike) <= EXACT_UP_TO
    if is_exact:
        of_unlike = (np.arange(2 ** len(unlike))[:, None] >> np.arange(len(unlike))) & 1
    else:
        of_unlike = np.random.default_rng(_RANDOM_SEED).integers(0, 2, size=(samples, len(unlike)))
    kept = np.ones((len(of_unlike), n_skeletons))
    kept[:, unlike] = of_unlike
    observed = first.differences(second, np.ones((1, n_skeletons)))[0]
    if not np.isfinite(observed):
        return None
    found = first.differences(second, kept)
    found = found[np.isfinite(found)]
    as_large = int((np.abs(found) >= abs(observed) - 1e-9 * (1 + abs(observed))).sum())
    swaps = len(found) if is_exact else len(found) + 1
    return SwapTest((as_large if is_exact else as_large + 1) / swaps, swaps, is_exact)
