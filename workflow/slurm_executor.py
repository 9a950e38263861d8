"""Snakemake's SLURM executor without the waits that never end, and without the failures that are none.

The plugin (2.8.0) takes a preempted job for a running one, `CANCELLED by 1000` of sacct too; it forgets its jobs when squeue fails for long,
and it counts a submission that SLURM refuses for the moment as a failed attempt.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import AsyncIterator

from snakemake_executor_plugin_slurm import Executor
from snakemake_executor_plugin_slurm.job_status_query import query_job_status_sacct, query_job_status_squeue
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

ALIVE = frozenset({
    "PENDING", "CONFIGURING", "POWER_UP_NODE", "EXPEDITING", "RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING",
    "STAGE_OUT", "COMPLETING", "UPDATE_DB", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD",
})  # fmt: skip
"""The states that a job leaves again (squeue(1), sacct(1), the page "Job State Codes" of SLURM 25.05). Any other is an end."""
HELD_BY_SLURM = re.compile("requeued held", re.IGNORECASE)
"""The reason of a job that SLURM could not launch and puts back for somebody to release: it would wait for ever."""
REFUSED_FOR_NOW = re.compile(
    r"(Assoc|QOS)\w*SubmitJob|Unable to contact|Socket timed out|temporarily|standby|Zero Bytes|Unexpected message", re.IGNORECASE
)  # fmt: skip
"""What sbatch says when it would take the same job later: too many of them, or a controller that is away or busy."""
LONGEST_PAUSE_S = 180
"""As in the plugin. squeue must remember finished jobs for longer."""
PAUSE_AFTER_REFUSAL_S = 30
LOST = "forgotten by SLURM"


class PatientExecutor(Executor):  # type: ignore[misc]
    """Submits jobs as the plugin does. Whatever becomes of them ends in a success, a failure or another submission."""

    def __post_init__(self, test_mode: bool = False) -> None:
        """Called by the plugin's constructor."""
        super().__post_init__(test_mode)
        self._seen: set[str] = set()
        self._answered = True
        self._stopping = threading.Event()
        self._last_remark_s = float("-inf")

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncIterator[SubmittedJobInfo]:
        """Yields the jobs that are not at their end, and reports the others."""
        async with self.status_rate_limiter:
            states = self._ask_for_states() if active_jobs else {}
        some_ended = False
        for job in active_jobs:
            state = states.get(job.external_jobid, LOST if states and job.external_jobid in self._seen else "PENDING")
            if state in ALIVE:
                yield job
                continue
            some_ended = True
            self._end(job, state)
        first_pause_s = self.workflow.executor_settings.init_seconds_before_status_checks
        longer_s = self.next_seconds_between_status_checks + 10
        self.next_seconds_between_status_checks = (
            first_pause_s if some_ended or not active_jobs else min(longer_s, LONGEST_PAUSE_S)
        )

    def _ask_for_states(self) -> dict[str, str]:
        """The state of each of our jobs by its id; nothing if SLURM does not answer."""
        if self.get_status_command() == "sacct":
            command = query_job_status_sacct(self.run_uuid)
        else:
            command = query_job_status_squeue(self.run_uuid).replace("%T", "%T|%r")
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
            return {}
        states = {}
        for line in answer.stdout.splitlines():
            number, state, *reason = line.split("|")
            # sacct says "CANCELLED by 1000".
            states[number] = (
                "LAUNCH_FAILED" if reason and HELD_BY_SLURM.search(reason[0]) else state.split()[0].rstrip("+")
            )
        if self.get_status_command() != "sacct":  # which looks back for two days only
            self._seen |= states.keys()
        return states

    def _end(self, job: SubmittedJobInfo, state: str) -> None:
        """Report a job that is at its end, or submit it again if it was only preempted."""
        log = job.aux["slurm_logfile"]
        if state == "COMPLETED":
            self.report_job_success(job)
            if not self.workflow.executor_settings.keep_successful_logs:
                with contextlib.suppress(OSError):
                    log.unlink()
            return
        # SLURM may be about to requeue the job (with sacct one sees it end first): it must not run beside its repetition.
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
        """Called by the plugin, in a thread that submits, when a job could not be submitted."""
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
        # The thread is kept for so long: with the plugin's two threads, that is how often SLURM is asked.
        self._stopping.wait(PAUSE_AFTER_REFUSAL_S)
        if self._stopping.is_set():
            super()._report_job_error_threadsafe(job_info, msg)
        else:
            self._submit_again(job_info.job)

    def _is_temporary(self, refusal: str) -> bool:
        if REFUSED_FOR_NOW.search(refusal):
            return True
        # Without a name of the limit, this may as well be about the size of the job.
        unnamed = "job submit limit" in refusal and not re.search(r"\b(Assoc|QOS)\w+", refusal)
        return unnamed and bool(self.active_jobs)

    def _submit_again(self, job: JobExecutorInterface) -> None:
        self._job_submission_executor.submit(self.run_job, job)

    def cancel(self) -> None:
        """Called on Ctrl-C."""
        self._stopping.set()
        super().cancel()

    def shutdown(self) -> None:
        """Called at the end."""
        self._stopping.set()
        super().shutdown()


def install() -> None:
    """Let `executor: slurm` mean this one."""
    ExecutorPluginRegistry().get_plugin("slurm").executor = PatientExecutor
