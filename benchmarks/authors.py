"""The authors' code beside ours: a step of c-CQL, the assembly of its batch, and a rollout, on the same data with the same weights.

    git clone https://github.com/chandar-lab/crystal-design
    pip install torch numpy'<2' dgl==1.1.3 matgl==0.9.1 torcheval     # in an environment of its own
    pip install --no-deps 'setuptools<71'                             # which dgl 1.1.3 needs
    pip install -e .                                                  # this project
    python benchmarks/authors.py crystal-design RESULTS [--steps 6] [--skeletons 20] [--options compile bfloat16 compile+bfloat16]

RESULTS is the folder of a run that has structures/{crystals,graphs}.parquet and trajectories.parquet. Steps of both are taken in turn in one
process on one thread, and CPU times compared pair by pair. Nothing of their code is changed: what it asks of a GPU is answered by the CPU, and packages
that neither a step nor a rollout uses are stand-ins.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import operator
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor
from training import OPTIONS

from xtalrl import tables
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.learner import Learner, Stack
from xtalrl.rl.network import MLP, QNetwork
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.replay import Orders, Replay, read_trajectories
from xtalrl.rl.rollout import fill_skeletons
from xtalrl.rl.settings import TrainingSettings
from xtalrl.rl.training import keep_freed_memory

SPEC = PolicySpec("ccql", omega=5.0, target_ev=1.12, reward=Reward())
NO_FOCUS = 20
"""What their network is told of a complete crystal."""
UNUSED = (
    "mendeleev", "p_tqdm", "pyrallis", "torchrl", "torchrl.data", "wandb", "crystal_design.utils.compute_prop",
)  # fmt: skip
"""Imported by their modules and not used in a step or a rollout."""


def load_authors(checkout: Path) -> tuple[Any, Any]:
    """Their modules `runner.crystal_cql` and `utils.utils`, told to work on a CPU."""
    sys.path.insert(0, str(checkout))
    sys.modules.update({name: mock.MagicMock() for name in UNUSED})
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[assignment]
    agents = importlib.import_module("crystal_design.agents.agents")
    agents.EmbeddingBlockDev = functools.partial(agents.EmbeddingBlockDev, device="cpu")
    return importlib.import_module("crystal_design.runner.crystal_cql"), importlib.import_module(
        "crystal_design.utils.utils"
    )


def copy_weights(theirs: Any, ours: QNetwork) -> None:
    """Give their network the weights of ours. Their embedding of a complete crystal's focus, which ours has not, stays."""

    def mlp(their_mlp: Any, our_mlp: MLP) -> None:
        linears = [layer for layer in their_mlp.layers if isinstance(layer, torch.nn.Linear)]
        for a, b in zip(linears, [our_mlp.first, *our_mlp.rest], strict=True):
            a.load_state_dict(b.state_dict())

    assert ours.focus_embedding is not None
    with torch.no_grad():
        theirs.embedding.layer_node_embedding.weight.copy_(ours.node_embedding.weight)
        theirs.embedding.layer_state_embedding.weight[:NO_FOCUS] = ours.focus_embedding.weight
        for name in ("edge_encoder", "node_encoder", "state_encoder"):
            mlp(getattr(theirs, name), getattr(ours, name))
        mlp(theirs.output_proj, ours.head)
        for number, (a, b) in enumerate(zip(theirs.blocks, ours.blocks, strict=True)):
            for name in ("edge", "node", "state"):
                mlp(getattr(a.conv, f"{name}_func"), getattr(b, f"{name}_update"))
                if number:
                    mlp(getattr(a, f"{name}_func"), getattr(b, f"{name}_dense"))
        for a, b in ((theirs.node_s2s, ours.node_readout), (theirs.edge_s2s, ours.edge_readout)):
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(a.lstm, f"{part}_l0").copy_(getattr(b.lstm, part))


class Observations:
    """States of crystals as their loader wants them, made from the tables."""

    def __init__(self, results: Path, lattice_matrix: Callable[[Tensor, Tensor], Tensor]) -> None:
        coordinates = {
            row["material_id"]: row["frac_coords"]
            for row in tables.read_rows(results / "structures/crystals.parquet", tables.CRYSTALS)
        }
        self.crystals: dict[str, dict[str, Any]] = {}
        for number, row in enumerate(tables.read_rows(results / "structures/graphs.parquet", tables.GRAPHS)):
            cell = torch.tensor(row["lattice_parameters"])
            lattice = lattice_matrix(cell[None, :3], cell[None, 3:])[0]
            position = torch.tensor(coordinates[row["material_id"]]).float().reshape(-1, 3) @ lattice
            u, v = torch.tensor(row["edge_source"]), torch.tensor(row["edge_target"])
            image = -torch.tensor(row["edge_image"]).reshape(-1, 3)  # theirs is that of u relative to v
            length = (position[u] - position[v] + image.float() @ lattice).norm(dim=1)
            torch.testing.assert_close(length, torch.tensor(row["edge_distance"]).float(), rtol=1e-3, atol=1e-3)
            self.crystals[row["material_id"]] = {
                "true_atomic_number": torch.tensor(row["actions"]),
                "coordinates": position,
                "edges": (u, v),
                "etype": image,
                "laf": torch.cat([cell, torch.tensor([float(row["spacegroup_number"])])]),
                "ind": number,
            }

    def state(self, material_id: str, order: list[int], step: int) -> dict[str, Any]:
        """With the first sites of an order filled: node types, the focus at their end."""
        crystal = self.crystals[material_id]
        types = torch.full((len(order),), 88)
        types[order[:step]] = crystal["true_atomic_number"][order[:step]]
        focus = order[step] if step < len(order) else NO_FOCUS
        return {**crystal, "atomic_number": torch.cat([types, torch.tensor([focus])])}

    def transition(self, row: dict[str, Any], step: int) -> tuple[Any, ...]:
        """(s, a, s', r, p, done) of a trajectory, with the energy term of the reward alone, as their `train` prepares it."""
        material_id, order = row["material_id"], row["order"]
        done = step + 1 == len(order)
        state, following = self.state(material_id, order, step), self.state(material_id, order, step + 1)
        energy = float(np.exp(-row["formation_energy_per_atom"] / 5.0)) if done else 0.0
        return state, row["actions"][step], following, energy, row["band_gap"] if done else 0.0, done


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time in ms, and the result."""
    start = time.process_time()
    result = call()
    return 1e3 * (time.process_time() - start), result


def report(name: str, theirs: list[float], ours: list[float]) -> None:
    """Median times and the median, least and greatest ratio of the pairs."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    print(
        f"| {name} | {statistics.median(theirs):.0f} ms | {statistics.median(ours):.1f} ms "
        f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
    )


def compare_steps(
    runner: Any,
    utils: Any,
    observations: Observations,
    results: Path,
    variants: dict[str, TrainingSettings],
    n_steps: int,
) -> None:
    """Steps in turn, on the same batches: theirs, and ours with each of the settings, the first of which must compute what theirs does."""
    files = (results / "structures/graphs.parquet", results / "trajectories.parquet")
    replay = Replay(*files)
    rows = read_trajectories(files[1], "train").to_pylist()
    learners = {name: Learner([SPEC], Stack(settings, replay), seed=0) for name, settings in variants.items()}
    first, settings = next(iter(learners.values())), next(iter(variants.values()))
    network = runner.MEGNetRL(device="cpu")
    ours = QNetwork(first.stack.architecture(conditional=True))
    ours.load_state_dict(first.stack.state_dict(SPEC, first.weights.detach()[0]))
    copy_weights(network, ours)
    trainer = runner.CrystalCQL(
        network, torch.optim.Adam(list(network.parameters()), settings.learning_rate), cql_min_q_weight=SPEC.omega,
        p_hat=SPEC.target_ev, alpha1=1.0, alpha2=10.0, beta1=5.0, beta2=3.0,
    )  # fmt: skip
    times: dict[str, list[float]] = {}

    def note(name: str, call: Callable[[], Any]) -> Any:
        time, result = timed(call)
        times.setdefault(name, []).append(time)
        return result

    for step in range(n_steps + 1):
        if step == 1:  # the first one only warms up
            times.clear()
        sample = replay.sample(settings.batch_size, seed=0, step=step)
        transitions = [
            observations.transition(rows[replay.trajectory[one]], int(replay.step[one])) for one in sample.tolist()
        ]
        batch = note("collate", lambda: utils.collate_function(transitions, SPEC.target_ev))  # noqa: B023
        log = note("train", lambda: trainer.train(batch))  # noqa: B023
        note("gather", lambda: replay.batch(sample))  # noqa: B023
        our_batch = note("draw", lambda: first.stack.draw_batch(0, step, bootstrap=True))  # noqa: B023
        losses = [log["cql_min_qf1_loss"] + 0.5 * log["qf1_loss"]]
        for name, learner in learners.items():
            losses.append(float(note(name, lambda: learner.update(our_batch))[0, 0]))  # noqa: B023
        print(f"step {step}: loss theirs {losses[0]:.5f}, ours {', '.join(f'{loss:.5f}' for loss in losses[1:])}")
        assert abs(losses[0] - losses[1]) < 1e-4 * abs(losses[0]), "not the same problem"
    print(
        f"\n| batch {settings.batch_size:,}, {n_steps} pairs, CPU time, one thread | authors | xtalrl | ratio (least to greatest) |"
    )
    print("|---|---|---|---|")
    both = [a + b for a, b in zip(times["collate"], times["train"], strict=True)]
    report("batch assembly: gather", times["collate"], times["gather"])
    report("batch assembly: gather and simplify", times["collate"], times["draw"])
    for name in learners:
        report(f"a step with its batch, {name}", both, [a + b for a, b in zip(times["draw"], times[name], strict=True)])


def compare_rollouts(runner: Any, utils: Any, observations: Observations, results: Path, n_skeletons: int) -> None:
    """The same validation skeletons, greedily; theirs one crystal at a time, as `cql_eval` does it, ours together."""
    path = results / "trajectories.parquet"
    table = read_trajectories(path, "val")
    table = table.filter(pc.equal(table["trajectory"], 0))
    chosen = np.random.default_rng(0).choice(len(table), n_skeletons, replace=False)
    table = table.take(np.sort(chosen))
    skeletons = CrystalGraphs.read(results / "structures/graphs.parquet", table["material_id"].to_pylist())
    orders = Orders(skeletons, table, path)
    torch.manual_seed(0)
    ours = QNetwork(Stack.architecture(mock.Mock(settings=TrainingSettings()), conditional=True)).eval()
    network = runner.MEGNetRL(device="cpu")
    copy_weights(network, ours)
    trainer = runner.CrystalCQL(network, None, p_hat=SPEC.target_ev)

    @torch.no_grad()
    def one_by_one() -> list[np.ndarray]:
        designs = []
        for row in table.to_pylist():
            order = row["order"]
            state = observations.state(row["material_id"], order, 0)
            graph = utils.collate_function_eval([(state, 0, state, 0.0, False)], SPEC.target_ev)
            focus = torch.tensor([[*order[1:], runner.PAD_SEQ]])
            for step in range(len(order)):
                graph, _, _ = trainer.eval(graph, focus, None, step)
                if graph.focus == runner.PAD_SEQ:
                    break
            designs.append(graph.ndata["atomic_number"].numpy())
        return designs

    their_time, their_designs = timed(one_by_one)
    our_time, our_designs = timed(lambda: fill_skeletons(ours, orders, SPEC.target_ev))
    same = sum(np.array_equal(a, b[0]) for a, b in zip(their_designs, our_designs, strict=True))
    print(
        f"| rollout of {n_skeletons} skeletons, {same} designs the same | {their_time:.0f} ms | {our_time:.0f} ms | {their_time / our_time:.1f} |"
    )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--skeletons", type=int, default=20)
    parser.add_argument(
        "--options", nargs="*", default=[], help=f"of ours beside the default, of {', '.join(OPTIONS)}; a+b is both"
    )
    parser.add_argument("--keep-memory", action="store_true", help="for both, as our training has it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.keep_memory:
        keep_freed_memory()
    runner, utils = load_authors(arguments.checkout)
    observations = Observations(arguments.results, utils.lattice_params_to_matrix_torch)
    variants = {"default": TrainingSettings()}
    for name in arguments.options:
        both: dict[str, Any] = functools.reduce(operator.or_, (OPTIONS[part] for part in name.split("+")))
        variants[name] = TrainingSettings(**both)
    compare_steps(runner, utils, observations, arguments.results, variants, arguments.steps)
    if arguments.skeletons:
        compare_rollouts(runner, utils, observations, arguments.results, arguments.skeletons)


if __name__ == "__main__":
    main()
