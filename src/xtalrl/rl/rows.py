"""Rows of features taken and summed by an index: most of what a graph network does beside products of matrices.

In bfloat16 on a CPU `index_add` is slow. torch's `embedding_bag` sums rows many times as fast, and takes and weights them in the same pass. It needs
the rows of a sum to stand together; the backward pass of taking rows is a sum in another order, which is found once for an index and kept with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def take(x: Tensor, index: Tensor) -> Tensor:
    """(…, len(index), width) rows of x (…, n, width)."""
    taken: Tensor = _Take.apply(x, index) if _by_bags(x) else x.index_select(-2, index)  # type: ignore[no-untyped-call]
    return taken


def take_sum(*pairs: tuple[Tensor, Tensor]) -> Tensor:
    """(…, m, width) sum of the rows that each index (m,) takes of its features (…, n, width)."""
    if all(_by_bags(x) for x, _ in pairs):
        bags: Tensor = _TakeSum.apply(*[x for x, _ in pairs], *[index for _, index in pairs])  # type: ignore[no-untyped-call]
        return bags
    total = take(*pairs[0])
    for pair in pairs[1:]:
        total.add_(take(*pair))
    return total


def segment_sum(x: Tensor, owner: Tensor, n: int, rows: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """(…, n, width) sums over those that share an owner (m,), who stand together in order, of weight (…, m) times x.

    `rows` (m,) are the rows of x (…, k, width) that are summed; None: all, and m is k.
    """
    if _by_bags(x):
        bags: Tensor = _Sum.apply(x, owner, n, rows, weight)  # type: ignore[no-untyped-call]
        return bags
    x = x if rows is None else x.index_select(-2, rows)
    x = x if weight is None else x * weight[..., None]
    return x.new_zeros(*x.shape[:-2], n, x.shape[-1]).index_add(-2, owner, x)


def _by_bags(x: Tensor) -> bool:
    """Whether rows are summed by embedding_bag; in single precision they are not, and results keep every bit."""
    return x.dim() == 2 and x.device.type == "cpu" and x.dtype == torch.bfloat16


def _bags(x: Tensor, rows: Tensor, first: Tensor, weight: Tensor | None = None) -> Tensor:
    """(len(first), width) sums of weight[i] x[rows[i]] over the runs that begin at `first`."""
    weight = None if weight is None else weight.to(x.dtype)
    return functional.embedding_bag(rows, x.contiguous(), first, mode="sum", per_sample_weights=weight)


def _first(owner: Tensor, n: int) -> Tensor:
    """(n,) where the members of each owner begin."""
    first: Tensor = _kept(owner, f"_first_{n}", lambda: torch.searchsorted(owner, torch.arange(n)))
    return first


def _transposed(index: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Positions of an index in the order of its values, and where those of each of n values begin."""

    def make() -> tuple[Tensor, Tensor]:
        values, order = index.sort(stable=True)
        return order, torch.searchsorted(values, torch.arange(n))

    transposed: tuple[Tensor, Tensor] = _kept(index, f"_transposed_{n}", make)
    return transposed


def _kept(index: Tensor, name: str, make: Callable[[], Any]) -> Any:
    """What belongs to an index, made when it is first asked for: the blocks of a network and both its passes share it."""
    if not hasattr(index, name):
        setattr(index, name, make())
    return getattr(index, name)


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.index, ctx.n = index, len(x)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _bags(gradient, *_transposed(ctx.index, ctx.n)), None


class _TakeSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        tables, indices = inputs[: len(inputs) // 2], inputs[len(inputs) // 2 :]
        ctx.indices, ctx.sizes = indices, [len(table) for table in tables]
        shift, rows = 0, []
        for table, index in zip(tables, indices, strict=True):
            rows.append(index + shift)
            shift += len(table)
        n, k = len(indices[0]), len(tables)
        return _bags(torch.cat(tables), torch.stack(rows, 1).view(-1), torch.arange(0, n * k, k))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        parts = [_bags(gradient, *_transposed(index, n)) for index, n in zip(ctx.indices, ctx.sizes, strict=True)]
        return (*parts, *[None] * len(parts))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: Tensor, n: int, rows: Tensor | None, weight: Tensor | None) -> Tensor:
        ctx.owner, ctx.rows, ctx.n = owner, rows, len(x)
        ctx.needs_weight = weight is not None and weight.requires_grad
        ctx.save_for_backward(weight, x if ctx.needs_weight else None)
        return _bags(x, torch.arange(len(owner)) if rows is None else rows, _first(owner, n), weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        weight, x = ctx.saved_tensors
        of_weight = None
        if ctx.needs_weight:
            of_weight = (x * gradient.index_select(0, ctx.owner)).sum(-1).to(weight.dtype)
        if ctx.rows is None:
            of_x = _bags(gradient, ctx.owner, torch.arange(len(ctx.owner)), weight)
        else:
            order, first = _transposed(ctx.rows, ctx.n)
            weight = None if weight is None else weight.index_select(0, order)
            of_x = _bags(gradient, ctx.owner.index_select(0, order), first, weight)
        return of_x, None, None, None, of_weight
