"""What the workflow costs before a single SCF: `python benchmarks/workflow.py`, from the checkout.

For runs of the size of MP-20 (12,000 nonmetals) and three times that, with the default number of shards and with 60 crystals a shard, and
for the sweep of the paper's appendix A.3, beside a design in which every crystal is a job: seconds of CPU and memory of a dry run, jobs
submitted to SLURM, files made. Needs no SLURM and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from xtalrl.config import Shards

CRYSTALS_A_SHARD = 60
REPEATS = 2
"""Dry runs of which the cheapest counts: other work on the machine only adds."""

COUNT = """
import json, sys
from pathlib import Path
from snakemake.api import ConfigSettings, DAGSettings, OutputSettings, ResourceSettings, SnakemakeApi
from snakemake.settings.types import Quietness

with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    workflow = api.workflow(
        resource_settings=ResourceSettings(cores=1), snakefile=Path("Snakefile"),
        config_settings=ConfigSettings(configfiles=[Path(path) for path in sys.argv[2:]]),
    )
    workflow.dag(DAGSettings(targets={sys.argv[1]}, forceall=True)).execute_workflow(executor="dryrun")
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


def folders(folder: Path) -> dict[str, str]:
    return {"results": f"{folder}/results", "cache": f"{folder}/cache"}


def with_shards(folder: Path, shards: int) -> dict[str, object]:
    """As many shards of designs as of crystals: the paper's 12 policies design some 2,300 crystals each, many of them twice or invalid."""
    return {**folders(folder), "dft": {"shards": {"scf": shards, "references": 8, "evaluation": shards}}}


def measure(config: dict[str, object], over: list[str], target: str, folder: Path, repeats: int) -> dict[str, float]:
    """CPU seconds and peak memory of a dry run as a user types it, and what the DAG holds."""
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    command = [
        sys.executable, "-m", "snakemake", "--profile", "profiles/slurm", "--configfile", *over, str(path),
        "--dry-run", "--quiet", "all", "--", target,
    ]  # fmt: skip
    seconds = []
    for _ in range(repeats):
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit((folder / "log").read_text())
        seconds.append(usage.ru_utime + usage.ru_stime)
    counts = subprocess.run([sys.executable, "-c", COUNT, target, *over, str(path)], capture_output=True, text=True)
    if counts.returncode:
        sys.exit(counts.stderr)
    return {"cpu_s": min(seconds), "rss_mb": usage.ru_maxrss / 1024, **json.loads(counts.stdout.splitlines()[-1])}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(
        f"{'run':<52}{'dry run':>9}{'memory':>9}{'SLURM jobs':>12}{'local jobs':>12}{'files':>9}{'+ records':>11}\n"
        f"{'':<52}{'CPU s':>9}{'MB':>9}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        default = Shards().scf
        rows = [
            (f"{n:,} crystals, {default} shards as by default", with_shards(folder, default), [], "all", REPEATS)
            for n in (12_000, 36_000)
        ]
        rows += [
            (
                f"36,000 crystals, {CRYSTALS_A_SHARD} per job",
                with_shards(folder, 36_000 // CRYSTALS_A_SHARD),
                [],
                "all",
                REPEATS,
            ),
            (
                "appendix A.3: config/sweep.yaml, target `sweep`",
                folders(folder),
                ["config/sweep.yaml"],
                "sweep",
                REPEATS,
            ),
            ("12,000 crystals, one per job", with_shards(folder, 12_000), [], "all", 1),
        ]
        for label, config, over, target, repeats in rows:
            found = measure(config, over, target, folder, repeats)
            print(
                f"{label:<52}{found['cpu_s']:>9.1f}{found['rss_mb']:>9,.0f}{found['submitted']:>12,}"
                f"{found['local']:>12,}{found['files']:>9,}{found['outputs']:>11,}",
                flush=True,
            )
    print(
        "\nfiles: outputs, logs and benchmarks. + records: Snakemake's own, one an output in .snakemake/metadata."
        "\nOne per job: each crystal and each design."
    )


if __name__ == "__main__":
    main()
