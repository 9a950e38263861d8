"""The paper's questions on the real data: a page, its tables and its data, from runs of config/study.yaml and config/study_scfs.yaml.

    python benchmarks/study.py CONFIGFILE… [--scfs CONFIGFILE…]

Reads the results of `snakemake rollout --configfile config/study.yaml …` and of `snakemake tables figures` with config/study_scfs.yaml laid over
it, and writes docs/results/study.md and, in docs/results/study/, the tables and figures that the page shows, the designs, the outcomes, and the
SCFs as an export of the cache. Without `--scfs` the page ends with Table 1.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import policies

from xtalrl import tables
from xtalrl.config import Config, load
from xtalrl.dft.exchange import export_cache, keys_of_run
from xtalrl.files import write_text

PROJECT = Path(__file__).resolve().parents[1]
PAGE = PROJECT / "docs/results/study.md"
DATA = PROJECT / "docs/results/study"
GIVEN = "'structures={path: MP20}' 'labels={path: LABELS}' 'references={energies: LABELS/elemental_reference_energies.csv}' 'evaluation={formulas: FORMULAS}'"
SHOWN = (
    "table2_dft_success",
    "desired_range",
    "stability",
    "outcomes",
    "policy_tests",
    "paper_comparison",
)
TESTED = ("nu", "kappa", "validity", "dft_success_of_all", "mean_formation_energy", "novelty")
"""Metrics of the claim, by their names in `policy_tests`."""


def population(config: Config) -> Iterator[str]:
    """How the sample differs from all skeletons."""
    crystals = tables.read(Path(config.results) / "structures/crystals.parquet", tables.CRYSTALS).to_pandas()
    labels = tables.read(Path(config.results) / "labels.parquet", tables.LABELS).to_pandas()
    assessed = tables.read(Path(config.results) / "designs/assessments.parquet", tables.ASSESSMENTS).to_pandas()
    sample = tables.read(Path(config.results) / "designs/sample.parquet", tables.ASSESSMENTS).to_pandas()
    everything = crystals[crystals["material_id"].isin(assessed["material_id"])].set_index("material_id")
    everything["gap"] = labels.set_index("material_id")["band_gap"].reindex(everything.index)
    groups = {
        "all": everything,
        f"at most {config.evaluation.max_sites} sites": everything[
            everything["n_sites"] <= config.evaluation.max_sites
        ],
        "sample": everything.loc[sorted(set(sample["material_id"]))],
    }
    yield "| skeletons | number | sites, mean | elements, mean | gap of the true crystal, mean (eV) | within 0.25 eV of 1.12 eV (%) | of 4 eV (%) |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, group in groups.items():
        elements = group["species"].map(lambda species: len(set(species))).mean()
        near = [
            100 * np.mean(np.abs(group["gap"].dropna() - target) < config.evaluation.window_ev)
            for target in (1.12, 4.0)
        ]
        yield (
            f"| {name} | {len(group):,} | {group['n_sites'].mean():.1f} | {elements:.1f} | {group['gap'].mean():.2f} | "
            f"{near[0]:.1f} | {near[1]:.1f} |"
        )


def cost(config: Config) -> Iterator[str]:
    """SCFs, hours and hits of every policy."""
    sample = tables.read(Path(config.results) / "designs/sample.parquet", tables.ASSESSMENTS).to_pandas()
    outcomes = tables.read(Path(config.results) / "evaluation/outcomes.parquet", tables.SCF_OUTCOMES).to_pandas()
    outcomes = outcomes.set_index("request_id")
    yield "| policy | designs | valid | SCFs | wall time of the SCFs (h) | seconds per SCF, median | resolved within 15 minutes (% of valid) | hits | wall time per hit (min) |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for name, spec in config.policy_specs().items():
        designs = sample[sample["policy"] == name]
        valid = outcomes.loc[designs["request_id"].dropna()]
        in_time = 100 * np.mean(valid["outcome"].isin(("converged", "converged_not_saved")) & (valid["wall_s"] <= 900))
        ran = valid[valid["attempts"].map(len) > 0]
        hits: int | str = "–"
        if spec.target_ev is not None:
            hits = int((np.abs(ran["band_gap"] - spec.target_ev) < config.evaluation.window_ev).sum())
        hours = ran.groupby("key")["wall_s"].first().sum() / 3600
        per_hit = f"{60 * hours / hits:.0f}" if isinstance(hits, int) and hits else "–"
        yield (
            f"| {name} | {len(designs)} | {len(valid)} | {ran['key'].nunique()} | {hours:.2f} | {ran['wall_s'].median():.0f} | "
            f"{in_time:.0f} | {hits} | {per_hit} |"
        )


def claim(config: Config) -> Iterator[str]:
    """`rvs` against the other policies, on the same skeletons."""
    tests = pd.read_csv(Path(config.results) / "tables/policy_tests.csv")
    yield "| first | second | metric | target (eV) | first | second | difference | p |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for test in tests.itertuples():
        pair = {test.first, test.second}
        if sum(name.startswith("rvs") for name in pair) != 1 or "random" in pair or test.metric not in TESTED:
            continue
        own = next(
            spec.target_ev for name, spec in config.policy_specs().items() if name in pair and name.startswith("rvs")
        )
        other = next(
            spec.target_ev
            for name, spec in config.policy_specs().items()
            if name in pair and not name.startswith("rvs")
        )
        if other not in (None, own):
            continue
        unit = "" if test.unit == "%" else f" {test.unit}"
        target = "–" if np.isnan(test.target_ev) else f"{test.target_ev:g}"
        bounds = "" if np.isnan(test.low) else f" [{test.low:.2f}, {test.high:.2f}]"
        p = "–" if np.isnan(test.p) else f"{'≤ ' if test.p == test.p_floor else ''}{test.p:.2g}"
        yield (
            f"| {test.first} | {test.second} | {test.metric} ({test.unit}) | {target} | {test.first_value:.2f}{unit} | "
            f"{test.second_value:.2f}{unit} | {test.difference:.2f}{bounds} | {p} |"
        )


def reasons(config: Config) -> Iterator[str]:
    """How the designs of the sample ended."""
    evaluation = tables.read(Path(config.results) / "evaluation/evaluation.parquet", tables.EVALUATION).to_pandas()
    ended = {
        name: Counter(group["outcome"] + np.where(group["recovered"].fillna(False), ", recovered", ""))
        for name, group in evaluation.groupby("policy")
    }
    seen = sorted({outcome for counts in ended.values() for outcome in counts})
    yield f"| policy | {' | '.join(seen)} |"
    yield f"| --- |{' --- |' * len(seen)}"
    for name in config.policy_specs():
        yield f"| {name} | {' | '.join(str(ended[name][outcome]) for outcome in seen)} |"


def engines(config: Config) -> str:
    """What ran the SCFs."""
    outcomes = tables.read(Path(config.results) / "evaluation/outcomes.parquet", tables.SCF_OUTCOMES).to_pandas()
    ran = outcomes[outcomes["attempts"].map(len) > 0]
    counts = ran.drop_duplicates("key")["engine"].value_counts()
    return ", ".join(f"{count} with {engine}" for engine, count in counts.items())


def shown_table(config: Config, name: str) -> str:
    """A table of the run as the workflow wrote it."""
    return (Path(config.results) / f"tables/{name}.md").read_text()


def keep(config: Config) -> None:
    """Copy what is kept of the designs beside the page."""
    DATA.mkdir(parents=True, exist_ok=True)
    results = Path(config.results)
    shutil.copyfile(results / "designs/assessments.parquet", DATA / "designs.parquet")
    shutil.copyfile(results / "tables/table1_composition.csv", DATA / "table1_composition.csv")


def keep_scfs(config: Config) -> int:
    """Copy what is kept of the sample beside the page; the number of SCFs in the export."""
    results = Path(config.results)
    for name in SHOWN:
        shutil.copyfile(results / f"tables/{name}.csv", DATA / f"{name}.csv")
    for name in ("figure2.png", "figure4.png"):
        shutil.copyfile(results / f"figures/{name}", DATA / name)
    shutil.copyfile(results / "evaluation/outcomes.parquet", DATA / "outcomes.parquet")
    return export_cache(config.cache, DATA / "scfs.parquet", keys_of_run(results), config.dft.finished)


def before_scfs(config: Config) -> list[str]:
    """Table 1, and whether designs follow their target."""
    known = policies.known_gaps(policies.read(config), config.policies.rvs_targets_ev, config.evaluation.window_ev)
    return [
        "## Table 1: all skeletons, no SCF",
        "",
        shown_table(config, "table1_composition"),
        "Designs whose reduced formula is that of labelled crystals: the mean of their gaps stands in for that of the design, although the cell is another. Novel designs are left out, so this is no ν.",
        "",
        *known,
        "",
    ]


def with_scfs(config: Config) -> list[str]:
    """What the SCFs of the sample say."""
    return [
        "## Table 2: the sample, with SCFs",
        "",
        f"SCFs, {engines(config)}: protocol `{config.dft.protocol}`, `recovery: {config.dft.recovery}`, for designs on a sample of the skeletons, drawn by lot and the same for every policy.",
        "",
        *population(config),
        "",
        shown_table(config, "table2_dft_success"),
        shown_table(config, "desired_range"),
        "![ν, κ, distances and formation energies of the policies](study/figure2.png)",
        "",
        shown_table(config, "stability"),
        "## How the designs ended, and what they cost",
        "",
        *reasons(config),
        "",
        *cost(config),
        "",
        "Wall time is that of single-core SCFs on a machine that did other work at the same time. Designs that several policies share are counted for each of them. Hits are designs within the window of the policy's own target.",
        "",
        "## `rvs` against policies trained the paper's way, on the same skeletons",
        "",
        *claim(config),
        "",
        "p is that of exchanging the designs of a skeleton; it is not corrected for the number of tests here. All pairs and metrics, with corrected p: `study/policy_tests.csv`.",
        "",
    ]


def page(config: Config, scfs: Config | None, n_scfs: int, conclusions: str) -> str:
    """The page as Markdown; `scfs` is the configuration of the run with the SCFs, if there is one."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    training = config.training
    kept = "`designs.parquet` (every design of every policy on all skeletons, with its verdicts; the columns are those of `assessments` in [tables.md](../tables.md)) and the tables as CSV"
    if scfs:
        kept += ", `outcomes.parquet` (the SCFs of the sample with every attempt) and `scfs.parquet` (the export of the cache)"
    return "\n".join(
        [
            "# The paper's tables on the real data",
            "",
            "<!-- written by benchmarks/study.py; what it says in words is docs/results/study/conclusions.txt -->",
            "",
            f"Written at {commit.stdout.strip()} from a run of `config/study.yaml`: MP-20, the released labels, "
            f"{training.steps:,} steps of {training.batch_size} transitions at a learning rate of {training.learning_rate:g} for the policies that are trained here, one seed, with the paper's inputs and the modern schedule (the paper made 250,000 "
            "steps of 1,024). `rvs-mp20` is the policy that ships with xtalrl, trained on the Materials Project's own gaps. Brackets are intervals over crystals.",
            "",
            conclusions,
            *before_scfs(config),
            *(with_scfs(scfs) if scfs else []),
            "## Make it again",
            "",
            "```sh",
            "snakemake rollout --profile profiles/local --configfile config/study.yaml --config \\",
            f"  {GIVEN}",
            *(
                [
                    "xtalrl cache import docs/results/study/scfs.parquet",
                    "snakemake tables figures --profile profiles/local --configfile config/study.yaml config/study_scfs.yaml --config \\",
                    f"  {GIVEN}",
                ]
                if scfs
                else []
            ),
            "python benchmarks/study.py config/study.yaml"
            + (" --scfs config/study.yaml config/study_scfs.yaml" if scfs else ""),
            "```",
            "",
            "`MP20` and `LABELS` are described in [published-labels.md](../published-labels.md), `FORMULAS` is a list of known formulas, one per line."
            + (f" The import holds the {n_scfs:,} SCFs, so that no pw.x is needed." if scfs else ""),
            "",
            f"Beside this page, in `docs/results/study/`: {kept}.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configfile", nargs="+", type=Path, help="config/study.yaml, and files laid over it")
    parser.add_argument("--scfs", nargs="+", type=Path, help="the same, and config/study_scfs.yaml")
    given = parser.parse_args(arguments)
    config, scfs = load(*given.configfile), load(*given.scfs) if given.scfs else None
    text = DATA / "conclusions.txt"
    conclusions = text.read_text() if text.is_file() else ""
    keep(config)
    write_text(PAGE, page(config, scfs, keep_scfs(scfs) if scfs else 0, conclusions))
    print(f"{PAGE.relative_to(PROJECT)} is written")


if __name__ == "__main__":
    main()
