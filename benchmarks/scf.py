"""What an SCF costs: the paper's literal settings against ours, on twelve textbook crystals of 2 to 20 atoms, in one run.

    python benchmarks/scf.py SSSP_ARCHIVE            # the panel; writes docs/results/scf_benchmark.{md,csv}
    python benchmarks/scf.py SSSP_ARCHIVE --only MgO AlN --try diagonalization="'paro'"    # another setting beside ours, printed
    python benchmarks/scf.py --machinery             # what planning, the ladder, the cache and parsing cost around pw.x

From the literal settings to ours one choice changes at a time, so that the table tells what each brings:

literal      256 bands where the basis allows, conv_thr 1e-6, reference BLAS, the cell as Niggli reduction leaves it
bands        occupied + 4 bands
threshold    and conv_thr 1e-8, which is then `paper-fast`
blas         and OpenBLAS
orientation  and the cell in standard orientation, where pw.x finds its symmetry
ours         and a malloc that keeps freed memory, as every run of the workflow has it

Needs the embedded pw.x (both libraries come with it). CPU seconds are user and system time of pw.x. What was measured is kept in
results/scf_benchmark/runs.jsonl and not measured again; delete it to start again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import re
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ase.spacegroup

from xtalrl.cells import Cell
from xtalrl.csv_files import write_csv
from xtalrl.dft.engines import Engine, find_engine
from xtalrl.dft.inputs import Settings, render, settings_for
from xtalrl.dft.outcomes import classify
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.pseudopotentials import Family, fetch_family, load_family
from xtalrl.energies import RYDBERG_EV_PAPER
from xtalrl.files import write_text
from xtalrl.structures.crystals import parse_cif

PROJECT = Path(__file__).resolve().parents[1]
FAMILY = "sssp-1.3.0-efficiency"
TIMEOUT_S = 3600.0
STEPS = ("literal", "bands", "threshold", "blas", "orientation", "ours")
EXPLAINED = {
    "bands": "occupied + 4 instead of 256 bands",
    "threshold": "conv_thr 1e-8 instead of 1e-6",
    "blas": "OpenBLAS instead of the reference BLAS",
    "orientation": "standard orientation instead of the Niggli cell's",
    "ours": "freed memory kept instead of returned to the kernel",
}
CLOCKS = {
    "diagonalization": ("c_bands",),
    "PAW spheres": ("PAW_pot",),
    "density, potential": ("sum_band", "newd", "v_of_rho", "mix_rho"),
}
"""pw.x's own clocks; no two of them overlap. The rest is the start, mostly tables of the augmentation charges."""


@dataclass(frozen=True)
class Crystal:
    """A textbook crystal: sites of the standard setting of its space group, axes in Å, angles in degrees."""

    name: str
    spacegroup: int
    cellpar: tuple[float, ...]
    sites: tuple[tuple[str, float, float, float], ...]
    source: str = "Wyckoff 1963"

    def cell(self) -> Cell:
        """Its Niggli-reduced primitive cell."""
        from pymatgen.io.ase import AseAtomsAdaptor

        atoms = ase.spacegroup.crystal(
            [site[0] for site in self.sites],
            [site[1:] for site in self.sites],
            spacegroup=self.spacegroup,
            cellpar=list(self.cellpar),
            primitive_cell=True,
        )
        # Through a CIF, as MP-20's come: its lengths and angles say nothing of the orientation.
        structure = parse_cif(AseAtomsAdaptor.get_structure(atoms).to(fmt="cif"), 20)
        return Cell.from_structure(structure)


def _cubic(a: float) -> tuple[float, ...]:
    return (a, a, a, 90, 90, 90)


def _hexagonal(a: float, c: float) -> tuple[float, ...]:
    return (a, a, c, 90, 90, 120)


PANEL = (
    Crystal("C", 227, _cubic(3.5668), (("C", 0, 0, 0),)),
    Crystal("BN", 216, _cubic(3.6157), (("B", 0, 0, 0), ("N", 0.25, 0.25, 0.25))),
    Crystal("MgO", 225, _cubic(4.2112), (("Mg", 0, 0, 0), ("O", 0.5, 0.5, 0.5))),
    Crystal("Li2O", 225, _cubic(4.619), (("O", 0, 0, 0), ("Li", 0.25, 0.25, 0.25))),
    Crystal("BeO", 186, _hexagonal(2.698, 4.380), (("Be", 1 / 3, 2 / 3, 0), ("O", 1 / 3, 2 / 3, 0.378))),
    Crystal("Si", 227, _cubic(5.4310), (("Si", 0, 0, 0),)),
    Crystal("AlN", 186, _hexagonal(3.112, 4.982), (("Al", 1 / 3, 2 / 3, 0), ("N", 1 / 3, 2 / 3, 0.382))),
    Crystal("SrTiO3", 221, _cubic(3.905), (("Sr", 0, 0, 0), ("Ti", 0.5, 0.5, 0.5), ("O", 0.5, 0.5, 0))),
    Crystal("Cu2O", 224, _cubic(4.2696), (("Cu", 0.25, 0.25, 0.25), ("O", 0, 0, 0))),
    Crystal("TiO2", 136, (4.5937, 4.5937, 2.9587, 90, 90, 90), (("Ti", 0, 0, 0), ("O", 0.3053, 0.3053, 0))),
    Crystal("Al2O3", 167, _hexagonal(4.7587, 12.9929), (("Al", 0, 0, 0.3522), ("O", 0.3063, 0, 0.25))),
    Crystal(
        "MgSiO3", 62, (4.9292, 6.8969, 4.7754, 90, 90, 90),
        (("Mg", 0.5560, 0.25, 0.5141), ("Si", 0, 0, 0.5), ("O", 0.4660, 0.25, 0.1028), ("O", 0.2014, 0.5531, 0.1961)),
        "Horiuchi, Ito & Weidner 1987",
    ),
)  # fmt: skip


class MemoryReturned(Engine):
    """The engine without our settings of malloc."""

    def _environment(self) -> Mapping[str, str]:
        return {name: value for name, value in super()._environment().items() if not name.startswith("MALLOC_")}


class Bench:
    """Runs of pw.x with their CPU seconds, each made once."""

    def __init__(
        self, family: Family, family_folder: Path, cache: str, results: Path, commands: list[str] | None
    ) -> None:
        self.family, self.family_folder = family, family_folder
        results.mkdir(parents=True, exist_ok=True)
        self.path = results / "runs.jsonl"
        self.done = {}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                record = json.loads(line)
                self.done[record["crystal"], record["step"]] = record
        if commands:
            reference, self.fast = (find_engine(command, cache) for command in commands)
            plain = reference.command
        else:
            self.fast = find_engine(None, cache)
            if self.fast.kind != "embedded":
                sys.exit(
                    f"{self.fast.label} is on PATH: its BLAS cannot be changed. Take it off PATH, or name two of them with --commands."
                )
            # The same pw.x in a folder without OpenBLAS.
            root = Path(self.fast.command[-1])
            folder = results.absolute() / "reference-blas"
            folder.mkdir(exist_ok=True)
            for name in ("qepy", "qepy.libs"):
                if not (folder / name).exists():
                    (folder / name).symlink_to(root / name)
            plain = (*self.fast.command[:-1], str(folder))
        self.plain = MemoryReturned(self.fast.kind, plain, self.fast.version)
        self.openblas = MemoryReturned(self.fast.kind, self.fast.command, self.fast.version)

    def run(self, crystal: Crystal, step: str) -> dict[str, Any]:
        """The record of a crystal at a step."""
        if record := self.done.get((crystal.name, step)):
            return record
        cell = crystal.cell()
        settings = self.settings(cell, step)
        text = render(cell, settings, self.family)
        if STEPS.index(step) < STEPS.index("orientation"):
            text = _unoriented(text, cell)
        engine = {"ours": self.fast, "orientation": self.openblas, "blas": self.openblas}.get(step, self.plain)
        record = {
            "crystal": crystal.name,
            "step": step,
            "n_sites": len(cell.species),
            "n_electrons": self.family.n_electrons(cell.species),
            "nbnd": settings.nbnd,
            **self.measure(cell, text, engine),
        }
        with open(self.path, "a") as file:
            file.write(json.dumps(record) + "\n")
        self.done[crystal.name, step] = record
        print(f"{crystal.name:8s} {step:10s} {record['cpu_s']:8.1f} s CPU  {record['outcome']}", flush=True)
        return record

    def measure(self, cell: Cell, text: str, engine: Engine) -> dict[str, Any]:
        """What an input costs, and what comes of it."""
        with tempfile.TemporaryDirectory(prefix="xtalrl-bench-") as folder:
            for element in set(cell.species):
                file = self.family.elements[element].file
                (Path(folder) / file).symlink_to(self.family_folder / file)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            run = engine.run(text, folder, TIMEOUT_S)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            result = classify(run)
        return {
            "outcome": str(result.outcome),
            "total_energy_ry": result.total_energy_ry,
            "band_gap_raw_ev": result.band_gap_raw_ev,
            "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
            "wall_s": round(run.wall_s, 2),
            "k_points": _number_after(run.stdout, "number of k points="),
            "iterations": run.stdout.count("estimated scf accuracy"),
            **{f"{clock}_s": _seconds(run.stdout, clock) for clocks in CLOCKS.values() for clock in clocks},
        }

    def compare(self, crystal: Crystal, electrons: dict[str, str]) -> None:
        """Print what ours costs now, and with other values in &ELECTRONS."""
        cell = crystal.cell()
        ours = render(cell, self.settings(cell, "ours"), self.family)
        other = ours
        for name, value in electrons.items():
            other = re.sub(rf"^  {name} = .*\n", "", other, flags=re.MULTILINE)
            other = other.replace("&ELECTRONS\n", f"&ELECTRONS\n  {name} = {value}\n")
        one, two = (self.measure(cell, text, self.fast) for text in (ours, other))
        label = " ".join(f"{name}={value}" for name, value in electrons.items())
        if two["band_gap_raw_ev"] is None or two["total_energy_ry"] is None:
            print(f"{crystal.name:8s} {label}: {two['outcome']}")
            return
        print(
            f"{crystal.name:8s} {label}: {one['cpu_s']:.2f} -> {two['cpu_s']:.2f} s CPU, {one['iterations']} -> {two['iterations']} iterations, "
            f"gap {1000 * (two['band_gap_raw_ev'] - one['band_gap_raw_ev']):+.2f} meV, energy {two['total_energy_ry'] - one['total_energy_ry']:+.1e} Ry",
            flush=True,
        )

    def settings(self, cell: Cell, step: str) -> Settings:
        """pw.x's settings at a step."""
        literal, fast = (
            settings_for(cell, "crystal", load_protocol(name), self.family) for name in ("paper", "paper-fast")
        )
        if step == "literal":
            return literal
        return replace(fast, conv_thr_ry=literal.conv_thr_ry) if step == "bands" else fast


def _unoriented(text: str, cell: Cell) -> str:
    """The input with the lattice vectors as they are."""
    lines = text.splitlines()
    start = lines.index("CELL_PARAMETERS angstrom") + 1
    lines[start : start + 3] = [" ".join(f"{x:.10f}" for x in cell.lattice[3 * i : 3 * i + 3]) for i in range(3)]
    return "\n".join(lines) + "\n"


def _number_after(text: str, mark: str) -> int | None:
    words = text.partition(mark)[2].split()
    return int(words[0]) if words else None


def _seconds(text: str, clock: str) -> float:
    """CPU seconds of one of pw.x's clocks, 0 where it never ran; the last print counts."""
    found = re.findall(rf"^ +{clock} +: +(?:(\d+)m *)?([\d.]+)s CPU", text, flags=re.MULTILINE)
    return 60 * float(found[-1][0] or 0) + float(found[-1][1]) if found else 0.0


def geometric_mean(values: list[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def document(table: dict[tuple[str, str], dict[str, Any]], engine: str) -> str:
    """The page: the two ends, what each step brings, and every run."""
    names = [crystal.name for crystal in PANEL if (crystal.name, "literal") in table]
    waiting = [crystal.name for crystal in PANEL if crystal.name not in names]
    factors = [table[name, "literal"]["cpu_s"] / table[name, "ours"]["cpu_s"] for name in names]
    gaps = [1000 * abs(_gap(table, name, "ours") - _gap(table, name, "literal")) for name in names]
    total = {step: sum(table[name, step]["cpu_s"] for name in names) for step in ("literal", "ours")}
    lines = [
        "# What an SCF costs",
        "",
        f"Written by `benchmarks/scf.py`: CPU seconds of {engine} on one core, the literal settings of the paper against "
        "`paper-fast` as the workflow runs it, on textbook crystals. Literal means 256 bands (fewer where the basis of a small cell holds fewer, which "
        "pw.x refuses otherwise), conv_thr 1e-6, the reference BLAS that a pw.x from a distribution is linked with, and the cell as the Niggli "
        "reduction leaves it. The machine was used by others, too, and the sides were not measured at one time, so that the seconds are good to about a fifth.",
        "",
        f"**{geometric_mean(factors):.1f} times less CPU in the geometric mean of {len(names)} crystals** ({total['literal']:.0f} s against "
        f"{total['ours']:.0f} s in all; from {min(factors):.1f} to {max(factors):.1f} times). The gap differs by {max(gaps):.1f} meV at most, "
        f"{sorted(gaps)[len(gaps) // 2]:.1f} meV in the median.",
        "",
        *(
            [
                f"Measured so far are {len(names)} of the {len(PANEL)} crystals, the cheapest; not yet: {', '.join(waiting)}. In most of these small cells the basis holds fewer than 256 bands, "
                "which favours the literal side: the mean above is not that of the panel. Run `python benchmarks/scf.py` on an idle machine for the rest.",
                "",
            ]
            if waiting
            else []
        ),
        "| crystal | sites | electrons | bands: literal, ours | CPU s: literal | ours | times less | gap, ours (eV) | gap difference (meV) | energy difference (meV/atom) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, factor in zip(names, factors, strict=True):
        literal, ours = table[name, "literal"], table[name, "ours"]
        energy = (ours["total_energy_ry"] - literal["total_energy_ry"]) * RYDBERG_EV_PAPER / ours["n_sites"]
        lines.append(
            f"| {name} | {ours['n_sites']} | {ours['n_electrons']} | {literal['nbnd']}, {ours['nbnd']} | {literal['cpu_s']:.1f} | {ours['cpu_s']:.1f} | "
            f"{factor:.1f} | {_gap(table, name, 'ours'):.4f} | {1000 * (_gap(table, name, 'ours') - _gap(table, name, 'literal')):.1f} | {1000 * energy:.3f} |"
        )
    steps = [step for step in STEPS if all((name, step) in table for name in names)]
    if steps == list(STEPS):
        lines += _where_it_comes_from(table, names)
    lines += _where_it_goes(table, names)
    lines += [
        "",
        "## Every run",
        "",
        "| crystal | " + " | ".join(f"{step}: CPU s, k points, iterations" for step in steps) + " |",
        "|---" * (len(steps) + 1) + "|",
    ]
    for name in names:
        cells = [f"{r['cpu_s']:.1f}, {r['k_points']}, {r['iterations']}" for r in (table[name, step] for step in steps)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _where_it_comes_from(table: dict[tuple[str, str], dict[str, Any]], names: list[str]) -> list[str]:
    """What each step brings."""
    lines = [
        "",
        "## Where it comes from",
        "",
        "One choice changes at a time, in this order; another order would share the same product out differently (OpenBLAS, for one, brings more at 256 bands).",
        "",
        "| step | times less CPU, geometric mean | smallest | largest |",
        "|---|---|---|---|",
    ]
    for before, after in itertools.pairwise(STEPS):
        ratios = [table[name, before]["cpu_s"] / table[name, after]["cpu_s"] for name in names]
        lines.append(f"| {EXPLAINED[after]} | {geometric_mean(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")
    return lines


def _where_it_goes(table: dict[tuple[str, str], dict[str, Any]], names: list[str]) -> list[str]:
    """What is left of the cost, by pw.x's clocks, and what a diagonalization for nothing would bring."""
    lines = [
        "",
        "## Where the rest goes",
        "",
        "CPU seconds of ours by pw.x's own clocks. The PAW spheres are integrals on radial grids around each atom, once per iteration; neither bands nor k points change them.",
        "",
        "| crystal | all | " + " | ".join(CLOCKS) + " | the rest |",
        "|---" * (len(CLOCKS) + 3) + "|",
    ]
    literal, ours, parts = [], [], []
    for name in names:
        record = table[name, "ours"]
        literal.append(table[name, "literal"]["cpu_s"])
        ours.append(record["cpu_s"])
        parts.append([sum(record[f"{clock}_s"] for clock in clocks) for clocks in CLOCKS.values()])
        cells = [f"{seconds:.1f}" for seconds in (ours[-1], *parts[-1], ours[-1] - sum(parts[-1]))]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    without = [
        geometric_mean([a / (b - sum(part[:n])) for a, b, part in zip(literal, ours, parts, strict=True)])
        for n in (1, 2)
    ]
    return [
        *lines,
        "",
        f"If the diagonalization cost nothing, the geometric mean would be {without[0]:.1f}; with the PAW spheres for nothing as well, {without[1]:.1f}.",
    ]


def _gap(table: dict[tuple[str, str], dict[str, Any]], name: str, step: str) -> float:
    gap = table[name, step]["band_gap_raw_ev"]
    assert gap is not None, f"{name}, {step}: {table[name, step]['outcome']}"
    return float(gap)


def time_machinery(n: int = 2000) -> None:
    """Print what planning, the ladder with a stand-in for pw.x, the cache and parsing cost, one line each."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from dft_data import SHARED
    from test_dft_shards import Place, crystal

    from xtalrl.dft.cache import Cache
    from xtalrl.dft.outcomes import scf_parse

    def timed(label: str, count: int, start: float) -> None:
        elapsed = time.perf_counter() - start
        print(f"{label}: {elapsed:.2f} s for {count:,} ({1e3 * elapsed / count:.2f} ms each)")

    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        start = time.perf_counter()
        place.plan(*(crystal(f"c{i}", *("Na", "Cl") * 5, size=1 + i / n) for i in range(n)))
        timed("plan crystals of 10 sites", n, start)
        start = time.perf_counter()
        place.run(workers=2)
        timed("settle with a stand-in for pw.x, 2 workers", n, start)
        start = time.perf_counter()
        place.run(workers=2)
        timed("settle from the cache", n, start)
        start = time.perf_counter()
        Cache(place.cache)
        timed("read the cache", n, start)
    if files := sorted((SHARED / "pw_outputs").glob("*.pwo.gz")):
        start = time.perf_counter()
        list(scf_parse(files))
        timed("parse production outputs", len(files), start)


def main() -> None:
    """Measure and write, or time the machinery."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sssp", nargs="?", help="archive or folder of the SSSP 1.3.0 efficiency pseudopotentials; else downloaded"
    )
    parser.add_argument("--machinery", action="store_true", help="time what surrounds pw.x instead")
    parser.add_argument(
        "--stop-after",
        type=float,
        default=1e9,
        help="start no further run after this many minutes (0: only what is done)",
    )
    parser.add_argument(
        "--try",
        nargs="+",
        dest="electrons",
        metavar="NAME=VALUE",
        help="only print what ours costs beside ours with these values in &ELECTRONS, on the crystals of --only",
    )
    parser.add_argument(
        "--only", nargs="+", choices=[crystal.name for crystal in PANEL], help="crystals, instead of all"
    )
    parser.add_argument("--ends", action="store_true", help="only literal and ours, none of the steps between")
    parser.add_argument(
        "--commands",
        nargs=2,
        metavar=("REFERENCE", "FAST"),
        help="two commands for one pw.x, linked with the reference BLAS and with a fast one, instead of the embedded pw.x; give --results a name of its own too",
    )
    parser.add_argument("--results", type=Path, default=PROJECT / "results/scf_benchmark")
    parser.add_argument("--cache", default=str(PROJECT / "results/cache"))
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs/results")
    args = parser.parse_args()
    if args.machinery:
        time_machinery()
        return
    family, folder = load_family(fetch_family(FAMILY, args.sssp, args.cache))
    bench = Bench(family, folder.absolute(), args.cache, args.results, args.commands)
    deadline = time.monotonic() + 60 * args.stop_after
    crystals = [crystal for crystal in PANEL if args.only is None or crystal.name in args.only]
    if args.electrons:
        for crystal in crystals:
            bench.compare(crystal, dict(item.split("=", 1) for item in args.electrons))
        return
    for crystal in crystals:
        for step in ("ours", "literal") if args.ends else reversed(STEPS):
            if time.monotonic() < deadline:
                bench.run(crystal, step)
    rows = [bench.done[crystal.name, step] for crystal in PANEL for step in STEPS if (crystal.name, step) in bench.done]
    text = document(bench.done, bench.fast.label)
    write_csv(args.docs / f"{args.results.name}.csv", list(dict.fromkeys(name for row in rows for name in row)), rows)
    write_text(args.docs / f"{args.results.name}.md", text)
    print(text)


if __name__ == "__main__":
    main()
