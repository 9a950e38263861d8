"""softplus2, the activation of MEGNet: log(1 + exp(x)) - log 2. A third of a training step on a CPU goes into it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xtalrl.errors import XtalrlError

Values = Callable[[Tensor], Tensor]
"""softplus2 of a tensor, without its derivative."""


def torch_values(x: Tensor) -> Tensor:
    """softplus2 by torch's own softplus."""
    return functional.softplus(x).sub_(math.log(2.0))


def softplus2(x: Tensor, values: Values = torch_values) -> Tensor:
    """log(1 + exp(x)) - log 2."""
    y: Tensor = _Softplus2.apply(x, values)  # type: ignore[no-untyped-call]
    return y


class _Softplus2(torch.autograd.Function):
    """Keeps one tensor and passes over memory once less, each way, than the two operations autograd would record."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Values) -> Tensor:
        ctx.save_for_backward(x)
        with torch.autocast(x.device.type, enabled=False):  # it would widen the largest tensors
            return values(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        derivative: Tensor = torch.ops.aten.softplus_backward(gradient, x, 1.0, 20.0)  # beta and threshold of softplus
        return derivative, None


@functools.cache
def compiled_values() -> Values:
    """softplus2 as one loop that `torch.compile` makes: in single precision the same up to rounding, in two thirds of the time.

    Raises:
        XtalrlError: torch cannot compile here, mostly because there is no C++ compiler.
    """
    compiled = torch.compile(_in_one_loop, dynamic=True)

    def values(x: Tensor) -> Tensor:
        # One dimension, so that one compiled loop serves all shapes.
        y: Tensor = compiled(x.reshape(-1))
        return y.view(x.shape)

    try:
        values(torch.zeros(64, 2))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()
        raise XtalrlError(
            f"`training.compile` is true, but torch {torch.__version__} cannot compile here ({reason[0] if reason else type(error).__name__}): "
            f"install a C++ compiler (g++, or name one in the variable CXX), or set `training.compile: false`."
        ) from None
    return values


def _in_one_loop(x: Tensor) -> Tensor:
    """max(x, 0) + log(1 + z) - log 2 with z = exp(-|x|).

    log(1 + z) is 2 artanh(s) with s = z / (2 + z) ≤ 1/3, whose series Σ s^k / k over odd k is 5e-9 off after k = 13: cheaper
    than a logarithm, and nothing of it ever overflows.
    """
    z = torch.exp(-x.abs())
    s = z / (z + 2.0)
    square = s * s
    series = torch.full_like(x, 1 / 13)
    for k in (11, 9, 7, 5, 3, 1):
        series = series * square + 1 / k
    return x.clamp(min=0.0) + (2.0 * s * series - math.log(2.0))
