"""Every operator on a GPU: against float64, the same bits twice, captured in a CUDA graph.

The cases themselves run on the CPU too, so that a machine without a GPU tests what a GPU will be asked.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bounds import bound
from torch import Tensor

from recengine.ops import (
    Experts,
    cosine_attention,
    embedding_bag_sum,
    gradient_rows,
    grouped_swiglu,
    info_nce,
    linear_cross_entropy,
    logsumexp_rows,
    mix_norm,
    mix_prenorm,
    rank_of,
    revert_norm,
    route,
    rowwise_adagrad_,
    sampled_logits,
    sampled_logsumexp,
    sampled_scores,
    sparse_adam_,
    topk,
)
from recengine.ops._library import native
from recengine.ops.moe import route_reference
from recengine.ops.retrieval import rank_of_reference, topk_reference

ROOT = Path(__file__).resolve().parents[2]
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not native().cuda, reason=f"no CUDA kernels: {native().cuda_reason}"),
]
TWO_PRODUCTS = (
    "swiglu",
    "mixture",
    "mixture-shared",
    "catalogue-ce",
    "catalogue-ce-bias",
    "info-nce",
    "info-nce-ids",
)

Layer = Callable[..., Tensor]
Case = tuple[list[Tensor], Layer]  # float32 inputs that have gradients, and the function of them


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def ids(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(9))


class Given:
    """An argument without a gradient, wherever it is asked for: copied once, as a graph that is captured may
    not copy from the host."""

    def __init__(self, value: Tensor) -> None:
        self.at = {value.device: value}

    def __call__(self, like: Tensor) -> Tensor:
        if like.device not in self.at:
            self.at[like.device] = next(iter(self.at.values())).to(like.device)
        return self.at[like.device]


def attention(valid: str = "mask", **options: Any) -> Case:
    """Of padded sequences with ``valid`` or of packed ones, with an exponent where ``scale`` has one."""
    lengths = torch.tensor([70, 67, 1, 0])
    told = {
        "mask": torch.arange(70) >= torch.tensor([[0], [3], [69], [70]]),
        "lengths": lengths,
        "cu_seqlens": torch.nn.functional.pad(lengths.cumsum(0), (1, 0)),
    }
    given = Given(told[valid])
    shape = (int(lengths.sum()),) if valid == "cu_seqlens" else (4, 70)
    exponents = [] if options.get("scale") == "sqrt_d" else [torch.full((2,), 0.5)]

    def layer(qkv: Tensor, *m: Tensor) -> Tensor:
        return cosine_attention(qkv, **{valid: given(qkv)}, m=m[0] if m else None, **options)

    return [draw(*shape, 3, 2, 32), *exponents], layer


def mixing() -> Case:
    return [draw(5, 4, 64), draw(64, seed=1)], lambda x, w: mix_norm(x, w, 4, residual=x)


def mixing_of_two() -> Case:
    """A residual of its own, heads that are not as many as tokens, and both results."""

    def layer(x: Tensor, w: Tensor, residual: Tensor) -> Tensor:
        return torch.cat(mix_prenorm(x, w, 8, residual=residual))

    return [draw(5, 4, 64), draw(32, seed=1), draw(5, 8, 32, seed=2)], layer


def reverting() -> Case:
    return [draw(5, 8, 32), draw(64, seed=1), draw(5, 4, 64, seed=2)], lambda x, w, residual: revert_norm(
        x, w, 4, residual=residual
    )


def swiglu() -> Case:
    weights = [draw(3, 40, 72, seed=s, scale=0.2) for s in (1, 2)] + [draw(3, 72, 40, seed=3, scale=0.1)]
    return [draw(33, 3, 40), *weights], lambda x, *w: grouped_swiglu(x, Experts(*w))


def routing() -> Case:
    return [draw(33, 3, 40), draw(3, 40, 4, seed=4)], lambda x, router: route(x, router, 2).gates


def mixture(shared: bool = False) -> Case:
    weights = [draw(3, 4, 40, 24, seed=s, scale=0.2) for s in (1, 2)] + [
        draw(3, 4, 24, 40, seed=3, scale=0.2)
    ]
    if shared:
        weights += [draw(3, 40, 24, seed=s, scale=0.2) for s in (6, 7)] + [draw(3, 24, 40, seed=8, scale=0.2)]
    x = draw(33, 3, 40)
    choice = route(x, draw(3, 40, 4, seed=4), 2)  # fixed: a low precision may choose otherwise
    experts = Given(choice.experts)

    def layer(x: Tensor, gates: Tensor, *w: Tensor) -> Tensor:
        spare = Experts(*w[3:]) if shared else None
        return grouped_swiglu(x, Experts(*w[:3]), (experts(x), gates), shared=spare, alpha=2.0)

    return [x, choice.gates, *weights], layer


def catalogue(biased: bool = False) -> Case:
    target = ids(500, 33)
    target[3] = -1
    right, correction = Given(target), Given(draw(500, seed=5))
    inputs = [draw(33, 32, scale=0.4), draw(500, 32, seed=1, scale=0.4)]
    if not biased:
        return inputs, lambda h, w: linear_cross_entropy(h, w, right(h), reduction="none")

    def layer(h: Tensor, w: Tensor, bias: Tensor) -> Tensor:
        return linear_cross_entropy(
            h, w, right(h), bias=bias, correction=correction(h), scale=1.5, reduction="none"
        )

    return [*inputs, draw(500, seed=2)], layer


def sampled() -> Case:
    negatives = ids(500, 33, 50)
    negatives[5, 7:] = -1
    entries = Given(negatives)
    inputs = [draw(33, 32, scale=0.4), draw(500, 32, seed=1, scale=0.4)]
    return inputs, lambda a, t: sampled_logsumexp(a, t, entries(a), temperature=0.5)


def sampled_with_all() -> Case:
    """Weights of entries, temperatures of rows, positives, and collisions with them."""
    negatives, positives = ids(60, 33, 50), ids(60, 33)
    negatives[5, 7:], positives[8] = -1, -1
    entries, right = Given(negatives), Given(positives)
    temperature = 0.5 + torch.rand(33, generator=torch.Generator().manual_seed(3))
    inputs = [draw(33, 32, scale=0.4), draw(60, 32, seed=1, scale=0.4), draw(33, 50, seed=2), temperature]

    def layer(a: Tensor, t: Tensor, weight: Tensor, temperature: Tensor) -> Tensor:
        return sampled_logsumexp(
            a,
            t,
            entries(a),
            log_weight=weight,
            temperature=temperature,
            positives=right(a),
            exclude=right(a),
        )

    return inputs, layer


def sampled_shared() -> Case:
    entries = Given(ids(500, 50))
    inputs = [draw(33, 32, scale=0.4), draw(500, 32, seed=1, scale=0.4), draw(50, seed=2)]
    return inputs, lambda a, t, w: sampled_logsumexp(a, t, entries(a), log_weight=w, temperature=0.5)


def logits() -> Case:
    negatives = ids(500, 33, 50)
    negatives[5, 7:] = -1
    entries = Given(negatives)
    inputs = [draw(33, 32, scale=0.4), draw(500, 32, seed=1, scale=0.4)]
    return inputs, lambda a, t: sampled_logits(a, t, entries(a))


def given() -> Case:
    live = torch.rand(33, 50, generator=torch.Generator().manual_seed(9)) < 0.7
    live[4] = True
    counts = Given(live)
    return [draw(33, 50)], lambda x: logsumexp_rows(x, counts(x))


def in_batch(repeated: bool = False) -> Case:
    same = Given(ids(25, 40))
    return [draw(40, 32, scale=0.4), draw(40, 32, seed=1, scale=0.4)], lambda a, b: info_nce(
        a, b, temperature=0.5, ids=same(a) if repeated else None
    )


def bags() -> Case:
    indices, offsets = Given(ids(60, 100)), Given(torch.tensor([0, 30, 30, 99, 100]))
    return [draw(60, 24)], lambda table: embedding_bag_sum(table, indices(table), offsets(table))


def bags_weighted() -> Case:
    indices = Given(ids(60, 20, 5))
    return [draw(60, 24), draw(20, 5, seed=1)], lambda table, factors: embedding_bag_sum(
        table, indices(table), per_sample_weights=factors
    )


CASES: dict[str, Callable[[], Case]] = {
    "attention": attention,
    "attention-causal": lambda: attention(causal=True),
    "attention-lengths": lambda: attention("lengths"),
    "attention-packed": lambda: attention("cu_seqlens"),
    "attention-packed-causal": lambda: attention("cu_seqlens", causal=True, scale="sequence"),
    "attention-elu": lambda: attention(activation="elu", scale="sqrt_d"),
    "attention-elu-causal": lambda: attention("lengths", activation="elu", scale="sqrt_d", causal=True),
    "attention-key-prefix": lambda: attention("lengths", causal=True, scale="key_prefix"),
    "token-mixing": mixing,
    "token-mixing-residual": mixing_of_two,
    "token-reverting": reverting,
    "swiglu": swiglu,
    "routing": routing,
    "mixture": mixture,
    "mixture-shared": lambda: mixture(shared=True),
    "catalogue-ce": catalogue,
    "catalogue-ce-bias": lambda: catalogue(biased=True),
    "sampled-lse": sampled,
    "sampled-lse-all": sampled_with_all,
    "sampled-lse-shared": sampled_shared,
    "sampled-logits": logits,
    "given-lse": given,
    "info-nce": in_batch,
    "info-nce-ids": lambda: in_batch(repeated=True),
    "bags": bags,
    "bags-weighted": bags_weighted,
}
# exponents of the attention and gates of the mixture are float32 whatever the rest is
ALWAYS_SINGLE = {name: 1 for name in CASES if name.startswith(("attention", "mixture"))}


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
        limit = bound(a, products=2 if name in TWO_PRODUCTS else 1)
        assert error <= limit * b.norm() + 1e-5 * b.numel() ** 0.5 * (dtype != torch.float32) + 1e-6


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


# --- what has no gradient, or changes its arguments


def whole(*shape: int, seed: int = 0) -> Tensor:
    """Whole numbers from -3 to 3, exact in every dtype, as are the sums of their products."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 20, 1000])
@pytest.mark.parametrize("masked", [False, True])
def test_topk_is_exact_where_sums_are(masked: bool, k: int, dtype: torch.dtype, device: str) -> None:
    """Ids, too: ties are many, and go to the smaller one."""
    queries, items, bias = whole(70, 32), whole(3000, 32, seed=1), whole(3000, seed=2)
    options: dict[str, Tensor] = {"bias": bias}
    if masked:
        options["seen_indptr"] = torch.arange(71).square()
        options["seen_items"] = ids(3000, 4900).int()
    wanted = topk_reference(queries, items, k, **options)
    there = {name: value.to(device) for name, value in options.items()}
    found = topk(queries.to(device, dtype), items.to(device, dtype), k, **there)
    assert torch.equal(found[1].cpu(), wanted[1])
    assert torch.equal(found[0].cpu(), wanted[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_topk_scores_against_float64(dtype: torch.dtype, device: str) -> None:
    queries, items = draw(70, 64).to(dtype), draw(3000, 64, seed=1).to(dtype)
    exact, _ = topk_reference(queries.double(), items.double(), 50)
    scores, found = topk(queries.to(device), items.to(device), 50)
    assert (scores.cpu() - exact).norm() <= 2e-6 * exact.norm()
    own = (queries.double()[:, None] * items.double()[found.cpu()]).sum(-1)  # of the items that were named
    assert (scores.cpu() - own).norm() <= 2e-6 * own.norm()
    assert all(len(set(row)) == 50 for row in found.tolist())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked", [False, True])
def test_ranks_are_exact_where_sums_are(masked: bool, dtype: torch.dtype, device: str) -> None:
    queries, items, targets = whole(70, 32), whole(3000, 32, seed=1), ids(3000, 70)
    options = {"bias": whole(3000, seed=2)}
    if masked:
        options |= {"seen_indptr": torch.arange(71) * 40, "seen_items": ids(3000, 2800)}
    wanted = rank_of_reference(queries, items, targets, **options)
    there = {name: value.to(device) for name, value in options.items()}
    found = rank_of(queries.to(device, dtype), items.to(device, dtype), targets.to(device), **there)
    assert torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [1, 3, 7])
def test_routing_chooses_what_the_reference_does(k: int, device: str) -> None:
    x, router = whole(300, 3, 40), whole(3, 40, 7, seed=1)  # with ties
    found, wanted = route(x.to(device), router.to(device), k), route_reference(x, router, k)
    assert torch.equal(found.experts.cpu(), wanted.experts)
    assert torch.equal(found.load.cpu(), wanted.load)
    torch.testing.assert_close(found.gates.cpu(), wanted.gates)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampled_scores_against_float64(dtype: torch.dtype, device: str) -> None:
    anchors, table, negatives = draw(33, 32).to(dtype), draw(500, 32, seed=1).to(dtype), ids(500, 33, 50)
    negatives[5, 7:] = -1
    for entries in (negatives, negatives[0]):
        exact = sampled_scores(anchors.double(), table.double(), entries, temperature=0.3)
        found = sampled_scores(anchors.to(device), table.to(device), entries.to(device), temperature=0.3)
        assert found.dtype == torch.float32
        assert (found.cpu() - exact).norm() <= 2e-6 * exact.norm()
        assert not found.cpu()[(entries < 0).expand_as(found)].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparse_gradients_are_the_dense_ones(dtype: torch.dtype, device: str) -> None:
    indices, offsets = ids(60, 100).to(device), torch.tensor([0, 30, 30, 99, 100], device=device)
    upstream, grads = draw(4, 24, seed=2).to(device, dtype), []
    for sparse in (False, True):
        table = draw(60, 24).to(device, dtype).requires_grad_()
        factors = draw(100, seed=1).to(device)
        embedding_bag_sum(table, indices, offsets, per_sample_weights=factors, sparse=sparse).backward(
            upstream
        )
        grads.append(table.grad)
    rows, values = gradient_rows(grads[1])
    assert torch.equal(rows, indices.unique())
    assert torch.equal(values, grads[0][rows])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updates_of_rows_against_float64(dtype: torch.dtype, device: str) -> None:
    rows, bound = torch.tensor([0, 3, 4, 38]), 2e-6 if dtype == torch.float32 else 2e-3
    start, values = draw(40, 21).to(dtype), draw(4, 21, seed=1).to(dtype)
    sums, means, squares = draw(40, seed=2).abs(), draw(40, 21, seed=3), draw(40, 21, seed=4).abs()
    unseen = [row for row in range(40) if row not in rows.tolist()]

    def updated(where: str, kind: torch.dtype, states: torch.dtype) -> list[Tensor]:
        one, two = (start.to(where, kind, copy=True) for _ in range(2))
        state, mean, square = (t.to(where, states, copy=True) for t in (sums, means, squares))
        gradient = rows.to(where), values.to(where, kind)
        rowwise_adagrad_(one, state, *gradient, lr=0.1)
        sparse_adam_(two, mean, square, *gradient, step=3, lr=0.01)
        return [one, two, state, mean, square]

    found, truth = updated(device, dtype, torch.float32), updated("cpu", torch.float64, torch.float64)
    for place, (a, b) in enumerate(zip(found, truth, strict=True)):
        assert (a.cpu().double() - b).norm() <= (bound if place < 2 else 2e-6) * b.norm()
    for a, before in zip(found, (start, start, sums, means, squares), strict=True):
        assert torch.equal(a.cpu()[unseen], before[unseen])


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
