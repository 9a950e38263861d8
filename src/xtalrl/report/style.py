"""How policies look: one colour and marker each, the same in every figure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from xtalrl.rl.algorithms import ALGORITHMS

# Okabe and Ito's palette, told apart by the colour-blind (doi:10.1038/nmeth.1618). Targets take the conditional colours in turn.
_RANDOM, _BC, _UNCONDITIONAL = "#767676", "#000000", "#0072B2"
_CONDITIONAL = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Sets of external crystals: of Tol's muted palette, none of which is above.
_EXTERNAL = (("#882255", "D"), ("#332288", "v"), ("#999933", "P"), ("#AA4499", "*"))

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
    """The style of each policy by its name (`ccql-1.12ev-w5`); targets and ω are told from all the names together.

    A name that is no policy's is a set of external crystals.
    """
    parts = {name: _parse(name) for name in policies}
    targets = sorted({part.target for part in parts.values() if part.target is not None})
    omegas = sorted({part.omega for part in parts.values() if part.omega is not None})
    external = [name for name, part in parts.items() if part.kind not in ALGORITHMS]
    styles = {}
    for name, (kind, pretrained, target, omega, setting) in parts.items():
        if name in external:
            color, marker = _EXTERNAL[external.index(name) % len(_EXTERNAL)]
            styles[name] = PolicyStyle(name, color, marker, filled=True)
            continue
        if target is not None:
            color = _CONDITIONAL[targets.index(target) % len(_CONDITIONAL)]
        else:
            color = {"random": _RANDOM, "bc": _BC}.get(kind, _UNCONDITIONAL)
        label = ALGORITHMS[kind].label + (f" {pretrained}" if pretrained else "")
        label += f" {target:g} eV" if target is not None else ""
        label += f", ω = {omega:g}" if omega is not None else ""
        label += f", {setting}" if setting else ""
        styles[name] = PolicyStyle(label, color, ALGORITHMS[kind].marker, filled=omega is None or omega == omegas[-1])
    return styles


class _Parts(NamedTuple):
    kind: str
    pretrained: str
    target: float | None
    omega: float | None
    setting: str


_NUMBER = r"\d[\d.]*(?:e[+-]?\d+)?"
_POLICY = re.compile(
    rf"({'|'.join(sorted(ALGORITHMS, key=len, reverse=True))})(?:-([a-z]{{2,}}\d*))?(?:-({_NUMBER})ev)?"
    rf"(?:-w({_NUMBER}))?(?:-a({_NUMBER})-({_NUMBER})-b({_NUMBER}))?"
)


def _parse(name: str) -> _Parts:
    match = _POLICY.fullmatch(name)
    if match is None:
        return _Parts(name, "", None, None, "")
    kind, pretrained, target, omega, *setting = match.groups()
    return _Parts(
        kind,
        pretrained or "",
        float(target) if target else None,
        float(omega) if omega else None,
        "-".join(setting) if all(setting) else "",
    )
