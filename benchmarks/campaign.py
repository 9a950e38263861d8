"""What campaigns on real skeletons found and cost: a page with its data, from one or more runs.

    python benchmarks/campaign.py CONFIGFILE[,CONFIGFILE…] …

Each argument is a run of `snakemake campaign`, named by its config files: config/campaign_study.yaml, and files laid over it. Writes
docs/results/campaign.md and, in docs/results/campaign/, a folder for each wanted gap: tables, hits, figure, what the screen of every round saw,
the outcomes, and the SCFs as an export of the cache. What the page says in words is docs/results/campaign/conclusions.txt.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from scipy import stats

from xtalrl import tables
from xtalrl.campaign.nearest import first_alike
from xtalrl.campaign.screening import AUDITED, CHOSEN, COMPUTED
from xtalrl.cells import Cell
from xtalrl.config import Config, load
from xtalrl.dft.exchange import export_cache, keys_of_run
from xtalrl.files import write_text
from xtalrl.metrics.confirmation import CONFIRMED
from xtalrl.metrics.intervals import Floats
from xtalrl.metrics.prediction import Judged, area_under_curve, figures
from xtalrl.rl.campaign_learning import learn_from_designs
from xtalrl.rl.learner import Stack
from xtalrl.rl.replay import Replay
from xtalrl.rl.rollout import load_network, read_record
from xtalrl.rl.settings import TrainingSettings
from xtalrl.rl.trajectories import build_trajectories

PROJECT = Path(__file__).resolve().parents[1]
PAGE = PROJECT / "docs/results/campaign.md"
DATA = PROJECT / "docs/results/campaign"
LEARNING_STEPS = 400
"""Updates of the policy where it is tried whether it learns from designs."""
SHOWN_FIGURES = (
    "gap, mean absolute error",
    "gap, rank correlation",
    "metals told from nonmetals, area under the curve",
    "hits, area under the curve",
    "hits expected",
    "hits found",
)


def name_of(config: Config) -> str:
    """The folder of a campaign, such as 1.12ev."""
    return f"{config.campaign.asked_ev:g}ev"


def share(hits: int, n: int) -> str:
    """A share in % with Wilson's interval."""
    if not n:
        return "–"
    interval = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return f"{100 * hits / n:.0f} [{100 * interval.low:.0f}, {100 * interval.high:.0f}] ({hits} of {n})"


def goals(config: Config) -> Iterator[str]:
    """What was hoped for, and what came out."""
    results = Path(config.results)
    rounds = pd.read_csv(results / "tables/campaign.csv")
    everything = rounds[rounds["round"] == "all"].iloc[0]
    hits = pd.read_csv(results / "campaign/hits.csv")
    chosen = hits[hits["screening"] == CHOSEN]
    n_chosen = int(everything["scfs"] - everything["audited"])
    per_hit, unscreened = everything["cpu_per_confirmed_hit_s"], everything["unscreened_cpu_per_hit_s"]

    def interval(name: str) -> str:
        return f"{everything[name]:.1f} [{everything[f'{name}_low']:.1f}, {everything[f'{name}_high']:.1f}]"

    yield "| what | goal | found |"
    yield "| --- | --- | --- |"
    yield f"| hits per 100 SCFs that the screen chose | 30 | {share(len(chosen), n_chosen)} |"
    yield f"| the same, audited SCFs included | | {share(len(hits), int(everything['scfs']))} |"
    yield f"| the same, without a screen, by the audit | | {interval('unscreened_per_100')} |"
    yield from beside_the_unscreened(config, len(chosen), n_chosen)
    yield f"| hits per 100 different crystals that the screen chose (pymatgen's StructureMatcher) | | {share(*crystals(config))} |"
    ratio = "–"
    if not (np.isnan(per_hit) or np.isnan(unscreened)):
        # The interval is that of the hits without a screen, to which their cost is inverse.
        share_of_hits, low, high = (everything[f"unscreened_per_100{end}"] for end in ("", "_low", "_high"))
        there = unscreened / per_hit
        ratio = f"{there:.1f} [{there * share_of_hits / high:.1f}, {there * share_of_hits / low:.1f}]"
    yield f"| CPU per hit without a screen, over CPU per confirmed hit with it | 3 | {ratio} |"
    yield f"| recall of the screen (%), at most {everything['recall_at_most_pct']:.0f} with so few SCFs | 80 | {interval('recall_pct')} |"
    yield f"| compositions among the hits | | {hits['formula'].nunique()} |"
    yield f"| different crystals among the hits | | {hits['same_as_rank'].isna().sum()} |"
    yield f"| novel, of the hits (%) | 50 | {share(int((hits['novel'] == True).sum()), len(hits))} |"  # noqa: E712
    confirmed = hits[hits["verdict"] == CONFIRMED]
    yield f"| confirmed, of the hits (%) | | {share(len(confirmed), len(hits))} |"
    yield f"| different crystals among the confirmed hits | | {confirmed['same_as_rank'].isna().sum()} |"


def crystals(config: Config) -> tuple[int, int]:
    """How many different crystals hit, and how many there are, among the designs that the screen chose."""
    results = Path(config.results)
    skeletons = {
        row["material_id"]: row for row in tables.read_rows(results / "campaign/skeletons.parquet", tables.CRYSTALS)
    }
    chosen = [
        row
        for number in range(1, config.campaign.rounds + 1)
        for row in tables.read_rows(results / f"campaign-{number}/screening.parquet", tables.SCREENING)
        if row["verdict"] == CHOSEN
    ]
    alike = first_alike([Cell.from_row(skeletons[row["material_id"]] | {"species": row["species"]}) for row in chosen])
    hits = set(pd.read_csv(results / "campaign/hits.csv")["request_id"])
    firsts = [at if first is None else first for at, first in enumerate(alike)]
    hit = {first for first, row in zip(firsts, chosen, strict=True) if row["request_id"] in hits}
    return len(hit), len(set(firsts))


def beside_the_unscreened(config: Config, hits: int, n: int) -> Iterator[str]:
    """The chosen designs beside those of the same policy that docs/results/design_recovery.csv has, which no screen had chosen."""
    designs = pd.read_csv(PROJECT / "docs/results/design_recovery.csv")
    designs = designs[designs["policy"] == f"rvs-{config.campaign.policy}-{config.campaign.asked_ev:g}ev"]
    if designs.empty:
        return
    low, high = config.campaign.wanted_ev
    unscreened = int(designs["band_gap"].between(low, np.inf if high is None else high, inclusive="neither").sum())
    ratio = stats.contingency.relative_risk(hits, n, unscreened, len(designs))
    interval = ratio.confidence_interval(0.95)
    p = stats.fisher_exact([[hits, n - hits], [unscreened, len(designs) - unscreened]]).pvalue
    yield f"| the same, of unscreened designs of an earlier sample ([designs of a policy](design_recovery.md)) | | {share(unscreened, len(designs))} |"
    yield (
        f"| the chosen over these | 3 | {ratio.relative_risk:.1f} [{interval.low:.1f}, {interval.high:.1f}], p = {p:.2f} by Fisher's exact test |"
    )


def outcomes(config: Config) -> Iterator[str]:
    """How the computed designs of every round ended."""
    results = Path(config.results)
    ended: dict[str, dict[str, Counter[str]]] = {}
    for number in range(1, config.campaign.rounds + 1):
        screening = tables.read_rows(results / f"campaign-{number}/screening.parquet", tables.SCREENING)
        why = {row["request_id"]: row["verdict"] for row in screening if row["verdict"] in COMPUTED}
        of_round = ended.setdefault(str(number), {CHOSEN: Counter(), AUDITED: Counter()})
        for row in tables.read_rows(results / f"campaign-{number}/evaluation.parquet", tables.EVALUATION):
            gap = row["band_gap"]
            kind = row["outcome"] if gap is None else "no gap" if gap == 0 else "gap"
            of_round[why[row["request_id"]]][kind] += 1
    seen = sorted({kind for of_round in ended.values() for counts in of_round.values() for kind in counts})
    yield f"| round | | {' | '.join(seen)} |"
    yield f"| --- | --- |{' --- |' * len(seen)}"
    for number_, of_round in ended.items():
        for verdict, counts in of_round.items():
            yield f"| {number_} | {verdict} | {' | '.join(str(counts[kind]) for kind in seen)} |"


def predictions(config: Config) -> Iterator[str]:
    """The predictor of each round on the designs of that round, which it had not seen."""
    results = Path(config.results)
    by_round = []
    for number in range(1, config.campaign.rounds + 1):
        folder = results / f"campaign-{number}"
        truth = {row["request_id"]: row for row in tables.read_rows(folder / "evaluation.parquet", tables.EVALUATION)}
        judged = Judged.of_rows(tables.read_rows(folder / "predictions.parquet", tables.PREDICTIONS), truth)
        by_round.append({figure.name: figure for figure in figures(judged, config.evaluation.confidence)})
    yield f"| on the designs of round | {' | '.join(str(number) for number in range(1, len(by_round) + 1))} |"
    yield f"| --- |{' --- |' * len(by_round)}"
    for name in SHOWN_FIGURES:
        cells = []
        for found in by_round:
            estimate = found[name].estimate
            number_ = "–" if estimate.value is None else f"{estimate.value:.2f}"
            bounds = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
            cells.append(f"{number_}{bounds}, {estimate.n}")
        yield f"| {name} ({by_round[0][name].unit}) | {' | '.join(cells)} |"


def learning(config: Config) -> Iterator[str]:
    """What the policy makes of the designs of the second half of the rounds, before and after it learned from those of the first half."""
    results, rounds = Path(config.results), config.campaign.rounds
    seen, unseen = range(1, rounds // 2 + 1), range(rounds // 2 + 1, rounds + 1)
    folder = results / f"policies/rvs-{config.campaign.policy}/seed{config.policies.seeds[0]}"
    truth: dict[str, float] = {}
    parts = []
    for number in unseen:
        rows = tables.read_rows(results / f"campaign-{number}/evaluation.parquet", tables.EVALUATION)
        computed = {row["request_id"]: row["band_gap"] for row in rows if row["band_gap"] is not None}
        truth |= computed
        of_round = tables.read(results / f"campaign-{number}/graphs.parquet", tables.GRAPHS)
        parts.append(of_round.filter(pc.is_in(of_round["material_id"], pa.array(list(computed)))))
    graphs = pa.concat_tables(parts)
    low, high = config.campaign.wanted_ev
    with tempfile.TemporaryDirectory() as temporary:
        after = Path(temporary)
        learn_from_designs(
            folder,
            results / "structures/graphs.parquet",
            results / "labels.parquet",
            [results / f"campaign-{number}/graphs.parquet" for number in seen],
            [results / f"campaign-{number}/labels.parquet" for number in seen],
            after / "policy.json",
            steps=LEARNING_STEPS,
            device="cpu",
            seed=config.campaign.seed,
            threads=1,
        )
        gaps = np.array([truth[name] for name in graphs["material_id"].to_pylist()])
        hit, metal = (gaps > low) & (gaps < (np.inf if high is None else high)), gaps == 0
        yield f"| policy | {hit.sum()} hits | {(~hit & ~metal).sum()} other nonmetals | {metal.sum()} metals | hits told from the rest | nonmetals told from metals |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for name, of_policy in (("as it ships", folder), (f"after {LEARNING_STEPS} steps", after)):
            wanted, as_metal = (
                log_probabilities(of_policy, graphs, target, after) for target in (config.campaign.asked_ev, 0.0)
            )
            means = " | ".join(f"{wanted[some].mean():.2f}" for some in (hit, ~hit & ~metal, metal))
            areas = area_under_curve(wanted, hit), area_under_curve(wanted - as_metal, ~metal)
            yield f"| {name} | {means} | {areas[0]:.2f} | {areas[1]:.2f} |"


def log_probabilities(policy: Path, graphs: pa.Table, target_ev: float, scratch: Path) -> Floats:
    """ln π(design) of a policy that is asked for a gap, for the crystals of some graphs; the mean over up to five orders of filling."""
    record, spec = read_record(policy / "policy.json")
    labels = [
        {"material_id": name, "split": "train", "source": "scf", "outcome": "converged", "detail": "", "band_gap": 0.0, "formation_energy_per_atom": 0.0}
        for name in graphs["material_id"].to_pylist()
    ]  # fmt: skip
    train = pa.array(["train"] * len(graphs), pa.string())
    tables.write(graphs.set_column(graphs.schema.get_field_index("split"), "split", train), tables.GRAPHS, scratch / "graphs.parquet")  # fmt: skip
    tables.write_rows(labels, tables.LABELS, scratch / "labels.parquet")
    build_trajectories(
        scratch / "graphs.parquet", scratch / "labels.parquet", scratch / "trajectories.parquet", 5, ties="shuffled"
    )
    replay = Replay(scratch / "graphs.parquet", scratch / "trajectories.parquet")
    stack = Stack(TrainingSettings(**record["settings"]), replay)
    state = stack.trained_state(spec, load_network(record, policy / "weights.safetensors"))
    batch = replay.batch(np.arange(len(replay)))
    observed, node_types = stack.network.observe(batch.graphs, batch.node_types, batch.focus)
    with torch.no_grad():
        logits = stack.q_values(state.result[None], observed, node_types, batch.focus, torch.tensor([target_ev]), None)
        of_action = torch.log_softmax(logits[0], -1).gather(1, batch.action[:, None])[:, 0]
    of_trajectory = np.bincount(batch.trajectory.numpy(), of_action.double().numpy(), len(replay.band_gap))
    crystal = replay.orders.crystal
    by_name = dict(zip(replay.graphs.material_ids, np.bincount(crystal, of_trajectory) / np.bincount(crystal), strict=True))  # fmt: skip
    return np.array([by_name[name] for name in graphs["material_id"].to_pylist()])


def cost(config: Config) -> str:
    """SCFs, engines and time."""
    results = Path(config.results)
    paths = [results / "campaign/outcomes.parquet", results / "campaign-confirmation/outcomes.parquet"]
    rows = [row for path in paths for row in tables.read_rows(path, tables.SCF_OUTCOMES) if row["attempts"]]
    engines = Counter(row["engine"] for row in rows)
    hours = sum(row["wall_s"] for row in rows) / 3600
    return (
        f"SCFs, the finer ones of hits and elements that had none included: {', '.join(f'{n} with {engine}' for engine, n in engines.items())}; "
        f"{hours:.1f} hours of wall time of one core each, beside other work."
    )


def keep(config: Config) -> int:
    """Copy what is kept beside the page; the number of SCFs in the export."""
    results, folder = Path(config.results), DATA / name_of(config)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("campaign_readiness", "campaign"):
        shutil.copyfile(results / f"tables/{name}.csv", folder / f"{name}.csv")
    shutil.copyfile(results / "figures/campaign_hits.png", folder / "campaign_hits.png")
    shutil.copyfile(results / "campaign/hits.csv", folder / "hits.csv")
    shutil.copyfile(results / "campaign/outcomes.parquet", folder / "outcomes.parquet")
    screenings = [
        row
        for number in range(1, config.campaign.rounds + 1)
        for row in tables.read_rows(results / f"campaign-{number}/screening.parquet", tables.SCREENING)
    ]
    tables.write_rows(screenings, tables.SCREENING, folder / "screening.parquet")
    return export_cache(config.cache, folder / "scfs.parquet", keys_of_run(results), config.dft.finished)


def section(config: Config) -> list[str]:
    """A campaign, as Markdown."""
    campaign, name = config.campaign, name_of(config)
    low, high = campaign.wanted_ev
    wanted = f"at least {low:g} eV" if high is None else f"{low:g} to {high:g} eV"
    limit = "" if campaign.limit is None else f", {campaign.limit} of them drawn by lot"

    def shown(table: str) -> str:
        return (Path(config.results) / f"tables/{table}.md").read_text()

    return [
        f"## A gap of {wanted}",
        "",
        f"{campaign.budget} SCFs in {campaign.rounds} rounds, on the skeletons of MP-20's split `{campaign.skeletons}` with at most {campaign.max_sites} sites{limit}. {cost(config)}",
        "",
        *goals(config),
        "",
        f"![hits over SCFs](campaign/{name}/campaign_hits.png)",
        "",
        shown("campaign"),
        "How the computed designs ended:",
        "",
        *outcomes(config),
        "",
        "What the predictor had said of these designs, before any of their SCFs (95 % bootstrap intervals, then the number of designs):",
        "",
        *predictions(config),
        "",
        f"What the policy makes of the designs of the last {(campaign.rounds + 1) // 2} rounds before and after it has learned from those of the first {campaign.rounds // 2} "
        "(`campaign.policy_steps`, which this campaign did not use): the mean of ln π of a design when asked for the wanted gap, and areas under the curve, of ln π and of ln π less that when asked for a metal:",
        "",
        *learning(config),
        "",
        shown("campaign_readiness"),
        shown("campaign_found"),
    ]


def page(configs: Sequence[Config], n_scfs: Sequence[int], conclusions: str) -> str:
    """The page as Markdown."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    names = [name_of(config) for config in configs]
    return "\n".join(
        [
            "# Campaigns on real skeletons",
            "",
            "<!-- written by benchmarks/campaign.py; what it says in words is docs/results/campaign/conclusions.txt -->",
            "",
            f"Written at {commit.stdout.strip()} from runs of `config/campaign_study.yaml`: the policy and the predictor that ship with xtalrl design and screen, `paper-fast` "
            "computes, and the predictor learns from every SCF. How a campaign works and what the columns mean is in [campaign.md](../campaign.md).",
            "",
            conclusions,
            *(line for config in configs for line in section(config)),
            "## Make it again",
            "",
            "```sh",
            *(f"xtalrl cache import docs/results/campaign/{name}/scfs.parquet" for name in names),
            "snakemake campaign --profile profiles/local --configfile config/campaign_study.yaml --config \\",
            "  'structures={path: MP20}' 'labels={path: LABELS}' 'references={energies: LABELS/elemental_reference_energies.csv}' 'evaluation={formulas: FORMULAS}'",
            "python benchmarks/campaign.py config/campaign_study.yaml",
            "```",
            "",
            "`MP20` and `LABELS` are described in [published-labels.md](../published-labels.md), `FORMULAS` is a list of known formulas, one per line. "
            f"The imports hold {' and '.join(f'{n:,}' for n in n_scfs)} SCFs; what is asked for again is not computed again.",
            "",
            f"Beside this page, in `docs/results/campaign/` ({', '.join(f'`{name}`' for name in names)}): the tables as CSV, `hits.csv`, `screening.parquet` (every proposed design with its prediction "
            "and what the screen made of it), `outcomes.parquet` (the SCFs of the rounds with every attempt) and `scfs.parquet` (the export of the cache).",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", help="config files of a campaign, separated by commas")
    configs = [load(*map(Path, run.split(","))) for run in parser.parse_args(arguments).run]
    text = DATA / "conclusions.txt"
    conclusions = text.read_text() if text.is_file() else ""
    write_text(PAGE, page(configs, [keep(config) for config in configs], conclusions))
    print(f"{PAGE.relative_to(PROJECT)} is written")


if __name__ == "__main__":
    main()
