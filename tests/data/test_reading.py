"""Every layout is read, and every guess is said."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, save_npz

from recengine.data import Interactions, ReadReport, read, read_table, split
from recengine.data.readers.recbole import read_atomic
from recengine.data.reading import built_in
from recengine.errors import DataError, UsageError
from recengine.hooks import Host
from recengine_plugins import readers


def content(made: Interactions) -> list[tuple]:
    return [
        (made.users.tokens[u].item(), made.items.tokens[i].item())
        for u, i in zip(made.user, made.item, strict=True)
    ]


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", "::", " "])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_delimiters_headers_and_gzip(tmp_path, delimiter, header, packed):
    rows = [("userId", "movieId", "rating", "timestamp")] * header
    rows += [
        ("7", "31", "2.5", "1260759144"),
        ("7", "12", "4.0", "1260759145"),
        ("2", "31", "1.0", "1260759100"),
    ]
    text = "\n".join(delimiter.join(row) for row in rows) + "\n"
    path = tmp_path / ("r.csv.gz" if packed else "r.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    report = ReadReport()
    made = read(path, report=report)
    assert content(made) == [(2, 31), (7, 31), (7, 12)]
    assert made.weight.tolist() == [1.0, 2.5, 4.0]
    assert made.time.tolist() == [1260759100, 1260759144, 1260759145]
    assert report.layout == "table"
    assert report.rows == 3
    assert any("delimiter" in sentence and "guessed" in sentence for sentence in report.said)
    assert any("header" in sentence for sentence in report.said)


def test_columns_may_be_named_or_left_out(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("who,what,rating,when\n1,5,3,20\n1,6,4,10\n")
    made = read(path, user="who", item="what", time="when", weight="")
    assert content(made) == [(1, 6), (1, 5)]
    assert made.weight is None
    numbered = tmp_path / "log.txt"
    numbered.write_text("5,1\n6,1\n6,2\n")
    assert content(read(numbered, user="2", item="1", ties="rows")) == [(1, 5), (1, 6), (2, 6)]
    assert content(read(numbered, user=2, item=1, delimiter=",", ties="rows")) == [(1, 5), (1, 6), (2, 6)]
    numbered.write_text("5\t1\n6\t1\n")
    assert len(read(numbered, delimiter="\\t")) == 2


def test_leading_zeros_make_text_ids(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text("user,isbn\n1,0553\n1,553\n2,77\n")
    assert read(path).items.tokens.tolist() == ["0553", "553", "77"]
    path.write_text("user,isbn\n1,10\n1,9\n")
    assert read(path).items.tokens.tolist() == [9, 10]
    assert read(path, ids="text").items.tokens.tolist() == ["10", "9"]


def test_dates_fractions_and_decimals_as_times(tmp_path):
    path = tmp_path / "t.csv"
    for text, expected in [
        ("2024-01-01", 1704067200),
        ("2024-01-01T00:00:05Z", 1704067205),
        ("2024-01-01 01:00:05+01:00", 1704067205),
        ("2024-01-01T00:01", 1704067260),
        ("1260759144.0", 1260759144),
        ("1260759144.5", 1260759144500000),
        ("8.8e8", 880000000),
    ]:
        path.write_text(f"user,item,time\n1,2,{text}\n")
        assert read(path).time.tolist() == [expected]


def test_times_in_a_form_of_their_own(tmp_path):
    rows = ["1,7,03/08/2021", "1,8,04/08/2021", "2,7,05/08/2021"]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["user,item,time", *rows]) + "\n")
    with pytest.raises(DataError, match=r"(?s)line 2.*time_format"):
        read(path)
    august = read(path, time_format="%d/%m/%Y")
    assert august.time is not None
    assert august.time.tolist() == [1627948800, 1628035200, 1628121600]
    march = read(path, time_format="%m/%d/%Y")
    assert march.time is not None
    assert march.time[0] == 1615161600  # 8 March
    pl.read_csv(path).write_parquet(tmp_path / "log.parquet")
    assert read(tmp_path / "log.parquet", time_format="%d/%m/%Y").time.tolist() == august.time.tolist()
    with pytest.raises(DataError, match="another form"):
        read(path, time_format="%Y.%m.%d")
    with pytest.raises(DataError, match="no column is read as times"):
        read(path, time="", time_format="%d/%m/%Y")


def test_blank_lines_at_the_end_are_no_rows(tmp_path):
    path = tmp_path / "b.csv"
    path.write_text("user,item\n1,2\n3,4\n\n\n")
    assert len(read(path)) == 2


def test_parquet(tmp_path):
    path = tmp_path / "p.parquet"
    pl.DataFrame({"user_id": ["b", "a"], "item_id": [1, 2], "ts": [5, 6]}).write_parquet(path)
    made = read(path)
    assert content(made) == [("a", 2), ("b", 1)]
    assert made.time.tolist() == [6, 5]


@pytest.mark.parametrize("packed", [False, True])
def test_json_lines(tmp_path, packed):
    lines = '{"user_id": "b", "item_id": 1, "ts": 5}\n{"item_id": 2, "user_id": "a", "ts": 6, "more": [1]}\n'
    path = tmp_path / ("j.jsonl.gz" if packed else "j.ndjson")
    path.write_bytes(gzip.compress(lines.encode()) if packed else lines.encode())
    report = ReadReport()
    made = read(path, report=report)
    assert content(made) == [("a", 2), ("b", 1)]
    assert made.time.tolist() == [6, 5]
    assert "columns not used: more" in report.said


def test_bad_json_lines_are_refused(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text('{"user": 1, "item"\n')
    with pytest.raises(DataError, match=r"(?s)cannot be read as JSON lines.*an object a line"):
        read(path)
    path.write_text('{"user": 1, "item": 2}\n{"user": 1}\n')
    with pytest.raises(DataError, match=r"line 2, column 'item': an id is missing"):
        read(path)


def test_a_column_of_lists_is_refused_in_one_line(tmp_path):
    path = tmp_path / "p.parquet"
    pl.DataFrame({"user": [["a"]], "item": ["b"]}).write_parquet(path)
    with pytest.raises(DataError, match="cannot hold ids") as refused:
        read(path)
    assert refused.value.found == "['a']"


def test_columns_that_are_not_used_are_said(tmp_path):
    path = tmp_path / "u.csv"
    path.write_text("customer_id,sku,bought\n1,2,3\n")
    report = ReadReport()
    assert read(path, report=report).time is None
    assert "columns not used: bought" in report.said


def test_min_weight_keeps_positives_and_shrinks_vocabularies(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating\n1,1,5\n1,2,2\n2,2,3\n")
    report = ReadReport()
    made = read(path, min_weight=4, report=report)
    assert (made.n_users, made.n_items, report.rows, report.kept) == (1, 1, 3, 1)
    with pytest.raises(DataError, match="no interactions are left"):
        read(path, min_weight=6)


def test_recbole_atomic_files(tmp_path):
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "toy.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t10\t4\t881250949\n1\t11\t3\t881250948\n"
    )
    (folder / "toy.item").write_text(
        "item_id:token\tmovie_title:token_seq\tvector:float_seq\n10\tToy Story\t0.5 1\n11\tHeat\t2 3\n"
    )
    report = ReadReport()
    made = read(folder, report=report)
    assert report.layout == "recbole"
    assert content(made) == [(1, 11), (1, 10)]
    assert made.time.tolist() == [881250948, 881250949]
    side = read_atomic(folder / "toy.item")
    assert side["movie_title"].to_list() == [["Toy", "Story"], ["Heat"]]
    assert side["vector"].to_list() == [[0.5, 1.0], [2.0, 3.0]]
    (folder / "toy.item").write_text("item_id:token\tprice:float\n10\t1.5\n11\tcheap\n")
    with pytest.raises(DataError, match="not a number") as caught:
        read_atomic(folder / "toy.item")
    assert "line 3, column 'price:float'" in caught.value.where


def test_recbole_titles(tmp_path):
    (tmp_path / "t.inter").write_text("user_id:token\titem_id:token\n1\t10\n1\t11\n")
    (tmp_path / "t.item").write_text("item_id:token\ttitle:token\n10\tToy Story\n")
    assert read(tmp_path).item_titles.tolist() == ["Toy Story", "11"]
    (tmp_path / "t.inter").write_text("user_id\titem_id:token\n1\t10\n")
    with pytest.raises(DataError, match="no known type"):
        read(tmp_path)


def test_sequences_keep_the_order_of_the_line(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("1 9 3 7\n2 3 9\n3 4\n")
    made = read(path)
    assert content(made) == [(1, 9), (1, 3), (1, 7), (2, 3), (2, 9), (3, 4)]
    assert made.is_ordered
    path.write_text("1 9 3\n2\n3 4\n")
    with pytest.raises(DataError, match="no item") as caught:
        read(path)
    assert "line 2" in caught.value.where
    path.write_text("1 9 3 7 7 7\n2 3 x\n3 4\n")
    with pytest.raises(DataError, match="mixes types") as caught:
        read(path, layout="sequences")
    assert caught.value.where.endswith("line 2, column 'item'")


def test_pairs_are_ordered_by_row_only_when_named(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("1 9\n1 3\n2 4\n1 7\n")
    assert not read(path).is_ordered
    named = read(path, layout="pairs")
    assert content(named) == [(1, 9), (1, 3), (1, 7), (2, 4)]
    assert named.is_ordered


def test_lightgcn_lists(tmp_path):
    (tmp_path / "train.txt").write_text("0 1 2 3\n1 4 5\n2\n")
    (tmp_path / "test.txt").write_text("0 7\n1 1\n")
    report = ReadReport()
    parts = split(read(tmp_path, report=report))
    assert report.layout == "lightgcn"
    assert len(parts.train) == 5
    assert parts.test.targets.tolist() == [parts.train.items.rows([7])[0], parts.train.items.rows([1])[0]]
    (tmp_path / "test.txt").rename(tmp_path / "test_hard.txt")
    with pytest.raises(DataError, match="no test file") as caught:
        read(tmp_path)
    assert "test_hard" in caught.value.fix
    assert len(read(tmp_path, test="test_hard")) == 7


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,20\n1,12,4,10\n"),
        ("ratings.dat", "1::31::2.5::20\n1::12::4::10\n"),
        ("u.data", "1\t31\t2.5\t20\n1\t12\t4\t10\n"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_movielens_folders(tmp_path, name, text, packed):
    (tmp_path / "README.txt").write_text("as it comes")
    (tmp_path / "movies.csv").write_text("movieId,title\n31,a film\n12,another\n")
    file = tmp_path / (f"{name}.gz" if packed else name)
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    report = ReadReport()
    made = read(tmp_path, report=report)
    assert report.layout == "movielens"
    assert content(made) == [(1, 12), (1, 31)]
    assert made.weight.tolist() == [4.0, 2.5]
    assert made.time.tolist() == [10, 20]


def test_irbench_and_mmrec_folders(tmp_path):
    ir = tmp_path / "ir"
    ir.mkdir()
    for name, rows in (("train", "0\t1\n0\t2\n1\t1\n"), ("valid", "0\t3\n"), ("test", "1\t3\n")):
        (ir / f"{name}.tsv").write_text("user_procid\titem_procid\n" + rows)
    parts = split(read(ir))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (3, 1, 1)
    mm = tmp_path / "mm"
    mm.mkdir()
    np.save(mm / "image_feat.npy", np.zeros((3, 2)))
    (mm / "x.inter").write_text(
        "userID\titemID\trating\ttimestamp\tx_label\n0\t1\t5\t9\t0\n0\t2\t5\t10\t1\n0\t3\t5\t11\t2\n"
    )
    report = ReadReport()
    parts = split(read(mm, report=report))
    assert report.layout == "mmrec"
    assert "image_feat.npy" in " ".join(report.said)
    assert parts.test.times.tolist() == [11]
    (mm / "x.inter").write_text("userID\titemID\tx_label\n0\t1\t7\n")
    with pytest.raises(DataError, match="none of the three"):
        read(mm)


def test_implicit_csr(tmp_path):
    matrix = csr_matrix(np.array([[0, 2.0], [1.0, 0]]))
    save_npz(tmp_path / "m.npz", matrix)
    made = read(tmp_path / "m.npz")
    assert np.array_equal(made.csr("weights").toarray(), matrix.toarray())


def test_store_is_read_back(tmp_path):
    made = Interactions.from_arrays([1, 2], [3, 4], [5, 6])
    made.save(tmp_path / "s")
    assert read(tmp_path / "s").fingerprint() == made.fingerprint()


def test_every_reader_is_registered():
    host = Host()
    assert host.add(readers, "readers")
    entries = {entry.name: entry.load() for entry in host.registries["reader"]}
    assert {name: kind.name for name, kind in entries.items()} == {name: name for name in entries}
    assert set(entries) == {reader.name for reader in built_in()}


def test_a_reader_of_a_plugin_is_asked_first(tmp_path):
    class Odd:
        name = "odd"

        def recognises(self, path: Path) -> bool:
            return path.suffix == ".odd"

        def read(self, path: Path, **options: object) -> Interactions:
            return Interactions.from_arrays([options["base"]], [2])

    path = tmp_path / "x.odd"
    path.write_text("anything")
    assert content(read(path, readers=[Odd(), *built_in()], base=40)) == [(40, 2)]


def test_unknown_layouts_and_options_are_named(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("user,item\n1,2\n")
    with pytest.raises(UsageError, match="did you mean 'sequences'"):
        read(path, layout="sequence")
    with pytest.raises(UsageError, match="did you mean 'delimiter'"):
        read(path, delimitor=",")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**63 - 1),
            st.text("abcXYZ019_-äß", min_size=1, max_size=6),
            st.integers(-(2**40), 2**40),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_written_tables_come_back(tmp_path_factory, rows):
    users, items, times = zip(*rows, strict=True)
    frame = pl.DataFrame({"user": users, "item": items, "time": times}, schema_overrides={"time": pl.Int64})
    path = tmp_path_factory.mktemp("t") / "t.csv"
    frame.write_csv(path)
    expected = read_table(frame.with_columns(pl.col("item").cast(pl.String)))
    made = read(path, ids="text")
    assert sorted(made.time.tolist()) == sorted(expected.time.tolist())
    assert set(made.items.tokens.tolist()) == set(items)
    assert set(made.users.tokens.tolist()) == {str(user) for user in users}
