"""`xtalrl status`: what it reads from files and the queue, and that it stays quick at 36,000 crystals."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from xtalrl.commands.status import _STAGE_OF_RULE, Stage, stages
from xtalrl.config import Config
from xtalrl.progress import Pace, pace_file, read_pace

SHARDS, SIZE = 600, 60
FINISHED, RUNNING, STOPPED = 500, 80, 10


def say(log: Path, **pace: Any) -> None:
    """What a job says of itself."""
    log.write_text("10:00:00  a line\n")
    pace_file(log).write_text(json.dumps(asdict(Pace(**pace))))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36,000 crystals in 600 shards: most finished, some running, a few cut off, the rest not begun."""
    folder = tmp_path_factory.mktemp("status")
    results = folder / "results"
    for name in ("scf/shards", "logs"):
        (results / name).mkdir(parents=True)
    pq.write_table(pa.table({"request_id": [str(i) for i in range(SHARDS * SIZE)]}), results / "scf/requests.parquet")
    rows = pa.table({"outcome": ["converged"] * (SIZE - 5) + ["charge_wrong"] * 5})
    old = time.time() - 3600
    for shard in range(FINISHED + RUNNING + STOPPED):
        log = results / f"logs/run_scf_shard.scf.{shard:04d}.log"
        say(log, done=20, per_s=0.1)
        if shard < FINISHED:
            pq.write_table(rows, results / f"scf/shards/{shard:04d}.parquet")
        elif shard >= FINISHED + RUNNING:
            os.utime(log, (old, old))
    (folder / "config.yaml").write_text(yaml.safe_dump({"results": str(results), "cache": str(folder / "cache")}))
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    squeue = bin_folder / "squeue"
    squeue.write_text(
        "#!/bin/sh\n"
        f"for i in 1 2 3; do echo 'xtalrl_0123|rule_run_scf_shard_wildcards_scf_059'$i'|{folder}'; done\n"
        f"echo 'xtalrl_0123|rule_build_graphs|{folder}'\necho 'somebody_else|rule_build_graphs|{folder}'\n"
        f"echo 'xtalrl_4567|rule_build_graphs|{folder}/other'\n"
    )
    squeue.chmod(squeue.stat().st_mode | stat.S_IXUSR)
    return folder


def status(root: Path, run: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from xtalrl.commands.cli import app; app()", "status", "--configfile", str(run / "config.yaml"), *arguments],
        cwd=root, capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{run / 'bin'}:{os.environ['PATH']}", "COLUMNS": "160"},
    )  # fmt: skip


def test_scf_stage(root: Path, run: Path) -> None:
    scf = json.loads(status(root, run, "--json").stdout)["scf"]
    assert (scf["state"], scf["total"]) == ("running", SHARDS * SIZE)
    assert scf["done"] == FINISHED * SIZE + (RUNNING + STOPPED) * 20
    assert scf["notes"] == {"converged": FINISHED * (SIZE - 5), "charge_wrong": FINISHED * 5}
    assert (scf["running"], scf["stopped"], scf["queued"]) == (RUNNING, STOPPED, 3)
    assert scf["left_s"] == pytest.approx((scf["total"] - scf["done"]) * 10 / RUNNING)


def test_other_stages(root: Path, run: Path) -> None:
    found = json.loads(status(root, run, "--json").stdout)
    assert found["structures"]["queued"] == 1
    assert found["train"]["state"] == "waiting"
    assert found["report"]["state"] == "waiting"


def test_table_names_what_stopped(root: Path, run: Path) -> None:
    output = status(root, run).stdout
    assert "80 running, 3 queued, 10 stopped" in output
    assert "Stopped jobs are repeated" in output


def test_quick_with_36000_crystals(root: Path, run: Path) -> None:
    status(root, run)  # what was just written is in the page cache, as it is for a user who asks twice
    before = os.times()
    status(root, run)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2


def training(results: Path, **settings: object) -> Stage:
    training = {"device": "cuda", "steps": 1000, **settings}
    config = Config.model_validate({"results": str(results), "cache": str(results / "cache"), "training": training})
    return next(stage for stage in stages(config) if stage.name == "train")


def test_a_job_that_trains_all_policies_of_a_seed(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    names = list(Config().trained_specs())
    seeds = Config().policies.seeds
    jobs = [tmp_path / f"logs/train_policy.all.seed{seed}.log" for seed in seeds]
    say(jobs[0], done=160 * len(names), per_s=20.0 * len(names))
    total = len(names) * len(seeds)
    stage = training(tmp_path)
    assert (stage.state, stage.done, stage.total, stage.running, stage.stopped) == ("running", 0, total, 1, 0)
    assert stage.left_s == pytest.approx((total * 1000 - len(names) * 160) / (20 * len(names)))

    # The first of two passes is over: its policies are written, and the second has fewer.
    first = names[: len(names) // 2]
    for name in first:
        (tmp_path / f"policies/{name}/seed{seeds[0]}").mkdir(parents=True)
        (tmp_path / f"policies/{name}/seed{seeds[0]}/weights.safetensors").touch()
    second = len(names) - len(first)
    say(jobs[0], done=500 * second, per_s=1.0 * second)
    stage = training(tmp_path)
    assert (stage.done, stage.running) == (len(first), 1)
    assert stage.left_s == pytest.approx(((total - len(first)) * 1000 - second * 500) / second)

    long_ago = time.time() - 3600
    os.utime(jobs[0], (long_ago, long_ago))
    stage = training(tmp_path)
    assert (stage.state, stage.running, stage.stopped, stage.left_s) == ("stopped", 0, 1, None)


def test_a_job_for_each_policy(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("bc", "ucql-w5"):
        say(tmp_path / f"logs/train_policy.{name}.seed0.log", done=400, per_s=0.5)
    (tmp_path / "logs/train_policy.all.seed0.log").write_text("of a run on a GPU\n")
    stage = training(tmp_path, device="cpu")
    assert (stage.running, stage.stopped) == (2, 0)
    assert stage.left_s == pytest.approx(((stage.total or 0) * 1000 - 800) / 1.0)


def test_outcomes_of_an_earlier_plan_do_not_count(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    pq.write_table(pa.table({"outcome": ["converged"]}), folder / "outcomes.parquet")
    pq.write_table(pa.table({"request_id": ["a", "b"]}), folder / "requests.parquet")
    config = Config(results=str(tmp_path), cache=str(tmp_path / "cache"))

    def evaluation() -> Stage:
        return next(stage for stage in stages(config) if stage.name == "evaluation")

    os.utime(folder / "outcomes.parquet", (0, 0))
    assert (evaluation().state, evaluation().done) == ("waiting", 0)
    os.utime(folder / "requests.parquet", (0, 0))
    assert evaluation().state == "done"


def test_what_is_to_run_again_is_not_done(tmp_path: Path) -> None:
    folder = tmp_path / "scf"
    for name in ("shards", "reruns"):
        (folder / name).mkdir(parents=True)
    pq.write_table(pa.table({"request_id": ["a", "b", "c"]}), folder / "requests.parquet")
    for name, rows in (("shards/0000", 2), ("shards/0001", 1), ("outcomes", 3)):
        pq.write_table(pa.table({"outcome": ["converged"] * rows}), folder / f"{name}.parquet")
    config = Config(results=str(tmp_path), cache=str(tmp_path / "cache"))

    def scf() -> Stage:
        return next(stage for stage in stages(config) if stage.name == "scf")

    assert (scf().state, scf().done) == ("done", 3)
    mark = folder / "reruns/0000.json"
    mark.touch()
    os.utime(mark, (later := time.time() + 5, later))
    assert (scf().state, scf().done, scf().notes) == ("waiting", 1, {"converged": 1})
    for name in ("shards/0000", "outcomes"):
        os.utime(folder / f"{name}.parquet", (later + 5, later + 5))
    assert (scf().state, scf().done) == ("done", 3)


def test_stages_that_a_run_without_policies_does_not_have(tmp_path: Path) -> None:
    none = {"random": False, "bc": False, "ucql": False, "targets_ev": []}
    run = {"results": str(tmp_path), "cache": str(tmp_path), "policies": none}

    def names(**more: object) -> set[str]:
        return {stage.name for stage in stages(Config.model_validate(run | more))}

    always = {"structures", "tables", "figures", "report"}
    assert names() == always
    assert names(external={"mine": "crystals.zip"}) == always | {"evaluation"}
    campaign = {"gap_ev": 1.3, "budget": 20, "rounds": 1}
    rounds = {"campaign-1", "campaign-confirmation", "campaign"}
    assert names(campaign=campaign) == always | rounds | {"scf", "references", "labels"}
    assert names(campaign=campaign, labels={"path": "source"}) == always | rounds | {"labels"}


def test_every_submitted_rule_belongs_to_a_stage(root: Path) -> None:
    text = "".join(path.read_text() for path in (root / "rules").glob("*.smk"))
    rules = re.split(r"^ *(?:rule|checkpoint) (?=\w)", text, flags=re.MULTILINE)[1:]
    submitted = {rule.partition(":")[0] for rule in rules if "localrule: True" not in rule}
    assert submitted == {*_STAGE_OF_RULE, "run_scf_shard"}


DAMAGES = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-1],
    "another format": lambda content: b"a,b\n1,2\n",
    "a flipped footer": lambda content: content[:-20] + bytes(byte ^ 255 for byte in content[-20:-8]) + content[-8:],
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_named_and_stops_nothing(tmp_path: Path, damage: str) -> None:
    config = Config(results=str(tmp_path), cache=str(tmp_path / "cache"))
    files = {
        "structures": "structures/crystals.parquet",
        "scf": "scf/requests.parquet",
        "references": "references/outcomes.parquet",
        "labels": "labels.parquet",
        "trajectories": "trajectories.parquet",
        "evaluation": "evaluation/shards/0000.parquet",
    }
    columns = {name: ["a"] * 50 for name in ("outcome", "split", "kind")}
    for name in ("references", "evaluation"):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(columns), tmp_path / name / "requests.parquet")
    for file in files.values():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / file)
        (tmp_path / file).write_bytes(DAMAGES[damage]((tmp_path / file).read_bytes()))
    found = {stage.name: stage for stage in stages(config)}
    for name, file in files.items():
        assert found[name].unreadable == [str(tmp_path / file)], name
        assert found[name].state == "unreadable"


def test_a_table_with_another_column_or_none_is_named(tmp_path: Path) -> None:
    config = Config(results=str(tmp_path), cache=str(tmp_path / "cache"))
    pq.write_table(pa.table({"other": [1]}), tmp_path / "labels.parquet")
    (tmp_path / "trajectories.parquet").mkdir()
    found = {stage.name: stage.unreadable for stage in stages(config)}
    assert found["labels"] == [str(tmp_path / "labels.parquet")]
    assert found["trajectories"] == [str(tmp_path / "trajectories.parquet")]


@pytest.mark.parametrize("place", ["results", "logs"])
def test_files_in_the_place_of_folders(root: Path, tmp_path: Path, place: str) -> None:
    results = tmp_path / "results"
    if place == "results":
        results.write_text("a file")
    else:
        for rule in ("build_graphs", "label_crystals", "train_policy.bc.seed0"):
            (results / f"logs/{rule}.log").mkdir(parents=True)
    config = Config(results=str(results), cache=str(tmp_path / "cache"))
    assert {stage.state for stage in stages(config)} == {"waiting"}


def test_a_job_that_failed_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    say(tmp_path / "logs/train_policy.bc.seed0.log", done=400, failed=True)
    stage = training(tmp_path, device="cpu")
    assert (stage.running, stage.stopped, stage.left_s) == (0, 1, None)


def test_any_pace_is_read(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs/train_policy.bc.seed0.log"
    log.write_text("of an earlier version: nothing beside it\n")
    assert read_pace(log) == Pace()
    for content in (
        b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"done": null, "per_s": 1, "failed": false}', b'{"done": -1, "per_s": 1, "failed": false}',
        b'{"done": 1e999, "per_s": 1, "failed": false}', b'{"done": 1, "per_s": NaN, "failed": false}', b'{"done": 1}', b"9" * 5000,
    ):  # fmt: skip
        pace_file(log).write_bytes(content)
        assert read_pace(log) == Pace(), content
        assert training(tmp_path, device="cpu").running == 1


def test_what_cannot_be_read_is_shown(root: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/labels.parquet").write_bytes(b"PAR1")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"results": str(tmp_path / "results")}))
    shown = status(root, tmp_path).stdout
    assert f"{tmp_path}/results/labels.parquet cannot be read: if it is damaged, delete it" in shown
    assert json.loads(status(root, tmp_path, "--json").stdout)["labels"]["state"] == "unreadable"
