"""Published counts and measured tie shares of real data."""

from __future__ import annotations

import numpy as np
import pytest

from recengine.data import ReadReport, SplitConfig, audit, read, split
from recengine.data.leakage import failures
from recengine.data.tie_order import held_out_steps, tie_report


@pytest.mark.data
def test_golden_tie_shares(shared_data):
    report = tie_report(read(shared_data("restricted/ml-100k/u.data.gz"), ties="rows"))
    assert round(report.tied_share, 3) == 0.506
    assert round(report.file_ids.share, 3) == 0.502
    assert not report.file_ids.predictable
    small = read(shared_data("ml-latest-small/ratings.csv.gz"), ties="rows")
    report = tie_report(small)
    assert round(report.tied_share, 3) == 0.218
    assert round(report.file_ids.share, 3) == 1.0
    assert failures(audit(split(small)))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "users", "share"), [("Beauty", 22363, 0.537), ("Sports_and_Outdoors", 35598, 0.536)]
)
def test_golden_last_steps(shared_data, name, users, share):
    made = read(shared_data(f"amazon_sequences/{name}.txt.gz"))
    by_id, _ = held_out_steps(split(made, SplitConfig(strategy="leave_one_out")).test)
    assert made.n_users == users
    assert round(by_id.share, 3) == share
    assert by_id.predictable


READABLE = [  # path, options, layout, users, items, events
    ("restricted/ml-100k/u.data.gz", {}, "table", 943, 1682, 100000),
    ("ml-latest-small/ratings.csv.gz", {}, "table", 671, 9066, 100004),
    ("restricted/ml-1m/ratings.csv.gz", {"item": "item_dense"}, "table", 6040, 3706, 1000209),
    ("jester5k/ratings.csv.gz", {}, "table", 5000, 100, 363209),
    ("restricted/frappe/frappe.tsv.gz", {}, "table", 957, 4082, 96203),
    ("amazon_sequences/Beauty.txt.gz", {}, "sequences", 22363, 12101, 198502),
    ("amazon_sequences/sasrec_Video.txt.gz", {"layout": "pairs"}, "pairs", 31013, 23715, 287107),
    ("amazon_sequences/bert4rec_Beauty.txt.gz", {"layout": "pairs"}, "pairs", 40226, 54542, 353962),
    ("cf/gowalla", {}, "lightgcn", 29858, 40981, 1027370),
    ("restricted/yelp2018", {}, "lightgcn", 31668, 38048, 1561406),
    ("cf/amazon-book_kgat", {}, "lightgcn", 70679, 24915, 846434),
    ("cf/AmazonElectronics_m1", {}, "lightgcn", 1435, 1522, 35931),
    ("ood_small/coat", {"test": "test_ood"}, "lightgcn", 290, None, 1363 + 553 + 860),
    ("irbench/iid/amazon2014-beauty", {}, "irbench", 1237, 719, 25736),
    ("irbench/iid/amazon2014-cd", {}, "irbench", 12784, 13874, 360763),
    ("irbench/iid/amazon2014-electronic", {}, "irbench", 13455, 8360, 234521),
    ("irbench/iid/gowalla", {}, "irbench", 29858, 40988, 1027464),
    ("irbench/iid/douban-book", {}, "irbench", 18662, 15207, 938173),
    ("irbench/ood/amazon2014-cd-popularity", {}, "irbench", 12784, 13874, 288610 + 72153),
    ("irbench/ood/amazon2014-electronic-popularity", {}, "irbench", 13455, 8360, 187616 + 46905),
    ("irbench/iid/food", {}, "irbench", 5875, 9852, 233038),
    ("irbench/ood/food-temporal", {}, "irbench", None, None, 139822 + 30431),
    ("restricted/movielens-1m_irbench", {}, "irbench", 6033, 3123, 665133 + 169316),
    ("multimodal/baby", {}, "irbench", 19445, 7050, 160792),
    ("multimodal/tiktok", {}, "irbench", 9308, 6710, 59541 + 3051 + 6130),
    ("kg_rec/book_crossing/ratings.csv.gz", {}, "table", 17860, 14967, 139746),
    ("books/goodbooks_sample_ratings.csv", {}, "table", None, None, None),
]


@pytest.mark.data
@pytest.mark.parametrize(
    ("path", "options", "layout", "users", "items", "events"), READABLE, ids=[row[0] for row in READABLE]
)
def test_real_data_is_read_with_the_published_counts(
    shared_data, path, options, layout, users, items, events
):
    report = ReadReport()
    made = read(shared_data(path), report=report, **options)
    assert report.layout == layout
    assert users in (None, made.n_users)
    assert items in (None, made.n_items)
    assert events in (None, len(made))
    assert report.rows == report.kept == len(made)


@pytest.mark.data
def test_given_parts_of_real_folders(shared_data):
    parts = split(read(shared_data("multimodal/baby")))
    held_out = len(parts.validation.targets), len(parts.test.targets)
    assert (len(parts.train), *held_out) == (118551, 21682, 20559)
    assert np.unique(parts.train.part).tolist() == [0]
