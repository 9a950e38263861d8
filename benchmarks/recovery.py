"""The recovery ladder in reality: how many designs end with an energy by the paper's recovery, how many by the extended one.

    python benchmarks/recovery.py MP20_FOLDER SSSP_ARCHIVE

Random valid designs: small skeletons of the validation split, each site filled with a random one of the 88 elements until the
composition is valid, as the random policy does. They run once with `recovery: extended`; `recovery: paper`, whose attempts are among those
made, is then answered by the cache. Known moments: magnetic crystals of the training split (validation.py) whose moment is withheld from
the ladder, which has to find it. Writes docs/results/recovery.{md,csv}. What the cache holds is not run again.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase.data import atomic_numbers
from validation import HUND_MOMENTS

from xtalrl import tables
from xtalrl.cells import write_formula
from xtalrl.csv_files import read_csv, write_csv
from xtalrl.dft.protocols import PROTOCOLS
from xtalrl.dft.pseudopotentials import fetch_family, load_family
from xtalrl.dft.recovery import MOST_ATTEMPTS, RUNGS, SPIN_ELEMENTS, Recovery
from xtalrl.dft.requests import plan_crystal_scf
from xtalrl.dft.shards import run_shard
from xtalrl.elements import ELEMENTS
from xtalrl.files import write_text
from xtalrl.metrics.intervals import Bootstrap
from xtalrl.metrics.validity import is_valid
from xtalrl.structures.crystals import Rejection, parse_row

PROJECT = Path(__file__).resolve().parents[1]
FAMILY = "sssp-1.3.0-efficiency"
BASE_PROTOCOL = "paper-fast"
WITHHELD = ("mp-22877", "mp-1247154", "mp-12335", "mp-28233", "mp-19419")


def read_crystals(path: Path, max_sites: int, largest_volume: float, ids: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Nonmetals of a split with 2 to `max_sites` sites and at most this volume (Å³), or those with these ids."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in read_csv(path).rows:
            if ids and row["material_id"] not in ids:
                continue
            if float(row["cif"].partition("_cell_volume")[2].split()[0]) > largest_volume:
                continue
            try:
                crystal = parse_row(row, max_sites)
            except Rejection:
                continue
            if crystal["n_sites"] >= 2:
                found.append(crystal | {"split": "val", "source": path.name, "tot_magnetization": None})
    return found


def draw_designs(skeletons: list[dict[str, Any]], n: int, seed: int, f_block: bool) -> list[dict[str, Any]]:
    """Random skeletons, each filled with uniformly random elements until valid; no design twice."""
    generator = random.Random(seed)
    elements = [e for e in ELEMENTS if f_block or (not 57 <= atomic_numbers[e] <= 71 and atomic_numbers[e] < 89)]
    designs: dict[str, dict[str, Any]] = {}
    while len(designs) < n:
        skeleton = generator.choice(skeletons)
        while True:
            species = [generator.choice(elements) for _ in skeleton["species"]]
            if is_valid(Counter(species)):
                break
        name = f"{skeleton['material_id']}:{'-'.join(species)}"
        designs[name] = skeleton | {"material_id": name, "species": species, "formula": formula_of(species)}
    return list(designs.values())


def formula_of(species: list[str]) -> str:
    """Elements in alphabetical order with their numbers."""
    return write_formula(dict(sorted(Counter(species).items())))


def write_protocol(path: Path, mesh: int) -> str:
    """`paper-fast` on another mesh: the ladder meets the same failures at a fraction of the cost."""
    content = yaml.safe_load((PROTOCOLS / f"{BASE_PROTOCOL}.yaml").read_text())
    content["kpoints"] = [mesh] * 3
    # Of the search for a moment and of metals: what `paper-fast` had when these runs began, so that all of them can be compared.
    content["references"]["smearing"] = "marzari-vanderbilt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return str(path)


def run(
    crystals: list[dict[str, Any]],
    recovery: Recovery,
    folder: Path,
    args: argparse.Namespace,
    family: str,
    protocol: str,
) -> list[dict[str, Any]]:
    """Outcomes in their order, each a shard of its own, of those that were finished earlier or started before the deadline."""
    folder.mkdir(parents=True, exist_ok=True)
    path, requests = str(folder / "crystals.parquet"), str(folder / "requests.parquet")
    tables.write_rows(crystals, tables.CRYSTALS, path)
    plan_crystal_scf(path, family, requests, protocol, 1)
    number = {crystal["material_id"]: i for i, crystal in enumerate(crystals)}
    # The rules of designs: one time limit for all attempts together.
    rows = [
        row | {"kind": "design", "shard": number[row["request_id"]]}
        for row in tables.read_rows(requests, tables.SCF_REQUESTS)
    ]
    tables.write_rows(rows, tables.SCF_REQUESTS, requests)
    limits = dict.fromkeys(("crystal", "reference", "design"), args.minutes)
    outcomes = []
    for shard in range(len(crystals)):
        path = str(folder / f"{recovery}-{shard:03d}.parquet")
        if time.time() > args.deadline and not Path(path).exists():
            continue
        run_shard(requests, family, shard, path, 1, protocol, recovery, limits, None, args.cache)
        outcomes += tables.read_rows(path, tables.SCF_OUTCOMES)
    return outcomes


def succeeded(outcome: dict[str, Any]) -> bool:
    """Whether it ended with an energy."""
    return outcome["total_energy_ry"] is not None


def winner(outcome: dict[str, Any]) -> str:
    """The rung whose attempt speaks for a crystal: the last of those with its settings that converged."""
    return str(outcome["strategy"] or "none")


def rate(outcomes: list[dict[str, Any]]) -> str:
    """Share of successes with Wilson's interval."""
    hits = np.array([[succeeded(outcome) for outcome in outcomes]])
    estimate = Bootstrap(1, len(outcomes), 100, 0.95).proportion(hits, np.ones_like(hits))
    assert estimate.value is not None and estimate.low is not None and estimate.high is not None
    return f"{int(hits.sum())} of {len(outcomes)} | {100 * estimate.value:.0f} % ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"


def rung_table(outcomes: list[dict[str, Any]]) -> list[str]:
    """What each rung was tried for, won and cost."""
    tried: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        for attempt in outcome["attempts"]:
            tried[attempt["strategy"]] += 1
            seconds[attempt["strategy"]] += attempt["wall_s"]
            ends[attempt["strategy"]][attempt["outcome"]] += 1
    won = Counter(winner(outcome) for outcome in outcomes if succeeded(outcome))
    lines = ["| rung | attempts | speaks for | seconds | how its attempts ended |", "|---|---|---|---|---|"]
    for rung in sorted(tried, key=lambda name: -tried[name]):
        how = ", ".join(f"{count} {name}" for name, count in ends[rung].most_common())
        lines.append(f"| {rung} | {tried[rung]} | {won[rung]} | {seconds[rung]:.0f} | {how} |")
    return lines


def ladder() -> list[str]:
    """The extended ladder as it is in the code."""
    lines = [
        "## The ladder",
        "",
        "After an outcome the first of its rungs that has something to offer is climbed; no attempt is made twice, and none after "
        f"{MOST_ATTEMPTS}. Of the attempts that converged, the one of lowest energy counts; a search for a moment never does.",
        "",
        "| after | `extended` tries | `paper` tries |",
        "|---|---|---|",
    ]
    names = {
        recovery: {
            outcome: ", ".join(f"`{rung.__name__}`" for rung in rungs) for outcome, rungs in RUNGS[recovery].items()
        }
        for recovery in ("paper", "extended")
    }
    lines += [
        f"| `{outcome}` | {tried} | {names['paper'].get(outcome, '')} |" for outcome, tried in names["extended"].items()
    ]
    rungs = dict.fromkeys(rung for rungs in RUNGS["extended"].values() for rung in rungs)
    lines += ["", "| rung | what it tries and why |", "|---|---|"]
    lines += [
        f"| `{rung.__name__}` | {' '.join((rung.__doc__ or '').partition(chr(10) * 2)[0].split())} |" for rung in rungs
    ]
    return [*lines, ""]


def attempts_of(outcome: dict[str, Any]) -> str:
    """One line on the attempts."""
    words = []
    for attempt in outcome["attempts"]:
        moment = "" if attempt["tot_magnetization"] is None else f" {attempt['tot_magnetization']:g} µB"
        words.append(f"{attempt['strategy']}{moment}: {attempt['outcome']} ({attempt['wall_s']:.0f} s)")
    return ", ".join(words)


def document(
    designs: list[dict[str, Any]],
    paper: list[dict[str, Any]],
    extended: list[dict[str, Any]],
    withheld: list[dict[str, Any]],
    args: argparse.Namespace,
) -> str:
    """The page."""
    sites = Counter(len(outcome["species"]) for outcome in extended)
    left_out = (
        f" {args.designs - len(extended)} more were drawn and not run, the most expensive ones."
        if args.designs > len(extended)
        else ""
    )
    lines = [
        "# The recovery ladder in reality",
        "",
        f"Written by `benchmarks/recovery.py` (seed {args.seed}). {len(extended)} random valid designs on cells of "
        f"{' and '.join(f'{n} sites ({count})' for n, count in sorted(sites.items()))} of at most {args.largest_volume:g} Å³ from the validation "
        f"split, protocol `{BASE_PROTOCOL}` with Marzari-Vanderbilt smearing on a mesh of {args.mesh}x{args.mesh}x{args.mesh}, SSSP; "
        f"{', '.join(f'{count} with {engine}' for engine, count in Counter(o['engine'] for o in extended).items())}, on cores that other work shared. "
        f"`dft.time_limits.design` is {args.minutes}: minutes of wall time for the first attempt, and what all others together may add (the paper: 15 minutes on 32 cores). Elements are drawn uniformly from the 88"
        f"{'' if args.f_block else ' without lanthanides and actinides, whose SCFs take many times longer'}. A success is an SCF that ended with an energy.{left_out}",
        "",
        "| recovery | successes | rate (95 %) |",
        "|---|---|---|",
        f"| `paper` | {rate(paper)} |",
        f"| `extended` | {rate(extended)} |",
        "",
        "The paper's attempts are the first of the extended ladder, so both rates come from the same runs.",
        "",
        *ladder(),
        "## What each rung brings",
        "",
        "Seconds are wall time of one process.",
        "",
        *rung_table(extended),
        "",
    ]
    checked = [
        o for o in extended if [a["strategy"] for a in o["attempts"][:2]] == ["low_spin", "smear_to_find_moment"]
    ]
    changed = sum(winner(outcome) != "low_spin" for outcome in checked)
    stuck = [o for o in paper if o["outcome"] == "time_limit"]
    lines += [
        f"Smearing checked {len(checked)} guesses of 1 µB that gave no gap and changed {changed} of them: on random designs, nearly all of them metals, this "
        "check costs about as much as the guess and brings little; it is there for magnetic insulators (one is a test: the nitrogen atom, 1 µB gapless, 3 µB found).",
        "",
        f"The {len(stuck)} designs that `paper` lost to the time limit were making iterations without end: "
        f"{', '.join(formula_of(o['species']) + ' after ' + o['detail'].partition(' done')[0] for o in stuck)}. "
        "Whether some of them would have ended within the paper's 15 minutes on 32 cores is not known.",
        "",
    ]
    if withheld:
        lines += [
            "## Known moments, withheld",
            "",
            "Magnetic crystals whose SCF with the moment given here agrees with the released label ([dft_validation.md](dft_validation.md)), computed as if "
            "the moment were not known.",
            "",
            "| crystal | formula | its moment (µB) | moment found (µB) | by | gap (eV) | attempts |",
            "|---|---|---|---|---|---|---|",
        ]
        for outcome in withheld:
            material_id = outcome["request_id"]
            gap = "" if outcome["band_gap_raw"] is None else f"{outcome['band_gap_raw']:.3f}"
            moment = "" if outcome["tot_magnetization"] is None else f"{outcome['tot_magnetization']:g}"
            lines.append(
                f"| {material_id} | {formula_of(outcome['species'])} | {HUND_MOMENTS[material_id]:g} | {moment} | {winner(outcome)} | {gap} | "
                f"{attempts_of(outcome)} |"
            )
        lines.append("")
    lines += [
        "## Every design",
        "",
        "| design | skeleton | electrons | `paper` | `extended` | gap, raw (eV) | attempts |",
        "|---|---|---|---|---|---|---|",
    ]
    for design, before, after in zip(designs, paper, extended, strict=True):
        gap = "" if after["band_gap_raw"] is None else f"{after['band_gap_raw']:.3f}"
        lines.append(
            f"| {design['formula']} | {design['material_id'].partition(':')[0]} | {design['n_electrons']} | {before['outcome']} | {after['outcome']} | "
            f"{gap} | {attempts_of(after)} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Draw, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mp20", type=Path, help="folder with MP-20's train and val as .csv or .csv.gz")
    parser.add_argument("sssp", help="archive of the SSSP 1.3.0 efficiency pseudopotentials")
    parser.add_argument("--designs", type=int, default=44)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-sites", type=int, default=3)
    parser.add_argument("--largest-volume", type=float, default=45.0, help="of a skeleton, in Å³")
    parser.add_argument(
        "--f-block", action="store_true", help="draw lanthanides and actinides too, whose SCFs take many times longer"
    )
    parser.add_argument("--mesh", type=int, default=2, help="k points along each axis")
    parser.add_argument(
        "--minutes",
        type=float,
        nargs="+",
        default=[3.0, 2.0],
        help="wall time of the first attempt of a design, and what the others add",
    )
    parser.add_argument(
        "--stop-after",
        type=float,
        default=1e9,
        help="start no further SCF after this many minutes (0: only what is done)",
    )
    parser.add_argument("--spin", action="store_true", help="only designs with an element that may have spin")
    parser.add_argument("--no-withheld", action="store_true", help="leave the known moments out")
    parser.add_argument("--results", type=Path, default=PROJECT / "results/recovery")
    parser.add_argument("--cache", default=str(PROJECT / "results/cache"))
    parser.add_argument("--docs", type=Path, default=PROJECT / "docs/results")
    parser.add_argument("--list", action="store_true", help="show the designs and stop")
    args = parser.parse_args()
    args.deadline = deadline = time.time() + 60 * args.stop_after
    skeletons = read_crystals(next(args.mp20.glob("val.csv*")), args.max_sites, args.largest_volume)
    designs = draw_designs(skeletons, args.designs, args.seed, args.f_block)
    if args.spin:
        designs = [design for design in designs if not SPIN_ELEMENTS.isdisjoint(design["species"])]
    family_path = str(fetch_family(FAMILY, args.sssp, args.cache))
    family, _ = load_family(family_path)
    for design in designs:
        design["n_electrons"] = family.n_electrons(design["species"])
    designs.sort(key=lambda design: design["n_sites"] * design["n_electrons"])  # The cheap ones first.
    if args.list:
        for design in designs:
            print(design["material_id"], design["formula"], design["n_electrons"])
        print(len(skeletons), "skeletons,", sum(design["n_electrons"] % 2 for design in designs), "odd")
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    rows = [{name: value for name, value in design.items() if name != "n_electrons"} for design in designs]
    protocol = write_protocol(args.results / f"mesh{args.mesh}.yaml", args.mesh)
    extended = run(rows, "extended", args.results / "designs", args, family_path, protocol)
    done = {outcome["request_id"] for outcome in extended}
    designs = [design for design in designs if design["material_id"] in done]
    args.deadline = math.inf  # The cache answers.
    paper = run(
        [row for row in rows if row["material_id"] in done],
        "paper",
        args.results / "paper",
        args,
        family_path,
        protocol,
    )
    withheld = []
    if not args.no_withheld:
        known = read_crystals(next(args.mp20.glob("train.csv*")), 6, 1e9, WITHHELD)
        args.minutes, args.deadline = [10.0], deadline
        withheld = run(known, "extended", args.results / "withheld", args, family_path, BASE_PROTOCOL)
    table = [
        {
            "design": design["material_id"],
            "formula": design["formula"],
            "n_electrons": design["n_electrons"],
            "paper": before["outcome"],
            "extended": after["outcome"],
            "rung": winner(after),
            "tot_magnetization": after["tot_magnetization"],
            "band_gap_raw_ev": after["band_gap_raw"],
            "total_energy_ry": after["total_energy_ry"],
            "attempts": len(after["attempts"]),
            "wall_s": after["wall_s"],
        }
        for design, before, after in zip(designs, paper, extended, strict=True)
    ]
    write_csv(args.docs / "recovery.csv", list(table[0]), table)
    text = document(designs, paper, extended, withheld, args)
    write_text(args.docs / "recovery.md", text)
    print(text)


if __name__ == "__main__":
    main()
