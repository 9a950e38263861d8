"""Every stage with damaged and changed inputs: a sentence, or the same result; never a traceback, never another result.

A change of the code tries a sample. All cases, with their counts: `XTALRL_DAMAGES=all pytest -s tests/test_stage_integrity.py`.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from dft_data import sssp
from report_data import FILES, write_results
from rl_data import random_dataset, write_dataset

from xtalrl import tables
from xtalrl.config import Config
from xtalrl.dft.labels import label_crystals
from xtalrl.dft.outcome_rows import gather_outcomes
from xtalrl.dft.references import assemble_references
from xtalrl.dft.requests import plan_crystal_scf, plan_design_scf
from xtalrl.errors import XtalrlError, explain_os_error
from xtalrl.files import seal_json
from xtalrl.metrics.composition import assess_designs
from xtalrl.metrics.evaluation import evaluate_designs
from xtalrl.metrics.stability import assess_stability
from xtalrl.report.contents import content
from xtalrl.report.results import Results, scoring_of
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.rollout import rollout_policy
from xtalrl.rl.settings import TrainingSettings
from xtalrl.rl.training import train_policy
from xtalrl.rl.trajectories import build_trajectories

ALL = os.environ.get("XTALRL_DAMAGES") == "all"
SAMPLE = 20
"""Cases of each stage, if not all."""
FLIPS = 12
"""Flipped bits of each file."""

Paths = dict[str, Path]


@dataclass(frozen=True)
class Stage:
    """A stage: its inputs, and how it makes what is in the folder `out` from them."""

    inputs: Paths
    run: Callable[[Paths, Path], object]


@dataclass(frozen=True)
class Case:
    """One damage of one input."""

    input: str
    what: str
    write: Callable[[Path], object]
    by_another_program: bool = False
    """Without xtalrl's metadata: what cannot be told from a table of the user's own."""


SPEC = PolicySpec("ccql", omega=1.0, target_ev=1.12, reward=Reward())


def train(paths: Paths, folder: Path, steps: int = 3) -> None:
    settings = TrainingSettings(steps=steps, batch_size=8, device="cpu", checkpoint_every=1, log_every=1)
    train_policy(
        SPEC, settings, seed=0, threads=1, graphs=paths["graphs"], trajectories=paths["trajectories"], folder=folder
    )


def resume(paths: Paths, out: Path) -> None:
    """Training from two checkpoints: what is damaged is set aside, so that the result is the same."""
    folder = out.parent / "policy"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("checkpoint", "checkpoint.previous"):
        copy(paths[name], folder / f"{name}.safetensors")
    train(paths, folder, steps=4)
    shutil.copy(folder / "weights.safetensors", out)


def train_alone(paths: Paths, out: Path) -> None:
    folder = out.parent / "policy"
    shutil.rmtree(folder, ignore_errors=True)
    train(paths, folder)
    shutil.copy(folder / "weights.safetensors", out)


def roll_out(paths: Paths, out: Path) -> None:
    folder = out.parent / "policy"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    copy(paths["policy"], folder / "policy.json")
    copy(paths["weights"], folder / "weights.safetensors")
    rollout_policy(folder, paths["graphs"], paths["trajectories"], out / "designs.parquet", "cpu")


def copy(path: Path, target: Path) -> None:
    if path.is_dir():
        target.mkdir()
    elif path.exists():
        shutil.copy(path, target)


def table_stage(name: str, config: Config) -> Callable[[Paths, Path], object]:
    def run(paths: Paths, out: Path) -> None:
        entry = content(name)
        results = Results.of(config, {input_: paths[input_] for input_ in entry.inputs if input_ in FILES})
        made = entry.function(results, replace(scoring_of(config), bootstrap_samples=20))
        made.write(csv=out / "t.csv", markdown=out / "t.md", latex=out / "t.tex", caption=out / "t.txt")

    return run


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stage]:
    """All stages that read what another has written, with small inputs that fit each other."""
    folder = tmp_path_factory.mktemp("results")
    config = write_results(folder, 16, targets_ev=[3.0], omegas=[5.0])
    (folder / "family.json").write_text(seal_json(sssp().model_dump(mode="json")))
    crystals, labels, references = (
        folder / name for name in ("structures/crystals.parquet", "labels.parquet", "references.parquet")
    )
    outcomes, designed = folder / "scf/outcomes.parquet", folder / "evaluation/outcomes.parquet"
    assessments, requests = folder / "designs/assessments.parquet", folder / "scf/requests.parquet"
    designs = sorted((folder / "designs").glob("*/seed0.parquet"))[:2]
    family = folder / "family.json"

    plan_crystal_scf(str(crystals), str(family), str(requests), "paper-fast", 2)
    planned = {row["request_id"]: row for row in tables.read_rows(requests, tables.SCF_REQUESTS)}
    ended = [
        row | {"key": planned[row["request_id"]]["key"]} for row in tables.read_rows(outcomes, tables.SCF_OUTCOMES)
    ]
    for number in range(2):
        rows = [row for row in ended if planned[row["request_id"]]["shard"] == number]
        tables.write_rows(rows, tables.SCF_OUTCOMES, folder / f"scf/shards/{number}.parquet")
    elements = [
        ended[0]
        | {"request_id": f"ref-{element}", "kind": "reference", "species": [element] * 2, "total_energy_ry": -20.0}
        for element in ("Si", "O", "Na")
    ]
    tables.write_rows(elements, tables.SCF_OUTCOMES, folder / "references/outcomes.parquet")
    rl = write_dataset(folder / "rl", *random_dataset(4, 2))
    graphs, _ = random_dataset(4, 2)
    learned = [
        {
            **row,
            "material_id": graph["material_id"],
            "split": graph["split"],
        }
        for row, graph in zip(tables.read_rows(labels, tables.LABELS), graphs, strict=False)
    ]
    tables.write_rows(learned, tables.LABELS, folder / "rl/labels.parquet")
    train(rl, folder / "policy")
    policy = {
        "policy": folder / "policy/policy.json",
        "weights": folder / "policy/weights.safetensors",
    }
    checkpoints = {name: folder / f"policy/{name}.safetensors" for name in ("checkpoint", "checkpoint.previous")}
    of_tables = {name: folder / file for name, file in FILES.items()}

    def text(paths: Paths, *names: str) -> tuple[str, ...]:
        return tuple(str(paths[name]) for name in names)

    return {
        "plan_crystal_scf": Stage(
            {"crystals": crystals, "family": family},
            lambda p, out: plan_crystal_scf(*text(p, "crystals", "family"), str(out / "r.parquet"), "paper-fast", 2),
        ),
        "gather_scf": Stage(
            {
                "first": folder / "scf/shards/0.parquet",
                "second": folder / "scf/shards/1.parquet",
                "requests": requests,
            },
            lambda p, out: gather_outcomes(text(p, "first", "second"), str(out / "o.parquet"), str(p["requests"])),
        ),
        "assemble_references": Stage(
            {"outcomes": folder / "references/outcomes.parquet"},
            lambda p, out: assemble_references(str(p["outcomes"]), str(out / "r.parquet")),
        ),
        "label_crystals": Stage(
            {"crystals": crystals, "outcomes": outcomes, "references": references},
            lambda p, out: label_crystals(*text(p, "crystals", "outcomes", "references"), str(out / "l.parquet")),
        ),
        "build_trajectories": Stage(
            {"graphs": rl["graphs"], "labels": folder / "rl/labels.parquet"},
            lambda p, out: build_trajectories(p["graphs"], p["labels"], out / "t.parquet", 5, disconnected="drop"),
        ),
        "assess_designs": Stage(
            {"first": designs[0], "second": designs[1], "crystals": crystals},
            lambda p, out: assess_designs(
                [p["first"], p["second"]], p["crystals"], folder / "formulas.txt", out / "a.parquet"
            ),
        ),
        "plan_design_scf": Stage(
            {"assessments": assessments, "crystals": crystals, "references": references, "family": family},
            lambda p, out: plan_design_scf(
                *text(p, "assessments", "crystals", "references", "family"), str(out / "r.parquet"), None,
                "paper-fast", "paper", 1,
            ),
        ),
        "evaluate_designs": Stage(
            {"assessments": assessments, "outcomes": designed, "references": references, "labels": labels},
            lambda p, out: evaluate_designs(**p, evaluation=out / "e.parquet"),
        ),
        "assess_stability": Stage(
            {
                "evaluation": of_tables["evaluation"], "outcomes": designed, "labels": labels, "crystals": crystals,
                "references": references,
            },
            lambda p, out: assess_stability(**p, stability=out / "s.parquet"),
        ),
        **{
            name: Stage(
                {input_: of_tables[input_] for input_ in content(name).inputs if input_ in FILES},
                table_stage(name, config),
            )
            for name in ("table1_composition", "table2_dft_success", "gap_error", "stability")
        },
        "rollout": Stage({**policy, **rl}, roll_out),
        "train": Stage(rl, train_alone),
        "resume": Stage({**checkpoints, **rl}, resume),
    }  # fmt: skip


def damages(name: str, path: Path) -> Iterator[Case]:
    """Of the bytes of a file, and of what a table holds."""
    raw = path.read_bytes()
    n, rng = len(raw), random.Random(f"{name} {path.name}")

    def writes(content: bytes) -> Callable[[Path], object]:
        return lambda target: target.write_bytes(content)

    yield Case(name, "missing", lambda target: None)
    yield Case(name, "folder", lambda target: target.mkdir())
    for what, changed in {
        "empty": b"",
        "garbage": rng.randbytes(500),
        "cut in half": raw[: n // 2],
        "one byte less": raw[:-1],
        "ten bytes less": raw[:-10],
        "tail of zeros": raw[: n // 2] + bytes(n - n // 2),
        "all zeros": bytes(n),
        "longer": raw + b"xyz",
    }.items():
        yield Case(name, what, writes(changed))
    for _ in range(FLIPS):
        place, bit = rng.randrange(n), rng.randrange(8)
        changed = raw[:place] + bytes([raw[place] ^ 1 << bit]) + raw[place + 1 :]
        yield Case(name, f"bit {bit} of byte {place} of {n}", writes(changed))
    if path.suffix == ".parquet":
        for what, table in changes(pq.read_table(path)):
            yield Case(name, what, lambda target, table=table: pq.write_table(table, target, compression="zstd"))
            bare = table.replace_schema_metadata()
            yield Case(
                name, f"{what}, by another program", lambda target, bare=bare: pq.write_table(bare, target), True
            )


def changes(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """What other software may do to a table."""
    rejected = {field.name: "x" if pa.types.is_string(field.type) else 1 for field in tables.REJECTED}
    yield "another table", tables.from_rows([rejected], tables.REJECTED)
    yield "no rows", table.slice(0, 0)
    yield "half of the rows", table.slice(0, len(table) // 2)
    yield "every row twice", pa.concat_tables([table, table])
    yield "the first row twice", pa.concat_tables([table, table.slice(0, 1)])
    yield "backwards", table.take(pa.array(range(len(table) - 1, -1, -1)))
    yield "another name", table.replace_schema_metadata({**(table.schema.metadata or {}), b"xtalrl_table": b"other"})
    yield "one column more", table.append_column("more", pa.array([1] * len(table)))
    yield "another column name", table.rename_columns([f"x_{table.column_names[0]}", *table.column_names[1:]])
    for index, field in enumerate(table.schema):
        yield f"no {field.name}", table.drop([field.name])
        yield f"null {field.name}", table.set_column(index, field.name, pa.nulls(len(table), field.type))
        values = table[field.name].to_pylist()
        for what, value in other_values(field, values):
            column = pa.array([value, *values[1:]], field.type)
            yield f"{field.name} {what}", table.set_column(index, field, column)
        if pa.types.is_floating(field.type):
            thousand = pa.array([None if value is None else 1000 * value for value in values], field.type)
            yield f"{field.name} in meV", table.set_column(index, field.with_metadata({b"unit": b"meV"}), thousand)
            yield f"{field.name} as text", table.set_column(index, field.name, pc.cast(table[field.name], pa.string()))
        if pa.types.is_integer(field.type):
            yield (
                f"{field.name} as float",
                table.set_column(index, field.name, pc.cast(table[field.name], pa.float64())),
            )
        if pa.types.is_string(field.type):
            yield f"{field.name} all other", table.set_column(index, field, pa.array(["other"] * len(table)))
        if pa.types.is_boolean(field.type):
            yield f"{field.name} inverted", table.set_column(index, field, pc.invert(table[field.name]))


def other_values(field: pa.Field, values: list[Any]) -> dict[str, Any]:
    """What the first value of a column may be changed to."""
    if pa.types.is_floating(field.type):
        return {"NaN": float("nan"), "infinite": float("inf"), "1e30": 1e30}.items()
    if pa.types.is_integer(field.type):
        return {"-7": -7}.items()
    if pa.types.is_string(field.type):
        return {"hostile": "../../etc/x\n<script>alert(1)</script>"}.items()
    if pa.types.is_list(field.type):
        return {"an empty list": [], "a shorter list": (values[0] or [])[:-1]}.items()
    return {}.items()


def result_of(stage: Stage, paths: Paths, out: Path) -> tuple[str, str]:
    """How a run ends: `made` with a digest of what was made, `sentence`, or `traceback` with the error."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    try:
        stage.run(paths, out)
    except XtalrlError as error:
        return "sentence", str(error)
    except OSError as error:
        sentence = explain_os_error(error)
        return ("sentence", str(sentence)) if sentence else ("traceback", f"{type(error).__name__}: {error}")
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"[:200]
    parts = []
    for path in sorted(out.iterdir()):
        is_table = path.suffix == ".parquet"
        parts.append(repr(pq.read_table(path).to_pylist()).encode() if is_table else path.read_bytes())
    return "made", hashlib.sha256(b"\0".join(parts)).hexdigest()


STAGES = (
    "plan_crystal_scf", "gather_scf", "assemble_references", "label_crystals", "build_trajectories", "assess_designs",
    "plan_design_scf", "evaluate_designs", "assess_stability", "table1_composition", "table2_dft_success", "gap_error",
    "stability", "rollout", "train", "resume",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STAGES)
def test_damaged_inputs_give_a_sentence_or_the_same_result(stages: dict[str, Stage], name: str, tmp_path: Path) -> None:
    stage = stages[name]
    good, made = result_of(stage, stage.inputs, tmp_path / "out")
    assert good == "made", made
    cases = [case for input_, path in stage.inputs.items() for case in damages(input_, path)]
    if not ALL:
        cases = random.Random(name).sample(cases, min(SAMPLE, len(cases)))
    counts: Counter[str] = Counter()
    wrong = []
    for case in cases:
        damaged = tmp_path / f"damaged{stage.inputs[case.input].suffix}"
        shutil.rmtree(damaged) if damaged.is_dir() else damaged.unlink(missing_ok=True)
        try:
            case.write(damaged)
        except (pa.ArrowException, ValueError):
            continue  # Arrow itself does not write such a table.
        how, what = result_of(stage, stage.inputs | {case.input: damaged}, tmp_path / "out")
        if how == "made":
            how = "same result" if what == made else "another result"
        counts[how + (" (another program's table)" if case.by_another_program else "")] += 1
        if how == "traceback" or (how == "another result" and not case.by_another_program):
            wrong.append(f"{case.input}: {case.what}: {how} {what}")
    print(f"{name}: {sum(counts.values())} damaged files: {dict(sorted(counts.items()))}")
    assert not wrong, "\n".join(wrong)
