"""Inputs: one golden text a protocol, plane waves counted as pw.x counts them, keys that follow the physics and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import spglib
from dft_data import SHARED, SILICON, needs_shared, sssp
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from xtalrl.dft.inputs import (
    Cell,
    fewest_plane_waves,
    mesh_of,
    number_of_bands,
    physics_key,
    render,
    settings_for,
    standard_orientation,
)
from xtalrl.dft.protocols import Protocol, known_protocols, load_protocol

GOLDEN = Path(__file__).parent / "fixtures" / "pw_inputs"
BOX = Cell(("O",), (10.0, 0, 0, 0, 10.0, 0, 0, 0, 10.0), (0, 0, 0))
IRON = Cell(("Fe",), (-1.43, 1.43, 1.43, 1.43, -1.43, 1.43, 1.43, 1.43, -1.43), (0, 0, 0))


@pytest.mark.parametrize("name", known_protocols())
def test_the_golden_inputs(name: str) -> None:
    """Read by a person when they change: `paper` is what appendix A.1.6 lists."""
    protocol, family = load_protocol(name), sssp()
    texts = [
        render(cell, settings_for(cell, form, protocol, family), family)
        for cell, form in ((SILICON, "crystal"), (IRON, "elemental"), (BOX, "atom"))
    ]
    assert "\n".join(texts) == (GOLDEN / f"{name}.in").read_text()


def test_turning_a_cell_changes_no_length_and_no_angle() -> None:
    turned = np.array(standard_orientation(SILICON))
    as_given = np.reshape(SILICON.lattice, (3, 3))
    assert turned @ turned.T == pytest.approx(as_given @ as_given.T, abs=1e-8)
    assert np.linalg.det(turned) == pytest.approx(np.linalg.det(as_given))


@given(angles=st.tuples(*[st.floats(0, 360)] * 3))
def test_the_axes_of_symmetry_are_turned_to_x_y_and_z_from_any_orientation(angles: tuple[float, float, float]) -> None:
    """Every rotation of silicon is then a signed permutation of x, y and z: one that pw.x looks for."""
    a = 5.43
    fcc = np.array([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])
    rotated = fcc @ Rotation.from_euler("xyz", angles, degrees=True).as_matrix().T
    cell = Cell(("Si", "Si"), tuple(map(float, rotated.flatten())), (0, 0, 0, 0.25, 0.25, 0.25))
    lattice = np.array(standard_orientation(cell)).T
    rotations = spglib.get_symmetry((lattice.T, np.reshape(cell.frac_coords, (-1, 3)), [14, 14]))["rotations"]
    assert len(rotations) == 48
    for rotation in rotations:
        cartesian = lattice @ rotation @ np.linalg.inv(lattice)
        assert np.abs(cartesian) == pytest.approx(np.abs(cartesian).round(), abs=1e-5)


def test_atoms_on_one_place_are_left_as_they_are() -> None:
    cell = Cell(("Si", "Si"), (5.0, 0, 0, 0, 5.0, 0, 0, 0, 5.0), (0, 0, 0, 0, 0, 0))
    assert np.array(standard_orientation(cell)).flatten() == pytest.approx(cell.lattice)


@needs_shared
@pytest.mark.parametrize("folder", ["40_even_nspin2_totmag0", "02_odd_retry_nspin2_totmag1", "05_even_metal_fixed"])
def test_plane_waves_are_counted_as_pw_counts_them(folder: str) -> None:
    text = (SHARED / "pw_failures" / folder / "pw.in").read_text()
    vectors = re.search(r"CELL_PARAMETERS angstrom\n((?:.*\n){3})", text)
    assert vectors is not None
    lattice = tuple(float(word) for word in vectors[1].split())
    mesh = re.search(r"K_POINTS automatic\n(\d+) (\d+) (\d+)", text)
    assert mesh is not None
    printed = [
        int(n) for n in re.findall(r"\(\s*(\d+) PWs\)", (SHARED / "pw_failures" / folder / "pw.out").read_text())
    ]
    cutoff = float(re.search(r"ecutwfc = (\S+)", text)[1])  # type: ignore[index]
    counted = fewest_plane_waves(Cell(("X",), lattice, (0, 0, 0)), cutoff, tuple(map(int, mesh.groups())))  # type: ignore[arg-type]
    assert counted == min(printed)


def test_bands_of_the_paper_fit_small_and_large_cells() -> None:
    paper, family = load_protocol("paper"), sssp()
    diamond = Cell(("C", "C"), tuple(0.6569 * x for x in SILICON.lattice), SILICON.frac_coords)
    assert number_of_bands(SILICON, paper, family, 30) == 256
    # Measured: 72 bands converge, 90 end in `S matrix not positive definite`, 181 in `more bands than PWs!`.
    assert number_of_bands(diamond, paper, family, 30) == 72
    heavy = Cell(("Pb",) * 20, (12.0, 0, 0, 0, 12.0, 0, 0, 0, 12.0), tuple(np.linspace(0, 0.99, 60)))
    many = Cell(heavy.species * 4, heavy.lattice, heavy.frac_coords * 4)
    assert family.n_electrons(many.species) // 2 == 560
    assert number_of_bands(many, paper, family, 30) == 561


@given(st.integers(0, 6), st.sampled_from([load_protocol(name) for name in known_protocols()]))
def test_there_is_always_an_empty_band_in_each_spin(moment: int, protocol: Protocol) -> None:
    family = sssp()
    bands = number_of_bands(SILICON, protocol, family, 30, moment)
    assert bands >= (family.n_electrons(SILICON.species) + moment) / 2 + 1


def test_meshes_are_as_dense_as_asked() -> None:
    lengths = np.linalg.norm(SILICON.reciprocal, axis=1)
    mesh = mesh_of(SILICON, 0.3)
    assert all(length / n <= 0.3 < length / (n - 1) for length, n in zip(lengths, mesh, strict=True))
    assert mesh_of(BOX, 10.0) == (1, 1, 1)
    assert mesh_of(BOX, (3, 3, 3)) == (3, 3, 3)


def test_the_key_follows_the_physics() -> None:
    family = sssp()
    settings = settings_for(SILICON, "crystal", load_protocol("paper-fast"), family).physics()
    key = physics_key(SILICON, settings, family)
    same = replace(SILICON, frac_coords=(1.0, -1e-12, 0, 0.25, 1.25, -0.75))
    assert physics_key(same, settings, family) == key
    moved = replace(SILICON, frac_coords=(0, 0, 0, 0.25, 0.25, 0.2501))
    strained = replace(SILICON, lattice=tuple(1.0001 * x for x in SILICON.lattice))
    other = replace(SILICON, species=("Si", "Ge"))
    changed = family.model_copy(update={"elements": {"Si": family.elements["Si"].model_copy(update={"md5": "0" * 32})}})
    keys = {physics_key(cell, settings, family) for cell in (moved, strained, other)}
    keys |= {physics_key(SILICON, settings | {"nspin": 2}, family), physics_key(SILICON, settings, changed)}
    assert len(keys | {key}) == 6


def test_keys_are_those_of_the_caches_that_exist() -> None:
    """Written by the version before a start could be given site by site."""
    family = sssp()
    for cell, form, protocol, key in (
        (SILICON, "crystal", "paper-fast", "b20e5b23946b3eb9f15007551ab953642910c3a8fec277da4176974275ab5c87"),
        (IRON, "elemental", "sssp", "6cf3e2b5768a26eee1f35769f87a40406adce66316bc77ef2a7159a1e943965f"),
    ):
        settings = settings_for(cell, form, load_protocol(protocol), family)
        assert physics_key(cell, settings.physics(), family) == key
        antiferromagnetic = replace(settings, site_magnetization=(0.5,) * len(cell.species))
        assert physics_key(cell, antiferromagnetic.physics(), family) != key


def test_sites_of_an_element_that_start_differently_are_species_of_their_own() -> None:
    cell = Cell(("Mn", "O", "Mn", "O"), SILICON.lattice, tuple(x / 8 for x in range(12)))
    settings = settings_for(cell, "crystal", load_protocol("paper-fast"), sssp())
    split = replace(settings, nspin=2, tot_magnetization=0.0, site_magnetization=(0.5, 0.0, -0.5, 0.0))
    text = render(cell, split, sssp())
    assert "ntyp = 3" in text
    assert re.findall(r"starting_magnetization\((\d)\) = (\S+)", text) == [("1", "0.5"), ("2", "0"), ("3", "-0.5")]
    file = sssp().elements["Mn"].file
    assert re.findall(r"^(\w+) [\d.]+ (\S+)$", text, re.M)[::2] == [("Mn1", file), ("Mn2", file)]
    positions = text.partition("ATOMIC_POSITIONS crystal\n")[2].splitlines()[:4]
    assert [line.split()[0] for line in positions] == ["Mn1", "O", "Mn2", "O"]


def test_a_restart_changes_the_text_and_not_the_key() -> None:
    family = sssp()
    settings = settings_for(SILICON, "crystal", load_protocol("paper-fast"), family)
    text = render(SILICON, settings, family, max_seconds=570, restart=True)
    assert "max_seconds = 570" in text
    assert "restart_mode = 'restart'" in text
    assert "max_seconds" not in render(SILICON, settings, family)
