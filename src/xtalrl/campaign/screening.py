"""The screen of a round: which of its designs get an SCF for their predicted probability of a hit, and which by lot, as an audit."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from xtalrl import tables
from xtalrl.campaign.learning import warn_where_labels_are_far
from xtalrl.campaign.wishes import Wishes
from xtalrl.dft.pseudopotentials import load_family
from xtalrl.dft.recovery import Recovery
from xtalrl.dft.requests import will_run
from xtalrl.errors import XtalrlError

logger = logging.getLogger(__name__)

CHOSEN, AUDITED, DROPPED, LEFT_OUT = "chosen", "audited", "dropped", "left out"
COMPUTED = (CHOSEN, AUDITED)
"""Verdicts of designs that get an SCF."""


@dataclass(frozen=True)
class Candidate:
    """A design that is up for choice; `probability` is that of a hit."""

    request_id: str
    skeleton: str
    formula: str
    probability: float


def share_of_round(budget: int, spent: int, rounds_left: int) -> int:
    """SCFs of the next of `rounds_left` rounds: an equal share of what is left, rounded up, so that all rounds together take the budget."""
    return max(0, math.ceil((budget - spent) / rounds_left))


def split_share(share: int, audit: float, n_candidates: int) -> tuple[int, int]:
    """How many of a round's SCFs are chosen, and how many drawn from those that would have been dropped.

    Where a round has two SCFs and the audit a share at all, both kinds get one. Where there are no more candidates than SCFs nothing is
    dropped, and there is nothing to audit.

    Args:
        share: SCFs of the round.
        audit: share of them that the audit gets, 0 to 1.
        n_candidates: designs that are up for choice.
    """
    if n_candidates <= share:
        return n_candidates, 0
    audited = round(share * audit)
    if 0 < audit < 1 and share >= 2:
        audited = min(max(audited, 1), share - 1)
    return share - audited, audited


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates in the order in which the screen takes them.

    The most probable come first, but the second of a skeleton or of a formula only after the first of all others, and so on: so that
    a round does not spend its SCFs on variants of one crystal.
    """
    by_probability = sorted(candidates, key=lambda one: (-one.probability, one.request_id))
    taken: Counter[tuple[str, str]] = Counter()
    depth = {}
    for one in by_probability:
        of_its_kind = ("skeleton", one.skeleton), ("formula", one.formula)
        depth[one.request_id] = max(taken[kind] for kind in of_its_kind)
        taken.update(of_its_kind)
    return sorted(by_probability, key=lambda one: depth[one.request_id])


def drawn(request_ids: Collection[str], n: int, seed: int, round_number: int) -> set[str]:
    """n of the designs, each as likely as any other; the same for the same seed and round, whatever their order."""
    generator = np.random.default_rng([seed, round_number])
    return set(generator.choice(sorted(request_ids), size=n, replace=False).tolist()) if n else set()


def screen_designs(
    assessments: str | Path,
    predictions: str | Path,
    labels: str | Path,
    family: str | Path,
    earlier: Sequence[str | Path] | None,
    screening: str | Path,
    chosen: str | Path,
    wishes: Mapping[str, Any],
    recovery: Recovery,
    round_number: int,
    rounds: int,
    budget: int,
    audit: float,
    seed: int,
) -> None:
    """Decide which designs of a round get an SCF, and write `SCREENING` of all and `ASSESSMENTS` of these.

    Args:
        assessments: `ASSESSMENTS` of the round's designs.
        predictions: `PREDICTIONS` of the valid ones, by request_id.
        labels: `LABELS` of the run; the first round warns where none is near the wanted gaps.
        family: family.json of the pseudopotentials.
        earlier: `SCREENING` of the rounds before; None in the first.
        screening, chosen: tables to write.
        wishes: fields of `Wishes`.
        recovery: whether odd numbers of electrons are computed.
        round_number: from 1 to `rounds`.
        rounds, budget: of the whole campaign.
        audit: share of the round's SCFs that are drawn from what the screen drops.
        seed: of that draw.

    Raises:
        XtalrlError: a file cannot be read, or the first round has nothing that could be computed.
    """
    wanted = Wishes(**wishes)
    if round_number == 1:
        warn_where_labels_are_far(labels, (wanted.gap_from, wanted.gap_to))
    predicted = {row["material_id"]: row for row in tables.read_rows(predictions, tables.PREDICTIONS)}
    before = [row for path in earlier or () for row in tables.read_rows(path, tables.SCREENING)]
    rows = tables.read_rows(assessments, tables.ASSESSMENTS)
    pseudopotentials = load_family(str(family))[0]
    known = {row["request_id"] for row in before if row["request_id"]}
    entries: list[dict[str, Any]] = []
    for row, why in zip(rows, _left_out(rows, known, wanted), strict=True):
        if not why and not will_run(row["species"], pseudopotentials, recovery):
            why = "no SCF: a pseudopotential is missing, or the number of electrons is odd"
        said = predicted.get(row["request_id"])
        if not why and said is None:
            why = "no graph: CrystalNN finds no bonds"
        entries.append(_entry(row, round_number, why, said, wanted))
    _leave_out_twins(entries)
    candidates = [
        Candidate(entry["request_id"], entry["material_id"], entry["formula"], entry["p_hit"])
        for entry in entries
        if not entry["why"]
    ]
    counts = Counter(entry["why"] for entry in entries if entry["why"])
    if not candidates and round_number == 1:
        reasons = "; ".join(f"{n:,} {why}" for why, n in counts.most_common())
        raise XtalrlError(
            f"Of {len(entries):,} designs none is left to compute ({reasons}): loosen the wishes in `campaign`."
        )
    spent = sum(row["verdict"] in COMPUTED for row in before)
    n_chosen, n_audited = split_share(share_of_round(budget, spent, rounds - round_number + 1), audit, len(candidates))
    order = ranked(candidates)
    verdicts = {one.request_id: CHOSEN if place < n_chosen else DROPPED for place, one in enumerate(order)}
    lots = drawn([one.request_id for one in order[n_chosen:]], n_audited, seed, round_number)
    verdicts |= dict.fromkeys(lots, AUDITED)
    places = {one.request_id: place for place, one in enumerate(order, 1)}
    for entry in entries:
        if not entry["why"]:
            entry |= {"verdict": verdicts[entry["request_id"]], "rank": places[entry["request_id"]]}
    tables.write_rows(entries, tables.SCREENING, screening)
    computed = [row for row, entry in zip(rows, entries, strict=True) if entry["verdict"] in COMPUTED]
    tables.write_rows(computed, tables.ASSESSMENTS, chosen)
    logger.info(
        "Round %d: of %s designs %s are up for choice; %s chosen and %s drawn as an audit, with %.1f hits expected. Left out: %s",
        round_number,
        f"{len(entries):,}",
        f"{len(candidates):,}",
        f"{n_chosen:,}",
        f"{n_audited:,}",
        sum(entry["p_hit"] for entry in entries if entry["verdict"] in COMPUTED),
        "; ".join(f"{n:,} {why}" for why, n in counts.most_common()) or "none",
    )


def _left_out(rows: Sequence[Mapping[str, Any]], known: Collection[str], wishes: Wishes) -> Iterator[str]:
    """Why each design is not up for choice, so far as its composition tells; empty where it is."""
    seen = set(known)
    for row in rows:
        if row["request_id"] is None:
            yield "not neutral by the validity rule"
        elif row["request_id"] in seen:
            yield "proposed before"
        elif wishes.novel and not row["novel"]:
            yield "a known composition"
        else:
            yield ""
        seen.add(row["request_id"])


def _entry(
    row: Mapping[str, Any],
    round_number: int,
    why: str,
    said: Mapping[str, Any] | None,
    wishes: Wishes,
) -> dict[str, Any]:
    """A row of `SCREENING` but for its verdict among those that are up for choice."""
    shared = ("material_id", "policy", "seed", "sample", "species", "formula", "request_id", "novel")
    return {name: row[name] for name in shared} | {
        "round": round_number,
        "verdict": LEFT_OUT if why else "",
        "why": why,
        "rank": None,
        "p_hit": probability(said, wishes) if said else None,
        "band_gap": said["band_gap"] if said else None,
        "formation_energy_per_atom": said["formation_energy_per_atom"] if said else None,
    }


def _leave_out_twins(entries: Sequence[dict[str, Any]]) -> None:
    """Of designs with the same formula on the same skeleton, only the most probable is up for choice."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        if entry["why"]:
            continue
        kind = entry["material_id"], entry["formula"]
        other = best.get(kind)
        if other is None or entry["p_hit"] > other["p_hit"]:
            best[kind] = entry
        worse = other if best[kind] is entry else entry
        if worse is not None:
            worse |= {
                "verdict": LEFT_OUT,
                "why": "another arrangement of the same elements on the skeleton is likelier",
            }


def probability(said: Mapping[str, Any], wishes: Wishes) -> float:
    """Probability of a hit by a row of `PREDICTIONS`: a gap in the range and, where it is wished for, a formation energy that is low enough.

    The two are taken for independent, and the formation energy for normally distributed.
    """
    p = float(said["p_hit"])
    if wishes.highest_formation_energy is not None:
        below = wishes.highest_formation_energy - said["formation_energy_per_atom"]
        p *= float(stats.norm.cdf(below / max(said["formation_energy_std"], 1e-6)))
    return p
