from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from xtalrl.rl.losses import behavioural_cloning_loss, conservative_term, cql_loss


def batch(n: int = 64, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    done = torch.rand(n, generator=generator) < 0.3
    return {
        "q": (3 * torch.randn(n, 88, generator=generator)).requires_grad_(),
        "action": torch.randint(88, (n,), generator=generator),
        "reward": torch.rand(n, generator=generator) * done,
        "done": done,
        "next_q": 3 * torch.randn(n, 88, generator=generator),
    }


def test_two_actions_by_hand() -> None:
    # Q = (0, log 3): logsumexp = log 4. First transition goes on with value 2, second ends with reward 1.
    q = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    loss = cql_loss(
        q,
        torch.tensor([0, 1]),
        torch.tensor([0.0, 1.0]),
        torch.tensor([False, True]),
        torch.tensor([2.0, 99.0]),
        omega=5.0,
        discount=0.5,
    )
    assert loss.td is not None
    assert loss.td.item() == pytest.approx(((0 - 0.5 * 2) ** 2 + (math.log(3) - 1) ** 2) / 2)
    assert loss.conservative.item() == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)
    assert loss.total.item() == pytest.approx(5 * loss.conservative.item() + 0.5 * loss.td.item())


def test_a_terminal_reward_of_zero_still_ends_the_episode() -> None:
    q = torch.zeros(1, 88)
    zero = torch.zeros(1)
    loss = cql_loss(q, torch.tensor([0]), zero, torch.tensor([True]), torch.tensor([7.0]), omega=0.0, discount=0.99)
    assert loss.total.item() == 0.0


def test_no_gradient_reaches_the_target() -> None:
    values = batch()
    next_value = values["next_q"].requires_grad_().amax(1)
    cql_loss(
        values["q"], values["action"], values["reward"], values["done"], next_value, omega=1.0, discount=0.99
    ).total.backward()
    assert values["next_q"].grad is None
    assert values["q"].grad is not None


def test_behavioural_cloning_is_cross_entropy() -> None:
    values = batch()
    loss = behavioural_cloning_loss(values["q"], values["action"])
    torch.testing.assert_close(loss.total, nn.functional.cross_entropy(values["q"], values["action"]))
    assert loss.td is None


def test_conservative_term_against_d3rlpy() -> None:
    """Its TD term is another one: Huber loss and double Q-learning."""
    cql_impl = pytest.importorskip("d3rlpy.algos.qlearning.torch.cql_impl", exc_type=ImportError)
    theirs = object.__new__(cql_impl.DiscreteCQLImpl)
    theirs._action_size = 88
    theirs._q_func_forwarder = SimpleNamespace(compute_expected_q=lambda q_values: q_values)

    values = batch()
    q = values["q"].detach().clone().requires_grad_()
    expected = theirs._compute_conservative_loss(q, values["action"])
    expected.backward()
    ours = conservative_term(values["q"], values["action"])
    ours.backward()
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(values["q"].grad, q.grad)


@pytest.mark.filterwarnings("ignore:No target network updater")
@pytest.mark.parametrize("omega", [1.0, 5.0])
def test_cql_against_torchrl(omega: float) -> None:
    """TD term: DQNLoss / 2 with a distinct target network. Conservative term: of DiscreteCQLLoss (its own TD ignores the target)."""
    objectives = pytest.importorskip("torchrl.objectives")
    from tensordict import TensorDict
    from torchrl.modules import QValueActor

    values = batch()
    online = nn.Linear(88, 88, bias=False)
    actor = QValueActor(online, in_keys=["observation"], action_space="categorical")
    dqn = objectives.DQNLoss(actor, delay_value=True, action_space="categorical", loss_function="l2")
    dqn.make_value_estimator(gamma=0.99)
    with torch.no_grad():  # both networks pass their observation on, the target one doubled
        online.weight.copy_(torch.eye(88))
        dqn.target_value_network_params.apply(lambda weight: weight.copy_(2 * torch.eye(88)))
    q = values["q"].detach().clone().requires_grad_()
    done = values["done"][:, None]
    data = TensorDict(
        {
            "observation": q,
            "action": values["action"],
            "next": {
                "observation": values["next_q"],
                "reward": values["reward"][:, None],
                "done": done,
                "terminated": done,
            },
        },
        batch_size=[64],
    )
    td = dqn(data.copy())["loss"]
    cql = objectives.DiscreteCQLLoss(actor, action_space="categorical", loss_function="l2")
    cql.make_value_estimator(gamma=0.99)
    conservative = cql(data.copy())["loss_cql"]
    expected = td / 2 + omega * conservative
    expected.backward()

    ours = cql_loss(
        values["q"],
        values["action"],
        values["reward"],
        values["done"],
        2 * values["next_q"].amax(1),
        omega=omega,
        discount=0.99,
    )
    ours.total.backward()
    assert ours.td is not None
    torch.testing.assert_close(ours.td, td)
    torch.testing.assert_close(conservative_term(values["q"], values["action"]), conservative)
    torch.testing.assert_close(ours.total, expected)
    torch.testing.assert_close(values["q"].grad, q.grad)
