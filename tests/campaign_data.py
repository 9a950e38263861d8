"""A campaign without SCFs and networks: its functions on the crystals of `report_data`, with a stand-in for the predictor and for pw.x."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from report_data import _outcome as outcome_of
from report_data import _total_energy as total_energy_of
from report_data import prediction_row, write_results

from xtalrl import tables
from xtalrl.campaign.evidence import hand_over
from xtalrl.campaign.hits import find_campaign_hits, gather_rounds
from xtalrl.campaign.screening import screen_designs
from xtalrl.config import Config
from xtalrl.dft.pseudopotentials import describe_family
from xtalrl.files import seal_json, write_text
from xtalrl.metrics.composition import assess_designs
from xtalrl.metrics.confirmation import confirm_hits
from xtalrl.metrics.evaluation import evaluate_designs
from xtalrl.metrics.stability import assess_stability

SALTS = [(a, x) for a in ("Li", "Na", "K", "Mg", "Ca", "Sr") for x in ("O", "S", "F", "Cl", "N")]


def write_campaign(folder: Path, skill: float = 1.0, n_crystals: int = 120, **campaign: Any) -> Config:
    """Write the results of a campaign; returns the configuration they belong to.

    `skill` is the share of the truth in the stand-in's predictions, 0 to 1; `campaign` the section of that name. A gap is a function of the
    elements alone, 0 to 8 eV.
    """
    wished = {
        "gap_ev": 4.0,
        "window_ev": 0.5,
        "budget": 60,
        "rounds": 3,
        "explore": 0.3,
        "audit": 0.3,
        "baselines": ["random", "bc"],
        **campaign,
    }
    config = write_results(folder, n_crystals, sections={"campaign": wished}, targets_ev=[1.12], omegas=[5])
    rng = random.Random(3)
    skeletons = [
        row
        for row in tables.read_rows(folder / "structures/crystals.parquet", tables.CRYSTALS)
        if row["split"] == "val"
    ]
    tables.write_rows(skeletons, tables.CRYSTALS, folder / "campaign/skeletons.parquet")
    write_text(folder / "family.json", seal_json(describe_family(config.dft.family).model_dump(mode="json")))
    for number in range(1, config.campaign.rounds + 1):
        _write_round(folder, config, number, skeletons, rng, skill)
    rounds = [folder / f"campaign-{number}" for number in range(1, config.campaign.rounds + 1)]
    everything = {
        "evaluation": folder / "campaign/evaluation.parquet",
        "outcomes": folder / "campaign/outcomes.parquet",
    }
    gather_rounds(
        [path / "evaluation.parquet" for path in rounds],
        [path / "outcomes.parquet" for path in rounds],
        everything["evaluation"],
        everything["outcomes"],
    )
    assess_stability(
        **everything,
        labels=folder / "labels.parquet",
        crystals=folder / "structures/crystals.parquet",
        references=folder / "references.parquet",
        stability=folder / "campaign/stability.parquet",
    )
    hits = folder / "campaign/hits.parquet"
    find_campaign_hits(everything["evaluation"], folder / "campaign/stability.parquet", hits, config.campaign.wishes)
    finer = [
        _scf(row["request_id"], "design", row["species"], "converged", -1.0, row["band_gap"] + rng.choice([0, 0, 1]))
        for row in tables.read_rows(hits, tables.HITS)
    ]
    tables.write_rows(finer, tables.SCF_OUTCOMES, folder / "campaign-confirmation/outcomes.parquet")
    confirm_hits(hits, folder / "campaign-confirmation/outcomes.parquet", folder / "campaign/confirmation.parquet")
    hand_over(
        screenings=[path / "screening.parquet" for path in rounds],
        predictions=[path / "predictions.parquet" for path in rounds],
        **everything,
        stability=folder / "campaign/stability.parquet",
        confirmation=folder / "campaign/confirmation.parquet",
        finer_outcomes=folder / "campaign-confirmation/outcomes.parquet",
        skeletons=folder / "campaign/skeletons.parquet",
        crystals=folder / "structures/crystals.parquet",
        family=folder / "family.json",
        hits=folder / "campaign/hits.csv",
        designs=folder / "campaign/designs",
        wishes=config.campaign.wishes,
        cache=folder / "cache",
    )
    return config


def campaign_files(folder: Path, config: Config) -> dict[str, Any]:
    """The files of a campaign by the names of `Content.inputs`; the rules have the same (RESULT_FILES)."""
    screenings = [folder / f"campaign-{number}/screening.parquet" for number in range(1, config.campaign.rounds + 1)]
    return {
        "labels": folder / "labels.parquet",
        "campaign_first": screenings[0],
        "campaign_held_out": folder / "campaign-1/held_out.parquet",
        "campaign_screenings": screenings,
        "campaign_outcomes": folder / "campaign/outcomes.parquet",
        "campaign_skeletons": folder / "campaign/skeletons.parquet",
        "campaign_found": folder / "campaign/hits.csv",
        "campaign_hits": folder / "campaign/hits.parquet",
        "campaign_confirmation": folder / "campaign/confirmation.parquet",
        "campaign_confirmation_outcomes": folder / "campaign-confirmation/outcomes.parquet",
    }


def _scf(request_id: str, *arguments: Any) -> dict[str, Any]:
    return outcome_of(request_id, *arguments) | {"key": hashlib.sha256(request_id.encode()).hexdigest()}


def converges(request_id: str) -> bool:
    """Whether the stand-in for pw.x gives a result: for nine of ten."""
    return random.Random(request_id).random() < 0.9


def true_gap(species: list[str]) -> float:
    """What the stand-in for pw.x gives."""
    return random.Random(" ".join(sorted(species))).uniform(0, 8)


def _write_round(
    folder: Path, config: Config, number: int, skeletons: list[dict[str, Any]], rng: random.Random, skill: float
) -> None:
    here = folder / f"campaign-{number}"
    rows = []
    for skeleton in skeletons:
        for sample in range(4):
            a, x = rng.choice(SALTS)
            species = [a if rng.random() < 0.5 else x for _ in skeleton["species"]]
            rows.append(
                {
                    "material_id": skeleton["material_id"], "policy": "rvs-mp20-4ev", "seed": 0, "sample": 4 * (number - 1) + sample,
                    "order": list(range(len(species))), "species": species,
                }
            )  # fmt: skip
    tables.write_rows(rows, tables.DESIGNS, here / "designs.parquet")
    assessments = here / "assessments.parquet"
    assess_designs(
        [here / "designs.parquet"], folder / "campaign/skeletons.parquet", folder / "formulas.txt", assessments
    )
    valid = {row["request_id"]: row for row in tables.read_rows(assessments, tables.ASSESSMENTS) if row["valid"]}
    predictions = [
        _prediction(request_id, skill * true_gap(row["species"]) + (1 - skill) * rng.uniform(0, 8), config)
        for request_id, row in valid.items()
    ]
    tables.write_rows(predictions, tables.PREDICTIONS, here / "predictions.parquet")
    if number == 1:
        labels = [
            row for row in tables.read_rows(folder / "labels.parquet", tables.LABELS) if row["band_gap"] is not None
        ]
        held_out = [_prediction(row["material_id"], row["band_gap"] + 0.5, config) for row in labels]
        tables.write_rows(held_out, tables.PREDICTIONS, here / "held_out.parquet")
    campaign = config.campaign
    screen_designs(
        assessments,
        here / "predictions.parquet",
        folder / "labels.parquet",
        folder / "family.json",
        folder / "campaign/skeletons.parquet",
        [folder / f"campaign-{earlier}/screening.parquet" for earlier in range(1, number)],
        here / "screening.parquet",
        here / "chosen.parquet",
        campaign.wishes,
        "extended",
        number,
        campaign.rounds,
        campaign.budget,
        campaign.explore if number == 1 else campaign.audit,
        campaign.seed,
    )
    energies = {
        row["element"]: row["energy_per_atom"]
        for row in tables.read_rows(folder / "references.parquet", tables.REFERENCES)
    }
    outcomes = [
        _scf(row["request_id"], "design", row["species"], "converged", total_energy_of(row["species"], -1.0, energies), true_gap(row["species"]))
        if converges(row["request_id"])
        else _scf(row["request_id"], "design", row["species"], "time_limit", None, None)
        for row in tables.read_rows(here / "chosen.parquet", tables.ASSESSMENTS)
    ]  # fmt: skip
    tables.write_rows(outcomes, tables.SCF_OUTCOMES, here / "outcomes.parquet")
    evaluate_designs(
        here / "chosen.parquet",
        here / "outcomes.parquet",
        folder / "references.parquet",
        folder / "labels.parquet",
        here / "evaluation.parquet",
    )


def _prediction(request_id: str, gap: float, config: Config) -> dict[str, Any]:
    low, high = config.campaign.wanted_ev
    return prediction_row(request_id, 0.7 if low < gap < (high or 30) else 0.05, low, high, gap)
