"""Tables of tasks by runs: reading, summarising, refusing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recengine.errors import DataError, UsageError
from recengine.evaluation.repeats import read_repeats, summarise

ROWS = "task,run,reward\n" + "".join(
    f"t{i},{r},{int((i + r) % 3 == 0)}\n" for i in range(6) for r in range(3)
)


def test_guesses_columns_and_summarises(tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    path.write_text(ROWS)
    (repeats,) = read_repeats(path).values()
    found = summarise(repeats, draws=200)
    assert (found.tasks, found.runs, found.binary) == (6, 3, True)
    assert found.mean == pytest.approx(1 / 3)
    by_k = {row.k: row for row in found.envelope}
    assert by_k[1].best.estimate == pytest.approx(by_k[1].worst.estimate)
    assert by_k[3].best.estimate == 1.0
    assert by_k[3].worst.estimate == 0.0
    assert found.mixed == 6


def test_grader_noise_needs_outputs(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("task,run,score,answer\na,0,1,x\na,1,0,x\nb,0,1,y\nb,1,1,z\n")
    (repeats,) = read_repeats(path, output="answer").values()
    noise = summarise(repeats, draws=50).grader
    assert noise is not None
    assert noise.rate == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROWS + "t0,0,1\n", "two rows for run"),
        (ROWS.replace("t1,1,0\n", ""), "1 of 18 runs are missing"),
        (ROWS.replace("t1,1,0\n", "t1,1,\n"), "line 6, column reward"),
        ("a,b\n1,2\n", "no column looks like the task"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trials.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_repeats(path)


def test_more_runs_than_made_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    path.write_text(ROWS)
    (repeats,) = read_repeats(path).values()
    with pytest.raises(UsageError, match="3 were made"):
        summarise(repeats, ks=[4])


@pytest.mark.data
def test_real_repeats(shared_data: Callable[[str], Path]) -> None:
    (airline,) = read_repeats(shared_data("agent_runs/taubench_airline_gpt4o_trials.csv.gz")).values()
    found = summarise(airline, draws=200)
    assert (found.tasks, found.runs) == (50, 4)
    assert found.mean == pytest.approx(0.42)
    assert np.ptp(found.run_means) > 0


def test_stability_of_lists_over_runs(tmp_path: Path) -> None:
    path = tmp_path / "lists.csv"
    rows = ['u1,0,1,"[1, 2]"', 'u1,1,1,"[1, 2]"', "u2,0,1,3 4", 'u2,1,0,"3,5"']
    path.write_text("user,seed,score,items\n" + "\n".join(rows) + "\n")
    (repeats,) = read_repeats(path, lists="items").values()
    found = summarise(repeats, draws=50).stability
    assert found is not None
    assert found.jaccard == pytest.approx((1 + 1 / 3) / 2)
    assert found.overlap > found.jaccard
    path.write_text("user,seed,score,items\nu1,0,1,1 2\nu1,1,1,1\nu2,0,1,3 4\nu2,1,0,3 5\n")
    with pytest.raises(DataError, match="1 to 2 items"):
        read_repeats(path, lists="items")


def test_nan_scores_and_empty_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(ROWS.replace("t1,1,0\n", "t1,1,NaN\n"))
    with pytest.raises(DataError, match="line 6"):
        read_repeats(path)
    path.write_text("task,run,reward\n")
    with pytest.raises(DataError, match="no rows"):
        read_repeats(path)


def test_duplicate_rows_name_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(ROWS + "t0,0,1\n")
    with pytest.raises(DataError, match="lines 2 and 20"):
        read_repeats(path)


def test_lines_are_those_of_the_file_with_several_systems(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    lines = ["model,task,run,score", "a,x,0,1", "b,x,0,1", "a,y,0,0", "b,y,0,oops"]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="line 5"):
        read_repeats(path, system="model")


def test_runs_with_ids_of_their_own_are_counted_within_the_task(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    rows = [("a", "r1", 1), ("b", "r2", 0), ("a", "r3", 0), ("b", "r4", 0)]
    path.write_text("".join(f'{{"task":"{t}","run":"{r}","score":{s}}}\n' for t, r, s in rows))
    (repeats,) = read_repeats(path).values()
    assert repeats.runs == (1, 2)
    np.testing.assert_array_equal(repeats.scores, [[1, 0], [0, 0]])


def test_unequal_runs_are_cut_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("task,run,score\na,0,1\na,1,0\na,2,1\nb,5,0\nb,7,1\n")
    with pytest.raises(DataError, match="tasks have 2 runs or more"):
        read_repeats(path)
    (repeats,) = read_repeats(path, cut=True).values()
    np.testing.assert_array_equal(repeats.scores, [[1, 0], [0, 1]])
