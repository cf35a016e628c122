"""compare, plan, reliability and tune as a person calls them, on a small generated table."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from recengine.cli.app import app
from recengine.ops._library import native

native()  # an editable installation builds on first use, which needs a real stdout
RUNNER = CliRunner()


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "events.csv"
    rows = []
    for user in range(120):
        liked = generator.permutation(30)[:8] + 30 * (user % 2)
        rows += [f"{user},{item},{step}" for step, item in enumerate(liked)]
    path.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    return path


def call(*arguments: str | Path) -> str:
    done = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_compare_fits_what_is_missing_and_goes_on(events: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    words = ["compare", "popularity", "bpr", "--data", events, "--seeds", "2", "--out", out, "--json"]
    quick = ["--set", "evaluation.cutoffs=[10]"]
    first = json.loads(call(*words, *quick))
    assert {path.name for path in out.iterdir() if path.is_dir()} == {
        "popularity-seed0",  # deterministic: one run stands for all
        "bpr-seed0",
        "bpr-seed1",
    }
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        f"comparison.{kind}" for kind in ("html", "json", "csv")
    }
    stamp = (out / "bpr-seed1" / "run.json").stat().st_mtime_ns
    again = json.loads(call(*words, *quick))
    assert (out / "bpr-seed1" / "run.json").stat().st_mtime_ns == stamp
    assert first == again
    assert {pair["metric"] for pair in first["pairs"]} >= {"ndcg@10", "hr@10"}
    assert all("crossed" in pair["test"]["method"] for pair in first["pairs"])
    text = call("compare", out)
    assert "popularity" in text
    assert "on ndcg@10" in text


def test_compare_refuses_two_protocols(events: Path, tmp_path: Path) -> None:
    call("fit", "popularity", "--data", events, "--out", tmp_path / "a")
    call("fit", "ease", "--data", events, "--out", tmp_path / "b", "--set", "evaluation.cutoffs=[5]")
    done = RUNNER.invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "b")])
    assert done.exit_code == 2
    assert "cutoffs" in done.output


def test_plan_from_a_pilot(events: Path, tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        call("fit", "bpr", "--data", events, "--seed", str(seed), "--out", tmp_path / f"p{seed}")
    made = json.loads(call("plan", "--delta", "0.05", "--pilot", tmp_path, "--cost", "2", "--json"))
    assert made["plan"]["curve"][0][0] == 2
    assert made["metric"] == "ndcg@10"
    call("fit", "popularity", "--data", events, "--out", tmp_path / "counts")
    words = ["plan", "--delta", "0.05", "--pilot", tmp_path, "--looks", "3,5", "--json"]
    both = json.loads(call(*words))
    assert "3 seeds" in both["pilot"]
    assert both["looks"]["3"] < both["looks"]["5"] < 0.05


def test_reliability_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(
        "task,run,score\n" + "".join(f"{t},{r},{int(t > r)}\n" for t in range(4) for r in range(3))
    )
    found = json.loads(call("reliability", path, "--json", "--draws", "100"))["runs"]
    assert found["tasks"] == 4
    assert found["envelope"][0]["best"]["estimate"] == pytest.approx(0.5)


def test_tune_goes_on_and_confirms(events: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.db"
    words = [
        "tune",
        "itemknn",
        "--data",
        events,
        "--tuner",
        "random",
        "--study",
        study,
        "--confirm",
        "1",
        "--json",
    ]
    short = json.loads(call(*words, "--trials", "2"))
    longer = json.loads(call(*words, "--trials", "4"))
    assert (short["trials"], longer["trials"]) == (2, 4)
    assert longer["best"]["value"] >= short["best"]["value"]
    assert len(longer["confirmation"]["default, the same seeds"]) == 1
    again = [tmp_path / "again.db" if word == study else word for word in words]
    warm = json.loads(call(*again, "--trials", "5", "--warm-start", study))
    assert warm["trials"] == 5
    assert warm["best"]["value"] >= longer["best"]["value"]


def test_tune_does_not_mix_data_or_settings_in_a_study(events: Path, tmp_path: Path) -> None:
    words = ["tune", "itemknn", "--tuner", "random", "--study", tmp_path / "s.db", "--confirm", "0"]
    words += ["--trials", "2"]
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("".join(events.read_text().splitlines(keepends=True)[:-5]))
    call(*words, "--data", events)
    assert "data = " in failed(*words, "--data", fewer)
    told = failed(*words, "--data", events, "--set", "split.strategy=ratio_time")
    assert "found: split.strategy = auto" in told
    asked = [*words, "--data", events, "--set", "evaluation.memory=1GiB"]
    assert "going on after 2 of 2 trials" in RUNNER.invoke(app, [str(word) for word in asked]).stderr


def test_tune_ends_hopeless_trials_early(events: Path, tmp_path: Path) -> None:
    from recengine.tuning import StudyFile

    words = ["tune", "sasrec", "--data", events, "--tuner", "random", "--trials", "12", "--confirm", "0"]
    words += ["--only", "training.learning_rate", "--range", "training.learning_rate=1e-7:1e-1", "--json"]
    for setting in ("model.hidden_dim=8", "model.n_blocks=1", "training.epochs=6", "training.patience=0"):
        words += ["--set", setting]
    call(*words, "--study", tmp_path / "early.db")
    trials = StudyFile(tmp_path / "early.db").trials("sasrec")
    assert {trial.state for trial in trials} == {"done", "stopped"}
    call(*words, "--study", tmp_path / "whole.db", "--to-the-end")
    assert {trial.state for trial in StudyFile(tmp_path / "whole.db").trials("sasrec")} == {"done"}


def test_tune_names_a_misspelt_setting(events: Path, tmp_path: Path) -> None:
    done = RUNNER.invoke(
        app,
        [
            "tune",
            "ease",
            "--data",
            str(events),
            "--fix",
            "model.regularisation",
            "--study",
            str(tmp_path / "s.db"),
        ],
    )
    assert done.exit_code == 2
    assert "model.regularization" in done.output


def test_tune_of_bad_data_leaves_no_study(tmp_path: Path) -> None:
    study = tmp_path / "s.db"
    assert "missing.csv" in failed("tune", "ease", "--data", tmp_path / "missing.csv", "--study", study)
    assert not study.exists()


def test_tune_tells_why_a_trial_failed_and_words_that_fit(events: Path, tmp_path: Path) -> None:
    sets = ["--set", "loss.name=psl", "--set", "training.epochs=1", "--set", "loss.negatives=2"]
    knobs = ["--only", "loss.negatives", "--only", "loss.temperature", "--range", "loss.negatives=2:50000"]
    words = ["--trials", "6", "--confirm", "0", "--study", tmp_path / "s.db", "--tuner", "sobol"]
    asked = ["tune", "mf", "--data", events, *sets, *knobs, *words]
    told = RUNNER.invoke(app, [str(word) for word in asked]).output
    assert "(failed: ConfigError: loss.negatives: there are fewer items" in told
    use = shlex.split(told.partition("use it with: ")[2].splitlines()[0])
    assert use[:2] == ["--set=loss.name=psl", "--set=training.epochs=1"]
    call("fit", "mf", "--data", events, *use, "--out", tmp_path / "run")


@pytest.mark.parametrize("items", [20, 40])
def test_tune_keeps_negatives_within_a_small_catalogue(items: int, tmp_path: Path) -> None:
    """Default and range of the negatives reach beyond it: no trial may fail of that."""
    rows = [f"u{user},i{(7 * user + 3 * step) % items},{step}" for user in range(40) for step in range(5)]
    table = tmp_path / "small.csv"
    table.write_text("\n".join(["user,item,time", *rows]))
    words = ["--trials", "3", "--confirm", "0", "--study", tmp_path / "s.db", "--tuner", "sobol"]
    short = ["--set", "training.epochs=1", "--fix", "training.epochs"]
    asked = [str(word) for word in ("tune", "mf", "--data", table, *short, *words)]
    done = RUNNER.invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert done.output.count("  best ndcg@10") == 3  # trials that gave a value
    searched = 6 if items > 32 else 5  # the range of the negatives begins at 32
    assert f"{searched} " in done.stdout.splitlines()[0]
    words[-3] = tmp_path / "t.db"
    if items < 32:
        only = ["--only", "loss.negatives"]
        assert f"--range loss.negatives=1:{items}" in failed(
            "tune", "mf", "--data", table, *short, *words, *only
        )
    assert "99" in failed("tune", "mf", "--data", table, *short, *words, "--set=loss.negatives=99")


def test_tune_says_when_nothing_is_to_be_changed(events: Path, tmp_path: Path) -> None:
    words = ["--trials", "1", "--confirm", "0", "--study", tmp_path / "s.db"]
    told = call("tune", "itemknn", "--data", events, "--tuner", "random", *words)
    assert "recommended: the default settings" in told
    assert "use it with" not in told


def test_tune_searches_no_training_of_a_model_that_solves_itself(events: Path, tmp_path: Path) -> None:
    words = [
        "tune",
        "ease",
        "--data",
        events,
        "--fix",
        "training.learning_rate",
        "--study",
        tmp_path / "s.db",
    ]
    assert "no tunable setting 'training.learning_rate'" in failed(*words)


def test_tune_keeps_the_default_unless_the_gain_holds_on_earlier_events(events: Path, tmp_path: Path) -> None:
    words = ["--trials", "4", "--confirm", "0", "--study", tmp_path / "s.db", "--tuner", "sobol"]
    asked = ["tune", "itemknn", "--data", events, *words, "--judge", "1", "--json"]
    made = json.loads(call(*asked))
    decision = made["decision"]
    if decision is None:
        assert made["changed"] == []
    else:
        assert decision["adopted"] == (decision["test"]["low"] > 0)
        assert bool(made["changed"]) == decision["adopted"]
        assert "judged by earlier events: gain" in call(*asked[:-1], "--report", tmp_path / "p.html")
        assert "judged by earlier events" in (tmp_path / "p.html").read_text()
    assert "--judge" in failed(*asked[:-2], "-1")


@pytest.mark.parametrize("tuner", ["random", "bonsai"])
def test_one_trial_recommends_the_default(tuner: str, events: Path, tmp_path: Path) -> None:
    words = ["--tuner", tuner, "--trials", "1", "--confirm", "0", "--study", tmp_path / "s.db"]
    assert "recommended: the default settings" in call("tune", "itemknn", "--data", events, *words)


@pytest.mark.parametrize(
    ("text", "terms", "at_most"),
    [
        ("a.b + 2*c <= 5", (("a.b", 1.0), ("c", 2.0)), 5.0),
        ("a - 0.5*b >= 1", (("a", -1.0), ("b", 0.5)), -1.0),
    ],
)
def test_limits_are_read(text: str, terms: tuple[tuple[str, float], ...], at_most: float) -> None:
    from recengine.cli.search_space import linear_limit

    limit = linear_limit(text)
    assert limit.coefficients == terms
    assert limit.at_most == at_most


def failed(*arguments: str | Path) -> str:
    done = RUNNER.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 2, done.output
    return done.output


def test_compare_refuses_runs_of_other_settings_or_data(events: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    words = ["compare", "bpr", "popularity", "--data", events, "--seeds", "2", "--out", out]
    call(*words, "--no-report")
    assert sorted(path.name for path in out.iterdir()) == ["bpr-seed0", "bpr-seed1", "popularity-seed0"]
    assert "model.factors = 64 (asked: 8)" in failed(*words, "--set", "model.factors=8")
    other = tmp_path / "other.csv"
    other.write_text(events.read_text())
    assert "made from other data" in failed("compare", "bpr", "--data", other, "--seeds", "2", "--out", out)


def test_compare_in_workers_gives_the_same_numbers(events: Path, tmp_path: Path) -> None:
    words = [
        "compare",
        "bpr",
        "ials",
        "--data",
        events,
        "--seeds",
        "2",
        "--json",
        "--set",
        "evaluation.cutoffs=[10]",
    ]
    here = json.loads(call(*words, "--out", tmp_path / "here", "--stability"))
    there = json.loads(call(*words, "--out", tmp_path / "there", "--workers", "2"))
    assert here["pairs"] == there["pairs"]
    assert 0 < here["stability"]["bpr"][0] <= 1


def test_a_killed_compare_goes_on(events: Path, tmp_path: Path) -> None:
    """As a kill leaves it: one run whole, one with its evaluation half written, one not begun."""
    words = ["compare", "bpr", "popularity", "--data", events, "--seeds", "3", "--out", tmp_path, "--json"]
    before = json.loads(call(*words))
    (tmp_path / "bpr-seed1" / "evaluation.json").unlink()
    shutil.rmtree(tmp_path / "bpr-seed2")
    stamp = (tmp_path / "bpr-seed0" / "run.json").stat().st_mtime_ns
    assert json.loads(call(*words))["pairs"] == before["pairs"]
    assert (tmp_path / "bpr-seed0" / "run.json").stat().st_mtime_ns == stamp


def test_a_damaged_evaluation_is_named_and_measured_again(events: Path, tmp_path: Path) -> None:
    call("fit", "popularity", "--data", events, "--out", tmp_path)
    told = call("evaluate", tmp_path)
    (tmp_path / "evaluation.json").write_text('{"protocol')
    failed = RUNNER.invoke(app, ["compare", str(tmp_path)])
    assert failed.exit_code == 2
    assert "evaluation.json" in failed.output
    assert "--task test" in failed.output
    assert call("evaluate", tmp_path) == told


def test_looks_stop_when_all_is_decided(events: Path, tmp_path: Path) -> None:
    words = ["compare", "bpr", "random", "--data", events, "--out", tmp_path, "--metric", "ndcg@10", "--json"]
    found = json.loads(call(*words, "--looks", "3,5"))
    assert found["pairs"][0]["verdict"]["outcome"] == "better"
    assert found["look"]["number"] == 1
    assert found["look"]["level"] < 0.05
    assert not (tmp_path / "bpr-seed3").exists()
    assert "numbers of seeds" in failed(*words, "--looks", "three")
    assert "ascend" in failed(*words, "--looks", "5,3")


def test_names_that_are_neither_folder_nor_model(events: Path, tmp_path: Path) -> None:
    said = failed("compare", "baipr", "bpr", "--data", events, "--out", tmp_path)
    assert "no such folder and no such model" in said
    assert "'bpr'" in said
    assert "did you mean 'holm'" in failed("compare", "bpr", "--data", events, "--correction", "holmes")


def test_gate_only_fails_on_a_sure_loss(events: Path, tmp_path: Path) -> None:
    words = [
        "compare",
        "random",
        "bpr",
        "--data",
        events,
        "--seeds",
        "3",
        "--out",
        tmp_path,
        "--metric",
        "ndcg@10",
    ]
    done = RUNNER.invoke(app, [str(word) for word in [*words, "--fail-below", "0.01"]])
    assert done.exit_code == 1
    assert "gate: random loses at least" in done.output
    call(*words, "--fail-below", "0.99")


def test_reports_of_a_table_and_of_a_study(events: Path, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    rows = "".join(f"{t},{r},{int(t > r)}\n" for t in range(4) for r in range(3))
    path.write_text("task,run,score\n" + rows)
    call("reliability", path, "--draws", "100", "--report", tmp_path / "r.html")
    assert "pass^k (all)" in (tmp_path / "r.html").read_text()
    words = ["tune", "itemknn", "--data", events, "--tuner", "random", "--study", tmp_path / "s.db"]
    call(*words, "--trials", "3", "--confirm", "1", "--report", tmp_path / "s.html")
    page = (tmp_path / "s.html").read_text()
    for expected in ("Tuning itemknn on events.csv", "Leakage audit", "Two tables can be compared only if"):
        assert expected in page
    assert (tmp_path / "s.csv").is_file()


def test_a_mistyped_metric_of_tune_leaves_no_study(events: Path, tmp_path: Path) -> None:
    words = ["tune", "itemknn", "--data", events, "--tuner", "random", "--study", tmp_path / "s.db"]
    words += ["--trials", "1", "--confirm", "0"]
    said = failed(*words, "--metric", "ndgc@10")
    assert "the metric is not measured" in said
    assert "did you mean 'ndcg@10'" in said
    assert not (tmp_path / "s.db").exists()
    call(*words, "--metric", "hr@10")


def test_tune_confirms_its_recommendation_and_keeps_to_the_settings_of_its_tuner(
    events: Path, tmp_path: Path
) -> None:
    pytest.importorskip("botorch")
    from recengine.tuning import StudyFile

    words = [
        "tune",
        "itemknn",
        "--data",
        events,
        "--study",
        tmp_path / "s.db",
        "--confirm",
        "0",
        "--trials",
        "6",
    ]
    words += ["--default-repeats", "2", "--tuner-set", "initial=4", "--tuner-set", "raw_samples=32"]
    words += ["--tuner-set", "restarts=2", "--json"]
    made = json.loads(call(*words))
    assert made["trials"] == 6
    trials = StudyFile(tmp_path / "s.db").trials("itemknn")
    spent = [trial.number for trial in trials if trial.confirmation]
    assert [one["number"] for one in made["confirmations"]] == spent
    assert len(trials) == 6 + len(spent) <= 8
    assert made["recommended"] in [trial.parameters for trial in trials]
    assert trials[0].parameters == trials[1].parameters
    assert trials[0].seed != trials[1].seed
    assert made["noise"]["freedom"] >= 1
    again = json.loads(call(*words))
    assert (again["recommended"], again["confirmations"]) == (made["recommended"], made["confirmations"])
    said = failed(*words, "--tuner-set", "rho=0.1")
    assert "rho = its default" in said
    assert "rho = 0.1" in said
    assert "default_repeats = 2" in failed(*words, "--default-repeats", "1")
    whole = json.loads(call(*words, "--study", tmp_path / "none.db", "--confirmations", "0"))
    assert whole["confirmations"] == []
    assert "--confirmations" in failed(*words, "--confirmations", "4")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("rh=0.1", "did you mean 'rho'"),
        ("rho=much", "rho"),
        ("rho=2", "rho"),
        ("rho", "for example --tuner-set rho=0.1"),
    ],
)
def test_bad_settings_of_a_tuner_leave_no_study(asked: str, said: str, events: Path, tmp_path: Path) -> None:
    words = ["tune", "itemknn", "--data", events, "--study", tmp_path / "s.db", "--trials", "1"]
    told = failed(*words, "--tuner-set", asked)
    assert said in told
    assert "--tuner-set" in told
    assert not (tmp_path / "s.db").exists()
    assert "given twice" in failed(*words, "--tuner-set", "rho=0.1", "--tuner-set", "rho=0.2")
