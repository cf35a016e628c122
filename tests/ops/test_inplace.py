"""Operators that write into their arguments: what autograd knows of it, what they refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recengine.ops import factorization, rowwise_adagrad_, sparse_adam_

ROWS, VALUES = torch.tensor([1]), torch.ones(1, 16)
CSR = (torch.tensor([0, 1, 2]), torch.tensor([0, 1], dtype=torch.int32))


def positive_definite(n: int) -> Tensor:
    return torch.eye(n) * 2


# operator: the tensors that it writes into, and the call
WRITES: dict[str, tuple[Callable[[], dict[str, Tensor]], Callable[..., object]]] = {
    "rowwise_adagrad_": (
        lambda: {"weight": torch.ones(4, 16), "state": torch.zeros(4)},
        lambda weight, state: rowwise_adagrad_(weight, state, ROWS, VALUES.to(weight.dtype), lr=0.1),
    ),
    "sparse_adam_": (
        lambda: {name: torch.zeros(4, 16) for name in ("weight", "exp_avg", "exp_avg_sq")},
        lambda weight, exp_avg, exp_avg_sq: sparse_adam_(
            weight, exp_avg, exp_avg_sq, ROWS, VALUES.to(weight.dtype), step=1
        ),
    ),
    "bpr_epoch": (
        lambda: {"users": torch.ones(2, 16), "items": torch.ones(40, 16), "bias": torch.zeros(40)},
        lambda users, items, bias: factorization.bpr_epoch_(users, items, bias, *CSR, seed=0, epoch=0),
    ),
    "bpr_epoch, padded": (
        lambda: {"users": torch.ones(2, 5), "items": torch.ones(40, 5), "bias": torch.zeros(40)},
        lambda users, items, bias: factorization.bpr_epoch_(users, items, bias, *CSR, seed=0, epoch=0),
    ),
    "spd_inverse": (lambda: {"a": positive_definite(5)}, lambda a: factorization.spd_inverse_(a)),
}
CASES = [(op, name) for op, (made, _) in WRITES.items() for name in made()]
DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("op", WRITES)
def test_versions_rise(op: str) -> None:
    made, call = WRITES[op]
    given = made()
    before = {name: tensor._version for name, tensor in given.items()}
    call(**given)
    assert all(tensor._version > before[name] for name, tensor in given.items())


def test_a_saved_tensor_that_changed_is_found() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 16))
    loss = (weight * weight).sum()
    with torch.no_grad():
        rowwise_adagrad_(weight, torch.zeros(4), ROWS, VALUES, lr=0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(("op", "name"), CASES)
def test_what_requires_a_gradient_is_changed_under_no_grad_alone(op: str, name: str) -> None:
    made, call = WRITES[op]
    given = made()
    given[name].requires_grad_()
    with pytest.raises(RuntimeError, match=rf"{op.split(',')[0]}: {name} requires a gradient"):
        call(**given)
    with torch.no_grad():
        call(**given)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("op", "name"), CASES)
def test_rows_that_share_memory_are_refused(op: str, name: str, dtype: torch.dtype) -> None:
    made, call = WRITES[op]
    given = {key: tensor.to(dtype) for key, tensor in made().items()}
    given[name] = given[name][:1].expand(given[name].shape)
    with pytest.raises(RuntimeError, match=rf"{op.split(',')[0]}: {name} is expanded"):
        call(**given)


def test_inference_tensors_count_no_versions() -> None:
    with torch.inference_mode():
        made, call = WRITES["rowwise_adagrad_"]
        given = made()
        call(**given)
        assert given["state"][1] == 1
