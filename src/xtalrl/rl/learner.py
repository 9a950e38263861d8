"""A stack of policies that learn together: one batch, one graph, and the weights of P networks side by side.

Policies that share a seed share their batches, and with them all the work on graphs. Their weights form a tensor (P, n), of which the
network's parameters are views; gradient clipping, Adam and the soft update act on each row alone. So a policy learns what it would
learn alone, up to rounding, and with one policy the arithmetic is that of a plain network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xtalrl.errors import XtalrlError
from xtalrl.rl.graphs import N_STATE_FEATURES, shorten
from xtalrl.rl.losses import Loss, behavioural_cloning_loss, cql_loss, value_of
from xtalrl.rl.network import Architecture, QNetwork
from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.replay import Replay, Transitions
from xtalrl.rl.rewards import gap_term
from xtalrl.rl.settings import TrainingSettings

STATISTICS = ("loss", "td_loss", "conservative_loss", "q_data", "q_max", "accuracy", "grad_norm")
"""What `Learner.update` tells of a policy: the loss and its terms, the batch means of Q(s, a) for the data's action and of
max_a Q(s, a), the share of states whose greedy action is the data's, and the norm of the gradient before clipping. For BC the
conservative loss is its cross-entropy and td_loss is NaN."""

_GAP_LAYER = "state_encoder.first.weight"
"""The only parameter in which conditional and unconditional networks differ: p̂ has a column of it."""


@dataclass
class PolicyState:
    """How far a policy is: all that its training needs to go on, on the host."""

    step: int
    """Updates done."""
    tensors: dict[str, Tensor]
    """`weights`, Adam's `exp_avg` and `exp_avg_sq`, and `target` of a policy that bootstraps; each (n,)."""


class Stack:
    """How the parameters of QNetwork lie in a row of n numbers, and the network that works on P such rows.

    All rows have the layout of a conditional network. An unconditional policy is shown p̂ = 0, so that its column for p̂ adds
    nothing, gets no gradient and stays 0.
    """

    def __init__(self, settings: TrainingSettings, replay: Replay) -> None:
        """The network for a data set, whose state features it standardises where the focus is a node."""
        self.settings, self.replay, self.device = settings, replay, replay.graphs.device
        self.network = QNetwork(self.architecture(conditional=True))
        if settings.focus == "node":
            self.network.standardise(replay.graphs.state.cpu())
        self.network.to(self.device).requires_grad_(False)
        if settings.compile:
            if self.device.type != "cpu":
                raise XtalrlError(
                    f"`training.compile` is for CPUs, and this is to train on {self.device.type}: set `training.compile: false`."
                )
            self.network.compile_activations()
        self._shapes = {name: value.shape for name, value in self.network.named_parameters()}
        self._values = _QValues(self.network)

    def architecture(self, *, conditional: bool) -> Architecture:
        """Of the network of a policy."""
        settings = self.settings
        return Architecture(conditional=conditional, focus=settings.focus, edge_features=settings.edge_features)

    def initial_state(self, spec: PolicySpec, seed: int) -> PolicyState:
        """Of a policy before its first update: the weights of a QNetwork made after `torch.manual_seed(seed)`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parameters = dict(QNetwork(self.architecture(conditional=spec.is_conditional)).named_parameters())
        if not spec.is_conditional:
            weight = parameters[_GAP_LAYER].detach()
            before, after = torch.split(weight, [N_STATE_FEATURES, weight.shape[1] - N_STATE_FEATURES], 1)
            parameters[_GAP_LAYER] = nn.Parameter(torch.cat([before, weight.new_zeros(len(weight), 1), after], 1))
        weights = torch.cat([parameters[name].detach().flatten() for name in self._shapes])
        tensors = {"weights": weights, "exp_avg": torch.zeros_like(weights), "exp_avg_sq": torch.zeros_like(weights)}
        return PolicyState(0, tensors if spec.kind == "bc" else {**tensors, "target": weights.clone()})

    def draw_batch(self, seed: int, step: int, *, bootstrap: bool) -> Transitions:
        """The batch of a step, made ready for the networks: the same for every policy of a seed. s' only to `bootstrap` from."""
        size = self.settings.batch_size
        batch = self.replay.batch(self.replay.sample(size, seed=seed, step=step))
        batch = dataclasses.replace(batch, target_draw=self.replay.draw_targets(size, seed=seed, step=step))
        graphs, node_types = self.network.observe(batch.graphs, batch.node_types, batch.focus)
        batch = dataclasses.replace(batch, graphs=graphs, node_types=node_types)
        if bootstrap:
            graphs, node_types = self.network.observe(batch.next_graphs, batch.next_node_types, batch.next_focus)
            batch = dataclasses.replace(batch, next_graphs=graphs, next_node_types=node_types)
        return batch

    def state_dict(self, spec: PolicySpec, row: Tensor) -> dict[str, Tensor]:
        """A row (n,) as the weights of the QNetwork of a policy."""
        values = {name.removeprefix("network."): value for name, value in self._views(row[None]).items()}
        if not spec.is_conditional:
            weight = values[_GAP_LAYER]
            values[_GAP_LAYER] = torch.cat([weight[:, :N_STATE_FEATURES], weight[:, N_STATE_FEATURES + 1 :]], 1)
        return {**dict(self.network.named_buffers()), **values}

    def q_values(self, rows: Tensor, *inputs: object) -> Tensor:
        """(P, B, 88) of the networks with the weights `rows` (P, n), given the arguments of `QNetwork.q_values`."""
        autocast = (
            torch.autocast(self.device.type, torch.bfloat16)
            if self.settings.precision == "bfloat16"
            else contextlib.nullcontext()
        )
        with autocast:
            q: Tensor = torch.func.functional_call(self._values, self._views(rows), inputs)
        q = q.float()
        return q if q.dim() == 3 else q[None]

    def _views(self, rows: Tensor) -> dict[str, Tensor]:
        """The parameters (P, ...) in rows (P, n); without the P where it is 1, which is a plain network."""
        parts = torch.split(rows, [shape.numel() for shape in self._shapes.values()], 1)
        leading = (len(rows),) if len(rows) > 1 else ()
        return {
            f"network.{name}": part.view(*leading, *shape)
            for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)
        }


class _QValues(nn.Module):
    """`QNetwork.q_values` as the call of a module, for `functional_call`."""

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: object) -> Tensor:
        return self.network.q_values(*inputs)  # type: ignore[arg-type]


class Learner:
    """P policies at the same step of the same seed, with their target networks and Adam."""

    def __init__(
        self,
        specs: Sequence[PolicySpec],
        stack: Stack,
        seed: int,
        states: Sequence[PolicyState] | None = None,
    ) -> None:
        """Draw the initial weights by the seed, or go on from states of one step; `states` follows `specs`."""
        # Those that bootstrap come first: only they have a row in the target network.
        order = sorted(range(len(specs)), key=lambda number: specs[number].kind == "bc")
        self.specs = [specs[number] for number in order]
        self.stack, self.settings, self.seed = stack, stack.settings, seed
        device = stack.device
        self.n_cql = sum(spec.kind != "bc" for spec in specs)
        if states is None:
            states = [stack.initial_state(spec, seed) for spec in specs]
        states = [states[number] for number in order]
        self.step = states[0].step
        """Updates done."""

        def rows(name: str, of: Sequence[PolicyState]) -> Tensor:
            return torch.stack([state.tensors[name] for state in of]).to(device)

        self.weights = rows("weights", states).requires_grad_()
        """(P, n)"""
        self.target = rows("target", states[: self.n_cql]) if self.n_cql else None
        """(those of the P that bootstrap, n)"""
        self.optimizer = torch.optim.Adam([self.weights], lr=self.settings.learning_rate, fused=True)
        moments = {name: rows(name, states) for name in ("exp_avg", "exp_avg_sq")}
        step = torch.tensor(float(self.step))
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": {0: {"step": step, **moments}}})
        self.reward = torch.stack([stack.replay.rewards(spec) for spec in self.specs])
        """(P, n_trajectories)"""
        # Single targets are ranges of no width; only ccql-any has its gap term computed anew for every batch.
        ranges = [spec.target_range_ev or (spec.target_ev or 0.0,) * 2 for spec in self.specs]
        bounds = torch.tensor(ranges, device=device)
        self._lowest, self._highest = bounds[:, :1], bounds[:, 1:]
        for_any = [spec.reward if spec.kind == "ccql-any" else None for spec in self.specs]
        self._relabels = any(for_any)
        self._alpha2 = torch.tensor([reward.alpha2 if reward else 0.0 for reward in for_any], device=device)[:, None]
        self._beta2 = torch.tensor([reward.beta2 if reward else 1.0 for reward in for_any], device=device)[:, None]
        self._omega = torch.tensor([spec.omega or 0.0 for spec in self.specs], device=device)
        # The first step whose loss was not finite, found without waiting for a GPU at every step.
        self._first_bad_step = torch.full((len(specs),), -1, device=device)

    def state(self, spec: PolicySpec) -> PolicyState:
        """Where a policy is now."""
        number = self.specs.index(spec)
        adam = self.optimizer.state[self.weights]
        stacks = {"weights": self.weights, "exp_avg": adam["exp_avg"], "exp_avg_sq": adam["exp_avg_sq"]}
        if spec.kind != "bc":
            assert self.target is not None
            stacks["target"] = self.target
        return PolicyState(self.step, {name: rows[number].detach().cpu().clone() for name, rows in stacks.items()})

    def evaluate(self, weights: Tensor, target: Tensor | None, batch: Transitions) -> tuple[Tensor, Tensor]:
        """Losses (P,) of a batch from `Stack.draw_batch`, and the `STATISTICS` (P, 6) without the last."""
        target_ev = self._targets(batch)
        q = self.stack.q_values(weights, batch.graphs, batch.node_types, batch.focus, _as_input(target_ev))
        losses = []
        if target is not None:
            n_cql = len(target)
            next_value = torch.zeros(n_cql, len(batch.action), device=q.device)
            with torch.no_grad():
                next_target_ev = target_ev[:n_cql]
                if self._relabels:
                    next_target_ev = next_target_ev[:, : len(batch.next_focus)]
                next_q = self.stack.q_values(
                    target, batch.next_graphs, batch.next_node_types, batch.next_focus, _as_input(next_target_ev)
                )
                next_value[:, : len(batch.next_focus)] = next_q.amax(-1)
            losses.append(
                cql_loss(
                    q[:n_cql],
                    batch.action,
                    self._rewards(batch, target_ev)[:n_cql] * batch.done,
                    batch.done,
                    next_value,
                    omega=self._omega[:n_cql],
                    discount=self.settings.discount,
                )
            )
        if (n_cql := self.n_cql) < len(weights):
            losses.append(behavioural_cloning_loss(q[n_cql:], batch.action))
        total = torch.cat([loss.total for loss in losses])
        with torch.no_grad():
            highest, greedy = q.max(-1)
            statistics = [
                total,
                torch.cat([_td(loss) for loss in losses]),
                torch.cat([loss.conservative for loss in losses]),
                value_of(q, batch.action).mean(-1),
                highest.mean(-1),
                (greedy == batch.action).float().mean(-1),
            ]
            return total, torch.stack(statistics, -1)

    def update(self, batch: Transitions) -> Tensor:
        """One step of algorithm 1 on the batch of this step; returns `STATISTICS` (P, 7) in the order of `specs`."""
        settings = self.settings
        self.optimizer.zero_grad(set_to_none=True)
        total, statistics = self.evaluate(self.weights, self.target, batch)
        torch.autograd.backward(total.sum())
        gradient = self.weights.grad
        assert gradient is not None
        norm = torch.linalg.vector_norm(gradient, dim=1)
        if settings.gradient_clip is not None:  # as torch.nn.utils.clip_grad_norm_, for each policy
            gradient.mul_((settings.gradient_clip / (norm + 1e-6)).clamp(max=1.0)[:, None])
        self.optimizer.step()
        with torch.no_grad():
            if self.target is not None:
                soft_update(self.target, self.weights[: self.n_cql], settings.target_update_rate)
            self.step += 1
            finite = statistics[:, 0].isfinite() & norm.isfinite()
            self._first_bad_step.masked_fill_(~finite & (self._first_bad_step < 0), self.step)
            if finite.device.type == "cpu":
                self.check_finite()
            return torch.cat([statistics, norm[:, None]], 1)

    def check_finite(self) -> None:
        """Raise XtalrlError, naming policy, step and crystals, if the loss or gradient of any step was not finite."""
        for spec, bad in zip(self.specs, self._first_bad_step.tolist(), strict=True):
            if bad < 0:
                continue
            settings = self.settings
            batch = self.stack.replay.sample(settings.batch_size, seed=self.seed, step=bad - 1)
            raise XtalrlError(
                f"Training {spec.name}, seed {self.seed}: loss or gradient is not finite at step {bad}; its batch holds "
                f"{shorten(self.stack.replay.material_ids(batch))}. Lower `training.learning_rate` ({settings.learning_rate:g}), "
                f"set `training.gradient_clip` (now {settings.gradient_clip}), or check the labels of these crystals."
            )

    def _targets(self, batch: Transitions) -> Tensor:
        """p̂ in eV of every policy: (P, 1), or (P, B) where one has another for every transition."""
        if not self._relabels:
            return self._lowest
        assert batch.target_draw is not None
        return torch.lerp(self._lowest, self._highest, batch.target_draw)

    def _rewards(self, batch: Transitions, target_ev: Tensor) -> Tensor:
        """(P, B) reward of completing each transition's crystal."""
        reward = self.reward[:, batch.trajectory]
        if not self._relabels:
            return reward
        band_gap = self.stack.replay.band_gap[batch.trajectory]
        return reward + gap_term(band_gap, target_ev, self._alpha2, self._beta2)


def _as_input(target_ev: Tensor) -> Tensor:
    """p̂ (P, 1 or B) as `QNetwork.q_values` takes it: without the P for a plain network."""
    return target_ev if len(target_ev) > 1 else target_ev[0]


def _td(loss: Loss) -> Tensor:
    return torch.full_like(loss.total, math.nan) if loss.td is None else loss.td


def soft_update(target: Tensor, source: Tensor, rate: float) -> None:
    """θ' ← (1 - rate) θ' + rate θ (algorithm 1)."""
    target.lerp_(source, rate)


def activation_bytes(learner: Learner) -> int:
    """Memory that one update keeps for the backward pass, of all policies of the learner together."""
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        batch = learner.stack.draw_batch(learner.seed, learner.step, bootstrap=learner.target is not None)
        kept = learner.evaluate(learner.weights, learner.target, batch)  # no memory is used twice while this is there
    del kept
    return sum(seen.values())
