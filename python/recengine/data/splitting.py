"""How interactions are divided: one pass decides the part of every event, everything else follows.

Validation is answered from the training events, test from training and validation events (strict
leave-two-out and given_validated: both from the training events). Every part keeps the vocabularies, so rows
mean the same everywhere; the order is the one of the store and is never decided again.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recengine.config import Config, knob
from recengine.data.filtering import first_meetings, is_first, k_core
from recengine.data.interactions import Interactions
from recengine.data.ordering import tie_hash
from recengine.data.split import EvalTask, Split
from recengine.errors import DataError, UsageError

Strategy = Literal[
    "auto",
    "given",
    "given_validated",
    "leave_one_out",
    "leave_two_out",
    "strict_leave_two_out",
    "ratio_random",
    "ratio_time",
    "time_point",
]
TRAIN, VALIDATION, TEST = 0, 1, 2
Parts = NDArray[np.int8]


class SplitConfig(Config):
    """How to divide interactions into training, validation and test."""

    strategy: Strategy = knob(
        "auto",
        "how to divide; auto: the parts the data came in, else leave_two_out where there is an order, "
        "else ratio_random; given_validated: validation is drawn from the training part that came, and the "
        "test is answered from what is left of it (IR-Benchmark's protocol)",
    )
    repeats: Literal["first", "keep"] = knob(
        "first", "events that repeat a user-item pair: keep only the first of them, or all"
    )
    targets: Literal["all", "first"] = knob(
        "all", "held-out events that are asked for: all, or only items the user had not met before"
    )
    k_core: int = knob(0, "drop users and items with fewer events, until none is left (0: off)", ge=0)
    validation_share: float = knob(
        0.1, "share of a user's events (ratio strategies; given_validated: at least one)", ge=0, lt=1
    )
    test_share: float = knob(0.1, "share of a user's events (ratio strategies)", gt=0, lt=1)
    test_from: int | None = knob(None, "time_point: test is what happens at this time or later")
    validation_from: int | None = knob(None, "time_point: validation begins at this time")
    test_span: int | None = knob(
        None,
        "time_point: test is the last so much time, in the data's unit (604800: a week of seconds)",
        gt=0,
    )
    validation_span: int | None = knob(None, "time_point: so much time before the test", gt=0)
    min_history: int = knob(1, "users with fewer events to answer from are not asked (0: ask them too)", ge=0)
    seed: int = knob(0, "of the random ratio", ge=0)


def split(interactions: Interactions, config: SplitConfig | None = None) -> Split:
    """Divide ``interactions``.

    Raises DataError when the data lacks what the strategy needs (an order, times, parts) or when nothing
    is left for training or test, and UsageError for settings that do not fit together.
    """
    config = config or SplitConfig()
    kept = k_core(interactions, config.k_core) if config.k_core else interactions
    before = len(kept)
    kept = first_meetings(kept) if config.repeats == "first" else kept
    strategy = _resolve(kept, config.strategy)
    parts, facts = _parts(kept, strategy, config)
    facts["repeats_dropped"] = before - len(kept)
    return _assemble(kept, parts, strategy, config, facts)


def split_parts(
    train: Interactions,
    test: Interactions,
    validation: Interactions | None = None,
) -> Interactions:
    """One store out of parts that were read from files of their own, marked for ``strategy='given'``.

    Vocabularies are joined by original id. Times are kept where every part has them.
    """
    given = [train, *([validation] if validation is not None else []), test]
    marks = [TRAIN, *([VALIDATION] if validation is not None else []), TEST]
    timed = all(part.time is not None for part in given)
    weighed = all(part.weight is not None for part in given)
    return Interactions.from_arrays(
        np.concatenate([part.users.tokens[part.user] for part in given]),
        np.concatenate([part.items.tokens[part.item] for part in given]),
        np.concatenate([part.time for part in given if part.time is not None]) if timed else None,
        np.concatenate([part.weight for part in given if part.weight is not None]) if weighed else None,
        ties=train.ties,
        seed=train.seed,
        part=np.repeat(np.array(marks, np.int8), [len(part) for part in given]),
    )


def _resolve(interactions: Interactions, strategy: Strategy) -> Strategy:
    if strategy != "auto":
        return strategy
    if interactions.part is not None:
        return "given"
    return "leave_two_out" if interactions.is_ordered else "ratio_random"


def _parts(
    interactions: Interactions, strategy: Strategy, config: SplitConfig
) -> tuple[Parts, dict[str, object]]:
    if strategy == "given":
        return _given(interactions), {}
    if strategy == "given_validated":
        return _given_validated(interactions, config), {"seed": config.seed}
    if strategy == "ratio_random":
        return _ratio(interactions, config, _random_ranks(interactions, config.seed)), {"seed": config.seed}
    _need_order(interactions, strategy)
    if strategy == "ratio_time":
        return _ratio(interactions, config, _ranks(interactions)), {}
    if strategy == "time_point":
        return _time_point(interactions, config)
    return _leave_out(interactions, 1 if strategy == "leave_one_out" else 2, config.min_history), {}


def _given(interactions: Interactions) -> Parts:
    if interactions.part is None:
        raise DataError(
            "the data did not come in parts",
            expected="a source with training and test parts",
            fix="choose another split strategy",
        )
    return interactions.part


def _given_validated(interactions: Interactions, config: SplitConfig) -> Parts:
    """The test part as it came; of each user's other events a random share, rounded down, at least one and
    never all (as IR-Benchmark divides)."""
    parts = np.where(_given(interactions) == TEST, TEST, TRAIN).astype(np.int8)
    training = parts == TRAIN
    lengths = np.bincount(interactions.user[training], minlength=interactions.n_users)
    held = np.maximum(1, np.floor(lengths * config.validation_share + 1e-9).astype(np.int64))
    held = np.minimum(held, np.maximum(lengths - 1, 0))
    by_hash = np.lexsort((tie_hash(interactions.source, config.seed ^ 0x5EED), ~training, interactions.user))
    ranks = np.empty(len(interactions), np.int64)
    ranks[by_hash] = _ranks(interactions)
    parts[training & (ranks < held[interactions.user])] = VALIDATION
    return parts


def _leave_out(interactions: Interactions, held_out: int, min_history: int) -> Parts:
    lengths = interactions.lengths()
    parts = np.zeros(len(interactions), np.int8)
    asked = lengths >= held_out + max(min_history, 1)
    last = interactions.indptr[1:][asked] - 1
    parts[last] = TEST
    if held_out == 2:
        parts[last - 1] = VALIDATION
    return parts


def _ranks(interactions: Interactions) -> NDArray[np.int64]:
    """Place of each event in its user's order, from 0."""
    begin = np.repeat(interactions.indptr[:-1], interactions.lengths())
    return np.arange(len(interactions), dtype=np.int64) - begin


def _random_ranks(interactions: Interactions, seed: int) -> NDArray[np.int64]:
    """Place of each event in a seeded random order of its user's events."""
    by_hash = np.lexsort((tie_hash(interactions.source, seed ^ 0x5EED), interactions.user))
    ranks = np.empty(len(interactions), np.int64)
    ranks[by_hash] = _ranks(interactions)
    return ranks


def _ratio(interactions: Interactions, config: SplitConfig, ranks: NDArray[np.int64]) -> Parts:
    if config.validation_share + config.test_share >= 1:
        raise UsageError(
            "validation_share and test_share leave nothing to train on",
            found=config.validation_share + config.test_share,
            expected="less than 1 together",
        )
    lengths = interactions.lengths()
    n_test = np.floor(lengths * config.test_share + 0.5).astype(np.int64)
    n_validation = np.floor(lengths * config.validation_share + 0.5).astype(np.int64)
    too_short = lengths - n_test - n_validation < max(config.min_history, 1)
    n_test[too_short] = n_validation[too_short] = 0
    first_test = (lengths - n_test)[interactions.user]
    first_validation = (lengths - n_test - n_validation)[interactions.user]
    parts = np.zeros(len(interactions), np.int8)
    parts[ranks >= first_validation] = VALIDATION
    parts[ranks >= first_test] = TEST
    return parts


def _time_point(interactions: Interactions, config: SplitConfig) -> tuple[Parts, dict[str, object]]:
    time = interactions.time
    if time is None:
        raise DataError("a split at a time point needs times", fix="name the time column")
    test_from, validation_from = _time_points(int(time.max(initial=0)), config)
    parts = np.zeros(len(interactions), np.int8)
    if validation_from is not None:
        parts[time >= validation_from] = VALIDATION
    parts[time >= test_from] = TEST
    return parts, {"test_from": test_from, "validation_from": validation_from}


def _time_points(last: int, config: SplitConfig) -> tuple[int, int | None]:
    if (config.test_from is None) == (config.test_span is None):
        raise UsageError(
            "a split at a time point needs either test_from or test_span",
            found=f"test_from={config.test_from}, test_span={config.test_span}",
        )
    if config.validation_from is not None and config.validation_span is not None:
        raise UsageError("give validation_from or validation_span, not both")
    test_from = config.test_from if config.test_from is not None else last - (config.test_span or 0) + 1
    validation_from = config.validation_from
    if config.validation_span is not None:
        validation_from = test_from - config.validation_span
    if validation_from is not None and validation_from >= test_from:
        raise UsageError(
            "validation must begin before the test", found=validation_from, expected=f"below {test_from}"
        )
    return test_from, validation_from


def _need_order(interactions: Interactions, strategy: str) -> None:
    if not interactions.is_ordered:
        raise DataError(
            f"the split '{strategy}' needs an order in time, and the data has none",
            expected="a time column, or rows that are in time order",
            fix="name the time column; or say that rows are in time order (ties='rows'); "
            "or split with strategy='ratio_random'",
        )


def _assemble(
    interactions: Interactions,
    parts: Parts,
    strategy: Strategy,
    config: SplitConfig,
    facts: dict[str, object],
) -> Split:
    train = interactions.select(parts == TRAIN)
    from_train = strategy in ("strict_leave_two_out", "given_validated")
    seen_by_test = train if from_train else interactions.select(parts != TEST)
    validation = None
    if bool((parts == VALIDATION).any()):
        validation = _task("validation", interactions, parts == VALIDATION, train, config)
    test = _task("test", interactions, parts == TEST, seen_by_test, config)
    _need_rows(train, test, strategy)
    description: dict[str, object] = {
        "strategy": strategy,
        "settings": config.model_dump(mode="json"),
        **facts,
        "ties": interactions.ties,
        "tie_seed": interactions.seed,
        "data": interactions.fingerprint(),
        "train_events": len(train),
        "validation_users": 0 if validation is None else len(validation),
        "validation_targets": 0 if validation is None else int(validation.targets.shape[0]),
        "test_users": len(test),
        "test_targets": int(test.targets.shape[0]),
        "n_users": interactions.n_users,
        "n_items": interactions.n_items,
    }
    return Split(train, validation, test, description)


def _task(
    name: str,
    interactions: Interactions,
    held_out: NDArray[np.bool_],
    history: Interactions,
    config: SplitConfig,
) -> EvalTask:
    asked = held_out & (history.lengths()[interactions.user] >= config.min_history)
    if config.targets == "first":
        asked = asked & is_first(interactions)
    user = interactions.user[asked]
    users, counts = np.unique(user, return_counts=True)
    return EvalTask(
        name,
        users.astype(np.int64),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)]),
        interactions.item[asked].astype(np.int64),
        history,
        None if interactions.time is None else interactions.time[asked],
        interactions.source[asked],
    )


def _need_rows(train: Interactions, test: EvalTask, strategy: Strategy) -> None:
    if len(train) == 0 or len(test) == 0:
        what = "train on" if len(train) == 0 else "test with"
        raise DataError(
            f"the split leaves nothing to {what}",
            found=f"{len(train)} training events, {len(test)} users to ask, strategy '{strategy}'",
            fix="use more data, a smaller held-out part, or a lower min_history",
        )
