"""``recengine recourse`` as a person uses it: answers, exit codes, errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("clarabel")
pytest.importorskip("recengine_plugins.ellice.method")
Cli = Callable[..., Any]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    n = 300
    age, income = rng.integers(20, 70, n), rng.normal(30, 8, n).round(1)
    home = rng.choice(["own", "rent", "free"], n)
    logit = 0.15 * (income - 30) + 0.02 * (age - 45) + np.where(home == "own", 0.8, -0.3)
    loan = np.where(rng.random(n) < 1 / (1 + np.exp(-logit)), "good", "bad")
    path = tmp_path_factory.mktemp("recourse") / "people.csv"
    pl.DataFrame({"age": age, "income": income, "home": home, "loan": loan}).write_csv(path)
    return path


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rules") / "rules.toml"
    path.write_text('[features.age]\ndirection = "up"\n[features.income]\nrange = [0, 60]\n')
    return path


def words(table: Path, *more: object) -> tuple[object, ...]:
    return ("recourse", "logistic", "--data", table, "--target", "loan", "--accept", "good", *more)


def refused(cli: Cli, table: Path) -> list[int]:
    answered = json.loads(cli(*words(table, "--all", "--json", "--eps", "0.002")).stdout)
    return [one["row"] for one in answered["answers"]]


def test_one_person_in_words_and_numbers(cli: Cli, table: Path, rules: Path, tmp_path: Path) -> None:
    row = refused(cli, table)[0]
    plot = tmp_path / "margin.svg"
    result = cli(*words(table, "--row", row, "--eps", "0.002", "-c", rules, "--plot", plot))
    assert result.exit_code == 0, result.output
    for said in ("What to change", "robustness margin", "guarantee: ellipsoid", "of eps* ="):
        assert said in result.stdout
    drawn = plot.read_text()
    assert drawn.startswith("<svg")
    assert "after the change" in drawn
    assert "cost of the cheapest answer" in drawn


def test_json_says_the_same_and_keeps_the_rules(cli: Cli, table: Path, rules: Path) -> None:
    row = refused(cli, table)[1]
    result = cli(*words(table, "--row", row, "--eps", "0.002", "-c", rules, "--json"))
    told = json.loads(result.stdout)
    [one] = told["answers"]
    assert one["certified"]
    assert one["worst_after"] > 0 > one["worst"]
    assert told["model"]["eps"] == pytest.approx(0.002)
    assert 0 < told["model"]["eps_share"] < 1
    for change in one["changes"]:
        if change["column"] == "age":
            assert change["by"] > 0
            assert change["after"] == round(change["after"])


@pytest.mark.parametrize(
    "more",
    [("--cost", "l1"), ("--cost", "changes"), ("--guarantee", "exact"), ("--guarantee", "sampled"),
     ("--ways", "3"), ("--supported",), ("--plausible", "0.9"), ("--fractions",), ("--eps", "chi2-1:0.9"),
     ("--eps", "0.3%")],
    ids=lambda more: " ".join(more),
)  # fmt: skip
def test_every_kind_of_answer(cli: Cli, table: Path, more: tuple[str, ...]) -> None:
    row = refused(cli, table)[2]
    given = ("--row", row, "--json", *(() if "--eps" in more else ("--eps", "0.002")), *more)
    result = cli(*words(table, *given))
    assert result.exit_code == 0, result.output
    answers = json.loads(result.stdout)["answers"]
    assert all(one["certified"] for one in answers)
    assert len(answers) == (3 if "--ways" in more else 1)
    if "--ways" in more:
        assert [one["cost"] for one in answers] == sorted(one["cost"] for one in answers)


def test_nobody_beyond_eps_star(cli: Cli, table: Path) -> None:
    result = cli(*words(table, "--row", 0, "--eps", "5"))
    assert result.exit_code == 2
    assert "nobody can have recourse" in result.stderr
    assert "ask for at most" in result.stderr


def test_no_way_out_is_exit_one_with_the_reason(cli: Cli, table: Path, tmp_path: Path) -> None:
    row = refused(cli, table)[0]
    frozen = tmp_path / "frozen.toml"
    frozen.write_text("".join(f"[features.{name}]\nimmutable = true\n" for name in ("age", "income", "home")))
    result = cli(*words(table, "--row", row, "--eps", "0.002", "-c", frozen))
    assert result.exit_code == 1
    assert "These rules alone leave no way" in result.stdout
    assert "immutable" in result.stdout
    both = tmp_path / "both.toml"
    both.write_text("[features.age]\nimmutable = true\n[[linear]]\ncoefficients = { age = 1 }\nat_most = 5\n")
    result = cli(*words(table, "--row", row, "--eps", "0.002", "-c", both))
    assert result.exit_code == 1
    assert "contradict each other" in result.stdout
    assert "age: immutable; linear limit 1" in result.stdout


def test_accepted_already(cli: Cli, table: Path) -> None:
    rows = set(range(300)) - set(refused(cli, table))
    result = cli(*words(table, "--row", min(rows), "--eps", "0.002"))
    assert result.exit_code == 0
    assert "accepted already" in result.stdout


def test_a_saved_model_answers_the_same(cli: Cli, table: Path, rules: Path, tmp_path: Path) -> None:
    row = refused(cli, table)[0]
    folder = tmp_path / "model"
    first = cli(*words(table, "--row", row, "--eps", "0.002", "-c", rules, "--json", "--save", folder))
    again = cli("recourse", folder, "--data", table, "--row", row, "--eps", "0.002", "-c", rules, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["answers"] == json.loads(first.stdout)["answers"]
    exact = cli("recourse", folder, "--data", table, "--row", row, "--guarantee", "exact")
    assert exact.exit_code == 2
    assert "training" in exact.stderr
    given = ("--eps", "0.002", "--train", table, "--guarantee", "exact", "--json")
    exact = cli("recourse", folder, "--data", table, "--row", row, *given)
    assert exact.exit_code == 0, exact.output


def test_a_net_and_a_table_of_answers(cli: Cli, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    given = ("--target", "loan", "--accept", "good", "--eps", "0.0005", "--hidden", "6", "--fractions")
    rows = [word for row in refused(cli, table)[:2] for word in ("--row", row)]
    result = cli("recourse", "mlp", "--data", table, *rows, *given, "--out", out)
    assert result.exit_code in (0, 1), result.output
    assert pl.read_csv(out).height == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("logistics", "--target", "loan"), "did you mean 'logistic'"),
        (("logistic",), "give --target COLUMN"),
        (("logistic", "--target", "laon"), "did you mean 'loan'"),
        (("logistic", "--target", "loan"), "give --accept CLASS"),
        (("logistic", "--target", "loan", "--accept", "godo"), "did you mean 'good'"),
        (("logistic", "--target", "income"), "no class label"),
        (("logistic", "--target", "loan", "--accept", "good", "--row", "900"), "no such row"),
        (("logistic", "--target", "loan", "--accept", "good", "--eps", "much"), "not an eps"),
        (("logistic", "--target", "loan", "--accept", "good", "--eps", "-3%"), "more than 0"),
        (("logistic", "--target", "loan", "--accept", "good", "--eps", "chi2:1.95"), "between 0 and 1"),
        (("logistic", "--target", "loan", "--accept", "good", "--cost", "l3"), "cost"),
        (("logistic", "--target", "loan", "--accept", "good", "--method", "elice"), "ellice"),
    ],
)
def test_errors_say_what_to_do(cli: Cli, table: Path, given: tuple[str, ...], said: str) -> None:
    result = cli("recourse", *given, "--data", table)
    assert result.exit_code == 2
    assert said in result.stderr


def test_tables_that_cannot_be_learnt_from(cli: Cli, table: Path, tmp_path: Path) -> None:
    frame = pl.read_csv(table)
    cases = {
        "one value only": frame.with_columns(flat=pl.lit(3)),
        "only one class": frame.with_columns(loan=pl.lit("good")),
        "missing or not finite": frame.with_columns(
            income=pl.when(pl.col("age") > 60).then(None).otherwise(pl.col("income"))
        ),
    }
    for said, bad in cases.items():
        path = tmp_path / "bad.csv"
        bad.write_csv(path)
        result = cli(*words(path, "--row", 0))
        assert result.exit_code == 2
        assert said in result.stderr
    unknown = tmp_path / "unknown.csv"
    frame.head(3).with_columns(home=pl.lit("castle")).write_csv(unknown)
    result = cli(*words(unknown, "--row", 0, "--train", table))
    assert result.exit_code == 2
    assert "a category that the model does not know" in result.stderr
    mixed = tmp_path / "mixed.csv"
    pl.concat([pl.read_csv(unknown), frame.head(3)], how="vertical_relaxed").write_csv(mixed)
    assert cli(*words(mixed, "--row", 4, "--train", table)).exit_code in (
        0,
        1,
    )
    result = cli(*words(mixed, "--row", 4, "--row", 1, "--train", table))
    assert result.exit_code == 2
    assert "row 1, column 'home'" in result.stderr


def test_a_sampled_answer_speaks_of_the_drawn_models(cli: Cli, table: Path) -> None:
    row = refused(cli, table)[2]
    asked = ("--row", row, "--eps", "0.002", "--guarantee", "sampled")
    [told] = json.loads(cli(*words(table, *asked, "--json")).stdout)["answers"]
    assert told["worst_after"] >= 0 > told["worst_undrawn"]
    assert "worst drawn model; of the whole ellipsoid" in cli(*words(table, *asked)).stdout


def test_the_nearest_row_may_not_be_there(cli: Cli, table: Path, tmp_path: Path) -> None:
    row = refused(cli, table)[0]
    nowhere = tmp_path / "nowhere.toml"
    nowhere.write_text("[[linear]]\ncoefficients = { income = 1 }\nat_most = 3\n")
    result = cli(*words(table, "--row", row, "--eps", "0.002", "--supported", "-c", nowhere))
    assert result.exit_code == 1
    assert "No training row within the constraints" in result.stdout
    assert cli(*words(table, "--save", tmp_path / "kept")).exit_code == 0
    bare = cli("recourse", tmp_path / "kept", "--data", table, "--row", row, "--eps", "0.002", "--supported")
    assert bare.exit_code == 2
    assert "needs the training rows" in bare.stderr


def test_a_search_that_was_cut_short_says_what_is_left(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n = 400
    frame = {f"c{k}": rng.choice(list("abcde"), n) for k in range(6)} | {"years": rng.integers(0, 9, n)}
    score = sum(np.isin(frame[f"c{k}"], ["a", "b"]) * (k - 2.0) for k in range(6)) + 0.2 * frame["years"]
    good = rng.random(n) < 1 / (1 + np.exp(-score + 1))
    path, out = tmp_path / "many.csv", tmp_path / "out.csv"
    pl.DataFrame(frame | {"loan": np.where(good, "good", "bad")}).write_csv(path)
    cut = ("--eps", "0.02", "--set", "nodes=1")
    result = cli(*words(path, "--all", "--out", out, *cut))
    assert "may not be the cheapest" in result.stdout, result.output
    left = pl.read_csv(out).filter(pl.col("gap") > 1e-6)
    row = int(left["row"][0])
    assert "A cheaper answer may exist" in cli(*words(path, "--row", row, *cut)).stdout
    whole = json.loads(cli(*words(path, "--row", row, "--eps", "0.02", "--json")).stdout)["answers"][0]
    assert whole["gap"] <= 1e-6
    assert left["cost"][0] * (1 - left["gap"][0]) <= whole["cost"] * (1 + 1e-9)
    assert whole["cost"] <= left["cost"][0] * (1 + 1e-9)


def test_refits_are_asked_too_and_only_of_nets(cli: Cli, table: Path, tmp_path: Path) -> None:
    row = refused(cli, table)[0]
    net = ("recourse", "mlp", "--data", table, "--target", "loan", "--accept", "good", "--hidden", "4")
    result = cli(*net, "--row", row, "--eps", "0.002", "--refits", "4", "--set", "deviations=1")
    assert "4 whole refits" in result.stdout, result.output
    asked = ("--eps", "0.002", "--set", "deviations=1", "--json")
    bare = json.loads(cli(*net, "--row", row, *asked).stdout)["answers"][0]
    first = cli(*net, "--row", row, "--refits", "4", *asked, "--save", tmp_path / "net")
    again = cli("recourse", tmp_path / "net", "--data", table, "--row", row, *asked)
    assert again.exit_code == first.exit_code == 0, again.output
    told = json.loads(first.stdout)["answers"][0]
    assert told["score"] == bare["score"] > told["worst"]  # the fitted net's own, whoever else is asked
    assert told["cost_unrobust"] == pytest.approx(bare["cost_unrobust"])
    assert json.loads(again.stdout)["answers"][0]["certified"]  # other starts without rows: maybe another way
    assert "4 whole refits" in json.loads(again.stdout)["model"]["guarantee_means"]
    wrong = cli(*words(table, "--row", row, "--refits", "4"))
    assert wrong.exit_code == 2
    assert "--refits" in wrong.output
