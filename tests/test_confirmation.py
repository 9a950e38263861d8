"""A hit is computed again before it is claimed: the finer protocol, shared SCFs, verdicts, and the table of them."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dft_data import sssp
from pymatgen.core import Lattice, Structure

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.config import validate
from xtalrl.dft.inputs import settings_for
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.pseudopotentials import describe_family
from xtalrl.dft.references import origin_of
from xtalrl.dft.requests import plan_confirmation_scf, plan_design_scf
from xtalrl.elements import ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.metrics.confirmation import confirm_hits, find_hits
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.confirmed_hits import confirmation_table
from xtalrl.report.contents import tables_of
from xtalrl.report.layout import Table
from xtalrl.report.results import Results
from xtalrl.rl.policies import PolicySpec

TARGETS = {"bc": None, "ccql-1": 1.0, "ccql-2": 2.0, "rvs-1": 1.0}
FINER = {"protocol": "confirm:paper", "protocol_hash": "h", "family": "f"}
SI = Cell(("Si", "Si"), (0, 2.7, 2.7, 2.7, 0, 2.7, 2.7, 2.7, 0), (0, 0, 0, 0.25, 0.25, 0.25))


def design(policy: str, request_id: str | None, gap: float | None, **values: Any) -> dict[str, Any]:
    return {
        "material_id": "mp-1", "policy": policy, "seed": 0, "sample": 0, "species": ["Si", "Si"], "formula": "Si", "true_formula": "Si",
        "n_sites": 2, "n_correct": 2, "n_similar": 2, "valid": request_id is not None, "validity_rule": "r", "valid_smact14": True,
        "valid_icsd24": True, "odd_electrons": False, "request_id": request_id, "outcome": "converged", "detail": "",
        "band_gap": gap, "band_gap_raw": gap, **values,
    }  # fmt: skip


def table_of(confirmation: Path, targets_ev: dict[str, float | None]) -> Table:
    policies = {name: PolicySpec("ccql", target_ev=target) for name, target in targets_ev.items()}
    return confirmation_table(Results({"confirmation": confirmation}, policies), Scoring(200, 0.95, 0.25, (), 0.1))


def finer(request_id: str, gap: float | None) -> dict[str, Any]:
    return {
        "request_id": request_id, "kind": "design", "key": request_id, "species": ["Si", "Si"],
        "outcome": "not_converged" if gap is None else "converged", "detail": "", "band_gap": gap, "band_gap_raw": gap,
        "wall_s": 1.0, "attempts": [], **FINER,
    }  # fmt: skip


def hits_of(folder: Path, *designs: dict[str, Any]) -> Path:
    tables.write_rows(designs, tables.EVALUATION, folder / "evaluation.parquet")
    find_hits(folder / "evaluation.parquet", folder / "hits.parquet", TARGETS, 0.25)
    return folder / "hits.parquet"


@pytest.mark.parametrize("name", ["paper", "paper-fast", "sssp"])
def test_the_finer_protocol_doubles_the_mesh_and_takes_the_familys_cutoffs(name: str) -> None:
    coarse, fine = load_protocol(name), load_protocol(f"confirm:{name}")
    family = sssp()
    assert fine.digest(family) != coarse.digest(family)
    before, after = (settings_for(SI, "crystal", protocol, family) for protocol in (coarse, fine))
    assert after.ecutwfc_ry == family.elements["Si"].ecutwfc_ry
    assert after.ecutrho_ry == family.elements["Si"].ecutrho_ry
    assert before.kpoints and after.kpoints
    # A distance is halved, then rounded up to whole points: one less than double is as fine.
    assert all(2 * b - 1 <= a <= 2 * b for a, b in zip(after.kpoints, before.kpoints, strict=True))
    assert name == "sssp" or after.kpoints == (6, 6, 6)
    assert fine.references == coarse.references
    assert fine.conv_thr_ry == coarse.conv_thr_ry


def test_a_file_of_ones_own_has_a_finer_one_too(tmp_path: Path) -> None:
    with pytest.raises(XtalrlError, match="'nowhere' is not known"):
        load_protocol("confirm:nowhere")
    path = tmp_path / "mine.yaml"
    path.write_text(
        (Path(__file__).parents[1] / "resources/protocols/paper.yaml").read_text().replace("[3, 3, 3]", "[4, 1, 2]")
    )
    assert load_protocol(f"confirm:{path}").kpoints == (8, 2, 4)


def test_hits_are_those_of_the_policys_own_target(tmp_path: Path) -> None:
    hits = hits_of(
        tmp_path,
        design("bc", "a", 1.0),  # no target
        design("others", "a", 1.0),  # crystals that others designed
        design("ccql-1", "a", 1.0),
        design("ccql-1", "b", 1.25),  # on the border of the open window
        design("ccql-2", "a", 1.0),
        design("ccql-2", None, None),
        design("rvs-1", "a", 0.8),
    )
    found = [(row["policy"], row["request_id"], row["target_ev"]) for row in tables.read_rows(hits, tables.HITS)]
    assert found == [("ccql-1", "a", 1.0), ("rvs-1", "a", 1.0)]


def test_policies_that_share_a_design_share_its_scf_which_is_not_the_first_one(tmp_path: Path) -> None:
    skeleton = {
        "material_id": "mp-1", "split": "val", "formula": "Si", "n_sites": 2, "species": ["Si", "Si"], "lattice": SI.lattice,
        "frac_coords": SI.frac_coords, "spacegroup_number": 227, "source": "test",
    }  # fmt: skip
    crystals, family = tmp_path / "crystals.parquet", tmp_path / "family.json"
    tables.write_rows([skeleton], tables.CRYSTALS, crystals)
    family.write_text(sssp().model_dump_json())
    designs = [design("ccql-1", "a", 1.0), design("rvs-1", "a", 1.0, seed=3)]
    hits = hits_of(tmp_path, *designs)
    plan_confirmation_scf(str(hits), str(crystals), str(family), str(tmp_path / "fine.parquet"), "paper", 4)
    (fine,) = tables.read_rows(tmp_path / "fine.parquet", tables.SCF_REQUESTS)
    assert (fine["request_id"], fine["kind"]) == ("a", "design")
    first = [{name: row[name] for name in tables.ASSESSMENTS.names if name in row} for row in designs]
    tables.write_rows(first, tables.ASSESSMENTS, tmp_path / "assessments.parquet")
    given = (str(tmp_path / "assessments.parquet"), str(crystals), None, str(family), str(tmp_path / "first.parquet"))
    plan_design_scf(*given, None, "paper", "paper", 4)
    keys = {row["request_id"]: row["key"] for row in tables.read_rows(tmp_path / "first.parquet", tables.SCF_REQUESTS)}
    assert keys["a"] != fine["key"]


def test_verdicts_and_their_table(tmp_path: Path) -> None:
    hits = hits_of(
        tmp_path,
        design("ccql-1", "a", 1.0),
        design("ccql-1", "b", 1.1, material_id="mp-2"),
        design("ccql-1", "c", 0.9, material_id="mp-3"),
        design("ccql-1", "b", 1.1, sample=1),  # a second design of the same skeleton: in the file, not in the table
        design("rvs-1", "a", 1.0),
    )
    outcomes, confirmation = tmp_path / "outcomes.parquet", tmp_path / "confirmation.parquet"
    tables.write_rows([finer("a", 1.2), finer("b", 0.4), finer("c", None)], tables.SCF_OUTCOMES, outcomes)
    confirm_hits(hits, outcomes, confirmation)
    rows = tables.read_rows(confirmation, tables.CONFIRMATION)
    assert [row["verdict"] for row in rows] == [
        "hit confirmed", "hit withdrawn", "hit", "hit withdrawn", "hit confirmed",
    ]  # fmt: skip
    assert [row["difference"] for row in rows] == pytest.approx([0.2, -0.7, None, -0.7, 0.2])
    files = {kind: tmp_path / f"table.{kind}" for kind in ("csv", "markdown", "latex", "caption")}
    table_of(confirmation, TARGETS).write(**files)
    with open(files["csv"], newline="") as file:
        table = {row["policy"]: row for row in csv.DictReader(file)}
    assert set(table) == {"ccql-1", "ccql-2", "rvs-1"}
    counts = {name: float(table["ccql-1"][name]) for name in ("hits", "confirmed", "withdrawn", "unanswered")}
    assert counts == {"hits": 3, "confirmed": 1, "withdrawn": 1, "unanswered": 1}
    assert float(table["ccql-1"]["mean_difference_ev"]) == pytest.approx(-0.25)
    assert float(table["ccql-1"]["largest_difference_ev"]) == pytest.approx(0.7)
    assert (table["ccql-2"]["hits"], table["ccql-2"]["confirmed_pct"]) == ("0", "")
    assert "Hit withdrawn" in files["markdown"].read_text()


def test_without_hits_there_is_an_empty_table(tmp_path: Path) -> None:
    hits = hits_of(tmp_path, design("bc", "a", 1.0))
    tables.write_rows([], tables.SCF_OUTCOMES, tmp_path / "outcomes.parquet")
    confirm_hits(hits, tmp_path / "outcomes.parquet", tmp_path / "confirmation.parquet")
    files = {kind: tmp_path / f"table.{kind}" for kind in ("csv", "markdown", "latex", "caption")}
    table_of(tmp_path / "confirmation.parquet", {"bc": None}).write(**files)
    assert "Confirmed" in files["markdown"].read_text()


def test_outcomes_of_other_hits_get_a_sentence(tmp_path: Path) -> None:
    hits = hits_of(tmp_path, design("ccql-1", "a", 1.0))
    tables.write_rows([finer("b", 1.0)], tables.SCF_OUTCOMES, tmp_path / "outcomes.parquet")
    with pytest.raises(
        XtalrlError, match=r"no outcome for the hit a of ccql-1.*snakemake confirm -R plan_confirmation_scf"
    ):
        confirm_hits(hits, tmp_path / "outcomes.parquet", tmp_path / "confirmation.parquet")


@pytest.mark.parametrize("asked", [False, True])
def test_the_report_has_the_table_where_the_configuration_asks_for_it(asked: bool) -> None:
    names = [entry.name for entry in tables_of(validate({"evaluation": {"confirm": asked}}))]
    assert ("confirmation" in names) == asked


@pytest.mark.slow
def test_hits_are_confirmed_by_real_scfs_through_snakemake(root: Path, tmp_path: Path) -> None:
    """The shipped policy fills the cell of NaF for three targets; the designs with a gap are hits, and each distinct one is computed once more."""
    for split, pair, edge in (("train", ["Li", "F"], 4.03), ("val", ["Na", "F"], 4.62), ("test", ["Na", "H"], 4.88)):
        cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), pair, [[0, 0, 0], [0.5, 0.5, 0.5]])
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(
                [
                    ("material_id", "band_gap", "formation_energy_per_atom", "spacegroup.number", "cif"),
                    (split, 6, -1, 225, cell.get_primitive_structure().to(fmt="cif")),
                ]
            )
    # Reference energies do not matter to a gap: invented ones, so that no element is computed.
    origin = origin_of("demo", describe_family("pseudo-dojo-0.4-pbe-sr-standard"))
    with (tmp_path / "references.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["element", "energy_per_atom_ry", *origin])
        writer.writerows([element, -10, *origin.values()] for element in ELEMENTS)
    for name in ("downloads", "engine"):
        if (root / "results/cache" / name).is_dir():
            shutil.copytree(root / "results/cache" / name, tmp_path / "cache" / name)
    arguments = [
        sys.executable, "-m", "snakemake", "--nolock", "confirm", "--profile", "profiles/local", "--cores", "1", "--configfile", "config/test.yaml",
        "--config", f"results={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}", f"structures={{source: mp20, path: {tmp_path}}}",
        "labels={path: source}", f"references={{energies: {tmp_path / 'references.csv'}}}", "evaluation={window_ev: 4}",
        "dft={time_limits: {design: [6], confirmation: [20]}}",
        "policies={pretrained: mp20, random: false, bc: false, ucql: false, targets_ev: [], rvs_targets_ev: [5, 6, 7]}",
    ]  # fmt: skip
    result = subprocess.run(arguments, cwd=root, capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, result.stdout + result.stderr
    folder = tmp_path / "run/confirmation"
    hits = tables.read_rows(folder / "hits.parquet", tables.HITS)
    assert hits, "the policy was trained on fluorides and more; a change of the weights may need other targets"
    requests = tables.read_rows(folder / "requests.parquet", tables.SCF_REQUESTS)
    assert {row["request_id"] for row in requests} == {row["request_id"] for row in hits}
    assert len(requests) == len({row["request_id"] for row in requests})
    rows = tables.read_rows(folder / "confirmation.parquet", tables.CONFIRMATION)
    assert len(rows) == len(hits)
    for row in rows:
        assert row["protocol"] == "confirm:demo"
        assert row["outcome"] == "converged"
        assert row["verdict"] == (
            "hit confirmed" if abs(row["confirmed_band_gap"] - row["target_ev"]) < 4 else "hit withdrawn"
        )
        assert row["difference"] == pytest.approx(row["confirmed_band_gap"] - row["band_gap"])
        assert 0 < abs(row["difference"]) < 1
    table = (tmp_path / "run/tables/confirmation.csv").read_text()
    assert table.count("rvs-mp20-") == 3
    again = subprocess.run(
        [*arguments[:4], "--dry-run", *arguments[4:]], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert "Nothing to be done" in again.stdout + again.stderr
