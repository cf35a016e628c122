"""Which part every row of a click log belongs to: decided from labels, times and given parts alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from recengine.config import Config, knob
from recengine.data.clicks.coding import as_numbers, as_text
from recengine.data.clicks.log import ClickLog
from recengine.data.clicks.place import PART, LogPlace
from recengine.data.clicks.schema import ClickDataConfig
from recengine.data.ordering import tie_hash
from recengine.errors import DataError, UsageError

if TYPE_CHECKING:
    import polars as pl

TRAIN, VALIDATION, TEST = 0, 1, 2
PARTS = {"train": TRAIN, "validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION, "test": TEST}
Parts = NDArray[np.int8]


class ClickSplitConfig(Config):
    """How to divide the rows of a click log."""

    strategy: Literal["auto", "given", "random", "time"] = knob(
        "auto", "auto: the parts the log came in, else time where there is one, else random"
    )
    validation_share: float = knob(0.1, "share of the rows", ge=0, lt=1)
    test_share: float = knob(0.1, "share of the rows", gt=0, lt=1)
    seed: int = knob(0, "of the random division", ge=0)


def divided(log: ClickLog, config: ClickSplitConfig) -> tuple[NDArray[np.float32], Parts, dict[str, Any]]:
    """Labels [n], the part [n] of every row, and what the division was."""
    about = log.config
    wanted = [column for column in (about.label, about.time, about.part) if column]
    labels: list[Any] = []
    times: list[Any] = []
    kinds: set[bool] = set()
    given: list[Any] = []
    for frame in log.numbered(wanted):
        labels.append(labels_of(frame, about))
        if about.time:
            found, dated = times_of(frame, about.time)
            times.append(found)
            kinds.add(dated)
        if PART in frame.columns:
            given.append(frame[PART].to_numpy())
        elif about.part:
            given.append(_named_parts(frame, about.part))
    if len(kinds) > 1:
        raise DataError(
            "some times are whole numbers, others dates",
            where=f"time column '{about.time}'",
            expected="one kind throughout: their units differ",
            fix="convert the column",
        )
    every = np.concatenate(labels) if labels else np.zeros(0, np.float32)
    strategy = config.strategy
    if strategy == "auto":
        strategy = "given" if given else "time" if times else "random"
    if strategy == "given":
        if not given:
            raise DataError(
                "the log did not come in parts",
                where="split.strategy",
                expected="data.part, or a folder of parts",
                fix="choose 'random' or 'time'",
            )
        parts = np.concatenate(given).astype(np.int8)
    elif strategy == "time":
        if not times:
            raise DataError(
                "a split by time needs a time column", where="split.strategy", fix="set data.time"
            )
        parts = _by_time(np.concatenate(times), config, about.time)
    else:
        parts = _by_chance(every.size, config)
    for name, number in (("train", TRAIN), ("test", TEST)):
        if not (parts == number).any():
            raise DataError(f"the {name} part has no rows", found=f"{every.size} rows", expected="more rows")
    return every, parts, {"strategy": strategy, "settings": config.model_dump(mode="json")}


def times_of(frame: pl.DataFrame, column: str) -> tuple[NDArray[np.int64], bool]:
    """Times, whole numbers as they are or dates in microseconds whatever the batch, and whether dates."""
    from recengine.data.frames import micro_times

    return micro_times(frame[column], LogPlace.of(frame, column, "time"))


def labels_of(frame: pl.DataFrame, config: ClickDataConfig) -> NDArray[np.float32]:
    """float32 0 or 1 a row, from numbers, text of them, or true and false. Raises DataError for anything
    else."""
    import polars as pl

    column = frame[config.label]
    place = LogPlace.of(frame, config.label, "label")
    values = as_numbers(column.cast(pl.Int8) if column.dtype == pl.Boolean else column, place)
    if np.isnan(values).any():
        raise DataError(
            "a label is missing",
            where=place.at(int(np.isnan(values).argmax())),
            found="nothing",
            expected="a label in every row",
            fix="leave such rows out, or fill the label in",
        )
    if config.positive_from is not None:
        return (values >= config.positive_from).astype(np.float32)
    wrong = ~np.isin(values, (0.0, 1.0))
    if wrong.any():
        raise DataError(
            "a label is neither 0 nor 1",
            where=place.at(int(np.argmax(wrong))),
            found=values[np.argmax(wrong)],
            expected="0 or 1",
            fix="set data.positive_from to the least value that counts as a click",
        )
    return values.astype(np.float32)


def _named_parts(frame: pl.DataFrame, column: str) -> Parts:
    import polars as pl

    given = frame[column]  # true and false are no names of parts, though 1 and 0 are
    place = LogPlace.of(frame, column)
    text = as_text(given, place) if given.dtype.is_numeric() else given.cast(pl.String)
    known = {**PARTS, "0": TRAIN, "1": VALIDATION, "2": TEST}
    named = [known.get(value, -1) if value is not None else -1 for value in text.to_list()]
    parts = np.asarray(named, np.int8)
    if (parts < 0).any():
        raise DataError(
            "a part is not known",
            where=place.at(int(np.argmin(parts))),
            found=text[int(np.argmin(parts))],
            expected="train, validation or test",
        )
    return parts


def _shares(config: ClickSplitConfig) -> None:
    if config.validation_share + config.test_share >= 1:
        raise UsageError(
            "validation_share and test_share leave nothing to train on",
            found=config.validation_share + config.test_share,
            expected="less than 1 together",
        )


def _by_chance(n: int, config: ClickSplitConfig) -> Parts:
    _shares(config)
    rank = np.empty(n, np.int64)
    rank[np.argsort(tie_hash(np.arange(n), config.seed ^ 0xC11C))] = np.arange(n)
    return _of_ranks(rank, n, config)


def _by_time(times: NDArray[np.int64], config: ClickSplitConfig, column: str) -> Parts:
    """The latest rows are the test; rows of one time stay in one part (the later one)."""
    _shares(config)
    ordered = np.sort(times)
    last = np.searchsorted(ordered, times, side="right") - 1
    parts = _of_ranks(last, times.size, config)
    if times.size and not (parts == TRAIN).any():
        share = np.searchsorted(ordered, ordered[0], side="right") / times.size
        raise DataError(
            "no time is early enough to learn from: rows of one time stay in one part",
            where=f"time column '{column}'",
            found=f"{share:.0%} of the rows have the earliest time",
            expected=f"at most {1 - config.validation_share - config.test_share:.0%}",
            fix="name a column with finer times, or set split.strategy to random",
        )
    return parts


def _of_ranks(rank: NDArray[np.int64], n: int, config: ClickSplitConfig) -> Parts:
    n_test, n_validation = round(n * config.test_share), round(n * config.validation_share)
    parts = np.zeros(n, np.int8)
    parts[rank >= n - n_test - n_validation] = VALIDATION
    parts[rank >= n - n_test] = TEST
    return parts
