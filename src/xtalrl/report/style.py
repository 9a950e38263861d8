"""The style of policies: each has one colour and marker, the same in every figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xtalrl.rl.policies import PolicySpec

Policies = Mapping[str, PolicySpec | None]
"""Policies by name, in the order of rows and legends; None for a set of external crystals."""

# Okabe and Ito's palette, which colour-blind readers can tell apart (doi:10.1038/nmeth.1618). Targets take the conditional colours in turn.
_RANDOM, _BC, _UNCONDITIONAL = "#767676", "#000000", "#0072B2"
_CONDITIONAL = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Sets of external crystals: from Tol's muted palette, whose colours are not among those above.
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
    """Label, colour and marker of a policy. Where there are several ω, the marker is filled for the largest and open for the others."""

    label: str
    color: str
    marker: str
    filled: bool


def policy_styles(policies: Policies) -> dict[str, PolicyStyle]:
    """The style of each policy, by name; a name without a policy is a set of external crystals."""
    specs = {name: spec for name, spec in policies.items() if spec}
    targets = sorted({spec.target_ev for spec in specs.values() if spec.target_ev is not None})
    omegas = sorted({spec.omega for spec in specs.values() if spec.omega is not None})
    external = [name for name in policies if name not in specs]
    styles = {}
    for name in policies:
        spec = specs.get(name)
        if spec is None:
            color, marker = _EXTERNAL[external.index(name) % len(_EXTERNAL)]
            styles[name] = PolicyStyle(name, color, marker, filled=True)
            continue
        if spec.target_ev is not None:
            color = _CONDITIONAL[targets.index(spec.target_ev) % len(_CONDITIONAL)]
        else:
            color = {"random": _RANDOM, "bc": _BC}.get(spec.kind, _UNCONDITIONAL)
        label = spec.algorithm.label + (f" {spec.pretrained}" if spec.pretrained else "")
        label += f" {spec.target_ev:g} eV" if spec.target_ev is not None else ""
        label += f", ω = {spec.omega:g}" if spec.omega is not None else ""
        label += f", {spec.reward.setting}" if spec.in_sweep and spec.reward else ""
        filled = spec.omega is None or spec.omega == omegas[-1]
        styles[name] = PolicyStyle(label, color, spec.algorithm.marker, filled)
    return styles
