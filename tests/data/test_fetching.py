"""Fetching against a local server: resume, checksums, refusals, and nothing half-written."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from recengine.data import PublicSet, fetch, is_fetched, load_fetched
from recengine.data.fetching import RECORD
from recengine.data.public import RemoteFile
from recengine.errors import DataError, UsageError

ROWS = b"".join(b"%d,%d,4,%d\n" % (n % 9, n % 31, n) for n in range(20000))
TABLE = b"userId,movieId,rating,timestamp\n" + ROWS


def zipped(name="toy/ratings.csv", content=TABLE):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        if self.path not in server.files:
            self.send_error(404)
            return
        body, status = server.files[self.path], 200
        asked = self.headers.get("Range")
        if asked and server.ranges and self.headers.get("If-Range") in (None, server.etag):
            body, status = body[int(asked.removeprefix("bytes=").rstrip("-")) :], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        if server.cuts:
            self.wfile.write(body[: server.cuts.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.files, made.cuts, made.requests, made.ranges, made.etag = {}, [], [], True, '"one"'
    made.url = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def toy(content, checksum="right", path="toy.zip"):
    if checksum == "right":
        checksum = "sha256:" + hashlib.sha256(content).hexdigest()
    return PublicSet(
        "toy", "a toy", "made for a test", "https://example.org", "https://example.org/data",
        (RemoteFile(path, checksum),), "toy/ratings.csv" if path.endswith("zip") else path,
    )  # fmt: skip


def test_fetch_verifies_unpacks_records_and_reads(server, tmp_path):
    content = zipped()
    server.files["/toy.zip"] = content
    said, moved = [], []

    def progress(done, total):
        moved.append((done, total))

    folder = fetch(toy(content), tmp_path, base_url=server.url, tell=said.append, progress=progress)
    assert (folder / "toy" / "ratings.csv").read_bytes() == TABLE
    assert sorted(entry.name for entry in folder.iterdir()) == [RECORD, "toy"]
    record = json.loads((folder / RECORD).read_text())["files"][0]
    assert record["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["verified"] is True
    assert moved[-1] == (len(content), len(content))
    licence = next(place for place, sentence in enumerate(said) if "made for a test" in sentence)
    address = next(place for place, sentence in enumerate(said) if "127.0.0.1" in sentence)
    assert licence < address  # the licence is shown before anything is fetched
    assert any(sentence.startswith("verified") for sentence in said)
    assert len(load_fetched(toy(content), tmp_path)) == 20000
    fetch(toy(content), tmp_path, base_url=server.url)
    assert len(server.requests) == 1  # the cache is asked, not the server


def test_an_interrupted_transfer_resumes(server, tmp_path):
    content = zipped()
    server.files["/toy.zip"] = content
    server.cuts = [3000, 4000]
    folder = fetch(toy(content), tmp_path, base_url=server.url)
    assert (folder / "toy" / "ratings.csv").read_bytes() == TABLE
    assert [asked for _, asked in server.requests] == [None, "bytes=3000-", "bytes=7000-"]


def test_the_next_call_resumes_too(server, tmp_path):
    content = zipped()
    server.files["/toy.zip"] = content
    server.cuts = [2000, 0, 0, 0]
    with pytest.raises(DataError, match="resumes") as caught:
        fetch(toy(content), tmp_path, base_url=server.url)
    assert "2000 of" in caught.value.found
    assert not is_fetched(toy(content), tmp_path)
    server.requests.clear()
    fetch(toy(content), tmp_path, base_url=server.url)
    assert server.requests == [("/toy.zip", "bytes=2000-")]


@pytest.mark.parametrize("change", ["no ranges", "another version"])
def test_what_cannot_be_resumed_starts_again(server, tmp_path, change):
    old, new = zipped(content=TABLE + b"1,1,1,1\n"), zipped()
    server.files["/toy.zip"] = old
    server.cuts = [2000, 0, 0, 0]
    with pytest.raises(DataError):
        fetch(toy(new), tmp_path, base_url=server.url)
    server.files["/toy.zip"] = new
    server.ranges, server.etag = change != "no ranges", '"two"'
    folder = fetch(toy(new), tmp_path, base_url=server.url)
    assert (folder / "toy" / "ratings.csv").read_bytes() == TABLE


def test_a_wrong_checksum_deletes_the_file(server, tmp_path):
    server.files["/toy.zip"] = zipped()
    with pytest.raises(DataError, match="wrong checksum") as caught:
        fetch(toy(b"", "md5:" + "0" * 32), tmp_path, base_url=server.url)
    assert caught.value.expected == "md5 " + "0" * 32
    assert not is_fetched("toy", tmp_path)
    assert [entry.name for entry in (tmp_path / "toy").iterdir() if not entry.name.endswith(".etag")] == []


def test_an_unknown_checksum_is_called_unverified_and_recorded(server, tmp_path):
    server.files["/toy.csv"] = TABLE
    said = []
    folder = fetch(toy(TABLE, None, "toy.csv"), tmp_path, base_url=server.url, tell=said.append)
    record = json.loads((folder / RECORD).read_text())["files"][0]
    assert record["verified"] is False
    assert record["sha256"] == hashlib.sha256(TABLE).hexdigest()
    assert any("unverified" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "status 404"),
        ({"/toy.zip": b"no archive"}, "damaged"),
        ({"/toy.zip": zipped("../evil.csv")}, "leads out"),
    ],
)
def test_refusals_leave_nothing_that_looks_fetched(server, tmp_path, files, problem):
    server.files.update(files)
    with pytest.raises(DataError, match=problem):
        fetch(toy(b"", None), tmp_path, base_url=server.url)
    assert not is_fetched("toy", tmp_path)
    assert not (tmp_path / "evil.csv").exists()
    with pytest.raises(DataError, match="has not been fetched"):
        load_fetched(toy(b"", None), tmp_path)


def test_no_network(tmp_path, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match="network"):
        fetch(toy(b""), tmp_path, base_url=server.url, timeout=2)


def test_unknown_names():
    with pytest.raises(UsageError, match="did you mean 'ml-100k'"):
        fetch("ml-100", None)
