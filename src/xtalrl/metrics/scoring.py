"""Settings by which designs are scored: the choices behind every number of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Scoring:
    """The arguments that every metric of a run gets beside the designs."""

    bootstrap_samples: int
    """Number of resamples of an interval."""
    confidence: float
    """Level of an interval, e.g. 0.95."""
    window_ev: float
    """Half width of the desired range around a target gap, eV."""
    targets_ev: tuple[float, ...]
    """Target gaps of the run, eV."""
    stable_ev_per_atom: float
    """Largest energy above the hull of a stable design, eV/atom."""
    target_ev: float | None = None
    """Target gap in eV at which ν and κ are counted; the other metrics do not use it."""

    def at(self, target_ev: float) -> Scoring:
        """The same settings at a target gap in eV."""
        return replace(self, target_ev=target_ev)
