"""Columns of the lists in the report, from which report.js makes tables that can be searched, sorted and filtered."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtalrl.cells import write_formula
from xtalrl.metrics.confirmation import CONFIRMED, WITHDRAWN
from xtalrl.metrics.designs import SUCCESSFUL_OUTCOMES
from xtalrl.metrics.properties import in_window

_MAX_CHOICES = 100
"""Maximum number of choices in a filter; for more, there is the search."""
_KEYS_OF_POLICIES = ("policy", "first", "second", "designs")
_PHRASES = {
    "band_gap": "band_gap_(eV)", "formation_energy_per_atom": "formation_energy_(eV/atom)",
    "energy_above_hull": "energy_above_hull_(eV/atom)", "ev_per_atom": "(eV/atom)",
}  # fmt: skip
_WORDS = {
    "nu": "ν", "kappa": "κ", "omega": "ω", "pct": "(%)", "ev": "(eV)", "s": "(s)", "cpu": "CPU", "scfs": "SCFs", "n": "n", "p": "p",
}  # fmt: skip


def _column(
    key: str,
    label: str,
    values: Sequence[Any],
    *,
    kind: str,
    filter_by: str = "",
    decimals: int = 0,
    order: Sequence[str] = (),
) -> dict[str, Any]:
    """A column for report.js.

    `kind` is text (values coded by a dictionary, those of `order` first) or number; `filter_by` is select or range.
    """
    column: dict[str, Any] = {"key": key, "label": label, "kind": kind, "filter": filter_by, "decimals": decimals}
    if kind == "text":
        dictionary = {value: code for code, value in enumerate(dict.fromkeys([*order, *values]))}
        column |= {"dictionary": list(dictionary), "data": [dictionary[value] for value in values]}
    else:
        column["data"] = [
            None if value is None else round(value, decimals) if decimals else int(value) for value in values
        ]
    return column


def _named_column(rows: list[dict[str, Any]], key: str, label: str, **options: Any) -> dict[str, Any]:
    return _column(key, label, [row[key] for row in rows], **options)


@dataclass(frozen=True)
class DesignList:
    """What the list of every design shows, and in which order.

    `evaluation` are rows of `EVALUATION`, `labels` and `targets_ev` the name for people and the target gap in eV of each policy, `window_ev` the half width of the desired range in eV, `above_hull`
    the energy above the hull in eV/atom by request of the design's SCF, and `verdicts` those of the finer SCFs on the hits by policy and request (empty where none were run).
    """

    evaluation: Sequence[dict[str, Any]]
    labels: Mapping[str, str]
    targets_ev: Mapping[str, float | None]
    window_ev: float
    above_hull: Mapping[str, float]
    verdicts: Mapping[tuple[str, str], str]

    @functools.cached_property
    def ranked(self) -> list[dict[str, Any]]:
        """The rows, best first.

        Hits come first: those that a finer SCF confirmed, those without its verdict, those withdrawn. Then come designs that miss their policy's target, designs of policies without a target, and
        designs without a gap. Whatever has a target is sorted by its distance from it; equal ones keep their order.
        """
        return sorted(self.evaluation, key=self._rank)

    def verdict(self, row: Mapping[str, Any]) -> str:
        """Verdict of the finer SCF on a design; empty if there is none."""
        return self.verdicts.get((row["policy"], row["request_id"]), "")

    def hit(self, row: Mapping[str, Any]) -> str:
        """Whether the gap lies in the desired range of the design's own policy: yes, no, or empty if that cannot be said."""
        target = self.targets_ev.get(row["policy"])
        if target is None or row["band_gap"] is None:
            return ""
        return "yes" if in_window(np.array(row["band_gap"]), target, self.window_ev) else "no"

    def _rank(self, row: Mapping[str, Any]) -> tuple[int, float]:
        target, gap, hit = self.targets_ev.get(row["policy"]), row["band_gap"], self.hit(row)
        if gap is None:
            return 5, 0.0
        if target is None:
            return 4, 0.0
        group = {CONFIRMED: 0, WITHDRAWN: 2}.get(self.verdict(row), 1) if hit == "yes" else 3
        return group, abs(gap - target)


def design_columns(designs: DesignList) -> list[dict[str, Any]]:
    """Columns of the list of every design, in its order."""
    rows, targets = designs.ranked, designs.targets_ev

    def values(name: str) -> list[Any]:
        return [row[name] for row in rows]

    novel = {True: "yes", False: "no", None: ""}
    seeds = [str(seed) for seed in values("seed")]
    hull = [designs.above_hull.get(row["request_id"]) for row in rows]
    confirmed = [designs.verdict(row) for row in rows]
    policies = [designs.labels.get(name, name) for name in values("policy")]
    text = functools.partial(_named_column, rows, kind="text")
    number = functools.partial(_named_column, rows, kind="number")
    return [
        text("formula", "Design"),
        _column(
            "policy",
            "Policy",
            policies,
            kind="text",
            filter_by="select",
            order=[label for label in designs.labels.values() if label in set(policies)],
        ),
        *([_column("seed", "Seed", seeds, kind="text", filter_by="select")] if len(set(seeds)) > 1 else []),
        *([number("sample", "Sample")] if any(values("sample")) else []),
        _column(
            "target_ev",
            "Target (eV)",
            [_target(targets.get(name)) for name in values("policy")],
            kind="text",
            filter_by="select",
        ),
        number("band_gap", "Gap (eV)", filter_by="range", decimals=2),
        _column("hit", "In range", [designs.hit(row) for row in rows], kind="text", filter_by="select"),
        *([_column("verdict", "Finer SCF", confirmed, kind="text", filter_by="select")] if designs.verdicts else []),
        _column("energy_above_hull", "Above hull (eV/atom)", hull, kind="number", filter_by="range", decimals=3),
        _column("novel", "Novel", [novel[value] for value in values("novel")], kind="text", filter_by="select"),
        text("outcome", "Outcome", filter_by="select"),
        number("formation_energy_per_atom", "E_form (eV/atom)", filter_by="range", decimals=3),
        text("material_id", "Skeleton of"),
        _column("true_formula", "True crystal", [formula or "" for formula in values("true_formula")], kind="text"),
        number("true_band_gap", "True gap (eV)", decimals=2),
        number("true_formation_energy_per_atom", "True E_form (eV/atom)", decimals=3),
        number("n_correct", "Correct sites"),
        number("n_sites", "Sites"),
    ]


def rejected_columns(rejected: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Columns of the list of rejected crystals, which are rows of `REJECTED`."""
    return [
        _column("material_id", "Crystal", [row["material_id"] or "" for row in rejected], kind="text"),
        _named_column(rejected, "source", "File", kind="text"),
        _named_column(rejected, "row", "Row", kind="number"),
        _named_column(rejected, "reason", "Reason", kind="text", filter_by="select"),
        _named_column(rejected, "detail", "Detail", kind="text"),
    ]


def failure_columns(outcomes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Columns of the list of failed SCFs among rows of `SCF_OUTCOMES`."""
    rows = [dict(row) for row in outcomes if row["outcome"] not in SUCCESSFUL_OUTCOMES]
    return [
        _named_column(rows, "request_id", "Request", kind="text"),
        _named_column(rows, "kind", "Kind", kind="text", filter_by="select"),
        _column("species", "Species", [write_formula(Counter(row["species"])) for row in rows], kind="text"),
        _named_column(rows, "outcome", "Outcome", kind="text", filter_by="select"),
        _named_column(rows, "detail", "Detail", kind="text"),
        _column("attempts", "Attempts", [len(row["attempts"] or ()) for row in rows], kind="number"),
        _named_column(rows, "wall_s", "Wall time (s)", kind="number", decimals=1),
    ]


def _target(target_ev: float | None) -> str:
    return "" if target_ev is None else f"{target_ev:g}"


def plain_columns(
    rows: Sequence[Mapping[str, str]], keys: Sequence[str], labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Columns of any table: numbers if all values of the column are, else text, with a filter if there are only few different texts.

    Policies get their `labels`, which are their names for people.
    """
    columns = []
    for key in keys:
        texts = [row[key] for row in rows]
        if key in _KEYS_OF_POLICIES:
            texts = [labels.get(text, text) for text in texts]
        if {*texts} <= {"True", "False", ""}:
            texts = [{"True": "yes", "False": "no"}.get(text, "") for text in texts]
        numbers = [_number(text) for text in texts]
        if all(number is not None or not text for number, text in zip(numbers, texts, strict=True)) and any(texts):
            columns.append({"key": key, "label": heading(key), "kind": "number", "decimals": None, "data": numbers})
        else:
            choice = "select" if 1 < len(set(texts)) <= _MAX_CHOICES else ""
            columns.append(_column(key, heading(key), texts, kind="text", filter_by=choice))
    return columns


def heading(key: str) -> str:
    """The name of a CSV's column for people, with its unit in brackets."""
    for phrase, written in _PHRASES.items():
        key = key.replace(phrase, written)
    first, *rest = key.split("_")
    return " ".join([_WORDS.get(first, first[:1].upper() + first[1:]), *(_WORDS.get(word, word) for word in rest)])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
