from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from recengine.contracts.batch import HistoryBatch, SequenceBatch, StepContext
from recengine.contracts.model import DataFacts
from recengine.hooks import host
from recengine.ops._library import native


def model(**settings: object) -> torch.nn.Module:
    entry = host().registries["model"].get("multvae")
    torch.manual_seed(0)
    config = entry.load_config().parse({"hidden": 16, "latent": 8, **settings})
    return entry.load()(config, DataFacts(5, 12))


def batch() -> SequenceBatch:
    return SequenceBatch(
        torch.tensor([0, 1]), torch.tensor([1, 2, 7]), torch.tensor([2, 3, 7]), torch.tensor([0, 2, 3])
    )


def test_the_loss_is_the_multinomial_likelihood_of_the_whole_set() -> None:
    made = model(beta=0.0, dropout=0.0).eval()
    with torch.no_grad():  # no spread: the latent vector is the mean
        made.encode.weight[8:].zero_()
        made.encode.bias[8:].fill_(-200.0)
        found = float(made.training_loss(batch(), StepContext()))
        sets = HistoryBatch(torch.tensor([0, 1]), torch.tensor([1, 2, 3, 7]), torch.tensor([0, 3, 4]))
        log_p = torch.log_softmax(made.score_items(sets), dim=1)
    wanted = -(log_p[0, [1, 2, 3]].mean() + log_p[1, 7]) / 2
    assert abs(found - float(wanted)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_likelihood_and_its_gradients_are_those_of_the_softmax(dtype: torch.dtype) -> None:
    made = model().to(dtype)
    hidden = torch.randn(3, 16, dtype=dtype, generator=torch.Generator().manual_seed(1)).requires_grad_()
    items, sizes = torch.tensor([1, 2, 3, 7, 0, 11]), torch.tensor([3, 1, 2])
    row = torch.arange(3).repeat_interleave(sizes)
    picked = torch.log_softmax(made.out(hidden), dim=1)[row, items]
    wanted = torch.zeros(3, dtype=dtype).index_add(0, row, picked) / sizes
    found = made._fit(hidden, items, sizes)
    torch.testing.assert_close(found, wanted)
    leaves = [hidden, made.out.weight, made.out.bias]
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), leaves),
        torch.autograd.grad((wanted * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.skipif(not native().cpu, reason="the native operators are not built")
def test_the_likelihood_runs_through_the_native_primitive() -> None:
    seen: set[str] = set()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    with Seen():
        model().train().training_loss(batch(), StepContext()).backward()
    assert seen & {"linear_cross_entropy", "learning_cross_entropy"}
    assert not seen & {"_log_softmax", "_softmax", "logsumexp"}


def test_the_prior_is_annealed() -> None:
    made = model(beta=1.0, dropout=0.0, anneal=0.5).train()
    values = []
    for epoch in (0, 1, 2, 4):
        torch.manual_seed(1)
        values.append(float(made.training_loss(batch(), StepContext(epoch, 0, 4, 1)).detach()))
    assert values[0] < values[1] < values[2]
    assert values[2] == values[3]
    assert math.isfinite(values[3])


def test_repeats_count_once_and_the_order_does_not_matter() -> None:
    made = model().eval()
    one = HistoryBatch(torch.tensor([-1]), torch.tensor([4, 9]), torch.tensor([0, 2]))
    other = HistoryBatch(torch.tensor([-1]), torch.tensor([9, 4, 9]), torch.tensor([0, 3]))
    with torch.no_grad():
        torch.testing.assert_close(made.score_items(one), made.score_items(other))
