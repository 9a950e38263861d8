"""`xtalrl evaluate`: external crystals through the workflow, beside the policies and alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dft_data import sssp
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from report_data import write_results
from test_structures_external import crystal

from xtalrl import tables
from xtalrl.commands.evaluate import NO_POLICIES, print_result
from xtalrl.config import load, validate
from xtalrl.dft.requests import plan_design_scf
from xtalrl.energies import RYDBERG_EV_PAPER
from xtalrl.metrics.composition import accuracy, assess_designs, exact_match, similarity, validity
from xtalrl.metrics.designs import read_policies
from xtalrl.metrics.evaluation import UNUSABLE_ENTRY, evaluate_designs
from xtalrl.metrics.properties import dft_success, dft_success_of_all
from xtalrl.metrics.scoring import Scoring
from xtalrl.provenance import write_record
from xtalrl.structures.external import import_designs

ATTEMPT = {
    "number": 1, "strategy": "plain", "outcome": "converged", "detail": "", "nspin": 1, "tot_magnetization": None,
    "exit_code": 0, "wall_s": 1.0, "key": "k",
}  # fmt: skip
NACL = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
).get_primitive_structure()
KF = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.2), ["K", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]])


BROKEN = "{broken} <b>.cif"
"""A name that Snakemake would take for a wildcard and a variable."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One crystal on no skeleton of the demo, one on one of them, one that cannot be used."""
    path = tmp_path / "others"
    path.mkdir()
    KF.get_primitive_structure().to(str(path / "kf.cif"), fmt="cif")
    (path / BROKEN).write_text("no crystal")
    return path


def evaluate(root: Path, folder: Path, *arguments: str, timeout: int = 240) -> subprocess.CompletedProcess[str]:
    place = folder.parent / "place.json"
    cache = folder.parent / "cache"
    place.write_text(json.dumps({"results": str(folder.parent / "results"), "cache": str(cache)}))
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("xtalrl")), "evaluate", str(folder),
            "--configfile", "config/test.yaml", str(place), *arguments,
        ],
        cwd=root, capture_output=True, text=True, timeout=timeout, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def test_a_set_by_hand(tmp_path: Path) -> None:
    """One design on a skeleton, one on its own cell: requests, references, accuracy, properties."""
    crystals, family = tmp_path / "crystals.parquet", tmp_path / "family.json"
    tables.write_rows([crystal("mp-2", NACL)], tables.CRYSTALS, crystals)
    family.write_text(sssp().model_dump_json())
    folder = tmp_path / "set"
    folder.mkdir()
    designed = Structure(NACL.lattice, ["F", "Na"], NACL.frac_coords)  # NACL lists Cl first
    for name, structure in {"a": designed, "b": KF.get_primitive_structure()}.items():
        structure.to(str(folder / f"{name}.cif"), fmt="cif")
    (folder / "c.cif").write_text("no crystal")
    own = tmp_path / "own.parquet"
    import_designs(folder, "set", crystals, 20, tmp_path / "d.parquet", own, tmp_path / "r.parquet")
    assess_designs([tmp_path / "d.parquet"], crystals, None, tmp_path / "assessments.parquet", [own])

    requests = tmp_path / "requests.parquet"
    given = (str(tmp_path / "assessments.parquet"), str(crystals), None, str(family), str(requests), None)
    plan_design_scf(*given, "paper-fast", "paper", 1, [str(own)])
    planned = {
        row["request_id"].partition("/")[0] + row["kind"]: row
        for row in tables.read_rows(requests, tables.SCF_REQUESTS)
    }
    assert set(planned) == {"mp-2design", "setdesign", "ref-Kreference", "ref-Freference", "ref-Nareference"}
    cell = Structure(
        np.reshape(planned["setdesign"]["lattice"], (3, 3)),
        planned["setdesign"]["species"],
        np.reshape(planned["setdesign"]["frac_coords"], (-1, 3)),
    )
    assert StructureMatcher(scale=False).fit(cell, KF)

    outcomes = [
        {
            "request_id": row["request_id"],
            "kind": row["kind"],
            "key": row["key"],
            "species": row["species"],
            "outcome": "converged",
            "detail": "",
            "nspin": 1,
            "wall_s": 1.0,
            "protocol": "p",
            "protocol_hash": "h",
            "family": "f",
            "attempts": [ATTEMPT],
            "total_energy_ry": -2.0 - len(row["species"]),
            "band_gap": 6.5,
            "band_gap_raw": 6.5,
        }
        for row in planned.values()
    ]
    for row in outcomes:
        if row["kind"] == "reference":
            row["total_energy_ry"] = -1.0 * len(row["species"])
    tables.write_rows(outcomes, tables.SCF_OUTCOMES, tmp_path / "outcomes.parquet")
    evaluation = tmp_path / "evaluation.parquet"
    evaluate_designs(tmp_path / "assessments.parquet", tmp_path / "outcomes.parquet", None, None, evaluation)
    on_skeleton, alone, unusable = tables.read_rows(evaluation, tables.EVALUATION)
    assert (unusable["material_id"], unusable["outcome"], unusable["valid"]) == ("set/c", UNUSABLE_ENTRY, False)
    # Two atoms at -4 Ry, references at -1 Ry an atom: -1 Ry/atom.
    assert (
        on_skeleton["formation_energy_per_atom"]
        == alone["formation_energy_per_atom"]
        == pytest.approx(-RYDBERG_EV_PAPER)
    )
    assert (on_skeleton["true_formula"], on_skeleton["n_correct"], on_skeleton["true_band_gap"]) == ("NaCl", 1, None)
    assert (alone["material_id"], alone["true_formula"], alone["n_correct"]) == ("set/b", None, None)
    tables.write_rows([], tables.STABILITY, tmp_path / "stability.parquet")
    (designs,) = read_policies(evaluation, None, tmp_path / "stability.parquet", ["set"])
    scoring = Scoring(100, 0.95, 0.25, (), 0.1)
    assert (accuracy(designs, scoring).value, accuracy(designs, scoring).n) == (0.5, 2)
    assert (exact_match(designs, scoring).value, exact_match(designs, scoring).n) == (0.0, 1)
    assert similarity(designs, scoring).value == 1.0  # F for Cl: both halogens
    assert (validity(designs, scoring).value, validity(designs, scoring).n) == (2 / 3, 3), "of all entries"
    assert dft_success_of_all(designs, scoring).n == 3
    assert dft_success(designs, scoring).n == 2, "of the valid ones"


def test_alone_there_is_no_policy(root: Path) -> None:
    config = load(root / "config/config.yaml", root / "config/sweep.yaml").model_dump()
    config["policies"]["any_targets_ev"] = [2.0]
    assert len({spec.kind for spec in validate(config).policy_specs().values()}) == 5
    for section, off in NO_POLICIES.items():
        config[section] |= off
    assert validate(config).policy_specs() == {}


def planned(done: subprocess.CompletedProcess[str]) -> str:
    """What the jobs of a dry run say they do, a line each."""
    assert done.returncode == 0, done.stdout + done.stderr
    return "\n".join(re.findall(r"^Job \d+: (.+)$", done.stdout + done.stderr, re.MULTILINE))


def test_alone_nothing_is_trained_and_no_scf_of_the_data_is_run(root: Path, folder: Path) -> None:
    jobs = planned(evaluate(root, folder, "--alone", "--dry-run"))
    assert f"Reading the external crystals others from {folder}" in jobs
    assert re.findall("Running SCF shard .* of the stage (.*),", jobs) == ["evaluation"]
    assert "report.html" in jobs
    for word in (
        "Training",
        "Designing",
        "CrystalNN",
        "trajectories",
        "Planning the SCFs of the crystals",
        "SCFs of the elements",
    ):
        assert word not in jobs


def test_beside_the_policies_everything_is_done(root: Path, folder: Path) -> None:
    jobs = planned(evaluate(root, folder, "--name", "mattergen", "--dry-run"))
    for part in (
        "external crystals mattergen",
        "Training",
        "Designing",
        "Planning the SCFs of the crystals",
        "CrystalNN",
    ):
        assert part in jobs


@pytest.mark.slow
def test_alone_with_a_real_pw_x(root: Path, folder: Path) -> None:
    for name in ("downloads", "engine"):  # what the network gives
        if (root / "results/cache" / name).is_dir():
            shutil.copytree(root / "results/cache" / name, folder.parent / "cache" / name)
    done = evaluate(root, folder, "--alone", timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    results = folder.parent / "results-others"
    row, unusable = tables.read_rows(results / "evaluation/evaluation.parquet", tables.EVALUATION)
    assert unusable["outcome"] == UNUSABLE_ENTRY
    assert (row["material_id"], row["policy"], row["outcome"], row["n_correct"]) == (
        "others/kf",
        "others",
        "converged",
        None,
    )
    assert 5 < row["band_gap"] < 8
    assert -3.5 < row["formation_energy_per_atom"] < -2
    (rejected,) = tables.read_rows(results / "external/others/rejected.parquet", tables.REJECTED)
    assert rejected["source"] == BROKEN
    assert "broken" not in (results / "tables/table1_composition.csv").read_text()
    assert "others" in (results / "tables/table1_composition.csv").read_text()
    assert (results / "report.html").stat().st_size > 500_000


@pytest.mark.parametrize("flag", ["", "no_compound"])
def test_the_last_lines_say_how_many_are_stable_or_what_it_takes_to_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    config = write_results(tmp_path, 40, targets_ev=[], ucql=False, random=False, bc=True)
    write_record(config)
    path = tmp_path / "evaluation/stability.parquet"
    rows = tables.read_rows(path, tables.STABILITY)
    assert len(rows) > 1
    energies = [0.1, *(0.2 for _ in rows[1:])]
    tables.write_rows(
        [row | {"flag": flag, "energy_above_hull": energy} for row, energy in zip(rows, energies, strict=True)],
        tables.STABILITY,
        path,
    )
    print_result(tmp_path, "bc")
    said = capsys.readouterr().out
    assert (f"1 of {len(rows)} whose hull is known are at most 0.1 eV/atom above it" in said) == (not flag)
    assert ("no energy above the hull is known: it takes labelled crystals" in said) == bool(flag)
