"""What policies learn by: one file per algorithm, one line here.

Each algorithm says what its policies need (a target network, a reward, which p̂ they are trained for) and what its loss is; the
learner, the rollout and the configuration ask it, and none of them knows an algorithm by name.
"""

from xtalrl.rl.algorithms.base import Algorithm
from xtalrl.rl.algorithms.bc import BehaviouralCloning
from xtalrl.rl.algorithms.cql import AnyTargetCQL, ConditionalCQL, UnconditionalCQL
from xtalrl.rl.algorithms.random import Random
from xtalrl.rl.algorithms.rvs import RvS

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.kind: algorithm
    for algorithm in (
        Random(),
        BehaviouralCloning(),
        UnconditionalCQL(),
        ConditionalCQL(),
        AnyTargetCQL(),
        RvS(),
    )
}
"""The algorithms by the kind of policy that they make, in the order of Table 1."""

__all__ = ["ALGORITHMS", "Algorithm"]
