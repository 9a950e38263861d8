"""What every workflow script shares: a mistake the user can mend ends a job with one sentence, anything else with its traceback."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from xtalrl.config import Config
from xtalrl.errors import XtalrlError, explain_os_error
from xtalrl.workflow import check_folders


def run_job(tmp_path: Path, body: str) -> tuple[int, str, str]:
    log = tmp_path / "job.log"
    code = f"import errno\nfrom xtalrl.errors import XtalrlError\nfrom xtalrl.workflow import job\nwith job({str(log)!r}):\n    {body}\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return result.returncode, result.stderr, log.read_text()


def test_a_mistake_ends_with_its_sentence(tmp_path: Path) -> None:
    code, stderr, log = run_job(tmp_path, "raise XtalrlError('The file a.csv is empty: get it again.')")
    assert code == 1
    assert stderr.endswith("ERROR: The file a.csv is empty: get it again.\n")
    assert "Traceback" not in stderr + log
    assert "The file a.csv is empty" in log


def test_a_full_disk_ends_with_a_sentence(tmp_path: Path) -> None:
    code, stderr, _ = run_job(tmp_path, "raise OSError(errno.ENOSPC, 'No space left on device', 'b.parquet')")
    assert code == 1
    assert "The disk is full while writing 'b.parquet': free some space" in stderr
    assert "Traceback" not in stderr


def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    code, stderr, log = run_job(tmp_path, "1 / 0")
    assert code == 1
    assert "ZeroDivisionError" in stderr
    assert "ZeroDivisionError" in log


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM])
def test_failures_that_a_user_can_mend_are_explained(number: int) -> None:
    explanation = explain_os_error(OSError(number, "x", "results/a"))
    assert explanation is not None
    assert "results/a" in str(explanation)


def test_other_failures_are_not() -> None:
    assert explain_os_error(OSError(errno.EINTR, "x")) is None


def test_a_folder_that_cannot_be_made_is_named_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(XtalrlError, match=r"The cache folder '.*file/cache' cannot be written"):
        check_folders(Config(results=str(tmp_path / "results"), cache=str(tmp_path / "file" / "cache")))
    assert list((tmp_path / "results").iterdir()) == []
