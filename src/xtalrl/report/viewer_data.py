"""Data for the report's dialog of a design: its cell and the true one, its SCF attempts and their settings, compact enough for 100,000 designs.

Each skeleton is stored once; a design is a string with one character per site; equal texts of the SCFs are stored once.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from xtalrl.cells import BOND_LEAST, BOND_REACH, Cell, covalent_radius, is_metal
from xtalrl.dft.inputs import mesh_of
from xtalrl.dft.protocols import Protocol
from xtalrl.dft.pseudopotentials import Family
from xtalrl.elements import ACTION, ELEMENTS

THREE_DMOL = "3Dmol.js 2.5.5"
ASSETS = Path(__file__).parent / "assets"

FIRST_CHARACTER = 35
"""Code of the character for action 0: `#` and the 87 characters after it are printable."""
KEY_DIGITS = 12
"""Number of digits shown of the key of an attempt's record, which is enough to find it."""
COORDINATE_STEPS = 10_000
"""Number of steps per lattice vector in which fractional coordinates are stored: 0.002 Å per step in a cell of 20 Å."""


def three_dmol() -> Markup:
    """The JavaScript library that draws the cells, for a script element."""
    script = (ASSETS / "3dmol/3Dmol-min.js").read_text(encoding="utf-8")
    assert "</script" not in script
    return Markup(script)


def three_dmol_licence() -> str:
    """The licence of 3Dmol.js, which must accompany it."""
    return (ASSETS / "3dmol/LICENSE").read_text(encoding="utf-8")


def packed(content: Any) -> Markup:
    """The content as JSON, deflated and in base64, as `unpack` in report.js reads it."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(base64.b64encode(zlib.compress(text.encode(), 9)).decode())


def encode_species(species: Iterable[str]) -> str:
    """The elements as a string with one character per site."""
    return "".join(chr(FIRST_CHARACTER + ACTION[element]) for element in species)


def viewer_data(
    evaluation: Sequence[Mapping[str, Any]],
    crystals: Sequence[Mapping[str, Any]],
    outcomes: Iterable[Mapping[str, Any]],
    protocol: Protocol,
    family: Family,
) -> dict[str, Any]:
    """Cells, designs and SCFs for `viewer.js`.

    Args:
        evaluation: rows of `EVALUATION`, in the order of the report's list of designs.
        crystals: rows of `CRYSTALS`, of the data set and of external sets.
        outcomes: rows of `SCF_OUTCOMES` of the designs.
        protocol, family: protocol and pseudopotential family of the designs' SCFs.

    Returns:
        `elements`: symbols, covalent radii (Å) and cutoffs (Ry), by action. `bonds`: see `cells.bonds`. `skeletons`: lists with one entry per
        skeleton: id, lattice (9, Å), coordinates (3 per site, in 1/COORDINATE_STEPS), true species (null where the crystal is the design itself),
        space group, k mesh. `designs`: lists with one entry per design: index of the skeleton and of the SCF (null where there is none), species.
        `scfs`: lists with one entry per SCF; a text is given by its index in `texts`.
    """
    wanted = {row["material_id"]: None for row in evaluation}
    compared = {row["material_id"] for row in evaluation if row["true_formula"] is not None}
    skeletons = {row["material_id"]: row for row in crystals if row["material_id"] in wanted}
    numbers = {material_id: number for number, material_id in enumerate(skeletons)}
    scfs = _Scfs(outcomes)
    return {
        "elements": {
            "symbols": list(ELEMENTS),
            "cutoffs": [_cutoffs(element, protocol, family) for element in ELEMENTS],
            "metals": [is_metal(element) for element in ELEMENTS],
            "radii": [covalent_radius(element) for element in ELEMENTS],
        },
        "bonds": {"reach": BOND_REACH, "least": BOND_LEAST},
        "coordinate_steps": COORDINATE_STEPS,
        "first_character": FIRST_CHARACTER,
        "skeletons": {
            "id": list(skeletons),
            "lattice": [[round(x, 4) for x in row["lattice"]] for row in skeletons.values()],
            "coordinates": [
                [round(x * COORDINATE_STEPS) % COORDINATE_STEPS for x in row["frac_coords"]]
                for row in skeletons.values()
            ],
            "species": [
                encode_species(row["species"]) if row["material_id"] in compared else None for row in skeletons.values()
            ],
            "spacegroup": [row["spacegroup_number"] for row in skeletons.values()],
            "mesh": [" × ".join(map(str, mesh_of(Cell.from_row(row), protocol.kpoints))) for row in skeletons.values()],
        },
        "designs": {
            "skeleton": [numbers.get(row["material_id"]) for row in evaluation],
            "species": [encode_species(row["species"]) for row in evaluation],
            "scf": [scfs.number.get(row["request_id"]) for row in evaluation],
        },
        "scfs": scfs.columns,
        "texts": list(scfs.texts),
        "settings": _settings(protocol),
    }


class _Scfs:
    """SCF outcomes as columns, with every text stored once."""

    def __init__(self, outcomes: Iterable[Mapping[str, Any]]) -> None:
        self.texts: dict[str, int] = {}
        self.number: dict[str | None, int] = {}
        self.columns: dict[str, list[Any]] = {
            name: [] for name in ("origin", "engine", "energy_ry", "nspin", "magnetization", "wall_s", "attempts")
        }
        for row in outcomes:
            if row["kind"] != "design":
                continue
            self.number[row["request_id"]] = len(self.number)
            origin = [row[name] for name in ("protocol", "protocol_hash", "family")]
            values = {
                "origin": self._text(" ".join(part for part in origin if part)),
                "engine": self._text(row["engine"] or ""),
                "energy_ry": row["total_energy_ry"],
                "nspin": row["nspin"],
                "magnetization": row["tot_magnetization"],
                "wall_s": round(row["wall_s"], 1),
                "attempts": [self._attempt(attempt) for attempt in row["attempts"] or ()],
            }
            for name, value in values.items():
                self.columns[name].append(value)

    def _text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def _attempt(self, attempt: Mapping[str, Any]) -> list[Any]:
        texts = [self._text(attempt[name]) for name in ("strategy", "outcome", "detail")]
        return [
            *texts,
            attempt["nspin"],
            attempt["tot_magnetization"],
            attempt["exit_code"],
            round(attempt["wall_s"], 1),
            attempt["key"][:KEY_DIGITS],
        ]


def _cutoffs(element: str, protocol: Protocol, family: Family) -> tuple[float, float] | None:
    return None if family.missing([element]) else protocol.cutoffs_ry(family, [element])


def _settings(protocol: Protocol) -> list[tuple[str, str]]:
    """Name and text of the settings that all SCFs of designs share; the names are those of pw.x."""
    return [
        ("nbnd", f"{protocol.nbnd}" if protocol.nbnd else f"occupied + {protocol.extra_bands}"),
        ("occupations", protocol.occupations),
        ("conv_thr", f"{protocol.conv_thr_ry:g} Ry"),
        ("electron_maxstep", f"{protocol.electron_maxstep}"),
        ("mixing_beta", f"{protocol.mixing_beta:g}"),
        ("diagonalization", protocol.diagonalization),
    ]
