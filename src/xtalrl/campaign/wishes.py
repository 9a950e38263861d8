"""What makes a design a hit of a campaign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xtalrl.metrics.properties import in_window
from xtalrl.tables import GAP_RANGE_EV


@dataclass(frozen=True)
class Wishes:
    """The wanted range of gaps in eV (no upper end where `gap_to` is None), and further conditions on a hit; None means no such condition."""

    gap_from: float
    gap_to: float | None
    novel: bool = False
    highest_formation_energy: float | None = None
    """Largest formation energy in eV/atom."""
    highest_above_hull: float | None = None
    """Largest energy above the hull in eV/atom."""

    @property
    def middle_ev(self) -> float:
        """Middle of the range in eV; a range without an upper end extends to the largest gap that a label may have."""
        return (self.gap_from + self._top) / 2

    @property
    def half_width_ev(self) -> float:
        """Half the width of the range in eV."""
        return (self._top - self.gap_from) / 2

    @property
    def _top(self) -> float:
        return GAP_RANGE_EV[1] if self.gap_to is None else self.gap_to

    @property
    def in_words(self) -> str:
        """The range in words: `0.87 to 1.37 eV` or `at least 3 eV`."""
        if self.gap_to is None:
            return f"at least {self.gap_from:g} eV"
        return f"{self.gap_from:g} to {self.gap_to:g} eV"

    def are_met(self, design: Mapping[str, Any], energy_above_hull: float | None) -> bool:
        """Whether a design is a hit.

        Args:
            design: row of `EVALUATION`.
            energy_above_hull: energy above the hull in eV/atom; None where it cannot be known, which does not rule the design out.
        """
        gap, energy = design["band_gap"], design["formation_energy_per_atom"]
        if gap is None or not in_window(gap, self.middle_ev, self.half_width_ev):
            return False
        if self.novel and not design["novel"]:
            return False
        if self.highest_formation_energy is not None and (energy is None or energy > self.highest_formation_energy):
            return False
        above = energy_above_hull
        return self.highest_above_hull is None or above is None or above <= self.highest_above_hull
