"""How designs are scored: the choices behind every number of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Scoring:
    """What every metric of a run is given beside the designs."""

    bootstrap_samples: int
    """Resamples of an interval."""
    confidence: float
    """Level of an interval, e.g. 0.95."""
    window_ev: float
    """Half width of the desired range around a target gap, eV."""
    targets_ev: tuple[float, ...]
    """Target gaps of the run, eV."""
    stable_ev_per_atom: float
    """Largest energy above the hull of a stable design, eV/atom."""
    target_ev: float | None = None
    """Target gap that ν and κ are counted at, eV; the other metrics do without it."""

    def at(self, target_ev: float) -> Scoring:
        """The same at a target gap in eV."""
        return replace(self, target_ev=target_ev)
