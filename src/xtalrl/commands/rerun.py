"""`xtalrl rerun`: run SCFs again that are chosen by outcome, element, protocol, stage or name, and no others.

Two things are written, in this order, so that after a kill between them the same command continues: the runs behind the chosen
rows are made void in the cache, and each shard that holds one gets a mark. The mark is an input of the shard's job: Snakemake finds it newer
than the outcomes of the shard, and makes these and everything that depends on them again. The old outcomes stay until then.
"""

from __future__ import annotations

import difflib
import getpass
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from xtalrl import tables
from xtalrl.campaign.preflight import scf_stages
from xtalrl.config import Config
from xtalrl.dft.cache import Cache
from xtalrl.dft.outcomes import Outcome
from xtalrl.elements import ACTION
from xtalrl.errors import XtalrlError
from xtalrl.files import write_whole
from xtalrl.progress import format_seconds
from xtalrl.workflow import as_typed

_NAMES: dict[str, Collection[str]] = {"outcome": [outcome.value for outcome in Outcome], "element": ACTION}
"""Names that a criterion may have although no SCF of the run has them: a correctly written name is not corrected."""


@dataclass(frozen=True)
class Choice:
    """A row of outcomes whose runs are to be repeated."""

    stage: str
    shard: str
    request_id: str
    outcome: str
    keys: tuple[str, ...]
    """Keys of its runs in the cache; empty if no run was needed to know the outcome."""
    wall_s: float
    """Wall time of these runs in seconds."""


def choose(config: Config, criteria: Mapping[str, Collection[str]]) -> list[Choice]:
    """The rows that fit all criteria, in the order of stage and shard.

    Args:
        criteria: allowed values of `stage`, `outcome`, `element` (one of them in the cell), `protocol` and `id` (material_id, `ref-Si`,
            or the key of a design); an empty one allows all.

    Raises:
        XtalrlError: no criterion is given, a value is unknown, or nothing has finished yet.
    """
    if not any(criteria.values()):
        raise XtalrlError(
            "Say what to run again: --outcome, --element, --protocol, --stage or --id; e.g. `xtalrl rerun --outcome not_converged`."
        )
    rows = [row for stage in _stages(config) for row in _outcomes(config, stage)]
    if not rows:
        raise XtalrlError(f"No shard in {config.results} has finished yet: `xtalrl status` shows how far the run is.")
    for name, values in criteria.items():
        present = {value for row in rows for value in _values(row, name)}
        exist = {*present, *_NAMES.get(name, ())}
        for value in values:
            if value not in present:
                close = [] if value in exist else difflib.get_close_matches(value, exist, n=1)
                hint = f" Did you mean {close[0]}?" if close else ""
                known = "" if len(present) > 30 else f" There are: {', '.join(sorted(present))}."
                raise XtalrlError(f"No finished SCF of {config.results} has the {name} {value!r}.{hint}{known}")
    allowed = {name: frozenset(values) for name, values in criteria.items() if values}
    return [
        Choice(
            row["stage"],
            row["shard"],
            row["request_id"],
            row["outcome"],
            tuple(attempt["key"] for attempt in row["attempts"]),
            row["wall_s"],
        )
        for row in rows
        if all(not values.isdisjoint(_values(row, name)) for name, values in allowed.items())
    ]


def ask_again(config: Config, choices: Sequence[Choice], criteria: Mapping[str, Collection[str]]) -> None:
    """Have the runs of these rows repeated by the next start of Snakemake. Asking twice changes nothing."""
    Cache(config.cache).void(sorted({key for choice in choices for key in choice.keys}))
    shards: dict[tuple[str, str], list[str]] = defaultdict(list)
    for choice in choices:
        shards[choice.stage, choice.shard].append(choice.request_id)
    for (stage, shard), ids in shards.items():
        path = Path(config.results) / stage / "reruns" / f"{shard}.json"
        # The time makes it new each time: Snakemake looks at the content of a small file, too.
        content = {
            "asked": datetime.now(UTC).isoformat(),
            "by": getpass.getuser(),
            "criteria": {name: sorted(values) for name, values in criteria.items() if values},
            "requests": ids,
        }
        write_whole(path, json.dumps(content).encode())


def _stages(config: Config) -> list[str]:
    return [stage for stage in scf_stages(config) if (Path(config.results) / stage / "shards").is_dir()]


def _outcomes(config: Config, stage: str) -> Iterator[dict[str, Any]]:
    """The finished rows of a stage that are of its present plan, with stage and shard."""
    folder = Path(config.results) / stage
    requests = tables.read(folder / "requests.parquet", tables.SCF_REQUESTS).select(["request_id", "key", "shard"])
    planned = {row["request_id"]: (row["key"], f"{row['shard']:04d}") for row in requests.to_pylist()}
    wanted = ["request_id", "key", "outcome", "species", "protocol", "wall_s", "attempts"]
    for path in sorted((folder / "shards").glob("*.parquet")):
        for row in tables.read(path, tables.SCF_OUTCOMES).select(wanted).to_pylist():
            if planned.get(row["request_id"]) == (row["key"], path.stem):
                yield row | {"stage": stage, "shard": path.stem}


def _values(row: Mapping[str, Any], name: str) -> Iterable[str]:
    """What a criterion looks at."""
    if name == "element":
        return set(row["species"])
    return (row["request_id"],) if name == "id" else (row[name],)


def print_rerun(
    config: Config, criteria: Mapping[str, Collection[str]], confirmed: bool, configfiles: Sequence[Path]
) -> None:
    """Show what the criteria choose and, once the user has confirmed it, mark it.

    Raises:
        XtalrlError: as in `choose`; or no chosen row had a run of pw.x.
    """
    choices = choose(config, criteria)
    with_runs = [choice for choice in choices if choice.keys]
    if idle := len(choices) - len(with_runs):
        typer.echo(
            f"{idle:,} of {len(choices):,} chosen SCFs ended without a run of pw.x; they would end in the same way again, and are left alone."
        )
    if not with_runs:
        raise XtalrlError("Nothing to run again: no finished SCF that fits all criteria had a run of pw.x.")
    table = Table(title=f"{config.results}: to run again", title_justify="left", box=None, pad_edge=False)
    for column in ("stage", "SCFs", "runs of pw.x", "they took", "shards", "of which"):
        table.add_column(column, justify="left" if column in ("stage", "of which") else "right")
    for stage, group in groupby(with_runs, key=lambda choice: choice.stage):
        rows = list(group)
        table.add_row(
            stage,
            f"{len(rows):,}",
            f"{len({key for row in rows for key in row.keys}):,}",
            format_seconds(sum(row.wall_s for row in rows)),
            f"{len({row.shard for row in rows}):,}",
            ", ".join(f"{n:,} {outcome}" for outcome, n in Counter(row.outcome for row in rows).most_common()),
        )
    Console().print(table)
    if not confirmed:
        typer.echo("Nothing is changed yet: the same command with --yes marks them.")
        return
    ask_again(config, with_runs, criteria)
    command = as_typed("snakemake --profile profiles/slurm all", configfiles)
    typer.echo(
        "Marked. The next start of Snakemake runs them again, and then everything below tables that change. To look first:\n"
        f"  {command} --dry-run"
    )
