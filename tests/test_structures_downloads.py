"""The downloader against a server on loopback that behaves as badly as servers do."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from xtalrl.errors import XtalrlError
from xtalrl.fetch import downloads
from xtalrl.structures import mp20

CONTENT = bytes(range(256)) * 3000
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers each request with the next entry of `script`; the last repeats. Records the Range header of every request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[str] = ["ok"]
        self.ranges: list[str | None] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        script = self.server.script
        what = script.pop(0) if len(script) > 1 else script[0]
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        self.server.paths.append(self.path)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if what.isdigit():
            self.send_response(int(what))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if wanted and start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = b"<html>log in to the network first</html>" if what == "wrong" else CONTENT
        honour = wanted and what in ("ok", "drop")
        if honour:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        else:
            self.send_response(200)
        if what == "short":  # without a length nothing but the checksum can tell
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 3] if what == "drop" else body)
        if what == "drop":
            self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "FIRST_WAIT_S", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("script", "requests"),
    [
        (["ok"], 1),
        (["503", "ok"], 2),
        (["429", "500", "ok"], 3),
        (["drop", "ok"], 2),
        (["drop", "503", "drop", "drop", "ok"], 5),
    ],
)
def test_arrives_whole_in_spite_of(server, tmp_path, script, requests):
    server.script = list(script)
    downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]
    assert len(server.ranges) == requests


def test_a_dropped_connection_is_resumed_where_it_broke(server, tmp_path):
    server.script = ["drop", "ok"]
    downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert server.ranges[0] is None
    resumed_at = int(server.ranges[1].removeprefix("bytes=").rstrip("-"))
    assert len(CONTENT) // 3 - downloads.CHUNK_BYTES < resumed_at <= len(CONTENT) // 3


def test_a_server_without_ranges_is_asked_for_the_whole(server, tmp_path):
    server.script = ["drop", "whole"]
    downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_what_is_there_is_not_downloaded_again(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert server.ranges == []


@pytest.mark.parametrize("left", [CONTENT[:1000], CONTENT, b"something else", CONTENT + b"more"])
def test_goes_on_after_an_earlier_run_whatever_it_left(server, tmp_path, left):
    (tmp_path / ".file.bin.part").write_bytes(left)
    downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["file.bin"]


def test_a_server_that_never_recovers(server, tmp_path):
    server.script = ["503"]
    with pytest.raises(XtalrlError, match=r"6 attempts \(the server answered 503.*XTALRL_MIRROR"):
        downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert len(server.ranges) == downloads.ATTEMPTS
    assert not (tmp_path / "file.bin").exists()


def test_drops_for_ever_keep_what_arrived(server, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 2)
    server.script = ["drop"]
    with pytest.raises(XtalrlError, match="goes on where it stopped"):
        downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert names(tmp_path) == [".file.bin.part"]
    server.script = ["ok"]
    downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_404_is_final(server, tmp_path):
    server.script = ["404"]
    with pytest.raises(XtalrlError, match="404 Not Found"):
        downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert len(server.ranges) == 1
    assert names(tmp_path) == []


@pytest.mark.parametrize("what", ["wrong", "short"])
def test_another_file_names_both_checksums_and_leaves_nothing(server, tmp_path, what):
    server.script = [what]
    body = b"<html>log in to the network first</html>" if what == "wrong" else CONTENT[: len(CONTENT) // 2]
    with pytest.raises(XtalrlError) as caught:
        downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert CHECKSUM in str(caught.value)
    assert hashlib.sha256(body).hexdigest() in str(caught.value)
    assert names(tmp_path) == []


def test_nobody_listens(tmp_path, monkeypatch, server):
    monkeypatch.setattr(downloads, "ATTEMPTS", 2)
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(XtalrlError, match="could not be downloaded in 2 attempts"):
        downloads.download(url, tmp_path / "file.bin", CHECKSUM)


@pytest.mark.parametrize("url", ["no-scheme/file", "ftp://host/file", "http://"])
def test_not_a_url(tmp_path, url):
    with pytest.raises(XtalrlError, match="not a URL that can be downloaded"):
        downloads.download(url, tmp_path / "file.bin", CHECKSUM)


def test_checksums_are_those_of_the_usual_tools(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(CONTENT)
    for kind, command in {
        "sha256": ["sha256sum"],
        "md5": ["md5sum"],
        "sha1": ["sha1sum"],
        "git-blob-sha1": ["git", "hash-object"],
    }.items():
        expected = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True).stdout.split()[0]
        assert downloads.checksum_of(path, kind) == f"{kind}:{expected}"
    with pytest.raises(ValueError, match="crc32"):
        downloads.checksum_of(path, "crc32")


def test_the_manifest_is_complete():
    for name, entry in downloads.manifest().items():
        kind, _, digest = entry.checksum.partition(":")
        assert len(digest) == {"sha256": 64, "md5": 32, "sha1": 40, "git-blob-sha1": 40}[kind], name
        assert entry.url.startswith("https://"), name
        assert entry.description and entry.licence, name


def test_the_mirror_holds_the_files_under_their_names(server, tmp_path, monkeypatch):
    monkeypatch.setenv(downloads.MIRROR_VARIABLE, server.url.removesuffix("/file.bin") + "/mirror/")
    server.script = ["wrong"]
    with pytest.raises(XtalrlError, match="Without a network"):
        mp20.fetch_csvs({"train": tmp_path / "train.csv"})
    assert server.paths == ["/mirror/mp20/train.csv"]


def test_find_csvs(tmp_path):
    for name in ("train.csv", "val.csv.gz", "notes.csv"):
        (tmp_path / name).touch()
    with pytest.raises(XtalrlError, match=r"neither test\.csv nor test\.csv\.gz.*notes\.csv, train\.csv, val\.csv\.gz"):
        mp20.find_csvs(tmp_path)
    (tmp_path / "test.csv").touch()
    assert mp20.find_csvs(tmp_path) == {
        "train": str(tmp_path / "train.csv"),
        "val": str(tmp_path / "val.csv.gz"),
        "test": str(tmp_path / "test.csv"),
    }
    (tmp_path / "test.csv.gz").touch()
    with pytest.raises(XtalrlError, match=r"both test\.csv and test\.csv\.gz"):
        mp20.find_csvs(tmp_path)
    with pytest.raises(XtalrlError, match="not a folder"):
        mp20.find_csvs(tmp_path / "absent")
