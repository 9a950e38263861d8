"""Composition validity: whether the elements have oxidation states that make the composition neutral and chemically sensible.

The rule of the paper is CDVAE's function on smact 2.5.2; smact's own rules of today are further rules. All of them ask for one choice
of oxidation states, one per element, that (1) sums to zero and (2) passes the Pauling test: every cation is less electronegative
than every anion. smact goes through the product of all states, which for a composition of 18 elements has up to 10^18 members. Here
the same question is answered exactly with sets of reachable charges: with the elements sorted by electronegativity, a choice passes
the Pauling test if and only if some cut has no anion below it and no cation above it.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import smact
from pymatgen.core.periodic_table import Element
from smact.utils.oxidation import ICSD24OxStatesFilter

from xtalrl.errors import XtalrlError
from xtalrl.metrics.formulas import parse_formula, reduce_counts

PAPER_RULE = "cdvae-smact14"
"""The rule of the paper and of CDVAE: smact 2.5.2 with its oxidation states of 2014."""

# smact 2.5.3 and earlier gave zirconium 0.33 for 1.33; the verdicts of the paper depend on it.
_ZR_ELECTRONEGATIVITY_BEFORE_SMACT_2_5_4 = 0.33


@dataclass(frozen=True)
class _Data:
    """Oxidation states and Pauling electronegativity of each element; an element without states makes a composition invalid."""

    oxidation_states: Mapping[str, tuple[int, ...]]
    electronegativity: Mapping[str, float | None]


@dataclass(frozen=True)
class ValidityRule:
    """A named rule.

    `missing_electronegativity` answers for compositions with an element that has none: smact >= 3 rejects them,
    2.5.2 depends on the signs of the first such pair (`_neutral_in_smact_2_5_2`).
    """

    name: str
    description: str
    load: Callable[[], _Data]
    missing_electronegativity: Callable[[Sequence[_Ion]], bool]


@dataclass(frozen=True)
class _Ion:
    """An element of a composition: its count in the reduced formula, its oxidation states and its electronegativity."""

    count: int
    states: tuple[int, ...]
    electronegativity: float | None

    def charges(self, keep: Callable[[int], bool]) -> tuple[int, ...]:
        """Total charges of all its atoms, for those states that are kept."""
        return tuple(self.count * state for state in self.states if keep(state))


def _positive(state: int) -> bool:
    return state > 0


def _negative(state: int) -> bool:
    return state < 0


def _not_positive(state: int) -> bool:
    return state <= 0


def _not_negative(state: int) -> bool:
    return state >= 0


def _any_sign(state: int) -> bool:
    return True


def _can_be_neutral(charges: Sequence[tuple[int, ...]]) -> bool:
    """Whether one charge from each tuple can be chosen so that they sum to zero."""
    reachable = {0}
    for options in charges:
        reachable = {total + charge for total in reachable for charge in options}
    return 0 in reachable


def _neutral_with_pauling(ions: Sequence[_Ion]) -> bool:
    """Neutral, and every cation strictly less electronegative than every anion (all electronegativities known)."""
    values = [ion.electronegativity for ion in ions if ion.electronegativity is not None]
    for cut in {*values, math.inf}:
        keep = [_not_positive if value >= cut else _not_negative for value in values]
        if _can_be_neutral([ion.charges(sign) for ion, sign in zip(ions, keep, strict=True)]):
            return True
    return False


def _neutral_in_smact_2_5_2(ions: Sequence[_Ion]) -> bool:
    """Neutral as smact 2.5.2 saw it when an electronegativity is missing; `ions` in order of atomic number.

    It compared pairs in order until one decided: a pair of opposite signs in the wrong order of electronegativity fails; a pair
    with a missing electronegativity fails if the signs are not opposite, and if they are, the comparison with None raises the
    TypeError that CDVAE takes for a pass. The first pair with a missing value is that of the first ion with the
    first ion lacking one (with the second ion, if it is the first itself), so only the pairs before it matter.
    """
    first = ions[0]
    partner = next(
        index
        for index, ion in enumerate(ions)
        if index > 0 and None in (first.electronegativity, ion.electronegativity)
    )
    for is_cation, same, opposite in ((True, _positive, _negative), (False, _negative, _positive)):
        charges = [first.charges(same)]
        for index, ion in enumerate(ions[1:], 1):
            if index < partner:
                assert first.electronegativity is not None
                assert ion.electronegativity is not None
                in_order = first.electronegativity != ion.electronegativity and (
                    is_cation == (first.electronegativity < ion.electronegativity)
                )
                not_opposite = _not_negative if is_cation else _not_positive
                charges.append(ion.charges(_any_sign if in_order else not_opposite))
            else:
                charges.append(ion.charges(opposite if index == partner else _any_sign))
        if _can_be_neutral(charges):
            return True
    return False


def _never(ions: Sequence[_Ion]) -> bool:
    return False


@functools.cache
def _smact_elements() -> dict[str, smact.Element]:
    return smact.element_dictionary(smact.ordered_elements(1, 103))


@functools.cache
def _smact14() -> _Data:
    elements = _smact_elements()
    return _Data(
        {symbol: tuple(element.oxidation_states_smact14 or ()) for symbol, element in elements.items()},
        {symbol: element.pauling_eneg for symbol, element in elements.items()},
    )


@functools.cache
def _smact_2_5_2() -> _Data:
    data = _smact14()
    return _Data(data.oxidation_states, {**data.electronegativity, "Zr": _ZR_ELECTRONEGATIVITY_BEFORE_SMACT_2_5_4})


@functools.cache
def _icsd24() -> _Data:
    # The arguments are smact_validity's defaults.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = ICSD24OxStatesFilter().filter(consensus=3, include_zero=False, commonality="low")
    states = {
        str(symbol): tuple(int(state) for state in str(text).split())
        for symbol, text in zip(table["element"], table["oxidation_state"], strict=True)
    }
    return _Data(states, _smact14().electronegativity)


RULES: dict[str, ValidityRule] = {
    rule.name: rule
    for rule in (
        ValidityRule(
            PAPER_RULE, "CDVAE's function on smact 2.5.2, the paper's rule", _smact_2_5_2, _neutral_in_smact_2_5_2
        ),
        ValidityRule("smact-smact14", 'smact_validity(oxidation_states_set="smact14") of smact >= 3', _smact14, _never),
        ValidityRule(
            "smact-icsd24", "the default of smact_validity in smact >= 3: ICSD 2024, consensus 3", _icsd24, _never
        ),
    )
}


def is_valid(composition: str | Mapping[str, int], rule: str = PAPER_RULE) -> bool:
    """Whether a composition is valid by a rule of `RULES`.

    One element alone is valid, and so is any mixture of metals (an alloy), as in CDVAE and in smact.

    Args:
        composition: a formula, or the number of atoms of each element; reduced first, so the size of the cell does not matter.
        rule: name of the rule.

    Raises:
        XtalrlError: the formula cannot be read.
        KeyError: the rule does not exist.
    """
    counts = reduce_counts(parse_formula(composition) if isinstance(composition, str) else composition)
    return _verdict(tuple(sorted(counts.items())), rule)


@functools.lru_cache(maxsize=500_000)
def _verdict(counts: tuple[tuple[str, int], ...], name: str) -> bool:
    symbols = {symbol for symbol, _ in counts}
    if len(symbols) == 1 or symbols <= _metals():
        return True
    rule = RULES[name]
    data = rule.load()
    ions = [
        _Ion(count, data.oxidation_states.get(symbol, ()), data.electronegativity.get(symbol))
        for symbol, count in sorted(counts, key=lambda item: Element(item[0]).Z)
    ]
    if not all(ion.states for ion in ions):
        return False
    if any(ion.electronegativity is None for ion in ions):
        return rule.missing_electronegativity(ions)
    return _neutral_with_pauling(ions)


@functools.cache
def _metals() -> frozenset[str]:
    return frozenset(smact.metals)


def verdicts(
    formulas: Iterable[str], rules: Sequence[str] = tuple(RULES)
) -> Iterator[tuple[str, dict[str, bool] | str]]:
    """Each formula with its verdict by each rule, or with what is wrong with it, in the order given; blank lines are skipped.

    Raises:
        XtalrlError: a rule does not exist.
    """
    if unknown := [rule for rule in rules if rule not in RULES]:
        raise XtalrlError(f"{unknown[0]!r} is not a validity rule; there are: {', '.join(RULES)}.")
    for number, line in enumerate(formulas, 1):
        if formula := line.strip():
            try:
                counts = parse_formula(formula)
            except XtalrlError as error:
                yield formula, f"line {number}: {error}"
                continue
            yield formula, {rule: is_valid(counts, rule) for rule in rules}
