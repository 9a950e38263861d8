"""Files are whole and synced or not there, and JSON says whether it was changed."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from xtalrl.errors import explain_os_error
from xtalrl.files import seal_json, unseal_json, whole_file, write_whole


def test_a_file_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: events.append("sync") or sync(number))
    monkeypatch.setattr(Path, "replace", lambda path, to: events.append("rename") or replace(path, to))
    write_whole(tmp_path / "deep" / "a", b"x")
    assert events == ["sync", "rename", "sync"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"old")

    def fill_the_disk() -> None:
        with whole_file(tmp_path / "a") as path:
            path.write_bytes(b"ne")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        fill_the_disk()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
    assert f"The disk is full while writing '{tmp_path / 'a'}'" in str(explain_os_error(caught.value))


def test_a_changed_record_is_refused() -> None:
    record = {"z": 4.0, "a": [1, None], "é": {"deep": True}}
    text = seal_json(record)
    assert unseal_json(text.encode()) == record
    for one, other in (("4.0", "5.0"), ("null", "1"), ("true", "false"), ('"a"', '"b"')):
        with pytest.raises(ValueError, match="checksum"):
            unseal_json(text.replace(one, other).encode())
    assert unseal_json(json.dumps(record).encode()) == record, "an older version gave no checksum"
    for content in (b"", b"[1]", b"\xff", text.encode()[:-9]):
        with pytest.raises(ValueError, match=r"JSON|Expecting|decode|Unterminated"):
            unseal_json(content)
