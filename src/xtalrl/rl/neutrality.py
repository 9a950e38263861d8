"""Which elements may be placed so that a design can still end in a composition that the paper's validity rule accepts.

The rule is `cdvae-smact14` of `xtalrl.metrics.validity`: one element alone and alloys are valid; any other composition needs one oxidation
state for each element so that the charges sum to zero and every cation is less electronegative than every anion. Sets of
elements are integers with bit a for the element of action a, so that all 88 are judged at once.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

from xtalrl.elements import ACTION, ATOMIC_NUMBERS, ELEMENTS
from xtalrl.oxidation import ELECTRONEGATIVITY, NOT_METALS, OXIDATION_STATES

Counts = tuple[tuple[str, int], ...]
"""Elements with their numbers of atoms, sorted."""

PARTNERS = ("O", "F", "Cl", "S", "N", "H", "P", "C", "Na", "Mg", "Al", "Ti")
"""Elements that are common ions of many charges. Only completions are tried that have at most two kinds of atoms on the free sites, one of them from
this list. When one of these atoms is placed, the rest is again such a completion, so that a way out is never lost."""


class NeutralCompletions:
    """Answers whether a partly filled crystal can be completed to a valid composition with the elements that may be placed.

    The answer is exact if at most one site stays free. Otherwise, a crystal that only a completion with more kinds of atoms could save counts as lost.
    Promethium, which has no electronegativity, is placed among metals only.
    """

    def __init__(self, elements: int, even_electrons: bool = False) -> None:
        """Allow these `elements`; with `even_electrons`, a composition with an odd number of electrons does not count as valid."""
        self.elements = elements
        self.even_electrons = even_electrons
        self.partners = [element for element in PARTNERS if elements >> ACTION[element] & 1]
        self.can_complete = functools.lru_cache(maxsize=200_000)(self._can_complete)

    def _can_complete(self, counts: Counts, n_free: int) -> bool:
        """Whether a crystal holding these elements, with this many sites still free, can be completed."""
        if n_free == 0:
            return is_neutral(counts) and not (self.even_electrons and has_odd_electrons(counts))
        # What the atoms to come can add to the charge, and what is there that this could bring to zero.
        low, high = _LOWEST_STATE * n_free, _HIGHEST_STATE * n_free
        window = ((1 << (high - low + 1)) - 1) << (_ZERO - high)
        if not any(charges & window for *_, charges in _partitions(counts)):
            # More elements never make room for more signs: only an element or an alloy is left.
            return bool(last_elements(counts, n_free) & self._placeable(counts, n_free))

        def so_far() -> Iterator[tuple[Counts, int]]:
            """Counts with the atoms of one kind placed, and how many of the other kind are left."""
            yield counts, n_free
            for n in range(1, n_free):
                for partner in self.partners:
                    yield add(counts, partner, n), n_free - n

        # Another element than those there is the quicker question, and mostly enough.
        return any(_further_elements(*state) & self._placeable(*state) for state in so_far()) or any(
            _same_elements(*state) & self._placeable(*state) for state in so_far()
        )

    def _placeable(self, counts: Counts, n: int) -> int:
        """The elements of which n atoms more may complete a composition."""
        if not self.even_electrons:
            return self.elements
        if n % 2:  # atoms of odd number complete an odd composition, those of even number an even one
            return self.elements & (_ODD if has_odd_electrons(counts) else ~_ODD)
        return 0 if has_odd_electrons(counts) else self.elements


def add(counts: Counts, element: str, n: int) -> Counts:
    """The composition with n atoms of an element more."""
    total = dict(counts)
    total[element] = total.get(element, 0) + n
    return tuple(sorted(total.items()))


def has_odd_electrons(counts: Counts) -> bool:
    """Whether the number of electrons of a composition is odd."""
    return sum(ATOMIC_NUMBERS[ACTION[element]] * n for element, n in counts) % 2 == 1


def is_neutral(counts: Counts) -> bool:
    """Whether a composition is valid."""
    return _is_alloy_or_element(counts) or any(charges >> _ZERO & 1 for *_, charges in _partitions(counts))


def last_elements(counts: Counts, n: int) -> int:
    """The elements of which n atoms more make a valid composition of `counts`."""
    return _further_elements(counts, n) | _same_elements(counts, n)


def _further_elements(counts: Counts, n: int) -> int:
    """The elements that the composition does not contain yet."""
    if not counts:
        return _ALL
    found = _METALS if all(element not in NOT_METALS for element, _ in counts) else 0
    for below, above, charges in _partitions(counts):
        for state, elements in _WITH_STATE.items():
            if charges >> (_ZERO - n * state) & 1:
                side = _less_electronegative(above) if state > 0 else _more_electronegative(below)
                found |= elements & side
    return found & ~sum(1 << ACTION[element] for element, _ in counts)


def _same_elements(counts: Counts, n: int) -> int:
    """The elements that the composition already contains."""
    return sum(1 << ACTION[element] for element, _ in counts if is_neutral(add(counts, element, n)))


def _is_alloy_or_element(counts: Counts) -> bool:
    return len(counts) == 1 or all(element not in NOT_METALS for element, _ in counts)


@functools.lru_cache(maxsize=200_000)
def _partitions(counts: Counts) -> list[tuple[float, float, int]]:
    """The ways to divide elements into cations and more electronegative anions.

    Each comes with the electronegativities of the last cation and of the first anion, and with the total charges that oxidation states of these
    signs can have: bit `_ZERO` + q stands for a charge of q.
    """
    if any(element not in ELECTRONEGATIVITY for element, _ in counts):
        return []
    values = sorted({ELECTRONEGATIVITY[element] for element, _ in counts})
    partitions = []
    for below, above in zip([-math.inf, *values], [*values, math.inf], strict=True):
        reachable = 1 << _ZERO
        for element, count in counts:
            before, reachable = reachable, 0
            for state in (_NEGATIVE if ELECTRONEGATIVITY[element] >= above else _POSITIVE)[element]:
                reachable |= before << count * state if state > 0 else before >> -count * state
            if not reachable:
                break
        if reachable:
            partitions.append((below, above, reachable))
    return partitions


def _members(elements: Mapping[str, object]) -> int:
    return sum(1 << ACTION[element] for element in elements)


@functools.cache
def _less_electronegative(value: float) -> int:
    return _members({element: own for element, own in ELECTRONEGATIVITY.items() if own < value})


@functools.cache
def _more_electronegative(value: float) -> int:
    return _members({element: own for element, own in ELECTRONEGATIVITY.items() if own > value})


_ALL = (1 << len(ELEMENTS)) - 1
_ODD = sum(1 << action for action, number in enumerate(ATOMIC_NUMBERS) if number % 2)
_ZERO = 256
"""Offset of charges, larger than any of them: 20 sites of at most 8."""
_METALS = _members(dict.fromkeys(element for element in ELEMENTS if element not in NOT_METALS))
_POSITIVE = {element: [state for state in states if state > 0] for element, states in OXIDATION_STATES.items()}
_NEGATIVE = {element: [state for state in states if state < 0] for element, states in OXIDATION_STATES.items()}
_LOWEST_STATE = min(min(states) for states in OXIDATION_STATES.values() if states)
_HIGHEST_STATE = max(max(states) for states in OXIDATION_STATES.values() if states)
_WITH_STATE: dict[int, int] = defaultdict(int)
for _element, _states in OXIDATION_STATES.items():
    for _state in _states:
        _WITH_STATE[_state] |= 1 << ACTION[_element]
