"""Compositions as counts of elements, and the spelling by which they are compared."""

from __future__ import annotations

import contextlib
import functools
import gzip
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pymatgen.core.composition import Composition
from pymatgen.core.periodic_table import Element

from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress

logger = logging.getLogger(__name__)

LARGEST_AMOUNT = 999_999
"""Largest number of atoms of an element in a formula; larger ones are mistakes."""
LONGEST = 1000
"""Largest number of characters of a formula."""
_PLAIN = re.compile(r"(?:[A-Z][a-z]?\d{0,6})+")
_TERM = re.compile(r"([A-Z][a-z]?)(\d*)")


def parse_formula(formula: str) -> dict[str, int]:
    """Counts of each element of a formula such as `Ca(OH)2`, not reduced.

    Raises:
        XtalrlError: the text is not a formula, names an unknown element, or has fractional amounts.
    """
    text = formula.strip().removeprefix("\ufeff")  # a byte order mark, with which some editors begin a file
    terms = _TERM.findall(text) if _PLAIN.fullmatch(text) else []
    if terms and all(symbol in _symbols() and int(amount or 1) for symbol, amount in terms):
        counts: Counter[str] = Counter()
        for symbol, amount in terms:
            counts[symbol] += int(amount or 1)
        return dict(counts)
    amounts: dict[str, float] = {}
    # pymatgen drops an element whose amount is 0, and needs minutes for a very long text.
    if 0 < len(text) <= LONGEST and not terms:
        with contextlib.suppress(ValueError, KeyError, OverflowError):
            amounts = Composition(text, strict=True).get_el_amt_dict()
    if not amounts or not all(1 <= amount <= LARGEST_AMOUNT and amount == int(amount) for amount in amounts.values()):
        shown = text if len(text) <= 60 else f"{text[:60]}…"
        raise XtalrlError(
            f"{shown!r} is not a chemical formula with whole amounts of at most {LARGEST_AMOUNT:,}: write it like SrTiO3, Ca(OH)2 or Na1Cl1, one per line."
        )
    return {symbol: int(amount) for symbol, amount in amounts.items()}


@functools.cache
def _symbols() -> frozenset[str]:
    return frozenset(element.symbol for element in Element)


def reduce_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts divided by their greatest common divisor."""
    divisor = math.gcd(*counts.values())
    return {symbol: count // divisor for symbol, count in counts.items()}


def composition_key(counts: Mapping[str, int]) -> str:
    """The spelling under which compositions are compared: reduced, elements in alphabetical order (`Ca1H2O2`).

    Unlike a conventional formula, it is unique: `Ca(HO)2`, `CaH2O2` and `Ca(OH)2` share it, and so do `O` and `O2`.
    """
    return "".join(f"{symbol}{count}" for symbol, count in sorted(reduce_counts(counts).items()))


def read_known_compositions(path: str | Path) -> frozenset[str]:
    """`composition_key` of every formula in a text file (or .gz), one formula per line; blank lines are skipped.

    Raises:
        XtalrlError: the file is missing or unreadable, or a line is not a formula (its number is named).
    """
    path = Path(path)
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        raise XtalrlError(
            f"The formula list {path} does not exist: correct `evaluation.formulas`, or set it to null to leave novelty empty."
        ) from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise XtalrlError(
            f"The formula list {path} cannot be read ({error}): `evaluation.formulas` must be text, or gzipped text ending in .gz."
        ) from None
    keys = set()
    progress = Progress("Reading known compositions", len(lines), "formulas")
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                keys.add(composition_key(parse_formula(line)))
            except XtalrlError as error:
                raise XtalrlError(f"{path}, line {number}: {error}") from None
        progress.advance()
    if not keys:
        raise XtalrlError(
            f"The formula list {path} is empty: correct `evaluation.formulas`, or set it to null to leave novelty empty."
        )
    return frozenset(keys)
