"""The Snakemake wiring: lint, format, targets, and mistakes answered before anything runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TARGETS = [
    "structures", "scf", "references", "labels", "trajectories", "train",
    "rollout", "evaluate", "confirm", "campaign", "tables", "figures", "report", "all",
]  # fmt: skip


def snakemake(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments], cwd=root, capture_output=True, text=True, timeout=120
    )


def dry_run(root: Path, *arguments: str) -> str:
    result = snakemake(root, "--dry-run", "--forceall", *arguments)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout + result.stderr


def job_counts(output: str) -> dict[str, int]:
    return {name: int(count) for name, count in re.findall(r"^([\w.]+) +(\d+)$", output, re.MULTILINE)}


def test_lint(root: Path) -> None:
    result = snakemake(root, "--lint", "--configfile", "config/demo.yaml")
    assert result.returncode == 0, result.stderr + result.stdout


def test_format(root: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "rules", "workflow/Snakefile"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


def test_every_rule_has_log_benchmark_message_and_environment(root: Path) -> None:
    for path in (root / "rules").glob("*.smk"):
        for rule in re.split(r"^ *(?:rule|checkpoint) ", path.read_text(), flags=re.MULTILINE)[1:]:
            name = rule.split(":")[0]
            for directive in ("log:", "benchmark:", "message:", "conda:", "script:"):
                if (name, directive) == ("run_scf_shard", "benchmark:"):
                    continue  # a file less for each of a thousand shards
                assert re.search(rf"^ +{directive}", rule, re.MULTILINE), f"{path.name}: {name} lacks {directive}"
            assert "lambda" not in rule


def test_the_paper_at_full_size(root: Path) -> None:
    counts = job_counts(dry_run(root, "--configfile", "config/paper.yaml"))
    assert counts["run_scf_shard"] == 230 + 8 + 230
    assert counts["train_policy"] == counts["rollout_policy"] == 12
    assert counts["gather_scf"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_stage_target_builds(root: Path, target: str) -> None:
    files = ["config/demo.yaml", *(["config/campaign.yaml"] if target == "campaign" else [])]
    assert job_counts(dry_run(root, target, "--configfile", *files))["total"] >= 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "dft={recovry: paper}"], ["`dft.recovry` is not a known key", "did you mean 'recovery'?"]),
        (["--config", "trainning={}"], ["did you mean 'training'?"]),
        (["--config", "results=/proc/xtalrl"], ["The results folder '/proc/xtalrl' cannot be written"]),
        (["--config", "structures={path: nowhere}"], ["nowhere"]),
        (
            ["--config", "campaign={gap_ev: 1, skeletons: no.cif}"],
            ["`campaign.skeletons` is 'no.cif'", "does not exist"],
        ),
        (
            ["--config", "campaign={gap_ev: 1, policy: none}"],
            ["`campaign.policy` is 'none'", "mp20", "one that this run trains (random"],
        ),
    ],
)
def test_a_mistake_gets_a_sentence_and_no_traceback(root: Path, arguments: list[str], expected: list[str]) -> None:
    result = snakemake(root, "--dry-run", *arguments, "--configfile", "config/demo.yaml")
    output = result.stdout + result.stderr
    assert result.returncode != 0
    for part in expected:
        assert part in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("target", "said"), [("campaign", "There is no campaign: name the wanted gap"), ("sweep", "There is no sweep")]
)
def test_a_target_that_is_not_configured_says_so(root: Path, target: str, said: str) -> None:
    result = snakemake(root, "--dry-run", target, "--configfile", "config/demo.yaml")
    assert result.returncode != 0
    assert said in result.stdout + result.stderr
    assert "Traceback (most recent call last)" not in result.stdout + result.stderr


@pytest.mark.parametrize("target", ["evaluate", "all", "labels"])
def test_imported_energies_that_do_not_fit_are_refused_before_anything_runs(
    root: Path, tmp_path: Path, target: str
) -> None:
    """`labels` refuses them where the crystals are computed here, and takes them where labels are imported, too."""
    (tmp_path / "r.csv").write_text("element,energy_per_atom_ry\nSi,-11.4\n")
    (tmp_path / "l.csv").write_text("material_id,band_gap,total_energy_ry\nx,1,-2\n")
    arguments = ["--dry-run", target, "--configfile", "config/paper.yaml"]
    energies, labels = f"energies: {tmp_path / 'r.csv'}", f"labels={{path: {tmp_path / 'l.csv'}}}"
    refused = snakemake(root, *arguments, "--config", f"references={{{energies}}}")
    assert refused.returncode != 0
    assert "`references.protocol: paper`" in refused.stdout + refused.stderr
    assert "Traceback (most recent call last)" not in refused.stdout + refused.stderr
    imported = snakemake(root, *arguments, "--config", f"references={{{energies}}}", labels)
    assert (imported.returncode == 0) == (target == "labels"), imported.stdout + imported.stderr
    stated = snakemake(root, *arguments, "--config", f"references={{{energies}, protocol: paper}}", labels)
    assert stated.returncode == 0, stated.stdout + stated.stderr
    assert job_counts(stated.stdout)["run_scf_shard"] == (8 if target == "labels" else 8 + 230)


@pytest.mark.parametrize(
    ("key", "content", "said"),
    [
        ("labels={{path: {}}}", "material_id\nx\n", "must have the column `material_id` and one of"),
        ("references={{crystals: {}}}", "element,cif\nSi,nonsense\n", "the crystal of Si cannot be a reference"),
        ("references={{energies: {}, protocol: paper}}", "element,energy_per_atom_ry,protocol\nSi,-11.4,sssp\n", "name the protocol sssp"),
        ("references={{energies: {}, protocol: paper}}", "element\nSi\n", "has neither `energy_per_atom_ry`"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_are_refused_before_anything_runs(
    root: Path, tmp_path: Path, key: str, content: str, said: str
) -> None:
    (tmp_path / "x.csv").write_text(content)
    given = key.format(tmp_path / "x.csv")
    refused = snakemake(root, "--dry-run", "all", "--configfile", "config/paper.yaml", "--config", given)
    assert refused.returncode != 0
    assert said in refused.stdout + refused.stderr
    assert "Traceback (most recent call last)" not in refused.stdout + refused.stderr


def test_imported_energies_are_compared_before_the_crystals_are_computed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("element,energy_per_atom_ry\nSi,-11.4\n")
    stated = f"references={{energies: {tmp_path / 'r.csv'}, protocol: paper}}"
    dag = snakemake(root, "--dag", "dot", "--configfile", "config/paper.yaml", "--config", stated, "--", "scf").stdout
    numbers = {name: number for number, name in re.findall(r'(\d+)\[label = "(\w+)', dag)}
    assert f"{numbers['import_references']} -> {numbers['plan_crystal_scf']}\n" in dag


def test_what_the_workflow_imports_is_light(root: Path) -> None:
    """Snakemake reads the rules at every start, and twice more in every job."""
    rules = "".join(path.read_text() for path in [root / "Snakefile", *(root / "rules").glob("*.smk")])
    modules = sorted(set(re.findall(r"^from (xtalrl[\w.]*) import", rules, re.MULTILINE)))
    assert "xtalrl.config" in modules
    code = f"import sys\nimport {', '.join(modules)}\nprint(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pymatgen", "scipy", "pyarrow", "torch", "matplotlib", "smact"} & set(imported)


def test_a_shipped_policy_is_not_trained(root: Path) -> None:
    output = dry_run(
        root, "rollout", "--configfile", "config/test.yaml", "--config",
        "policies={targets_ev: [], ucql: false, bc: false, random: false, rvs_targets_ev: [1.12, 3.0], pretrained: mp20}",
    )  # fmt: skip
    counts = job_counts(output)
    assert counts["take_pretrained"] == 1
    assert counts["rollout_policy"] == 2
    assert "train_policy" not in counts


def test_a_shipped_policy_that_is_not_there_is_a_sentence(root: Path) -> None:
    result = snakemake(
        root, "--dry-run", "rollout", "--configfile", "config/test.yaml", "--config", "policies={rvs_targets_ev: [1], pretrained: mine}"
    )  # fmt: skip
    assert result.returncode != 0
    assert "There is no pretrained policy 'mine'" in result.stdout + result.stderr
