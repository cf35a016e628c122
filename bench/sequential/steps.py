"""Training steps of sequence models on generated sequences: their time and what they allocate at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from torch.profiler import ProfilerActivity, profile

from recengine.contracts.batch import SequenceBatch, StepContext
from recengine.contracts.model import DataFacts
from recengine.data import Interactions, Vocabulary
from recengine.hooks import host
from recengine.ops import keep_memory
from recengine.training import resolve
from recengine.training.build import build_model
from recengine.training.feeding import make_feeder
from recengine.training.optimisation import make_optimizer


def generated(sequences: int, length: int, n_items: int, seed: int = 0) -> Interactions:
    """Sequences of ``length`` events each, items uniform."""
    rng = np.random.default_rng(seed)
    return Interactions.from_arrays(
        np.repeat(np.arange(sequences), length),
        rng.integers(0, n_items, sequences * length),
        ties="rows",
        item_vocabulary=Vocabulary(np.arange(n_items)),
    )


class Step:
    """One training step of a registered model on one generated batch."""

    def __init__(
        self,
        model: str,
        sequences: int,
        length: int,
        n_items: int,
        settings: dict[str, Any],
        loss: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
    ) -> None:
        given = {
            "model": {"max_length": length, **settings},
            "loss": loss or {"name": "softmax"},
            "training": training or {},
        }
        config = resolve(model, given, host())
        self.network: Any = build_model(model, config, DataFacts(sequences, n_items), 0, host()).train()
        feeder = make_feeder(generated(sequences, length, n_items), self.network.feed(), sequences, 0, host())
        self.batch: SequenceBatch = next(feeder.epoch(0))
        self.optimizer = make_optimizer(self.network.parameters(), config.training)

    def clear(self) -> None:
        """Free the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def __call__(self) -> None:
        """Forward, backward, optimiser."""
        self.clear()
        self.network.training_loss(self.batch, StepContext()).backward()
        self.optimizer.step()


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall seconds of a call, after one that is not counted."""
    work()
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return median(taken)


def peak_bytes(work: Callable[[], object], clear: Callable[[], object] | None = None) -> int:
    """Most bytes of tensors that a call holds at a time, beyond those it found: torch's own allocations, as
    ``torch.cuda.max_memory_allocated`` counts them; scratch of native kernels is not in it. The second of two
    calls. clear: frees what the call would free of its last time (a step: the gradients), because the
    profiler sees that in one call and not in the next. Nor does it see memory that our operators keep: they
    keep none meanwhile."""
    kept = keep_memory(False)
    for _ in range(2):
        if clear is not None:
            clear()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            work()
    keep_memory(kept)
    kineto: Any = watched.profiler
    held = highest = 0
    records = [event for event in kineto.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(records, key=lambda one: one.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest
