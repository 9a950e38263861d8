"""The screen of a round: which of its designs get an SCF because of their predicted probability of a hit, and which by lot, as an audit."""

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
from xtalrl.campaign.nearest import first_alike
from xtalrl.campaign.wishes import Wishes
from xtalrl.cells import Cell
from xtalrl.dft.pseudopotentials import Family, load_family
from xtalrl.dft.recovery import Recovery
from xtalrl.dft.requests import cost_of, will_run
from xtalrl.errors import XtalrlError

logger = logging.getLogger(__name__)

CHOSEN, AUDITED, DROPPED, LEFT_OUT = "chosen", "audited", "dropped", "left out"
COMPUTED = (CHOSEN, AUDITED)
"""Verdicts of designs that get an SCF."""
FIRST_S_PER_COST = 0.02
"""Wall time in s per valence electron and Å³, used until a campaign has measured its own. Measured with `paper-fast` and SSSP on a busy core:
0.021 for the 61 crystals of docs/results/dft_validation.md (embedded pw.x), 0.017 for the 41 designs of docs/results/design_recovery.md
(pw.x 6.7, all rungs of the extended ladder)."""


@dataclass(frozen=True)
class Candidate:
    """A design that the screen can choose; `probability` is its predicted probability of being a hit."""

    request_id: str
    skeleton: str
    formula: str
    probability: float


def share_of_round(budget: int, spent: int, rounds_left: int) -> int:
    """Number of SCFs of the next of `rounds_left` rounds: an equal share of what is left, rounded up, so that all rounds together spend the budget."""
    return max(0, math.ceil((budget - spent) / rounds_left))


def split_share(share: int, audit: float, n_candidates: int) -> tuple[int, int]:
    """How many of a round's SCFs go to designs that the screen chooses, and how many to designs drawn from those it would have dropped.

    Where a round has at least two SCFs and the audit's share is neither 0 nor 1, both kinds get at least one. Where there are no more candidates than
    SCFs, nothing is dropped, and there is nothing to audit.

    Args:
        share: SCFs of the round.
        audit: share of these SCFs that the audit gets, 0 to 1.
        n_candidates: number of designs that the screen can choose from.
    """
    if n_candidates <= share:
        return n_candidates, 0
    audited = round(share * audit)
    if 0 < audit < 1 and share >= 2:
        audited = min(max(audited, 1), share - 1)
    return share - audited, audited


def split_hours(share_s: float, audit: float, costs_s: Sequence[float]) -> tuple[int, int]:
    """How many designs the screen chooses, and how many are drawn from those it would have dropped, where the budget is in core-hours.

    Designs are chosen in order for as long as their estimated costs together stay within their part of the share. The number drawn follows from
    the mean cost of the dropped designs, because drawing until the hours are spent would favour cheap designs. Each kind whose share is not 0
    gets at least one SCF if there is a design for it.

    Args:
        share_s: single-core wall time of the round in s.
        audit: share of this time that the audit gets, 0 to 1.
        costs_s: estimated wall time in s of each candidate, in the order in which the screen takes them.
    """
    if not costs_s or sum(costs_s) <= share_s:
        return len(costs_s), 0
    within = np.cumsum(costs_s) <= share_s * (1 - audit)
    n_chosen = max(int(within.sum()), int(audit < 1))
    dropped = costs_s[n_chosen:]
    if not audit or not dropped:
        return n_chosen, 0
    return n_chosen, min(len(dropped), max(1, int(share_s * audit / float(np.mean(dropped)))))


def share_of_hours(core_hours: float, outcomes: Sequence[Mapping[str, Any]], rounds_left: int) -> float:
    """Wall time in s of the next of `rounds_left` rounds: an equal share of what the SCFs of earlier rounds left of the budget in core-hours."""
    spent_s = sum(float(row["wall_s"]) for row in outcomes if row["kind"] == "design")
    return max(0.0, 3600 * core_hours - spent_s) / rounds_left


def seconds_per_cost(designs: Mapping[str, float], outcomes: Sequence[Mapping[str, Any]]) -> float:
    """Wall time in s of a single-core SCF per unit of `cost_of`, over all SCFs of earlier rounds; `FIRST_S_PER_COST` if there are none.

    Args:
        designs: `cost_of` of each computed design, by request_id.
        outcomes: rows of `SCF_OUTCOMES` of these designs.
    """
    ran = [(row["wall_s"], designs[row["request_id"]]) for row in outcomes if row["request_id"] in designs]
    total_s, total_cost = (sum(numbers) for numbers in zip(*ran, strict=True)) if ran else (0.0, 0.0)
    return total_s / total_cost if total_s and total_cost else FIRST_S_PER_COST


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates in the order in which the screen takes them.

    The most probable come first. However, the second design of a skeleton or of a formula comes only after the first of every other, and so
    on, so that a round does not spend its SCFs on variants of one crystal.
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
    """n designs drawn uniformly; the same for the same seed and round, whatever the order of the designs."""
    generator = np.random.default_rng([seed, round_number])
    return set(generator.choice(sorted(request_ids), size=n, replace=False).tolist()) if n else set()


def screen_designs(
    assessments: str | Path,
    predictions: str | Path,
    labels: str | Path,
    family: str | Path,
    skeletons: str | Path,
    earlier: Sequence[str | Path] | None,
    screening: str | Path,
    chosen: str | Path,
    wishes: Mapping[str, Any],
    recovery: Recovery,
    round_number: int,
    rounds: int,
    budget: int | None,
    audit: float,
    seed: int,
    core_hours: float | None = None,
    earlier_outcomes: Sequence[str | Path] | None = None,
) -> None:
    """Decide which designs of a round get an SCF; write the `SCREENING` of all designs and the `ASSESSMENTS` of those that get one.

    Args:
        assessments: `ASSESSMENTS` of the round's designs.
        predictions: `PREDICTIONS` of the valid designs, by request_id.
        labels: `LABELS` of the run; the first round warns if none of them is near the wanted gaps.
        family: family.json of the pseudopotentials.
        skeletons: `CRYSTALS` of the skeletons.
        earlier: `SCREENING` of the earlier rounds; None in the first.
        screening, chosen: tables to write.
        wishes: fields of `Wishes`.
        recovery: recovery of failed SCFs, which says whether cells with an odd number of electrons are computed.
        round_number: number of this round, from 1 to `rounds`.
        rounds: number of rounds of the campaign.
        budget: number of SCFs of the whole campaign; None if `core_hours` is given.
        audit: share of the round's SCFs that goes to designs drawn from those the screen drops.
        seed: seed of that draw.
        core_hours: core-hours of the whole campaign, instead of `budget`.
        earlier_outcomes: `SCF_OUTCOMES` of the earlier rounds, from which costs are estimated; only with `core_hours`.

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
    why_not = _left_out(rows, before, wanted, pseudopotentials, recovery, predicted)
    entries = [
        _entry(row, round_number, why, predicted.get(row["request_id"]), wanted)
        for row, why in zip(rows, why_not, strict=True)
    ]
    _leave_out_twins(entries)
    cells = {row["material_id"]: row for row in tables.read_rows(skeletons, tables.CRYSTALS)}
    spent = [row for row in before if row["verdict"] in COMPUTED]
    _leave_out_same_crystals(entries, spent, cells)
    candidates = [entry for entry in entries if not entry["why"]]
    counts = Counter(entry["why"] for entry in entries if entry["why"])
    if not candidates and round_number == 1:
        reasons = "; ".join(f"{n:,} {why}" for why, n in counts.most_common())
        raise XtalrlError(
            f"Of {len(entries):,} designs none is left to compute ({reasons}): loosen the wishes in `campaign`."
        )
    order = [
        one.request_id
        for one in ranked(
            [Candidate(one["request_id"], one["material_id"], one["formula"], one["p_hit"]) for one in candidates]
        )
    ]
    rounds_left = rounds - round_number + 1
    if core_hours is not None:
        outcomes = [row for path in earlier_outcomes or () for row in tables.read_rows(path, tables.SCF_OUTCOMES)]
        share_s = share_of_hours(core_hours, outcomes, rounds_left)
        costs_s = _costs_s(candidates, spent, outcomes, cells, pseudopotentials)
        logger.info("Round %d: its share of %g core-hours is %.2f", round_number, core_hours, share_s / 3600)
        n_chosen, n_audited = split_hours(share_s, audit, [costs_s[request_id] for request_id in order])
    else:
        assert budget is not None
        n_chosen, n_audited = split_share(share_of_round(budget, len(spent), rounds_left), audit, len(candidates))
    lots = drawn(order[n_chosen:], n_audited, seed, round_number)
    ranks = {request_id: rank for rank, request_id in enumerate(order, 1)}
    for entry in candidates:
        rank = ranks[entry["request_id"]]
        dropped = AUDITED if entry["request_id"] in lots else DROPPED
        entry |= {"verdict": CHOSEN if rank <= n_chosen else dropped, "rank": rank}
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


def _left_out(
    rows: Sequence[Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]],
    wishes: Wishes,
    family: Family,
    recovery: Recovery,
    predicted: Collection[str],
) -> Iterator[str]:
    """The reason why the screen cannot choose a design, for each design; empty where it can. `before` are the rows of `SCREENING` of the earlier rounds."""
    seen = {row["request_id"] for row in before if row["request_id"]}
    # Another arrangement of the same elements is often the same crystal, seen from an equivalent site.
    computed = {(row["material_id"], row["formula"]) for row in before if row["verdict"] in COMPUTED}
    for row in rows:
        if row["request_id"] is None:
            yield "not neutral by the validity rule"
        elif row["request_id"] in seen:
            yield "proposed before"
        elif (row["material_id"], row["formula"]) in computed:
            yield "the same elements on the skeleton were computed before"
        elif wishes.novel and not row["novel"]:
            yield "a known composition"
        elif not will_run(row["species"], family, recovery):
            yield "no SCF: a pseudopotential is missing, or the number of electrons is odd"
        elif row["request_id"] not in predicted:
            yield "no graph: CrystalNN finds no bonds"
        else:
            yield ""
        seen.add(row["request_id"])


def _cell(design: Mapping[str, Any], skeletons: Mapping[str, Mapping[str, Any]]) -> Cell:
    """The cell of a row of `SCREENING`; `skeletons` are rows of `CRYSTALS` by material_id."""
    return Cell.from_row({**skeletons[design["material_id"]], "species": design["species"]})


def _costs_s(
    candidates: Sequence[Mapping[str, Any]],
    spent: Sequence[Mapping[str, Any]],
    outcomes: Sequence[Mapping[str, Any]],
    skeletons: Mapping[str, Mapping[str, Any]],
    family: Family,
) -> dict[str, float]:
    """Estimated wall time in s of the SCF of each candidate, by request_id, from what those of earlier rounds took.

    Args:
        candidates, spent: rows of `SCREENING`: designs up for choice, and those computed before.
        outcomes: `SCF_OUTCOMES` of these.
        skeletons: rows of `CRYSTALS` by material_id.
        family: pseudopotentials.
    """
    cost = {row["request_id"]: cost_of(_cell(row, skeletons), family) for row in (*spent, *candidates)}
    price = seconds_per_cost({row["request_id"]: cost[row["request_id"]] for row in spent}, outcomes)
    logger.info("SCFs take an estimated %.3g s per valence electron and Å³", price)
    return {row["request_id"]: price * cost[row["request_id"]] for row in candidates}


def _entry(
    row: Mapping[str, Any],
    round_number: int,
    why: str,
    said: Mapping[str, Any] | None,
    wishes: Wishes,
) -> dict[str, Any]:
    """A row of `SCREENING`; a design that the screen can choose has no verdict yet."""
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
    """Leave out all but the most probable of the designs with the same formula on the same skeleton."""
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


def _leave_out_same_crystals(
    entries: Sequence[dict[str, Any]],
    spent: Sequence[Mapping[str, Any]],
    skeletons: Mapping[str, Mapping[str, Any]],
) -> None:
    """Leave out designs that are the crystal of an SCF of an earlier round, or of a likelier design of this one, on another skeleton."""
    likeliest = sorted((one for one in entries if not one["why"]), key=lambda one: (-one["p_hit"], one["request_id"]))
    alike = first_alike([_cell(row, skeletons) for row in (*spent, *likeliest)])[len(spent) :]
    for entry, first in zip(likeliest, alike, strict=True):
        if first is not None:
            before = "was computed before" if first < len(spent) else "is likelier on another skeleton"
            entry |= {"verdict": LEFT_OUT, "why": f"the same crystal {before}"}


def probability(said: Mapping[str, Any], wishes: Wishes) -> float:
    """Probability of a hit by a row of `PREDICTIONS`: that the gap is in the range and, if this is wished for, the formation energy low enough.

    The two are taken to be independent, and the formation energy to be normally distributed.
    """
    p = float(said["p_hit"])
    if wishes.highest_formation_energy is not None:
        below = wishes.highest_formation_energy - said["formation_energy_per_atom"]
        p *= float(stats.norm.cdf(below / max(said["formation_energy_std"], 1e-6)))
    return p
