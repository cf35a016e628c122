"""MultVAE: variational autoencoder with a multinomial likelihood."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recengine.contracts.batch import HistoryBatch, SequenceBatch, StepContext
from recengine.contracts.model import DataFacts, Feed
from recengine.nn.threads import all_threads
from recengine.ops import linear_cross_entropy
from recengine_plugins.multvae.config import MultVAEConfig


class MultVAE(nn.Module):
    """z ~ N(mu(x), sigma(x)), loss = -sum_i x_i log softmax(f(z))_i / |x| + beta KL(q(z|x) | N(0, I)) / |x|.

    x is the set of a user's items, scaled to length one and dropped out; encoder and decoder have one hidden
    layer of tanh. Answers decode mu. A user is nothing but the history. The division by the number of items
    is ours: it makes a user's loss comparable and the step size independent of the histories' length.
    Source: Liang et al., "Variational autoencoders for collaborative filtering", WWW 2018.
    """

    def __init__(self, config: MultVAEConfig, facts: DataFacts) -> None:
        super().__init__()
        self.config, self.n_items = config, facts.n_items
        self.table = nn.Embedding(facts.n_items, config.hidden)  # the encoder's first layer, by item
        self.start = nn.Parameter(torch.zeros(config.hidden))
        self.encode = nn.Linear(config.hidden, 2 * config.latent)
        self.decode = nn.Linear(config.latent, config.hidden)
        self.out = nn.Linear(config.hidden, facts.n_items)
        for layer in (self.encode, self.decode, self.out):
            nn.init.xavier_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.001)
        nn.init.xavier_normal_(self.table.weight)

    def feed(self) -> Feed:
        return Feed("sequences")

    def training_loss(self, batch: SequenceBatch, context: StepContext) -> Tensor:
        """Every sequence is one history: its inputs and its last target."""
        items, row = _whole(batch)
        rows = int(batch.offsets.numel()) - 1
        mean, log_variance = self._encoded(items, row, rows)
        noise = torch.randn_like(mean)
        hidden = torch.tanh(self.decode(mean + noise * torch.exp(0.5 * log_variance)))
        sizes = torch.bincount(row, minlength=rows)
        spread = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(1)
        spread = spread / sizes.clamp(min=1).to(spread.dtype)
        rise = min(1.0, context.progress / self.config.anneal) if self.config.anneal else 1.0
        return (self.config.beta * rise * spread - self._fit(hidden, items, sizes)).mean()

    def _fit(self, hidden: Tensor, items: Tensor, sizes: Tensor) -> Tensor:
        """Mean of log softmax over each row's items, [rows]: the mean of their logits less the catalogue's
        log-sum-exp, so that few logits are kept. items: packed by row, ``sizes`` int64 [rows] of each."""
        weight, bias = self.out.weight, self.out.bias
        begin = torch.cumsum(sizes, 0) - sizes
        some = sizes > 0
        first = torch.where(some, items[begin.clamp(max=max(0, len(items) - 1))], -1)

        def reduce(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return linear_cross_entropy(hidden, weight, first, bias=bias, reduction="none")

        # The cross-entropy of one of the row's items, and how far the mean logit lies above that one's.
        share = sizes.clamp(min=1).to(weight.dtype).reciprocal().repeat_interleave(sizes)
        share[begin[some]] -= 1.0
        above = functional.embedding_bag(items, weight, begin, mode="sum", per_sample_weights=share)
        offset = functional.embedding_bag(items, bias[:, None], begin, mode="sum", per_sample_weights=share)
        mean = (hidden.to(weight.dtype) * above).sum(1) + offset[:, 0]
        return mean - all_threads(reduce, hidden, weight, bias)

    def score_items(self, histories: HistoryBatch) -> Tensor:
        """float [B, n_items], the decoder's logits."""
        device = self.start.device
        row = torch.arange(len(histories)).repeat_interleave(histories.offsets.diff()).to(device)
        mean, _ = self._encoded(histories.items.to(device), row, len(histories))
        return self._decoded(mean)

    def _encoded(self, items: Tensor, row: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Mean and log variance, [rows, latent]; a repeated item counts once."""
        key = torch.unique(row * self.n_items + items)
        row, items = key // self.n_items, key % self.n_items
        sizes = torch.bincount(row, minlength=rows).clamp(min=1)
        weight = sizes.to(self.start.dtype).rsqrt()[row]
        if self.training:
            weight = functional.dropout(weight, self.config.dropout)
        gathered = self.table(items) * weight[:, None]
        total = torch.zeros(rows, gathered.shape[1], dtype=gathered.dtype, device=gathered.device)
        hidden = torch.tanh(total.index_add(0, row, gathered) + self.start)
        mean, log_variance = self.encode(hidden).to(self.start.dtype).chunk(2, dim=1)
        return mean, log_variance

    def _decoded(self, latent: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.tanh(self.decode(latent)))
        return logits.to(self.start.dtype)  # autocast leaves bfloat16, too coarse for a likelihood


def _whole(batch: SequenceBatch) -> tuple[Tensor, Tensor]:
    """All items of the sequences, inputs and last targets, and the row of each."""
    lengths = batch.offsets.diff()
    row = torch.arange(len(lengths), device=batch.items.device).repeat_interleave(lengths)
    last = batch.offsets[1:] - 1
    held = lengths > 0
    ends = batch.targets[last[held]]
    own = torch.arange(len(lengths), device=batch.items.device)[held]
    known = ends >= 0
    key = torch.unique(torch.cat([row, own[known]]) * (2**31) + torch.cat([batch.items, ends[known]]))
    return key % (2**31), key // (2**31)
