"""The study of losses: equal numbers of trials, and which ratio a claim takes."""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench" / "collaborative"))

import bench_dsl
import bench_published
import dsl_report
from cells import Cell, Outcome, keep
from dsl_courses import COURSES, LOSSES, chosen, final, trials
from dsl_report import figures, kept_form


def made(cell: Cell, validation: float | None, values: np.ndarray | None = None) -> Outcome:
    ndcg = None if values is None else float(values.mean())
    return Outcome(asdict(cell), 10, 10, validation, ndcg, ndcg, {"1": 0.1}, 1.0, 1.0, values)


def with_trials_of_sl(store: Path, best: int, data: str = "electronic") -> None:
    for i, cell in enumerate(trials("sl", data, store)):
        keep(made(cell, 0.5 if i == best else 0.1), cell, store)


@pytest.mark.parametrize("best", [0, 1, 4])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_given_six_different_trials(loss: str, best: int, tmp_path: Path) -> None:
    with_trials_of_sl(tmp_path, best)
    cells = trials(loss, "electronic", tmp_path)
    assert len({(str(cell.loss), cell.rate, cell.decay) for cell in cells}) == 6
    assert not any(cell.final for cell in cells)


def test_what_stands_on_sl_takes_the_temperature_that_its_trials_found(tmp_path: Path) -> None:
    with_trials_of_sl(tmp_path, best=4)
    best = chosen("sl", "electronic", tmp_path)[0]["temperature"]
    for loss in ("sl_at_k", "dsl_r", "dsl_w", "dsl_k"):
        assert {cell.loss["temperature"] for cell in trials(loss, "electronic", tmp_path)} == {best}
    near = {cell.loss["temperature"] for cell in trials("dsl_v", "electronic", tmp_path)}
    assert (len(near), max(near)) == (3, best)


def test_weights_are_tried_at_equal_temperatures(tmp_path: Path) -> None:
    with_trials_of_sl(tmp_path, best=1)
    tried = [
        {cell.loss["temperature"] for cell in trials(loss, "electronic", tmp_path)}
        for loss in ("bsl", "dsl_v")
    ]
    assert tried[0] == tried[1] == {0.1, 0.15, 0.2}


def test_a_shifted_set_is_searched_on_a_part_drawn_as_its_test_part(tmp_path: Path) -> None:
    cells = trials("sl", "cd-shift", tmp_path)
    assert {(cell.data, cell.final) for cell in cells} == {("cd-shift-validation", True)}
    for i, cell in enumerate(cells):
        keep(made(cell, None, np.full(5, 0.5 if i == 3 else 0.1)), cell, tmp_path)
    assert chosen("sl", "cd-shift", tmp_path)[0] == cells[3].loss
    assert cells[3].loss["reject"] is True


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, sets: dict[str, Any]) -> Path:
    path = folder / "collaborative_dsl.json"
    path.write_text(json.dumps({"sets": sets}))
    monkeypatch.setattr(dsl_report, "RESULTS", folder)
    return path


def runs(mean: float, seeds: int = 2) -> list[Outcome]:
    spread = np.linspace(0.0, 0.2, 10)
    cells = [Cell("x", "beauty", {}, 1, final=True, seed=seed) for seed in range(seeds)]
    return [made(cell, None, spread + mean - 0.1 + 0.001 * cell.seed) for cell in cells]


def test_sets_that_the_store_has_not_keep_what_is_written_and_claim_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {"tables": ["## Amazon Beauty", ""], "trials": ["| beauty | sl | x |"], "runs": {}}
    told["runs"] = {"sl": kept_form(runs(0.4)), "dsl_r": kept_form(runs(0.6))}
    path = written(tmp_path, monkeypatch, {"beauty": told})
    with_trials_of_sl(tmp_path, best=4)
    cell = final("sl", "electronic", 0, tmp_path)
    keep(made(cell, None, np.full(5, 0.25)), cell, tmp_path)
    dsl_report.write(tmp_path)
    record = json.loads(path.read_text())["sets"]["beauty"]
    assert {name: record[name] for name in told} == told
    assert record["claims"][0]["claim"] == "collaborative.dsl-r-mf-beauty"
    text = path.with_suffix(".md").read_text()
    assert "## Amazon Beauty" in text
    assert "| sl | temperature 0.3 | 0.5000 | 1 | 0.2500 |" in text
    assert capsys.readouterr().out == ""  # of Electronics there is no form of DSL-R; Beauty was not measured


def test_a_system_that_is_run_later_joins_the_written_table_by_its_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ["## Amazon Electronics", "", "| system |", "|---|", "| sl | x |", "", "words", ""]
    told = {"tables": table, "trials": ["| electronic | sl | x |"], "runs": {"sl": kept_form(runs(0.4))}}
    path = written(tmp_path, monkeypatch, {"electronic": {**told, "environment": {}}})
    with_trials_of_sl(tmp_path, best=4)
    for i, cell in enumerate(trials("dsl_r", "electronic", tmp_path)):
        keep(made(cell, 0.1 * i), cell, tmp_path)
    cell = final("dsl_r", "electronic", 0, tmp_path)
    keep(made(cell, None, np.full(5, 0.5)), cell, tmp_path)
    dsl_report.write(tmp_path)
    record = json.loads(path.read_text())["sets"]["electronic"]
    assert [line.split(" | ")[0] for line in record["tables"][4:6]] == ["| sl", "| dsl_r"]
    assert record["tables"][5].endswith("| 1.250 | – |")
    assert "no intervals" in record["tables"][-2]
    assert [line.split(" | ")[1] for line in record["trials"]] == ["sl", "dsl_r"]
    assert record["claims"][0] == {
        "claim": "collaborative.dsl-r-mf-electronic",
        "figure": 1.25,
        "over": "sl",
    }


def test_each_form_is_claimed_by_itself_over_the_best_of_the_others() -> None:
    systems = {"sl": runs(0.4), "bsl": runs(0.5), "dsl_r": runs(0.44), "dsl_v": runs(0.45, seeds=1)}
    first, second = figures("beauty", {name: kept_form(found) for name, found in systems.items()})
    assert (first["claim"], first["over"]) == ("collaborative.dsl-r-mf-beauty", "bsl")
    assert first["figure"] == pytest.approx(0.88, abs=1e-3)
    assert second["claim"] == "collaborative.dsl-r-weighted-mf-beauty"
    assert second["figure"] == pytest.approx(0.9, abs=1e-3)  # of the seed that both have


def test_a_claim_is_measured_and_not_read_from_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def fitted(cell: Cell, store: Path) -> Outcome:
        asked.append(cell.name)
        values = np.linspace(0.1, 0.3, 10) * (1.1 if cell.loss["name"] == "dsl_r" else 1.0)
        found = made(cell, 0.1, values if cell.final else None)
        keep(found, cell, store)
        return found

    monkeypatch.setattr(bench_dsl, "run", fitted)
    bench_dsl.measure("dsl-r-mf-douban-book", tmp_path)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["claim"] == "collaborative.dsl-r-mf-douban-book"
    assert told["figure"] == pytest.approx(1.1, abs=1e-3)
    assert len([name for name in asked if "-trial-" in name]) == 6 * 6  # five other losses and one form
    monkeypatch.setattr(bench_published, "run", fitted)
    bench_published.measure("published-electronic-sl", tmp_path)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == {"claim": "collaborative.published-electronic-sl", "figure": round(0.2 / 0.0821, 4)}
    for bench in (bench_dsl, bench_published):
        with pytest.raises(SystemExit, match="no claim of this bench"):
            bench.measure("dsl-r-mf-nothing", tmp_path)


def test_every_claim_of_the_study_has_a_command_that_measures_it() -> None:
    register = tomllib.loads((Path(bench_dsl.__file__).parents[1] / "claims.toml").read_text())["claim"]
    names = {claim["id"].split(".")[1]: claim["command"] for claim in register}
    own = {name: command for name, command in names.items() if name.startswith("dsl-r")}
    for name, command in own.items():
        assert command.endswith(f"bench_dsl.py --store runs/losses --claim {name}")
        data, systems = bench_dsl.needed(name)
        assert systems[0] == "sl"
        assert data in COURSES
    wanted = {f"{form}-{course.claim}" for form in dsl_report.CLAIMED for course in COURSES.values()}
    assert wanted <= set(own)
