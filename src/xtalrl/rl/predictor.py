"""A predictor for complete crystals, before any SCF: whether a crystal is a metal, its gap if it is not, and its formation energy.

An ensemble that uses the graphs and message-passing blocks of the policies (`xtalrl.rl.network`). The crystals are dealt to as many folds as there are
members, all crystals of one reduced composition to the same fold, and each member learns from all folds but its own. So every crystal that the ensemble
learned from was held out by one member, whose prediction for it is honest: these predictions give the conformal intervals and the figures on held-out
crystals and designs.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from xtalrl import tables
from xtalrl.elements import N_ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.rl.compression import compress
from xtalrl.rl.graphs import CrystalGraphs, GraphBatch, send
from xtalrl.rl.network import MLP, Architecture, QNetwork, electrons_placed
from xtalrl.rl.predictive import Energies, Floats, Gaps, conformal_radius
from xtalrl.rl.tensor_files import DamagedError, read_tensors, save_tensors

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of a predictor's file."""
N_OUTPUTS = 6
"""Logits of a failing SCF and of a metal; location and logarithm of the scale of the gap and of the formation energy."""
LOG_SCALE_RANGE = (-5.0, 3.0)
"""Bounds of the logarithms of scales in eV and eV/atom."""
BATCH = 256
"""Number of crystals that are predicted at a time."""
MIN_DESIGNS = 30
"""Number of designs of a group with a value from which on the designs, and not the crystals, calibrate its intervals."""
KINDS = ("crystals", "designs")
GROUPS = ("nonmetals", "metals")
"""Groups of crystals by what they probably are. Each has intervals of its own: metals are easy and would make those of nonmetals too narrow."""

ARCHITECTURE = Architecture(
    conditional=False,
    focus="node",
    edge_features="gaussian_basis",
    encoder=(48, 24),
    block=(48, 48, 24),
    electrons=True,
)
"""Network of a member: that of a policy, a little narrower, with the number of electrons and their parity as further inputs."""


class PropertyNetwork(QNetwork):
    """The trunk of a Q-network on complete crystals, with a head for their properties."""

    def __init__(self, architecture: Architecture) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__(architecture)
        self.head = MLP(5 * architecture.encoder[-1], *architecture.head, N_OUTPUTS, activate_last=False)

    def outputs(self, graphs: GraphBatch, node_types: Tensor) -> Tensor:
        """(B, N_OUTPUTS) of crystals that went through `compressed`."""
        outputs = self.q_values(graphs, node_types, graphs.first_node, None)
        low, high = LOG_SCALE_RANGE
        scales = outputs[..., 3::2].clamp(low, high)
        return torch.cat([outputs[..., :3], scales[..., :1], outputs[..., 4:5], scales[..., 1:]], -1)


def compressed(graphs: CrystalGraphs, crystals: NDArray[np.int64], rounds: int) -> tuple[GraphBatch, Tensor]:
    """The graphs of complete crystals (positions) and the elements on their nodes, made small for networks of so many blocks."""
    batch = graphs.batch(crystals)
    site = torch.arange(len(batch.node_graph), device=graphs.device)
    shift = send(graphs.first_site[crystals], graphs.device) - batch.first_node
    node_types = graphs.actions[site + shift.index_select(0, batch.node_graph)]
    state = torch.cat([batch.state, electrons_placed(batch, node_types)], 1)
    small, node_types, _ = compress(GraphBatch(**{**vars(batch), "state": state}), node_types, rounds)
    return small, node_types


def fold_of(actions: NDArray[np.int64], n_folds: int) -> int:
    """The fold of a crystal with these elements, one per site: the same for every crystal of its reduced composition, in any table."""
    counts = np.bincount(actions, minlength=N_ELEMENTS)
    counts //= np.gcd.reduce(counts)
    return int.from_bytes(hashlib.sha256(counts.astype("<i8").tobytes()).digest()[:8], "little") % n_folds


@dataclass(frozen=True)
class Prediction:
    """What a predictor says of n crystals."""

    gaps: Gaps
    energies: Energies
    failure: Floats | None
    """(P, n) probability that an SCF gives no gap; None where no SCF was learned from."""

    @property
    def group(self) -> NDArray[np.int64]:
        """(n,) position in `GROUPS`."""
        position: NDArray[np.int64] = (self.gaps.metal.mean(0) >= 0.5).astype(np.int64)
        return position

    @classmethod
    def of_outputs(cls, outputs: Floats, knows_failures: bool) -> Prediction:
        """The prediction made from the outputs (P, n, N_OUTPUTS) of the members."""
        failure, metal, gap, gap_scale, energy, energy_scale = np.moveaxis(outputs.astype(np.float64), -1, 0)
        return cls(
            Gaps(gap, np.exp(gap_scale), _sigmoid(metal)),
            Energies(energy, np.exp(energy_scale)),
            _sigmoid(failure) if knows_failures else None,
        )

    def p_hit(self, above: float | None, below: float | None) -> Floats:
        """(n,) probability that an SCF gives a gap above and below a bound in eV, both excluded; None is no bound."""
        hit = self.gaps.probability(above, below)
        return hit if self.failure is None else hit * (1 - self.failure.mean(0))


@dataclass
class Predictor:
    """An ensemble of networks with the scores that calibrate its intervals."""

    members: list[PropertyNetwork]
    scores: dict[str, Floats] = field(default_factory=dict)
    """Scores of held-out crystals and designs by quantity, group and kind: `gap nonmetals crystals`, `energy metals designs` and so on."""
    knows_failures: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    """Settings, data and versions, for people."""
    digest: str = ""
    """First 16 digits of the SHA-256 of its file."""

    @property
    def n_blocks(self) -> int:
        """Message-passing blocks of a member."""
        return self.members[0].architecture.n_blocks

    def predict(self, graphs: CrystalGraphs) -> Prediction:
        """Predict all crystals of `graphs`, in their order."""
        outputs = self._outputs(self.members, graphs, np.arange(len(graphs.material_ids)))
        return Prediction.of_outputs(outputs, self.knows_failures)

    def predict_held_out(self, graphs: CrystalGraphs, fold: NDArray[np.int64]) -> Prediction:
        """The prediction for each crystal by the one member that has not learned from its fold (n,)."""
        outputs = np.empty((1, len(fold), N_OUTPUTS))
        for number, member in enumerate(self.members):
            outputs[:, fold == number] = self._outputs([member], graphs, np.flatnonzero(fold == number))
        return Prediction.of_outputs(outputs, self.knows_failures)

    @torch.no_grad()
    def _outputs(
        self, members: Sequence[PropertyNetwork], graphs: CrystalGraphs, crystals: NDArray[np.int64]
    ) -> Floats:
        """(P, n, N_OUTPUTS) of these members for crystals (n positions)."""
        outputs = [np.empty((len(members), 0, N_OUTPUTS))]
        progress = Progress("Predicting", len(crystals), "crystals")
        for start in range(0, len(crystals), BATCH):
            some = crystals[start : start + BATCH]
            batch = compressed(graphs, some, self.n_blocks)
            outputs.append(torch.stack([member.outputs(*batch) for member in members]).cpu().numpy())
            progress.advance(len(some))
        return np.concatenate(outputs, 1)

    def calibrated_on(self, quantity: str, group: str) -> str:
        """Whose scores give the intervals of a group: those of designs if there are enough, otherwise those of crystals."""
        return KINDS[len(self.scores.get(f"{quantity} {group} designs", ())) >= MIN_DESIGNS]

    def radius(self, quantity: str, group: str, confidence: float) -> float:
        """Radius of the conformal intervals of `gap` or `energy` in a group."""
        kind = self.calibrated_on(quantity, group)
        return conformal_radius(self.scores.get(f"{quantity} {group} {kind}", np.zeros(0)), confidence)

    def save(self, path: str | Path) -> None:
        """Write the ensemble to one safetensors file; weights have half precision."""
        weights = {
            f"{number}.{name}": value.half()
            for number, member in enumerate(self.members)
            for name, value in member.state_dict().items()
        }
        scores = {f"scores.{name}": torch.tensor(values, dtype=torch.float32) for name, values in self.scores.items()}
        save_tensors(
            path,
            weights | scores,
            {
                **self.about,
                "format": FORMAT,
                "members": len(self.members),
                "network": asdict(self.members[0].architecture),
                "knows_failures": self.knows_failures,
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> Predictor:
        """Read the file of `save`.

        Raises:
            XtalrlError: the file is missing, damaged, or of another version.
        """
        try:
            tensors, about = read_tensors(path)
            if about.get("format") != FORMAT:
                raise XtalrlError(
                    f"{path} is a predictor of format {about.get('format')!r}, and this version of xtalrl reads format {FORMAT}: "
                    "train it again, or take the one that ships with this version."
                )
            members = []
            for number in range(about["members"]):
                network = PropertyNetwork(Architecture(**about["network"]))
                prefix = f"{number}."
                network.load_state_dict(
                    {n.removeprefix(prefix): t.float() for n, t in tensors.items() if n.startswith(prefix)}
                )
                members.append(network.requires_grad_(False))
            scores = {
                name.removeprefix("scores."): value.numpy().astype(np.float64)
                for name, value in tensors.items()
                if name.startswith("scores.")
            }
            digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
            return cls(members, scores, about["knows_failures"], about, digest)
        except FileNotFoundError:
            raise XtalrlError(f"{path} does not exist: train the predictor first.") from None
        except (DamagedError, RuntimeError, KeyError, TypeError, ValueError) as error:
            what = " ".join(str(error).split())[:200]
            raise XtalrlError(
                f"{path} cannot be used as a predictor ({what}): train it again, or get it again."
            ) from None


def predict_crystals(
    graphs: str | Path | Sequence[str | Path],
    predictor: str | Path,
    predictions: str | Path,
    *,
    gap_from: float | None = None,
    gap_to: float | None = None,
    confidence: float = 0.9,
) -> None:
    """Write what a predictor says of complete crystals, in the order of their graphs.

    Args:
        graphs: `tables.GRAPHS`, one or several; of designs, those of `structures.filled`.
        predictor: file of `train_predictor`.
        predictions: `tables.PREDICTIONS` to write.
        gap_from: lower bound of the wanted gaps in eV, itself excluded; None is no bound, and with both None nothing is wanted.
        gap_to: upper bound of the wanted gaps in eV, itself excluded.
        confidence: share of crystals whose value the intervals are to cover.

    Raises:
        XtalrlError: a file is missing, damaged or of another version.
    """
    paths = [graphs] if isinstance(graphs, str | Path) else graphs
    table = pa.concat_tables([tables.read(path, tables.GRAPHS) for path in paths])
    loaded = Predictor.load(predictor)
    crystals = CrystalGraphs(table)
    rows = prediction_rows(
        loaded, crystals.material_ids, loaded.predict(crystals), gap_from=gap_from, gap_to=gap_to, confidence=confidence
    )
    tables.write(rows, tables.PREDICTIONS, predictions)
    logger.info("%s crystals are predicted", f"{len(rows):,}")


def predict_at_targets(
    graphs: str | Path,
    predictor: str | Path,
    predictions: Sequence[str | Path],
    targets_ev: Sequence[float],
    window_ev: float,
) -> None:
    """Write what a predictor says of complete crystals for several wanted gaps, as `predict_crystals` does for one.

    Args:
        graphs: `tables.GRAPHS`.
        predictor: file of `train_predictor`.
        predictions: a `tables.PREDICTIONS` to write for each target.
        targets_ev: wanted gaps in eV.
        window_ev: half width of the range around each, eV.

    Raises:
        XtalrlError: a file is missing, damaged or of another version.
    """
    crystals = CrystalGraphs(tables.read(graphs, tables.GRAPHS))
    loaded = Predictor.load(predictor)
    said = loaded.predict(crystals)
    for target, path in zip(targets_ev, predictions, strict=True):
        rows = prediction_rows(
            loaded, crystals.material_ids, said, gap_from=target - window_ev, gap_to=target + window_ev
        )
        tables.write(rows, tables.PREDICTIONS, path)
    logger.info("%s crystals are predicted", f"{len(crystals.material_ids):,}")


def prediction_rows(
    predictor: Predictor,
    material_ids: Sequence[str],
    prediction: Prediction,
    *,
    gap_from: float | None = None,
    gap_to: float | None = None,
    confidence: float = 0.9,
) -> pa.Table:
    """What a predictor said of crystals as `tables.PREDICTIONS`; arguments as in `predict_crystals`."""
    gaps, energies, n = prediction.gaps, prediction.energies, len(material_ids)
    group = prediction.group
    gap_radius, energy_radius = (
        np.array([predictor.radius(quantity, name, confidence) for name in GROUPS])[group]
        for quantity in ("gap", "energy")
    )
    gap_low, gap_high = gaps.interval(gap_radius)
    energy_low, energy_high = energies.interval(energy_radius)
    wanted = gap_from is not None or gap_to is not None
    columns = {
        "material_id": material_ids,
        "p_failure": None if prediction.failure is None else prediction.failure.mean(0),
        "p_metal": gaps.metal.mean(0),
        "nonmetal_gap": gaps.mean(),
        "nonmetal_gap_std": gaps.std(),
        "nonmetal_gap_spread": gaps.spread(),
        "band_gap": gaps.quantile(0.5),
        "band_gap_low": gap_low,
        "band_gap_high": gap_high,
        "formation_energy_per_atom": energies.quantile(0.5),
        "formation_energy_std": energies.std(),
        "formation_energy_spread": energies.spread(),
        "formation_energy_low": energy_low,
        "formation_energy_high": energy_high,
        "confidence": [confidence] * n,
        "calibrated_on": [predictor.calibrated_on("gap", GROUPS[number]) for number in group],
        "gap_from": None if gap_from is None else [gap_from] * n,
        "gap_to": None if gap_to is None else [gap_to] * n,
        "p_hit": prediction.p_hit(gap_from, gap_to) if wanted else None,
        "predictor": [predictor.digest] * n,
    }
    arrays = [
        pa.nulls(n, column.type) if columns[column.name] is None else pa.array(columns[column.name], column.type)
        for column in tables.PREDICTIONS
    ]
    return pa.Table.from_arrays(arrays, schema=tables.PREDICTIONS)


def _sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))
