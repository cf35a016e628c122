"""Every operator on a GPU: against float64, the same bits twice, captured in a CUDA graph.

The cases themselves run on the CPU too, so that a machine without a GPU tests what a GPU will be asked.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recengine.ops import (
    Experts,
    cosine_attention,
    embedding_bag_sum,
    grouped_swiglu,
    info_nce,
    linear_cross_entropy,
    logsumexp_rows,
    mix_norm,
    route,
    sampled_logsumexp,
    topk,
)
from recengine.ops._library import native

ROOT = Path(__file__).resolve().parents[2]
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not native().cuda, reason=f"no CUDA kernels: {native().cuda_reason}"),
]
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}

Layer = Callable[..., Tensor]
Case = tuple[list[Tensor], Layer]  # float32 inputs that have gradients, and the function of them


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def ids(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(9))


def attention(causal: bool) -> Case:
    mask = torch.arange(70) >= torch.tensor([[0], [3], [69], [70]])
    qkv, m = draw(4, 70, 3, 2, 32), torch.full((2,), 0.5)

    def layer(qkv: Tensor, m: Tensor) -> Tensor:
        return cosine_attention(qkv, mask=mask.to(qkv.device), m=m, causal=causal)

    return [qkv, m], layer


def mixing() -> Case:
    return [draw(5, 4, 64), draw(64, seed=1)], lambda x, w: mix_norm(x, w, 4, residual=x)


def swiglu() -> Case:
    weights = [draw(3, 40, 72, seed=s, scale=0.2) for s in (1, 2)] + [draw(3, 72, 40, seed=3, scale=0.1)]
    return [draw(33, 3, 40), *weights], lambda x, *w: grouped_swiglu(x, Experts(*w))


def mixture() -> Case:
    weights = [draw(3, 4, 40, 24, seed=s, scale=0.2) for s in (1, 2)] + [
        draw(3, 4, 24, 40, seed=3, scale=0.2)
    ]
    router = draw(3, 40, 4, seed=4)
    x = draw(33, 3, 40)
    choice = route(x, router, 2)  # fixed: a low precision may choose otherwise

    def layer(x: Tensor, gates: Tensor, *w: Tensor) -> Tensor:
        return grouped_swiglu(x, Experts(*w), (choice.experts.to(x.device), gates), alpha=2.0)

    return [x, choice.gates, *weights], layer


def catalogue() -> Case:
    target = ids(500, 33)
    target[3] = -1
    inputs = [draw(33, 32, scale=0.4), draw(500, 32, seed=1, scale=0.4)]
    return inputs, lambda h, w: linear_cross_entropy(h, w, target.to(h.device), reduction="none")


def sampled() -> Case:
    negatives = ids(500, 33, 50)
    negatives[5, 7:] = -1
    inputs = [draw(33, 32, scale=0.4), draw(500, 32, seed=1, scale=0.4)]
    return inputs, lambda a, t: sampled_logsumexp(a, t, negatives.to(a.device), temperature=0.5)


def given() -> Case:
    live = torch.rand(33, 50, generator=torch.Generator().manual_seed(9)) < 0.7
    live[4] = True
    return [draw(33, 50)], lambda x: logsumexp_rows(x, live.to(x.device))


def in_batch() -> Case:
    return [draw(40, 32, scale=0.4), draw(40, 32, seed=1, scale=0.4)], lambda a, b: info_nce(
        a, b, temperature=0.5
    )


def bags() -> Case:
    indices, offsets = ids(60, 100), torch.tensor([0, 30, 30, 99, 100])

    def layer(table: Tensor) -> Tensor:
        return embedding_bag_sum(table, indices.to(table.device), offsets.to(table.device))

    return [draw(60, 24)], layer


CASES: dict[str, Callable[[], Case]] = {
    "attention": lambda: attention(False),
    "attention-causal": lambda: attention(True),
    "token-mixing": mixing,
    "swiglu": swiglu,
    "mixture": mixture,
    "catalogue-ce": catalogue,
    "sampled-lse": sampled,
    "given-lse": given,
    "info-nce": in_batch,
    "bags": bags,
}
# exponents of the attention and gates of the mixture are float32 whatever the rest is
ALWAYS_SINGLE = {"attention": 1, "attention-causal": 1, "mixture": 1}


def results(name: str, device: str, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """(output and gradients, the same in float64 from inputs of that dtype)."""
    found = []
    for exact in (False, True):
        inputs, layer = CASES[name]()
        leaves = []
        for i, value in enumerate(inputs):
            kept = torch.float32 if ALWAYS_SINGLE.get(name) == i else dtype
            value = value.to(kept).to(torch.float64 if exact else kept).to("cpu" if exact else device)
            leaves.append(value.requires_grad_())
        out = layer(*leaves)
        upstream = draw(*out.shape, seed=11).to(dtype).to(out)
        found.append([out.detach(), *torch.autograd.grad(out, leaves, upstream)])
    return found[0], found[1]


DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=on_gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_against_float64(name: str, dtype: torch.dtype, device: str) -> None:
    for a, b in zip(*results(name, device, dtype), strict=True):
        error = (a.double().cpu() - b).norm()
        assert a.isfinite().all()
        assert (
            error
            <= TOLERANCE[a.dtype if a.dtype in TOLERANCE else dtype] * b.norm()
            + 1e-5 * b.numel() ** 0.5 * (dtype != torch.float32)
            + 1e-6
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_twice(name: str, device: str) -> None:
    one, two = (results(name, device, torch.float32)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


class TestOnGpu:
    pytestmark = on_gpu

    @pytest.mark.parametrize("name", CASES)
    def test_half_precision(self, name: str) -> None:
        for a, b in zip(*results(name, "cuda", torch.float16), strict=True):
            assert (a.double().cpu() - b).norm() <= 2e-3 * b.norm() + 1e-3

    @pytest.mark.parametrize("name", CASES)
    def test_captured_in_a_graph(self, name: str) -> None:
        """Capture fails where an operator waits for the device; the replay must give what a call gives."""
        inputs, layer = CASES[name]()
        leaves = [value.cuda().requires_grad_() for value in inputs]
        wanted = layer(*leaves)
        upstream = torch.ones_like(wanted)
        wanted_grads = torch.autograd.grad(wanted, leaves, upstream)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(2):
                torch.autograd.grad(layer(*leaves), leaves, upstream)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = layer(*leaves)
            grads = torch.autograd.grad(out, leaves, upstream)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(out, wanted)
        assert all(torch.equal(a, b) for a, b in zip(grads, wanted_grads, strict=True))

    def test_topk_agrees_with_the_cpu(self) -> None:
        queries, items = draw(70, 32), draw(3000, 32, seed=1)
        scores, found = topk(queries.cuda(), items.cuda(), 20)
        wanted_scores, wanted = topk(queries, items, 20)
        assert torch.equal(found.cpu(), wanted)
        torch.testing.assert_close(scores.cpu(), wanted_scores)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_gpu_script_says_what_is_missing() -> None:
    import sys

    run = subprocess.run(
        ["bash", str(ROOT / "bench" / "gpu" / "run.sh")],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "CPU build" in run.stderr or "no CUDA device" in run.stderr
