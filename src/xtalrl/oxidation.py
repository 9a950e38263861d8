"""Oxidation states and electronegativities of the 88 elements as in smact 2.5.2, on which the paper's validity rule is based.

The data are the same as those that `xtalrl.metrics.validity` takes from smact (a test compares them); they are here because a GPU node has no smact.
Sources: the list of oxidation states of 2014 and the Pauling electronegativities of smact (Davies et al., J. Open Source Softw. 4, 1361
(2019)), with the electronegativity of zirconium that smact had before 2.5.4.
"""

from __future__ import annotations

OXIDATION_STATES: dict[str, tuple[int, ...]] = {
    "Cs": (-1, 1), "Er": (2, 3), "Xe": (1, 2, 4, 6, 8), "Tc": (-3, -1, 1, 2, 3, 4, 5, 6, 7), "Eu": (2, 3),
    "Gd": (1, 2, 3), "Li": (1,), "Hf": (2, 3, 4), "Dy": (2, 3, 4), "F": (-1,), "Te": (-2, 2, 4, 5, 6),
    "Ti": (-1, 1, 2, 3, 4), "Hg": (1, 2, 4), "Bi": (-3, 1, 3, 5, 7), "Pr": (2, 3, 4), "Ne": (), "Sm": (2, 3),
    "Be": (1, 2), "Au": (-1, 1, 2, 3, 5), "Pb": (-4, 2, 4), "C": (-4, -3, -2, -1, 1, 2, 3, 4), "Zr": (1, 2, 3, 4),
    "Ir": (-3, -1, 1, 2, 3, 4, 5, 6, 7, 8), "Pd": (1, 2, 4, 6), "Sc": (1, 2, 3), "Yb": (2, 3),
    "Os": (-2, -1, 1, 2, 3, 4, 5, 6, 7, 8), "Nb": (-1, 1, 2, 3, 4, 5), "Ac": (2, 3), "Rb": (-1, 1), "Al": (1, 2, 3),
    "P": (-3, -2, -1, 1, 2, 3, 4, 5), "Ga": (1, 2, 3), "Na": (-1, 1), "Cr": (-2, -1, 1, 2, 3, 4, 5, 6),
    "Ta": (-1, 2, 3, 4, 5), "Br": (-1, 1, 2, 3, 4, 5, 7), "Pu": (2, 3, 4, 5, 6, 7, 8),
    "Ge": (-4, -3, -2, -1, 1, 2, 3, 4), "Tb": (1, 2, 3, 4), "La": (2, 3), "Se": (-2, 1, 2, 4, 6),
    "V": (-1, 1, 2, 3, 4, 5), "Pa": (2, 3, 4, 5), "Ni": (-1, 1, 2, 3, 4), "In": (1, 2, 3), "Cu": (1, 2, 3, 4),
    "Fe": (-2, -1, 1, 2, 3, 4, 5, 6), "Co": (-1, 1, 2, 3, 4, 5), "Pm": (2, 3), "N": (-3, -2, -1, 1, 2, 3, 4, 5),
    "K": (-1, 1), "Ca": (1, 2), "Rh": (-1, 1, 2, 3, 4, 5, 6), "B": (1, 2, 3), "Tm": (2, 3), "I": (-1, 1, 3, 4, 5, 7),
    "Ho": (2, 3), "Sb": (-3, 3, 5), "As": (-3, 1, 2, 3, 5), "Tl": (-1, 1, 3), "Ru": (-2, 1, 2, 3, 4, 5, 6, 7, 8),
    "U": (2, 3, 4, 5, 6), "Np": (3, 4, 5, 6, 7), "Cl": (-1, 1, 2, 3, 4, 5, 6, 7), "Re": (-3, -1, 1, 2, 3, 4, 5, 6, 7),
    "Ag": (1, 2, 3, 4), "Ba": (2,), "H": (-1, 1), "O": (-2, -1, 1, 2), "Mg": (1, 2), "W": (-2, -1, 1, 2, 3, 4, 5, 6),
    "Sn": (-4, 2, 4), "Mo": (-2, -1, 1, 2, 3, 4, 5, 6), "Pt": (-2, -1, 1, 2, 3, 4, 5, 6), "Zn": (1, 2), "Sr": (1, 2),
    "S": (-2, -1, 1, 2, 3, 4, 5, 6), "Kr": (2,), "Cd": (1, 2), "Si": (-4, -3, -2, -1, 1, 2, 3, 4), "Y": (1, 2, 3),
    "Lu": (3,), "Th": (2, 3, 4), "Nd": (2, 3, 4), "Mn": (-3, -2, -1, 1, 2, 3, 4, 5, 6, 7), "He": (), "Ce": (2, 3, 4),
}  # fmt: skip
"""Oxidation states of each element; none for helium and neon."""

ELECTRONEGATIVITY: dict[str, float] = {
    "Cs": 0.79, "Er": 1.24, "Xe": 2.6, "Tc": 2.1, "Eu": 1.2, "Gd": 1.2, "Li": 0.98, "Hf": 1.3, "Dy": 1.22, "F": 3.98,
    "Te": 2.1, "Ti": 1.54, "Hg": 1.9, "Bi": 1.9, "Pr": 1.13, "Sm": 1.17, "Be": 1.57, "Au": 2.4, "Pb": 1.8, "C": 2.55,
    "Zr": 0.33, "Ir": 2.2, "Pd": 2.2, "Sc": 1.36, "Yb": 1.1, "Os": 2.2, "Nb": 1.6, "Ac": 1.1, "Rb": 0.82, "Al": 1.61,
    "P": 2.19, "Ga": 1.81, "Na": 0.93, "Cr": 1.66, "Ta": 1.5, "Br": 2.96, "Pu": 1.3, "Ge": 2.01, "Tb": 1.2, "La": 1.1,
    "Se": 2.55, "V": 1.63, "Pa": 1.5, "Ni": 1.91, "In": 1.78, "Cu": 1.9, "Fe": 1.83, "Co": 1.88, "N": 3.04, "K": 0.82,
    "Ca": 1.0, "Rh": 2.28, "B": 2.04, "Tm": 1.25, "I": 2.66, "Ho": 1.23, "Sb": 2.05, "As": 2.18, "Tl": 1.8, "Ru": 2.2,
    "U": 1.7, "Np": 1.3, "Cl": 3.16, "Re": 1.9, "Ag": 1.93, "Ba": 0.89, "H": 2.2, "O": 3.44, "Mg": 1.31, "W": 1.7,
    "Sn": 1.96, "Mo": 2.16, "Pt": 2.2, "Zn": 1.65, "Sr": 0.95, "S": 2.58, "Kr": 3.0, "Cd": 1.69, "Si": 1.9, "Y": 1.22,
    "Lu": 1.0, "Th": 1.3, "Nd": 1.14, "Mn": 1.55, "Ce": 1.12,
}  # fmt: skip
"""Pauling electronegativities; helium, neon and promethium have none."""

NOT_METALS = frozenset("Xe F Te Ne C P Br Se Pm N B I As Cl H O S Kr Si He".split())
"""The elements of the 88 that are not in smact's list of metals; a composition without them is an alloy, which is valid."""
