"""Click logs: kinds of features, missing and unseen values, splits, storage, clear errors."""

from __future__ import annotations

import json
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recengine.data.clicks import (
    ClickDataConfig,
    ClickLog,
    ClickSplit,
    ClickSplitConfig,
    ClickTable,
    FeatureEncoder,
    FeatureSpec,
    Ragged,
    Seen,
    audit_clicks,
    prepare,
    serving_rows,
)
from recengine.data.clicks.table import NOBODY
from recengine.errors import CheckpointError, ConfigError, DataError, DataWarning
from recengine.evaluation.click_result import ClickProtocol, measure_clicks
from recengine.evaluation.clicks import gauc

KINDS = {
    "user": FeatureSpec(group="person"),
    "item": FeatureSpec(min_count=2),
    "tags": FeatureSpec(kind="multi"),
    "seen": FeatureSpec(kind="sequence", share="item", max_length=2, separator=","),
    "age": FeatureSpec(kind="numeric"),
    "price": FeatureSpec(kind="numeric", transform="buckets", buckets=2),
    "city": FeatureSpec(encoding="hash", buckets=8),
}
CONFIG = ClickDataConfig(label="click", group="user", features=KINDS)
FRAME = pl.DataFrame(
    {
        "user": ["ann", "bob", "ann", None],
        "item": [7, 7, 8, 9],
        "tags": [["x", "y"], ["y"], [], None],
        "seen": ["7,8,9", "8", "", None],
        "age": [20.0, 40.0, None, 30.0],
        "price": [1.0, 2.0, 3.0, None],
        "city": ["rome", "oslo", "rome", None],
        "click": [1, 0, 1, 0],
    }
)


def encoder() -> FeatureEncoder:
    return FeatureEncoder.fit(CONFIG, [FRAME[:2], FRAME[2:]])


def test_values_get_the_rows_that_are_promised():
    made = encoder()
    columns = made.encode(FRAME)
    assert columns["user"].tolist() == [2, 3, 2, 0]  # ann, bob, missing
    # items need two rows; 7 occurs twice in its column (and once in 'seen'), 8 twice and once, 9 once each
    assert made.vocabularies["item"] == ["7", "8", "9"]
    assert columns["tags"].values.tolist() == [2, 3, 3, 0, 0]
    assert columns["tags"].offsets.tolist() == [0, 2, 3, 4, 5]
    assert columns["seen"].values.tolist() == [3, 4, 3, 0, 0]  # the latest two of '7,8,9'
    np.testing.assert_allclose(columns["age"], [-1.2247449, 1.2247449, 0, 0], rtol=1e-6)
    assert columns["price"].tolist() == [2, 3, 3, 0]  # the median 2 is the edge
    assert columns["city"][0] == columns["city"][2]
    assert 2 <= columns["city"][1] < 10
    assert columns["city"][3] == 0


def test_what_training_did_not_know_is_the_unknown_row_and_is_counted():
    seen = Seen()
    columns = encoder().encode(
        pl.DataFrame(
            {
                "user": ["zoe", None],
                "item": [99, 7],
                "tags": [["x", "new"], []],
                "seen": ["99", "7"],
                "age": [None, 1.0],
                "price": [99.0, -1.0],
                "city": ["lima", None],
            }
        ),
        seen,
    )
    assert columns["user"].tolist() == [1, 0]
    assert columns["item"].tolist() == [1, 2]
    assert columns["tags"].values.tolist() == [2, 1, 0]
    assert columns["price"].tolist() == [3, 2]
    assert seen.unknown["user"] == 1
    assert seen.missing["user"] == 1
    assert seen.missing["tags"] == 1
    assert seen.rows == 2


def test_min_count_sends_rare_values_to_the_unknown_row():
    frame = pl.DataFrame({"a": ["x", "x", "y"], "click": [0, 1, 1]})
    config = ClickDataConfig(label="click", min_count=2, features={"a": FeatureSpec()})
    made = FeatureEncoder.fit(config, [frame])
    assert made.encode(frame)["a"].tolist() == [2, 2, 1]


def test_min_count_counts_rows_not_occurrences():
    features = {
        "tags": FeatureSpec(kind="multi"),
        "item": FeatureSpec(),
        "seen": FeatureSpec(kind="sequence", share="item"),
    }
    frame = pl.DataFrame(
        {"tags": [["x", "x"], ["y"], ["y", "z"]], "item": ["a", "b", "c"], "seen": [["a"], ["c"], ["c", "c"]]}
    )
    about = ClickDataConfig(min_count=2, features=features)
    made = FeatureEncoder.fit(about, [frame[:2], frame[2:]])
    assert made.vocabularies == {"tags": ["y"], "item": ["c"]}  # 'a' is in one row, as item and as seen


@pytest.mark.parametrize("known", [[3, 4], [3.0, 4.0], ["3", "4"], ["3.0", "4.0"]])
def test_whole_floats_integers_and_text_are_one_value(known):
    config = ClickDataConfig(label="click", features={"a": FeatureSpec(), "b": FeatureSpec(kind="multi")})
    made = FeatureEncoder.fit(config, [pl.DataFrame({"a": known, "b": [known, known]})])
    assert made.vocabularies == {"a": ["3", "4"], "b": ["3", "4"]}
    for value in (3.0, "3", "3.0", "3.00", 3, Decimal("3.0")):
        columns = made.encode(pl.DataFrame({"a": [value], "b": [[value, None]]}))
        assert columns["a"].tolist() == columns["b"].values.tolist() == [2]
    assert made.encode(pl.DataFrame({"a": ["3"], "b": ["4.0|3.0"]}))["b"].values.tolist() == [3, 2]
    for value in ("03", "03.0", "3.1", "3.", "x3.0"):
        assert made.encode(pl.DataFrame({"a": [value], "b": [[value]]}))["a"].tolist() == [1]


def test_truth_is_one_value_however_it_is_written():
    config = ClickDataConfig(label="click", features={"a": FeatureSpec(), "b": FeatureSpec(kind="multi")})
    made = FeatureEncoder.fit(config, [pl.DataFrame({"a": [True, False], "b": [[True, False]] * 2})])
    for pair in ([True, False], [1, 0], [1.0, 0.0], ["true", "false"], ["True", "False"]):
        columns = made.encode(pl.DataFrame({"a": pair, "b": [pair, []]}))
        assert columns["a"].tolist() == columns["b"].values[:2].tolist() == [3, 2]


def test_a_number_that_is_none_is_missing():
    config = ClickDataConfig(label="click", features={"a": FeatureSpec(), "b": FeatureSpec(kind="multi")})
    holes = pl.DataFrame({"a": [3.0, np.nan, None], "b": [[3.0, np.nan], [np.nan], None]})
    made = FeatureEncoder.fit(config, [holes])
    assert made.vocabularies == {"a": ["3"], "b": ["3"]}
    columns = made.encode(holes)
    assert columns["a"].tolist() == columns["b"].values.tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1.5, "fraction"),
        (Decimal("1.5"), "fraction"),
        (float("inf"), "too large"),
        (1e20, "too large"),
        ([1], "several values|lists or structures"),
        ({"x": 1}, "several values|lists or structures"),
    ],
)
def test_what_is_no_category_is_told_with_its_row(value, says):
    config = ClickDataConfig(label="click", features={"a": FeatureSpec()})
    many = ClickDataConfig(label="click", features={"a": FeatureSpec(kind="multi")})
    none = None if isinstance(value, list | dict) else type(value)(2)
    with pytest.raises(DataError, match=says) as one:
        FeatureEncoder.fit(config, [pl.DataFrame({"a": [none, value]})])
    lists = pl.Series("a", [[none, none], [none, value]], strict=False)
    if isinstance(value, Decimal):  # polars guesses no places for lists of them
        lists = pl.Series("a", [[2.0, 2.0], [2.0, 1.5]]).cast(pl.List(pl.Decimal(10, 2)))
    with pytest.raises(DataError, match=says) as several:
        FeatureEncoder.fit(many, [lists.to_frame()])
    if none is not None:
        assert one.value.where == several.value.where == "column 'a', row 1"


def test_features_that_training_hardly_knew_are_told():
    config = ClickDataConfig(
        label="click", features={"a": FeatureSpec(), "b": FeatureSpec(kind="multi"), "c": FeatureSpec()}
    )
    ids = [str(number) for number in range(40)]
    made = FeatureEncoder.fit(config, [pl.DataFrame({"a": ids, "b": [[i] for i in ids], "c": ids})])
    odd = [f"id{number}" for number in range(40)]
    strange = pl.DataFrame({"a": odd, "b": [[i, i] for i in odd], "c": ids[:5] + odd[:35]})
    with pytest.warns(DataWarning, match="hardly a value of a, b is known"):
        serving_rows(made, strange)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        serving_rows(made, strange[:9])
        serving_rows(made, strange.with_columns(a=pl.lit(None, pl.String), b=pl.lit("3")))


def test_an_encoder_of_format_1_reads_its_values_in_the_form_of_today():
    told = {
        "format": 1,
        "config": {"label": "click", "features": {"a": {}, "b": {"kind": "multi"}}},
        "vocabularies": {"a": ["false", "true"], "b": ["1", "1.0", "2.0"]},
        "numbers": {},
    }
    made = FeatureEncoder.from_description(told)
    columns = made.encode(pl.DataFrame({"a": [True, False], "b": [[1, 2], ["1.0"]]}, strict=False))
    assert columns["a"].tolist() == [3, 2]
    assert columns["b"].values.tolist() == [2, 4, 2]
    told["config"]["features"]["a"] = {"encoding": "hash", "buckets": 9}
    with pytest.raises(CheckpointError, match="older form"):
        FeatureEncoder.from_description(told)


def test_large_numbers_that_differ_little_keep_their_deviation():
    values = 1.7e12 + 500 * np.random.default_rng(0).normal(size=1000)  # milliseconds since 1970
    config = ClickDataConfig(label="click", features={"a": FeatureSpec(kind="numeric")})
    frame = pl.DataFrame({"a": values})
    made = FeatureEncoder.fit(config, [frame[:300], frame[300:]])
    assert made == FeatureEncoder.fit(config, [frame])
    assert made.numbers["a"].mean == pytest.approx(values.mean(), abs=1e-2)
    assert made.numbers["a"].deviation == pytest.approx(values.std(), rel=1e-6)
    assert made.encode(frame)["a"].std() == pytest.approx(1, rel=1e-4)


def test_deviations_are_put_together_from_blocks(monkeypatch):
    monkeypatch.setattr("recengine.data.clicks.coding._BLOCK", 64)
    values = np.random.default_rng(1).normal(5, 2, 1000)
    config = ClickDataConfig(label="click", features={"a": FeatureSpec(kind="numeric")})
    frame = pl.DataFrame({"a": values})
    made = FeatureEncoder.fit(config, [frame[:300], frame[300:]])
    assert made == FeatureEncoder.fit(config, [frame])
    told = made.numbers["a"]
    assert (told.mean, told.deviation) == pytest.approx((values.mean(), values.std()), rel=1e-12)


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_bins_are_made_of_values_from_the_whole_log(order: str):
    values = np.arange(3_000_000, dtype=np.float64)[:: 1 if order == "rising" else -1]
    quarters = FeatureSpec(kind="numeric", transform="buckets", buckets=4)
    about = ClickDataConfig(features={"a": quarters})
    made = FeatureEncoder.fit(about, (pl.DataFrame({"a": part}) for part in np.array_split(values, 7)))
    assert made.numbers["a"].edges == pytest.approx([750_000, 1_500_000, 2_250_000], rel=0.01)
    assert made == FeatureEncoder.fit(about, [pl.DataFrame({"a": values})])


def test_the_encoder_survives_json():
    made = encoder()
    again = FeatureEncoder.from_description(json.loads(json.dumps(made.describe())))
    assert again == made
    for name, column in made.encode(FRAME).items():
        other = again.encode(FRAME)[name]
        if isinstance(column, Ragged):
            assert column.values.tolist() == other.values.tolist()
        else:
            assert column.tolist() == other.tolist()


def test_facts_say_tables_sizes_and_groups():
    facts = {fact["name"]: fact for fact in encoder().facts()}
    assert facts["user"] == {"name": "user", "kind": "one", "table": "user", "size": 4, "group": "person"}
    assert facts["seen"]["table"] == "item"
    assert facts["seen"]["size"] == facts["item"]["size"] == 5
    assert facts["age"]["kind"] == "number"
    assert facts["city"]["size"] == 10
    assert facts["price"]["size"] == 4


@pytest.mark.parametrize(
    ("values", "found", "fix"),
    [
        (pl.lit("2024-01-05").str.to_date(), "Date", "unit"),
        (pl.lit("2024-01-05").str.to_datetime(), "Datetime", "unit"),
        (pl.lit(1).cast(pl.Duration), "Duration", "unit"),
        (pl.lit("10:00:00").str.to_time(), "Time", "unit"),
        (pl.lit(True), "Boolean", "categorical"),
        (pl.concat_list(pl.lit(1.0)), "List(Float64)", "multi"),
        (pl.lit(pl.Series([[[1.0]]])), "List(List(Float64))", "multi"),
        (pl.struct(x=1), "Struct", "convert"),
        (pl.lit(b"1"), "Binary", "convert"),
    ],
)
def test_what_holds_no_numbers_is_refused_in_training_and_in_serving(values, found, fix):
    about = ClickDataConfig(features={"years": FeatureSpec(kind="numeric", column="age")})
    right = pl.DataFrame({"age": [1.0, 2.0, 3.0]})
    made = FeatureEncoder.fit(about, [right])
    wrong = right.select(age=values)
    for use in (lambda: serving_rows(made, wrong), lambda: FeatureEncoder.fit(about, [wrong])):
        with pytest.raises(DataError, match="holds no numbers") as caught:
            use()
        assert caught.value.where == "feature 'years', column 'age'"
        assert str(caught.value.found).startswith(found)
        assert "one number a row" in str(caught.value.expected)
        assert fix in str(caught.value.fix)


def test_numbers_decimals_and_text_of_them_are_one_number():
    about = ClickDataConfig(features={"age": FeatureSpec(kind="numeric")})
    ages = pl.Series("age", [1.0, 2.0, 3.0])
    made = FeatureEncoder.fit(about, [ages.to_frame()])
    expected = made.encode(ages.to_frame())["age"]
    text = ages.cast(pl.String)
    for kind in (ages.cast(pl.UInt8), ages.cast(pl.Decimal(9, 2)), text, text.cast(pl.Categorical)):
        np.testing.assert_array_equal(made.encode(kind.to_frame())["age"], expected)
    assert made.encode(pl.DataFrame({"age": [None]}))["age"].tolist() == [0]


def test_labels_may_be_true_and_false():
    frame = log().with_columns(label=pl.col("label") == 1)
    assert prepare(ClickLog.from_frame(frame)).train.labels.sum() > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop("age"), "no column 'age'"),
        (lambda f: f.with_columns(age=pl.lit("old")), "no finite number"),
        (lambda f: f.with_columns(age=pl.lit(float("inf"))), "no finite number"),
        (lambda f: f.with_columns(user=pl.lit([["a"]])), "several values a row"),
        (lambda f: f.with_columns(item=pl.lit(1.5)), "fraction"),
    ],
)
def test_serving_rows_that_do_not_fit_are_refused(change, says):
    made = encoder()
    assert len(serving_rows(made, FRAME.drop("click"))) == 4
    assert len(serving_rows(made, FRAME.with_columns(other=1))) == 4
    with pytest.raises(DataError, match=says):
        serving_rows(made, change(FRAME))


def test_a_misspelt_column_is_guessed():
    with pytest.raises(DataError, match="did you mean 'user'"):
        ClickLog.from_frame(FRAME.rename({"click": "label"})).with_config(
            ClickDataConfig(features={"u": FeatureSpec(column="usr")})
        )


def log(n: int = 200, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user": random.integers(0, 20, n),
            "item": random.integers(0, 9, n),
            "price": random.normal(size=n),
            "label": random.integers(0, 2, n),
            "time": random.integers(0, 50, n),
        }
    )


def test_kinds_are_guessed_from_the_columns():
    given = ClickLog.from_frame(log(), ClickDataConfig(time="time")).with_config(ClickDataConfig())
    assert {name: spec.kind for name, spec in given.config.features.items()} == {
        "user": "categorical",
        "item": "categorical",
        "price": "numeric",
    }


def test_decimals_with_places_are_guessed_numbers():
    frame = log().with_columns(
        price=pl.col("price").cast(pl.Decimal(10, 2)), item=pl.col("item").cast(pl.Decimal(10, 0))
    )
    features = ClickLog.from_frame(frame).with_config(ClickDataConfig()).config.features
    assert (features["price"].kind, features["item"].kind) == ("numeric", "categorical")


def test_truth_names_no_part():
    frame = log().with_columns(part=pl.col("label") > 0)
    config = ClickDataConfig(part="part")
    for given in (frame, frame.with_columns(pl.col("part").cast(pl.String))):
        with pytest.raises(DataError, match="a part is not known"):
            prepare(ClickLog.from_frame(given), config)


def test_a_random_split_is_exact_seeded_and_whole():
    config = ClickSplitConfig(strategy="random", validation_share=0.2, test_share=0.1, seed=3)
    one = prepare(ClickLog.from_frame(log()), None, config)
    assert (len(one.train), len(one.validation), len(one.test)) == (140, 40, 20)
    assert prepare(ClickLog.from_frame(log()), None, config).test.fingerprint() == one.test.fingerprint()
    other = prepare(ClickLog.from_frame(log()), None, config.model_copy(update={"seed": 4}))
    assert other.test.fingerprint() != one.test.fingerprint()


def test_a_split_by_time_keeps_the_future_out_of_training():
    made = prepare(ClickLog.from_frame(log()), ClickDataConfig(time="time"))
    assert made.description["strategy"] == "time"
    assert made.train.times.max() < made.validation.times.min()
    assert made.validation.times.max() < made.test.times.min()


@pytest.mark.parametrize("text", [False, True])
def test_times_have_one_unit_over_all_batches(text, monkeypatch):
    """Fractions of a second in one batch alone must not make its times a million times the others."""
    monkeypatch.setattr("recengine.data.clicks.log.ClickLog.batches", _small(ClickLog.batches))
    whole = np.datetime64("2024-01-01", "us") + np.arange(200) * np.timedelta64(1, "s")
    whole[3] += np.timedelta64(500, "ms")
    times = pl.Series(whole)
    given = times.dt.to_string("%Y-%m-%dT%H:%M:%S%.f") if text else times
    made = prepare(ClickLog.from_frame(log(200).with_columns(time=given)), ClickDataConfig(time="time"))
    assert made.train.times.tolist() == times[:160].to_physical().to_list()
    assert made.validation.times.tolist() == times[160:180].to_physical().to_list()
    assert made.test.times.tolist() == times[180:].to_physical().to_list()


def test_times_of_two_kinds_are_refused(tmp_path: Path):
    frame = log()
    frame[:100].write_parquet(tmp_path / "train.parquet")
    dates = pl.lit("2024-01-01").alias("time")
    frame[100:].with_columns(dates).write_parquet(tmp_path / "test.parquet")
    with pytest.raises(DataError, match="some times are whole numbers, others dates"):
        prepare(ClickLog.open(tmp_path), ClickDataConfig(time="time"))


def test_times_that_hardly_differ_are_told():
    config = ClickDataConfig(time="time")
    with pytest.raises(DataError, match=r"(?s)column 'time': no time is early enough.*100% of the rows"):
        prepare(ClickLog.from_frame(log().with_columns(time=pl.lit(7))), config)
    halves = log().with_columns(time=pl.int_range(200) // 100)
    made = prepare(ClickLog.from_frame(halves), config)
    assert made.validation is None
    (told,) = (one for one in audit_clicks(made) if one.check == "no_validation")
    assert "100 rows train, 100 test" in told.message
    wanted_none = prepare(ClickLog.from_frame(halves), config, ClickSplitConfig(validation_share=0))
    assert all(one.check != "no_validation" for one in audit_clicks(wanted_none))


def test_the_vocabulary_is_learned_from_training_rows_alone():
    frame = pl.DataFrame(
        {"a": ["x", "y", "z"] * 2, "label": [0, 1] * 3, "part": ["train", "train", "test"] * 2}
    )
    config = ClickDataConfig(part="part", features={"a": FeatureSpec()})
    made = prepare(ClickLog.from_frame(frame), config)
    assert made.encoder.vocabularies == {"a": ["x", "y"]}
    assert made.test.columns["a"].tolist() == [1, 1]
    assert made.description["unknown"]["test"] == {"a": 2}
    assert any(finding.check == "unknown_values" for finding in audit_clicks(made))


def test_a_folder_of_files_is_a_given_split(tmp_path: Path):
    frame = log()
    frame[:100].write_parquet(tmp_path / "train.parquet")
    frame[100:150].write_csv(tmp_path / "valid.csv")
    frame[150:].write_parquet(tmp_path / "test.parquet")
    made = prepare(ClickLog.open(tmp_path), ClickDataConfig(ignore=("time",)))
    assert (len(made.train), len(made.validation), len(made.test)) == (100, 50, 50)
    assert made.test.labels.tolist() == frame["label"][150:].to_list()


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv"])
def test_streamed_to_disk_it_is_what_it_is_in_memory(tmp_path: Path, ending: str, monkeypatch):
    frame = log(500).with_columns(tags=pl.Series(["a|b", "c", None, "", "b|c|a"] * 100))
    path = tmp_path / f"log.{ending}"
    if ending == "parquet":
        frame.write_parquet(path)
    else:
        frame.write_csv(path, separator="," if ending == "csv" else "\t")
    config = ClickDataConfig(
        time="time",
        group="user",
        features={
            "user": FeatureSpec(),
            "item": FeatureSpec(),
            "price": FeatureSpec(kind="numeric"),
            "tags": FeatureSpec(kind="multi"),
        },
    )
    whole = prepare(ClickLog.from_frame(frame), config)
    monkeypatch.setattr("recengine.data.clicks.log.ClickLog.batches", _small(ClickLog.batches))
    streamed = prepare(ClickLog.open(path), config, folder=tmp_path / "split")
    again = ClickSplit.load(tmp_path / "split")
    for name in ("train", "validation", "test"):
        expected = whole.tables()[name]
        assert streamed.tables()[name].fingerprint() == expected.fingerprint()
        assert again.tables()[name].fingerprint() == expected.fingerprint()
    assert isinstance(again.train.labels, np.memmap)
    assert again.encoder == whole.encoder


def _small(original):
    return lambda self, columns=None, rows=37: original(self, columns, 37)


def test_one_value_where_several_are_expected_is_a_list_of_one():
    def tags(values: pl.Series) -> list[list[int]]:
        rows = encoder().encode(FRAME.with_columns(tags=values))["tags"]
        return [part.tolist() for part in np.split(rows.values, rows.offsets[1:-1])]

    told = tags(pl.Series([["y"], ["3"], [], ["y"]]))
    assert tags(pl.Series(["y", "3", None, "y"])) == told
    assert tags(pl.Series(["y", "3", None, "y"]).cast(pl.Categorical)) == told
    assert tags(pl.Series([3.0, 3.0, None, 4.0])) == tags(pl.Series([["3"], ["3"], [], ["4"]]))
    with pytest.raises(DataError, match="several values a row"):
        tags(pl.Series([{"a": 1}] * 4))


def test_a_damaged_store_is_told(tmp_path: Path):
    made = prepare(ClickLog.from_frame(log()))
    made.save(tmp_path)
    (tmp_path / "test" / "0.bin").write_bytes(b"short")
    with pytest.raises(DataError, match="cannot be read"):
        ClickTable.load(tmp_path / "test")


def test_batches_hold_every_row_once_and_ragged_values_go_along():
    made = prepare(
        ClickLog.from_frame(
            pl.DataFrame(
                {"id": range(50), "tags": [[str(i)] * (i % 4) for i in range(50)], "label": [0, 1] * 25}
            )
        ),
        None,
        ClickSplitConfig(test_share=0.2, validation_share=0),
    )
    table = made.train
    seen = []
    for batch in table.shuffled(7, epoch=1, seed=0):
        tags = batch.features["tags"]
        for row in range(len(batch.labels)):
            ident = int(made.encoder.value_of("id", int(batch.features["id"][row])))
            values = tags.values[tags.offsets[row] : tags.offsets[row + 1]]
            words = [made.encoder.value_of("tags", int(value)) for value in values]
            assert words == ([str(ident)] * (ident % 4) or ["(missing)"])
            assert batch.labels[row] == ident % 2
            seen.append(ident)
    assert sorted(seen) == sorted(set(seen))
    assert len(seen) == 40


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([1] * 20, "one label only"),
        ([0, 5] * 10, "neither 0 nor 1"),
        ([0, None] * 10, "missing"),
        (["yes", "no"] * 10, "no finite number"),
    ],
)
def test_labels_that_teach_nothing_are_refused(labels, says):
    with pytest.raises(DataError, match=says):
        prepare(ClickLog.from_frame(pl.DataFrame({"a": range(20), "label": labels})))


@pytest.mark.parametrize("office", ["label", "part", "weight", "propensity"])
@pytest.mark.parametrize("renamed", [False, True])
def test_what_comes_with_the_answer_is_no_feature(office: str, renamed: bool):
    frame = log().with_columns(part=pl.lit("train"), weight=1.0, propensity=0.5)
    feature = {"clue": FeatureSpec(column=office)} if renamed else {office: FeatureSpec()}
    about = ClickDataConfig(
        part="part",
        weight="weight",
        propensity="propensity",
        action="item",
        features={"item": FeatureSpec(), **feature},
    )
    with pytest.raises(DataError, match=f"the {office} is no feature") as caught:
        prepare(ClickLog.from_frame(frame), about)
    assert caught.value.where == f"data.features.{'clue' if renamed else office}"
    assert f"data.{office}" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("clue", "spec"),
    [
        (pl.col("label").replace_strict({0: "no", 1: "yes"}), FeatureSpec()),
        (pl.col("label") * 7 + pl.col("item") % 7, FeatureSpec(encoding="hash", buckets=10_000)),
        (pl.col("label") * 2.5, FeatureSpec(kind="numeric")),
        (pl.col("label") * 9 + pl.col("price"), FeatureSpec(kind="numeric")),
        (pl.col("label") + 2 * (pl.col("item") % 3), FeatureSpec(kind="numeric")),
        (pl.concat_list("item", pl.col("label") + 100), FeatureSpec(kind="multi")),
    ],
)
def test_a_feature_that_determines_the_label_is_told(clue: pl.Expr, spec: FeatureSpec):
    about = ClickDataConfig(features={"user": FeatureSpec(), "clue": spec})
    made = prepare(ClickLog.from_frame(log().with_columns(clue=clue)), about)
    told = [one for one in audit_clicks(made) if one.check == "determines_label"]
    assert [one.evidence for one in told] == [{"feature": "clue"}]
    assert "'clue'" in told[0].message


def test_features_that_tell_nothing_of_the_label_are_not_accused():
    kinds = {
        "row": FeatureSpec(),  # each value occurs once
        "user": FeatureSpec(),
        "price": FeatureSpec(kind="numeric"),
        "tags": FeatureSpec(kind="multi"),
    }
    frame = log().with_columns(row=pl.int_range(200), tags=pl.concat_list("item", "user"))
    made = prepare(ClickLog.from_frame(frame), ClickDataConfig(features=kinds))
    assert not [one for one in audit_clicks(made) if one.check == "determines_label"]


def test_negatives_of_which_none_is_kept_are_refused():
    frame = pl.DataFrame({"a": range(100), "label": [1] * 94 + [0] * 6})
    given = ClickSplitConfig(strategy="random", validation_share=0, test_share=0.1)
    with pytest.raises(DataError, match="no training row without a click was kept") as caught:
        prepare(ClickLog.from_frame(frame), ClickDataConfig(keep_negatives=0.01), given)
    assert caught.value.where == "data.keep_negatives"
    assert "all with a click" in str(caught.value.found)


def test_ratings_become_clicks_at_a_threshold():
    frame = pl.DataFrame({"a": range(20), "label": [1, 3, 4, 5] * 5})
    made = prepare(ClickLog.from_frame(frame), ClickDataConfig(positive_from=4))
    clicked = sum(float(table.labels.sum()) for table in made.tables().values())
    assert clicked == 10


def test_rare_clicks_are_told_and_dropped_negatives_weigh_more():
    random = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"a": random.integers(0, 5, 20_000), "label": (random.random(20_000) < 0.005).astype(int)}
    )
    made = prepare(ClickLog.from_frame(frame))
    assert any(finding.check == "imbalance" for finding in audit_clicks(made))
    thin = prepare(ClickLog.from_frame(frame), ClickDataConfig(keep_negatives=0.1))
    assert thin.train.labels.sum() == made.train.labels.sum()
    assert 0.08 < (thin.train.labels == 0).sum() / (made.train.labels == 0).sum() < 0.12
    assert len(thin.test) == len(made.test)
    # the weighted rate, which decides the loss, is the rate of the whole log
    assert thin.extras()["click_rate"] == pytest.approx(made.extras()["click_rate"], rel=0.1)


def test_a_hash_with_too_few_buckets_and_a_table_that_is_not_there_are_refused():
    with pytest.raises(ConfigError, match="buckets"):
        FeatureSpec.parse({"encoding": "hash"})
    with pytest.raises(ConfigError, match="none of its own"):
        ClickDataConfig.parse({"features": {"seen": {"kind": "sequence", "share": "item"}}})


def test_a_shared_table_has_the_encoding_of_its_owner():
    hashed = {"encoding": "hash", "buckets": 9}
    seen = {"kind": "sequence", "share": "item"}
    with pytest.raises(ConfigError, match="'seen' hashes values for the table of 'item', which lists them"):
        ClickDataConfig.parse({"features": {"item": {}, "seen": {**seen, **hashed}}})
    frame = pl.DataFrame({"item": ["x", "y"], "seen": [["y"], ["x"]]})
    for more in ({}, hashed):
        config = ClickDataConfig.parse({"features": {"item": hashed, "seen": {**seen, **more}}})
        made = FeatureEncoder.fit(config, [frame])
        columns = made.encode(frame)
        assert columns["seen"].values.tolist() == columns["item"].tolist()[::-1]
        assert made.vocabularies == {}
        assert made.value_of("seen", 3) == "bin 1"


def test_a_slice_needs_one_value_of_a_table_a_row():
    kinds = {
        "price": FeatureSpec(kind="numeric"),
        "tags": FeatureSpec(kind="multi"),
        "item": FeatureSpec(),
        "binned": FeatureSpec(kind="numeric", transform="buckets", buckets=3, column="price"),
    }
    given = ClickLog.from_frame(log().with_columns(tags=pl.lit("a|b")))
    for name, says in (("price", "'price', numeric"), ("tags", "'tags', multi")):
        with pytest.raises(DataError, match=rf"(?s)data.slices: a slice needs.*{says}"):
            given.with_config(ClickDataConfig(features=kinds, slices=(name,)))
    assert given.with_config(ClickDataConfig(features=kinds, slices=("item", "binned"))).config.slices


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("", "nothing"),
        ("hashed", "'hashed', categorical, hashed"),
        ("price", "'price', numeric"),
        ("other", "'other', categorical, shares the table of 'item'"),
    ],
)
def test_a_propensity_needs_choices_that_can_be_counted(action, says):
    kinds = {
        "item": FeatureSpec(),
        "price": FeatureSpec(kind="numeric"),
        "hashed": FeatureSpec(encoding="hash", buckets=9, column="item"),
        "other": FeatureSpec(share="item", column="user"),
    }
    given = ClickLog.from_frame(log().with_columns(chance=0.5))
    with pytest.raises(DataError, match=rf"(?s)data.action: a propensity is the chance.*found: {says}"):
        given.with_config(ClickDataConfig(features=kinds, propensity="chance", action=action))
    assert given.with_config(ClickDataConfig(features=kinds, propensity="chance", action="item"))


@pytest.mark.parametrize(("value", "says"), [(1.5, "above 1"), (0.0, "not above 0"), (None, "not above 0")])
def test_propensities_are_chances(value, says):
    frame = log().with_columns(chance=pl.when(pl.int_range(200) == 190).then(value).otherwise(0.5))
    config = ClickDataConfig(propensity="chance", action="item", ignore=("time",))
    with pytest.raises(DataError, match=rf"a propensity is {says}"):
        prepare(ClickLog.from_frame(frame), config)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_file_without_rows_is_told(tmp_path: Path, ending: str):
    path = tmp_path / f"log.{ending}"
    getattr(log()[:0], f"write_{ending}")(path)
    opened = ClickLog.open(path)
    with pytest.raises(DataError, match="the table has no rows"):
        next(opened.batches())
    with pytest.raises(DataError, match="the table has no rows"):
        prepare(opened)


def test_an_error_names_the_row_of_the_log_not_of_the_batch():
    """Rows are filtered to a part and read in batches of 65,536 before a value is looked at."""
    number = {"p": FeatureSpec(kind="numeric")}
    few = pl.DataFrame({"p": ["1"] * 1500 + ["x"] + ["1"] * 499, "label": [0, 1] * 1000})
    with pytest.raises(DataError) as caught:
        prepare(ClickLog.from_frame(few), ClickDataConfig(features=number))
    assert caught.value.where == "column 'p', row 1500"
    row = pl.int_range(200_000, eager=True)
    many = pl.DataFrame({"p": row, "label": row % 2, "at": row, "chance": 0.5, "item": row % 3})
    wrong = {
        "column 'p', row 150000": {"p": pl.when(row == 150_000).then(pl.lit("x")).otherwise(pl.lit("1"))},
        "column 'item', row 150000": {"item": pl.when(row == 150_000).then(0.5).otherwise(1.0)},
        "label column 'label', row 150000": {"label": pl.when(row == 150_000).then(7).otherwise(row % 2)},
        "time column 'at', row 150000": {"at": pl.when(row == 150_000).then(None).otherwise(row)},
        "column 'chance', row 150000": {"chance": pl.when(row == 150_000).then(2.0).otherwise(0.5)},
    }
    about = ClickDataConfig(
        time="at", propensity="chance", action="item", features={**number, "item": FeatureSpec()}
    )
    for where, change in wrong.items():
        with pytest.raises(DataError) as caught:
            prepare(ClickLog.from_frame(many.with_columns(**change)), about)
        assert caught.value.where == where
    tags = pl.when(row == 150_000).then([1.0, 0.5]).otherwise([1.0, 2.0])
    bags = ClickDataConfig(features={"words": FeatureSpec(kind="multi", column="tags")})
    with pytest.raises(DataError) as caught:
        prepare(ClickLog.from_frame(many.with_columns(tags=tags)), bags)
    assert caught.value.where == "feature 'words', column 'tags', row 150000"


def test_rows_of_a_log_in_parts_are_counted_in_their_part(tmp_path: Path):
    frame = log(300).cast({"price": pl.String})
    frame[:100].write_parquet(tmp_path / "train.parquet")
    frame[100:].with_columns(
        price=pl.when(pl.int_range(200) == 77).then(pl.lit("dear")).otherwise("price")
    ).write_parquet(tmp_path / "test.parquet")
    about = ClickDataConfig(features={"price": FeatureSpec(kind="numeric")})
    with pytest.raises(DataError) as caught:
        prepare(ClickLog.open(tmp_path), about)
    assert caught.value.where == "column 'price', row 77 of the test part"


def test_rows_of_nobody_known_are_no_group_and_are_counted():
    frame = log().with_columns(user=pl.when(pl.int_range(200) % 4 == 0).then(None).otherwise("user"))
    made = prepare(ClickLog.from_frame(frame), ClickDataConfig(group="user"))
    told = [one.evidence for one in audit_clicks(made) if one.check == "missing_group"]
    assert sum(one["rows"] for one in told) == 50
    assert {one["part"] for one in told} == {"train", "validation", "test"}
    table = made.train
    known = table.columns["user"] > 0
    scores = np.random.default_rng(0).random(len(table))
    assert (table.groups[~known] == NOBODY).all()
    assert gauc(table.labels, scores, table.groups) == pytest.approx(
        gauc(table.labels[known], scores[known], table.columns["user"][known])
    )
    result = measure_clicks(table.labels, scores, ClickProtocol("test"), groups=table.groups)
    assert result.estimates["gauc"].n <= 20


def test_groups_are_who_the_row_belongs_to():
    made = prepare(ClickLog.from_frame(log()), ClickDataConfig(group="user"))
    users = [made.encoder.value_of("user", int(row)) for row in made.train.columns["user"]]
    assert len(set(zip(users, made.train.groups.tolist(), strict=True))) == len(set(users))
