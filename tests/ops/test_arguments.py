"""Arguments that fit no operator, whoever computes: mixed devices, integers for vectors, steps that are no
numbers. Messages say the operator, the argument, what was found and what was expected, and no path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recengine.errors import UsageError
from recengine.ops import (
    Experts,
    cosine_attention,
    cosine_attention_at,
    embedding_bag_sum,
    gated_attention,
    grouped_swiglu,
    info_nce,
    linear_cross_entropy,
    logsumexp_rows,
    mix_norm,
    rank_of,
    revert_prenorm,
    route,
    rowwise_adagrad_,
    sampled_competition,
    sampled_logits,
    sampled_logsumexp,
    sampled_scores,
    softmax_attention,
    softmax_attention_at,
    sparse_adam_,
    topk,
)
from recengine.ops._library import native
from recengine.ops.sampling import draw_negatives

kernel = pytest.mark.skipif(not native().cpu, reason="no native kernels here")
ROWS, ENDS, TIMES = torch.arange(2), torch.tensor([0, 2, 3]), torch.arange(3)
CSR = {"seen_indptr": ENDS, "seen_items": torch.arange(3)}
Arguments = dict[str, Tensor]


def bank(experts: int | None, prefix: str = "") -> Arguments:
    shape = (2, 4, 5) if experts is None else (2, experts, 4, 5)
    weights = torch.ones(shape), torch.ones(shape), torch.ones(shape).transpose(-1, -2)
    return {f"{prefix}{part}": w for part, w in zip(Experts._fields, weights, strict=True)}


def mixture(
    x: Tensor, experts: Tensor, gates: Tensor, gate: Tensor, up: Tensor, down: Tensor, **shared: Tensor
) -> Tensor:
    return grouped_swiglu(x, Experts(gate, up, down), (experts, gates), shared=Experts(*shared.values()))


def drawn(users: Tensor, indptr: Tensor, met: Tensor, keep: Tensor, alias: Tensor) -> Tensor:
    return draw_negatives(users, 3, 9, seed=1, met=(indptr, met), alias=(keep, alias))


ADAM = {name: torch.zeros(4, 3) for name in ("weight", "exp_avg", "exp_avg_sq")}
GRADIENT = {"rows": ROWS, "values": torch.ones(2, 3)}
SAMPLED = {"anchors": torch.ones(2, 4), "table": torch.ones(9, 4), "negatives": torch.zeros(2, 3).long()}
PAIR = {"queries": torch.ones(2, 4), "items": torch.ones(9, 4)}
PACKED = {"queries": torch.ones(2, 2, 8), "keys": torch.ones(3, 2, 2, 8), "wanted": ROWS, "cu_seqlens": ENDS}
# what every operator takes, its first argument first: by name, so that one at a time can be spoilt
CALLS: dict[str, tuple[Callable[..., Any], Arguments]] = {
    "topk": (lambda **a: topk(**a, k=2), PAIR | {"bias": torch.ones(9)} | CSR),
    "rank_of": (rank_of, PAIR | {"targets": ROWS, "bias": torch.ones(9)} | CSR),
    "linear_cross_entropy": (
        linear_cross_entropy,
        {"hidden": torch.ones(2, 4), "weight": torch.ones(9, 4), "target": ROWS}
        | {"bias": torch.ones(9), "correction": torch.ones(9)},
    ),
    "info_nce": (info_nce, {"a": torch.ones(2, 4), "b": torch.ones(2, 4), "ids": ROWS}),
    "sampled_logsumexp": (
        sampled_logsumexp,
        SAMPLED
        | {"log_weight": torch.ones(2, 3), "temperature": torch.ones(2), "positives": ROWS, "exclude": ROWS},
    ),
    "sampled_scores": (sampled_scores, SAMPLED),
    "sampled_logits": (sampled_logits, SAMPLED),
    "logsumexp_rows": (
        logsumexp_rows,
        {"logits": torch.ones(2, 4), "live": torch.ones(2, 4, dtype=torch.bool)},
    ),
    "sampled_competition": (
        lambda **a: sampled_competition(**a, kappa=1.0, rho=0.5, temperature=0.1, slate=2),
        {"scores": torch.ones(2, 4), "live": torch.ones(2, 4, dtype=torch.bool)}
        | {"positive": torch.ones(2), "likeness": torch.ones(2, 4)},
    ),
    "moe_route": (lambda **a: route(**a, k=1), {"x": torch.ones(3, 2, 4), "router": torch.ones(2, 4, 3)}),
    "grouped_swiglu": (
        mixture,
        {"x": torch.ones(3, 2, 4), "experts": torch.zeros(3, 2, 1).long(), "gates": torch.ones(3, 2, 1)}
        | bank(3)
        | bank(None, "shared_"),
    ),
    "cosine_attention": (
        cosine_attention,
        {"qkv": torch.ones(3, 3, 2, 8), "cu_seqlens": ENDS, "m": torch.ones(2)},
    ),
    "cosine_attention_at": (cosine_attention_at, PACKED | {"m": torch.ones(2)}),
    "softmax_attention": (softmax_attention, {"qkv": torch.ones(3, 3, 2, 8), "cu_seqlens": ENDS}),
    "softmax_attention_at": (softmax_attention_at, PACKED),
    "gated_attention": (
        gated_attention,
        {name: torch.ones(2 if name == "queries" else 3, 2, 8) for name in ("queries", "keys", "values")}
        | {"wanted": ROWS, "cu_seqlens": ENDS, "by_distance": torch.ones(8)}
        | {"times": TIMES, "by_time": torch.ones(64)},
    ),
    "mix_norm": (
        lambda **a: mix_norm(**a, heads=2),
        {"x": torch.ones(3, 2, 4), "weight": torch.ones(4), "residual": torch.ones(3, 2, 4)},
    ),
    "embedding_bag_sum": (
        embedding_bag_sum,
        {"weight": torch.ones(4, 3), "indices": torch.arange(3), "offsets": ENDS}
        | {"per_sample_weights": torch.ones(3)},
    ),
    "rowwise_adagrad_": (
        lambda **a: rowwise_adagrad_(**a, lr=0.1),
        {"weight": torch.zeros(4, 3), "state": torch.zeros(4)} | GRADIENT,
    ),
    "sparse_adam_": (lambda **a: sparse_adam_(**a, step=1), ADAM | GRADIENT),
    "draw_negatives": (
        drawn,
        {"users": ROWS, "indptr": ENDS, "met": torch.arange(3)}
        | {"keep": torch.ones(9), "alias": torch.arange(9, dtype=torch.int32)},
    ),
}
# Indices, masks and bounds have no other dtype to be refused; those that drive an optimiser are tested below.
FLOATING = [
    (name, argument)
    for name, (_, arguments) in CALLS.items()
    for argument, value in arguments.items()
    if value.is_floating_point() and name != "draw_negatives"
]
# what is converted to float32 first: any number will do
CONVERTED = {("cosine_attention", "m"), ("cosine_attention_at", "m")} | {
    ("gated_attention", name) for name in ("by_distance", "by_time")
}


def cast(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    return {name: t.to(dtype, copy=True) if t.is_floating_point() else t for name, t in arguments.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CALLS)
def test_the_arguments_fit_as_they_are(name: str, dtype: torch.dtype) -> None:
    call, arguments = CALLS[name]
    call(**cast(arguments, torch.float32 if name == "draw_negatives" else dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "argument"), [(n, a) for n, (_, given) in CALLS.items() for a in given])
def test_tensors_of_another_device_reach_no_kernel(name: str, argument: str, dtype: torch.dtype) -> None:
    call, arguments = CALLS[name]
    given = cast(arguments, torch.float32 if name == "draw_negatives" else dtype)
    given[argument] = given[argument].to("meta")
    with pytest.raises((RuntimeError, UsageError)) as error:
        call(**given)
    message = str(error.value)
    assert message.startswith(name) or name == "cosine_attention_at", message
    assert "device" in message or "is on" in message, message
    assert "meta" in message, message
    assert "cpu" in message, message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "argument"), [each for each in FLOATING if each not in CONVERTED])
def test_integers_are_no_vectors(name: str, argument: str, dtype: torch.dtype) -> None:
    call, arguments = CALLS[name]
    given = cast(arguments, dtype)
    given[argument] = given[argument].long()
    with pytest.raises((RuntimeError, UsageError), match=argument) as error:
        call(**given)
    assert "int64" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("sparse_adam_", {"betas": (1.5, 0.9)}, r"betas\[0\] is 1.5, expected at least 0 and less than 1"),
        ("sparse_adam_", {"betas": (0.9, 1.0)}, r"betas\[1\] is 1.0, expected at least 0 and less than 1"),
        ("sparse_adam_", {"betas": (0.9, float("nan"))}, r"betas\[1\] is nan"),
        ("sparse_adam_", {"lr": float("nan")}, "lr is nan, expected at least 0 and a finite number"),
        ("sparse_adam_", {"eps": -1e-8}, "eps is -1e-08"),
        ("sparse_adam_", {"step": 0}, "step is 0, expected 1 for the first update"),
        ("rowwise_adagrad_", {"lr": float("nan")}, "lr is nan, expected at least 0 and a finite number"),
        ("rowwise_adagrad_", {"lr": float("inf")}, "lr is inf"),
        ("rowwise_adagrad_", {"lr": -0.1}, "lr is -0.1"),
        ("rowwise_adagrad_", {"lr": 0.1, "eps": float("nan")}, "eps is nan"),
    ],
)
def test_steps_are_numbers(name: str, options: dict[str, Any], found: str, dtype: torch.dtype) -> None:
    update = {"sparse_adam_": sparse_adam_, "rowwise_adagrad_": rowwise_adagrad_}[name]
    given = cast(CALLS[name][1], dtype)
    with pytest.raises(RuntimeError, match=f"{name}: {found}"):
        update(**given, **({"step": 1} if name == "sparse_adam_" else {}) | options)
    assert not given["weight"].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [-100.0, float("nan"), float("inf")])
def test_what_is_added_to_a_mean_square_is_no_less_than_zero(eps: float, dtype: torch.dtype) -> None:
    x, weight = torch.ones(3, 2, 4, dtype=dtype), torch.ones(4, dtype=dtype)
    with pytest.raises(UsageError, match=r"mix_norm\(eps\)"):
        mix_norm(x, weight, 2, eps=eps)
    with pytest.raises(UsageError, match=r"revert_prenorm\(eps\)"):
        revert_prenorm(x, weight, 2, eps=eps)


@pytest.mark.parametrize("argument", ["packed", "shared_packed"])
def test_a_cache_of_packed_weights_is_one(argument: str) -> None:
    weights = Experts(*bank(None).values())
    with pytest.raises(
        RuntimeError, match=f"grouped_swiglu: {argument} must be a PackedWeights or None, found int"
    ):
        grouped_swiglu(torch.ones(3, 2, 4), weights, **{argument: 3})  # type: ignore[arg-type]


@kernel
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda ops: ops.topk(*PAIR.values(), None, ENDS.int(), ROWS, 2),
            "topk: seen_indptr must be int64, found int32",
        ),
        (
            lambda ops: ops.linear_cross_entropy(
                torch.ones(2, 4).double(), torch.ones(9, 4), ROWS, None, None, None, -1, 1.0
            ),
            "linear_cross_entropy: hidden must be float32 or bfloat16 on the CPU, found float64",
        ),
        (
            lambda ops: ops.embedding_bag_sum(torch.ones(4, 3), ROWS, ENDS.short(), None, False),
            "embedding_bag_sum: offsets must be int64, found int16",
        ),
        (
            lambda ops: ops.moe_route(torch.ones(3, 2, 4), torch.ones(2, 4, 3), 4),
            "moe_route: k is 4, expected 1 to the number of experts (3)",
        ),
    ],
)
def test_a_kernel_s_words_come_alone(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(RuntimeError) as error:
        call(torch.ops.recengine)
    assert str(error.value) == message
