"""Adam without torch's optimiser classes: the same numbers, the same state."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from recengine.training.adam import Adam


def weights(seed: int = 0) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((5, 3), (7,), (2, 2))]


def walk(optimizer: Any, parameters: list[torch.nn.Parameter], steps: range) -> None:
    for step in steps:
        optimizer.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(step)
        for parameter in parameters[: 2 if step == 1 else 3]:  # one step leaves a weight without gradient
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def groups(parameters: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.0}]


@pytest.mark.parametrize("decoupled", [False, True])
def test_it_is_torchs_to_the_bit(decoupled: bool) -> None:
    ours, theirs = weights(), weights()
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    walk(Adam(groups(ours), 0.01, weight_decay=0.1, decoupled=decoupled), ours, range(5))
    walk(kind(groups(theirs), lr=0.01, weight_decay=0.1, fused=True), theirs, range(5))
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_state_goes_over_to_torch_and_back() -> None:
    straight, there, back = weights(), weights(), weights()
    walk(Adam(groups(straight), 0.01), straight, range(6))
    first = Adam(groups(there), 0.01)
    walk(first, there, range(2))
    second = torch.optim.Adam(groups(there), lr=0.5, fused=True)
    second.load_state_dict(first.state_dict())
    walk(second, there, range(2, 4))
    third = Adam(groups(back), 0.5)
    third.load_state_dict(second.state_dict())
    with torch.no_grad():
        for weight, other in zip(back, there, strict=True):
            weight.copy_(other)
    walk(third, back, range(4, 6))
    assert all(torch.equal(one, other) for one, other in zip(straight, back, strict=True))


def test_the_state_of_other_weights_is_refused() -> None:
    here, other = weights(), [torch.nn.Parameter(torch.zeros(4, 3)), *weights()[1:]]
    optimizer = Adam(groups(other), 0.01)
    walk(optimizer, other, range(1))
    with pytest.raises(ValueError, match="weight 0"):
        Adam(groups(here), 0.01).load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="groups"):
        Adam(groups(here)[:1], 0.01).load_state_dict(optimizer.state_dict())
    momentum = torch.optim.SGD(groups(weights()), lr=0.1, momentum=0.9)
    walk(momentum, [w for g in momentum.param_groups for w in g["params"]], range(1))
    with pytest.raises(KeyError):
        Adam(groups(here), 0.01).load_state_dict(momentum.state_dict())


def test_zero_grad_forgets_or_clears() -> None:
    here = weights()
    optimizer = Adam(groups(here), 0.01)
    walk(optimizer, here, range(1))
    optimizer.zero_grad(set_to_none=False)
    assert all(weight.grad is not None and not weight.grad.any() for weight in here)
    optimizer.zero_grad()
    assert all(weight.grad is None for weight in here)


FIT = """
import sys
import numpy as np
from recengine.data import EvalTask, Interactions, Split
from recengine.training import fit
rows = np.random.default_rng(0).integers(0, 30, (2, 400))
train = Interactions.from_arrays(*rows, np.arange(400))
none = np.empty(0, np.int64)
split = Split(train, None, EvalTask("test", none, np.zeros(1, np.int64), none, train), {})
fit("sasrec", split, settings={"training": {"epochs": 1, "device": "cpu"}, "model": {"hidden_dim": 32}})
print(*sorted({"torch._dynamo", "sympy", "lightning_fabric", "polars", "scipy"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_a_fit_on_a_cpu_needs_no_compiler_and_no_fabric() -> None:
    done = subprocess.run([sys.executable, "-c", FIT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == ""
