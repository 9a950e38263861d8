"""Inputs of pw.x, for versions 6.7 to 7.x: what is to be computed, its key, and its text."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import spglib
from ase.data import atomic_masses, atomic_numbers

from xtalrl.cells import Cell
from xtalrl.dft.protocols import Mesh, Protocol
from xtalrl.dft.pseudopotentials import Family

BOHR_ANGSTROM = 0.529177210903
"""CODATA 2018."""

PLANE_WAVES_PER_BAND = 2.5
"""Smallest number of plane waves per band. Davidson works with two vectors per band: with fewer than two plane waves per band, pw.x stops with
`more bands than PWs!`; with only a few more it ends with `S matrix not positive definite` or even `charge is wrong` (measured on diamond
and LiF: 2.0 fails, 2.5 and above give the energy of few bands)."""

PREFIX = "pw"
XML = f"out/{PREFIX}.save/data-file-schema.xml"
"""Where pw.x leaves its XML, relative to the folder it runs in."""

Form = Literal["crystal", "elemental", "atom"]
"""What a cell is: a crystal or design, the crystal of an element, or one atom in a box."""


@dataclass(frozen=True)
class Settings:
    """Everything in a pw.x input that changes its result, beside the cell and the pseudopotentials."""

    ecutwfc_ry: float
    ecutrho_ry: float
    kpoints: Mesh | None
    """Mesh of k points; None means the gamma point with real wavefunctions."""
    nbnd: int | None
    """Number of bands; None means as many as pw.x takes for smearing."""
    conv_thr_ry: float
    electron_maxstep: int
    mixing_beta: float
    diagonalization: str
    smearing: str | None = None
    """Kind of smearing; None means fixed occupations."""
    degauss_ry: float | None = None
    nspin: int = 1
    tot_magnetization: float | None = None
    """Imposed total magnetization in µB."""
    starting_magnetization: float | None = None
    """Starting magnetization of every species, -1 to 1."""
    site_magnetization: tuple[float, ...] | None = None
    """Starting magnetization of each site, -1 to 1; sites of one element that start differently become separate species."""

    def physics(self) -> dict[str, Any]:
        """Plain data for keys. `site_magnetization` is left out if it is not set, as in keys from before it existed."""
        settings = asdict(self)
        if self.site_magnetization is None:
            del settings["site_magnetization"]
        else:
            settings["site_magnetization"] = list(self.site_magnetization)
        return settings


def settings_for(cell: Cell, form: Form, protocol: Protocol, family: Family) -> Settings:
    """The settings a protocol gives to a cell, without spin unless it is a magnetic reference."""
    species = list(cell.species)
    ecutwfc, ecutrho = protocol.cutoffs_ry(family, species)
    common = Settings(
        ecutwfc_ry=ecutwfc,
        ecutrho_ry=ecutrho,
        kpoints=mesh_of(cell, protocol.kpoints),
        nbnd=None,
        conv_thr_ry=protocol.conv_thr_ry,
        electron_maxstep=protocol.electron_maxstep,
        mixing_beta=protocol.mixing_beta,
        diagonalization=protocol.diagonalization,
    )
    if form == "crystal":
        return replace(common, nbnd=number_of_bands(cell, protocol, family, ecutwfc))
    references = protocol.references
    moment = (
        references.atom.starting_magnetization
        if form == "atom"
        else references.starting_magnetization.get(species[0], 0)
    )
    return replace(
        common,
        kpoints=references.atom.kpoints
        if form == "atom"
        else common.kpoints
        if species[0] in references.insulators
        else mesh_of(cell, references.kpoints),
        smearing=references.smearing,
        degauss_ry=references.degauss_ry,
        nspin=2 if moment else 1,
        starting_magnetization=moment or None,
    )


def number_of_bands(
    cell: Cell, protocol: Protocol, family: Family, ecutwfc_ry: float, tot_magnetization: float = 0.0
) -> int:
    """Number of bands of a run with fixed occupations: the protocol's, but at least one empty band, and no more than the basis of the cell allows.

    With a total magnetization M the larger spin channel fills (N + |M|)/2 bands.
    """
    electrons = family.n_electrons(cell.species)
    occupied = math.ceil((electrons + abs(tot_magnetization)) / 2)
    wanted = occupied + protocol.extra_bands if protocol.extra_bands else max(protocol.nbnd or 0, occupied + 1)
    typical = cell.volume / BOHR_ANGSTROM**3 * ecutwfc_ry**1.5 / (6 * math.pi**2)
    if wanted < typical / (2 * PLANE_WAVES_PER_BAND):
        return wanted  # Counting the plane waves of a large cell takes longer than it is worth.
    return max(
        min(wanted, int(fewest_plane_waves(cell, ecutwfc_ry, mesh_of(cell, protocol.kpoints)) / PLANE_WAVES_PER_BAND)),
        occupied,
    )


def fewest_plane_waves(cell: Cell, ecutwfc_ry: float, mesh: Mesh) -> int:
    """Plane waves |k + G|² < ecutwfc at the k point of the mesh (without offset) that has the fewest."""
    reciprocal = cell.reciprocal * BOHR_ANGSTROM
    radius = math.sqrt(ecutwfc_ry)
    lattice = cell.vectors / BOHR_ANGSTROM
    reach = [math.ceil(radius * float(np.linalg.norm(row)) / (2 * np.pi)) + 1 for row in lattice]
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), axis=-1).reshape(-1, 3)
    fewest = len(grid)
    for k in np.ndindex(*mesh):
        waves = (grid + np.array(k) / mesh) @ reciprocal
        fewest = min(fewest, int(((waves**2).sum(axis=1) < ecutwfc_ry).sum()))
    return fewest


def mesh_of(cell: Cell, kpoints: Mesh | float) -> Mesh:
    """The given mesh, or the smallest one whose k points are at most this far apart (1/Å, 2π included) along each reciprocal vector."""
    if isinstance(kpoints, tuple):
        return kpoints
    a, b, c = (max(1, math.ceil(float(length) / kpoints - 1e-6)) for length in np.linalg.norm(cell.reciprocal, axis=1))
    return a, b, c


def standard_orientation(cell: Cell) -> list[tuple[float, float, float]]:
    """The lattice vectors, turned as a whole so that the axes of symmetry lie along x, y and z.

    pw.x looks for rotations about these axes only (`set_sym_bl`): in the orientation of a Niggli cell it misses most of them and takes
    several times as many k points, to the same energy. Fractional coordinates and k mesh stay as they are.
    """
    lattice = cell.vectors
    numbers = [atomic_numbers[element] for element in cell.species]
    crystal = (lattice.tolist(), cell.positions.tolist(), numbers)
    try:
        dataset = spglib.get_symmetry_dataset(crystal, symprec=0.01)
    except spglib.SpglibError:
        dataset = None  # Atoms on one place, say: no orientation is better than another.
    if dataset is not None:
        lattice = lattice @ dataset.std_rotation_matrix.T
    return [(float(a), float(b), float(c)) for a, b, c in lattice]


def calculation(cell: Cell, settings: dict[str, Any], family: Family) -> dict[str, Any]:
    """All that a result depends on, as plain data: species, cell and positions (to 1e-8), settings, md5 of each pseudopotential.

    An element that the family lacks has an empty md5; such a calculation cannot be run.
    """
    return {
        "species": list(cell.species),
        "lattice": _rounded(cell.lattice),
        "frac_coords": [x % 1.0 for x in _rounded(cell.frac_coords)],
        "settings": settings,
        "pseudopotential_md5s": {
            element: family.elements[element].md5 if element in family.elements else ""
            for element in sorted(set(cell.species))
        },
    }


def key_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a `calculation`: the name of its result."""
    parts = [content[name] for name in ("species", "lattice", "frac_coords", "settings", "pseudopotential_md5s")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def physics_key(cell: Cell, settings: dict[str, Any], family: Family) -> str:
    """`key_of` a `calculation`."""
    return key_of(calculation(cell, settings, family))


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, 8) + 0.0 for value in values]


def render(
    cell: Cell, settings: Settings, family: Family, max_seconds: int | None = None, restart: bool = False
) -> str:
    """The text of a pw.x input; every path in it is relative to the folder pw.x runs in.

    Args:
        max_seconds: wall time after which pw.x saves its state and stops.
        restart: go on from the state in `out/`.
    """
    s = settings
    labels = _species_labels(cell, s)
    starts = dict(zip(labels, s.site_magnetization or (s.starting_magnetization,) * len(labels), strict=True))
    elements = dict(zip(labels, cell.species, strict=True))
    control: dict[str, Any] = {
        "calculation": "scf",
        "prefix": PREFIX,
        "outdir": "./out",
        "pseudo_dir": "./",
        "verbosity": "low",
        # 6.7 writes no XML with 'none' or 'nowf'.
        "disk_io": "low",
    }
    if max_seconds is not None:
        control["max_seconds"] = float(max_seconds)
    if restart:
        control["restart_mode"] = "restart"
    system: dict[str, Any] = {
        "ibrav": 0,
        "nat": len(cell.species),
        "ntyp": len(elements),
        "ecutwfc": s.ecutwfc_ry,
        "ecutrho": s.ecutrho_ry,
        "occupations": "smearing" if s.smearing else "fixed",
    }
    if s.nbnd is not None:
        system["nbnd"] = s.nbnd
    if s.smearing:
        system |= {"smearing": s.smearing, "degauss": s.degauss_ry}
    if s.nspin == 2:
        system["nspin"] = 2
        if s.tot_magnetization is not None:
            system["tot_magnetization"] = s.tot_magnetization
        system |= {f"starting_magnetization({i})": m for i, m in enumerate(starts.values(), 1) if m is not None}
    electrons = {
        "conv_thr": s.conv_thr_ry,
        "electron_maxstep": s.electron_maxstep,
        "mixing_beta": s.mixing_beta,
        "diagonalization": s.diagonalization,
    }
    lines = [
        line
        for name, values in (("CONTROL", control), ("SYSTEM", system), ("ELECTRONS", electrons))
        for line in _namelist(name, values)
    ]
    lines.append("ATOMIC_SPECIES")
    lines += [
        f"{name} {atomic_masses[atomic_numbers[e]]:.4f} {family.elements[e].file}" for name, e in elements.items()
    ]
    lines.append("CELL_PARAMETERS angstrom")
    lines += [_numbers(vector) for vector in standard_orientation(cell)]
    lines.append("ATOMIC_POSITIONS crystal")
    lines += [f"{name} {_numbers(cell.frac_coords[3 * i : 3 * i + 3])}" for i, name in enumerate(labels)]
    lines += (
        ["K_POINTS gamma"] if s.kpoints is None else ["K_POINTS automatic", " ".join(map(str, s.kpoints)) + " 0 0 0"]
    )
    return "\n".join(lines) + "\n"


def _species_labels(cell: Cell, settings: Settings) -> list[str]:
    """The species of each site: its element, with a number where sites of the element start with different magnetizations."""
    if settings.site_magnetization is None:
        return list(cell.species)
    starts: dict[str, list[float]] = {}
    for element, start in zip(cell.species, settings.site_magnetization, strict=True):
        if start not in starts.setdefault(element, []):
            starts[element].append(start)
    return [
        element if len(starts[element]) == 1 else f"{element}{starts[element].index(start) + 1}"
        for element, start in zip(cell.species, settings.site_magnetization, strict=True)
    ]


def _namelist(name: str, values: dict[str, Any]) -> list[str]:
    return [f"&{name}", *(f"  {key} = {_fortran(value)}" for key, value in values.items()), "/"]


def _fortran(value: object) -> str:
    if isinstance(value, str):
        return f"'{value}'"
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.10f}" for value in values)
