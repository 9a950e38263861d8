"""What every workflow script shares: a mistake the user can fix ends a job with one sentence, anything else with its traceback."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dft_data import is_alive

from xtalrl.config import Config
from xtalrl.errors import XtalrlError, explain_os_error
from xtalrl.progress import Pace, pace_file, read_pace
from xtalrl.provenance import refuse_other_files, write_record
from xtalrl.workflow import TYPED, check_folders, completed, make_cache_folders, options_typed


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


def test_how_far_a_job_is_stands_beside_its_log(tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    pace_file(log).write_text("of an earlier attempt")
    run_job(tmp_path, "pass")
    assert not pace_file(log).exists()
    body = (
        "from xtalrl.progress import Progress; import time; p = Progress('x', 4, 'steps', done=1, side_by_side=3); "
        "p.start -= 2; p.advance(3)"
    )
    run_job(tmp_path, body)
    pace = read_pace(log)
    assert (pace.done, pace.failed) == (12, False)
    assert pace.per_s == pytest.approx(3 * 3 / 2, rel=0.1)
    run_job(tmp_path, f"{body}; raise XtalrlError('no')")
    assert read_pace(log) == Pace(12, 0.0, failed=True)


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
    assert not (tmp_path / "results").exists()


def test_a_folder_of_results_is_not_left_behind(tmp_path: Path) -> None:
    config = Config(results=str(tmp_path / "results"), cache=str(tmp_path / "cache"))
    check_folders(config)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    (tmp_path / "results").mkdir()
    check_folders(config)
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize(
    ("results", "cache", "sentence"),
    [
        (".", "cache", "`results` is '.', the folder of the checkout or one above it"),
        ("/", "cache", "`results` is '/', the folder of the checkout"),
        ("x/..", "cache", "`results` is 'x/..', the folder of the checkout"),
        ("results", "..", "`cache` is '..', the folder of the checkout"),
        ("results", "results/", "a run needs a folder outside of it"),
        ("results/cache/x", "results/cache", "a run needs a folder outside of it"),
    ],
)
def test_results_keep_to_a_folder_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: str, cache: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(XtalrlError) as error:
        check_folders(Config(results=results, cache=cache))
    assert sentence in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("results", ["config", "profiles/local", "results/mine"])
def test_a_file_of_the_user_is_not_replaced_by_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: str
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / results / "config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("results: results/mine\n")
    config = Config(results=results, cache="cache")
    with pytest.raises(XtalrlError, match=f"`results` is '{results}', where config.yaml is not the record of a run"):
        refuse_other_files(config)
    assert own.read_text() == "results: results/mine\n"
    own.unlink()
    write_record(config)
    refuse_other_files(config)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("run `snakemake scf` again.", "run `snakemake scf --profile profiles/local --configfile a.yaml 'b c.yaml'` again."),
        ("`snakemake --forcerun x` or `snakemake y`", "`snakemake --forcerun x OPTIONS` or `snakemake y OPTIONS`"),
        ("`snakemake scf --profile profiles/slurm`", "`snakemake scf --profile profiles/slurm`"),
        ("`snakemake scf --cores 1`, `snakemake`, `xtalrl status`", "`snakemake scf --cores 1`, `snakemake`, `xtalrl status`"),
    ],
)  # fmt: skip
def test_a_command_in_a_message_can_be_typed(message: str, expected: str) -> None:
    options = options_typed(["a.yaml", "b c.yaml"])
    assert completed(message, options) == expected.replace("OPTIONS", options)


def test_the_profile_of_a_message_is_that_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert options_typed([], ["snakemake", "all", "--profile", "profiles/slurm"]) == "--profile profiles/slurm"
    assert options_typed([], ["snakemake", "--workflow-profile=mine", "all"]) == "--profile mine"
    monkeypatch.setenv(TYPED, options_typed(["mine.yaml"], ["--profile", "profiles/slurm"]))
    _, stderr, _ = run_job(tmp_path, "raise XtalrlError('a is missing: run `snakemake a`.')")
    assert stderr.endswith("run `snakemake a --profile profiles/slurm --configfile mine.yaml`.\n")


def test_a_link_to_itself_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(XtalrlError, match="cannot be written"):
        check_folders(Config(results=str(tmp_path / "loop"), cache=str(tmp_path / "cache")))


def test_the_folders_of_a_shared_cache_take_its_mode(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o2775)
    old = os.umask(0o077)
    try:
        make_cache_folders(Config(results=str(tmp_path / "results"), cache=str(tmp_path / "cache")))
    finally:
        os.umask(old)
    folders = {path.name: path.stat().st_mode & 0o7777 for path in (tmp_path / "cache").rglob("*")}
    assert set(folders) == {"benchmarks", "engine", "families", Config().dft.family, "logs", "mp20"}
    assert set(folders.values()) == {0o2775}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux has /proc")
@pytest.mark.parametrize("killed", ["snakemake", "shell"])
def test_a_job_ends_with_its_snakemake_and_with_nothing_else(tmp_path: Path, killed: str) -> None:
    """As the local executor starts it: a Snakemake, a second one, a shell, and the job."""
    job_code = "import os, time; from xtalrl.workflow import end_with_snakemake; end_with_snakemake()\n"
    job_code += "open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    (tmp_path / "job.py").write_text(job_code)
    (tmp_path / "snakemake").write_text("import subprocess, sys; subprocess.run(sys.argv[1:])")
    python = [sys.executable, "snakemake"]
    inner = shlex.join([*python, "sh", "-c", shlex.join([sys.executable, "job.py"]) + "; true"])
    command = {"snakemake": [*python, "sh", "-c", f"{inner}; true"], "shell": ["sh", "-c", f"{inner}; true"]}[killed]
    top = subprocess.Popen(command, cwd=tmp_path)
    pid = 0
    try:
        deadline = time.monotonic() + 30
        while not pid and time.monotonic() < deadline:
            time.sleep(0.05)
            pid = int((tmp_path / "pid").read_text() or 0) if (tmp_path / "pid").exists() else 0
        assert pid
        top.kill()
        top.wait()
        deadline = time.monotonic() + (10 if killed == "snakemake" else 1.5)
        while is_alive(pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert is_alive(pid) == (killed == "shell")
    finally:
        if pid and is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def test_a_cache_that_is_there_may_be_one_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    (tmp_path / "cache").mkdir()
    with pytest.raises(XtalrlError, match="The results folder"):
        check_folders(Config(results=str(tmp_path / "results"), cache=str(tmp_path / "cache")))
    monkeypatch.setattr(
        Path, "write_bytes", lambda path, content: refuse(path, content) if path.parent.name == "cache" else 0
    )
    check_folders(Config(results=str(tmp_path / "results"), cache=str(tmp_path / "cache")))
