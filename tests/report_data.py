"""A results folder as a run leaves it, made up but lifelike: for tests and benchmarks of everything after the SCFs.

python tests/report_data.py FOLDER [--crystals 2486] [--seeds 1]
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from xtalrl import tables
from xtalrl.cells import reduced_formula
from xtalrl.config import Config, validate
from xtalrl.elements import ELEMENTS, SIMILARITY_CLASS, SIMILARITY_CLASSES
from xtalrl.energies import RYDBERG_EV_PAPER
from xtalrl.metrics.composition import assess_designs
from xtalrl.metrics.evaluation import evaluate_designs
from xtalrl.metrics.stability import assess_stability
from xtalrl.report.contents import TABLES, content, settings_of
from xtalrl.report.results import Results, scoring_of
from xtalrl.report.style import Policies
from xtalrl.rl.policies import PolicySpec

PROTOCOL = {"protocol": "paper-fast", "protocol_hash": "0f3a5c77d2e94b10", "family": "sssp-1.3.0-efficiency"}
ENGINE = "embedded pw.x 7.2"
FAILURES = {"not_converged": 30, "charge_wrong": 28, "time_limit": 22, "odd_electrons": 15, "diagonalization_failed": 5}

# Cations and anions of textbook prototypes: counts of A, B and the anion X.
PROTOTYPES = (
    (1, 0, 1),
    (1, 0, 2),
    (2, 0, 1),
    (1, 1, 3),
    (2, 1, 4),
    (1, 2, 4),
    (2, 0, 3),
    (1, 1, 2),
    (2, 2, 7),
    (3, 1, 6),
)
A_ELEMENTS = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr", "Ba", "Y", "La", "Zn", "Cd", "Ag", "Cu", "Tl", "Nd", "Eu")
B_ELEMENTS = (
    "Ti",
    "Zr",
    "Hf",
    "Nb",
    "Ta",
    "V",
    "Mo",
    "W",
    "Al",
    "Ga",
    "In",
    "Si",
    "Ge",
    "Sn",
    "P",
    "As",
    "Sb",
    "Bi",
    "Fe",
    "Mn",
)
X_ELEMENTS = ("O", "O", "O", "O", "S", "S", "Se", "Te", "F", "Cl", "Br", "I", "N")


FILES = {
    "crystals": "structures/crystals.parquet",
    "assessments": "designs/assessments.parquet",
    "evaluation": "evaluation/evaluation.parquet",
    "labels": "labels.parquet",
    "design_scf": "evaluation/outcomes.parquet",
    "stability": "evaluation/stability.parquet",
}
"""Where a run has its files, by the names of `Content.inputs`; the rules have the same (RESULT_FILES)."""


def make(
    name: str,
    folder: Path,
    config: Config,
    stem: str = "",
    policies: Policies | None = None,
    without: tuple[str, ...] = (),
    **scoring: Any,
) -> Path:
    """Make a table or figure of a results folder from no more than the files it names; the path of what was made, less its ending.

    Args:
        stem: name of what is made; that of the table or figure if it is empty.
        policies: the policies shown, if not those of the configuration.
        without: files that the run does not have.
        scoring: what differs from the configuration's `Scoring`, of which 200 resamples are enough for tests.
    """
    entry = content(name)
    files: dict[str, Any] = {
        name: [] if name in without else folder / FILES[name] for name in entry.inputs if name in FILES
    }
    if "predictions" in entry.inputs:
        files["predictions"] = prediction_files(folder, config)
    if "snapshots" in entry.inputs:
        steps = config.training.snapshot_steps
        files["snapshots"] = [folder / f"learning_curve/{step}/evaluation.parquet" for step in steps]
    results = Results.of(config, files)
    if policies is not None:
        results = replace(results, policies=policies)
    path = folder / (stem or name)
    endings = (
        {"csv": "csv", "markdown": "md", "latex": "tex", "caption": "txt"}
        if entry in TABLES
        else {e: e for e in ("csv", "png", "pdf")}
    )
    made = entry.function(results, replace(scoring_of(config), **{"bootstrap_samples": 200, **scoring}))
    made.write(**{kind: f"{path}.{ending}" for kind, ending in endings.items()})
    return path


def read(path: Path) -> list[dict[str, str]]:
    """The CSV of a table or figure."""
    with open(f"{path}.csv", newline="") as file:
        return list(csv.DictReader(file))


def write_results(
    folder: Path,
    n_crystals: int,
    seeds: tuple[int, ...] = (0,),
    imported_labels: bool = False,
    success: float = 0.68,
    recovered: float = 0.05,
    sections: dict[str, Any] | None = None,
    **policies: Any,
) -> Config:
    """Write all result files but tables, figures and report; returns the configuration they belong to.

    A quarter of the crystals are validation crystals. `success` is the share of SCFs of designs that converge (less for random ones),
    `recovered` the share of these that an extended recovery saved, `sections` further sections of the configuration,
    `policies` the section of that name.
    """
    config = validate(
        {
            "results": str(folder),
            "policies": {"seeds": list(seeds), **policies},
            "dft": {"protocol": PROTOCOL["protocol"], "family": PROTOCOL["family"]},
            "labels": {"path": "published"} if imported_labels else {},
            "training": {"steps": 2000},
            **(sections or {}),
        }
    )
    rng = random.Random(7)
    noise = np.random.default_rng(7)
    crystals = [_crystal(number, rng, noise) for number in range(n_crystals)]
    tables.write_rows(crystals, tables.CRYSTALS, folder / "structures/crystals.parquet")
    _write_rejected(folder, rng, n_crystals)
    references = _references()
    tables.write_rows(references, tables.REFERENCES, folder / "references.parquet")
    energies = {row["element"]: row["energy_per_atom"] for row in references}
    _write_labels(folder, crystals, energies, rng, imported_labels)

    (folder / "formulas.txt").write_text("\n".join(crystal["formula"] for crystal in crystals) + "\n")
    validation = [crystal for crystal in crystals if crystal["split"] == "val"]
    paths = []
    for spec in config.policy_specs().values():
        for seed in seeds:
            path = folder / f"designs/{spec.name}/seed{seed}.parquet"
            tables.write_rows(_designs(spec, seed, validation, rng), tables.DESIGNS, path)
            paths.append(path)
            _write_training(folder / f"policies/{spec.name}/seed{seed}", spec, config.training.steps, noise)
    steps = config.training.snapshot_steps
    targets = settings_of(config)["targets_ev"]
    for step in steps:
        _write_snapshot(folder, step, config, validation, rng)
    assessments = folder / "designs/assessments.parquet"
    assess_designs(paths, folder / "structures/crystals.parquet", folder / "formulas.txt", assessments)
    _write_design_outcomes(
        folder, assessments, {c["material_id"]: c for c in crystals}, energies, config, success, recovered, rng, noise
    )
    evaluate_designs(
        assessments=assessments,
        outcomes=folder / "evaluation/outcomes.parquet",
        references=folder / "references.parquet",
        labels=folder / "labels.parquet",
        evaluation=folder / "evaluation/evaluation.parquet",
    )
    for path, target in zip(prediction_files(folder, config), targets, strict=True):
        _write_predictions(folder / "evaluation/evaluation.parquet", path, target, config.evaluation.window_ev)
    for step in steps:
        evaluate_designs(
            assessments=folder / f"learning_curve/{step}/assessments.parquet",
            outcomes=folder / "evaluation/outcomes.parquet",
            references=folder / "references.parquet",
            labels=folder / "labels.parquet",
            evaluation=folder / f"learning_curve/{step}/evaluation.parquet",
            of_snapshot=True,
        )
    assess_stability(
        evaluation=folder / "evaluation/evaluation.parquet",
        outcomes=folder / "evaluation/outcomes.parquet",
        labels=folder / "labels.parquet",
        crystals=folder / "structures/crystals.parquet",
        references=folder / "references.parquet",
        stability=folder / "evaluation/stability.parquet",
    )
    return config


def prediction_files(folder: Path, config: Config) -> list[Path]:
    """A table of predictions for every target of a run."""
    return [folder / f"designs/predictions-{target:g}ev.parquet" for target in settings_of(config)["targets_ev"]]


def _write_predictions(evaluation: Path, predictions: Path, target: float, window: float) -> None:
    """A predictor that says 0.6 of a hit and 0.1 of others."""
    rows = {row["request_id"]: row for row in tables.read_rows(evaluation, tables.EVALUATION) if row["request_id"]}
    said = []
    for request_id, row in rows.items():
        is_hit = row["band_gap"] is not None and abs(row["band_gap"] - target) < window
        said.append(prediction_row(request_id, 0.6 if is_hit else 0.1, target - window, target + window))
    tables.write_rows(said, tables.PREDICTIONS, predictions)


def prediction_row(material_id: str, p_hit: float, low: float, high: float | None, gap: float = 1.0) -> dict[str, Any]:
    """A row of `PREDICTIONS`."""
    return {
        "material_id": material_id, "p_failure": 0.1, "p_metal": 0.1, "nonmetal_gap": gap, "nonmetal_gap_std": 0.5, "nonmetal_gap_spread": 0.2,
        "band_gap": gap, "band_gap_low": 0.0, "band_gap_high": 8.0, "formation_energy_per_atom": -1.0, "formation_energy_std": 0.3,
        "formation_energy_spread": 0.1, "formation_energy_low": -2.0, "formation_energy_high": 0.0, "confidence": 0.9, "calibrated_on": "crystals",
        "gap_from": low, "gap_to": high, "p_hit": p_hit, "predictor": "0" * 16,
    }  # fmt: skip


def _crystal(number: int, rng: random.Random, noise: np.random.Generator) -> dict[str, Any]:
    counts = rng.choice(PROTOTYPES)
    species = (
        [rng.choice(A_ELEMENTS)] * counts[0]
        + [rng.choice(B_ELEMENTS)] * counts[1]
        + [rng.choice(X_ELEMENTS)] * counts[2]
    )
    gap = 0.0 if rng.random() < 0.19 else float(noise.gamma(2.0, 1.15))
    return {
        "material_id": f"mp-{1000 + number}",
        "split": "val" if number % 4 == 0 else "train",
        "formula": reduced_formula(species),
        "n_sites": len(species),
        "species": species,
        "lattice": [5.0, 0, 0, 0.7, 5.1, 0, -0.4, 0.9, 5.3],
        "frac_coords": [float(x) for x in noise.random(3 * len(species))],
        "spacegroup_number": rng.choice((1, 62, 166, 194, 216, 221, 225, 227)),
        "band_gap": max(gap, 0.1),
        "formation_energy_per_atom": float(noise.normal(-1.7, 0.9)),
        "tot_magnetization": 0.0,
        "source": f"train.csv:{number}",
    }


def _write_rejected(folder: Path, rng: random.Random, n_crystals: int) -> None:
    sentences = {
        "metal": "band gap 0 in the source",
        "missing_band_gap": "no band gap in the source",
        "unknown_element": "Ar is not among the 88 elements",
        "too_many_sites": "24 sites, at most 20 are used",
        "unreadable_cif": "Invalid CIF file with no structures!",
    }
    rows = [
        {
            "source": "train.csv", "row": row, "material_id": f"mp-{90000 + row}", "split": "train", "reason": reason,
            "detail": sentences[reason],
        }
        for row, reason in enumerate(rng.choices(list(sentences), (90, 6, 1, 2, 1), k=min(n_crystals * 3 // 2, 20_000)))
    ]  # fmt: skip
    tables.write_rows(rows, tables.REJECTED, folder / "structures/rejected.parquet")


def _references() -> list[dict[str, Any]]:
    rows = []
    for number, element in enumerate(ELEMENTS):
        energy = -150.0 - 37.0 * number
        rows.append(
            {
                "element": element,
                "form": "atom" if element in ("Lu", "P", "Se") else "crystal",
                "n_sites": 1 if element in ("Lu", "P", "Se") else 2,
                "energy_per_atom": energy,
                "energy_per_atom_ry": energy / RYDBERG_EV_PAPER,
                "outcome": "converged",
                "detail": "",
                **PROTOCOL,
            }
        )
    for row in rows:
        if row["element"] == "Pu":
            row.update(
                energy_per_atom=None,
                energy_per_atom_ry=None,
                outcome="not_converged",
                detail="no convergence in 1000 iterations",
            )
    return rows


def _outcome(
    request_id: str,
    kind: str,
    species: list[str],
    outcome: str,
    energy: float | None,
    gap: float | None,
    recovered: bool = False,
) -> dict[str, Any]:
    wall = 40.0 + 13 * len(species)
    attempt = {
        "number": 1, "strategy": "plain", "outcome": outcome, "detail": "", "nspin": 1, "tot_magnetization": None,
        "exit_code": 0 if outcome == "converged" else 1, "wall_s": wall, "key": hashlib.sha256(request_id.encode()).hexdigest(),
    }  # fmt: skip
    return {
        "request_id": request_id,
        "kind": kind,
        "key": request_id,
        "species": species,
        "outcome": outcome,
        "detail": "" if outcome == "converged" else f"{outcome.replace('_', ' ')} after 1 attempt",
        "total_energy_ry": None if energy is None else energy / RYDBERG_EV_PAPER,
        "total_energy": energy,
        "band_gap_raw": gap,
        "band_gap": None if gap is None else max(gap, 0.0),
        "is_metallic": None if gap is None else gap < 0,
        "nspin": 1,
        "tot_magnetization": None,
        "strategy": "plain" if outcome == "converged" else None,
        "recovered": recovered if outcome == "converged" else None,
        **PROTOCOL,
        "engine": ENGINE,
        "wall_s": wall,
        "attempts": [attempt],
    }


def _total_energy(species: list[str], formation_energy: float, energies: dict[str, float | None]) -> float:
    return sum(energies[element] or -3000.0 for element in species) + len(species) * formation_energy


def _write_labels(
    folder: Path, crystals: list[dict[str, Any]], energies: dict[str, Any], rng: random.Random, imported: bool
) -> None:
    labels, outcomes = [], []
    for crystal in crystals:
        failed = not imported and rng.random() < 0.05
        gap = None if failed else crystal["band_gap"] * 0.9 - (0.4 if crystal["band_gap"] < 0.2 else 0)
        formation = None if failed else crystal["formation_energy_per_atom"]
        energy = None if formation is None else _total_energy(crystal["species"], formation, energies)
        outcome = "not_converged" if failed else "converged"
        outcomes.append(_outcome(crystal["material_id"], "crystal", crystal["species"], outcome, energy, gap))
        labels.append(
            {
                "material_id": crystal["material_id"],
                "split": crystal["split"],
                "band_gap": None if gap is None else max(gap, 0.0),
                "band_gap_raw": gap,
                "total_energy_ry": None if energy is None else energy / RYDBERG_EV_PAPER,
                "formation_energy_per_atom": formation,
                "outcome": "imported" if imported else outcome,
                "detail": "",
                **PROTOCOL,
                "source": "published/val.csv" if imported else "scf",
            }
        )
    tables.write_rows(labels, tables.LABELS, folder / "labels.parquet")
    if not imported:
        tables.write_rows(outcomes, tables.SCF_OUTCOMES, folder / "scf/outcomes.parquet")


def _designs(spec: PolicySpec, seed: int, crystals: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    """Whole elements are swapped, not sites, so that designs look like a trained policy's."""
    keep = {"random": 0.0, "bc": 0.72, "ucql": 0.7, "ccql": 0.68}[spec.kind] - (0.05 if spec.omega == 1 else 0)
    rows = []
    for crystal in crystals:
        if spec.kind == "random":
            species = [rng.choice(ELEMENTS) for _ in crystal["species"]]
        else:
            swaps = {
                element: element if rng.random() < keep else rng.choice(SIMILARITY_CLASSES[SIMILARITY_CLASS[element]] if rng.random() < 0.75 else ELEMENTS)
                for element in sorted(set(crystal["species"]))
            }  # fmt: skip
            species = [swaps[element] for element in crystal["species"]]
        rows.append(
            {
                "material_id": crystal["material_id"],
                "policy": spec.name,
                "seed": seed,
                "order": list(range(len(species))),
                "species": species,
            }
        )
    return rows


def _write_snapshot(
    folder: Path, step: int, config: Config, crystals: list[dict[str, Any]], rng: random.Random
) -> None:
    """Designs of the learned policies at a step: the more training is done, the more of them are those of the end."""
    paths = []
    for spec in config.policy_specs().values():
        for seed in config.policies.seeds if spec.is_learned else ():
            finished = tables.read_rows(folder / f"designs/{spec.name}/seed{seed}.parquet", tables.DESIGNS)
            untrained = [row | {"policy": spec.name} for row in _designs(PolicySpec("random"), seed, crystals, rng)]
            rows = [
                end if rng.random() < step / config.training.steps else start
                for start, end in zip(untrained, finished, strict=True)
            ]
            path = folder / f"learning_curve/{step}/designs/{spec.name}/seed{seed}.parquet"
            tables.write_rows(rows, tables.DESIGNS, path)
            paths.append(path)
    assess_designs(
        paths,
        folder / "structures/crystals.parquet",
        folder / "formulas.txt",
        folder / f"learning_curve/{step}/assessments.parquet",
    )


def _write_design_outcomes(
    folder: Path, assessments: Path, crystals: dict[str, Any], energies: dict[str, Any], config: Config, success: float,
    recovered: float, rng: random.Random, noise: np.random.Generator,
) -> None:  # fmt: skip
    targets = {name: spec.target_ev for name, spec in config.policy_specs().items()}
    done: dict[str, dict[str, Any]] = {}
    for row in tables.read_rows(assessments, tables.ASSESSMENTS):
        if row["request_id"] is None or row["request_id"] in done:
            continue
        species, truth = row["species"], crystals[row["material_id"]]
        chance = success * (0.22 if row["policy"] == "random" else 1)
        if rng.random() >= chance:
            outcome = rng.choices(list(FAILURES), list(FAILURES.values()))[0]
            done[row["request_id"]] = _outcome(row["request_id"], "design", species, outcome, None, None)
            continue
        target = targets[row["policy"]]
        gap = truth["band_gap"] * 0.8 + float(noise.normal(-0.2, 0.8))
        if target is not None:
            gap = 0.7 * gap + 0.3 * target + float(noise.normal(0, 0.3))
        formation = truth["formation_energy_per_atom"] + float(noise.normal(0.3, 0.5))
        if row["policy"] == "random":
            gap, formation = float(noise.normal(-0.3, 0.4)), float(noise.normal(2.8, 1.4))
        done[row["request_id"]] = _outcome(
            row["request_id"], "design", species, "converged", _total_energy(species, formation, energies), gap,
            recovered=rng.random() < recovered,
        )  # fmt: skip
    tables.write_rows(done.values(), tables.SCF_OUTCOMES, folder / "evaluation/outcomes.parquet")


def _write_training(folder: Path, spec: PolicySpec, steps: int, noise: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policy.json").write_text(json.dumps({"policy": spec.to_dict(), "steps": steps}))
    with (folder / "training.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["step", "loss", "td_loss", "conservative_loss", "q_data", "q_max", "accuracy", "grad_norm", "steps_per_s"]
        )
        for step in range(100, steps + 1, 100) if spec.is_learned else ():
            decay = float(np.exp(-step / (steps / 3)))
            writer.writerow(
                [
                    step,
                    4 * decay + 1 + noise.normal(0, 0.05),
                    "" if spec.kind == "bc" else decay + 0.3,
                    3 * decay + 0.7,
                    6 - 5 * decay,
                    6.3 - 5 * decay,
                    0.5 - 0.4 * decay + noise.normal(0, 0.01),
                    2 + noise.normal(0, 0.2),
                    140 + noise.normal(0, 3),
                ]
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crystals", type=int, default=4 * 2486, help="a quarter of them are validation crystals")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    config = write_results(arguments.folder, arguments.crystals, tuple(range(arguments.seeds)))
    (arguments.folder / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    outcomes = Counter(
        row["outcome"]
        for row in tables.read_rows(arguments.folder / "evaluation/evaluation.parquet", tables.EVALUATION)
    )
    print(outcomes)


if __name__ == "__main__":
    main()
