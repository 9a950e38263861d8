"""`xtalrl rerun`: exactly the chosen runs are repeated, whatever was killed in between, and Snakemake hears of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_dft_cache import record
from test_dft_shards import Place, crystal

from xtalrl import tables
from xtalrl.commands.rerun import ask_again, choose
from xtalrl.config import Config
from xtalrl.dft.cache import Cache
from xtalrl.dft.outcomes import Outcome
from xtalrl.dft.shards import run_shard
from xtalrl.errors import XtalrlError
from xtalrl.workflow import rerun_marks

NONE: dict[str, list[str]] = {"outcome": [], "element": [], "protocol": [], "stage": [], "id": []}


@given(
    st.lists(
        st.tuples(st.sampled_from(["void", "converged", "time_limit"]), st.sampled_from("ab"), st.booleans()),
        max_size=12,
    )
)
def test_a_run_is_repeated_once_for_each_time_it_was_asked_for(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, bool]]
) -> None:
    """Whatever process asks or runs, in whatever order the files are read: found if and only if it ran since it was last asked for."""
    folder = tmp_path_factory.mktemp("cache")
    ran = {"a": False, "b": False}
    cache = Cache(folder)
    for what, key, new_process in steps:
        cache = Cache(folder) if new_process else cache
        if what == "void":
            cache.void([key])
            ran[key] = False
        else:
            cache.add(record(key, Outcome(what)))
            ran[key] = True
        for name, expected in ran.items():
            assert (cache.find(name, 60) is not None) == expected
            assert (Cache(folder).find(name, 60) is not None) == expected


def test_a_run_that_began_before_it_was_asked_for_again_does_not_answer(tmp_path: Path) -> None:
    early, later = Cache(tmp_path), Cache(tmp_path)
    later.void(["a"])
    early.add(record("a"))
    assert Cache(tmp_path).find("a", 60) is None


class Stage:
    """The stage `scf` in two shards with a stand-in for pw.x that does not converge carbon."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder)
        self.config = Config(results=str(folder / "results"), cache=str(self.place.cache))
        self.scf = folder / "results/scf"
        self.scf.mkdir(parents=True)
        self.place.requests = str(self.scf / "requests.parquet")
        self.place.plan(*(crystal(f"mp-{name}", name, name) for name in ("Si", "Ge", "Sn", "Pb", "C")), shards=2)
        self.requests = tables.read_rows(self.place.requests, tables.SCF_REQUESTS)

    def shard(self, name: str) -> int:
        return next(row["shard"] for row in self.requests if row["request_id"] == name)

    def run(self, *shards: int) -> int:
        """How often pw.x ran."""
        before = self.runs()
        for shard in shards:
            run_shard(**self.place.arguments(shard=shard, outcomes=str(self.scf / f"shards/{shard:04d}.parquet")))
        return self.runs() - before

    def runs(self) -> int:
        return len(self.place.log.read_text().splitlines())


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path)
    assert {row["shard"] for row in stage.requests} == {0, 1}
    assert stage.run(0, 1) == 5
    assert stage.run(0, 1) == 0
    return stage


def test_exactly_the_chosen_runs_are_repeated(stage: Stage) -> None:
    chosen = choose(stage.config, NONE | {"outcome": ["not_converged"]})
    assert [(choice.stage, choice.request_id, choice.outcome) for choice in chosen] == [
        ("scf", "mp-C", "not_converged")
    ]
    ask_again(stage.config, chosen, NONE)
    assert rerun_marks(stage.config.results) == {("scf", f"{stage.shard('mp-C'):04d}")}
    assert stage.run(1 - stage.shard("mp-C")) == 0
    assert stage.run(stage.shard("mp-C")) == 1
    assert stage.run(0, 1) == 0


def test_a_kill_between_the_cache_and_the_marks_costs_nothing(stage: Stage) -> None:
    criteria = NONE | {"element": ["Si"]}
    Cache(stage.config.cache).void(choose(stage.config, criteria)[0].keys)
    ask_again(stage.config, choose(stage.config, criteria), criteria)
    assert stage.run(0, 1) == 1


def test_what_is_marked_says_who_asked_for_what_and_never_looks_the_same(stage: Stage) -> None:
    criteria = NONE | {"id": ["mp-Si"]}
    texts = []
    for _ in range(2):
        ask_again(stage.config, choose(stage.config, criteria), criteria)
        (path,) = Path(stage.config.results).glob("scf/reruns/*")
        texts.append(path.read_text())
    assert json.loads(texts[0])["criteria"] == {"id": ["mp-Si"]}
    assert json.loads(texts[0])["requests"] == ["mp-Si"]
    assert texts[0] != texts[1]  # Snakemake compares the content of small files, too.


@pytest.mark.parametrize(
    ("criteria", "expected"),
    [
        ({"element": ["Si", "C"]}, {"mp-Si", "mp-C"}),
        ({"element": ["Si", "C"], "outcome": ["converged"]}, {"mp-Si"}),
        ({"id": ["mp-Ge"]}, {"mp-Ge"}),
        ({"stage": ["scf"]}, {"mp-Si", "mp-Ge", "mp-Sn", "mp-Pb", "mp-C"}),
        ({"protocol": ["paper-fast"], "id": ["mp-Pb"]}, {"mp-Pb"}),
    ],
)
def test_criteria(stage: Stage, criteria: dict[str, list[str]], expected: set[str]) -> None:
    assert {choice.request_id for choice in choose(stage.config, NONE | criteria)} == expected


@pytest.mark.parametrize(
    ("criteria", "sentence"),
    [
        ({}, "Say what to run again"),
        ({"outcome": ["not_convergd"]}, "has the outcome 'not_convergd'. Did you mean not_converged"),
        ({"outcome": ["converged_not_saved"]}, "has the outcome 'converged_not_saved'. There are"),
        ({"element": ["S"]}, "has the element 'S'. There are"),
        ({"stage": ["designs"]}, "There are: scf"),
        ({"element": ["Xe"]}, "has the element 'Xe'"),
    ],
)
def test_mistakes_get_a_sentence(stage: Stage, criteria: dict[str, list[str]], sentence: str) -> None:
    with pytest.raises(XtalrlError, match=sentence):
        choose(stage.config, NONE | criteria)


def test_nothing_has_finished_yet(tmp_path: Path) -> None:
    config = Config(results=str(tmp_path), cache=str(tmp_path))
    with pytest.raises(XtalrlError, match="has finished yet"):
        choose(config, NONE | {"outcome": ["killed"]})


def test_rows_of_an_earlier_plan_are_not_chosen(stage: Stage) -> None:
    changes = {"mp-Ge": {"key": "of another cell"}, "mp-Sn": {"shard": 1 - stage.shard("mp-Sn")}}
    rows = [row | changes.get(row["request_id"], {}) for row in stage.requests if row["request_id"] != "mp-Si"]
    tables.write_rows(rows, tables.SCF_REQUESTS, stage.scf / "requests.parquet")
    assert {choice.request_id for choice in choose(stage.config, NONE | {"stage": ["scf"]})} == {"mp-Pb", "mp-C"}


@pytest.mark.slow
def test_snakemake_repeats_the_marked_shard_and_what_depends_on_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "seconds").write_text("0")
    (tmp_path / "hungry").write_text("nothing")
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump(
            {
                "results": str(tmp_path / "results"),
                "cache": str(tmp_path / "cache"),
                "structures": {"source": "demo", "limit": 2},
                "dft": {
                    "command": f"{sys.executable} {root / 'tests/slurm/pw.py'} {tmp_path}",
                    "shards": {"scf": 2, "references": 1, "evaluation": 1},
                },
            }
        )
    )
    if (root / "results/cache/families").is_dir():
        shutil.copytree(root / "results/cache/families", tmp_path / "cache/families")
    files = ["config/test.yaml", str(tmp_path / "config.yaml")]

    def snakemake(*options: str) -> str:
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--nolock",
            "--profile",
            "profiles/local",
            "--cores",
            "2",
            *options,
            "--configfile",
            *files,
        ]
        done = subprocess.run([*command, "--", "scf"], cwd=root, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def rerun(*options: str) -> str:
        command = [sys.executable, "-c", "from xtalrl.commands.cli import app; app()", "rerun", *options]
        command += ["--configfile", *files]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout

    def keys() -> list[str]:
        lines = [line for path in (tmp_path / "cache/scf").glob("*.jsonl") for line in path.read_text().splitlines()]
        return [json.loads(line)["key"] for line in lines]

    snakemake()
    before = keys()
    name = tables.read_rows(tmp_path / "results/scf/requests.parquet", tables.SCF_REQUESTS)[0]["request_id"]
    assert "Nothing is changed yet" in rerun("--id", name)
    assert "Nothing to be done" in snakemake("--dry-run")
    assert "Marked." in rerun("--id", name, "--yes")
    planned = re.findall(r"^Job \d+: (.*)", snakemake("--dry-run"), re.MULTILINE)
    assert [message.split()[0] for message in planned] == ["Running", "Gathering"]
    snakemake()
    assert len(keys()) == len(before) + 1
    assert set(keys()) == set(before)
    assert "Nothing to be done" in snakemake("--dry-run")
    rerun("--id", name, "--yes")
    snakemake()
    assert len(keys()) == len(before) + 2
