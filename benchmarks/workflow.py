"""What the workflow costs before a single SCF: `python benchmarks/workflow.py`, from the checkout.

For runs of the size of MP-20 (12,000 nonmetals), three times that, and the sweep of the paper's appendix A.3, beside a design in which
every crystal is a job: seconds of CPU and memory of a dry run, jobs submitted to SLURM, files made. Needs no SLURM and writes nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CRYSTALS_A_SHARD = 60

COUNT = """
import json, sys
from pathlib import Path
from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.settings.types import Quietness

with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    workflow = api.workflow(
        resource_settings=ResourceSettings(cores=1), snakefile=Path("Snakefile"),
        config_settings=ConfigSettings(configfiles=[Path(sys.argv[1])]),
    )
    workflow.dag(DAGSettings(targets={sys.argv[2]}, forceall=True)).execute_workflow(executor="dryrun")
    dag = workflow._workflow.dag
    local = dag.workflow._localrules
    jobs = [job for job in dag.jobs if job.output]
    print(json.dumps({
        "submitted": sum(job.rule.name not in local for job in jobs),
        "local": sum(job.rule.name in local for job in jobs),
        "files": sum(len(job.output) + len(job.log) + bool(job.benchmark) for job in jobs),
        "outputs": sum(len(job.output) for job in jobs),
    }))
"""


def run_config(results: str, shards: int) -> dict[str, object]:
    """As many shards of designs as of crystals: the paper's 12 policies design some 2,300 crystals each, many of them twice or invalid."""
    return {
        "results": f"{results}/results",
        "cache": f"{results}/cache",
        "dft": {"shards": {"scf": shards, "references": 8, "evaluation": shards}},
    }


def sweep_config(results: str) -> dict[str, object]:
    """One of the eight rewards of Tables 3 and 4: two targets, two weights; labels are taken from the first run."""
    labels = Path(results) / "labels.csv"
    labels.touch()
    return {
        "results": f"{results}/results",
        "cache": f"{results}/cache",
        "labels": {"path": str(labels)},
        "references": {"energies": str(labels)},
        "policies": {"targets_ev": [1.12, 4.0]},
    }


def measure(config: dict[str, object], target: str, folder: Path) -> dict[str, float]:
    """CPU seconds and peak memory of a dry run as a user types it, and what the DAG holds."""
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    command = [
        sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", "--configfile", str(path),
        "--dry-run", "--quiet", "all", "--", target,
    ]  # fmt: skip
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit((folder / "log").read_text())
    counts = subprocess.run([sys.executable, "-c", COUNT, str(path), target], capture_output=True, text=True)
    if counts.returncode:
        sys.exit(counts.stderr)
    return {
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "rss_mb": usage.ru_maxrss / 1024,
        **json.loads(counts.stdout.splitlines()[-1]),
    }


def main() -> None:
    print(
        f"{'run':<44}{'dry run':>9}{'memory':>9}{'SLURM jobs':>12}{'local jobs':>12}{'files':>9}{'+ records':>11}\n"
        f"{'':<44}{'CPU s':>9}{'MB':>9}"
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            *(
                (f"{n:,} crystals, {CRYSTALS_A_SHARD} a job", run_config(folder, n // CRYSTALS_A_SHARD), "all", 1)
                for n in (12_000, 36_000)
            ),
            *((f"{n:,} crystals, one a job", run_config(folder, n), "all", 1) for n in (12_000, 36_000)),
            ("appendix A.3: 8 rewards, target `rollout`", sweep_config(folder), "rollout", 8),
        ]
        for name, config, target, times in rows:
            found = measure(config, target, Path(folder))
            print(
                f"{name:<44}{found['cpu_s'] * times:>9.1f}{found['rss_mb']:>9,.0f}{found['submitted'] * times:>12,}"
                f"{found['local'] * times:>12,}{found['files'] * times:>9,}{found['outputs'] * times:>11,}",
                flush=True,
            )
    print(
        "\nfiles: outputs, logs and benchmarks. + records: Snakemake's own, one an output in .snakemake/metadata."
        "\nOne a job: each crystal and each design. The sweep's figures are those of its eight runs together."
    )


if __name__ == "__main__":
    main()
