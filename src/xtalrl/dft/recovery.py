"""The recovery ladder: which run of pw.x comes first, and which one fixes a failure.

Each rung is a function that looks at what has happened so far and returns one more attempt, or None if it has nothing to try.
`RUNGS` says which rungs may fix which outcome, in the order in which they are tried; no attempt is ever made twice.
`paper` does what appendix A.1.6.1 of the paper did; `extended` continues where the paper dropped a crystal. The attempts of `paper` are the
first ones of `extended`, so that one run answers for both (except for a data crystal that is stuck, which `paper` gives more and more time).
If `extended` finds a lower state than `paper` does, that state counts for the crystal.
The effect of each rung is measured in docs/results/recovery.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from xtalrl.cells import Cell
from xtalrl.dft.inputs import Form, Settings, number_of_bands, settings_for
from xtalrl.dft.outcomes import Outcome, Result
from xtalrl.dft.protocols import Protocol
from xtalrl.dft.pseudopotentials import Family
from xtalrl.energies import RYDBERG_EV_PAPER

Recovery = Literal["paper", "extended"]

MOST_ATTEMPTS = 11
"""Maximum number of attempts for one crystal. aiida-quantumespresso, whose ladder has no search for a moment, gives up after 5."""
GENTLE_MIXING = (0.3, 0.1)
"""mixing_beta of a run after the protocol's value has failed."""
SCANNED_MOMENTS = 3
"""Number of total magnetizations that are tried one after another, from the lowest: 1, 3, 5 µB or 2, 4, 6 µB."""
SEARCH_DEGAUSS_RY = 0.01
"""Smearing of the run that looks for a moment: wide enough to converge on a coarse mesh; its energy is not used."""
SEARCH_CONV_THR_RY = 1e-5
"""Convergence threshold of the search for a moment, which is needed to a tenth of a µB only."""
SEARCH_STARTING_MAGNETIZATION = 0.5
"""Starting magnetization of that search, the same for every species: from zero it would stay at zero."""
METAL_TOLERANCE_UB = 0.25
"""Distance in µB from every moment that an insulator can have beyond which a moment found by smearing is that of a metal."""
MAGNETIC_ELEMENTS = frozenset(
    "Ti V Cr Mn Fe Co Ni Cu Mo Ru Rh Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Pa U Np Pu Am Cm".split()
)
"""Elements with open d or f shells whose crystals are known to have moments."""
SPIN_ELEMENTS = MAGNETIC_ELEMENTS | {"O"}
"""Elements that make `extended` look for spin if a run gives no gap or does not converge: O2 and superoxides have moments, too."""
GAPLESS_EV = 0.05
"""Gap below which a cell counts as gapless: half-filled degenerate levels are split by less (O2 without spin)."""
LOWER_STATE_RY = 0.005
"""Energy per atom by which a search must lie below the kept energy to have found another state. A search's smearing and threshold lower
its energy by less: with Gaussian smearing by about N(E_F) degauss²/4, 0.7 mRy for two states per eV and atom."""
STUCK_ITERATIONS = 50
"""Number of iterations after which a run that was cut off was not slow but stuck: 57 of the 64 outputs of the paper's authors at hand need fewer."""

REFERENCE_STRATEGIES: Mapping[Form, str] = {"atom": "isolated_atom", "elemental": "elemental_crystal"}
"""Strategy of the first attempt at an elemental reference of each form; only by it does a row of outcomes show the form."""


@dataclass(frozen=True)
class Attempt:
    """One run to be made: the name of the rung that asks for it, and its settings."""

    strategy: str
    settings: Settings
    repeat: bool = False
    """The same run once more, because it was cut off."""
    searches: bool = False
    """Whether it only looks for a moment; its energy is never that of the crystal."""


@dataclass
class Situation:
    """What is known about a crystal, and every attempt so far with its result."""

    cell: Cell
    form: Form
    protocol: Protocol
    family: Family
    recovery: Recovery
    known_magnetization: float | None
    history: list[tuple[Attempt, Result]] = field(default_factory=list)

    @property
    def n_electrons(self) -> int:
        """Valence electrons of the cell."""
        return self.family.n_electrons(self.cell.species)

    @property
    def last(self) -> tuple[Attempt, Result]:
        """The latest attempt and its result."""
        return self.history[-1]

    @property
    def may_have_spin(self) -> bool:
        """Whether the crystal has an element of `SPIN_ELEMENTS`, no matter what is known about its moment."""
        return self.form == "crystal" and not SPIN_ELEMENTS.isdisjoint(self.cell.species)

    @property
    def lowest_search(self) -> tuple[Attempt, Result] | None:
        """The search for a moment that ended with the lowest energy."""
        searches = [entry for entry in self.history if entry[0].searches and entry[1].outcome.usable]
        return min(searches, key=lambda entry: entry[1].total_energy_ry or 0.0, default=None)

    def base(self) -> Settings:
        """The protocol's settings for this cell."""
        return settings_for(self.cell, self.form, self.protocol, self.family)

    def with_moment(self, moment: int) -> Settings:
        """Settings with fixed occupations and an imposed total magnetization; 0 is the unpolarised run."""
        settings = self.base()
        if moment == 0:
            return settings
        bands = number_of_bands(self.cell, self.protocol, self.family, settings.ecutwfc_ry, moment)
        return replace(settings, nspin=2, tot_magnetization=float(moment), nbnd=bands)


def possible_moment(magnetization: float, n_electrons: int) -> int:
    """The total magnetization nearest to a computed one that an insulator with this many electrons can have.

    Fixed occupations fill whole bands, so that the moment in µB is an integer with the parity of the electron count.
    """
    size = abs(magnetization)
    parity = n_electrons % 2
    lower = int(size - parity) // 2 * 2 + parity if size >= parity else parity
    moment = min((lower, lower + 2), key=lambda candidate: (abs(candidate - size), candidate))
    return min(moment, n_electrons)


def first_attempt(situation: Situation) -> Attempt | Outcome:
    """The first run, or the outcome if none is needed: the parity is known from the sum of z_valence before anything runs."""
    if situation.family.missing(situation.cell.species):
        return Outcome.NO_PSEUDOPOTENTIAL
    if (strategy := REFERENCE_STRATEGIES.get(situation.form)) is not None:
        return Attempt(strategy, situation.base())
    known, odd = situation.known_magnetization, situation.n_electrons % 2 == 1
    if known is not None and (moment := possible_moment(known, situation.n_electrons)):
        return Attempt("known_magnetization", situation.with_moment(moment))
    if not odd:
        return Attempt("unpolarised", situation.base())
    if situation.recovery == "paper":
        return Outcome.ODD_ELECTRONS
    return Attempt("low_spin", situation.with_moment(1))


Rung = Callable[[Situation], Attempt | None]


def allow_more_time(situation: Situation) -> Attempt | None:
    """The run was cut off: continue it with the next time limit, from its saved state if pw.x left one."""
    attempt, _ = situation.last
    return replace(attempt, strategy="more_time", repeat=True)


def try_again(situation: Situation) -> Attempt | None:
    """The machine ended the run, which says nothing about the crystal: repeat it once."""
    attempt, _ = situation.last
    return None if attempt.strategy == "again" else replace(attempt, strategy="again", repeat=True)


def fewer_bands(situation: Situation) -> Attempt | None:
    """There are too many bands for the basis of a small cell, which Davidson may notice late: compute only the bands that a gap needs."""
    attempt, _ = situation.last
    settings = attempt.settings
    occupied = -(-(situation.n_electrons + int(abs(settings.tot_magnetization or 0))) // 2)
    return None if settings.nbnd is None else Attempt("fewer_bands", replace(settings, nbnd=occupied + 1))


def more_bands(situation: Situation) -> Attempt | None:
    """pw.x counts more filled bands than were asked for: ask for half as many again."""
    attempt, _ = situation.last
    settings = attempt.settings
    return None if settings.nbnd is None else Attempt("more_bands", replace(settings, nbnd=settings.nbnd * 3 // 2 + 4))


def smear_to_find_moment(situation: Situation) -> Attempt | None:
    """Fixed occupations do not converge, or a guessed moment gave no insulator: make a loose spin-polarised run with smearing.

    It converges where fixed occupations swap two overlapping bands forever, which no mixing fixes (measured: compressed RbI takes 4
    iterations, and had not converged after 221 before). It finds the moment, or a metal. Its own energy is never that of the crystal (`final_result`).
    """
    if situation.form != "crystal" or (situation.known_magnetization is not None and not situation.may_have_spin):
        return None
    settings = replace(
        situation.base(),
        nbnd=None,
        nspin=2,
        smearing=situation.protocol.references.smearing,
        degauss_ry=SEARCH_DEGAUSS_RY,
        conv_thr_ry=max(SEARCH_CONV_THR_RY, situation.protocol.conv_thr_ry),
        starting_magnetization=SEARCH_STARTING_MAGNETIZATION,
    )
    return Attempt("smear_to_find_moment", settings, searches=True)


def smear_where_stuck(situation: Situation) -> Attempt | None:
    """More time would not help a run that has made many iterations already (see `smear_to_find_moment`)."""
    _, result = situation.last
    is_stuck = result.iterations is not None and result.iterations >= STUCK_ITERATIONS
    return smear_to_find_moment(situation) if is_stuck else None


def smear_where_gapless(situation: Situation) -> Attempt | None:
    """A converged run has no gap: smearing tells whether it is a metal or an insulator with another moment.

    This is done after a guess of 1 µB, and for every cell with an element that may have spin.
    """
    attempt, result = situation.last
    gapless = result.band_gap_raw_ev is not None and result.band_gap_raw_ev < GAPLESS_EV
    return (
        smear_to_find_moment(situation)
        if gapless and (attempt.strategy == "low_spin" or situation.may_have_spin)
        else None
    )


def impose_found_moment(situation: Situation) -> Attempt | None:
    """The smearing run has found a moment that an insulator can have: impose it with fixed occupations. Any other moment is that of a metal."""
    attempt, result = situation.last
    if not attempt.searches or result.total_magnetization is None:
        return None
    moment = possible_moment(result.total_magnetization, situation.n_electrons)
    if abs(abs(result.total_magnetization) - moment) > METAL_TOLERANCE_UB:
        return None
    return Attempt("impose_found_moment", situation.with_moment(moment))


def start_antiferromagnetic(situation: Situation) -> Attempt | None:
    """The second start of a search: magnetic sites up and down in turn, with fixed occupations and no total moment.

    One pattern in the given cell: an order that needs a larger cell, or another pattern, is not found, and neither is a ferrimagnet.
    """
    sites = [i for i, element in enumerate(situation.cell.species) if element in MAGNETIC_ELEMENTS]
    searched = any(entry[0].searches and entry[1].outcome is not Outcome.TIME_LIMIT for entry in situation.history)
    if situation.form != "crystal" or not searched or not sites or len(sites) % 2 or situation.n_electrons % 2:
        return None
    start = [0.0] * len(situation.cell.species)
    for turn, site in enumerate(sites):
        start[site] = SEARCH_STARTING_MAGNETIZATION * (-1) ** turn
    settings = replace(situation.base(), nspin=2, tot_magnetization=0.0, site_magnetization=tuple(start))
    return Attempt("start_antiferromagnetic", settings)


def converge_as_a_metal(situation: Situation) -> Attempt | None:
    """Smearing has converged where fixed occupations did not, or far below: most likely a metal, and smearing is how metals are computed.

    The smearing is that of the elemental references, so that the energies belong together; a gap, if any, shows in the levels and occupations.
    """
    search = situation.lowest_search
    if search is None or (final_result(situation)[1].outcome.usable and _seen_below(situation) is None):
        return None
    (attempt, result), references = search, situation.protocol.references
    magnetic = abs(result.total_magnetization or 0.0) > METAL_TOLERANCE_UB
    settings = replace(
        attempt.settings,
        degauss_ry=references.degauss_ry,
        conv_thr_ry=situation.protocol.conv_thr_ry,
        nspin=2 if magnetic else 1,
        starting_magnetization=SEARCH_STARTING_MAGNETIZATION if magnetic else None,
    )
    return Attempt("converge_as_a_metal", settings)


def scan_moments(situation: Situation) -> Attempt | None:
    """Neither the imposed moment nor smearing has led anywhere: try the lowest moments of the right parity, one after another."""
    if situation.form != "crystal" or situation.known_magnetization is not None:
        return None
    parity = situation.n_electrons % 2
    for moment in range(2 - parity, 2 * SCANNED_MOMENTS + 1, 2):
        attempt = Attempt("scan_moments", situation.with_moment(moment))
        if moment <= situation.n_electrons and not _was_made(situation, attempt):
            return attempt
    return None


def mix_gently(situation: Situation) -> Attempt | None:
    """The density oscillates between iterations: mix in less of the new one."""
    attempt, _ = _latest(situation)
    for beta in GENTLE_MIXING:
        if beta < attempt.settings.mixing_beta:
            return Attempt("mix_gently", replace(attempt.settings, mixing_beta=beta))
    return None


def diagonalize_by_conjugate_gradients(situation: Situation) -> Attempt | None:
    """Davidson lost the orthogonality of its basis: use conjugate gradients, which are slower and more robust."""
    attempt, _ = _latest(situation)
    return Attempt("conjugate_gradients", replace(attempt.settings, diagonalization="cg"))


_PAPER: Mapping[Outcome, tuple[Rung, ...]] = {
    Outcome.TIME_LIMIT: (allow_more_time,),
    Outcome.KILLED: (try_again,),
    Outcome.STOPPED: (try_again,),
    Outcome.OUTPUT_LOST: (try_again,),
    Outcome.NO_ENERGY: (try_again,),
    Outcome.NOT_SAVED: (try_again,),
    Outcome.MORE_BANDS_THAN_PLANE_WAVES: (fewer_bands,),
    Outcome.DIAGONALIZATION_FAILED: (fewer_bands,),
    Outcome.TOO_FEW_BANDS: (more_bands,),
}
_CHECKED: tuple[Rung, ...] = (impose_found_moment, start_antiferromagnetic, converge_as_a_metal, smear_where_gapless)
RUNGS: Mapping[Recovery, Mapping[Outcome, tuple[Rung, ...]]] = {
    "paper": _PAPER,
    "extended": {
        **_PAPER,
        Outcome.TIME_LIMIT: (smear_where_stuck, start_antiferromagnetic, converge_as_a_metal, allow_more_time),
        # With the right parity pw.x says this only when the diagonalization has gone astray (measured: diamond at 91 of 181 plane waves).
        Outcome.CHARGE_WRONG: (fewer_bands, smear_to_find_moment, start_antiferromagnetic, scan_moments),
        Outcome.CONVERGED: _CHECKED,
        Outcome.CONVERGED_NOT_SAVED: _CHECKED,
        Outcome.NOT_CONVERGED: (
            smear_to_find_moment,
            start_antiferromagnetic,
            converge_as_a_metal,
            mix_gently,
            diagonalize_by_conjugate_gradients,
            scan_moments,
        ),
        Outcome.DIAGONALIZATION_FAILED: (fewer_bands, diagonalize_by_conjugate_gradients, mix_gently),
        Outcome.MIXING_FAILED: (mix_gently, smear_to_find_moment, converge_as_a_metal),
    },
}


def next_attempt(situation: Situation) -> Attempt | None:
    """What to try after the latest result; None where the ladder ends."""
    _, result = situation.last
    if len(situation.history) >= MOST_ATTEMPTS:
        return None
    for rung in RUNGS[situation.recovery].get(result.outcome, ()):
        attempt = rung(situation)
        if attempt is not None and (attempt.repeat or not _was_made(situation, attempt)):
            return attempt
    return None


def final_result(situation: Situation) -> tuple[Attempt, Result]:
    """The attempt that counts for the crystal: the one with the lowest energy among those that converged, or else the latest.

    A smearing run that only looked for a moment never does.
    """
    entries = [entry for entry in situation.history if not entry[0].searches]
    converged = [entry for entry in entries if entry[1].outcome.usable]
    return min(converged, key=lambda entry: entry[1].total_energy_ry or 0.0, default=entries[-1])


def _seen_below(situation: Situation) -> float | None:
    """How far (Ry per cell) the lowest search lies below the result that counts for the crystal; None if that is not far."""
    search, kept = situation.lowest_search, final_result(situation)[1].total_energy_ry
    if search is None or kept is None or (found := search[1].total_energy_ry) is None:
        return None
    return kept - found if kept - found > LOWER_STATE_RY * len(situation.cell.species) else None


def lower_state(situation: Situation) -> str:
    """The note on a crystal whose lowest state is not its insulating one; empty if there is nothing to say."""
    attempt, result = final_result(situation)
    insulating = [
        entry for entry in situation.history if entry[1].outcome.usable and entry[0].settings.smearing is None
    ]
    best = min(insulating, key=lambda entry: entry[1].total_energy_ry or 0.0, default=None)
    if (below := _seen_below(situation)) is not None and (search := situation.lowest_search) is not None:
        moment = search[1].total_magnetization or 0.0
        return (
            f"a state {below * RYDBERG_EV_PAPER:.2f} eV per cell lower was seen with smearing ({moment:.2f} µB), "
            "but did not converge with fixed occupations or as a metal"
        )
    if best is not None and attempt.settings.smearing is not None:
        below = (best[1].total_energy_ry or 0.0) - (result.total_energy_ry or 0.0)
        return f"fixed occupations give no state as low: {best[0].strategy} lies {below * RYDBERG_EV_PAPER:.2f} eV per cell above"
    return ""


def _latest(situation: Situation) -> tuple[Attempt, Result]:
    return next(entry for entry in reversed(situation.history) if not entry[0].searches)


def _was_made(situation: Situation, attempt: Attempt) -> bool:
    return any(earlier.settings == attempt.settings for earlier, _ in situation.history)
