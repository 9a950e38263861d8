"""One finding of `xtalrl doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How a check ended. Only MISSING makes `xtalrl doctor` fail."""

    OK = "[green]ok[/]"
    OPTIONAL = "[yellow]optional[/]"
    MISSING = "[red]missing[/]"


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    state: State
    finding: str
    fix: str = ""
    """A command or an entry to write; after two spaces, a remark."""
