"""A campaign in earnest, only small: the embedded crystals, the policy that ships, a predictor of a few steps, a real pw.x."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from xtalrl import tables
from xtalrl.campaign.screening import COMPUTED
from xtalrl.resources import RESOURCES

pytestmark = pytest.mark.slow

CONFIG = """
structures: {source: demo}
labels: {path: source}
references: {elements: data}
dft:
  protocol: demo
  command: embedded
  family: pseudo-dojo-0.4-pbe-sr-standard
  shards: {evaluation: 1, campaign: 2, confirmation: 1}
  time_limits: {reference: [5], design: [1]}
policies: {random: false, bc: false, ucql: false, targets_ev: []}
campaign:
  gap_ev: 6
  window_ev: 3
  budget: 7
  rounds: 2
  max_sites: 2
  designs: 2
  allow: [Li, F, Na, Cl, Mg, O]
  predictor_steps: 60
  policy_steps: 3
"""


class Run:
    """A campaign in a folder of its own, with downloads shared with the checkout."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.results, self.cache = root, folder / "results", folder / "cache"
        self.config = folder / "mine.yaml"
        self.config.write_text(f"results: {self.results}\ncache: {self.cache}\n{CONFIG}")

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable, "-m", "snakemake", "--nolock", *arguments, "--profile", "profiles/local", "--cores", "2", "--configfile", str(self.config),
            ],
            cwd=self.root, capture_output=True, text=True, timeout=1500, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(root, tmp_path_factory.mktemp("campaign"))
    for name in ("downloads", "engine"):  # what the network gives; finished SCFs are not shared
        if (root / "results/cache" / name).is_dir():
            shutil.copytree(root / "results/cache" / name, run.cache / name)
    result = run.snakemake("campaign", "report")
    assert result.returncode == 0, result.stdout + result.stderr
    return run


def test_the_budget_is_spent_over_the_rounds(run: Run) -> None:
    computed = [
        [row for row in tables.read_rows(run.results / f"campaign-{number}/screening.parquet", tables.SCREENING) if row["verdict"] in COMPUTED]
        for number in (1, 2)
    ]  # fmt: skip
    assert [len(rows) for rows in computed] == [4, 3]
    outcomes = tables.read_rows(run.results / "campaign/outcomes.parquet", tables.SCF_OUTCOMES)
    designs = {row["request_id"] for row in outcomes if row["kind"] == "design"}
    assert designs == {row["request_id"] for rows in computed for row in rows}
    assert any(row["outcome"] == "converged" for row in outcomes if row["kind"] == "design")


def test_the_second_predictor_learned_from_the_first_round(run: Run) -> None:
    labels = tables.read_rows(run.results / "campaign-1/labels.parquet", tables.LABELS)
    held_out = tables.read_rows(run.results / "campaign-2/held_out.parquet", tables.PREDICTIONS)
    assert {row["material_id"] for row in labels} <= {row["material_id"] for row in held_out}


def test_the_second_round_designs_with_a_policy_that_learned_from_the_first(run: Run) -> None:
    labels = tables.read_rows(run.results / "campaign-1/labels.parquet", tables.LABELS)
    record = json.loads((run.results / "campaign-2/policy/policy.json").read_bytes())
    assert record["further_training"]["designs"] == sum(
        row["band_gap"] is not None and row["formation_energy_per_atom"] is not None for row in labels
    )
    assert not (run.results / "campaign-1/policy").exists()


def test_hits_have_crystals_and_evidence_that_reproduces_them(run: Run) -> None:
    with (run.results / "campaign/hits.csv").open() as file:
        hits = list(csv.DictReader(file))
    schema = json.loads((RESOURCES / "schemas/evidence.schema.json").read_text())
    records = {path.name: json.loads(path.read_text()) for path in (run.results / "campaign/designs").glob("*.json")}
    assert len(records) == 7
    for record in records.values():
        jsonschema.validate(record, schema)
        assert all("&CONTROL" in attempt["pw_input"] for attempt in record["scf"]["attempts"])
    assert hits, "salts with gaps of 3 to 9 eV are easily found"
    for hit in hits:
        assert (run.results / "campaign" / hit["cif"]).is_file()
        assert records[Path(hit["evidence"]).name]["confirmation"]["verdict"] == hit["verdict"]


def test_the_report_shows_the_campaign(run: Run) -> None:
    html = (run.results / "report.html").read_text()
    assert "The campaign, round by round." in html
    assert "Hits of the campaign over the SCFs spent." in html


def test_nothing_is_left_to_do_and_a_further_round_leaves_the_others_as_they_are(run: Run) -> None:
    again = run.snakemake("campaign", "report", "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr
    text = run.config.read_text()
    run.config.write_text(text.replace("budget: 7", "budget: 10").replace("rounds: 2", "rounds: 3"))
    more = run.snakemake("campaign", "--dry-run")
    run.config.write_text(text)
    assert more.returncode == 0, more.stdout + more.stderr
    assert "campaign-1, " not in more.stdout + more.stderr
