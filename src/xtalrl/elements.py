"""The 88 elements a policy can place, their action index and their similarity classes."""

from __future__ import annotations

from collections.abc import Iterable

# The order is the paper's: an element's position is its action index.
ELEMENTS: tuple[str, ...] = tuple(
    (
        "Cs Er Xe Tc Eu Gd Li Hf Dy F Te Ti Hg Bi Pr Ne Sm Be Au Pb C Zr Ir Pd Sc Yb Os Nb Ac Rb Al P Ga Na Cr Ta Br Pu "
        "Ge Tb La Se V Pa Ni In Cu Fe Co Pm N K Ca Rh B Tm I Ho Sb As Tl Ru U Np Cl Re Ag Ba H O Mg W Sn Mo Pt Zn Sr S "
        "Kr Cd Si Y Lu Th Nd Mn He Ce"
    ).split()
)
N_ELEMENTS = len(ELEMENTS)
ACTION: dict[str, int] = {element: action for action, element in enumerate(ELEMENTS)}
# The periodic table up to the heaviest of them.
_BY_NUMBER = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd "
    "Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac "
    "Th Pa U Np Pu"
).split()
ATOMIC_NUMBERS: tuple[int, ...] = tuple(_BY_NUMBER.index(element) + 1 for element in ELEMENTS)
"""Number of electrons of the element of each action. The core that a pseudopotential leaves out holds an even number of them, so that
the parity of all electrons is that of the valence."""

UNFILLED = N_ELEMENTS
"""Node type of a site that holds no element yet."""

# Appendix A.1.1.2 of the paper lists eight classes; its section 5 names the ninth, the post-transition metals.
SIMILARITY_CLASSES: dict[str, tuple[str, ...]] = {
    "group 1": tuple("Li Na K Rb Cs".split()),
    "group 2": tuple("Be Mg Ca Sr Ba".split()),
    "transition metal": tuple(
        "Sc Ti V Cr Mn Fe Co Ni Cu Zn Y Zr Nb Mo Tc Ru Rh Pd Ag Cd Hf Ta W Re Os Ir Pt Au Hg".split()
    ),
    "nonmetal": tuple("H B C N O Si P S As Se Te".split()),
    "halogen": tuple("F Br Cl I".split()),
    "noble gas": tuple("Xe Ne Kr He".split()),
    "lanthanide": tuple("La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu".split()),
    "actinide": tuple("Ac Th Pa U Np Pu".split()),
    "post-transition metal": tuple("Al Ga Ge In Sn Sb Tl Pb Bi".split()),
}
SIMILARITY_CLASS: dict[str, str] = {
    element: name for name, members in SIMILARITY_CLASSES.items() for element in members
}


def has_odd_electrons(species: Iterable[str]) -> bool:
    """Whether a cell with these elements, one per atom, has an odd number of electrons."""
    return sum(ATOMIC_NUMBERS[ACTION[element]] for element in species) % 2 == 1
