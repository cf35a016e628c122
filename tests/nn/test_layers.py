"""Packed layers against the padded computation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recengine.errors import UsageError
from recengine.nn.attention import BidirectionalSelfAttention, CausalSelfAttention
from recengine.nn.cosine_attention import CosineAttention
from recengine.nn.dropout import Dropout, keep_mask
from recengine.nn.norm import StdNorm
from recengine.nn.ragged import append_one, gather, keep_recent, keep_window, layout, spread, window_of
from recengine.nn.threads import all_threads, one_thread
from recengine.nn.transformer import BidirectionalBlock, Block, CausalBlock, Gelu


def offsets_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])


@pytest.mark.parametrize("lengths", [[3, 1, 5], [1], [4, 4], [2, 0, 3], [0, 0, 1]])
def test_spread_and_gather_are_inverse_with_gradients(lengths: list[int]) -> None:
    place = layout(offsets_of(lengths))
    rows = torch.randn(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
    grid = spread(rows, place)
    assert grid.shape == (len(lengths), max(lengths), 2)
    assert torch.equal(gather(grid, place), rows)
    assert torch.autograd.gradcheck(lambda r: gather(spread(r, place) * 2, place), rows)
    weights = torch.randn_like(gather(grid, place))
    (gradient,) = torch.autograd.grad((gather(grid, place) * weights).sum(), rows)
    torch.testing.assert_close(gradient, weights)


def test_positions() -> None:
    place = layout(offsets_of([3, 1, 2]))
    assert place.position.tolist() == [0, 1, 2, 0, 0, 1]
    assert place.from_end.tolist() == [2, 1, 0, 0, 1, 0]


def test_keep_recent() -> None:
    items, offsets = keep_recent(torch.arange(8), offsets_of([5, 0, 1, 2]), 2)
    assert items.tolist() == [3, 4, 5, 6, 7]
    assert offsets.tolist() == [0, 2, 2, 3, 5]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # the grid, and the operator
@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("lengths", [[4, 1, 7], [3], [2, 0, 5], [130, 2]])
@pytest.mark.parametrize("kind", [CausalSelfAttention, BidirectionalSelfAttention])
def test_attention_is_torchs_on_each_sequence_alone(
    kind: type[CausalSelfAttention] | type[BidirectionalSelfAttention],
    lengths: list[int],
    heads: int,
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    layer = kind(6, heads).to(dtype)
    reference = torch.nn.MultiheadAttention(6, heads, batch_first=True, dtype=dtype)
    reference.in_proj_weight.data.copy_(layer.project_in.weight)
    reference.in_proj_bias.data.copy_(layer.project_in.bias)
    reference.out_proj.load_state_dict(layer.project_out.state_dict())
    rows = torch.randn(sum(lengths), 6, dtype=dtype, requires_grad=True)
    place = layout(offsets_of(lengths))
    found = layer(rows, place)
    parts = []
    for part in rows.split([length for length in lengths if length]):
        hidden = torch.ones(len(part), len(part), dtype=torch.bool).triu(1) if layer.causal else None
        parts.append(reference(part[None], part[None], part[None], attn_mask=hidden)[0][0])
    wanted = torch.cat(parts)
    torch.testing.assert_close(found, wanted)
    weights = torch.randn_like(wanted)
    torch.testing.assert_close(
        torch.autograd.grad((found * weights).sum(), rows)[0],
        torch.autograd.grad((wanted * weights).sum(), rows)[0],
    )


def blocks() -> dict[str, Block]:
    cosine = {
        "cosine": CosineAttention(8, 2),
        "causal cosine": CosineAttention(8, 2, causal=True),
        "key prefix": CosineAttention(8, 2, causal=True, scale="key_prefix"),
        "elu": CosineAttention(8, 2, activation="elu", scale="sqrt_d", project_out=False),
    }
    made = {name: Block(attention, 8, 16, 0.3, "gelu") for name, attention in cosine.items()}
    made["causal"] = CausalBlock(8, 2, 16, 0.3, "gelu")
    made["bidirectional"] = BidirectionalBlock(8, 2, 16, 0.3, "gelu")
    return made


@pytest.mark.parametrize("wanted", [[3, 4, 11], [0, 2, 3, 5, 6, 10], [4], list(range(12))])
@pytest.mark.parametrize("kind", list(blocks()))
def test_some_rows_are_those_of_all_rows(kind: str, wanted: list[int]) -> None:
    torch.manual_seed(0)
    place, at = layout(offsets_of([4, 1, 7])), torch.tensor(wanted)
    block = blocks()[kind].double().eval()
    rows = torch.randn(12, 8, dtype=torch.float64, requires_grad=True)
    some, every = block.at(rows, place, at), block(rows, place)[at]
    torch.testing.assert_close(some, every)
    weights = torch.randn_like(every)
    torch.testing.assert_close(
        torch.autograd.grad((some * weights).sum(), rows)[0],
        torch.autograd.grad((every * weights).sum(), rows)[0],
    )


@pytest.mark.parametrize("kind", ["cosine", "elu", "bidirectional"])
def test_a_sequence_is_mixed_with_itself_alone(kind: str) -> None:
    torch.manual_seed(0)
    block = blocks()[kind].double().eval()
    rows = torch.randn(12, 8, dtype=torch.float64)
    together = block(rows, layout(offsets_of([4, 1, 7])))
    alone = torch.cat([block(part, layout(offsets_of([len(part)]))) for part in rows.split([4, 1, 7])])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("kind", ["causal cosine", "key prefix"])
def test_one_event_at_a_time_is_the_whole_sequence(kind: str) -> None:
    torch.manual_seed(0)
    block = blocks()[kind].double().eval()
    rows = torch.randn(10, 8, dtype=torch.float64)
    whole = block(rows, layout(offsets_of([5, 5])))
    state, count = block.attention.empty_state(2), torch.zeros(2, dtype=torch.int64)
    for step in range(5):
        count += 1
        taken = block.step(rows.view(2, 5, 8)[:, step], state, count)
        torch.testing.assert_close(taken, whole.view(2, 5, 8)[:, step], rtol=1e-12, atol=1e-12)
    read, behind = block.read(rows, layout(offsets_of([5, 5])))
    torch.testing.assert_close(read, whole)
    torch.testing.assert_close(behind, state, rtol=1e-12, atol=1e-12)


def test_later_events_change_what_cannot_be_carried_along() -> None:
    for attention in (CosineAttention(8, 2), CosineAttention(8, 2, causal=True, scale="sequence")):
        with pytest.raises(UsageError, match="one event at a time"):
            attention.empty_state(1)


def test_cosine_attention_is_its_formula() -> None:
    torch.manual_seed(0)
    layer = CosineAttention(6, 2).double()
    rows, place = torch.randn(7, 6, dtype=torch.float64), layout(offsets_of([5, 2]))
    found = layer(rows, place)
    assert layer.m is not None
    power = torch.sigmoid(layer.m)
    for low, high in ((0, 5), (5, 7)):
        query, key, value = layer.project_in(rows[low:high]).view(-1, 3, 2, 3).unbind(1)
        heads = []
        for head in range(2):
            q = query[:, head] / query[:, head].norm(dim=1, keepdim=True)
            k = key[:, head] / key[:, head].norm(dim=1, keepdim=True)
            heads.append((high - low) ** -power[head] * q @ (k.T @ value[:, head]))
        torch.testing.assert_close(found[low:high], layer.project_out(torch.cat(heads, 1)))


def test_std_norm_adds_eps_to_the_unbiased_deviation() -> None:
    norm = StdNorm(4, eps=0.5)
    rows = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    torch.testing.assert_close(norm(rows), (rows - 3) / ((14 / 3) ** 0.5 + 0.5))


def test_what_is_seen_is_a_function_of_the_number_of_events() -> None:
    counts = torch.arange(0, 14)
    assert window_of(counts, 5).tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 3, 4]
    assert window_of(counts[:5], 1).tolist() == [0, 1, 1, 1, 1]
    items, offsets = keep_window(torch.arange(9), offsets_of([6, 3]), 5)
    assert items.tolist() == [3, 4, 5, 6, 7, 8]
    assert offsets.tolist() == [0, 3, 6]


def test_one_more_item_behind_every_sequence() -> None:
    items, offsets = append_one(torch.arange(5), offsets_of([2, 0, 3]), 9)
    assert items.tolist() == [0, 1, 9, 9, 2, 3, 4, 9]
    assert offsets.tolist() == [0, 3, 4, 8]


def test_heads_must_divide() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        CausalSelfAttention(6, 4)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_dropout_drops_the_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(999, 1001), p)
    n = mask.numel()
    assert abs(float((mask == 0).float().mean()) - p) < 5 * (p * (1 - p) / n) ** 0.5 + 1 / 65536
    assert abs(float(mask.double().mean()) - 1) < 0.01
    assert len(mask.unique()) == 2


def test_dropout_is_one_mask_forward_and_backward() -> None:
    torch.manual_seed(0)
    layer = Dropout(0.3)
    base = torch.randn(50, 4, requires_grad=True)
    values = torch.randn(50, 4, requires_grad=True)
    out = layer.add(base, values)
    to_base, to_values = torch.autograd.grad(out.sum(), [base, values])
    assert torch.equal(to_base, torch.ones_like(base))
    torch.testing.assert_close(out - base, values * to_values)
    assert torch.equal(layer.eval()(values), values)
    torch.manual_seed(5)
    first = layer.train()(values)
    torch.manual_seed(5)
    assert torch.equal(first, layer(values))
    with pytest.raises(ValueError, match="share"):
        Dropout(1.0)


def test_dropout_neighbours_are_independent() -> None:
    torch.manual_seed(1)
    kept = (keep_mask(torch.empty(1_000_000), 0.5) > 0).double()
    for lag in (1, 2, 4, 64):
        assert abs(float(functional.cosine_similarity(kept[lag:] - 0.5, kept[:-lag] - 0.5, 0))) < 0.005


def test_threads_come_back_forward_and_backward() -> None:
    seen: list[tuple[str, int]] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            seen.append(("forward", torch.get_num_threads()))
            return (a * b).sum()

        @staticmethod
        def backward(ctx: object, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            seen.append(("backward", torch.get_num_threads()))
            return grad.expand(3), grad.expand(3)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        a, b = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
        with one_thread():
            inner = a * 2
            inner.register_hook(lambda _: seen.append(("behind", torch.get_num_threads())))
            loss = all_threads(Watched.apply, inner, b) * 2
            seen.append(("between", torch.get_num_threads()))
            loss.backward()
            seen.append(("after", torch.get_num_threads()))
        assert torch.get_num_threads() == 3
        assert all_threads(torch.add, a, b).tolist() == [2.0] * 3
    finally:
        torch.set_num_threads(before)
    assert seen == [("forward", 3), ("between", 1), ("backward", 3), ("behind", 1), ("after", 1)]
    assert a.grad.tolist() == [4.0] * 3


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_torchs_and_leaves_rows_contiguous(approximate: str) -> None:
    rows = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    out = Gelu(approximate)(rows)
    torch.testing.assert_close(out, torch.nn.functional.gelu(rows, approximate=approximate))
    assert out.is_contiguous()
    assert torch.autograd.gradcheck(Gelu(approximate), (rows,))
