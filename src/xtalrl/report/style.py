"""How policies look: one colour and marker each, the same in every figure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Okabe and Ito's palette, told apart by the colour-blind (doi:10.1038/nmeth.1618). Targets take the conditional colours in turn.
_RANDOM, _BC, _UNCONDITIONAL = "#767676", "#000000", "#0072B2"
_CONDITIONAL = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = {"random": "X", "bc": "s", "ucql": "^", "ccql": "o"}
_NAMES = {"random": "random", "bc": "BC", "ucql": "u-CQL", "ccql": "c-CQL"}

RC_PARAMS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#555555",
    "axes.axisbelow": True,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class PolicyStyle:
    """Label, colour and marker of a policy. Of several ω the largest has a filled marker, the others are open."""

    label: str
    color: str
    marker: str
    filled: bool


def policy_styles(policies: Iterable[str]) -> dict[str, PolicyStyle]:
    """The style of each policy by its name (`ccql-1.12ev-w5`); targets and ω are told from all the names together."""
    parts = {name: _parse(name) for name in policies}
    targets = sorted({target for _, target, _ in parts.values() if target is not None})
    omegas = sorted({omega for _, _, omega in parts.values() if omega is not None})
    styles = {}
    for name, (kind, target, omega) in parts.items():
        if target is not None:
            color = _CONDITIONAL[targets.index(target) % len(_CONDITIONAL)]
        else:
            color = {"random": _RANDOM, "bc": _BC}.get(kind, _UNCONDITIONAL)
        label = _NAMES.get(kind, kind)
        label += f" {target:g} eV" if target is not None else ""
        label += f", ω = {omega:g}" if omega is not None else ""
        styles[name] = PolicyStyle(label, color, _MARKERS.get(kind, "D"), filled=omega is None or omega == omegas[-1])
    return styles


def _parse(name: str) -> tuple[str, float | None, float | None]:
    kind, _, rest = name.partition("-")
    target = re.search(r"([\d.e+]+)ev\b", rest)
    omega = re.search(r"\bw([\d.e+-]+)$", rest)
    return kind, float(target[1]) if target else None, float(omega[1]) if omega else None
