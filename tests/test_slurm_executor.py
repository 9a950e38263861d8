"""What src/xtalrl/slurm_executor.py makes of the answers of squeue, sacct and sbatch; a real SLURM gives them in test_slurm.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snakemake_executor_plugin_slurm import Executor
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from xtalrl import slurm_executor
from xtalrl.slurm_executor import ALIVE, PatientExecutor

# SLURM 25.05, "Job State Codes": base states, then flags.
FINAL = "BOOT_FAIL CANCELLED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED TIMEOUT REVOKED LAUNCH_FAILED RECONFIG_FAIL SPECIAL_EXIT"


class Probe(PatientExecutor):
    """One that needs no Snakemake and writes down what becomes of its jobs."""

    def __init__(self, command: str = "squeue") -> None:
        settings = SimpleNamespace(
            status_command=command, init_seconds_before_status_checks=1, keep_successful_logs=False
        )
        self.workflow = SimpleNamespace(  # type: ignore[assignment]
            dag=SimpleNamespace(),
            executor_settings=settings,
            remote_execution_settings=SimpleNamespace(seconds_between_status_checks=10),
        )
        self.logger = logging.getLogger("probe")
        self.run_uuid = "xtalrl_1"
        self._main_event_loop = None
        self._next_seconds_between_status_checks = None
        self.status_rate_limiter = contextlib.nullcontext()  # type: ignore[assignment]
        self._names, self._leaving = {self.run_uuid}, False
        self._submitted_job_clusters: set[str] = set()
        self._watched: dict[str, SubmittedJobInfo] = {}
        self._seen, self._answered, self._last_remark_s = set(), True, float("-inf")
        self._stopping = threading.Event()
        self._job_submission_executor = ThreadPoolExecutor(1)
        self.active_jobs: list[SubmittedJobInfo] = []
        self.ends: list[str] = []

    def report_job_success(self, job_info: SubmittedJobInfo) -> None:
        self.ends.append("success")

    def report_job_error(self, job_info: SubmittedJobInfo, msg: str | None = None, **kwargs: object) -> None:
        self.ends.append(f"error {msg}")

    def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Executor, "report_job_submission", lambda *_: None)
            super().report_job_submission(job_info, register_job)
        self.ends.append(f"watched {job_info.external_jobid}")

    def check(self, *numbers: str) -> list[str]:
        """The jobs that are still to be watched after asking once."""
        jobs = [
            SubmittedJobInfo(a_job(number), number, {"slurm_logfile": Path("/nowhere/1.log")}) for number in numbers
        ]  # type: ignore[arg-type]

        async def collect() -> list[str]:
            return [str(job.external_jobid) async for job in self.check_active_jobs(jobs)]

        alive = asyncio.run(collect())
        self._job_submission_executor.shutdown()
        self._job_submission_executor = ThreadPoolExecutor(1)
        return alive


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A plugin that submits nothing, in an empty folder."""
    monkeypatch.setattr(Executor, "run_job", lambda self, job: self.ends.append("submitted"))
    monkeypatch.chdir(tmp_path)


def a_job(name: str = "a", folder: Path = Path(), **params: object) -> SimpleNamespace:
    """What the executor looks at in a job of Snakemake."""
    return SimpleNamespace(
        jobid=1, is_group=lambda: False, output=[f"{name}.out"], input=[str(folder / f"{name}.in")], params=params
    )


def answers(monkeypatch: pytest.MonkeyPatch, folder: Path, **commands: str) -> None:
    """Commands of SLURM that say this; scancel writes down what it is asked to."""
    for name, text in {"scancel": f'echo "$@" >> {folder}/cancelled', **commands}.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_thread_that_watches_jobs_may_look_before_the_constructor_has_ended() -> None:
    """It starts in the middle of it, and would die without a word: a job that ended would then be waited for forever."""
    early = Probe.__new__(Probe)
    early.workflow = Probe().workflow

    async def look() -> list[SubmittedJobInfo]:
        return [job async for job in early.check_active_jobs([])]

    assert asyncio.run(look()) == []
    assert early.next_seconds_between_status_checks == 1


@pytest.mark.parametrize("state", FINAL.split())
@pytest.mark.parametrize("command", ["squeue", "sacct"])
def test_every_final_state_is_an_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str, command: str) -> None:
    line = f"echo '1|{state}|None'" if command == "squeue" else f"echo '1|{state} by 1000'"
    answers(monkeypatch, tmp_path, **{command: line})
    probe = Probe(command)
    assert probe.check("1") == []
    (end,) = probe.ends
    assert end == "submitted" if state == "PREEMPTED" else f"'{state}'" in end
    # Whatever SLURM might do with it, it does not run beside its repetition.
    assert (tmp_path / "cancelled").read_text() == "1\n"


@pytest.mark.parametrize("state", sorted(ALIVE))
def test_what_goes_on_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str) -> None:
    answers(monkeypatch, tmp_path, squeue=f"echo '1|{state}|Priority'")
    probe = Probe()
    assert probe.check("1") == ["1"] and not probe.ends
    assert not (tmp_path / "cancelled").exists()


@given(state=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ_", min_size=1))
def test_a_state_of_a_slurm_to_come_is_no_reason_to_wait_for_ever(state: str) -> None:
    probe = Probe()
    probe._ask_for_states = lambda: {"1": state}  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slurm_executor.subprocess, "run", lambda *_, **__: None)
        assert probe.check("1") == (["1"] if state in ALIVE else [])
    assert len(probe.ends) == (state not in ALIVE)


def test_a_finished_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, tmp_path, squeue="echo '1|COMPLETED|None'; echo '2|RUNNING|None'")
    probe = Probe()
    assert probe.check("1", "2", "3") == ["2", "3"]  # 3 is not in squeue yet
    assert probe.ends == ["success"]


def test_a_job_that_could_not_be_launched_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, tmp_path, squeue="echo '1|PENDING|launch failed requeued held'")
    probe = Probe()
    assert probe.check("1") == [] and "LAUNCH_FAILED" in probe.ends[0]
    assert (tmp_path / "cancelled").read_text() == "1\n"


def test_jobs_are_not_forgotten_while_slurm_is_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    probe = Probe()
    answers(monkeypatch, tmp_path, squeue="echo 'Unable to contact slurm controller' >&2; exit 1", scontrol="exit 1")
    for _ in range(3):
        assert probe.check("1", "2") == ["1", "2"] and not probe.ends
    assert len(caplog.records) == 1  # said once
    answers(monkeypatch, tmp_path, squeue="echo '1|COMPLETED|None'; echo '2|RUNNING|None'")
    assert probe.check("1", "2") == ["2"] and probe.ends == ["success"]


@pytest.mark.parametrize(("age_s", "end"), [(0, "success"), (3600, "forgotten by SLURM"), (None, "forgotten by SLURM")])
def test_a_job_that_slurm_has_forgotten_is_known_by_its_outputs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, age_s: int | None, end: str
) -> None:
    """Outputs of before its submission, or none, are not a success."""
    probe = Probe()
    probe.report_job_submission(SubmittedJobInfo(a_job("1"), "1", {"slurm_logfile": Path("1.log")}))  # type: ignore[arg-type]
    probe.ends.clear()
    answers(monkeypatch, tmp_path, squeue="echo '1|RUNNING|None'; echo '2|RUNNING|None'")
    assert probe.check("1", "2") == ["1", "2"]
    if age_s is not None:
        (tmp_path / "1.out").write_text("")
        now = time.time()
        os.utime(tmp_path / "1.out", (now - age_s, now - age_s))
    answers(monkeypatch, tmp_path, squeue="exit 0")  # not a single job is left
    assert probe.check("1") == [] and end in probe.ends[0]


def test_a_job_that_squeue_forgot_before_it_was_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probe = Probe()
    job = a_job("1")
    probe.report_job_submission(SubmittedJobInfo(job, "1", {"slurm_logfile": Path("1.log")}))  # type: ignore[arg-type]
    probe.ends.clear()
    answers(monkeypatch, tmp_path, squeue="exit 0")
    assert probe.check("1") == ["1"]
    monkeypatch.setattr(slurm_executor, "LATE_S", -1)
    (tmp_path / "1.out").write_text("")
    assert probe.check("1") == [] and probe.ends == ["success"]


def refused(name: str) -> str:
    text = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    return f"SLURM sbatch failed. The error message was '{name}sbatch: error: {text}'.\n    sbatch call:\n        sbatch ..."


@pytest.mark.parametrize(
    ("message", "others_run", "waits"),
    [
        (refused("sbatch: error: AssocMaxSubmitJobLimit\n"), False, True),
        (refused("sbatch: error: AssocGrpSubmitJobsLimit\n"), False, True),
        (refused("sbatch: error: QOSMaxSubmitJobPerUserLimit\n"), False, True),
        (refused("sbatch: error: QOSGrpSubmitJobsLimit\n"), True, True),
        (refused("sbatch: error: QOSMaxWallDurationPerJobLimit\n"), True, False),
        (refused("sbatch: error: QOSMaxCpuPerUserLimit\n"), True, False),
        (refused(""), True, True),  # an old SLURM names no limit
        (refused(""), False, False),
        ("The error message was 'sbatch: error: Unable to contact slurm controller (connect failure)'.", False, True),
        ("The error message was 'sbatch: error: Slurm temporarily unable to accept job'.", False, True),
        ("The error message was 'sbatch: error: invalid partition specified: nope'.", True, False),
        ("The error message was 'Requested node configuration is not available'.", True, False),
    ],
)
def test_a_submission_that_slurm_refuses_for_now_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, message: str, others_run: bool, waits: bool
) -> None:
    monkeypatch.setattr(slurm_executor, "PAUSE_AFTER_REFUSAL_S", 0)
    probe = Probe()
    if others_run:
        probe.active_jobs.append(SubmittedJobInfo(a_job()))  # type: ignore[arg-type]
    probe._report_job_error_threadsafe(SubmittedJobInfo(a_job()), message)  # type: ignore[arg-type]
    probe._job_submission_executor.shutdown()
    assert probe.ends == (["submitted"] if waits else [f"error {message}"])
    # At the end of Snakemake nothing waits any more.
    probe._stopping.set()
    probe.ends.clear()
    probe._report_job_error_threadsafe(SubmittedJobInfo(a_job()), message)  # type: ignore[arg-type]
    assert probe.ends == [f"error {message}"]


@pytest.mark.parametrize(
    ("squeue", "change", "ends"),
    [
        ("echo 'RUNNING|xtalrl_0'", "", ["watched 7"]),
        ("echo 'PENDING|xtalrl_0'", "", ["watched 7"]),
        ("echo 'COMPLETING|xtalrl_0'", "", ["submitted"]),
        ("exit 0", "", ["submitted"]),  # known, and at its end
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", "", ["submitted"]),
        ("echo 'RUNNING|of_somebody_else'", "", ["submitted"]),  # ids begin again when SLURM is set up anew
        ("[ -e cancelled ] || echo 'RUNNING|xtalrl_0'", "params", ["submitted"]),
        ("[ -e cancelled ] || echo 'RUNNING|xtalrl_0'", "input", ["submitted"]),
    ],
)
def test_a_job_that_an_earlier_snakemake_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, squeue: str, change: str, ends: list[str]
) -> None:
    (tmp_path / "a.in").write_text("")
    earlier = Probe()
    earlier.run_uuid = "xtalrl_0"
    earlier.report_job_submission(
        SubmittedJobInfo(a_job(folder=tmp_path, steps=1), "7", {"slurm_logfile": Path("7.log")})
    )  # type: ignore[arg-type]
    answers(monkeypatch, tmp_path, squeue=squeue)
    probe = Probe()
    if change == "input":
        later = time.time() + 10
        os.utime(tmp_path / "a.in", (later, later))
    job = a_job(folder=tmp_path, steps=2 if change == "params" else 1)
    probe.run_job(job)  # type: ignore[arg-type]
    assert probe.ends == ends
    assert (tmp_path / "cancelled").exists() == bool(change)
    if ends == ["watched 7"]:
        # It is found by the name it has in SLURM, also by a third Snakemake.
        assert probe._names == {"xtalrl_0", "xtalrl_1"}
        third = Probe()
        third.run_uuid = "xtalrl_2"
        third.run_job(job)  # type: ignore[arg-type]
        assert third.ends == ends


def test_nothing_is_submitted_twice_because_squeue_is_silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slurm_executor, "PAUSE_AFTER_REFUSAL_S", 0)
    earlier = Probe()
    earlier.run_uuid = "xtalrl_0"
    earlier.report_job_submission(SubmittedJobInfo(a_job(), "7", {"slurm_logfile": Path("7.log")}))  # type: ignore[arg-type]
    silent = "[ -e asked ] && echo 'RUNNING|xtalrl_0' || { touch asked; echo 'Unable to contact slurm controller' >&2; exit 1; }"
    answers(monkeypatch, tmp_path, squeue=silent)
    probe = Probe()
    probe.run_job(a_job())  # type: ignore[arg-type]
    while not probe.ends:
        time.sleep(0.01)
    assert probe.ends == ["watched 7"]


def test_ctrl_c_cancels_what_slurm_is_being_asked_about(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Snakemake's list of active jobs is empty then."""
    answers(monkeypatch, tmp_path)
    monkeypatch.setattr(Executor, "shutdown", lambda self: None)
    probe = Probe()
    probe.lock = threading.Lock()
    for number in ("7", "8"):
        probe.report_job_submission(SubmittedJobInfo(a_job(number), number, {"slurm_logfile": Path("7.log")}))  # type: ignore[arg-type]
    probe._end(probe._watched["8"], "COMPLETED")
    probe.cancel()
    assert (tmp_path / "cancelled").read_text() == "7\n"
    probe.ends.clear()
    probe._submit_again(a_job())  # type: ignore[arg-type]
    assert not probe.ends


def test_leaving_cancels_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answers(monkeypatch, tmp_path)
    probe = Probe()
    probe.lock, probe.wait = threading.Lock(), True
    with pytest.raises(KeyboardInterrupt):
        probe._leave(10, None)
    probe.active_jobs.append(SubmittedJobInfo(a_job(), "7"))  # type: ignore[arg-type]
    probe.cancel()
    assert not probe.wait and not (tmp_path / "cancelled").exists()
