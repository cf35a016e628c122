"""Linear layers on packed rows: torch's values, and products of few different sizes in bfloat16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from recengine.nn.linear import STEP, Linear, linear

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


class Sizes(TorchDispatchMode):
    """Lengths of both operands of all products."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op in PRODUCTS:
            for operand in args[-2:]:
                self.seen |= set(operand.shape)
        return op(*args, **(kwargs or {}))


def operands(rows: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(rows)
    shapes = ((rows, 8), (16, 8), (16,))
    made = [torch.randn(shape, generator=drawn).bfloat16().to(dtype).requires_grad_() for shape in shapes]
    return made[0], made[1], made[2]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("rows", [1, STEP - 1, STEP, STEP + 1, 3 * STEP - 7])
def test_bfloat16_with_gradients_meets_few_sizes_and_is_torchs(rows: int, autocast: bool) -> None:
    given = operands(rows, torch.float32 if autocast else torch.bfloat16)
    wide = operands(rows, torch.float32)
    with Sizes() as sizes:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = linear(*given)
        found.backward(torch.ones_like(found))
    assert sizes.seen == {8, 16, -(-rows // STEP) * STEP}
    expected = functional.linear(*wide)
    expected.backward(torch.ones_like(expected))
    assert found.dtype == torch.bfloat16
    assert found.shape == expected.shape
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=2**-6)
    for mine, theirs in zip(given, wide, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad.float(), theirs.grad, rtol=2**-7, atol=2**-4)


@pytest.mark.parametrize("case", ["float32", "no gradients", "float64 under autocast"])
def test_otherwise_it_is_torchs_own(case: str) -> None:
    dtype = {"float32": torch.float32, "no gradients": torch.bfloat16}.get(case, torch.float64)
    rows, weight, bias = operands(STEP + 1, dtype)
    cast = torch.autocast("cpu", torch.bfloat16, enabled="autocast" in case)
    with cast, torch.set_grad_enabled(case != "no gradients"), Sizes() as sizes:
        found = linear(rows, weight, bias)
    assert torch.equal(found, functional.linear(rows, weight, bias))
    assert STEP + 1 in sizes.seen


def test_a_layer_is_torchs_linear_by_name_and_value() -> None:
    layer, torchs = Linear(8, 16), torch.nn.Linear(8, 16)
    torchs.load_state_dict(layer.state_dict())
    rows = operands(5, torch.float32)[0]
    assert torch.equal(layer(rows), torchs(rows))
    grid = rows.view(1, 5, 8).bfloat16()
    assert layer.bfloat16()(grid).shape == (1, 5, 16)
