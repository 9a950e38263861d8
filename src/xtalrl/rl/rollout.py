"""Designs: the validation skeletons filled by a policy, all at once, site by site."""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from xtalrl import tables
from xtalrl.elements import ATOMIC_NUMBERS, ELEMENTS, N_ELEMENTS, UNFILLED
from xtalrl.errors import XtalrlError
from xtalrl.files import unseal_json
from xtalrl.progress import Progress
from xtalrl.rl.graphs import MAX_SITES, CrystalGraphs, send
from xtalrl.rl.network import Architecture, QNetwork, network_type
from xtalrl.rl.neutrality import NeutralCompletions
from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.replay import Orders, read_trajectories
from xtalrl.rl.rollout_settings import AS_IN_THE_PAPER, RolloutSettings
from xtalrl.rl.tensor_files import DamagedError, read_tensors
from xtalrl.rl.training import find_device, keep_freed_memory

logger = logging.getLogger(__name__)

STATES_AT_ONCE = 1024
"""Number of states that go through the network together, which bounds the memory; a design depends on its own crystal only."""


def rollout_policy(
    folder: str | Path,
    graphs: str | Path,
    trajectories: str | Path,
    designs: str | Path,
    device: str,
    settings: RolloutSettings | Mapping[str, Any] = AS_IN_THE_PAPER,
    target_ev: float | None = None,
    snapshot: int | None = None,
) -> None:
    """Fill every skeleton of the split val in the order of its trajectory 0, and write `tables.DESIGNS`.

    The random policy draws uniformly whatever `settings.select` is. All draws depend on the seed of the policy and on the material_id.

    Args:
        folder: holds policy.json, weights.safetensors and snapshots.
        graphs: `tables.GRAPHS`.
        trajectories: `tables.TRAJECTORIES`.
        designs: file to write.
        device: auto, cpu or cuda.
        settings: how elements are chosen; a `RolloutSettings` or its fields.
        target_ev: p̂ in eV for a policy that was trained for any (`ccql-any`); no other takes one.
        snapshot: step of the snapshot that designs; None is the finished policy.

    Raises:
        XtalrlError: a file is missing or malformed, there is no such device, or no element may be placed.
    """
    keep_freed_memory()
    record, trained = read_record(Path(folder) / "policy.json")
    spec = trained.at(target_ev)
    weights = Path(folder) / ("weights.safetensors" if snapshot is None else f"snapshots/{snapshot}.safetensors")
    table = read_trajectories(trajectories, "val")
    table = table.filter(pc.equal(table["trajectory"], 0))
    skeletons = CrystalGraphs.read(graphs, table["material_id"].to_pylist(), find_device(device))
    filled = design_skeletons(
        record, spec, weights, Orders(skeletons, table, trajectories), RolloutSettings.of(settings)
    )
    rows = (
        {
            "material_id": material_id,
            "policy": spec.name,
            "seed": record["seed"],
            "sample": sample,
            "order": order,
            "species": [ELEMENTS[element] for element in elements],
        }
        for material_id, order, of_skeleton in zip(
            skeletons.material_ids, table["order"].to_pylist(), filled, strict=True
        )
        for sample, elements in enumerate(of_skeleton)
    )
    tables.write_rows(rows, tables.DESIGNS, designs)


def design_skeletons(
    record: dict[str, Any],
    spec: PolicySpec,
    weights: Path,
    orders: Orders,
    settings: RolloutSettings,
    keep: Collection[str] = (),
) -> list[NDArray[np.int64]]:
    """Fill skeletons with the policy of a record, as `fill_skeletons` does.

    Args:
        record: what policy.json says (`read_record`).
        spec: the policy, with its target gap if it serves several.
        weights: file of its weights; not read for a policy that does not learn.
        orders: orders of the skeletons, on the device to use.
        settings: how elements are chosen; a policy that does not learn draws uniformly whatever they say.
        keep: elements that stay on the sites where the skeletons have them.

    Raises:
        XtalrlError: the weights are missing or damaged, or a setting needs what the policy was not trained for.
    """
    if not spec.is_learned:
        return fill_skeletons(None, orders, None, replace(settings, select="softmax"), seed=record["seed"], keep=keep)
    settings = _for_policy(settings, spec, record)
    _check_target(spec, record)
    network = load_network(record, weights).to(orders.graphs.device)
    # Behavioural cloning learns probabilities, not values that a discount belongs to.
    discount = record["settings"]["discount"] if spec.algorithm.has_values else 1.0
    return fill_skeletons(network, orders, spec.target_ev, settings, discount=discount, seed=record["seed"], keep=keep)


def _for_policy(settings: RolloutSettings, spec: PolicySpec, record: dict[str, Any]) -> RolloutSettings:
    """The settings for one policy: guidance and target energy, which are meant for other policies of the run, are dropped if its algorithm knows neither.

    Raises:
        XtalrlError: the policy could have been trained for them, and was not.
    """
    if not spec.algorithm.hides_target:
        return replace(settings, guidance=1.0, target_energy=None)
    if settings.guidance != 1 and not record["settings"].get("hide_target"):
        raise XtalrlError(
            f"`rollout.guidance` is {settings.guidance:g}, and {spec.name} was trained without `training.hide_target`: set it to 1, or train "
            "the policy with `training.hide_target: 0.1`."
        )
    if settings.target_energy is not None and not record["network"].get("condition_on_energy"):
        raise XtalrlError(
            f"`rollout.target_energy` is {settings.target_energy:g}, and {spec.name} was trained without `training.condition_on_energy`: set "
            "it to null, or train the policy with that option."
        )
    return settings


def _check_target(spec: PolicySpec, record: dict[str, Any]) -> None:
    """Warn if a policy that learned from the crystals' own gaps is asked for a gap that it has not seen."""
    gaps = record.get("band_gaps_ev")
    if spec.algorithm.serves_all_targets and spec.target_range_ev is None and gaps and spec.target_ev is not None:
        low, high = gaps
        if not low <= spec.target_ev <= high:
            logger.warning(
                "%s: the target of %g eV is outside the gaps that it has learned from, %g to %.3g eV: its designs for it are guesses",
                spec.name, spec.target_ev, low, high,
            )  # fmt: skip


def fill_skeletons(
    network: QNetwork | None,
    orders: Orders,
    target_ev: float | None,
    settings: RolloutSettings = AS_IN_THE_PAPER,
    *,
    discount: float = 1.0,
    seed: int = 0,
    keep: Collection[str] = (),
) -> list[NDArray[np.int64]]:
    """Fill all crystals, one trajectory each, with up to `settings.designs` distinct designs each.

    All crystals take their step together, in a beam search: every partly filled crystal is extended by every element, and of the
    extensions of one skeleton the best are kept.

    - greedy: the best designs lose least according to the network's own Q-values, Σ_t γ^t (Q(s_t, a_t) - max_a Q(s_t, a)): for the true Q of
      the best policy this is the lost return. The first design is the greedy one, argmax_a Q(s, a) at every step (eq. 5).
    - softmax and epsilon-greedy: designs are drawn without replacement from the policy exp(Q/T) / Σ exp(Q/T), or from the one that takes
      the greedy element with probability 1 - ε and any with ε, in the order drawn (stochastic beam search: Kool, van Hoof,
      Welling, ICML 2019, arXiv:1903.06059). One design is drawn as usual, element by element.

    Elements that may not be placed have no value and no probability. At a site whose element stays there is no choice; such sites must
    come first in the orders (`skeleton_orders`).

    Args:
        network: None stands for one that knows no difference between elements.
        orders: orders of the skeletons.
        target_ev: p̂ in eV of a conditional network.
        settings: how elements are chosen.
        discount: γ.
        seed: seed of all random choices.
        keep: elements that stay on the sites where the skeletons have them.

    Returns:
        For each trajectory (n_designs, n_sites) elements by site; fewer designs than asked for where there are no more.
    """
    allowed = _allowed_elements(settings)
    completions = NeutralCompletions(
        sum(1 << int(action) for action in np.flatnonzero(allowed)), settings.even_electrons
    )
    order = orders.order.cpu().numpy()
    stays = np.array([element in keep for element in ELEMENTS])
    true_elements = orders.graphs.actions.cpu().numpy() if keep else None
    filled: list[NDArray[np.int64]] = [np.empty((0, 0), np.int64)] * len(orders.n_steps)
    progress = Progress("Rollout", int(orders.n_steps.sum()), "sites")
    longest_first = np.argsort(-orders.n_steps, kind="stable")
    chunk = max(1, STATES_AT_ONCE // settings.designs)
    for start in range(0, len(longest_first), chunk):
        trajectory = longest_first[start : start + chunk]
        # One row per partly filled crystal; the rows of a skeleton stand together, best first.
        elements = np.full((len(trajectory), MAX_SITES), UNFILLED)
        score = np.zeros(len(trajectory))
        perturbed = np.zeros(len(trajectory))
        for step in range(int(orders.n_steps[trajectory[0]])):
            if not len(trajectory):  # Nothing can complete any of them.
                break
            q = _q_values(network, orders, trajectory, step, elements, target_ev, settings)
            q[:, ~allowed] = -np.inf
            if settings.even_electrons:
                _forbid_odd_electrons(q, elements, orders.n_steps[trajectory] == step + 1)
            site = order[orders.first_step[trajectory] + step]
            is_kept = np.zeros(len(trajectory), np.bool_)
            if true_elements is not None:
                there = true_elements[orders.graphs.first_site[orders.crystal[trajectory]] + site]
                is_kept = stays[there]
                q[is_kept] = -np.inf
                q[is_kept, there[is_kept]] = 0.0
            if settings.select == "greedy":
                score = score[:, None] + discount**step * (q - q.max(1, keepdims=True))
                rank = score
            else:
                score = score[:, None] + _log_probabilities(q, settings)
                rank = perturbed = _perturb(score, perturbed, _noise(orders, trajectory, step, seed))
            is_possible = None
            if settings.neutral:
                n_free = orders.n_steps[trajectory] - step - 1
                is_possible = functools.partial(_can_complete, completions, elements, n_free, is_kept)
            row, action = _best(trajectory, rank, settings.designs, is_possible)
            trajectory, elements = trajectory[row], elements[row]
            elements[np.arange(len(row)), site[row]] = action
            score = score[row, action]
            perturbed = perturbed[row, action] if settings.select != "greedy" else perturbed[row]
            full = orders.n_steps[trajectory] == step + 1
            for finished in np.unique(trajectory[full]):
                filled[finished] = elements[trajectory == finished, : step + 1]
            progress.advance(len(np.unique(trajectory)))
            trajectory, elements, score, perturbed = (kept[~full] for kept in (trajectory, elements, score, perturbed))
    return filled


def _allowed_elements(settings: RolloutSettings) -> NDArray[np.bool_]:
    """(88,) elements that may be placed.

    Raises:
        XtalrlError: there is none.
    """
    allow, deny = settings.allow, settings.deny
    allowed = np.array([element in (allow or ELEMENTS) and element not in deny for element in ELEMENTS])
    if not allowed.any():
        raise XtalrlError(
            f"Of the elements allowed ({', '.join(allow) or 'all'}), those denied ({', '.join(deny)}) leave no element to place: "
            "allow others, or deny fewer."
        )
    return allowed


def _can_complete(
    completions: NeutralCompletions,
    elements: NDArray[np.int64],
    n_free: NDArray[np.int64],
    is_kept: NDArray[np.bool_],
    row: int,
    action: int,
) -> bool:
    if is_kept[row]:  # No choice to judge; what can follow is asked at the first free site.
        return True
    counts = Counter(ELEMENTS[other] for other in elements[row] if other != UNFILLED)
    counts[ELEMENTS[action]] += 1
    return completions.can_complete(tuple(sorted(counts.items())), int(n_free[row]))


def _forbid_odd_electrons(q: NDArray[np.float64], elements: NDArray[np.int64], is_last: NDArray[np.bool_]) -> None:
    """Exclude elements that would complete a crystal with an odd number of electrons, if others remain."""
    numbers = np.array([*ATOMIC_NUMBERS, 0])
    is_odd = (numbers[elements].sum(1)[:, None] + numbers[:N_ELEMENTS]) % 2 == 1
    even_is_possible = (np.isfinite(q) & ~is_odd).any(1)
    q[is_odd & (is_last & even_is_possible)[:, None]] = -np.inf


@torch.no_grad()
def _q_values(
    network: QNetwork | None,
    orders: Orders,
    trajectory: NDArray[np.int64],
    step: int,
    elements: NDArray[np.int64],
    target_ev: float | None,
    settings: RolloutSettings,
) -> NDArray[np.float64]:
    """(n_rows, 88) Q-values of partly filled crystals (n_rows, MAX_SITES)."""
    if network is None:
        return np.zeros((len(trajectory), N_ELEMENTS))
    graphs = orders.graphs
    batch = graphs.batch(orders.crystal[trajectory])
    site = torch.arange(len(batch.node_graph), device=graphs.device) - batch.first_node[batch.node_graph]
    node_types = send(elements, graphs.device)[batch.node_graph, site]
    focus = orders.order[send(orders.first_step[trajectory] + step, graphs.device)]
    energy = () if settings.target_energy is None else (settings.target_energy,)
    q = network(batch, node_types, focus, target_ev, *energy).double()
    if settings.guidance != 1:
        # Classifier-free guidance (Ho and Salimans, arXiv:2207.12598) of the logits: what p̂ changes, taken further.
        unguided = network(batch, node_types, focus, math.nan, *energy).double()
        q = unguided + settings.guidance * (q - unguided)
    values: NDArray[np.float64] = q.cpu().numpy()
    return values


def _log_probabilities(q: NDArray[np.float64], settings: RolloutSettings) -> NDArray[np.float64]:
    """(n_rows, 88) log π(a|s); an element whose Q is -inf has none."""
    if settings.select == "softmax":
        logits: NDArray[np.float64] = (q - q.max(1, keepdims=True)) / settings.temperature
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        return logits
    possible = np.isfinite(q)
    probability: NDArray[np.float64] = possible * (settings.epsilon / possible.sum(1, keepdims=True))
    probability[np.arange(len(q)), q.argmax(1)] += 1 - settings.epsilon
    with np.errstate(divide="ignore"):
        np.log(probability, out=probability)
    return probability


def _noise(orders: Orders, trajectory: NDArray[np.int64], step: int, seed: int) -> NDArray[np.float64]:
    """(n_rows, 88) standard Gumbel noise, a function of seed, material_id, step and the row's number among those of its skeleton."""
    found, first, counts = np.unique(trajectory, return_index=True, return_counts=True)
    noise = np.empty((len(trajectory), N_ELEMENTS))
    for one, start, count in zip(found, first, counts, strict=True):
        name = f"{seed}:{orders.graphs.material_ids[orders.crystal[one]]}"
        key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16])
        generator = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, step]))
        noise[start : start + count] = generator.gumbel(size=(count, N_ELEMENTS))
    return noise


def _perturb(
    score: NDArray[np.float64], parent: NDArray[np.float64], noise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Gumbel variables with means `score` (n_rows, 88) whose maximum in each row is the `parent` (n_rows,); Kool et al., appendix B.3."""
    gumbel = score + noise
    highest = gumbel.max(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        v = parent[:, None] - gumbel + np.log1p(-np.exp(gumbel - highest))
        perturbed = parent[:, None] - np.maximum(v, 0) - np.log1p(np.exp(-np.abs(v)))
    return np.where(np.isfinite(gumbel), perturbed, -np.inf)


def _best(
    trajectory: NDArray[np.int64],
    rank: NDArray[np.float64],
    n: int,
    is_possible: Callable[[int, int], bool] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and actions of the n highest ranks (n_rows, 88) of each skeleton that are possible, highest first.

    The rows of a skeleton stand together, the skeletons in any order.
    """
    new = np.flatnonzero(np.diff(trajectory, prepend=-1))
    skeleton = np.repeat(np.arange(len(new)), np.diff(new, append=len(trajectory)))
    number = np.arange(len(trajectory)) - new[skeleton]
    by_row = np.full((len(new), int(number.max()) + 1, N_ELEMENTS), -np.inf)
    by_row[skeleton, number] = rank
    table = by_row.reshape(len(new), -1)
    order = np.argsort(-table, axis=1, kind="stable")
    if is_possible is None:
        order = order[:, :n]
        there = np.isfinite(np.take_along_axis(table, order, 1))
        chosen_skeleton, chosen = np.nonzero(there)[0], order[there]
    else:
        pairs: list[tuple[int, int]] = []
        for one, candidates in enumerate(order):
            finite = (int(candidate) for candidate in candidates if table[one, candidate] > -np.inf)
            possible = (
                candidate
                for candidate in finite
                if is_possible(int(new[one]) + candidate // N_ELEMENTS, candidate % N_ELEMENTS)
            )
            pairs += [(one, candidate) for candidate in itertools.islice(possible, n)]
        chosen_skeleton, chosen = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    row, action = np.divmod(chosen, N_ELEMENTS)
    return new[chosen_skeleton] + row, action


def read_record(path: Path) -> tuple[dict[str, Any], PolicySpec]:
    """What policy.json says, and the policy that it describes.

    Raises:
        XtalrlError: the file is missing or damaged.
    """
    try:
        record = unseal_json(path.read_bytes())
        spec = PolicySpec.from_dict(record["spec"])
        if spec.is_learned:
            Architecture(**record["network"])
        int(record["seed"])
        dict(record["settings"])
    except FileNotFoundError:
        raise XtalrlError(f"{path} does not exist: train the policy first (`snakemake {path}`).") from None
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}" if isinstance(error, KeyError | TypeError | AttributeError) else error
        raise XtalrlError(f"{path} is damaged ({what}): delete it and run `snakemake {path}` again.") from None
    return record, spec


def load_network(record: dict[str, Any], path: Path) -> QNetwork:
    """The network of a policy's record (`read_record`) with the weights of a file, which for a policy that ships with xtalrl has the checksum of its record.

    Raises:
        XtalrlError: the file is missing or damaged, or holds the weights of another network.
    """
    network = network_type(record["settings"].get("backend", "native"))(Architecture(**record["network"]))
    sha256 = record.get("sha256")
    try:
        tensors: dict[str, Tensor] = read_tensors(path)[0]
        if sha256 is not None and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise DamagedError("it is not the file that ships with xtalrl")
        network.load_state_dict(tensors)
    except FileNotFoundError:
        raise XtalrlError(f"{path} does not exist: train the policy first (`snakemake {path}`).") from None
    except (DamagedError, RuntimeError) as error:  # RuntimeError of torch: other names or shapes.
        raise XtalrlError(
            f"{path} cannot be used ({' '.join(str(error).split())[:200]}): delete it and run `snakemake {path}` again; training "
            "continues from its last checkpoint."
        ) from None
    return network
