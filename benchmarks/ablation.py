"""The effect of each ingredient of `training.preset: modern`, one at a time, and of the further options.

    python benchmarks/ablation.py train INDEX_RUN NODE_RUN FOLDER [--steps 3000] [--only NAME ...]
    python benchmarks/ablation.py report FOLDER
    python benchmarks/ablation.py score POLICY RUN [--targets 0 1.12 3] [--even-electrons] [--neutral] [--guidance 2]

`train` trains and rolls out one recipe after another into FOLDER; it goes on where it was stopped, and leaves out what docs/results/ablation.csv
has, unless `--only` names it. INDEX_RUN and NODE_RUN are results
folders of `snakemake trajectories` from the same labels, one with `training.focus: index`, one with `node`, because a policy that is to be
blind to the order of the file needs orders that do not follow it; METALS_RUN (`--metals-run`) is one with `structures.metals: train`.
`report` adds the recipes in FOLDER to docs/results/ablation.{csv,md}. `score` prints the same metrics of any trained policy (the folder of its policy.json), designing on the
validation skeletons of a run. No design needs an SCF: where its reduced formula is that of crystals of the source, the
mean of their gaps stands in for its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xtalrl import tables
from xtalrl.cells import reduced_formula
from xtalrl.config import TrainingConfig
from xtalrl.csv_files import write_csv
from xtalrl.elements import ACTION, ATOMIC_NUMBERS
from xtalrl.files import write_text
from xtalrl.metrics.composition import count_correct
from xtalrl.metrics.formulas import composition_key
from xtalrl.metrics.validity import is_valid
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.rollout import rollout_policy
from xtalrl.rl.rollout_settings import RolloutSettings
from xtalrl.rl.settings import PRESETS
from xtalrl.rl.training import train_policy

PROJECT = Path(__file__).resolve().parents[1]
TABLE = PROJECT / "docs/results/ablation.csv"
COLUMNS = ("group", "recipe", "seed", "steps", "cpu_s", "metric", "value", "low", "high", "n")
TARGETS = (1.12, 2.0, 3.0, 4.0)
COMMON = {"batch_size": 256, "learning_rate": 1e-3, "log_every": 200, "checkpoint_every": 500, "device": "cpu"}
COSINE = {"schedule": "cosine", "warmup_steps": 200}
MODERN = PRESETS["modern"] | {"warmup_steps": 200}
CQL = {"omega": 5.0, "reward": Reward()}
SIZES = ((1, 5), (6, 8), (9, 12), (13, 20))


@dataclass(frozen=True)
class Recipe:
    """A policy that is trained, with all that differs from the paper's inputs."""

    group: str
    name: str
    spec: PolicySpec
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    metals: bool = False

    @property
    def focus(self) -> str:
        """How the policy sees the site that it fills."""
        return str(self.options.get("focus", "index"))


def recipes() -> list[Recipe]:
    """Every recipe, in the order of the table."""
    bc, rvs = PolicySpec("bc"), PolicySpec("rvs")
    node = {**COSINE, "weight_averaging": 0.999, "focus": "node", "state_features": "raw"}
    without = {key: {k: v for k, v in MODERN.items() if k != key} for key in MODERN}
    ccql = PolicySpec("ccql", target_ev=1.12, **CQL)  # type: ignore[arg-type]
    any_target = PolicySpec("ccql-any", target_range_ev=(0.0, 6.0), **CQL)  # type: ignore[arg-type]
    return [
        Recipe("added", "BC, the paper's inputs", bc, {}, seeds=(0, 1, 2)),
        Recipe("added", "+ warm-up and cosine", bc, COSINE),
        Recipe("added", "+ averaged weights", bc, {**COSINE, "weight_averaging": 0.999}),
        Recipe("added", "+ focus: node, and orders that do not follow the file", bc, node),
        Recipe("added", "+ standardised state", bc, {**node, "state_features": "standardised"}),
        Recipe("added", "+ 100 Gaussians for a bond length", bc, without["target_embedding"]),
        Recipe("added", "+ own gap as p̂ in a column: rvs", rvs, without["target_embedding"]),
        Recipe("added", "+ p̂ as Gaussians on every node: rvs, modern", rvs, MODERN, seeds=(0, 1, 2)),
        Recipe("taken away", "− warm-up and cosine", rvs, {k: v for k, v in without["schedule"].items() if k != "warmup_steps"}),
        Recipe("taken away", "− averaged weights", rvs, without["weight_averaging"]),
        Recipe("taken away", "− focus: node", rvs, without["focus"]),
        Recipe("taken away", "− standardised state", rvs, {**MODERN, "state_features": "raw"}),
        Recipe("taken away", "− 100 Gaussians", rvs, without["edge_features"]),
        Recipe("options", "electrons as inputs", rvs, {**MODERN, "electrons": True}),
        Recipe("options", "p̂ hidden for 10 %", rvs, {**MODERN, "hide_target": 0.1}),
        Recipe("options", "crystals drawn alike", rvs, {**MODERN, "weighting": "crystals"}),
        Recipe("options", "sizes drawn alike", rvs, {**MODERN, "weighting": "sizes"}),
        Recipe("options", "metals with gap 0", rvs, MODERN, metals=True),
        Recipe("options", "no noise on p̂", rvs, {**MODERN, "target_noise_ev": 0.0}),
        Recipe("options", "E_form as a second condition", rvs, {**MODERN, "condition_on_energy": True}),
        Recipe("Q-learning", "c-CQL 1.12 eV, modern, bootstrapped", ccql, MODERN),
        Recipe("Q-learning", "c-CQL 1.12 eV, modern, exact returns", ccql, {**MODERN, "returns": "monte_carlo"}),
        Recipe("Q-learning", "c-CQL 1.12 eV, modern, exact returns after cloning", ccql, {**MODERN, "returns": "monte_carlo", "cloning_steps": 1500}),
        Recipe("Q-learning", "ccql-any, modern, bootstrapped", any_target, MODERN),
        Recipe("Q-learning", "ccql-any, modern, exact returns", any_target, {**MODERN, "returns": "monte_carlo"}),
    ]  # fmt: skip


def train(runs: Mapping[str, Path | None], folder: Path, steps: int, only: list[str]) -> None:
    """Train and roll out the recipes that are not there yet; those that need a run that was not given are left out."""
    known = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=COLUMNS)
    done = set(zip(known["recipe"], known["seed"], known["steps"], strict=True))
    for number, recipe in enumerate(recipes()):
        run = runs["metals" if recipe.metals else recipe.focus]
        if run is None or (only and not any(part in recipe.name for part in only)):
            continue
        inputs = {"graphs": run / "structures/graphs.parquet", "trajectories": run / "trajectories.parquet"}
        options = {**COMMON, **recipe.options, "steps": steps}
        settings = TrainingConfig(**options).settings
        for seed in recipe.seeds:
            place = folder / f"{number:02d}/seed{seed}"
            if (place / "recipe.json").exists() or (not only and (recipe.name, seed, steps) in done):
                continue
            start = time.process_time()
            train_policy(recipe.spec, settings, folder=place, seed=seed, threads=1, **inputs)
            for target in TARGETS if recipe.spec.algorithm.serves_all_targets else (None,):
                rollout_policy(
                    place,
                    designs=place / f"designs.{target or 'all'}.parquet",
                    device="cpu",
                    target_ev=target,
                    **inputs,
                )
            about = {"group": recipe.group, "name": recipe.name, "run": str(run), "cpu_s": time.process_time() - start}
            (place / "recipe.json").write_text(json.dumps(about | {"steps": steps, "options": options}))


def known_gaps(crystals: pd.DataFrame) -> dict[str, float]:
    """Mean gap in eV of the crystals of each reduced formula."""
    known = crystals.dropna(subset="band_gap")
    return known.groupby("formula")["band_gap"].mean().to_dict()


def score(designs: Path, crystals: pd.DataFrame, gap_of: Mapping[str, float]) -> dict[str, Any]:
    """Per skeleton: sites right, sites, validity, parity of the electrons, known gap and formula of the design."""
    rows = tables.read(designs, tables.DESIGNS).to_pandas()
    rows = rows[rows["sample"] == 0]
    true = crystals.set_index("material_id")["species"].loc[rows["material_id"]]
    valid = np.array(
        [is_valid(composition_key(pd.Series(list(species)).value_counts().to_dict())) for species in rows["species"]]
    )
    formulas = [reduced_formula(species) for species in rows["species"]]
    return {
        "right": np.array([count_correct(list(a), list(b)) for a, b in zip(rows["species"], true, strict=True)]),
        "sites": np.array([len(species) for species in rows["species"]]),
        "valid": valid,
        "odd": np.array([sum(ATOMIC_NUMBERS[ACTION[e]] for e in species) % 2 == 1 for species in rows["species"]]),
        "single": np.array([len(set(species)) == 1 for species in rows["species"]]),
        "gap": np.array(
            [gap_of.get(formula, np.nan) if ok else np.nan for formula, ok in zip(formulas, valid, strict=True)]
        ),
        "formula": np.array(formulas),
    }


def print_scores(policy: Path, run: Path, targets: list[float], settings: RolloutSettings) -> None:
    """Design for each target with a trained policy, and print its metrics as Markdown."""
    crystals = tables.read(run / "structures/crystals.parquet", tables.CRYSTALS).to_pandas()
    gap_of = known_gaps(crystals)
    inputs = {"graphs": run / "structures/graphs.parquet", "trajectories": run / "trajectories.parquet"}
    scores = {}
    with tempfile.TemporaryDirectory() as folder:
        for target in targets:
            designs = Path(folder) / f"{target}.parquet"
            rollout_policy(policy, designs=designs, device="cpu", target_ev=target, settings=settings, **inputs)
            scores[str(target)] = score(designs, crystals, gap_of)
    print(f"| metric, for {targets[0]:g} eV where not said | value | 95 % | n |")
    print("|---|---|---|---|")
    for metric, value, low, high, n in summarise(scores):
        print(f"| {metric} | {value:.2f} | {low:.2f} to {high:.2f} | {n:,} |")


def interval(values: np.ndarray, weights: np.ndarray | None = None, samples: int = 1000) -> tuple[float, float, float]:
    """Weighted mean with the 95 % bootstrap interval over crystals."""
    weights = np.ones(len(values)) if weights is None else weights
    draws = np.random.default_rng(0).integers(len(values), size=(samples, len(values)))
    means = (values * weights)[draws].sum(1) / weights[draws].sum(1)
    return float(np.average(values, weights=weights)), *(float(bound) for bound in np.quantile(means, [0.025, 0.975]))


def summarise(scores: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, float, float, float, int]]:
    """Metrics of a policy: name, value, interval and n. Accuracy and validity are those of its first target."""
    first = next(iter(scores.values()))
    share = first["right"] / first["sites"]
    yield "accuracy_pct", *(100 * x for x in interval(share, first["sites"])), len(share)
    for low, high in SIZES:
        here = (first["sites"] >= low) & (first["sites"] <= high)
        yield (
            f"accuracy_{low}_to_{high}_sites_pct",
            *(100 * x for x in interval(share[here], first["sites"][here])),
            int(here.sum()),
        )
    for name in ("valid", "single"):
        yield f"{name}_pct", *(100 * x for x in interval(first[name].astype(float))), len(first[name])
    odd = first["odd"][first["valid"]].astype(float)
    yield "odd_electrons_of_valid_pct", *(100 * x for x in interval(odd)), len(odd)
    for target, one in scores.items():
        gaps = one["gap"][np.isfinite(one["gap"])]
        if len(gaps) > 1:
            yield f"known_gap_ev_{target}", *interval(gaps), len(gaps)
    if {"1.12", "4.0"} <= set(scores):
        same = (scores["1.12"]["formula"] == scores["4.0"]["formula"]).astype(float)
        yield "same_for_1.12_and_4_ev_pct", *(100 * x for x in interval(same)), len(same)


def report(folder: Path) -> None:
    """Write docs/results/ablation.{csv,md}: the recipes in a folder in the place of what was known of them, and what was known of others."""
    rows: list[dict[str, Any]] = []
    cache: dict[str, tuple[pd.DataFrame, dict[str, float]]] = {}
    for path in sorted(folder.glob("*/seed*/recipe.json")):
        about = json.loads(path.read_text())
        if about["run"] not in cache:
            crystals = tables.read(Path(about["run"]) / "structures/crystals.parquet", tables.CRYSTALS).to_pandas()
            cache[about["run"]] = crystals, known_gaps(crystals)
        scores = {
            designs.name.removeprefix("designs.").removesuffix(".parquet"): score(designs, *cache[about["run"]])
            for designs in sorted(path.parent.glob("designs.*.parquet"))
        }
        for metric, value, low, high, n in summarise(scores):
            rows.append(
                {
                    "group": about["group"], "recipe": about["name"], "seed": int(path.parent.name.removeprefix("seed")), "steps": about["steps"],
                    "cpu_s": about["cpu_s"], "metric": metric, "value": value, "low": low, "high": high, "n": n,
                }
            )  # fmt: skip
    new = {(row["recipe"], row["seed"]) for row in rows}
    if TABLE.exists():
        known = pd.read_csv(TABLE).to_dict("records")
        rows += [row for row in known if (row["recipe"], row["seed"]) not in new]
    place = {recipe.name: number for number, recipe in enumerate(recipes())}
    rows.sort(key=lambda row: (place[row["recipe"]], row["seed"]))
    write_csv(TABLE, list(COLUMNS), rows)
    write_text(TABLE.with_suffix(".md"), page(pd.DataFrame(rows)))


def page(frame: pd.DataFrame) -> str:
    """The page: a row per recipe, its mean over seeds, with the interval over crystals of seed 0 and the spread of the seeds."""
    steps = frame["steps"].iloc[0]
    lines = [
        "# The ingredients of a policy, one at a time",
        "",
        f"Written by `benchmarks/ablation.py`: {steps:,} steps of 256 transitions each, on one core, from the released labels "
        "(`trajectories.disconnected: drop`), greedy designs on all validation skeletons, for 1.12 eV where a policy has a target. Brackets: 95 % "
        "over crystals (seed 0); ±: standard deviation over three seeds, where three were trained. Known gaps: mean gap in the source of the "
        "crystals that have the formula of a valid design, for targets of 1.12 / 2 / 3 / 4 eV. These runs are short: they rank ingredients, and "
        "a full training reaches more. Recipes of the script that are missing here were not run.",
        "",
    ]
    headings = [
        "recipe",
        "accuracy (%)",
        "1–5 sites",
        "6–8",
        "validity (%)",
        "odd electrons of the valid (%)",
        "single elements (%)",
        "known gaps (eV)",
        "same design for 1.12 and 4 eV (%)",
        "CPU (min)",
    ]
    for group, part in frame.groupby("group", sort=False):
        lines += [f"## {str(group).capitalize()}", "", f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
        for name, one in part.groupby("recipe", sort=False):
            metrics = dict(iter(one.groupby("metric", sort=False)))

            def cell(metric: str, metrics: Mapping[Any, pd.DataFrame] = metrics) -> str:
                if metric not in metrics:
                    return "–"
                values = metrics[metric]
                spread = f" ± {values['value'].std():.1f}" if len(values) > 1 else ""
                seed0 = values.iloc[0]
                return f"{values['value'].mean():.1f}{spread} [{seed0['low']:.1f}, {seed0['high']:.1f}]"

            gaps = " / ".join(
                f"{metrics[key]['value'].mean():.2f}"
                for key in (f"known_gap_ev_{target}" for target in ("all", *TARGETS))
                if key in metrics
            )
            cells = [
                cell(m)
                for m in (
                    "accuracy_pct",
                    "accuracy_1_to_5_sites_pct",
                    "accuracy_6_to_8_sites_pct",
                    "valid_pct",
                    "odd_electrons_of_valid_pct",
                    "single_pct",
                )
            ]
            cpu = one.groupby("seed")["cpu_s"].first().mean() / 60
            lines.append(
                f"| {name} | {' | '.join(cells)} | {gaps} | {cell('same_for_1.12_and_4_ev_pct')} | {cpu:.1f} |"
            )
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("index_run", type=Path)
    training.add_argument("node_run", type=Path)
    training.add_argument("folder", type=Path)
    training.add_argument("--metals-run", type=Path)
    training.add_argument("--steps", type=int, default=3000)
    training.add_argument("--only", nargs="*", default=[])
    scoring = commands.add_parser("score")
    scoring.add_argument("policy", type=Path)
    scoring.add_argument("run", type=Path)
    scoring.add_argument("--targets", type=float, nargs="+", default=list(TARGETS))
    scoring.add_argument("--even-electrons", action="store_true")
    scoring.add_argument("--neutral", action="store_true")
    scoring.add_argument("--guidance", type=float, default=1.0)
    reporting = commands.add_parser("report")
    reporting.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "train":
        runs = {"index": arguments.index_run, "node": arguments.node_run, "metals": arguments.metals_run}
        train(runs, arguments.folder, arguments.steps, arguments.only)
    elif arguments.command == "score":
        settings = RolloutSettings(
            even_electrons=arguments.even_electrons, neutral=arguments.neutral, guidance=arguments.guidance
        )
        print_scores(arguments.policy, arguments.run, arguments.targets, settings)
    else:
        report(arguments.folder)


if __name__ == "__main__":
    main()
