"""What the compositions of policies tell, beside the paper's Table 1, and whether one policy for every target does what each alone does.

    python benchmarks/policies.py CONFIGFILE

Reads the results of `snakemake rollout --configfile CONFIGFILE`, best from published labels (docs/published-labels.md). No design needs an SCF: where
the reduced formula of a design is that of labelled crystals, the mean of their gaps stands in for its own. Writes docs/results/policies.{md,csv}.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from xtalrl import tables
from xtalrl.config import Config, load
from xtalrl.csv_files import write_csv
from xtalrl.files import write_text
from xtalrl.metrics.designs import PolicyDesigns, read_compositions
from xtalrl.metrics.intervals import Estimate, paired_difference
from xtalrl.metrics.properties import in_window
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.columns import LEARNING_CURVE, TABLE1, Column
from xtalrl.report.comparisons import verdict
from xtalrl.report.layout import format_estimate
from xtalrl.report.paper import PAPER_TABLES, paper_values
from xtalrl.report.results import scoring_of
from xtalrl.rl.policies import PolicySpec

PROJECT = Path(__file__).resolve().parents[1]
IN_PAPER = [column for column in TABLE1 if column.in_paper]


@dataclass(frozen=True)
class Policy:
    """A policy of one seed with its designs."""

    spec: PolicySpec
    designs: PolicyDesigns
    scoring: Scoring
    formulas: Mapping[str, str]
    """Reduced formula of the design on each skeleton."""
    gaps: np.ndarray
    """(1, n_crystals) mean labelled gap of the design's formula, eV; NaN where it has none, or the design is invalid."""

    def estimate(self, column: Column) -> Estimate:
        """A column of Table 1."""
        return column.estimate(self.designs, self.scoring)

    def mean_gap(self) -> Estimate:
        """Of the valid designs whose formula has a label, eV."""
        return self.designs.bootstrap(self.scoring).mean(self.gaps)

    def in_range(self, target_ev: float, window_ev: float) -> Estimate:
        """Share of them with a gap in the window, percent."""
        return (
            self.designs.bootstrap(self.scoring)
            .proportion(in_window(self.gaps, target_ev, window_ev), np.isfinite(self.gaps))
            .scaled(100)
        )


def read(config: Config) -> dict[str, Policy]:
    """The policies of the first seed."""
    results = Path(config.results)
    assessments = results / "designs/assessments.parquet"
    crystals = tables.read(results / "structures/crystals.parquet", tables.CRYSTALS).to_pandas()
    formula_of = crystals.set_index("material_id")["formula"]
    labels = tables.read(results / "labels.parquet", tables.LABELS).to_pandas().dropna(subset="band_gap")
    labelled = labels[labels["material_id"].isin(formula_of.index)]
    gap_of: dict[str, float] = labelled.groupby(labelled["material_id"].map(formula_of))["band_gap"].mean().to_dict()
    frame = tables.read(assessments, tables.ASSESSMENTS).to_pandas()
    policies = {}
    specs = config.policy_specs()
    for designs in read_compositions(assessments, specs):
        rows = frame[frame["policy"] == designs.policy].set_index("material_id").loc[list(designs.material_ids)]
        gaps = rows["formula"].map(gap_of).where(rows["valid"]).to_numpy(float)
        policies[designs.policy] = Policy(
            specs[designs.policy], designs, scoring_of(config), rows["formula"].to_dict(), gaps[None]
        )
    return policies


def table_of_compositions(policies: Mapping[str, Policy]) -> Iterator[dict[str, object]]:
    """A row a policy and metric of Table 1."""
    for name, policy in policies.items():
        paper = paper_values(PAPER_TABLES[0], policy.spec)
        for column in TABLE1:
            ours = policy.estimate(column)
            yield {
                "policy": name, "metric": column.name, "ours": ours.value, "low": ours.low, "high": ours.high, "n": ours.n,
                "paper": paper.get(column.name), "verdict": verdict(paper.get(column.name), ours),
            }  # fmt: skip


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return [f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows)]


def compositions(policies: Mapping[str, Policy]) -> list[str]:
    """Table 1 beside the paper's."""
    rows = []
    for name, policy in policies.items():
        paper = paper_values(PAPER_TABLES[0], policy.spec)
        cells = []
        for column in IN_PAPER:
            printed = paper.get(column.name)
            ours = policy.estimate(column)
            theirs = "–" if printed is None else f"{printed:.1f}, {verdict(printed, ours)}"
            cells += [format_estimate(ours, 1), theirs]
        rows.append([name, *cells, format_estimate(policy.estimate(TABLE1[4]), 1)])
    headings = ["policy", *itertools.chain(*((column.heading, "paper") for column in IN_PAPER)), TABLE1[4].heading]
    return markdown_table(headings, rows)


def known_gaps(policies: Mapping[str, Policy], targets: Sequence[float], window_ev: float) -> list[str]:
    """Gaps of the designs with a labelled formula."""
    headings = [
        "policy",
        "designs with a labelled formula",
        "mean gap (eV)",
        *(f"within {window_ev:g} eV of {t:g} eV (%)" for t in targets),
    ]
    rows = [
        [
            name, f"{np.isfinite(policy.gaps).sum():,}", format_estimate(policy.mean_gap(), 2),
            *(format_estimate(policy.in_range(target, window_ev), 1) for target in targets),
        ]
        for name, policy in policies.items()
    ]  # fmt: skip
    return markdown_table(headings, rows)


def one_for_all(policies: Mapping[str, Policy], confidence: float) -> list[str]:
    """ccql-any at a target less the policy of that target alone, on the same skeletons."""
    headings = [
        "target (eV)",
        *(f"{column.heading}, difference" for column in IN_PAPER),
        "mean labelled gap, difference (eV)",
        "same formula (%)",
    ]
    rows = []
    for policy in policies.values():
        alone = next(
            (
                other
                for other in policies.values()
                if policy.spec.kind == "ccql-any" and _same_target(policy.spec, other.spec)
            ),
            None,
        )
        if alone is None:
            continue
        cells = [_difference(policy.estimate(column), alone.estimate(column), confidence, 1) for column in IN_PAPER]
        cells.append(_difference(policy.mean_gap(), alone.mean_gap(), confidence, 2))
        rows.append([f"{policy.spec.target_ev:g}", *cells, f"{_same_formula(policy, alone):.1f}"])
    return markdown_table(headings, rows)


def between_targets(policies: Mapping[str, Policy]) -> list[str]:
    """How much the target changes."""
    conditional = [policy for policy in policies.values() if policy.spec.target_ev is not None]
    rows = []
    for a, b in itertools.combinations(conditional, 2):
        if (a.spec.kind, a.spec.omega) == (b.spec.kind, b.spec.omega):
            rows.append([a.designs.policy, b.designs.policy, f"{_same_formula(a, b):.1f}"])
    return markdown_table(["policy", "policy", "same formula (%)"], rows)


def learning_curve(config: Config, policies: Mapping[str, Policy]) -> list[str]:
    """Accuracy and validity of the snapshots whose designs were judged, and of the finished policies."""
    validity, accuracy = LEARNING_CURVE[:2]
    learned = {name: policy.spec for name, policy in policies.items() if policy.spec.is_learned}
    by_step = {
        step: {designs.policy: designs for designs in read_compositions(path, learned)}
        for step in config.training.snapshot_steps
        if (path := Path(config.results) / f"learning_curve/{step}/assessments.parquet").is_file()
    }
    by_step[config.training.steps] = {name: policies[name].designs for name in learned}
    rows = [
        [
            name,
            *(format_estimate(column.estimate(found[name], policies[name].scoring), 1) for found in by_step.values()),
        ]
        for column in (accuracy, validity)
        for name in learned
    ]
    cut = len(learned)
    headings = ["policy", *(f"step {step:,}" for step in by_step)]
    return [
        f"{accuracy.heading}:",
        "",
        *markdown_table(headings, rows[:cut]),
        "",
        f"{validity.heading}:",
        "",
        *markdown_table(headings, rows[cut:]),
    ]


def _same_target(one: PolicySpec, other: PolicySpec) -> bool:
    return other.kind == "ccql" and (one.target_ev, one.omega, one.reward) == (
        other.target_ev,
        other.omega,
        other.reward,
    )


def _same_formula(a: Policy, b: Policy) -> float:
    return 100 * fmean(a.formulas[crystal] == b.formulas[crystal] for crystal in a.designs.material_ids)


def _difference(one: Estimate, other: Estimate, confidence: float, decimals: int) -> str:
    found = paired_difference(one, other, confidence)
    if found is None:
        return "–"
    interval = "" if found.low is None else f" [{found.low:+.{decimals}f}, {found.high:+.{decimals}f}]"
    return f"{found.value:+.{decimals}f}{interval}"


def markdown(config: Config, policies: Mapping[str, Policy]) -> str:
    """The page for people."""
    training, targets = config.training, sorted({spec.target_ev for spec in config.policy_specs().values()} - {None})
    first = next(iter(policies.values()))
    trajectories = tables.read(Path(config.results) / "trajectories.parquet", tables.TRAJECTORIES)
    split = trajectories["split"].to_pylist()
    n_transitions = sum(
        len(order) for order, s in zip(trajectories["order"].to_pylist(), split, strict=True) if s == "train"
    )
    seen = training.steps * training.batch_size
    lines = [
        "# Policies trained on the released labels",
        "",
        f"Written by `benchmarks/policies.py` from a run of `snakemake rollout`. {training.steps:,} steps of {training.batch_size} transitions at a learning rate of "
        f"{training.learning_rate:g}, seed {config.policies.seeds[0]}, on one core of a CPU: {seen:,} transitions, {seen / n_transitions:.1f} times each of the "
        f"{n_transitions:,}; the paper's 250,000 steps of 1,024 see each {250_000 * 1024 / n_transitions:.0f} times. The data are the paper's: its labels, its "
        f"{len(first.designs.material_ids):,} validation skeletons. All else is as in `config/paper.yaml`. Intervals are of {100 * config.evaluation.confidence:g} % over crystals; "
        "one seed, so that the spread between training runs is not in them.",
        "",
        "## Table 1",
        "",
        "`inside`, `above`, `below`: where the paper's value lies against our interval. The paper's random row is printed as fractions and read so.",
        "",
        *compositions(policies),
        "",
        "## While they learn",
        "",
        *learning_curve(config, policies),
        "",
        "## Do designs follow the target?",
        "",
        "Without an SCF of a design this can be seen only where its reduced formula is that of labelled crystals: the mean of their gaps stands in for its own, "
        "although the cell is another. The designs it leaves out are the novel ones, so this is no ν.",
        "",
        *known_gaps(policies, targets, config.evaluation.window_ev),
        "",
        "Designs with the same formula on the same skeleton for two targets:",
        "",
        *between_targets(policies),
        "",
        "## One policy for every target",
        "",
        "`ccql-any` less the policy of that target alone, on the same skeletons, after the same number of steps:",
        "",
        *one_for_all(policies, config.evaluation.confidence),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the run and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configfile", type=Path)
    config = load(PROJECT / "config/config.yaml", parser.parse_args().configfile)
    policies = read(config)
    folder = PROJECT / "docs/results"
    rows = list(table_of_compositions(policies))
    write_csv(folder / "policies.csv", list(rows[0]), rows)
    page = folder / "policies.md"
    # What people wrote below the tables stays.
    _, mark, words = (page.read_text() if page.is_file() else "").partition("\n## What this says\n")
    write_text(page, markdown(config, policies) + mark + words)
    print(page.read_text())


if __name__ == "__main__":
    main()
