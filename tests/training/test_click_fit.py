"""Click models through the doors of every model: fit, evaluate, save, load, resume, report, command line."""

from __future__ import annotations

import gzip
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

import recengine
from recengine.contracts.batch import FeatureBatch
from recengine.data.clicks import ClickDataConfig, ClickLog, ClickSplit, ClickSplitConfig, prepare
from recengine.data.clicks.log import ROWS
from recengine.errors import CheckpointError, ConfigError, DataError, UsageError
from recengine.evaluation.clicks import auc
from recengine.testing import planted, planted_clicks
from recengine.training import ClickRun, Reproduction, reproduce
from recengine.training.loop import Loop
from recengine.training.parts import part
from recengine.training.row_optimizers import RowOptimizer, Together

SHORT = {"training": {"epochs": 2, "learning_rate": 0.01, "batch_size": 256, "device": "cpu"}}
SMALL = {**SHORT, "model": {"hidden": (16,), "dropout": 0.1, "embedding_dim": 8}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ClickRun:
    folder = tmp_path_factory.mktemp("runs") / "deepfm"
    made = recengine.fit("deepfm", planted_clicks(1500), settings=SMALL, directory=folder)
    assert isinstance(made, ClickRun)
    made.evaluate()
    return made


def test_a_run_of_clicks_is_whole_and_comes_back(run: ClickRun) -> None:
    assert run.directory is not None
    again = recengine.load(run.directory)
    assert isinstance(again, ClickRun)
    assert again.evaluations["test"].summary() == run.evaluations["test"].summary()
    frame = planted_clicks(50, seed=1).frames[0]
    assert np.array_equal(again.predict(frame), run.predict(frame))
    assert again.split.encoder == run.split.encoder
    about = json.loads((run.directory / "run.json").read_text())
    assert about["task"] == "clicks"
    assert about["config"]["data"]["group"] == "user"
    assert about["facts"]["extras"]["features"][0]["name"] == "user"
    assert "log_loss" in run.history[0]
    assert not list(run.directory.rglob("*.pkl")) + list(run.directory.rglob("*.pt"))


def test_what_is_measured(run: ClickRun) -> None:
    found = run.evaluations["test"]
    assert set(found.metrics) == {
        "auc", "gauc", "log_loss", "normalised_entropy", "brier", "ece", "calibration",
    }  # fmt: skip
    assert found["auc"] == pytest.approx(auc(run.split.test.labels, found.rows["probability"].to_numpy()))
    assert found.slices["place"]["value"].to_list()[0] in ("0", "1", "2")
    assert found.slices["place"]["rows"].sum() == len(run.split.test)
    with pytest.raises(UsageError, match="no such task"):
        run.evaluate("training")
    with pytest.raises(UsageError, match="ranks no catalogue"):
        run.recommend(["u1"])


def test_the_report_has_the_reliability_plot_and_the_slices(run: ClickRun, tmp_path: Path) -> None:
    from recengine.reports import write

    page = write(run, tmp_path / "report.html").read_text()
    assert "Do the probabilities come true?" in page
    assert "Calibration of deepfm" in page
    assert "AUC by place" in page
    assert "over 150 rows" in page
    assert "users" not in page.partition("<main")[2].partition('id="training"')[0]
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["calibration"]


def test_a_resumed_fit_ends_with_the_same_bits(tmp_path: Path) -> None:
    split = prepare(planted_clicks(1500))
    for optimizer in ("same", "rowwise_adagrad", "sparse_adam"):
        settings = {**SMALL, "training": {**SMALL["training"], "table_optimizer": optimizer}}
        whole = recengine.fit("deepfm", split, settings=settings)
        calls = 0

        def stop(progress: object) -> None:
            nonlocal calls
            calls += 1
            if calls == 7:
                raise KeyboardInterrupt

        folder = tmp_path / optimizer
        with pytest.raises(KeyboardInterrupt):
            recengine.fit("deepfm", split, settings=settings, directory=folder, progress=stop)
        resumed = recengine.fit("deepfm", split, settings=settings, directory=folder, resume=True)
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, resumed.model.state_dict()[name]), (optimizer, name)


def test_reproduce_finds_the_same(run: ClickRun) -> None:
    assert run.directory is not None
    found = reproduce(run.directory)
    assert isinstance(found, Reproduction)
    assert found.identical, found.differs


def test_data_of_the_other_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a click log"):
        recengine.fit("lr", planted().split)
    with pytest.raises(UsageError, match="interactions or a split"):
        recengine.fit("ease", planted_clicks(100))  # type: ignore[arg-type]


def test_a_prepared_split_is_read_from_its_folder(tmp_path: Path) -> None:
    prepare(planted_clicks(800), folder=tmp_path)
    loaded = ClickSplit.load(tmp_path)
    one = recengine.fit("fm", loaded, settings=SHORT)
    other = recengine.fit("fm", planted_clicks(800), settings=SHORT)
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name])


def test_settings_that_a_prepared_split_was_not_made_with_are_refused() -> None:
    made = prepare(planted_clicks(400), None, ClickSplitConfig(seed=3))
    for section, name, value in (
        ("data", "label", "nonsense"),
        ("data", "slices", ["user"]),
        ("split", "seed", 4),
        ("split", "strategy", "time"),
    ):
        with pytest.raises(UsageError, match=rf"{section}\.{name}: the split was made before"):
            recengine.fit("lr", made, settings={**SHORT, section: {name: value}})
    run = recengine.fit("lr", made, settings={**SHORT, "split": {"seed": 3}})
    config: Any = run.config
    assert config.split.seed == 3
    assert recengine.fit("lr", made, settings=SHORT).config.split.seed == 3  # type: ignore[attr-defined]
    again = recengine.fit("lr", made, settings=run.config.model_dump())
    assert again.config.model_dump() == run.config.model_dump()


def test_an_unknown_monitor_and_an_unknown_section_are_told() -> None:
    with pytest.raises(ConfigError, match="not measured"):
        recengine.fit("lr", planted_clicks(300), settings={"training": {"monitor": "ndcg@10", "epochs": 1}})
    with pytest.raises(ConfigError, match="did you mean 'data'"):
        recengine.fit("lr", planted_clicks(300), settings={"dta": {"label": "x"}})


def test_a_misspelt_monitor_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loop, "_step", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(ConfigError, match="did you mean 'auc'"):
        recengine.fit("lr", planted_clicks(300), settings={"training": {"monitor": "acu", "epochs": 1}})


def test_a_validation_part_without_clicks_is_told_before_training() -> None:
    log = planted_clicks(600)
    kinds = np.repeat(["train", "validation", "test"], [400, 100, 100])
    frame = log.frames[0].with_columns(
        part=pl.Series(kinds), label=pl.col("label") * pl.Series(kinds != "validation")
    )
    split = prepare(ClickLog.from_frame(frame, log.config), ClickDataConfig(part="part"))
    steps: list[object] = []
    training = {**SHORT["training"], "monitor": "auc"}
    with pytest.raises(ConfigError, match="validation part has no clicks in 100 rows") as told:
        recengine.fit("lr", split, settings={"training": training}, progress=steps.append)
    assert told.value.expected == "one of brier, ece, log_loss"
    assert not steps
    made = recengine.fit("lr", split, settings=SHORT)
    assert made.config.training.monitor == "log_loss"
    assert [one.message for one in made.findings if one.check == "monitor"] == [
        "the validation part has no clicks in 100 rows: log_loss picks the best epoch in place of auc "
        "(set training.monitor to choose)"
    ]
    losses = [entry["log_loss"] for entry in made.history]
    assert isinstance(made, ClickRun)
    assert made.evaluate("validation")["log_loss"] == pytest.approx(min(losses), rel=1e-6)


def test_a_monitor_by_groups_needs_groups() -> None:
    log = planted_clicks(300)
    ungrouped = ClickLog.from_frame(log.frames[0], ClickDataConfig(features=log.config.features))
    with pytest.raises(ConfigError, match="the log has no groups"):
        recengine.fit("lr", ungrouped, settings={"training": {**SHORT["training"], "monitor": "gauc"}})


def test_a_monitor_that_should_fall_picks_the_smallest() -> None:
    settings = {
        "training": {
            **SHORT["training"],
            "monitor": "log_loss",
            "epochs": 6,
            "learning_rate": 0.3,
            "patience": 0,
        }
    }
    made = recengine.fit("fm", prepare(planted_clicks(1500)), settings=settings)
    losses = [entry["log_loss"] for entry in made.history]
    assert losses.index(min(losses)) < len(losses) - 1, "the test needs a fit that overshoots"
    assert isinstance(made, ClickRun)
    assert made.evaluate("validation")["log_loss"] == pytest.approx(min(losses), rel=1e-6)


def test_parts_of_a_batch_weigh_as_the_whole() -> None:
    split = prepare(planted_clicks(200), ClickDataConfig(keep_negatives=0.5))
    batch = FeatureBatch(**split.train.take(np.arange(31)).tensors())
    model = recengine.fit("fm", split, settings={"training": {**SHORT["training"], "epochs": 1}}).model.eval()
    whole = model.training_loss(batch, None)
    parts = [part(batch, rank, 3) for rank in range(3)]
    mean = sum(factor * model.training_loss(piece, None) for piece, factor in parts) / 3
    torch.testing.assert_close(mean, whole)


def test_row_optimizers_leave_other_rows_alone_and_survive_saving() -> None:
    table, dense = torch.nn.Parameter(torch.ones(6, 3)), torch.nn.Parameter(torch.ones(4))
    made = Together([torch.optim.Adam([dense], lr=0.1), RowOptimizer([table], "rowwise_adagrad", 0.1, 2.0)])
    table.grad = torch.zeros(6, 3)
    table.grad[2] = torch.tensor([3.0, 0.0, 4.0])
    dense.grad = torch.ones(4)
    made.step()
    moved = (table != 1).any(1)
    assert moved.tolist() == [False, False, True, False, False, False]
    # s = mean(9, 0, 16); w -= 0.2 g / sqrt(s)
    expected = 1 - 0.2 * torch.tensor([3.0, 0.0, 4.0]) / (25 / 3) ** 0.5
    torch.testing.assert_close(table[2].detach(), expected)
    state = made.state_dict()
    other = Together([torch.optim.Adam([dense], lr=0.1), RowOptimizer([table], "rowwise_adagrad", 0.1, 2.0)])
    other.load_state_dict(state)
    assert other.state_dict()["state"][1]["sum"].tolist() == state["state"][1]["sum"].tolist()
    assert other.members[1].state is other.state


def test_sparse_and_dense_gradients_of_the_tables_agree() -> None:
    split = prepare(planted_clicks(600))
    model = recengine.fit(
        "fm", split, settings={"training": {**SHORT["training"], "epochs": 1}}
    ).model.train()
    batch = FeatureBatch(**split.train.take(np.arange(64)).tensors())
    model.zero_grad()
    model.training_loss(batch, None).backward()
    dense = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    tables = [p for p in model.parameters() if getattr(p, "rows", False)]
    assert len(tables) == 2
    for table in tables:
        table.sparse_gradient = True
    model.training_loss(batch, None).backward()
    for name, parameter in model.named_parameters():
        grad = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        torch.testing.assert_close(grad, dense[name], rtol=1e-4, atol=1e-6)


def test_a_dropped_negative_makes_the_kept_ones_weigh_more() -> None:
    """Calibration survives dropping: predicted and observed clicks of the test part stay close."""
    log = planted_clicks(4000)
    settings = {**SHORT, "data": {"keep_negatives": 0.5}, "training": {**SHORT["training"], "epochs": 5}}
    made = recengine.fit("fm", log, settings=settings)
    assert isinstance(made, ClickRun)
    assert made.evaluate()["calibration"] == pytest.approx(1, abs=0.15)


def test_the_command_line_fits_evaluates_and_predicts(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from recengine.cli.app import app

    random = np.random.default_rng(0)
    frame = pl.DataFrame({"who": random.integers(0, 9, 400), "price": random.normal(size=400)})
    frame = frame.with_columns(clicked=(pl.col("price") > 0).cast(pl.Int8))
    frame.write_parquet(tmp_path / "table.parquet")
    sets = ["data.label=clicked", "data.group=who", "training.epochs=2", "model.hidden=[8]"]
    words = ["fit", "deepfm", "--data", str(tmp_path / "table.parquet"), "--out", str(tmp_path / "run")]
    words += [word for text in sets for word in ("--set", text)]
    done = CliRunner().invoke(app, [*words, "--report", str(tmp_path / "report.html")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "report.html").is_file()
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["metrics"]["auc"]["mean"] > 0.7
    out = tmp_path / "out.parquet"
    done = CliRunner().invoke(
        app, ["predict", str(tmp_path / "run"), str(tmp_path / "table.parquet"), "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    exact = pl.read_parquet(out)["probability"]
    assert exact.is_between(0, 1).all()
    asked = ["predict", str(tmp_path / "run"), str(tmp_path / "table.parquet"), "--out", str(out)]
    assert CliRunner().invoke(app, [*asked, "--precision", "bf16-mixed"]).exit_code == 0
    low = pl.read_parquet(out)["probability"]
    assert 0 < (low - exact).abs().max() < 1e-2  # type: ignore[operator]
    refused = CliRunner().invoke(app, [*asked, "--precision", "int8"])
    assert refused.exit_code == 2
    assert "expected: 32-true or bf16-mixed" in refused.output
    frame.drop("price").write_csv(tmp_path / "other.csv")
    done = CliRunner().invoke(
        app, ["predict", str(tmp_path / "run"), str(tmp_path / "other.csv"), "--out", str(out)]
    )
    assert done.exit_code == 2
    assert "price" in done.output
    frame[:0].write_parquet(tmp_path / "empty.parquet")
    for command in ("predict", "export"):
        asked = [command, str(tmp_path / "run"), str(tmp_path / "empty.parquet"), "--out", str(out)]
        done = CliRunner().invoke(app, asked)
        assert done.exit_code == 2
        assert "the table has no rows" in done.output
    done = CliRunner().invoke(
        app, [*words[:3], str(tmp_path / "table.parquet"), "--set", "data.label=clikced"]
    )
    assert done.exit_code == 2
    assert "did you mean 'clicked'" in done.output


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz"])
def test_a_long_table_is_scored_and_written_a_batch_at_a_time(
    run: ClickRun, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from recengine.cli.app import app

    one = planted_clicks(2000).frames[0]
    rows = pl.int_range(2 * ROWS + 1000, eager=True).alias("row")
    frame = one[(rows % one.height).to_numpy()].with_columns(rows, twelfth=rows / 12)
    place = tmp_path / f"asked{ending}"
    if ending == ".parquet":
        frame.write_parquet(place)
    else:
        joined = pl.col("tags", "seen").cast(pl.List(pl.String)).list.join("|")
        text = frame.with_columns(joined).write_csv().encode()
        place.write_bytes(gzip.compress(text, 1) if ending == ".csv.gz" else text)
    config = run.split.encoder.config
    expected = pl.concat(
        batch.with_columns(probability=run.predict(batch)) for batch in ClickLog.open(place, config).batches()
    )
    sizes, alive, given = [], [], []
    predict = ClickRun.predict

    def watched(self: ClickRun, batch: pl.DataFrame, **options: Any) -> Any:
        given.append(weakref.ref(batch))
        sizes.append(batch.height)
        alive.append(sum(one() is not None for one in given))
        return predict(self, batch, **options)

    monkeypatch.setattr(ClickRun, "predict", watched)
    # into the very file that is read
    done = CliRunner().invoke(app, ["predict", str(run.directory), str(place), "--out", str(place)])
    assert done.exit_code == 0, done.output
    assert f"{frame.height:,} rows" in done.output
    assert_frame_equal(pl.read_parquet(place), expected, check_exact=True)
    assert expected["row"].equals(rows)
    assert max(sizes) <= ROWS
    assert max(alive) <= 2 < len(alive)
    assert list(tmp_path.iterdir()) == [place]


def test_a_wrong_value_far_down_a_table_is_told_with_its_row(run: ClickRun, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from recengine.cli.app import app

    one = planted_clicks(2000).frames[0]
    rows = pl.int_range(ROWS + 1000, eager=True)
    spoilt = pl.when(rows == ROWS + 500).then(pl.lit("dear")).otherwise(pl.lit("1"))
    place, out = tmp_path / "asked.parquet", tmp_path / "out.parquet"
    one[(rows % one.height).to_numpy()].with_columns(price=spoilt).write_parquet(place)
    done = CliRunner().invoke(app, ["predict", str(run.directory), str(place), "--out", str(out)])
    assert done.exit_code == 2
    assert f"column 'price', row {ROWS + 500}:" in done.output


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (DataError("no number"), 2)])
def test_predictions_that_end_early_leave_the_old_file(
    run: ClickRun, stop: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from recengine.cli.app import app

    one = planted_clicks(2000).frames[0]
    asked, out = tmp_path / "asked.parquet", tmp_path / "out.parquet"
    pl.concat([one] * (ROWS // one.height + 1)).write_parquet(asked)
    out.write_bytes(b"old")
    predict = ClickRun.predict

    def once(self: ClickRun, batch: pl.DataFrame, **options: Any) -> Any:
        if batch.height < ROWS:
            raise stop
        return predict(self, batch, **options)

    monkeypatch.setattr(ClickRun, "predict", once)
    done = CliRunner().invoke(app, ["predict", str(run.directory), str(asked), "--out", str(out)])
    assert done.exit_code == code, done.output
    assert out.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [asked, out]


def test_a_damaged_split_is_told(run: ClickRun, tmp_path: Path) -> None:
    run_copy = tmp_path / "run"
    recengine.load(run.directory).save(run_copy)  # type: ignore[arg-type]
    (run_copy / "split" / "test" / "0.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="split of the run"):
        recengine.load(run_copy)


def test_prediction_of_a_table_without_a_feature_names_it(run: ClickRun) -> None:
    with pytest.raises(DataError, match="no column 'price'"):
        run.predict(planted_clicks(10).frames[0].drop("price"))


@pytest.mark.parametrize(
    "name",
    ["deepfm", "dcnv2", "autoint", "dlrm", "wukong", "rankmixer", "tokenmixer_large", "tokenmixer_large_moe"],
)
def test_scores_in_bfloat16_differ_little_and_do_not_tie(name: str) -> None:
    settings = {"training": {**SHORT["training"], "epochs": 5}}
    made = recengine.fit(name, prepare(planted_clicks(1500)), settings=settings)
    assert isinstance(made, ClickRun)
    asked = planted_clicks(2000, seed=1).frames[0]
    exact, low = made.predict(asked), made.predict(asked, precision="bf16-mixed")
    assert low.dtype == exact.dtype
    assert 0 < np.abs(low - exact).mean() < 2e-3
    assert np.unique(low).size > 0.95 * np.unique(exact).size
    labels = asked["label"].to_numpy()
    assert auc(labels, low) == pytest.approx(auc(labels, exact), abs=2e-3)
    with pytest.raises(UsageError, match="no precision to predict in") as told:
        made.predict(asked, precision="bf16-true")  # type: ignore[arg-type]
    assert told.value.expected == "32-true or bf16-mixed"


@pytest.mark.parametrize("name", ["fm", "dlrm"])
def test_click_models_learn_in_float64_and_refuse_bfloat16_weights(name: str) -> None:
    split = prepare(planted_clicks(300))
    precise = {"training": {**SHORT["training"], "precision": "64-true"}}
    made = recengine.fit(name, split, settings=precise)
    assert {value.dtype for value in made.model.parameters()} == {torch.float64}
    with pytest.raises(ConfigError, match="precision") as told:
        recengine.fit(name, split, settings={"training": {"precision": "bf16-true"}})
    assert "bf16-mixed" in str(told.value)


def test_an_open_log_needs_its_label() -> None:
    with pytest.raises(DataError, match="no column 'label'"):
        recengine.fit("lr", ClickLog.from_frame(pl.DataFrame({"a": [1, 2]})))


def test_the_learning_rate_falls_after_a_validation_that_is_not_better() -> None:
    steps = {"epochs": 10, "learning_rate": 0.3, "patience": 0}
    falling = {**SHORT["training"], **steps, "plateau_factor": 1e-9}
    made = recengine.fit("fm", prepare(planted_clicks(1500)), settings={"training": falling})
    found = [entry["auc"] for entry in made.history]
    worse = next(at for at in range(1, len(found)) if found[at] <= max(found[:at]))
    assert worse < len(found) - 2, "the test needs a fit that overshoots early"
    assert found[worse:] == pytest.approx([found[worse]] * len(found[worse:]), abs=1e-7), (
        "nothing moves any more"
    )
    steady = {**SHORT["training"], **steps}
    other = recengine.fit("fm", prepare(planted_clicks(1500)), settings={"training": steady})
    assert [entry["auc"] for entry in other.history][: worse + 1] == found[: worse + 1]
    assert other.history[worse + 1]["auc"] != found[worse + 1]
