"""What the extended recovery brings and costs on designs of a trained policy: docs/results/design_recovery.{csv,md}.

    python benchmarks/design_recovery.py run RUN FAMILY_ARCHIVE FOLDER [--policy NAME] [--designs N]
    python benchmarks/design_recovery.py report FOLDER...

RUN is a results folder with designs (`snakemake rollout`), best of small cells (`structures.max_sites: 5`). `run` draws skeletons at
random, takes the valid design of each and computes it with `recovery: extended`; what `recovery: paper` would have said is read from the
same attempts. It keeps a line per design in FOLDER/designs.jsonl and goes on from there. `report` writes the two files.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import time
from collections import Counter
from pathlib import Path
from typing import Any

from scipy import stats

from xtalrl import tables
from xtalrl.csv_files import write_csv
from xtalrl.dft.pseudopotentials import fetch_family
from xtalrl.dft.requests import plan_design_scf
from xtalrl.dft.shards import run_shard
from xtalrl.files import write_text

RESULTS = Path(__file__).parents[1] / "docs/results"
FAMILY = "sssp-1.3.0-efficiency"
PROTOCOL = "paper-fast"
MINUTES = [12.0, 8.0]
"""Wall time that the first attempt of a design may take, and what all others may add, on cores that are shared."""
SEARCHES = ("smear_to_find_moment", "impose_found_moment", "start_antiferromagnetic")
"""Rungs that look for spin, or for a metal."""


def draw(run: Path, policy: str, n: int, seed: int) -> list[str]:
    """Skeletons of `n` valid designs of a policy, drawn at random: the same for every policy as far as their designs are valid."""
    rows = [
        row
        for row in tables.read_rows(run / "designs/assessments.parquet", tables.ASSESSMENTS)
        if row["policy"] == policy and not row["sample"]
    ]
    skeletons = sorted(row["material_id"] for row in rows)
    random.Random(seed).shuffle(skeletons)
    valid = {row["material_id"] for row in rows if row["valid"]}
    return [skeleton for skeleton in skeletons if skeleton in valid][:n]


def compute(options: argparse.Namespace) -> None:
    """Compute the designs one by one, and keep a line for each."""
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "designs.jsonl"
    done = {json.loads(line)["material_id"] for line in log.read_text().splitlines()} if log.exists() else set()
    family = str(fetch_family(FAMILY, options.family, str(options.cache)))
    assessments = tables.read_rows(options.run / "designs/assessments.parquet", tables.ASSESSMENTS)
    limits = dict.fromkeys(("crystal", "reference", "design"), options.minutes)
    for number, material_id in enumerate(draw(options.run, options.policy, options.designs, options.seed)):
        if material_id in done:
            continue
        row = next(
            row
            for row in assessments
            if row["policy"] == options.policy and row["material_id"] == material_id and not row["sample"]
        )
        chosen, requests, outcomes = (
            str(folder / f"{name}.parquet") for name in ("assessments", "requests", f"outcome{number:03d}")
        )
        tables.write_rows([row], tables.ASSESSMENTS, chosen)
        crystals = str(options.run / "structures/crystals.parquet")
        plan_design_scf(chosen, crystals, None, family, requests, None, PROTOCOL, "extended", 1)
        designs = [r for r in tables.read_rows(requests, tables.SCF_REQUESTS) if r["kind"] == "design"]
        tables.write_rows(designs, tables.SCF_REQUESTS, requests)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        run_shard(requests, family, 0, outcomes, 1, PROTOCOL, "extended", limits, None, str(options.cache))
        cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        [outcome] = tables.read_rows(outcomes, tables.SCF_OUTCOMES)
        line = {
            "policy": options.policy,
            "material_id": material_id,
            "formula": row["formula"],
            "n_sites": row["n_sites"],
            "cpu_s": cpu_s,
            **{name: outcome[name] for name in ("outcome", "detail", "strategy", "recovered", "band_gap", "engine")},
            "attempts": [
                {name: attempt[name] for name in ("strategy", "outcome", "wall_s")} for attempt in outcome["attempts"]
            ],
            "time": time.time(),
        }
        with log.open("a") as file:
            file.write(json.dumps(line) + "\n")


def by_the_paper(design: dict[str, Any]) -> bool:
    """Whether the rungs of `recovery: paper` alone give an energy."""
    return design["strategy"] is not None and not design["recovered"]


def share(hits: int, n: int) -> str:
    """Count and share in percent, with Wilson's 95 % interval."""
    interval = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return f"{hits} of {n}: {100 * hits / n:.0f} % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def summary(designs: list[dict[str, Any]], window_ev: float = 0.25) -> dict[str, str]:
    """Outcomes and cost of the designs of one policy."""
    n = len(designs)
    attempts = [attempt | {"cpu_s": cpu_of(design, attempt)} for design in designs for attempt in design["attempts"]]
    paper = [a for a in attempts if not is_extended(a)]
    searches = [a for a in attempts if a["strategy"] in SEARCHES]
    answered = [d for d in designs if d["band_gap"] is not None]
    target = float(designs[0]["policy"].rpartition("-")[2].removesuffix("ev"))
    hits = sum(abs(d["band_gap"] - target) < window_ev for d in answered)
    return {
        "valid designs": str(n),
        "an energy by the paper's rules": share(sum(map(by_the_paper, designs)), n),
        "an energy by the extended ladder": share(sum(d["strategy"] is not None for d in designs), n),
        "no gap, of those with an energy": share(sum(d["band_gap"] < 0.01 for d in answered), len(answered)),
        f"within {window_ev:g} eV of the target": share(hits, n),
        "runs of pw.x per design, the paper's rungs": f"{len(paper) / n:.2f}",
        "runs of pw.x per design, extended": f"{len(attempts) / n:.2f}",
        "CPU s per design, the paper's rungs": f"{sum(a['cpu_s'] for a in paper) / n:.0f}",
        "CPU s per design, extended": f"{sum(a['cpu_s'] for a in attempts) / n:.0f}",
        "of these, searches for spin or a metal": f"{sum(a['cpu_s'] for a in searches) / n:.0f}",
    }


def is_extended(attempt: dict[str, Any]) -> bool:
    """Whether only the extended ladder makes such an attempt."""
    return attempt["strategy"] not in (
        "unpolarised",
        "known_magnetization",
        "more_time",
        "again",
        "fewer_bands",
        "more_bands",
    )


def cpu_of(design: dict[str, Any], attempt: dict[str, Any]) -> float:
    """CPU seconds of an attempt: the design's, shared by wall time, since the cores were shared with other work."""
    wall_s = sum(a["wall_s"] for a in design["attempts"])
    return float(design["cpu_s"] * attempt["wall_s"] / wall_s) if wall_s else 0.0


def report(folders: list[Path]) -> None:
    """Write the page and the table behind it."""
    designs = [json.loads(line) for folder in folders for line in (folder / "designs.jsonl").read_text().splitlines()]
    policies = list(dict.fromkeys(design["policy"] for design in designs))
    summaries = {policy: summary([d for d in designs if d["policy"] == policy]) for policy in policies}
    columns = ["policy", "material_id", "formula", "n_sites", "outcome", "strategy", "recovered", "band_gap", "cpu_s"]
    table = [
        {name: round(design[name], 3) if isinstance(design[name], float) else design[name] for name in columns}
        | {"attempts": " ".join(f"{a['strategy']}:{a['outcome']}" for a in design["attempts"])}
        for design in designs
    ]
    write_csv(RESULTS / "design_recovery.csv", list(table[0]), table)
    engines = Counter(design["engine"] for design in designs if design["engine"])
    lines = [
        "# Recovery on designs of trained policies",
        "",
        "Made by `benchmarks/design_recovery.py`. Valid designs on random validation skeletons of at most "
        f"{max(design['n_sites'] for design in designs)} sites, protocol `{PROTOCOL}`, SSSP, {', '.join(engines)}, one core shared with other work. "
        f"Time limits of a design: {MINUTES[0]:g} minutes, and {MINUTES[1]:g} for what follows. "
        "`rvs-mp20` is the policy that ships with xtalrl (metals in its training data), with even numbers of electrons. "
        "Designs are computed in a random order; the one that was running when the computation was stopped is left out. "
        "Brackets are Wilson's 95 % intervals. The rungs of `recovery: paper` are the first of the extended ladder, so both come from the same runs.",
        "",
        "| | " + " | ".join(policies) + " |",
        "|---|" + "---:|" * len(policies),
        *(f"| {key} | " + " | ".join(summaries[p][key] for p in policies) + " |" for key in summaries[policies[0]]),
    ]
    ends = Counter((a["strategy"], a["outcome"]) for design in designs for a in design["attempts"])
    lines += ["", "| rung | how it ended | times |", "|---|---|---:|"]
    lines += [f"| `{rung}` | {outcome} | {count} |" for (rung, outcome), count in ends.most_common()]
    write_text(RESULTS / "design_recovery.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    run = commands.add_parser("run")
    run.add_argument("run", type=Path)
    run.add_argument("family", help="archive of the SSSP 1.3.0 efficiency pseudopotentials")
    run.add_argument("folder", type=Path)
    run.add_argument("--policy", default="rvs-mp20-1.12ev")
    run.add_argument("--designs", type=int, default=60)
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--minutes", type=float, nargs="+", default=MINUTES, help="time limits of a design")
    run.add_argument("--cache", type=Path, default=Path("results/cache"))
    commands.add_parser("report").add_argument("folders", type=Path, nargs="+")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.command == "run":
        compute(options)
    else:
        report(options.folders)


if __name__ == "__main__":
    main()
