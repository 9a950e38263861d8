"""CrystalNN neighbours with the paper's settings, as pymatgen finds them but several times faster.

`CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)` weighs the faces of a site's Voronoi cell by their solid
angle, rounds the weights to 3 decimals and takes the most likely coordination number (Pan et al., Inorg. Chem. 2021, 60, 1590). pymatgen
spends its time on a tessellation of all atoms within 7 Å and on face volumes and adjacencies that these settings never use.
Here the tessellation is limited to the nearest atoms if that provably gives the same cell, and solid angles are one array operation.
If rounding could make a difference, pymatgen's own arithmetic decides, so that the neighbours are the same in every case.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymatgen.analysis.local_env import CrystalNN, solid_angle
from pymatgen.core.structure import Structure
from scipy.spatial import QhullError, Voronoi

Neighbor = tuple[int, tuple[int, int, int]]
"""Site of a neighbour, and the lattice translations of its cell."""

SEARCH_RADIUS = 7.0
"""Radius in Å: `search_cutoff` of CrystalNN."""
RADII = (4.5, 6.0, SEARCH_RADIUS)
"""Radii in Å that are tried in turn; the smaller ones suffice for nine of ten sites of MP-20."""
DEGENERATE_VOLUME = 1e-6
"""Volume in Å³ below which the triangle of a Voronoi face and the centre are degenerate: rounding then decides pymatgen's solid angle."""
ROUNDING_MARGIN = 1e-6
"""Distance from one half, in units of the third decimal of a weight, below which rounding decides."""

_Array = NDArray[np.float64]


@functools.cache
def crystal_nn() -> Any:
    """pymatgen's CrystalNN with the paper's settings."""
    return CrystalNN(distance_cutoffs=None, x_diff_weight=-1, porous_adjustment=False)  # type: ignore[no-untyped-call]


def find_neighbors(structure: Structure, site: int) -> set[Neighbor]:
    """The neighbours of a site.

    Raises:
        RuntimeError, ValueError: CrystalNN finds none, e.g. because the atoms are too far apart.
    """
    for radius in RADII:
        if (neighbors := _voronoi_neighbors(structure, site, radius)) is not None:
            return neighbors
    return {_neighbor(entry["site_index"], entry["image"]) for entry in crystal_nn().get_nn_info(structure, site)}


def _neighbor(site: Any, image: Any) -> Neighbor:
    x, y, z = (int(translation) for translation in image)
    return int(site), (x, y, z)


def _voronoi_neighbors(structure: Structure, site: int, radius: float) -> set[Neighbor] | None:
    """The neighbours according to the atoms within `radius`, or None if these do not suffice."""
    lattice = structure.lattice
    center = structure[site].coords
    found: Any = lattice.get_points_in_sphere(structure.frac_coords, center, radius, zip_results=False)
    frac_coords, distances, indices, images = found
    order = np.argsort(distances, kind="stable")
    # One by one as pymatgen does it: a product of matrices differs in the last bits, and degenerate tessellations with it.
    points = np.array([lattice.get_cartesian_coords(x) for x in frac_coords[order]])
    try:
        voronoi = Voronoi(points)
    except (QhullError, ValueError):
        return None
    faces: list[list[int]] = []
    others: list[int] = []
    for pair, face in zip(voronoi.ridge_points.tolist(), voronoi.ridge_vertices, strict=True):
        if 0 in pair:  # The centre is the first point.
            if -1 in face:
                return None
            faces.append(face)
            others.append(sum(pair))
    if not faces:
        return None
    vertices: _Array = voronoi.vertices - center
    used = sorted(set(itertools.chain.from_iterable(faces)))
    reach = 2 * np.sqrt((vertices[used] ** 2).sum(axis=1).max())
    # An atom beyond twice the farthest vertex cannot cut the cell; pymatgen itself never looks beyond SEARCH_RADIUS.
    if radius < SEARCH_RADIUS and reach > radius - 1e-3:
        return None
    if (angles := _solid_angles(vertices, faces)) is None:
        if radius < SEARCH_RADIUS:
            return None
        angles = np.array([solid_angle(center, voronoi.vertices[face]) for face in faces])  # type: ignore[no-untyped-call]
    thousandths = angles / angles.max() * 1000
    if (np.abs(thousandths - np.floor(thousandths) - 0.5) < ROUNDING_MARGIN).any():
        return None
    weights = np.rint(thousandths)
    if (least := _least_weight(weights)) is None:
        return None
    return {_neighbor(indices[k], images[k]) for k in order[np.array(others)[weights >= least]]}


def _solid_angles(vertices: _Array, faces: list[list[int]]) -> _Array | None:
    """Solid angle of each face seen from the origin, as a fan of triangles (Van Oosterom & Strackee 1983); None if one is degenerate."""
    starts: list[int] = []
    corners: list[tuple[int, int, int]] = []
    for face in faces:
        starts.append(len(corners))
        corners += [(face[0], u, v) for u, v in itertools.pairwise(face[1:])]
    a, b, c = (vertices[list(column)] for column in zip(*corners, strict=True))
    volume = np.abs((a * np.cross(b, c)).sum(axis=1))
    if volume.min() < DEGENERATE_VOLUME:
        return None
    length_a, length_b, length_c = (np.sqrt((v * v).sum(axis=1)) for v in (a, b, c))
    denominator = (
        length_a * length_b * length_c
        + length_c * (a * b).sum(axis=1)
        + length_b * (a * c).sum(axis=1)
        + length_a * (b * c).sum(axis=1)
    )
    angles: _Array = np.add.reduceat(2 * np.arctan2(volume, denominator), starts)
    return angles


def _least_weight(weights: _Array) -> float | None:
    """The least weight (in thousandths) that the most likely coordination number includes; None if two are equally likely.

    The probability of a coordination number is the area of a quarter circle between its least weight and the next smaller one.
    """
    distinct = np.unique(weights[weights > 0])[::-1]
    x = distinct / 1000
    areas = x * np.sqrt(1 - x**2) + np.arcsin(x)
    steps = areas - np.append(areas[1:], 0.0)
    best = np.argmax(steps)
    return None if (np.delete(steps, best) > steps[best] - 1e-9).any() else float(distinct[best])
