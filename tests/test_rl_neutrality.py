"""Neutral completions: the project's validity rule, an exhaustive search and smact's data as oracles."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import smact
from hypothesis import given, settings
from hypothesis import strategies as st

from xtalrl.elements import ACTION, ELEMENTS
from xtalrl.metrics.validity import is_valid
from xtalrl.oxidation import ELECTRONEGATIVITY, NOT_METALS, OXIDATION_STATES
from xtalrl.rl.neutrality import NeutralCompletions, is_neutral, last_elements

# Promethium has oxidation states and no electronegativity: the rule depends on the order of pairs there, and the mask keeps away.
JUDGED = [element for element in ELEMENTS if element != "Pm"]
atoms = st.lists(st.sampled_from(JUDGED), min_size=1, max_size=12)
few_elements = st.lists(st.sampled_from(["O", "F", "Na", "Ti", "P", "N", "He", "Al"]), min_size=1, max_size=12)


def counted(species):
    return tuple(sorted(Counter(species).items()))


def test_the_data_are_smacts():
    for symbol in ELEMENTS:
        element = smact.Element(symbol)
        assert OXIDATION_STATES[symbol] == tuple(element.oxidation_states_smact14 or ())
        if symbol != "Zr":  # 0.33 in smact 2.5.2 and 1.33 today
            assert ELECTRONEGATIVITY.get(symbol) == element.pauling_eneg
    assert {symbol for symbol in ELEMENTS if symbol not in smact.metals} == NOT_METALS
    assert ELECTRONEGATIVITY["Zr"] == 0.33


@given(atoms | few_elements)
def test_the_rule_is_the_projects(species):
    assert is_neutral(counted(species)) == is_valid(Counter(species))


@settings(max_examples=30, deadline=None)
@given(atoms | few_elements, st.integers(1, 4))
def test_the_last_elements_are_those_that_make_it_valid(species, n):
    found = last_elements(counted(species), n)
    for element in JUDGED:
        assert bool(found >> ACTION[element] & 1) == is_valid(Counter([*species, *[element] * n])), element


def bits(symbols):
    return sum(1 << ACTION[symbol] for symbol in symbols)


@settings(max_examples=60, deadline=None)
@given(few_elements, st.integers(0, 3))
def test_a_crystal_is_lost_only_where_no_completion_is_valid(species, n_free):
    palette = ["Na", "O", "F", "Ti", "Kr"]
    found = NeutralCompletions(bits(palette)).can_complete(counted(species), n_free)
    truth = any(
        is_valid(Counter([*species, *rest])) for rest in itertools.combinations_with_replacement(palette, n_free)
    )
    assert truth or not found
    if n_free <= 1:
        assert found == truth


@settings(max_examples=60, deadline=None)
@given(few_elements, st.integers(1, 9), st.sampled_from([JUDGED, ["Na", "Cl", "O"], ["Ba", "Lu", "F", "Li"]]))
def test_a_way_out_is_never_lost(species, n_free, palette):
    completions = NeutralCompletions(bits(palette))
    if completions.can_complete(counted(species), n_free):
        assert any(completions.can_complete(counted([*species, element]), n_free - 1) for element in palette)


@pytest.mark.parametrize(
    ("species", "n_free", "possible"), [("Na", 1, True), ("F F Na", 0, False), ("F F Na", 1, True)]
)
def test_by_hand(species, n_free, possible):
    assert NeutralCompletions(bits(["Na", "F"])).can_complete(counted(species.split()), n_free) is possible
