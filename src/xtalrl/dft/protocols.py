"""DFT protocols: every choice that changes an energy, as YAML data.

Energies of different protocols never mix: `Protocol.digest` goes into every result, and formation energies are refused where
the digests of a crystal and its references differ (`xtalrl.energies`).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from ase.data import atomic_numbers
from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from xtalrl.dft.pseudopotentials import Described, Family
from xtalrl.errors import XtalrlError
from xtalrl.resources import RESOURCES
from xtalrl.yaml_files import read_mapping

PROTOCOLS = RESOURCES / "protocols"

CONFIRMING = "confirm:"
"""Prefix of a protocol's name: `confirm:NAME` is the finer protocol that checks the gaps of NAME."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Mesh = tuple[Count, Count, Count]


def _known_element(symbol: str) -> str:
    if symbol not in atomic_numbers:
        raise ValueError(f"{symbol!r} is not an element")
    return symbol


Element = Annotated[str, AfterValidator(_known_element)]


class AtomSettings(Described):
    """One atom in a cubic box: the reference of an element without an elemental crystal."""

    box_angstrom: Positive
    kpoints: Mesh | None = Field(None, description="three whole numbers, a mesh without offset; null: the gamma point")
    starting_magnetization: Fraction
    elements: tuple[Element, ...] = Field((), description="elements that are computed so although they have a crystal")


class ReferenceSettings(Described):
    """Settings in which elemental references differ from crystals with a gap; all others are the same."""

    smearing: Literal["marzari-vanderbilt", "gaussian", "methfessel-paxton"]
    degauss_ry: Positive
    kpoints: Mesh | Positive = Field(
        description="three whole numbers, a mesh without offset, or the largest distance of k points in 1/Å, 2π included"
    )
    insulators: tuple[Element, ...] = Field(
        description="elements whose crystals have a gap: computed on the k points of crystals"
    )
    starting_magnetization: dict[Element, Fraction] = Field(
        description="elements whose crystals are computed with nspin 2, each with a number from 0 to 1"
    )
    atom: AtomSettings


class Protocol(Described):
    """The settings of every SCF of a run; the names are those of pw.x's input where pw.x has one."""

    name: str
    description: str
    ecutwfc_ry: Positive | Literal["family"] = Field(
        description="a number of Ry, or `family`: the family's, the largest of the cell's species"
    )
    ecutrho_ry: Positive | Literal["family"] = Field(description="a number of Ry, or `family`, as `ecutwfc_ry`")
    nbnd: int | None = Field(None, ge=1, description="bands of every cell, whatever it holds")
    extra_bands: int | None = Field(None, ge=1, description="bands beyond the occupied ones, instead of nbnd")
    kpoints: Mesh | Positive = Field(
        description="three whole numbers, a mesh without offset, or the largest distance of k points in 1/Å, 2π included"
    )
    occupations: Literal["fixed"]
    conv_thr_ry: Positive
    electron_maxstep: int = Field(ge=1)
    mixing_beta: float = Field(gt=0, le=1)
    diagonalization: Literal["david", "cg", "paro"]
    references: ReferenceSettings

    @model_validator(mode="after")
    def _bands(self) -> Protocol:
        if (self.nbnd is None) == (self.extra_bands is None):
            raise ValueError("give `nbnd` or `extra_bands`, and one of them only")
        if (self.ecutwfc_ry == "family") != (self.ecutrho_ry == "family"):
            raise ValueError("`ecutwfc_ry` and `ecutrho_ry` are both numbers or both `family`")
        wfc, rho = self.ecutwfc_ry, self.ecutrho_ry
        if (
            not isinstance(wfc, str) and not isinstance(rho, str) and rho < 4 * wfc
        ):  # |ψ|² has twice the wave vectors of ψ.
            raise ValueError(f"`ecutrho_ry` is {rho:g}: at least 4 times `ecutwfc_ry` is needed")
        return self

    def cutoffs_ry(self, family: Family, species: list[str]) -> tuple[float, float]:
        """ecutwfc and ecutrho in Ry of a cell of these species."""
        pseudos = [family.elements[element] for element in set(species)]
        wfc, rho = self.ecutwfc_ry, self.ecutrho_ry
        return (
            max(p.ecutwfc_ry for p in pseudos) if isinstance(wfc, str) else wfc,
            max(p.ecutrho_ry for p in pseudos) if isinstance(rho, str) else rho,
        )

    def confirming(self) -> Protocol:
        """This protocol with twice as many k points along each axis and the family's recommended cutoffs, to check a gap."""
        kpoints = (
            (2 * self.kpoints[0], 2 * self.kpoints[1], 2 * self.kpoints[2])
            if isinstance(self.kpoints, tuple)
            else self.kpoints / 2
        )
        return self.model_copy(
            update={
                "name": CONFIRMING + self.name,
                "description": f"{self.name} on a doubled k mesh, at the family's recommended cutoffs.",
                "ecutwfc_ry": "family",
                "ecutrho_ry": "family",
                "kpoints": kpoints,
            }
        )

    def digest(self, family: Family) -> str:
        """SHA-256 of the physics of the protocol and the family: energies with one digest may be compared."""
        # Without defaults: a key that comes later must not part the results of before from those of after.
        physics = self.model_dump(mode="json", exclude={"name", "description"}, exclude_defaults=True)
        return hashlib.sha256(json.dumps([physics, family.digest], sort_keys=True).encode()).hexdigest()


def known_protocols() -> list[str]:
    """Names of the protocols in `resources/protocols`."""
    return sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))


def load_protocol(name: str) -> Protocol:
    """Read `resources/protocols/<name>.yaml`, or a file of that form at the path `name`; `confirm:<name>` is `confirming` of it.

    Raises:
        XtalrlError: there is none, a key is unknown or missing, or a value is not allowed.
    """
    if name.startswith(CONFIRMING):
        return load_protocol(name.removeprefix(CONFIRMING)).confirming()
    path = Path(name) if name.endswith((".yaml", ".yml")) else PROTOCOLS / f"{name}.yaml"
    if not path.is_file():
        raise XtalrlError(
            f"The protocol {name!r} is not known; there are: {', '.join(known_protocols())}. "
            f"`dft.protocol` may also be the path of a YAML file of yours; start from a copy of one in {PROTOCOLS}."
        )
    content = read_mapping(path, "protocol")
    try:
        return Protocol.model_validate({"name": path.stem} | content)
    except ValidationError as error:
        sentences = dict.fromkeys(_sentence(item, content) for item in error.errors())
        raise XtalrlError(f"{path} is not a valid protocol:\n  " + "\n  ".join(sentences)) from None


def _sentence(item: Any, content: dict[str, Any]) -> str:
    """A sentence on what is wrong with one key and which values are allowed."""
    message = str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "it must be")
    model: Any = Protocol
    names: list[str] = []
    value: Any = content
    field = None
    for part in item["loc"]:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            field = model.model_fields[part]
            names.append(part)
            value = value.get(part) if isinstance(value, dict) else None
            model = field.annotation
    name = ".".join(names)
    if item["type"] == "extra_forbidden":
        allowed = model.model_fields if names else Protocol.model_fields
        return f"`{'.'.join((*names, str(item['loc'][-1])))}` is not a known key; allowed here: {', '.join(allowed)}"
    if item["type"] == "missing" and item["loc"][-1] == names[-1]:
        return f"`{name}` is missing" + (f": {field.description}" if field and field.description else "")
    if not names:
        return message
    if item["type"] != "value_error" and len(item["loc"]) > len(names) and field and field.description:
        message = f"it must be {field.description}"
    return f"`{name}` is {value!r}: {message[0].lower()}{message[1:]}"
