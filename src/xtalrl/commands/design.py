"""`xtalrl design`: elements on the user's own skeletons for a wanted gap, by a policy that ships with xtalrl; no run, no DFT, seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from xtalrl import tables
from xtalrl.campaign.skeletons import read_skeletons
from xtalrl.cells import Cell, reduced_formula
from xtalrl.commands.exports import Design, check_output, write_designs
from xtalrl.elements import ACTION, ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.metrics.validity import PAPER_RULE, is_valid
from xtalrl.rl.graphs import MAX_SITES, CrystalGraphs
from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.pretrained import read_pretrained
from xtalrl.rl.proposals import skeleton_orders
from xtalrl.rl.replay import Orders
from xtalrl.rl.rollout import design_skeletons
from xtalrl.rl.rollout_settings import RolloutSettings
from xtalrl.tables import GAP_RANGE_EV


def design_crystals(
    path: str | Path, gap_ev: float, policy: str, settings: RolloutSettings, keep: Collection[str] = ()
) -> tuple[list[Design], list[str]]:
    """Designs for every skeleton of a file or folder, and a sentence for each entry that cannot be a skeleton.

    The policy does not see the elements of the entries, except for those in `keep`; only the bonds (CrystalNN) depend on them. The gap of a design is known
    only after an SCF.

    Args:
        path: CIF, folder or .zip of CIFs, POSCAR, .xyz or .extxyz file, or ASE database (.db).
        gap_ev: wanted gap in eV.
        policy: name of a pretrained policy.
        settings: how elements are chosen, and how many designs each skeleton gets.
        keep: elements that stay on the sites where the skeletons have them.

    Raises:
        XtalrlError: no entry can be a skeleton, or there is no such policy.
    """
    record, weights = read_pretrained(policy)
    crystals, graphs, problems = read_skeletons(path, MAX_SITES)
    there = {element for crystal in crystals for element in crystal["species"]}
    if absent := [element for element in keep if element not in there]:
        raise XtalrlError(
            f"{absent[0]} is to stay where the skeletons have it, and none of {path} does: they have {', '.join(sorted(there))}."
        )
    skeletons = CrystalGraphs(pa.Table.from_pylist(graphs, tables.GRAPHS))
    spec = PolicySpec.from_dict(record["spec"]).at(gap_ev)
    orders = Orders(skeletons, skeleton_orders(graphs, "shuffled", keep), path)
    filled = design_skeletons(record, spec, weights, orders, settings, keep)
    designs = []
    for crystal, of_skeleton in zip(crystals, filled, strict=True):
        for sample, actions in enumerate(of_skeleton):
            species = [ELEMENTS[action] for action in actions]
            values = {
                "policy": replace(spec, pretrained=policy).name,
                "material_id": crystal["material_id"],
                "sample": sample,
                "valid": is_valid(Counter(species)),
                "validity_rule": PAPER_RULE,
            }
            name = f"{crystal['material_id']}/{sample}"
            designs.append(Design(name, Cell.from_row(crystal | {"species": species}), values))
    return designs, problems


def print_designs(
    path: Path,
    gap_ev: float,
    policy: str,
    settings: RolloutSettings,
    output: Path | None,
    keep: Collection[str] = (),
) -> None:
    """Design, write the crystals if a file is named, and print a line for each.

    Raises:
        XtalrlError: as in `design_crystals`; or an element is unknown, or the output exists or is of no known kind.
    """
    if unknown := [element for element in (*settings.allow, *settings.deny, *keep) if element not in ACTION]:
        raise XtalrlError(f"{unknown[0]!r} is not one of the 88 elements that a policy can place, such as Si or O.")
    if not 0 <= gap_ev <= GAP_RANGE_EV[1]:
        raise XtalrlError(f"--gap is {gap_ev:g}: a gap is from 0 to {GAP_RANGE_EV[1]:g} eV.")
    if output is not None:
        check_output(output)
    designs, problems = design_crystals(path, gap_ev, policy, settings, keep)
    print(f"{'skeleton':<24}{'rank':>5}  {'design':<20}{'composition':<14}elements by site")
    for design in designs:
        skeleton, rank = design.values["material_id"], design.values["sample"] + 1
        verdict = "neutral" if design.values["valid"] else "not neutral"
        print(
            f"{skeleton:<24}{rank:>5}  {reduced_formula(design.cell.species):<20}{verdict:<14}{' '.join(design.cell.species)}"
        )
    for problem in problems:
        print(f"left out: {problem}")
    if output is None:
        print("To keep the crystals, add `--output designs.extxyz`.")
        return
    write_designs(designs, output)
    print(
        f"{len(designs)} {'crystal is' if len(designs) == 1 else 'crystals are'} in {output}. The gaps are wishes: `xtalrl evaluate {output}` computes them."
    )
