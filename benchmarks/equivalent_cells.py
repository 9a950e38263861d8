"""Whether cells that describe the same crystal give the same numbers. Run: `python benchmarks/equivalent_cells.py CACHE`.

CACHE is the cache folder of a run with the embedded pw.x (or with pw.x on PATH) and SSSP. See docs/decisions.md for what follows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from xtalrl.cells import Cell
from xtalrl.dft.engines import find_engine
from xtalrl.dft.inputs import render, settings_for
from xtalrl.dft.outcomes import classify
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.pseudopotentials import load_family
from xtalrl.dft.scratch import scratch_folder

_SI, _LIF, _A, _C = 2.715, 2.015, 2.70, 4.38
CRYSTALS = {
    "silicon": Cell(("Si", "Si"), (0, _SI, _SI, _SI, 0, _SI, _SI, _SI, 0), (0, 0, 0, 0.25, 0.25, 0.25)),
    "LiF": Cell(("Li", "F"), (0, _LIF, _LIF, _LIF, 0, _LIF, _LIF, _LIF, 0), (0, 0, 0, 0.5, 0.5, 0.5)),
    "BeO (wurtzite)": Cell(
        ("Be", "Be", "O", "O"),
        (_A, 0, 0, -_A / 2, _A * 3**0.5 / 2, 0, 0, 0, _C),
        (1 / 3, 2 / 3, 0, 2 / 3, 1 / 3, 0.5, 1 / 3, 2 / 3, 0.378, 2 / 3, 1 / 3, 0.878),
    ),
}


def _changed(change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Callable[[Cell], Cell]:
    def changed(cell: Cell) -> Cell:
        lattice, coords = change(np.reshape(cell.lattice, (3, 3)), np.reshape(cell.frac_coords, (-1, 3)))
        return Cell(cell.species, tuple(lattice.flatten().tolist()), tuple(coords.flatten().tolist()))

    return changed


_BASIS = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1]])
WAYS: dict[str, Callable[[Cell], Cell]] = {
    "as given": lambda cell: cell,
    "sites reversed": lambda cell: Cell(
        cell.species[::-1], cell.lattice, tuple(np.reshape(cell.frac_coords, (-1, 3))[::-1].flatten().tolist())
    ),
    "axes permuted": _changed(lambda lattice, coords: (lattice[[1, 2, 0]], coords[:, [1, 2, 0]])),
    "origin shifted": _changed(lambda lattice, coords: (lattice, coords + np.array([0.1, 0.2, 0.3]))),
    "another basis": _changed(lambda lattice, coords: (_BASIS @ lattice, coords @ np.linalg.inv(_BASIS))),
}


def main(cache: str) -> None:
    """Print energy and gap of every crystal in every way, and their differences from the cell as given."""
    family, folder = load_family(Path(cache) / "families/sssp-1.3.0-efficiency/family.json")
    engine, protocol = find_engine(None, cache), load_protocol("paper-fast")
    for name, crystal in CRYSTALS.items():
        first: tuple[float, float] | None = None
        for way, change in WAYS.items():
            cell = change(crystal)
            with scratch_folder() as scratch:
                for element in set(cell.species):
                    file = family.elements[element].file
                    (scratch / file).write_bytes((folder / file).read_bytes())
                text = render(cell, settings_for(cell, "crystal", protocol, family), family)
                result = classify(engine.run(text, scratch, 600))
            energy, gap = result.total_energy_ry or np.nan, result.band_gap_raw_ev or np.nan
            first = first or (energy, gap)
            print(
                f"{name:<15} {way:<15} {energy:.8f} Ry ({energy - first[0]:+.1e})  {gap:.5f} eV ({1e3 * (gap - first[1]):+.2f} meV)",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", help="cache folder of a run")
    main(parser.parse_args().cache)
