"""`tools/released_labels.py` on made-up files of the authors' kind: rows find their crystals, and the references come back out of the formation energies."""

from __future__ import annotations

import csv
import importlib.util
import pickle
from pathlib import Path
from types import ModuleType

import pytest

from xtalrl.dft.labels import check_tables
from xtalrl.elements import ELEMENTS
from xtalrl.energies import RYDBERG_EV_PAPER
from xtalrl.errors import XtalrlError
from xtalrl.metrics.formulas import parse_formula
from xtalrl.resources import RESOURCES
from xtalrl.structures.demo import write_csvs

REFERENCES = {element: -10.0 - n for n, element in enumerate(ELEMENTS)}


@pytest.fixture(scope="module")
def tool(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("released_labels", root / "tools/released_labels.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def written(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    write_csvs(RESOURCES / "demo" / "crystals.csv", {split: str(folder / f"{split}.csv") for split in ("train", "val", "test")})  # fmt: skip
    results: dict[str, dict[int, tuple[float, float]]] = {}
    formation = {}
    for split in ("train", "val"):
        for n, cell in cells(folder / f"{split}.csv").items():
            size = sum(cell.values())
            formation[split, n] = -n / 7
            energy = sum(REFERENCES[e] * k for e, k in cell.items()) + formation[split, n] * size / RYDBERG_EV_PAPER
            results.setdefault(split, {})[n] = (n / 3, energy)
    for name, numbers in {
        "TE_bg_dict_nm": dict(reversed(results["train"].items())),
        "FE_dict_nm": {n: value for (split, n), value in formation.items() if split == "train"},
        "nm_dict_val": results["val"],
    }.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(numbers))
    tool.convert(folder, folder / "nm_dict_val.pkl", folder, folder / "labels")
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cells(path: Path) -> dict[int, dict[str, int]]:
    """Cells of a CSV by row, by what their CIFs list: another way than the tool's."""
    found = {}
    for n, row in enumerate(read(path)):
        symbols = [
            line.split()[0]
            for line in row["cif"].splitlines()
            if len(line.split()) >= 6 and line.split()[0] in ELEMENTS
        ]
        found[n] = {symbol: symbols.count(symbol) for symbol in set(symbols)}
        assert set(found[n]) == set(parse_formula(row["pretty_formula"]))
    return found


def test_rows_find_their_crystals(written: Path) -> None:
    for split in ("train", "val"):
        ids = [row["material_id"] for row in read(written / f"{split}.csv")]
        rows = read(written / "labels" / f"{split}.csv")
        assert [row["material_id"] for row in rows] == ids
        assert [float(row["band_gap"]) for row in rows] == [n / 3 for n in range(len(ids))]
        assert [row["formation_energy_per_atom"] for row in rows] == [repr(-n / 7) if split == "train" else "" for n in range(len(ids))]  # fmt: skip


def test_the_workflow_takes_the_folder(written: Path) -> None:
    check_tables(str(written / "labels"))


def test_the_references_come_back(written: Path) -> None:
    rows = read(written / "labels" / "elemental_reference_energies.csv")
    assert len(rows) > 10
    assert {row["element"]: float(row["energy_per_atom_ry"]) for row in rows} == pytest.approx(
        {row["element"]: REFERENCES[row["element"]] for row in rows}, abs=1e-9
    )


def test_a_pickle_with_code_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(print))
    with pytest.raises(XtalrlError, match=r"asks for builtins\.print"):
        tool.read_numbers(tmp_path / "evil.pkl")
