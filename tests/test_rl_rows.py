"""Rows taken and summed by `embedding_bag`, in double precision against torch's own indexing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from xtalrl.rl import rows
from xtalrl.rl.rows import segment_sum, take, take_sum

A, B = torch.tensor([3, 0, 0, 2, 3, 3]), torch.tensor([1, 1, 0, 0, 2, 1])
OWNER = torch.tensor([0, 0, 2, 2, 2, 3])  # 1 and 4 own nothing
CALLS: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    "take": (lambda x: take(x, A), [(5, 3)]),
    "take_sum": (lambda x, y, z: take_sum((x, A), (y, B), (z, A)), [(4, 3), (3, 3), (5, 3)]),
    "sum": (lambda x: segment_sum(x, OWNER, 5), [(6, 3)]),
    "weighted sum": (lambda x, w: segment_sum(x, OWNER, 5, weight=w), [(6, 3), (6,)]),
    "sum of rows": (lambda x: segment_sum(x, OWNER, 5, B), [(4, 3)]),
    "weighted sum of rows": (lambda x: segment_sum(x, OWNER, 5, A, torch.arange(6).double()), [(4, 3)]),
}


@pytest.mark.parametrize("name", CALLS)
def test_rows_by_bags(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call, shapes = CALLS[name]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True) for shape in shapes]
    expected = call(*inputs)
    monkeypatch.setattr(rows, "_by_bags", lambda x: True)
    torch.testing.assert_close(call(*inputs), expected)
    assert torch.autograd.gradcheck(call, inputs)


def test_bags_are_for_bfloat16_on_a_cpu() -> None:
    x = torch.zeros(2, 3)
    assert rows._by_bags(x.bfloat16())
    assert not any(map(rows._by_bags, (x, x.double(), x.bfloat16()[None], x.bfloat16().to("meta"))))
