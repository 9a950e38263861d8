"""Snakemake's SLURM executor without waits that never end and without false failures.

The plugin (2.8.0) takes a preempted job for a running one, and also a job that sacct reports as `CANCELLED by 1000`; it forgets its jobs when
squeue fails for long; it counts a submission that SLURM refuses only for the moment as a failed attempt; and it does not know the jobs of a
Snakemake that is gone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType

from snakemake_executor_plugin_slurm import Executor
from snakemake_executor_plugin_slurm.job_status_query import query_job_status_sacct, query_job_status_squeue
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

ALIVE = frozenset({
    "PENDING", "CONFIGURING", "POWER_UP_NODE", "EXPEDITING", "RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING",
    "STAGE_OUT", "COMPLETING", "UPDATE_DB", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD",
})  # fmt: skip
"""States of a job that has not ended (squeue(1), sacct(1), the page "Job State Codes" of SLURM 25.05). Any other state is final."""
HELD_BY_SLURM = re.compile("requeued held", re.IGNORECASE)
"""Reason that SLURM gives for a job that it could not launch and holds until an administrator releases it: the job would wait forever."""
REFUSED_FOR_NOW = re.compile(
    r"(Assoc|QOS)\w*SubmitJob|Unable to contact|Socket timed out|temporarily|standby|Zero Bytes|Unexpected message", re.IGNORECASE
)  # fmt: skip
"""What sbatch says when it would accept the same job later: too many jobs, or a controller that is away or busy."""
LONGEST_PAUSE_S = 180
"""Longest pause in s between two queries of the queue, as in the plugin. squeue must remember finished jobs for longer."""
PAUSE_AFTER_REFUSAL_S = 30
LATE_S = 600
LOST = "forgotten by SLURM"
SUBMITTED = Path(".snakemake/slurm_jobs")
"""Folder of the jobs that were submitted and are not known to have ended: one file per job."""


class PatientExecutor(Executor):  # type: ignore[misc]
    """Submits jobs as the plugin does. Whatever happens to a job, it ends in a success, a failure or another submission."""

    def __post_init__(self, test_mode: bool = False) -> None:
        """Called by the plugin's constructor."""
        super().__post_init__(test_mode)
        self._names = {self.run_uuid}
        self._seen: set[str] = set()
        self._watched: dict[str, SubmittedJobInfo] = {}
        self._leaving = False
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGUSR1, self._leave)
        self._answered = True
        self._stopping = threading.Event()
        self._last_remark_s = float("-inf")

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncIterator[SubmittedJobInfo]:
        """Yield the jobs that have not ended, and report the others."""
        first_pause_s = self.workflow.executor_settings.init_seconds_before_status_checks
        if not active_jobs:
            # A thread that starts before the constructor has ended calls this without jobs: whatever is read here must exist by then, or the
            # thread dies silently, and Snakemake waits forever.
            self.next_seconds_between_status_checks = first_pause_s
            return
        async with self.status_rate_limiter:
            states = self._ask_for_states()
        some_ended = False
        for job in active_jobs:
            unnamed = LOST if job.external_jobid in self._seen or self._must_be_known(job) else "PENDING"
            state = "PENDING" if states is None else states.get(job.external_jobid, unnamed)
            if state in ALIVE:
                yield job
                continue
            some_ended = True
            self._end(job, state)
        longer_s = self.next_seconds_between_status_checks + 10
        self.next_seconds_between_status_checks = first_pause_s if some_ended else min(longer_s, LONGEST_PAUSE_S)

    def _must_be_known(self, job: SubmittedJobInfo) -> bool:
        """Whether a job that squeue never listed has been missing for too long: on a single cluster, squeue lists at once what sbatch accepted."""
        if self.get_status_command() == "sacct" or self._submitted_job_clusters:
            return False
        with contextlib.suppress(OSError):
            return time.time() - _record_of(job.job).stat().st_mtime > LATE_S
        return False

    def _ask_for_states(self) -> dict[str, str] | None:
        """The state of each of our jobs by its id; None if SLURM does not answer."""
        names = ",".join(sorted(self._names))
        if self.get_status_command() == "sacct":
            command = query_job_status_sacct(names)
        else:
            command = query_job_status_squeue(names).replace("%T", "%T|%r")
        try:
            answer = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
            silent = answer.stderr.strip() if answer.returncode else ""
        except subprocess.TimeoutExpired:
            silent = "no answer within 60 s"
        if silent and self._answered:
            self.logger.warning(
                f"SLURM does not say how the jobs are ({silent}). They are not touched, and asked for again."
            )
        self._answered = not silent
        if silent:
            return None
        states = {}
        for line in answer.stdout.splitlines():
            number, state, *reason = line.split("|")
            # sacct says "CANCELLED by 1000".
            states[number] = (
                "LAUNCH_FAILED" if reason and HELD_BY_SLURM.search(reason[0]) else state.split()[0].rstrip("+")
            )
        if self.get_status_command() != "sacct":  # sacct looks back for two days only
            self._seen |= states.keys()
        return states

    def _end(self, job: SubmittedJobInfo, state: str) -> None:
        """Report a job that has ended, or submit it again if it was only preempted."""
        if state == LOST and _has_made_its_outputs(job.job):
            state = "COMPLETED"
        self._watched.pop(job.external_jobid, None)
        log = job.aux["slurm_logfile"]
        _record_of(job.job).unlink(missing_ok=True)
        if state == "COMPLETED":
            self.report_job_success(job)
            if not self.workflow.executor_settings.keep_successful_logs:
                with contextlib.suppress(OSError):
                    log.unlink()
            return
        # SLURM may be about to requeue the job (sacct shows it as ended first), and it must not run at the same time as its repetition.
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["scancel", job.external_jobid], capture_output=True, timeout=60)
        if state == "PREEMPTED":
            self.logger.warning(
                f"SLURM-job '{job.external_jobid}' was preempted. It is submitted again, which counts as no attempt."
            )
            self._submit_again(job.job)
        else:
            message = f"SLURM-job '{job.external_jobid}' failed, SLURM status is: '{state}'. "
            self.report_job_error(job, msg=message, aux_logs=[str(log)])

    def _report_job_error_threadsafe(self, job_info: SubmittedJobInfo, msg: str) -> None:
        """Called by the plugin, in a submitting thread, when a job could not be submitted."""
        if not self._is_temporary(msg):
            super()._report_job_error_threadsafe(job_info, msg)
            return
        if time.monotonic() - self._last_remark_s > 600:
            self._last_remark_s = time.monotonic()
            said = re.search(r"message was '(.*?)'\.$", msg, re.DOTALL | re.MULTILINE)
            self.logger.warning(
                f"SLURM takes no more jobs for now ({' '.join(said[1].split()) if said else msg}): "
                f"asked again every {PAUSE_AFTER_REFUSAL_S} s. `xtalrl doctor --profile` says what the limits are."
            )
        # The thread waits that long; as the plugin has two such threads, this limits how often SLURM is asked.
        self._stopping.wait(PAUSE_AFTER_REFUSAL_S)
        if self._stopping.is_set():
            super()._report_job_error_threadsafe(job_info, msg)
        else:
            self._submit_again(job_info.job)

    def _is_temporary(self, refusal: str) -> bool:
        if REFUSED_FOR_NOW.search(refusal):
            return True
        # Unless the limit is named, the refusal may also be about the size of the job.
        unnamed = "job submit limit" in refusal and not re.search(r"\b(Assoc|QOS)\w+", refusal)
        return unnamed and bool(self.active_jobs)

    def _submit_again(self, job: JobExecutorInterface) -> None:
        with contextlib.suppress(RuntimeError):  # after Ctrl-C nothing more is submitted
            self._job_submission_executor.submit(self.run_job, job)

    def run_job(self, job: JobExecutorInterface) -> None:
        """Called in a submitting thread. A job that an earlier Snakemake left in the queue is waited for, not submitted again."""
        try:
            if earlier := self._left_in_the_queue(job):
                self._names.add(earlier["name"])
                self.logger.info(
                    f"Job {job.jobid} is in the queue already, as SLURM-job {earlier['number']}: it is waited for."
                )
                aux = {"slurm_logfile": Path(earlier["log"])}
                self._report_job_submission_threadsafe(SubmittedJobInfo(job, earlier["number"], aux))
                return
        except subprocess.SubprocessError as error:
            self._report_job_error_threadsafe(SubmittedJobInfo(job), f"Unable to contact SLURM: {error}")
            return
        super().run_job(job)

    def _left_in_the_queue(self, job: JobExecutorInterface) -> dict[str, str] | None:
        """The record of this very job of an earlier Snakemake, if it is still in the queue. A job that has changed since is cancelled.

        Raises:
            SubprocessError: squeue does not answer.
        """
        record = _record_of(job)
        try:
            earlier: dict[str, str] = json.loads(record.read_text())
            since = record.stat().st_mtime
        except (OSError, ValueError):
            return None
        if earlier["name"] == self.run_uuid or not _is_in_the_queue(earlier):
            return None
        if earlier["asks_for"] == _what_it_asks_for(job) and not _has_newer_input(job, since):
            return earlier
        self.logger.info(
            f"Job {job.jobid} has changed since it was submitted as SLURM-job {earlier['number']}, which is cancelled."
        )
        subprocess.run(["scancel", earlier["number"]], capture_output=True, timeout=60)
        end = time.monotonic() + 60
        while _is_in_the_queue(earlier) and time.monotonic() < end:
            time.sleep(1)
        return None

    def report_job_submission(self, job_info: SubmittedJobInfo, register_job: bool = True) -> None:
        """Called when SLURM has accepted a job, or had it already."""
        record = _record_of(job_info.job)
        content = {
            "number": str(job_info.external_jobid),
            "name": self.run_uuid,
            "log": str(job_info.aux["slurm_logfile"]),
            "asks_for": _what_it_asks_for(job_info.job),
        }
        with contextlib.suppress(OSError, ValueError):
            if json.loads(record.read_text())["number"] == content["number"]:
                content = {}  # A job of an earlier Snakemake, whose name it has in SLURM.
        if content:
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps(content))
        self._watched[str(job_info.external_jobid)] = job_info
        super().report_job_submission(job_info, register_job)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        """End Snakemake and leave its jobs in the queue, for another Snakemake to take over: what SIGUSR1 asks for."""
        self._leaving = True
        raise KeyboardInterrupt

    def cancel(self) -> None:
        """Called on Ctrl-C. Jobs that are not submitted yet never are; those being submitted are waited for, and cancelled too."""
        self._stopping.set()
        self._job_submission_executor.shutdown(cancel_futures=True)
        super().cancel()

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Called by `cancel`, with no job at all while SLURM is being asked for their states."""
        if self._leaving:
            self.logger.info("The jobs stay in the queue. The same command waits for them.")
        else:
            super().cancel_jobs(list(self._watched.values()))

    def shutdown(self) -> None:
        """Called at the end."""
        self._stopping.set()
        if not self._leaving:
            super().shutdown()
            return
        # The jobs in the queue need what the plugin and Snakemake would delete now: a folder that they wait for when they start, and the
        # folders of their outputs, which are still empty.
        self.workflow.dag.cleanup_workdir = lambda: None
        with self.lock:
            self.wait = False


def _record_of(job: JobExecutorInterface) -> Path:
    outputs = "\0".join(str(path) for path in job.output)
    return SUBMITTED / f"{hashlib.sha256(outputs.encode()).hexdigest()[:16]}.json"


def _is_in_the_queue(earlier: dict[str, str]) -> bool:
    """Whether a job of an earlier Snakemake waits or runs.

    Raises:
        SubprocessError: squeue does not answer.
    """
    command = ["squeue", "--noheader", "--format=%T|%j", f"--jobs={earlier['number']}"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if asked.returncode and "Invalid job id" not in asked.stderr:
        asked.check_returncode()
    state, _, name = asked.stdout.strip().partition("|")
    return name == earlier["name"] and state in ALIVE - {"COMPLETING"}


def _what_it_asks_for(job: JobExecutorInterface) -> str:
    """A digest of what identifies a job: its inputs, outputs and parameters."""
    members = job.jobs if job.is_group() else [job]
    params = [repr(item) for member in members for item in sorted(member.params.items())]
    parts = [[str(path) for path in job.input], [str(path) for path in job.output], params]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _has_made_its_outputs(job: JobExecutorInterface) -> bool:
    """Whether all outputs are newer than the submission. A job that fails or is killed leaves no complete output."""
    try:
        since = _record_of(job).stat().st_mtime
        return all(Path(str(path)).stat().st_mtime >= since for path in job.output)
    except OSError:
        return False


def _has_newer_input(job: JobExecutorInterface, since: float) -> bool:
    inputs = (Path(str(path)) for path in job.input if not getattr(path, "is_ancient", False))
    return any(path.is_file() and path.stat().st_mtime > since for path in inputs)


def install() -> None:
    """Make `executor: slurm` mean this executor."""
    ExecutorPluginRegistry().get_plugin("slurm").executor = PatientExecutor
