from __future__ import annotations

from pymatgen.core import Element

from xtalrl.elements import ACTION, ELEMENTS, N_ELEMENTS, SIMILARITY_CLASS, UNFILLED


def test_88_different_real_elements() -> None:
    assert len(set(ELEMENTS)) == len(ELEMENTS) == N_ELEMENTS == UNFILLED == 88
    assert all(Element.is_valid_symbol(symbol) for symbol in ELEMENTS)
    assert "Ar" not in ELEMENTS


def test_actions_follow_the_papers_order() -> None:
    assert (ELEMENTS[0], ELEMENTS[9], ELEMENTS[-1]) == ("Cs", "F", "Ce")
    assert all(ELEMENTS[ACTION[element]] == element for element in ELEMENTS)


def test_every_element_is_in_one_of_nine_classes() -> None:
    assert set(SIMILARITY_CLASS) == set(ELEMENTS)
    assert len(set(SIMILARITY_CLASS.values())) == 9
