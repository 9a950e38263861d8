"""References as the paper's authors computed them: our energies against those that their formation energies imply."""

from __future__ import annotations

import csv
import shutil
import tarfile
from pathlib import Path

import pytest
from dft_data import SHARED, needs_shared, sssp
from test_dft_engines import fetched_cache, needs_embedded

from xtalrl.dft.engines import find_engine
from xtalrl.dft.inputs import Cell, Form, render, settings_for
from xtalrl.dft.outcomes import classify
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.requests import _atom_in_box, form_of
from xtalrl.energies import RYDBERG_EV_PAPER

PAPER_FAST = load_protocol("paper-fast")

# Cells of the Materials Project (CC-BY-4.0).
NEON = Cell(
    ("Ne",), (2.56891323, 1e-8, 1.48316277, 0.85630442, 2.42199625, 1.48316277, 2e-8, 1e-8, 2.96632748), (0, 0, 0)
)
BERYLLIUM = Cell(
    ("Be",) * 4,
    (3.57410246, 0, 0, 0, 3.92001285, 0, 0, 0, 2.26946274),
    (
        *(0.75000846, 0.33304792, 0.24982156, 0.24999154, 0.66695208, 0.24982156),
        *(0.25000846, 0.16695208, 0.75017844, 0.74999154, 0.83304792, 0.75017844),
    ),
)


def difference_ev(cell: Cell, folder: Path) -> float:
    """Ours minus released, per atom."""
    element = cell.species[0]
    file = sssp().elements[element].file
    with tarfile.open(SHARED / "sssp" / "SSSP_1.3.0_PBE_efficiency.tar.gz") as archive:
        source = archive.extractfile(f"./{file}")
        assert source is not None
        with open(folder / file, "wb") as target:
            shutil.copyfileobj(source, target)
    with open(SHARED / "qe_labels" / "elemental_reference_energies.csv", newline="") as table:
        released = {row["symbol"]: float(row["mu_Ry_per_atom"]) for row in csv.DictReader(table)}
    form = form_of("reference", cell, PAPER_FAST)
    cache = fetched_cache()
    assert cache is not None
    text = render(cell, settings_for(cell, form, PAPER_FAST, sssp()), sssp())
    result = classify(find_engine(None, cache).run(text, folder, 300))
    assert result.total_energy_ry is not None
    return (result.total_energy_ry / len(cell.species) - released[element]) * RYDBERG_EV_PAPER


@needs_shared
@needs_embedded
def test_the_released_energy_of_neon(tmp_path: Path) -> None:
    """One of 1 s: MP-20's crystal of it, 8 % larger, is off by 4 meV."""
    assert difference_ev(NEON, tmp_path) == pytest.approx(0, abs=2e-4)


@needs_shared
@needs_embedded
@pytest.mark.slow
def test_the_released_energy_of_beryllium_is_that_of_a_cell_that_is_not_primitive(tmp_path: Path) -> None:
    assert difference_ev(BERYLLIUM, tmp_path) == pytest.approx(0, abs=2e-4)


@needs_shared
@needs_embedded
@pytest.mark.slow
def test_the_released_energy_of_phosphorus_is_that_of_an_atom_in_10_bohr(tmp_path: Path) -> None:
    assert difference_ev(_atom_in_box("P", PAPER_FAST), tmp_path) == pytest.approx(0, abs=2e-4)


@pytest.mark.parametrize(
    ("name", "mesh"), [("paper", (3, 3, 3)), ("paper-fast", (3, 3, 3)), ("sssp", None), ("demo", None)]
)
def test_the_k_points_of_an_atom_are_the_protocols(name: str, mesh: tuple[int, int, int] | None) -> None:
    protocol = load_protocol(name)
    cell = _atom_in_box("P", protocol)
    form: Form = form_of("reference", cell, protocol)
    assert (form, settings_for(cell, form, protocol, sssp()).kpoints) == ("atom", mesh)
