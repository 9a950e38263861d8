"""Columns of the lists in the report, from which report.js makes tables that can be searched, sorted and filtered."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xtalrl.cells import write_formula
from xtalrl.metrics.designs import SUCCESSFUL_OUTCOMES
from xtalrl.metrics.properties import in_window

_MAX_CHOICES = 100
"""Maximum number of choices in a filter; for more, there is the search."""


def _column(
    key: str, label: str, values: Sequence[Any], *, kind: str, filter_by: str = "", decimals: int = 0
) -> dict[str, Any]:
    """A column for report.js: `kind` is text (values coded by a dictionary) or number; `filter_by` is select or range."""
    column: dict[str, Any] = {"key": key, "label": label, "kind": kind, "filter": filter_by, "decimals": decimals}
    if kind == "text":
        dictionary = {value: code for code, value in enumerate(dict.fromkeys(values))}
        column |= {"dictionary": list(dictionary), "data": [dictionary[value] for value in values]}
    else:
        column["data"] = [
            None if value is None else round(value, decimals) if decimals else int(value) for value in values
        ]
    return column


def _named_column(rows: list[dict[str, Any]], key: str, label: str, **options: Any) -> dict[str, Any]:
    return _column(key, label, [row[key] for row in rows], **options)


def design_columns(
    evaluation: list[dict[str, Any]],
    targets: Mapping[str, float | None],
    window_ev: float,
    above_hull: Mapping[str, float],
    verdicts: Mapping[tuple[str, str], str],
) -> list[dict[str, Any]]:
    """Columns of the list of every design.

    Args:
        evaluation: rows of `EVALUATION`.
        targets: target gap of each policy in eV.
        window_ev: half width of the desired range in eV.
        above_hull: energy above the hull in eV/atom, by request of the design's SCF.
        verdicts: verdict of the finer SCFs on the hits, by policy and request; empty where none were run.
    """

    def values(name: str) -> list[Any]:
        return [row[name] for row in evaluation]

    def hit(row: Mapping[str, Any]) -> str:
        target = targets.get(row["policy"])
        if target is None or row["band_gap"] is None:
            return ""
        return "yes" if in_window(np.array(row["band_gap"]), target, window_ev) else "no"

    novel = {True: "yes", False: "no", None: ""}
    seeds = [str(seed) for seed in values("seed")]
    hull = [above_hull.get(row["request_id"]) for row in evaluation]
    confirmed = [verdicts.get((row["policy"], row["request_id"]), "") for row in evaluation]
    text = functools.partial(_named_column, evaluation, kind="text")
    number = functools.partial(_named_column, evaluation, kind="number")
    return [
        text("material_id", "Skeleton of"),
        _column("true_formula", "True", [row["true_formula"] or "" for row in evaluation], kind="text"),
        text("formula", "Design"),
        text("policy", "Policy", filter_by="select"),
        _column(
            "target_ev",
            "Target (eV)",
            [_target(targets.get(row["policy"])) for row in evaluation],
            kind="text",
            filter_by="select",
        ),
        *([_column("seed", "Seed", seeds, kind="text", filter_by="select")] if len(set(seeds)) > 1 else []),
        *([number("sample", "Sample")] if any(values("sample")) else []),
        text("outcome", "Outcome", filter_by="select"),
        number("band_gap", "Gap (eV)", filter_by="range", decimals=2),
        number("true_band_gap", "True gap (eV)", decimals=2),
        _column("hit", "In range", [hit(row) for row in evaluation], kind="text", filter_by="select"),
        *([_column("verdict", "Finer SCF", confirmed, kind="text", filter_by="select")] if verdicts else []),
        number("formation_energy_per_atom", "E_form (eV/atom)", filter_by="range", decimals=3),
        number("true_formation_energy_per_atom", "True E_form", decimals=3),
        _column("energy_above_hull", "Above hull (eV/atom)", hull, kind="number", filter_by="range", decimals=3),
        _column("novel", "Novel", [novel[value] for value in values("novel")], kind="text", filter_by="select"),
        number("n_correct", "Correct"),
        number("n_sites", "of sites"),
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


def plain_columns(rows: Sequence[Mapping[str, str]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Columns of any table: numbers if all values of the column are, else text, with a filter if there are only few different texts."""
    columns = []
    for key in keys:
        texts = [row[key] for row in rows]
        numbers = [_number(text) for text in texts]
        if all(number is not None or not text for number, text in zip(numbers, texts, strict=True)) and any(texts):
            columns.append(
                {"key": key, "label": key.replace("_", " "), "kind": "number", "decimals": None, "data": numbers}
            )
        else:
            choice = "select" if 1 < len(set(texts)) <= _MAX_CHOICES else ""
            columns.append(_column(key, key.replace("_", " "), texts, kind="text", filter_by=choice))
    return columns


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
