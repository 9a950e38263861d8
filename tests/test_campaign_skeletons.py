"""Skeletons of a campaign, and what a policy proposes for them in each round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from xtalrl import tables
from xtalrl.campaign.skeletons import OWN, take_skeletons
from xtalrl.errors import XtalrlError
from xtalrl.metrics.validity import is_valid
from xtalrl.rl.pretrained import take_pretrained
from xtalrl.rl.proposals import propose_designs
from xtalrl.rl.rollout_settings import RolloutSettings

SETTINGS = RolloutSettings(designs=4, neutral=True, even_electrons=True)


@pytest.fixture(scope="module")
def cifs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifs")
    crystals = {
        "perovskite": Structure.from_spacegroup(
            "Pm-3m", Lattice.cubic(4.0), ["Ca", "Ti", "O"], [[0.5] * 3, [0, 0, 0], [0.5, 0, 0]]
        ),
        "salt": Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3]).get_primitive_structure(),
        "diamond": Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.4), ["Si"], [[0, 0, 0]]).get_primitive_structure(),
    }  # fmt: skip
    for name, crystal in crystals.items():
        crystal.to(filename=str(folder / f"{name}.cif"))
    (folder / "broken.cif").write_text("data_x\n")
    return folder


@pytest.fixture(scope="module")
def own(cifs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    take_skeletons(str(cifs), 20, None, 0, folder / "skeletons.parquet", folder / "graphs.parquet")
    take_pretrained("mp20", folder / "policy.json", folder / "weights.safetensors")
    return folder


def taken(folder: Path) -> tuple[list[str], list[str]]:
    crystals = tables.read_rows(folder / "skeletons.parquet", tables.CRYSTALS)
    graphs = tables.read_rows(folder / "graphs.parquet", tables.GRAPHS)
    return [row["material_id"] for row in crystals], [row["material_id"] for row in graphs]


def test_own_crystals_are_skeletons_and_what_cannot_be_one_is_left_out(own: Path) -> None:
    crystals, graphs = taken(own)
    assert sorted(crystals) == [f"{OWN}/diamond", f"{OWN}/perovskite", f"{OWN}/salt"]
    assert graphs == crystals


def test_a_split_is_taken_with_its_graphs_up_to_a_size_and_a_number(own: Path, tmp_path: Path) -> None:
    """The crystals of another campaign stand for those of a run."""
    crystals, graphs = own / "skeletons.parquet", own / "graphs.parquet"

    def take(max_sites: int, limit: int | None, seed: int = 0) -> list[str]:
        take_skeletons(
            "external",
            max_sites,
            limit,
            seed,
            tmp_path / "skeletons.parquet",
            tmp_path / "graphs.parquet",
            crystals,
            graphs,
        )
        found, of_graphs = taken(tmp_path)
        assert found == of_graphs
        return found

    assert len(take(20, None)) == 3
    assert sorted(take(2, None)) == [f"{OWN}/diamond", f"{OWN}/salt"]
    assert len(take(20, 2)) == 2
    assert take(20, 2) == take(20, 2)
    assert {tuple(take(20, 1, seed)) for seed in range(20)} == {(name,) for name in taken(own)[0]}
    with pytest.raises(XtalrlError, match="has at most 1 sites and a graph"):
        take(1, None)


def propose(
    own: Path, path: Path, round_number: int, settings: RolloutSettings = SETTINGS, **more: Any
) -> list[dict[str, Any]]:
    of_policy = own / "policy.json", own / "weights.safetensors", own / "graphs.parquet"
    earlier, seed = more.pop("earlier", None), more.pop("seed", 0)
    propose_designs(*of_policy, earlier, path, "cpu", settings, 3.0, round_number, seed, **more)
    return tables.read_rows(path, tables.DESIGNS)


@pytest.mark.parametrize("select", ["greedy", "softmax"])
def test_a_round_has_designs_of_its_own(own: Path, tmp_path: Path, select: Any) -> None:
    settings = RolloutSettings(select=select, designs=4, neutral=True, even_electrons=True)
    first = propose(own, tmp_path / "1.parquet", 1, settings)
    second = propose(own, tmp_path / "2.parquet", 2, settings, earlier=[tmp_path / "1.parquet"])
    for rows, samples in ((first, range(4)), (second, range(4, 8))):
        assert len(rows) == 12
        assert {row["sample"] for row in rows} == set(samples)
        assert all(is_valid({element: row["species"].count(element) for element in row["species"]}) for row in rows)
        assert len({(row["material_id"], *row["species"]) for row in rows}) == 12
    designs = [{(row["material_id"], *row["species"]) for row in rows} for rows in (first, second)]
    assert designs[0] != designs[1]
    if select == "greedy":
        assert not designs[0] & designs[1]
    assert first == propose(own, tmp_path / "d.parquet", 1, settings)
    if select == "softmax":
        assert first != propose(own, tmp_path / "d.parquet", 1, settings, seed=1)


def test_kept_elements_stay_where_they_are(own: Path, tmp_path: Path) -> None:
    true = {row["material_id"]: row["species"] for row in tables.read_rows(own / "skeletons.parquet", tables.CRYSTALS)}
    for row in propose(own, tmp_path / "d.parquet", 1, keep=["O", "Na"]):
        kept = [site for site, element in enumerate(true[row["material_id"]]) if element in ("O", "Na")]
        assert all(row["species"][site] == true[row["material_id"]][site] for site in kept)


def test_wishes_that_leave_nothing_stop_the_first_round_alone(own: Path, tmp_path: Path) -> None:
    graphs = [
        row for row in tables.read_rows(own / "graphs.parquet", tables.GRAPHS) if "perovskite" in row["material_id"]
    ]
    tables.write_rows(graphs, tables.GRAPHS, tmp_path / "graphs.parquet")
    nothing = RolloutSettings(designs=1, neutral=True, allow=("Na",))

    def propose_nothing(round_number: int) -> None:
        of_policy = own / "policy.json", own / "weights.safetensors", tmp_path / "graphs.parquet"
        propose_designs(*of_policy, None, tmp_path / "d.parquet", "cpu", nothing, 3.0, round_number, 0, keep=["O"])

    with pytest.raises(XtalrlError, match=r"No skeleton can be filled as `campaign\.allow`"):
        propose_nothing(1)
    propose_nothing(2)
    assert tables.read_rows(tmp_path / "d.parquet", tables.DESIGNS) == []
