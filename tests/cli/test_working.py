"""Commands that work: fit, evaluate, recommend, compare, reproduce, data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import recengine
from recengine.evaluation import Protocol
from recengine.serving.rankers import Program, load_package
from recengine.testing import planted, planted_clicks


def test_fit_leaves_a_whole_run(small_run: Path) -> None:
    names = {path.name for path in small_run.iterdir()}
    assert names >= {"run.json", "config.toml", "model.safetensors", "history.jsonl", "source.json", "split"}
    settings = (small_run / "config.toml").read_text()
    assert "hidden_dim = 8" in settings
    assert "epochs = 2" in settings
    assert json.loads((small_run / "run.json").read_text())["seed"] == 3


def test_fit_speaks_json(cli: Any, small_table: Path, tmp_path: Path) -> None:
    result = cli("fit", "ease", "--data", small_table, "--out", tmp_path / "r", "--json")
    report = json.loads(result.stdout)
    assert report["model"] == "ease"
    assert Path(report["run"]) == tmp_path / "r"
    assert 0 <= report["validation"]["ndcg@10"]["mean"] <= 1


def test_fit_prints_only_the_folder_on_stdout(cli: Any, small_table: Path, tmp_path: Path) -> None:
    result = cli("fit", "popularity", "-d", small_table, "--out", tmp_path / "r")
    assert result.stdout == f"{tmp_path / 'r'}\n"
    assert "recengine evaluate" in result.stderr


def test_the_command_line_wins_over_the_file(cli: Any, small_table: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("model: {regularization: 5, nonnegative: true}\n")
    words = ("fit", "ease", "-d", small_table, "--config", file, "--set", "model.regularization=7")
    assert cli(*words, "--out", tmp_path / "r").exit_code == 0
    model = json.loads((tmp_path / "r" / "run.json").read_text())["config"]["model"]
    assert (model["regularization"], model["nonnegative"]) == (7.0, True)


@pytest.mark.parametrize(
    ("words", "problem", "fix"),
    [
        (("sasrce", "-d", "DATA"), "there is no model 'sasrce'", "did you mean 'sasrec'?"),
        (("ease", "-d", "nowhere.csv"), "nowhere.csv: there is no such file", "datasets list"),
        (("ease", "-d", "grocereis"), "grocereis: there is no such file", "did you mean 'groceries'?"),
        (
            ("ease", "-d", "DATA", "--set", "model.regularisation=3"),
            "model.regularisation",
            "regularization'?",
        ),
        (("ease", "-d", "DATA", "--set", "model.regularization=-1"), "is not valid", "model.regularization"),
        (("ease", "-d", "DATA", "--set", "modle.regularization=1"), "unknown setting 'modle'", "'model'"),
        (("ease", "-d", "DATA", "--set", "nonsense"), "a setting is written a.b=value", "--set"),
        (
            ("ease", "-d", "DATA", "--config", "no.toml"),
            "no.toml: there is no such settings file",
            "--config",
        ),
        (("ease", "-d", "DATA", "--data-option", "tiem=x"), "tiem", "time"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    cli: Any, small_table: Path, tmp_path: Path, words: tuple[str, ...], problem: str, fix: str
) -> None:
    given = [str(small_table) if word == "DATA" else word for word in words]
    result = cli("fit", *given, "--out", tmp_path / "r")
    assert result.exit_code == 2, result.output
    assert problem in result.stderr
    assert fix in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "r").exists()


def test_a_folder_with_a_run_is_not_overwritten(cli: Any, small_table: Path, small_run: Path) -> None:
    before = (small_run / "run.json").read_bytes()
    result = cli("fit", "sasrec", "-d", small_table, "--out", small_run)
    assert result.exit_code == 2
    assert "already holds a run" in result.stderr
    assert (small_run / "run.json").read_bytes() == before


def test_evaluate_prints_intervals_and_the_protocol(cli: Any, small_run: Path) -> None:
    report = json.loads(cli("evaluate", small_run, "--cutoff", "5", "--metric", "ndcg", "--json").stdout)
    row = report["metrics"]["ndcg@5"]
    assert row["low"] <= row["mean"] <= row["high"]
    assert row["n"] == 60
    shown = cli("evaluate", small_run)
    assert "ndcg@10" in shown.stdout
    assert "protocol: test, full ranking" in shown.stderr
    assert (small_run / "per_user.parquet").is_file()


def test_evaluate_says_what_it_replaces(cli: Any, small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    cli("evaluate", run)
    done = cli("evaluate", run, "--metric", "hr", "--cutoff", "3")
    assert "in place of what was measured before (" in done.stderr
    assert "ndcg@10" in done.stderr
    assert "in place of" not in cli("evaluate", run).stderr


def test_evaluate_among_sampled_candidates_is_labelled_and_not_kept(
    cli: Any, small_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    cli("evaluate", run)
    kept = (run / "evaluation.json").read_bytes()
    found = json.loads(cli("evaluate", run, "--candidates", "uniform-5", "--json").stdout)
    assert "SAMPLED candidates (uniform-5)" in found["protocol"]
    whole = json.loads(cli("evaluate", run, "--json").stdout)
    assert "full ranking" in whole["protocol"]
    assert found["metrics"]["ndcg@10"]["mean"] > whole["metrics"]["ndcg@10"]["mean"]
    shown = cli("evaluate", run, "--candidates", "popularity-5", "-m", "hr", "-k", "3")
    assert "SAMPLED candidates (popularity-5)" in shown.stdout
    assert "SAMPLED candidates (popularity-5)" in shown.stderr
    assert "in place of" not in shown.stderr
    recengine.load(run).evaluate(protocol=Protocol(candidates="uniform-5"))  # nor where a protocol says so
    assert (run / "evaluation.json").read_bytes() == kept


@pytest.mark.parametrize(("candidates", "told"), [("some-5", "candidate set"), ("uniform-30", "30 items")])
def test_evaluate_refuses_other_candidates(cli: Any, small_run: Path, candidates: str, told: str) -> None:
    result = cli("evaluate", small_run, "--candidates", candidates)
    assert result.exit_code == 2
    assert told in result.stderr


def test_evaluate_what_is_no_run(cli: Any, tmp_path: Path) -> None:
    result = cli("evaluate", tmp_path)
    assert result.exit_code == 2
    assert "there is no finished run in this folder" in result.stderr


def test_recommend_for_a_user_and_for_a_history(cli: Any, small_run: Path) -> None:
    known = json.loads(cli("recommend", small_run, "--user", "u1", "-k", "4", "--json").stdout)
    assert [row["rank"] for row in known] == [1, 2, 3, 4]
    fresh = json.loads(cli("recommend", small_run, "--history", "1,2", "-k", "3", "--json").stdout)
    assert len({row["item"] for row in fresh}) == 3
    assert not {row["item"] for row in fresh} & {1, 2}
    assert len(json.loads(cli("recommend", small_run, "--history", "", "--json").stdout)) == 10


def test_resuming_nothing_is_said(cli: Any, small_table: Path, tmp_path: Path) -> None:
    words = ("fit", "popularity", "--data", small_table, "--out", tmp_path / "mistyped", "--resume")
    assert "mistyped: there is no checkpoint to go on from" in cli(*words).stderr


def test_an_id_with_a_comma_stands_in_quotes(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "quoted.csv"
    path.write_text("user,item\n" + "".join(f'{n % 9},"tea, {n % 5}"\n' for n in range(60)))
    assert cli("fit", "popularity", "--data", path, "--out", tmp_path / "run").exit_code == 0
    told = cli("recommend", tmp_path / "run", "--history", '"tea, 1", "tea, 2"', "--json")
    assert not {row["item"] for row in json.loads(told.stdout)} & {"tea, 1", "tea, 2"}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--user", "nobody"), "users that the run does not know"),
        (("--user", "nobody"), "--history a,b,c"),
        (("--history", "1,99999"), "items that the run does not know"),
        (("--history", "1,two"), "whole numbers"),
        ((), "say whom to recommend for"),
        (("--user", "u1", "--history", "1"), "say whom to recommend for"),
    ],
)
def test_recommend_names_what_it_does_not_know(
    cli: Any, small_run: Path, words: tuple[str, ...], problem: str
) -> None:
    result = cli("recommend", small_run, *words)
    assert result.exit_code == 2
    assert problem in result.stderr


def test_reproduce_gives_the_same_weights(cli: Any, small_run: Path) -> None:
    result = cli("reproduce", small_run / "run.json", "--json")
    assert json.loads(result.stdout)["identical"] is True, result.output


def test_reproduce_takes_click_models(cli: Any, tmp_path: Path) -> None:
    table, folder = tmp_path / "clicks.parquet", tmp_path / "run"
    planted_clicks(300).frames[0].write_parquet(table)
    short = ("--set", "training.epochs=1", "--set", "training.device=cpu")
    assert cli("fit", "fm", "--data", table, *short, "--out", folder).exit_code == 0
    named = cli("reproduce", folder, "--data", table, "--json")
    assert json.loads(named.stdout)["identical"], named.stderr
    kept = cli("reproduce", folder)
    assert kept.exit_code == 0, kept.stderr
    shutil.rmtree(folder / "split")
    again = cli("reproduce", folder / "run.json", "--json")
    assert json.loads(again.stdout)["identical"], again.stderr


def test_reproduce_says_when_the_data_is_another(
    cli: Any, small_table: Path, small_run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    other.write_text(small_table.read_text().replace("u0,", "u1,"))
    result = cli("reproduce", small_run, "--data", other)
    assert result.exit_code == 1
    assert "data differ" in result.stderr


def test_data_describe_says_what_it_guessed(cli: Any, small_table: Path) -> None:
    facts = json.loads(cli("data", "describe", small_table, "--json").stdout)
    assert (facts["users"], facts["items"], facts["events"]) == (60, 30, 480)
    assert any("time" in sentence for sentence in facts["reader"]["guessed"])
    assert "events_per_user" in cli("data", "describe", small_table).stdout


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ""])
def test_data_converts_without_loss(cli: Any, small_table: Path, tmp_path: Path, suffix: str) -> None:
    from recengine.data import read

    out = tmp_path / f"copy{suffix}"
    assert cli("data", "convert", small_table, out).exit_code == 0
    one, other = read(small_table), read(out)
    assert np.array_equal(one.user, other.user)
    assert np.array_equal(one.item, other.item)
    assert one.time is not None
    assert other.time is not None
    assert np.array_equal(one.time, other.time)


def test_converted_ties_are_shuffled_once_not_back(cli: Any, tmp_path: Path) -> None:
    from recengine.data import read

    table = tmp_path / "tied.csv"
    rows = [f"{user},{item},1" for user in range(200) for item in range(user, user + 4)]
    table.write_text("user,item,time\n" + "\n".join(rows) + "\n")
    cli("data", "convert", table, tmp_path / "copy.csv")
    assert np.array_equal(read(table).item, read(tmp_path / "copy.csv").item)


def test_data_convert_knows_its_formats(cli: Any, small_table: Path, tmp_path: Path) -> None:
    result = cli("data", "convert", small_table, tmp_path / "x.xls")
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_split_can_be_kept_and_used(cli: Any, small_table: Path, tmp_path: Path) -> None:
    kept = cli(
        "data", "split", small_table, "--out", tmp_path / "s", "--set", "strategy=leave_one_out", "--json"
    )
    assert json.loads(kept.stdout)["test_users"] == 60
    assert cli("fit", "popularity", "-d", tmp_path / "s", "--out", tmp_path / "r").exit_code == 0
    again = cli("data", "split", small_table, "--out", tmp_path / "s")
    assert again.exit_code == 2


def test_data_audit_passes_clean_data_and_fails_leaks(cli: Any, small_table: Path, tmp_path: Path) -> None:
    assert cli("data", "audit", small_table).exit_code == 0
    leaky = tmp_path / "leaky.csv"
    rows = [f"{user},{item},1" for user in range(300) for item in range(user % 7, user % 7 + 6)]
    leaky.write_text("user,item,time\n" + "\n".join(rows) + "\n")
    result = cli("data", "audit", leaky, "--data-option", "ties=rows", "--json")
    assert result.exit_code == 3, result.output
    assert json.loads(result.stdout)["ok"] is False


def test_public_sets_are_listed_with_their_licence(cli: Any) -> None:
    listed = json.loads(cli("data", "fetch", "--json").stdout)
    assert all(entry["licence"] for entry in listed)
    assert "ml-latest-small" in cli("data", "fetch").stdout


def test_rerank_measures_both_stages_and_writes_a_page(cli: Any, tmp_path: Path) -> None:
    world = planted(events=8, items_per_group=16)
    train = world.split.train
    recengine.fit("popularity", world.split, directory=tmp_path / "first")
    users = pl.DataFrame({"user": train.users.tokens, "taste": [f"g{g}" for g in world.group_of_user]})
    items = pl.DataFrame({"item": train.items.tokens, "kind": [f"k{g}" for g in world.group_of_item]})
    users.write_csv(tmp_path / "users.csv")
    items.write_parquet(tmp_path / "items.parquet")
    tables = ["--users", tmp_path / "users.csv", "--items", tmp_path / "items.parquet", "--top", 40, "-k", 5]
    quick = ["--set", "training.epochs=4", "--set", "training.learning_rate=0.05"]
    told = cli("rerank", tmp_path / "first", "fm", *tables, *quick, "--out", tmp_path / "out", "--json")
    shares = json.loads(told.stdout)["shares"]
    assert shares["after"]["mean"] > shares["before"]["mean"]
    page = (tmp_path / "out" / "rerank.html").read_text()
    assert "Stage by stage" in page
    assert "first 5 after the second stage" in page
    saved = ("rerank", tmp_path / "first", tmp_path / "out" / "ranker", "--out", tmp_path / "again")
    assert json.loads(cli(*saved, *tables, "--json").stdout)["shares"] == shares
    for words, problem in (
        (("fm", "--users", tmp_path / "items.parquet"), "no column 'user'"),
        (("ease",), "'ease' predicts no clicks"),
        ((tmp_path / "out" / "ranker", "--users", tmp_path / "users.csv"), "in no table"),
        ((tmp_path / "first",), "predicts no clicks"),
    ):
        refused = cli("rerank", tmp_path / "first", *words, "--out", tmp_path / "other")
        assert refused.exit_code == 2
        assert problem in refused.stderr
    assert cli("rerank", tmp_path / "out" / "ranker", "fm").exit_code == 2


def test_rerank_refuses_before_it_fits(cli: Any, tmp_path: Path) -> None:
    recengine.fit("popularity", planted(events=8).split, directory=tmp_path / "first")
    for words, problem in (
        (("--task", "tset"), "found: tset"),
        (("--top", 5, "-k", 6), "no longer than what was retrieved"),
        (("--task", "validation"), "learns from the validation users"),
        (("--context", "daytime"), "for example --context daytime=evening"),
    ):
        refused = cli("rerank", tmp_path / "first", "lr", *words, "--out", tmp_path / "out")
        assert refused.exit_code == 2
        assert problem in refused.stderr
        assert "fitting" not in refused.stderr
        assert not (tmp_path / "out").exists()


def test_rerank_takes_ids_of_a_csv_file_as_text(cli: Any, tmp_path: Path) -> None:
    """An id such as "003" is not the number 3."""
    log = ["user,item,time", *(f"0{u},0{(u + step) % 9},{step}" for u in range(30) for step in range(6))]
    (tmp_path / "log.csv").write_text("\n".join(log) + "\n")
    (tmp_path / "users.csv").write_text("user,age\n" + "".join(f"0{u},{u}\n" for u in range(30)))
    (tmp_path / "items.csv").write_text("item,kind\n" + "".join(f"0{i},k{i % 3}\n" for i in range(9)))
    words = ("fit", "popularity", "--data", tmp_path / "log.csv", "--out", tmp_path / "first")
    assert cli(*words).exit_code == 0
    tables = ("--users", tmp_path / "users.csv", "--items", tmp_path / "items.csv", "--top", 9, "-k", 2)
    told = cli("rerank", tmp_path / "first", "lr", *tables, "--out", tmp_path / "out", "--json")
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout)["shares"]["found"]["mean"] > 0


def test_a_click_model_is_exported_and_checked(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "clicks.parquet"
    planted_clicks(300).frames[0].write_parquet(table)
    words = ("fit", "fm", "--data", table, "--set", "training.epochs=1", "--out", tmp_path / "run")
    assert cli(*words).exit_code == 0
    for form in ([], ["--compiled"]):
        told = cli("export", tmp_path / "run", table, "--out", tmp_path / "ranker.pt2", *form)
        assert told.exit_code == 0
        assert float(told.stderr.rsplit(maxsplit=1)[-1]) <= 1e-5
    assert load_package(tmp_path / "ranker.pt2")
    with monkeypatch.context() as patched:
        patched.setattr(Program, "__call__", lambda program, features: torch.full((300,), float("nan")))
        wrong = cli("export", tmp_path / "run", table, "--out", tmp_path / "wrong.pt2")
        over = cli("export", tmp_path / "run", table, "--out", tmp_path / "ranker.pt2")
    assert wrong.exit_code == over.exit_code == 1
    assert "does not score as the run does" in wrong.stderr
    assert not (tmp_path / "wrong.pt2").exists()
    assert load_package(tmp_path / "ranker.pt2")  # the good one from before
    with monkeypatch.context() as patched:  # a little off: more than float32 in another order
        score = Program.__call__
        patched.setattr(Program, "__call__", lambda program, features: score(program, features) + 3e-5)
        off = cli("export", tmp_path / "run", table, "--out", tmp_path / "off.pt2")
    assert off.exit_code == 1
    assert "at most 1e-05" in off.stderr
    assert not (tmp_path / "off.pt2").exists()
    assert not list(tmp_path.glob(".*"))
    pl.read_parquet(table)[:1].write_parquet(tmp_path / "one.parquet")
    short = cli("export", tmp_path / "run", tmp_path / "one.parquet", "--out", tmp_path / "none.pt2")
    assert short.exit_code == 2
    assert "two rows or more" in short.stderr
    assert not (tmp_path / "none.pt2").exists()


def test_what_was_guessed_is_said(cli: Any, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,sku,bought\n" + "".join(f"{n % 5},{n % 7},{n}\n" for n in range(40)))
    words = ("fit", "popularity", "--data", path, "--json")
    silent = cli(*words, "--out", tmp_path / "a")
    assert "log.csv: user = user, item = sku, no time (--data-option time=COLUMN" in silent.stderr
    assert "columns not used: bought" in silent.stderr
    named = cli(*words, "--out", tmp_path / "b", "--data-option", "time=bought")
    assert "time = bought\n" in named.stderr
    json.loads(named.stdout)
    wrong = cli(*words, "--out", tmp_path / "c", "--data-option", "time")
    assert "--data-option time: an option is written a=b" in wrong.stderr


def test_a_kept_split_can_be_tuned_on(cli: Any, small_table: Path, tmp_path: Path) -> None:
    assert cli("data", "split", small_table, "--out", tmp_path / "kept").exit_code == 0
    words = ("--tuner", "random", "--trials", "2", "--confirm", "0", "--study", tmp_path / "s.db")
    assert "best" in cli("tune", "itemknn", "--data", tmp_path / "kept", *words, "--json").stdout


def test_compare_goes_on_where_the_data_changed_a_default(
    cli: Any, small_table: Path, tmp_path: Path
) -> None:
    words = (
        "compare",
        "mf",
        "--data",
        small_table,
        "--seeds",
        1,
        "--out",
        tmp_path,
        "--set",
        "training.epochs=1",
    )
    assert cli(*words).exit_code == 0
    assert recengine.load(tmp_path / "mf-seed0").config.loss.negatives == 30
    again = cli(*words)
    assert again.exit_code == 0, again.stderr
    assert "fitting" not in again.stderr


def test_click_models_are_compared_planned_and_tuned(cli: Any, tmp_path: Path) -> None:
    planted_clicks(1500).frames[0].write_parquet(tmp_path / "clicks.parquet")
    data = ("--data", tmp_path / "clicks.parquet", "--set", "training.epochs=2")
    told = cli("compare", "lr", "fm", *data, "--seeds", 2, "--out", tmp_path / "c", "--json")
    pairs = json.loads(told.stdout)["pairs"]
    assert {pair["metric"] for pair in pairs} == {"auc", "log_likelihood"}
    once_more = cli("compare", "lr", "fm", *data, "--seeds", 2, "--out", tmp_path / "c", "--json")
    assert "fitting" not in once_more.stderr
    assert json.loads(once_more.stdout)["pairs"] == pairs
    other = cli("compare", "lr", *data, "--set", "training.batch_size=64", "--out", tmp_path / "c")
    assert "training.batch_size = 2048 (asked: 64)" in other.stderr
    runs = [recengine.load(tmp_path / "c" / f"{name}-seed0").evaluate()["auc"] for name in ("lr", "fm")]
    again = cli(
        "compare", *(tmp_path / "c" / f"{name}-seed0" for name in ("lr", "fm")), "--no-report", "--json"
    )
    assert json.loads(again.stdout)["pairs"][0]["test"]["difference"] == pytest.approx(runs[0] - runs[1])
    planned = cli("plan", "--pilot", tmp_path / "c" / "lr-seed0", "--pilot", tmp_path / "c" / "lr-seed1",
                  "--metric", "auc", "--delta", "0.05", "--json")  # fmt: skip
    assert json.loads(planned.stdout)["metric"] == "auc"
    mixed = cli("compare", "lr", "popularity", *data, "--out", tmp_path / "m")
    assert mixed.exit_code == 2
    assert "learn from different data" in mixed.stderr
    no_list = cli("recommend", tmp_path / "c" / "fm-seed0", "--user", "1")
    assert no_list.exit_code == 2
    assert "'fm' predicts clicks of rows" in no_list.stderr
    study = (
        "--study",
        tmp_path / "s.db",
        "--tuner",
        "random",
        "--trials",
        2,
        "--confirm",
        1,
        "--report",
        tmp_path / "s.html",
    )
    tuned = cli("tune", "fm", *data, *study, "--json")
    assert 0 < json.loads(tuned.stdout)["best"]["value"] < 1
    assert "auc" in (tmp_path / "s.html").read_text()
    refused = cli("tune", "fm", *data, "--metric", "log_loss", "--study", tmp_path / "t.db")
    assert refused.exit_code == 2
