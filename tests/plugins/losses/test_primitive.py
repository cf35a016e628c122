"""Which operators the losses run through: every log-sum-exp is a native one, whatever is shared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recengine.contracts.batch import StepContext
from recengine.contracts.loss import LossInput
from recengine.contracts.model import DataFacts
from recengine.hooks import host
from recengine.nn.named import named_items
from recengine.ops._library import native
from recengine_plugins.dsl import model as dsl
from recengine_plugins.losses import sampled

ROWS, ITEMS, DIM, COUNT = 9, 40, 16, 12
REDUCTIONS = {"sampled_logsumexp", "logsumexp_rows", "linear_cross_entropy", "learning_cross_entropy"}
NAMES = ["sl", "ssm", "bsl", "psl", "advinfonce", "adap_tau", "sogclr", "sl_at_k", "sogsl_at_k", "dsl_r"]
NAMES += ["sampled_softmax"]


class Seen(TorchDispatchMode):
    """Names of the operators that ran over as many values as there are logits, or more."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(one, Tensor) and one.numel() >= ROWS * COUNT for one in args):
            self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def made(name: str, **settings: Any) -> Any:
    entry = host().registries["loss"].get(name)
    loss = entry.load()(entry.load_config().parse({"negatives": COUNT, **settings}))
    if hasattr(loss, "prepare"):
        torch.manual_seed(0)
        loss.prepare(DataFacts(ROWS, ITEMS))
    return loss


def given(shared: bool, dtype: torch.dtype = torch.float32, **more: Any) -> LossInput:
    generator = torch.Generator().manual_seed(5)
    return LossInput(
        torch.randn(ROWS, DIM, generator=generator).to(dtype).requires_grad_(),
        torch.randn(ITEMS, DIM, generator=generator).to(dtype).requires_grad_(),
        torch.randint(0, ITEMS, (ROWS,), generator=generator),
        torch.randint(0, ITEMS, (COUNT,) if shared else (ROWS, COUNT), generator=generator),
        row_ids=torch.arange(ROWS),
        popularity=torch.ones(ITEMS),
        user_items=(torch.arange(ROWS + 1) * 2, torch.randint(0, ITEMS, (2 * ROWS,), generator=generator)),
        **more,
    )


@pytest.mark.skipif(not native().cpu, reason="the native operators are not built")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_log_sum_exp_is_native(name: str, shared: bool) -> None:
    loss = made(name, shared=shared)
    with Seen() as seen:
        loss(given(shared), StepContext(epoch=9)).backward()
    assert seen.names & REDUCTIONS
    of_its_own = {"_log_softmax"} if name == "advinfonce" else set()  # the adversary's entropy
    assert not seen.names & {"logsumexp", "logaddexp", "_softmax", "_log_softmax", "exp"} - of_its_own


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_sampled_softmax_with_shared_items_in_single_precision(bias: bool, corrected: bool) -> None:
    """The native reduction against float64, values and gradients."""
    more = {"log_q": torch.linspace(-4.0, -1.0, COUNT)} if corrected else {}
    results: list[tuple[Tensor, ...]] = []
    for dtype in (torch.float32, torch.float64):
        case = given(True, dtype, bias=torch.linspace(-1, 1, ITEMS, dtype=dtype) if bias else None, **more)
        value = made("sampled_softmax", shared=True, temperature=0.5)(case, StepContext())
        results.append((value, *torch.autograd.grad(value, (case.anchors, case.items))))
    for single, double in zip(*results, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reject", [False, True])
@pytest.mark.parametrize("name", ["sl", "ssm", "bsl", "psl", "ccl", "drrl", "sogclr", "dsl_r"])
def test_a_local_loss_is_the_same_of_the_named_items(
    name: str, reject: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared items, some of them repeated or a row's own: value and gradients as from the whole table."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(200, DIM, generator=generator)
    drawn = torch.randint(0, 200, (COUNT - 4,), generator=generator)
    negatives = torch.cat([drawn, torch.tensor([5, 5, 0, 199])])
    positives = torch.tensor([5, 0, 1, 2, 199, 4, 5, 6, 7])
    whole = replace(given(True), positives=positives, negatives=negatives)
    found, sizes = [], []
    for choose in (lambda *whole: whole, named_items):

        def chosen(*whole: Tensor, choose: Any = choose) -> Any:
            few = choose(*whole)
            sizes.append(len(few[0]))
            return few

        for module in (sampled, dsl):
            monkeypatch.setattr(module, "named_items", chosen)
        loss = made(name, shared=True, reject=reject)
        anchors, items = (part.detach().clone().requires_grad_() for part in (whole.anchors, table))
        value = loss(replace(whole, anchors=anchors, items=items), StepContext(epoch=9))
        value.backward()
        found.append([value.detach(), anchors.grad, items.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert sizes[0] == 200 > sizes[1]
