"""softplus2, the activation of MEGNet: log(1 + exp(x)) - log 2. A third of a training step on a CPU goes into it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.polynomial import Chebyshev, Polynomial
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
        ctx.values = values
        ctx.save_for_backward(x)
        with torch.autocast(x.device.type, enabled=False):  # it would widen the largest tensors
            return values(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        if ctx.values is not torch_values and x.dtype == torch.bfloat16:
            rough: Tensor = _compiled(_rough_derivative)(gradient.reshape(-1), x.reshape(-1))
            return rough.view(x.shape), None
        derivative: Tensor = torch.ops.aten.softplus_backward(gradient, x, 1.0, 20.0)  # beta and threshold of softplus
        return derivative, None


@functools.cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # A product and a sum become one instruction, rounded once.
    return torch.compile(function, dynamic=True, options={"cpp.enable_floating_point_contract_flag": "fast"})


@functools.cache
def compiled_values() -> Values:
    """softplus2 as one loop that `torch.compile` makes: the same values up to rounding in half the time; in bfloat16 with its derivative.

    Raises:
        XtalrlError: torch cannot compile here, mostly because there is no C++ compiler.
    """

    def values(x: Tensor) -> Tensor:
        # One dimension, so that one compiled loop serves all shapes.
        y: Tensor = _compiled(_roughly if x.dtype == torch.bfloat16 else _in_one_loop)(x.reshape(-1))
        return y.view(x.shape)

    _compiled.cache_clear()
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


def _polynomial(function: Callable[[Any], Any], degree: int, last: float) -> list[float]:
    """Coefficients of a polynomial close to a function from 0 to `last`, the highest power first."""
    fit = Chebyshev.interpolate(function, degree, [0.0, last]).convert(kind=Polynomial)
    return [float(coefficient) for coefficient in fit.coef[::-1]]


_LAST = 12.0
_EXP = _polynomial(lambda t: np.exp(-t / 8), 4, _LAST)
"""The eighth root of exp(-t); log(1 + z) from 0 to 1. Together they are 2.5e-4 off, where bfloat16 rounds by 1e-3 and more."""
_LOG = _polynomial(np.log1p, 5, 1.0)


def _horner(coefficients: list[float], x: Tensor) -> Tensor:
    y = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        y = y * x + coefficient
    return y


def _rough_exp(x: Tensor) -> Tensor:
    """exp(-|x|)."""
    root = _horner(_EXP, x.abs().clamp(max=_LAST))
    square = root * root
    fourth = square * square
    return fourth * fourth


def _roughly(x: Tensor) -> Tensor:
    """max(x, 0) + log(1 + exp(-|x|)) - log 2 in bfloat16, without a function of the C library."""
    wide = x.float()
    return (wide.clamp(min=0.0) + (_horner(_LOG, _rough_exp(wide)) - math.log(2.0))).to(torch.bfloat16)


def _rough_derivative(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient times 1 / (1 + exp(-x)), in bfloat16."""
    wide = x.float()
    z = _rough_exp(wide)
    of_positive = 1.0 / (1.0 + z)
    return (gradient.float() * torch.where(wide > 0, of_positive, z * of_positive)).to(torch.bfloat16)
