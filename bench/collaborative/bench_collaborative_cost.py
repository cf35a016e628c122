"""What a training step of the collaborative backbones costs, beside plain torch; an epoch is so many of them.

    python bench/collaborative/bench_collaborative_cost.py --threads 2 --malloc tuned
    python bench/collaborative/bench_collaborative_cost.py --claim collaborative.mf-sl-gowalla --threads 2

--malloc tuned keeps freed memory: torch's gathers do not pay for page faults, which is the harder comparison.

* MF + SL: batch 1,024, 1,000 negatives a row that the user did not meet, 64 factors, dense fused Adam.
  'gather': the item table normalised once, the negatives' rows gathered, one batched product, logsumexp.
  'irbench': both tables normalised, rows gathered, torch's cosine similarity over the B x N x d tensor, as
  IR-Benchmark computes it. All draw the negatives with our sampler: only the step differs.
* Propagation: Gowalla's graph times its vectors, forward, and forward with backward, against torch's CSR
  (MKL's product; indices of 32 and of 64 bits) and COO products.
* LightGCN: 3 layers, batch 2,048, BPR with one negative. 'csr' and 'coo': the same step with torch's sparse
  products, the symmetric matrix standing for its own transpose in the backward pass.
* Sampler: 1,024 x 1,000 draws with the user's items rejected, against the numpy sampler (binary search).

The harness is that of bench/native (medians, candidates taking turns, memory in processes of their own).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "native"))

from common import Case, main

from recengine import data
from recengine.contracts.batch import PairBatch, StepContext
from recengine.contracts.model import DataFacts
from recengine.data.sampling import PopularitySampler, UniformSampler
from recengine.hooks import host
from recengine.training.negatives import Popularity, Uniform

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SETS = {"gowalla": "irbench/iid/gowalla", "amazon-book": "cf/amazon-book_kgat"}
BATCH, NEGATIVES, FACTORS, TEMPERATURE = 1024, 1000, 64, 0.1


def train_of(name: str) -> data.Interactions:
    """The training part of the set."""
    return data.split(data.read(SHARED / SETS[name])).train


def built(name: str, loss: str, train: data.Interactions, **settings: Any) -> Any:
    """A model with its loss, through the registries."""
    registry, losses = host().registries["model"], host().registries["loss"]
    facts = DataFacts(train.n_users, train.n_items)
    torch.manual_seed(0)
    made = registry.get(name).load()(registry.get(name).load_config()(**settings.pop("model", {})), facts)
    made.attach_loss(losses.get(loss).load()(losses.get(loss).load_config()(**settings)))
    if hasattr(made, "attach_data"):
        made.attach_data(train)
    return made.train()


def batches(train: data.Interactions, size: int, count: int) -> Callable[[], PairBatch]:
    """The next batch of pairs, negatives drawn by our sampler."""
    generator, sampler = np.random.default_rng(0), Uniform(train)

    def draw() -> PairBatch:
        rows = generator.integers(0, len(train), size)
        users = train.user[rows].astype(np.int64)
        negatives, _ = sampler.sample(users, count, generator)
        items = train.item[rows].astype(np.int64)
        return PairBatch(torch.from_numpy(users), torch.from_numpy(items), torch.from_numpy(negatives))

    return draw


def stepper(
    parameters: Sequence[torch.nn.Parameter], draw: Callable[[], PairBatch], loss: Callable[[PairBatch], Any]
) -> Callable[[], None]:
    """One optimiser step."""
    optimizer = torch.optim.Adam(parameters, lr=1e-2, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(draw()).backward()
        optimizer.step()

    return step


def _loss_of(model: Any) -> Callable[[PairBatch], Any]:
    return lambda batch: model.training_loss(batch, StepContext())


def factorisation(name: str) -> dict[str, Callable[[], None]]:
    """MF + SL in three ways."""
    train = train_of(name)
    draw = batches(train, BATCH, NEGATIVES)

    def ours() -> Callable[[], None]:
        model = built("mf", "sl", train, temperature=TEMPERATURE, negatives=NEGATIVES)
        return stepper(list(model.parameters()), draw, _loss_of(model))

    def tables() -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(0.1 * torch.randn(n, FACTORS)) for n in (train.n_users, train.n_items)]

    def gather() -> Callable[[], None]:
        users, items = tables()

        def loss(batch: PairBatch) -> torch.Tensor:
            anchors, unit = (
                functional.normalize(users[batch.users], dim=1),
                functional.normalize(items, dim=1),
            )
            positive = (anchors * unit[batch.items]).sum(1)
            scores = torch.einsum("bd,bnd->bn", anchors, unit[batch.negatives])
            return torch.logsumexp((scores - positive[:, None]) / TEMPERATURE, 1).mean()

        return stepper([users, items], draw, loss)

    def irbench() -> Callable[[], None]:
        users, items = tables()

        def loss(batch: PairBatch) -> torch.Tensor:
            all_users, all_items = functional.normalize(users, dim=1), functional.normalize(items, dim=1)
            anchors = all_users[batch.users]
            positive = functional.cosine_similarity(anchors, all_items[batch.items])
            scores = functional.cosine_similarity(anchors[:, None], all_items[batch.negatives], dim=2)
            return torch.logsumexp((scores - positive[:, None]) / TEMPERATURE, 1).mean()

        return stepper([users, items], draw, loss)

    return {"recengine": _lazy(ours), "gather": _lazy(gather), "irbench": _lazy(irbench)}


class _Symmetric(torch.autograd.Function):
    """A symmetric sparse matrix times vectors, by torch."""

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, nodes: torch.Tensor) -> torch.Tensor:
        ctx.matrix = matrix
        return torch.sparse.mm(matrix, nodes)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, torch.sparse.mm(ctx.matrix, grad)


def torch_matrix(graph: Any, layout: str) -> torch.Tensor:
    """The same sparse matrix as torch's: "csr64", "csr32" (bits of its indices) or "coo"."""
    row = torch.arange(graph.shape[0]).repeat_interleave(graph.indptr.diff())
    values = graph.row_scale[row] * graph.column_scale[graph.columns.long()]
    if layout == "coo":
        places = torch.stack([row, graph.columns.long()])
        return torch.sparse_coo_tensor(places, values, graph.shape).coalesce()
    kind = torch.int64 if layout == "csr64" else torch.int32
    return torch.sparse_csr_tensor(graph.indptr.to(kind), graph.columns.to(kind), values, graph.shape)


def propagation(name: str, backward: bool) -> dict[str, Callable[[], None]]:
    """The product with the normalised graph alone."""
    from recengine.ops.graph import propagate

    graph = built("lightgcn", "bpr", train_of(name)).graph()
    generator = torch.Generator().manual_seed(0)
    nodes = torch.randn(graph.shape[0], FACTORS, generator=generator, requires_grad=backward)

    def timed(product: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], None]:
        def call() -> None:
            made = product(nodes)
            if backward:
                torch.autograd.grad(made, nodes, made.detach())

        return call

    matrices = {layout: torch_matrix(graph, layout) for layout in ("csr64", "csr32", "coo")}
    rivals = {
        layout: timed(lambda given, matrix=matrix: _Symmetric.apply(matrix, given))
        for layout, matrix in matrices.items()
    }
    return {"recengine": timed(lambda given: propagate(graph, given)), **rivals}


def light(name: str) -> dict[str, Callable[[], None]]:
    """A step of LightGCN with our product and with torch's."""
    train = train_of(name)
    draw = batches(train, 2048, 1)

    def ours() -> Callable[[], None]:
        model = built("lightgcn", "bpr", train, model={"layers": 3})
        return stepper(list(model.parameters()), draw, _loss_of(model))

    def torchs(layout: str) -> Callable[[], None]:
        matrix = torch_matrix(built("lightgcn", "bpr", train).graph(), layout)
        sizes = (train.n_users, train.n_items)
        users, items = (torch.nn.Parameter(0.1 * torch.randn(n, FACTORS)) for n in sizes)

        def loss(batch: PairBatch) -> torch.Tensor:
            nodes = total = torch.cat([users, items])
            for _ in range(3):
                nodes = _Symmetric.apply(matrix, nodes)
                total = total + nodes
            x, y = (total / 4).split(sizes)
            u, i, j = x[batch.users], y[batch.items], y[batch.negatives[:, 0]]
            ranking = functional.softplus((u * (j - i)).sum(1)).mean()
            rows = users[batch.users].square().sum() + items[batch.items].square().sum()
            return ranking + 0.5e-4 * rows / len(u)

        return stepper([users, items], draw, loss)

    return {
        "recengine": _lazy(ours),
        "csr": _lazy(lambda: torchs("csr64")),
        "csr32": _lazy(lambda: torchs("csr32")),
        "coo": _lazy(lambda: torchs("coo")),
    }


def sampler(popular: bool) -> dict[str, Callable[[], None]]:
    """1,024 x 1,000 draws of Gowalla's users."""
    train = train_of("gowalla")
    kinds = (Popularity, PopularitySampler) if popular else (Uniform, UniformSampler)
    users = train.user[np.random.default_rng(1).integers(0, len(train), BATCH)].astype(np.int64)
    made = {name: kind(train) for name, kind in zip(("recengine", "numpy"), kinds, strict=True)}
    generator = np.random.default_rng(0)
    return {
        name: lambda one=one: one.sample(users, NEGATIVES, generator) and None for name, one in made.items()
    }


def _lazy(make: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    """Made at the first call, so that a process that measures one candidate's memory holds no other."""
    held: list[Callable[[], None]] = []

    def call() -> None:
        if not held:
            held.append(make())
        held[0]()

    return call


def cases(quick: bool) -> Sequence[Case]:
    found = []
    for name in ["gowalla"] if quick else SETS:
        claim = f"collaborative.mf-sl-{name}"
        found.append(
            Case(
                f"MF + SL step, N = 1,000, {name}",
                lambda name=name: factorisation(name),
                claim=claim,
                memory_claim=f"{claim}-memory",
                memory_ratio=True,
            )
        )
    for backward in (False, True):
        kind, short = ("forward with backward", "-backward") if backward else ("forward", "")
        found.append(
            Case(
                f"propagation {kind}, gowalla",
                lambda backward=backward: propagation("gowalla", backward),
                claim=f"collaborative.propagation{short}",
            )
        )
    found += [
        Case("LightGCN step, gowalla", lambda: light("gowalla"), claim="collaborative.lightgcn-step"),
        Case("sampler uniform", lambda: sampler(False), claim="collaborative.sampler-uniform"),
        Case("sampler popularity", lambda: sampler(True), claim="collaborative.sampler-popularity"),
    ]
    return found


if __name__ == "__main__":
    main("Training steps of the collaborative backbones", cases)
