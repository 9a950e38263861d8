"""Training of the predictor on any tables of graphs and labels: crystals of a run, metals, and designs with an SCF."""

from __future__ import annotations

import importlib.metadata
import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.predictive import Floats
from xtalrl.rl.predictor import (
    ARCHITECTURE,
    GROUPS,
    KINDS,
    Prediction,
    Predictor,
    PropertyNetwork,
    compressed,
    fold_of,
    prediction_rows,
)
from xtalrl.rl.settings import TrainingSettings
from xtalrl.rl.training import keep_freed_memory

logger = logging.getLogger(__name__)

MAX_SCORES = 1000
"""Maximum number of scores of a group that are kept to calibrate its intervals; of more, this many are drawn at random."""
MIN_CRYSTALS = 20
"""Smallest number of crystals with a gap that a training needs."""
_NO_VERDICT = "implausible"
"""Outcome of a label that says neither that the SCF gave a gap nor that it failed."""


@dataclass(frozen=True)
class PredictorSettings:
    """How a predictor is trained. The defaults are for a new predictor; `fine_tuning` continues a trained one."""

    members: int = 4
    """Number of networks of the ensemble and of folds of the crystals; a training that continues another predictor keeps those of that one."""
    steps: int = 5000
    """Number of updates of each member."""
    batch_size: int = 128
    """Number of crystals per update."""
    learning_rate: float = 1e-3
    """Highest learning rate of Adam, reached after a warm-up; it falls to a thousandth in half a cosine."""
    design_share: float = 0.25
    """Share of a batch that is drawn from designs, if there are any."""

    @classmethod
    def fine_tuning(cls) -> PredictorSettings:
        """The settings to continue from another predictor."""
        return cls(steps=600, learning_rate=3e-4)

    @property
    def schedule(self) -> TrainingSettings:
        """Learning rate, averaging and clipping as policies have them."""
        return TrainingSettings(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule="cosine",
            warmup_steps=min(200, self.steps // 10),
            weight_averaging=0.999,
        )


@dataclass(frozen=True)
class LabelledCrystals:
    """Complete crystals with what is known of each; NaN where a value is unknown."""

    graphs: CrystalGraphs
    gap: Floats
    """(n,) eV; 0 for a metal."""
    energy: Floats
    """(n,) eV/atom."""
    failure: Floats
    """(n,) 1 where the SCF gave nothing, 0 where it gave a gap; NaN where no SCF of ours was run."""
    is_design: NDArray[np.bool_]
    """(n,)"""

    @classmethod
    def read(cls, data: Sequence[tuple[str | Path, str | Path]]) -> LabelledCrystals:
        """The crystals of each pair of `tables.GRAPHS` and `tables.LABELS` that have a graph and a label or a failed SCF.

        Raises:
            XtalrlError: a file is missing or malformed, or there are too few crystals with a gap.
        """
        parts = [
            _labelled(tables.read(graphs, tables.GRAPHS), tables.read(labels, tables.LABELS)) for graphs, labels in data
        ]
        table = pa.concat_tables([part for part, _ in parts])
        gap, energy, failure = np.concatenate([values for _, values in parts], 1)
        if (n := int(np.isfinite(gap).sum())) < MIN_CRYSTALS:
            raise XtalrlError(
                f"{', '.join(str(labels) for _, labels in data)} give {n} crystals with a graph and a band gap, and a predictor needs at least "
                f"{MIN_CRYSTALS}: add labels, or use the predictor that ships with xtalrl as it is."
            )
        is_design = np.array([split == tables.DESIGN_SPLIT for split in table["split"].to_pylist()], bool)
        return cls(CrystalGraphs(table), gap, energy, failure, is_design)


def _labelled(graphs: pa.Table, labels: pa.Table) -> tuple[pa.Table, Floats]:
    """The graphs (n rows) that have something to learn from, and gap, energy and failure (3, n) of each."""
    rows = pc.index_in(graphs["material_id"].combine_chunks(), value_set=labels["material_id"].combine_chunks())
    graphs = graphs.filter(pc.is_valid(rows))
    labels = labels.take(rows.drop_null())

    def numbers(name: str) -> Floats:
        values: Floats = pc.fill_null(labels[name], np.nan).to_numpy().astype(np.float64)
        return values

    gap = numbers("band_gap")
    ran = pc.and_(pc.equal(labels["source"], "scf"), pc.not_equal(labels["outcome"], _NO_VERDICT)).to_numpy()
    failure = np.where(np.isfinite(gap), 0.0, np.where(np.isfinite(numbers("total_energy_ry")), np.nan, 1.0))
    values = np.stack([gap, numbers("formation_energy_per_atom"), np.where(ran, failure, np.nan)])
    known = np.isfinite(values).any(0)
    return graphs.filter(pa.array(known)), values[:, known]


def train_with_designs(
    graphs: str | Path,
    labels: str | Path,
    design_graphs: Sequence[str | Path] | None,
    design_labels: Sequence[str | Path] | None,
    predictor: str | Path,
    held_out: str | Path,
    start: str | Path | None,
    steps: int,
    seed: int,
    threads: int,
) -> None:
    """Train the predictor of one round of a campaign, from the labels of the run and the designs of the rounds before.

    Args:
        graphs: `tables.GRAPHS` of the run.
        labels: `tables.LABELS` of the run.
        design_graphs: `tables.GRAPHS` of the designs of each round before; None in the first.
        design_labels: `tables.LABELS` of the same designs.
        predictor: safetensors file to write.
        held_out: `tables.PREDICTIONS` to write, as in `train_predictor`.
        start: predictor to go on from, with a tenth of the steps; None trains a new one.
        steps: updates of each member of a new predictor.
        seed: seed of weights and batches.
        threads: number of threads that torch uses.

    Raises:
        XtalrlError: as in `train_predictor`.
    """
    if start is None:
        settings = replace(PredictorSettings(), steps=steps)
    else:
        settings = replace(PredictorSettings.fine_tuning(), steps=max(1, steps // 10))
    designs = zip(design_graphs or (), design_labels or (), strict=True)
    train_predictor(
        [(graphs, labels), *designs], predictor, held_out, settings, start=start, seed=seed, threads=threads
    )


def train_predictor(
    data: Sequence[tuple[str | Path, str | Path]],
    predictor: str | Path,
    held_out: str | Path | None = None,
    settings: PredictorSettings | None = None,
    *,
    start: str | Path | None = None,
    gap_from: float | None = None,
    gap_to: float | None = None,
    confidence: float = 0.9,
    seed: int = 0,
    threads: int = 1,
) -> None:
    """Train a predictor on the union of several tables, and write it.

    The same data, settings, seed and number of threads give the same file on one machine.

    Args:
        data: pairs of `tables.GRAPHS` and `tables.LABELS`. Crystals whose split is `tables.DESIGN_SPLIT` are designs.
        predictor: safetensors file to write.
        held_out: `tables.PREDICTIONS` to write: for every crystal of `data`, the prediction of the member that has not learned from its composition.
            A crystal that several tables hold is there once, with the values of the first.
        settings: None takes the defaults, or those of `fine_tuning` if there is a `start`.
        start: a predictor to continue from, such as the one that ships with xtalrl; the folds stay the same, so that a held-out composition stays
            held out.
        gap_from: for the predictions in `held_out`, as in `predict_crystals`.
        gap_to: likewise.
        confidence: likewise.
        seed: seed of weights and batches.
        threads: number of threads of torch.

    Raises:
        XtalrlError: a file is missing or malformed, or there are too few crystals with a gap, or too few compositions.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    settings = settings or (PredictorSettings() if start is None else PredictorSettings.fine_tuning())
    crystals = LabelledCrystals.read(data)
    before = None if start is None else Predictor.load(start)
    n_members = settings.members if before is None else len(before.members)
    fold = _folds(crystals.graphs, n_members)
    if len(np.unique(fold)) < 2:
        raise XtalrlError(
            f"All {len(fold)} crystals fall into one fold, because they have only a few reduced compositions: a predictor needs more of them."
        )
    members = []
    for number in range(n_members):
        network = before.members[number] if before is not None else _new_network(crystals, seed, number)
        members.append(_train_member(network, crystals, fold != number, settings, seed, number))
    trained = Predictor(
        members,
        knows_failures=bool(np.isfinite(crystals.failure).any()) or (before is not None and before.knows_failures),
        about={
            "settings": asdict(settings),
            "seed": seed,
            "start": None if before is None else before.digest,
            "crystals": int((~crystals.is_design).sum()),
            "metals": int((crystals.gap == 0).sum()),
            "designs": int(crystals.is_design.sum()),
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy")},
        },
    )
    outside = trained.predict_held_out(crystals.graphs, fold)
    trained.scores = {} if before is None else dict(before.scores)
    trained.scores |= _scores(outside, crystals, seed)
    trained.save(predictor)
    if held_out is not None:
        loaded = Predictor.load(predictor)
        ids = crystals.graphs.material_ids
        rows = prediction_rows(loaded, ids, outside, gap_from=gap_from, gap_to=gap_to, confidence=confidence)
        first = np.unique(np.array(ids), return_index=True)[1]
        tables.write(rows.take(pa.array(np.sort(first))), tables.PREDICTIONS, held_out)
    logger.info(
        "A predictor of %s members, trained on %s crystals, %s of them designs",
        n_members, f"{len(fold):,}", f"{crystals.is_design.sum():,}",
    )  # fmt: skip


def _folds(graphs: CrystalGraphs, n_folds: int) -> NDArray[np.int64]:
    """(n,) fold of each crystal."""
    actions = np.split(graphs.actions.cpu().numpy().astype(np.int64), np.cumsum(graphs.n_sites)[:-1])
    return np.array([fold_of(of_crystal, n_folds) for of_crystal in actions], np.int64)


def _new_network(crystals: LabelledCrystals, seed: int, number: int) -> PropertyNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + number)
        network = PropertyNetwork(ARCHITECTURE)
    network.standardise(crystals.graphs.state)
    return network


def _train_member(
    network: PropertyNetwork,
    crystals: LabelledCrystals,
    inside: NDArray[np.bool_],
    settings: PredictorSettings,
    seed: int,
    number: int,
) -> PropertyNetwork:
    """Train a network on the crystals `inside` (n,); returns the average of its weights, rounded as its file rounds them."""
    schedule = settings.schedule
    draws = np.random.default_rng([seed, number])
    pools = [np.flatnonzero(inside & ~crystals.is_design), np.flatnonzero(inside & crystals.is_design)]
    n_designs = round(settings.design_share * settings.batch_size) if len(pools[0]) else settings.batch_size
    counts = (settings.batch_size - n_designs, n_designs) if len(pools[1]) else (settings.batch_size, 0)
    known = torch.tensor(np.stack([crystals.failure, crystals.gap, crystals.energy]), dtype=torch.float32)
    parameters = [parameter.requires_grad_() for parameter in network.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=schedule.learning_rate, fused=True)
    average = [parameter.detach().clone() for parameter in parameters]
    progress = Progress(f"Predictor, member {number + 1}", settings.steps, "steps")
    for step in range(settings.steps):
        batch = np.concatenate([draws.choice(pool, count) for pool, count in zip(pools, counts, strict=True) if count])
        optimizer.param_groups[0]["lr"] = schedule.learning_rate_at(step)
        optimizer.zero_grad(set_to_none=True)
        graphs = compressed(crystals.graphs, batch, network.architecture.n_blocks)
        total = loss(network.outputs(*graphs), *known[:, torch.from_numpy(batch)])
        value = total.item()
        if not math.isfinite(value):
            raise XtalrlError(
                f"The loss of the predictor's member {number + 1} is {value} at step {step}: lower its learning rate "
                f"({settings.learning_rate:g}), and look for absurd values in the labels."
            )
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, schedule.gradient_clip or 5.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - schedule.averaging_at(step))
        progress.advance(note=f"loss {value:.3g}")
    with torch.no_grad():
        for parameter, averaged in zip(parameters, average, strict=True):
            parameter.copy_(averaged)
    rounded: PropertyNetwork = network.half().float().requires_grad_(False)
    return rounded


def loss(outputs: Tensor, failure: Tensor, gap: Tensor, energy: Tensor) -> Tensor:
    """Negative log-likelihood of the known values of B crystals (NaN: unknown), summed over the quantities and averaged over the crystals that have each.

    The distributions are those of `xtalrl.rl.predictive`.
    """
    fails, is_metal, gap_at, gap_scale, energy_at, energy_scale = outputs.unbind(-1)
    terms = [
        _mean(functional.binary_cross_entropy_with_logits(fails, failure.nan_to_num(0), reduction="none"), failure),
        _mean(functional.binary_cross_entropy_with_logits(is_metal, (gap == 0).float(), reduction="none"), gap),
        _mean(
            _laplace(gap, gap_at, gap_scale) + _log_above_zero(gap_at / gap_scale.exp()), gap.where(gap > 0, torch.nan)
        ),
        _mean(_laplace(energy, energy_at, energy_scale), energy),
    ]
    return torch.stack(terms).sum()


def _laplace(value: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    return (value.nan_to_num(0) - location).abs() / log_scale.exp() + log_scale + math.log(2)


def _log_above_zero(ratio: Tensor) -> Tensor:
    """Logarithm of the probability that a Laplace variable of this location and scale 1 is above 0."""
    positive = torch.log1p(-torch.exp(-ratio.clamp(min=0)) / 2)
    return torch.where(ratio > 0, positive, ratio.clamp(max=0) - math.log(2))


def _mean(values: Tensor, known: Tensor) -> Tensor:
    """Mean of the known values; 0 if there are none."""
    there = torch.isfinite(known)
    return values.where(there, 0.0).sum() / there.sum().clamp(min=1)


def _scores(outside: Prediction, crystals: LabelledCrystals, seed: int) -> dict[str, Floats]:
    """Scores of the held-out crystals and designs with a value (`Predictor.scores`); those without a value are left out."""
    draws = np.random.default_rng(seed)
    scores = {}
    for quantity, distribution, value in (
        ("gap", outside.gaps, crystals.gap),
        ("energy", outside.energies, crystals.energy),
    ):
        all_scores = distribution.score(np.nan_to_num(value))
        for (number, group), (is_design, kind) in itertools.product(enumerate(GROUPS), enumerate(KINDS)):
            some = np.isfinite(value) & (outside.group == number) & (crystals.is_design == bool(is_design))
            its_scores = all_scores[some]
            if len(its_scores) > MAX_SCORES:
                its_scores = draws.choice(its_scores, MAX_SCORES, replace=False)
            if len(its_scores):
                scores[f"{quantity} {group} {kind}"] = np.sort(its_scores)
    return scores
