"""What holds for every operator family: a table of where each rule is tested, and the tests of no one family.

A cell of :data:`TABLE` names the tests of a rule (file without ``test_``, then the test; a class's tests as
``class::test``), or says in words why the rule does not apply. A test that is renamed or dropped fails here.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_devices import CASES, Case, on_gpu
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from recengine.ops import (
    _library,
    cosine_attention_at,
    embedding_bag_sum,
    factorization,
    gated_attention,
    info_nce,
    linear_cross_entropy,
    rank_of,
    recourse,
    sampled_logsumexp,
    softmax_attention,
    softmax_attention_at,
    topk,
)
from recengine.ops._library import native

HERE = Path(__file__).parent
kernel = pytest.mark.skipif(not native().cpu, reason="no native kernels here")

RULES = (
    "float32 against float64",
    "bfloat16 against float64",
    "strided inputs",
    "arguments are named",
    "empty",
    "degenerate values",
    "any number of threads",
    "gradcheck of the reference",
    "opcheck",
    "compile and export",
    "autocast",
    "no wait for the device",
    "captured in a CUDA graph",
    "kernels without torch, sanitizers",
)
NO_CUDA = "plain torch on CUDA"
ON_DEVICES = "devices::test_against_float64"
CAPTURED = "devices::TestOnGpu::test_captured_in_a_graph"
NO_WAIT = "rules::test_nothing_waits_for_the_device"
NO_COPY = "rules::test_strided_inputs_are_not_copied"
NO_GRADIENT = "no gradient flows through it"

TABLE: dict[str, dict[str, str | tuple[str, ...]]] = {
    "attention": {
        "float32 against float64": ("attention::test_kernel_equals_float64", ON_DEVICES),
        "bfloat16 against float64": ("attention::test_bfloat16", ON_DEVICES),
        "strided inputs": ("attention::test_strides_without_copies", NO_COPY),
        "arguments are named": (
            "attention::test_wrong_arguments_are_named",
            "attention::test_values_are_checked",
        ),
        "empty": ("attention::test_empty_and_single",),
        "degenerate values": ("attention::test_zero_vectors_and_all_padding_are_free_of_nan",),
        "any number of threads": ("attention::test_bits_do_not_depend_on_threads",),
        "gradcheck of the reference": ("attention::test_reference_gradcheck",),
        "opcheck": ("attention::test_opcheck",),
        "compile and export": ("attention::test_compile_and_export",),
        "autocast": ("attention::test_autocast",),
        "no wait for the device": (NO_WAIT,),
        "captured in a CUDA graph": (CAPTURED,),
        "kernels without torch, sanitizers": ("../native/test_attention.cpp",),
    },
    "packed_attention": {
        "float32 against float64": (
            "packed_attention::test_softmax_equals_float64",
            "packed_attention::test_some_rows_are_those_of_all",
            "packed_attention::test_gated_equals_float64",
        ),
        "bfloat16 against float64": ("packed_attention::test_bfloat16",),
        "strided inputs": ("packed_attention::test_strides_without_copies", NO_COPY),
        "arguments are named": (
            "packed_attention::test_wrong_arguments_are_named",
            "packed_attention::test_values_are_checked",
        ),
        "empty": ("packed_attention::test_empty_and_single",),
        "degenerate values": ("packed_attention::test_far_scores_and_equal_ones_are_free_of_nan",),
        "any number of threads": ("packed_attention::test_bits_do_not_depend_on_threads",),
        "gradcheck of the reference": ("packed_attention::test_reference_gradcheck",),
        "opcheck": ("packed_attention::test_opcheck",),
        "compile and export": ("packed_attention::test_compile_and_export",),
        "autocast": ("packed_attention::test_autocast",),
        "no wait for the device": NO_CUDA,
        "captured in a CUDA graph": NO_CUDA,
        "kernels without torch, sanitizers": ("../native/test_packed_attention.cpp",),
    },
    "token_mixing": {
        "float32 against float64": ("token_mixing::test_kernel_equals_float64", ON_DEVICES),
        "bfloat16 against float64": ("token_mixing::test_kernel_equals_float64", ON_DEVICES),
        "strided inputs": ("token_mixing::test_strides_without_copies", NO_COPY),
        "arguments are named": ("token_mixing::test_wrong_arguments_are_named",),
        "empty": ("token_mixing::test_empty",),
        "degenerate values": ("token_mixing::test_zeros_are_free_of_nan",),
        "any number of threads": ("token_mixing::test_bits_do_not_depend_on_threads",),
        "gradcheck of the reference": ("token_mixing::test_reference_gradcheck",),
        "opcheck": ("token_mixing::test_opcheck",),
        "compile and export": ("token_mixing::test_compile_and_export",),
        "autocast": ("token_mixing::test_autocast",),
        "no wait for the device": (NO_WAIT,),
        "captured in a CUDA graph": (CAPTURED,),
        "kernels without torch, sanitizers": ("../native/test_token_mixing.cpp",),
    },
    "moe": {
        "float32 against float64": ("moe::test_outputs_and_gradients_agree_with_float64", ON_DEVICES),
        "bfloat16 against float64": ("moe::test_outputs_and_gradients_agree_with_float64", ON_DEVICES),
        "strided inputs": ("moe::test_strided_inputs_need_no_copy", NO_COPY),
        "arguments are named": ("moe::test_arguments_are_checked_by_name",),
        "empty": ("moe::test_no_rows_and_zero_rows", "moe::test_routing_of_nothing"),
        "degenerate values": (
            "moe::test_one_expert_may_get_everything",
            "moe::test_ties_go_to_the_smaller_expert",
            "moe::test_extreme_inputs_stay_finite",
        ),
        "any number of threads": ("moe::test_the_same_bits_for_any_number_of_threads",),
        "gradcheck of the reference": ("moe::test_the_references_have_the_right_gradients",),
        "opcheck": ("moe::test_opcheck",),
        "compile and export": ("moe::test_compiles_and_exports",),
        "autocast": ("moe::test_under_autocast_the_experts_run_in_bfloat16_and_the_router_does_not",),
        "no wait for the device": (NO_WAIT,),
        "captured in a CUDA graph": (CAPTURED,),
        "kernels without torch, sanitizers": ("../native/test_moe.cpp",),
    },
    "softmax_loss, catalogue": {
        "float32 against float64": (
            "softmax_loss::test_catalogue_loss_and_gradients_agree_with_float64",
            ON_DEVICES,
        ),
        "bfloat16 against float64": (
            "softmax_loss::test_catalogue_loss_and_gradients_agree_with_float64",
            ON_DEVICES,
        ),
        "strided inputs": ("softmax_loss::test_strided_inputs_need_no_copy", NO_COPY),
        "arguments are named": ("softmax_loss::test_catalogue_arguments_are_checked_by_name",),
        "empty": ("softmax_loss::test_nothing_to_count_is_zero_without_nan",),
        "degenerate values": (
            "softmax_loss::test_extreme_logits_stay_finite",
            "softmax_loss::test_a_masked_item_gets_no_probability",
        ),
        "any number of threads": ("softmax_loss::test_the_same_bits_for_any_number_of_threads",),
        "gradcheck of the reference": ("softmax_loss::test_the_catalogue_reference_has_the_right_gradient",),
        "opcheck": ("softmax_loss::test_catalogue_opcheck",),
        "compile and export": ("softmax_loss::test_catalogue_compiles_and_exports",),
        "autocast": ("softmax_loss::test_catalogue_under_autocast",),
        "no wait for the device": (NO_WAIT,),
        "captured in a CUDA graph": (CAPTURED,),
        "kernels without torch, sanitizers": ("../native/test_softmax_loss.cpp",),
    },
    "softmax_loss, sampled": {
        "float32 against float64": (
            "softmax_loss::test_sampled_values_and_gradients_agree_with_float64",
            ON_DEVICES,
        ),
        "bfloat16 against float64": (
            "softmax_loss::test_sampled_values_and_gradients_agree_with_float64",
            ON_DEVICES,
        ),
        "strided inputs": ("rules::test_sampled_losses_take_any_strides", NO_COPY),
        "arguments are named": ("softmax_loss::test_sampled_arguments_are_checked_by_name",),
        "empty": ("rules::test_sampled_losses_of_nothing", "softmax_loss::test_info_nce_of_nothing_is_zero"),
        "degenerate values": (
            "softmax_loss::test_a_row_without_entries_is_minus_infinity_without_gradient",
            "softmax_loss::test_extreme_temperature_stays_finite",
        ),
        "any number of threads": (
            "softmax_loss::test_repeated_items_are_summed_and_threads_do_not_matter",
            "rules::test_info_nce_by_threads",
        ),
        "gradcheck of the reference": ("softmax_loss::test_the_sampled_reference_has_the_right_gradient",),
        "opcheck": ("softmax_loss::test_sampled_opcheck_compile_export",),
        "compile and export": ("softmax_loss::test_sampled_opcheck_compile_export",),
        "autocast": ("rules::test_losses_under_autocast",),
        "no wait for the device": (NO_WAIT,),
        "captured in a CUDA graph": (CAPTURED,),
        "kernels without torch, sanitizers": ("../native/test_softmax_loss.cpp",),
    },
    "softmax_loss, given logits": {
        "float32 against float64": ("softmax_loss::test_log_sum_exp_of_rows", ON_DEVICES),
        "bfloat16 against float64": ("softmax_loss::test_log_sum_exp_of_rows", ON_DEVICES),
        "strided inputs": ("softmax_loss::test_log_sum_exp_of_rows_takes_any_strides_and_threads", NO_COPY),
        "arguments are named": ("softmax_loss::test_log_sum_exp_of_rows_names_its_arguments_and_compiles",),
        "empty": ("softmax_loss::test_log_sum_exp_of_rows_at_the_edges",),
        "degenerate values": ("softmax_loss::test_log_sum_exp_of_rows_at_the_edges",),
        "any number of threads": ("softmax_loss::test_log_sum_exp_of_rows_takes_any_strides_and_threads",),
        "gradcheck of the reference": (
            "softmax_loss::test_the_reference_of_given_logits_has_the_right_gradient",
        ),
        "opcheck": ("softmax_loss::test_log_sum_exp_of_rows_names_its_arguments_and_compiles",),
        "compile and export": ("softmax_loss::test_log_sum_exp_of_rows_names_its_arguments_and_compiles",),
        "autocast": "there is no product in it; logits come as the product before it left them",
        "no wait for the device": (NO_WAIT,),
        "captured in a CUDA graph": (CAPTURED,),
        "kernels without torch, sanitizers": ("../native/test_softmax_loss.cpp",),
    },
    "retrieval": {
        "float32 against float64": (
            "retrieval::test_topk_agrees_with_float64",
            "retrieval::test_rank_is_the_place_in_the_full_list",
        ),
        "bfloat16 against float64": (
            "retrieval::test_topk_agrees_with_float64",
            "retrieval::test_rank_is_the_place_in_the_full_list",
        ),
        "strided inputs": ("retrieval::test_strides_do_not_matter", NO_COPY),
        "arguments are named": (
            "retrieval::test_bad_arguments_are_named",
            "retrieval::test_bad_targets_are_named",
            "retrieval::test_k_out_of_range",
        ),
        "empty": (
            "retrieval::test_zero_vectors_empty_batch_and_no_items",
            "retrieval::test_everything_seen_leaves_nothing",
        ),
        "degenerate values": (
            "retrieval::test_ties_go_to_the_smaller_id",
            "retrieval::test_nan_and_infinity",
            "retrieval::test_extreme_magnitudes_agree_with_the_reference",
        ),
        "any number of threads": (
            "retrieval::test_threads_and_batches_change_no_bit",
            "retrieval::test_few_users_of_a_large_table_get_what_many_get",
        ),
        "gradcheck of the reference": NO_GRADIENT,
        "opcheck": ("retrieval::test_opcheck",),
        "compile and export": ("retrieval::test_compile_and_export",),
        "autocast": ("rules::test_retrieval_under_autocast",),
        "no wait for the device": ("rules::test_retrieval_does_not_wait_for_the_device",),
        "captured in a CUDA graph": ("rules::TestOnGpu::test_topk_captured_in_a_graph",),
        "kernels without torch, sanitizers": ("../native/test_retrieval.cpp",),
    },
    "embedding": {
        "float32 against float64": ("embedding::test_kernel_equals_float64", ON_DEVICES),
        "bfloat16 against float64": ("embedding::test_kernel_equals_float64", ON_DEVICES),
        "strided inputs": ("embedding::test_strides_without_copies", NO_COPY),
        "arguments are named": (
            "embedding::test_wrong_arguments_are_named",
            "embedding::test_values_are_checked",
            "rules::test_an_index_outside_the_table_is_named_wherever_it_is",
        ),
        "empty": ("embedding::test_empty",),
        "degenerate values": ("embedding::test_sparse_gradient_is_coalesced_and_equal_to_the_dense_one",),
        "any number of threads": ("embedding::test_bits_do_not_depend_on_threads",),
        "gradcheck of the reference": ("embedding::test_reference_gradcheck_and_torch",),
        "opcheck": ("embedding::test_opcheck",),
        "compile and export": ("embedding::test_compile_and_export",),
        "autocast": ("embedding::test_autocast",),
        "no wait for the device": (NO_WAIT, "rules::test_only_the_sparse_gradient_asks_how_many_rows"),
        "captured in a CUDA graph": (CAPTURED,),
        "kernels without torch, sanitizers": ("../native/test_embedding.cpp",),
    },
}


@cache
def names_in(file: str) -> frozenset[str]:
    found = set()
    for node in ast.parse((HERE / f"test_{file}.py").read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found.update(
                f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            )
    return frozenset(found)


@pytest.mark.parametrize("family", TABLE)
def test_every_rule_is_tested_where_the_table_says(family: str) -> None:
    assert tuple(TABLE[family]) == RULES
    for rule, tests in TABLE[family].items():
        assert tests, (family, rule)
        for test in () if isinstance(tests, str) else tests:
            file, _, name = test.partition("::")
            assert name in names_in(file) if name else (HERE / file).exists(), (family, rule, test)


# --- waiting for the device: what would stop a CUDA graph from being captured, seen on any machine


class Waits(TorchDispatchMode):
    """Names the calls whose result, or whose shape, the host has to know; and all calls."""

    NAMES = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "embedding_bag_sum_rows", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.called: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.append(func.name())
        name = func.__name__.split(".")[0]
        if any(name == wait or name.startswith(f"_{wait}") for wait in self.NAMES):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@kernel
@pytest.mark.parametrize("name", CASES)
def test_nothing_waits_for_the_device(name: str) -> None:
    inputs, layer = CASES[name]()
    leaves = [value.requires_grad_() for value in inputs]
    with Waits() as waits:
        out = layer(*leaves)
        torch.autograd.grad(out, leaves, torch.ones_like(out))
    assert waits.seen == []


# --- copies of strided inputs, which equal results do not show


def copies(call: Callable[[], object]) -> list[tuple[int, ...]]:
    """Shapes of 64 elements or more that are copied, by Python or inside of an operator."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        call()
    shapes = (tuple(event.input_shapes[0]) for event in seen.events() if event.name == "aten::copy_")
    return [shape for shape in shapes if torch.Size(shape).numel() >= 64]


def apart(value: Tensor) -> Tensor:
    """The same numbers, every second element of memory."""
    wide = torch.zeros(*value.shape, 2, dtype=value.dtype)
    wide[..., 0] = value
    return wide[..., 0]


def packed(layer: Callable[..., Tensor], parts: int) -> Case:
    bounds, wanted = torch.tensor([0, 30, 70]), torch.arange(0, 70, 5)
    return [torch.randn(14, 2, 32), torch.randn(70, parts, 2, 32)], lambda q, rows: layer(
        q, rows, wanted, bounds
    )


STRIDED: dict[str, Callable[[], Case]] = CASES | {
    "softmax-attention": lambda: packed(
        lambda q, rows, wanted, bounds: softmax_attention(rows, cu_seqlens=bounds) + 0 * q.sum(), 3
    ),
    "softmax-attention-some": lambda: packed(
        lambda q, rows, wanted, bounds: softmax_attention_at(q, rows, wanted, cu_seqlens=bounds), 2
    ),
    "cosine-attention-some": lambda: packed(
        lambda q, rows, wanted, bounds: cosine_attention_at(q, rows, wanted, cu_seqlens=bounds, scale="one"),
        2,
    ),
    "gated-attention": lambda: (
        [torch.randn(70, 2, 32) for _ in range(3)],
        lambda q, k, v: gated_attention(
            q,
            k,
            v,
            torch.arange(70),
            cu_seqlens=torch.tensor([0, 30, 70]),
            by_distance=torch.zeros(40),
        ),
    ),
    "top-k": lambda: ([torch.randn(9, 32), torch.randn(300, 32)], lambda q, t: topk(q, t, 5)[0]),
    "rank": lambda: (
        [torch.randn(9, 32), torch.randn(300, 32)],
        lambda q, t: rank_of(q, t, torch.arange(9)).float(),
    ),
}
# what docstrings say is copied: gates by token, a gradient by entry, factors by entry
COPIED = {"routing": {(33, 3, 2)}, "sampled-logits": {(33, 50)}, "bags-weighted": {(100,), (20, 5)}}


@kernel
@pytest.mark.parametrize("name", STRIDED)
def test_strided_inputs_are_not_copied(name: str) -> None:
    inputs, layer = STRIDED[name]()
    leaves = [apart(value).requires_grad_() for value in inputs]
    upstream = apart(torch.ones_like(layer(*leaves)))

    def both() -> None:
        out = layer(*leaves)
        if out.requires_grad:
            torch.autograd.grad(out, leaves, upstream)

    found = copies(both)
    assert set(found) <= COPIED.get(name, set()), found


def test_a_copy_of_a_strided_input_is_seen() -> None:
    rows = apart(torch.ones(8, 16))
    assert copies(lambda: rows.contiguous() + rows.clone()) == [(8, 16), (8, 16)]
    assert copies(lambda: rows + 1) == []


CSR = (torch.tensor([0, 1, 2]), torch.tensor([0, 1], dtype=torch.int32))
CPU_ONLY: dict[str, Callable[..., Any]] = {
    "gram": lambda on: factorization.gram(on(3, 16)),
    "ials_solve_": lambda on: factorization.ials_solve(on(2, 16), *CSR, on(2), on(2), gram_matrix=on(16, 16)),
    "bpr_epoch_": lambda on: factorization.bpr_epoch_(on(2, 16), on(2, 16), on(2), *CSR, seed=0, epoch=0),
    "cooccurrence_": lambda on: factorization.cooccurrence(
        *(t.to("meta") for t in (*CSR, *CSR)), first=0, last=2
    ),
    "spd_inverse_": lambda on: factorization.spd_inverse_(on(3, 3)),
    "quadric_nearest": lambda on: recourse.quadric_nearest(on(2, 3), on(3), on(2, 3), on(2), on(3), on(2)),
    "cone_nearest": lambda on: recourse.cone_nearest(
        recourse.Cone(on(4), on(4, 4), 1.0, on(3)), on(2, 3), on(2, 3), on(2, 3), on(2, 3)
    ),
}


@kernel
@pytest.mark.parametrize("name", CPU_ONLY)
def test_operators_of_the_cpu_alone_are_asked_for_nothing_elsewhere(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device whose library is live, as CUDA's is where it was built, and which has no such kernel."""
    monkeypatch.setattr(_library, "_live", lambda device: True)
    with Waits() as waits, suppress(Exception):  # a reference has to read values, which these tensors lack
        CPU_ONLY[name](lambda *shape: torch.empty(shape, device="meta"))
    assert f"recengine::{name}" not in waits.called


@kernel
def test_retrieval_does_not_wait_for_the_device() -> None:
    queries, items = torch.eye(5, 8), torch.eye(30, 8)
    with Waits() as waits:
        topk(queries, items, 4, seen_indptr=torch.arange(6), seen_items=torch.arange(5))
        rank_of(queries, items, torch.arange(5))
    assert waits.seen == []


@kernel
def test_only_the_sparse_gradient_asks_how_many_rows() -> None:
    """A sparse gradient has as many rows as were seen: the host has to wait for that number."""
    table, indices, offsets = torch.randn(9, 4), torch.tensor([1, 1, 8]), torch.tensor([0, 2, 3])
    for sparse, wanted in ((False, []), (True, ["embedding_bag_sum_rows"])):
        leaf = table.clone().requires_grad_()
        with Waits() as waits:
            embedding_bag_sum(leaf, indices, offsets, sparse=sparse).sum().backward()
        assert waits.seen == wanted


@kernel
@pytest.mark.parametrize("wrong", [-1, 7, 1 << 62])
@pytest.mark.parametrize("place", [0, 57, 199])
def test_an_index_outside_the_table_is_named_wherever_it_is(wrong: int, place: int) -> None:
    indices = torch.arange(200) % 7
    indices[place] = wrong
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with pytest.raises(RuntimeError, match=rf"indices\[{place}\] is {wrong}, expected 0 to 6"):
                embedding_bag_sum(torch.ones(7, 16), indices, torch.arange(0, 201, 2))
    finally:
        torch.set_num_threads(before)


# --- the sampled losses


def sampled(
    rows: int = 12, items: int = 40, width: int = 24, entries: int = 9
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    anchors, table = (
        torch.randn(rows, width, generator=generator),
        torch.randn(items, width, generator=generator),
    )
    return anchors, table, torch.randint(0, items, (rows, entries), generator=generator)


@kernel
def test_sampled_losses_take_any_strides() -> None:
    anchors, table, negatives = sampled()
    wide = torch.zeros(12, 48), torch.zeros(24, 40)
    wide[0][:, ::2], wide[1][:] = anchors, table.t()
    results = []
    for given in ((anchors, table), (wide[0][:, ::2], wide[1].t())):
        a, t = (value.detach().requires_grad_() for value in given)
        out = sampled_logsumexp(a, t, negatives, temperature=0.3)
        loss = info_nce(a, t[:12], temperature=0.3)
        results.append((out, loss, *torch.autograd.grad(out.sum() + loss, (a, t))))
    for straight, strided in zip(*results, strict=True):
        assert torch.equal(straight, strided)


@kernel
def test_sampled_losses_of_nothing() -> None:
    anchors, table, negatives = sampled()
    a, t = anchors[:0].requires_grad_(), table.requires_grad_()
    out = sampled_logsumexp(a, t, negatives[:0])
    assert out.shape == (0,)
    gradients = torch.autograd.grad(out.sum(), (a, t))
    assert gradients[0].shape == (0, 24)
    assert not gradients[1].any()


@kernel
def test_info_nce_by_threads() -> None:
    anchors, table, _ = sampled(rows=300, items=300, width=32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            a, t = anchors.clone().requires_grad_(), table.clone().requires_grad_()
            loss = info_nce(a, t, temperature=0.2)
            results.append((loss, *torch.autograd.grad(loss, (a, t))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


# --- autocast


@kernel
def test_losses_under_autocast() -> None:
    """Operands go to autocast's dtype; losses, and the gradients of float32 leaves, stay float32."""
    anchors, table, negatives = sampled()
    a, t = anchors.requires_grad_(), table.requires_grad_()
    losses = {
        "catalogue": lambda: linear_cross_entropy(a, t, negatives[:, 0]),
        "sampled": lambda: sampled_logsumexp(a, t, negatives).sum(),
        "in-batch": lambda: info_nce(a, t[:12]),
    }
    for name, loss in losses.items():
        exact = loss()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss()
        assert value.dtype == torch.float32, name
        assert abs(value.item() - exact.item()) <= 0.02 * abs(exact.item()), name
        assert all(g.dtype == torch.float32 for g in torch.autograd.grad(value, (a, t))), name


@kernel
def test_retrieval_under_autocast() -> None:
    """Ranking keeps the precision of what it is given."""
    queries, items = torch.randn(6, 16), torch.randn(50, 16)
    wanted = topk(queries, items, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = topk(queries, items, 5)
    assert all(torch.equal(x, y) for x, y in zip(wanted, found, strict=True))


class TestOnGpu:
    pytestmark = on_gpu

    def test_topk_captured_in_a_graph(self) -> None:
        queries, items = torch.randn(40, 32).cuda(), torch.randn(2000, 32).cuda()
        wanted = topk(queries, items, 20)
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            topk(queries, items, 20)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = topk(queries, items, 20)
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(x, y) for x, y in zip(wanted, found, strict=True))


def test_values_are_not_asked_for_while_a_function_is_traced() -> None:
    """By functions, by fake tensors, and by maps over a batch."""
    anchors, table, negatives = (t.double() if t.is_floating_point() else t for t in sampled())

    def losses(anchors: Tensor, negatives: Tensor) -> Tensor:
        shared = sampled_logsumexp(anchors, table, negatives[0], positives=negatives[:, 0])
        return shared + sampled_logsumexp(anchors, table, negatives, exclude=negatives[:, 0])

    wanted = losses(anchors, negatives)
    for mode in ("real", "fake", "symbolic"):
        traced = make_fx(losses, tracing_mode=mode, _allow_non_fake_inputs=True)(anchors, negatives)
        torch.testing.assert_close(traced(anchors, negatives), wanted)
    mapped = torch.vmap(losses)(anchors[None].expand(2, -1, -1), negatives[None].expand(2, -1, -1))
    torch.testing.assert_close(mapped[1], wanted)
