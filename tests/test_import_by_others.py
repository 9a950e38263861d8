"""The workflow as others take it: as a module of theirs, with --directory, and by the files that the workflow catalog looks for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

MODULE = """\
configfile: "config/config.yaml"


module xtalrl:
    snakefile: "{snakefile}"
    config: config["crystals"]


use rule * from xtalrl as xtalrl_*


rule mine:
    default_target: True
    input: rules.xtalrl_make_report.output
    output: touch("mine.done")
"""


def plan(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_a_workflow_of_others_imports_ours(root: Path, tmp_path: Path, snakefile: str) -> None:
    (tmp_path / "config").mkdir()
    demo = yaml.safe_load((root / "config/demo.yaml").read_text())
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump({"crystals": demo, "theirs": 1}))
    (tmp_path / "Snakefile").write_text(MODULE.format(snakefile=root / snakefile))
    jobs = plan(tmp_path)
    assert "Writing results/demo/report.html" in jobs
    assert "localrules" not in jobs, "a rule that is local is so by whatever name it is imported"
    assert "rule mine:" in jobs


def test_the_workflow_runs_in_another_folder(root: Path, tmp_path: Path) -> None:
    snakefile = str(root / "Snakefile")
    assert "Writing results/mp20/report.html" in plan(tmp_path, "--snakefile", snakefile, "--directory", str(tmp_path))
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text((root / "config/demo.yaml").read_text())
    jobs = plan(tmp_path.parent, "--snakefile", snakefile, "--directory", str(tmp_path))
    assert "Writing results/demo/report.html" in jobs, "the folder's own configuration"


def test_the_snakefile_of_the_catalog_has_a_default_target(root: Path, tmp_path: Path) -> None:
    jobs = plan(
        tmp_path, "--snakefile", str(root / "workflow/Snakefile"), "--configfile", str(root / "config/demo.yaml")
    )
    assert "Writing results/demo/report.html" in jobs


def test_the_catalog_finds_what_it_wants(root: Path, tmp_path: Path) -> None:
    usage = yaml.safe_load((root / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert {"mandatory-flags", "software-stack-deployment"} == set(usage)
    assert (root / "config/README.md").exists() and (root / "profiles/README.md").exists()
    shutil.copytree(root / ".test", tmp_path, dirs_exist_ok=True)
    jobs = plan(root, "--directory", str(tmp_path), "--snakefile", "workflow/Snakefile")
    assert "Writing results/test/report.html" in jobs


def test_the_documented_module_is_the_one_that_is_tested(root: Path, tmp_path: Path) -> None:
    """The lines of config/README.md, in an empty folder with the demo's configuration."""
    (lines,) = re.findall(r"```python\n(.*?)```", (root / "config/README.md").read_text(), re.DOTALL)
    (tmp_path / "Snakefile").write_text(lines)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text((root / "config/demo.yaml").read_text())
    assert "Writing results/demo/report.html" in plan(tmp_path, "xtalrl_all")
