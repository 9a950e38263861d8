"""How xtalrl names the errors that pw.x can stop with.

    python tools/errore.py q-e                     # how many messages each outcome has
    python tools/errore.py q-e --list stopped      # those without a name

Reads every call of `errore` and similar routines in the sources that pw.x is linked from.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from xtalrl.dft.messages import Error, name_error
from xtalrl.dft.outcomes import Outcome

FOLDERS = ("PW/src", "Modules", "upflib", "UtilXlib", "FFTXlib", "LAXlib", "KS_Solvers", "XClib", "dft-d3")
"""What pw.x is linked from; the programs and tests of their own below them are not looked at."""
_OTHER_PROGRAMS = re.compile(r"/(tests?|tools)/|/(upfconv|casino2upf|virtual_v2|hgh2qe|xclib_test|cp[a-z_]*)\.f90$")
_CALL = re.compile(r"\bcall\s+(?:errore|upf_error|xclib_error|lax_error__|fftx_error__)\s*\(", re.I)
_LITERAL = re.compile(r"'((?:[^']|'')*)'|\"((?:[^\"]|\"\")*)\"")
_ASSIGNED = re.compile(r"(?:^|::)\s*(\w+)\s*=\s*(?:'([^']*)'|\"([^\"]*)\")\s*$")
UNKNOWN = "…"
"""Stands for what is put in at run time."""


def statements(source: str) -> Iterator[str]:
    """The statements of free-form Fortran, without comments, each continued one on one line."""
    joined = ""
    for raw in source.splitlines():
        line = _without_comment(raw).strip()
        if not line or line.startswith("#"):
            continue
        joined += line.removeprefix("&") if joined else line
        if joined.endswith("&"):
            joined = joined[:-1]
            continue
        yield joined
        joined = ""


def _without_comment(line: str) -> str:
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == "!":
            return line[:place]
    return line


def _arguments(statement: str) -> list[str]:
    """The arguments of the call whose opening bracket the text begins after."""
    found: list[str] = []
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(statement):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]" and depth == 0:
            return [*found, statement[start:place]]
        elif letter in ")]":
            depth -= 1
        elif letter == "," and depth == 0:
            found.append(statement[start:place])
            start = place + 1
    return found


def _text(expression: str, constants: dict[str, str]) -> str:
    """What a character expression gives, with `UNKNOWN` for its variables."""
    parts = []
    for part in re.split(r"//(?=(?:[^'\"]|'[^']*'|\"[^\"]*\")*$)", expression):
        literal = _LITERAL.fullmatch(re.sub(r"^\s*(?:trim|adjustl)\s*\((.*)\)\s*$", r"\1", part, flags=re.I).strip())
        parts.append((literal[1] or literal[2] or "") if literal else constants.get(part.strip().lower(), UNKNOWN))
    return "".join(parts).strip()


def errors(sources: Path) -> Iterator[tuple[str, str, str]]:
    """Routine, message and file of each call."""
    for path in sorted(path for folder in FOLDERS for path in (sources / folder).rglob("*.[fF]90")):
        if _OTHER_PROGRAMS.search(str(path)):
            continue
        lines = list(statements(path.read_text(errors="replace")))
        constants: dict[str, str] = {}
        for line in lines:
            if assigned := _ASSIGNED.search(line):
                constants[assigned[1].lower()] = assigned[2] or assigned[3] or ""
            for call in _CALL.finditer(line):
                arguments = _arguments(line[call.end() :])
                if len(arguments) >= 2:
                    yield _text(arguments[0], constants), _text(arguments[1], constants), str(path.relative_to(sources))


def main() -> None:
    """Print how many messages each outcome has, or the messages of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="folder of the sources of Quantum ESPRESSO")
    parser.add_argument("--list", metavar="OUTCOME", help="print the messages of this outcome")
    options = parser.parse_args()
    found = sorted({Error(routine, message) for routine, message, _ in errors(options.sources)})
    named = {error: Outcome(name_error(error)) for error in found}
    if options.list:
        print("\n".join(str(error) for error, outcome in named.items() if outcome == options.list))
        return
    print(f"{len(found)} different messages")
    for outcome, number in Counter(named.values()).most_common():
        print(f"| `{outcome}` | {outcome.category} | {number} |")


if __name__ == "__main__":
    main()
