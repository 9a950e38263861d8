"""`xtalrl design`: elements for skeletons of one's own, for a wanted gap, by a policy that ships with xtalrl; no run, no DFT, seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pyarrow as pa

from xtalrl import tables
from xtalrl.elements import ACTION, ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.metrics.formulas import reduced_formula
from xtalrl.metrics.validity import is_valid
from xtalrl.rl.canonical import CrystalBonds
from xtalrl.rl.graphs import MAX_SITES, CrystalGraphs
from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.pretrained import read_pretrained
from xtalrl.rl.replay import Orders
from xtalrl.rl.rollout import RolloutSettings, design_skeletons
from xtalrl.rl.trajectories import orders
from xtalrl.structures.external import crystal_row, read_designs
from xtalrl.structures.neighbor_graphs import edge_columns, graph_row

OUTPUTS = (".extxyz", ".cif", ".db")
"""Endings of the files that designs are written to, by ASE."""


@dataclass(frozen=True)
class DesignedCrystal:
    """A filled skeleton: a row of `tables.CRYSTALS` whose species are the design's."""

    crystal: Mapping[str, Any]
    rank: int
    """Place among the designs of its skeleton, from 1; the policy prefers the first."""
    gap_ev: float
    """The gap that was asked for, eV. Which gap it has, only an SCF tells."""

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return reduced_formula(self.crystal["species"])

    @property
    def is_valid(self) -> bool:
        """Whether the composition is charge-neutral by the paper's rule."""
        return is_valid(Counter(self.crystal["species"]))

    def atoms(self) -> ase.Atoms:
        """The crystal for ASE, on the unrelaxed cell of its skeleton."""
        return ase.Atoms(
            self.crystal["species"],
            cell=np.reshape(self.crystal["lattice"], (3, 3)),
            scaled_positions=np.reshape(self.crystal["frac_coords"], (-1, 3)),
            pbc=True,
            info={
                "material_id": f"{self.crystal['material_id']}-{self.rank}",
                "skeleton": self.crystal["material_id"],
                "target_ev": self.gap_ev,
            },
        )


def design_crystals(
    path: str | Path, gap_ev: float, policy: str, settings: RolloutSettings
) -> tuple[list[DesignedCrystal], list[str]]:
    """Designs for every skeleton of a file or folder, and a sentence for each entry that cannot be one.

    The elements of the entries are not looked at by the policy; only the bonds (CrystalNN) know them.

    Args:
        path: CIF, folder or .zip of CIFs, .xyz or .extxyz file, or ASE database (.db).
        gap_ev: wanted gap in eV.
        policy: name of a pretrained policy.
        settings: how elements are chosen, and how many designs each skeleton gets.

    Raises:
        XtalrlError: nothing there can be a skeleton, or there is no such policy.
    """
    record, weights = read_pretrained(policy)
    found, rejections = read_designs(path, MAX_SITES)
    problems = [f"{row['source']}: {row['reason']} {row['detail']}".strip() for row in rejections]
    crystals, graphs = [], []
    for entry in found:
        crystal = crystal_row(entry, entry.id)
        edges = edge_columns(crystal)
        if isinstance(edges, str):
            problems.append(f"{entry.source}: {edges}")
        else:
            crystals.append(crystal)
            graphs.append(graph_row(crystal, edges))
    if not crystals:
        raise XtalrlError(f"No crystal in {path} can be a skeleton. {problems[0]}")
    skeletons = CrystalGraphs(pa.Table.from_pylist(graphs, tables.GRAPHS))
    spec = PolicySpec.from_dict(record["spec"]).at(gap_ev)
    filled = design_skeletons(record, spec, weights, Orders(skeletons, _orders(graphs), path), settings)
    designs = [
        DesignedCrystal(crystal | {"species": [ELEMENTS[action] for action in actions]}, rank, gap_ev)
        for crystal, of_skeleton in zip(crystals, filled, strict=True)
        for rank, actions in enumerate(of_skeleton, start=1)
    ]
    return designs, problems


def _orders(graphs: list[dict[str, Any]]) -> pa.Table:
    """One trajectory for each graph, in an order that does not depend on how its file numbers the sites."""
    rows = []
    for graph in graphs:
        bonds = CrystalBonds(len(graph["actions"]), graph["edge_source"], graph["edge_target"], graph["edge_distance"])
        (order,) = orders(graph["material_id"], bonds, 1, 0, "shuffled")
        rows.append(
            {
                "material_id": graph["material_id"],
                "order": order,
                "actions": [graph["actions"][site] for site in order],
            }
        )
    return pa.Table.from_pylist(
        rows, pa.schema([tables.TRAJECTORIES.field(name) for name in ("material_id", "order", "actions")])
    )


def print_designs(path: Path, gap_ev: float, policy: str, settings: RolloutSettings, output: Path | None) -> None:
    """Design, write the crystals if a file is named, and print a line for each.

    Raises:
        XtalrlError: see `design_crystals`; an element is unknown, or the kind of the output is.
    """
    if unknown := [element for element in (*settings.allow, *settings.deny) if element not in ACTION]:
        raise XtalrlError(f"{unknown[0]!r} is not one of the 88 elements that a policy can place, such as Si or O.")
    if gap_ev < 0:
        raise XtalrlError(f"--gap is {gap_ev:g}: a gap is at least 0 eV.")
    if output is not None and output.suffix not in OUTPUTS:
        raise XtalrlError(f"--output is {output}: its name must end in {', '.join(OUTPUTS)}.")
    designs, problems = design_crystals(path, gap_ev, policy, settings)
    print(f"{'skeleton':<24}{'rank':>5}  {'design':<20}{'composition':<14}elements by site")
    for design in designs:
        verdict = "neutral" if design.is_valid else "not neutral"
        species = " ".join(design.crystal["species"])
        print(f"{design.crystal['material_id']:<24}{design.rank:>5}  {design.formula:<20}{verdict:<14}{species}")
    for problem in problems:
        print(f"left out: {problem}")
    if output is None:
        print("To keep the crystals, add `--output designs.extxyz`.")
        return
    output.unlink(missing_ok=True)
    ase.io.write(output, [design.atoms() for design in designs])
    print(f"{len(designs)} crystals are in {output}. The gaps are wishes: `xtalrl evaluate {output}` computes them.")
