"""Formation energies: all published ones from the published total energies, and no mixing of protocols."""

from __future__ import annotations

import csv
import gzip
from typing import Any

import pytest
from dft_data import SHARED, needs_shared
from hypothesis import given
from hypothesis import strategies as st

from xtalrl.dft.references import reference_rows
from xtalrl.energies import RYDBERG_EV_PAPER, ReferenceTable, formation_energy_per_atom
from xtalrl.errors import XtalrlError


def reference(element: str, energy_ry: float | None, protocol: str = "paper", family: str = "sssp") -> dict[str, Any]:
    return {
        "element": element,
        "energy_per_atom_ry": energy_ry,
        "outcome": "converged" if energy_ry is not None else "not_converged",
        "protocol": protocol,
        "protocol_hash": f"hash of {protocol}",
        "family": family,
    }


def crystal(energy_ry: float | None, *species: str, protocol: str = "paper", family: str = "sssp") -> dict[str, Any]:
    return reference("X", 0, protocol, family) | {"total_energy_ry": energy_ry, "species": species}


@needs_shared
def test_all_published_formation_energies() -> None:
    """8,813 crystals of the paper's training set, from its total and reference energies, to 1e-6 eV/atom."""
    from pymatgen.core.structure import Structure

    with open(SHARED / "qe_labels" / "elemental_reference_energies.csv") as file:
        references = {row["symbol"]: float(row["mu_Ry_per_atom"]) for row in csv.DictReader(file)}
    with open(SHARED / "qe_labels" / "train.csv") as file:
        published = {row["material_id"]: row for row in csv.DictReader(file)}
    with gzip.open(SHARED / "mp20" / "train.csv.gz", "rt") as file:
        cifs = {row["material_id"]: row["cif"] for row in csv.DictReader(file) if row["material_id"] in published}
    assert len(published) == len(cifs) == 8813
    worst = 0.0
    for material_id, row in published.items():
        # The sites of a CIF in P1: symbol, label, multiplicity, three coordinates, occupancy.
        species = [
            words[0] for line in cifs[material_id].splitlines() if len(words := line.split()) == 7 and words[2] == "1"
        ]
        energy = formation_energy_per_atom(float(row["qe_total_energy_Ry"]), species, references)
        worst = max(worst, abs(energy - float(row["qe_formation_energy_eV_atom"])))
    assert worst < 1e-6
    assert {s.specie.symbol for s in Structure.from_str(cifs["mp-1188861"], fmt="cif")} <= set(references)


@given(st.lists(st.sampled_from(["Na", "Cl", "Si"]), min_size=1, max_size=20), st.floats(-100, 100))
def test_a_crystal_made_of_its_references_has_no_formation_energy(species: list[str], excess: float) -> None:
    energies = {"Na": -95.0, "Cl": -33.0, "Si": -11.0}
    total = sum(energies[element] for element in species)
    assert formation_energy_per_atom(total, species, energies) == pytest.approx(0, abs=1e-9)
    expected = excess / len(species) * RYDBERG_EV_PAPER
    assert formation_energy_per_atom(total + excess, species, energies) == pytest.approx(expected, abs=1e-9)


def test_protocols_and_families_never_mix() -> None:
    table = ReferenceTable([reference("Na", -95.0), reference("Cl", -33.0)])
    assert table.formation_energy(crystal(-129.0, "Na", "Cl"))[0] == pytest.approx(-0.5 * RYDBERG_EV_PAPER)
    for other in (crystal(-129.0, "Na", "Cl", protocol="paper-fast"), crystal(-129.0, "Na", "Cl", family="dojo")):
        with pytest.raises(XtalrlError, match="never mix"):
            table.formation_energy(other)
    with pytest.raises(XtalrlError, match="paper-fast"):
        ReferenceTable([reference("Na", -95.0), reference("Cl", -33.0, protocol="paper-fast")])


def test_a_missing_reference_is_named_and_nothing_is_invented() -> None:
    table = ReferenceTable([reference("Na", -95.0), reference("Cl", None)])
    assert table.formation_energy(crystal(-129.0, "Na", "Cl", "Br")) == (
        None,
        "no reference energy of Br, Cl (not_converged)",
    )
    assert table.formation_energy(crystal(None, "Na")) == (None, "")
    assert ReferenceTable([]).formation_energy(crystal(-1.0, "Na"))[0] is None


def test_later_references_fill_gaps_and_do_not_undo() -> None:
    table = ReferenceTable([reference("Na", None), reference("Na", -95.0), reference("Na", None)])
    assert table.formation_energy(crystal(-95.0, "Na"))[0] == 0


def test_reference_rows_are_those_of_the_elements() -> None:
    common = {"source": "a book", "detail": "", "protocol": "paper", "protocol_hash": "h", "family": "f"}
    rows = reference_rows(
        [
            {"kind": "design", "species": ["Na"], "total_energy_ry": -1.0, "outcome": "converged", "attempts": []}
            | common,
            {"kind": "reference", "species": ["Na", "Na"], "total_energy_ry": -10.0, "outcome": "converged"}
            | common
            | {"attempts": [{"strategy": "elemental_crystal"}]},
            {"kind": "reference", "species": ["Lu"], "total_energy_ry": -4.0, "outcome": "converged"}
            | common
            | {"attempts": [{"strategy": "isolated_atom"}]},
            {
                "kind": "reference",
                "species": ["Ce"],
                "total_energy_ry": None,
                "outcome": "no_pseudopotential",
                "attempts": [],
            }
            | common,
        ]
    )
    assert [(row["element"], row["form"], row["energy_per_atom_ry"]) for row in rows] == [
        ("Ce", "none", None),
        ("Lu", "atom", -4.0),
        ("Na", "crystal", -5.0),
    ]
    assert rows[2]["energy_per_atom"] == pytest.approx(-5 * RYDBERG_EV_PAPER)
