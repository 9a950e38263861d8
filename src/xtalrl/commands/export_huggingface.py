"""A run as a data set of the Hugging Face hub: Parquet files and a card, README.md, that says what every column is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from xtalrl import __version__, tables
from xtalrl.campaign.preflight import scf_stages
from xtalrl.config import Config
from xtalrl.provenance import RECORD


def write_huggingface(config: Config, folder: Path) -> dict[str, int]:
    """Write the tables of a run into an empty folder.

    `datasets.load_dataset(folder, "designs")` reads it, and `huggingface_hub` uploads it as it is.

    Returns:
        How many rows each table has.

    Raises:
        XtalrlError: a table is missing or damaged.
    """
    (folder / "data").mkdir(parents=True)
    written: dict[str, pa.Table] = {}
    for name, read in _TABLES.items():
        if (table := read(config)) is not None:
            written[name] = table
            pq.write_table(table, _path(folder, name), compression="zstd")
    if (record := Path(config.results, RECORD)).is_file():
        shutil.copy(record, folder)
    (folder / "README.md").write_text(_card(config, written, folder), encoding="utf-8")
    return {name: table.num_rows for name, table in written.items()}


def _scfs(config: Config) -> pa.Table | None:
    """The SCFs of all stages, with the stage in front."""
    parts = []
    for stage in scf_stages(config):
        path = Path(config.results, stage, "outcomes.parquet")
        if path.is_file():
            table = tables.read(path, tables.SCF_OUTCOMES)
            field = pa.field(
                "stage",
                pa.string(),
                nullable=False,
                metadata={"description": "Stage of the workflow that asked for it"},
            )
            parts.append(table.add_column(0, field, pa.array([stage] * table.num_rows, pa.string())))
    return pa.concat_tables(parts) if parts else None


def _table(name: str, schema: pa.Schema) -> Callable[[Config], pa.Table | None]:
    def read(config: Config) -> pa.Table | None:
        path = Path(config.results, name)
        return tables.read(path, schema) if path.is_file() else None

    return read


def _designs(config: Config) -> pa.Table:
    return tables.read(Path(config.results, "evaluation/evaluation.parquet"), tables.EVALUATION)


_TABLES: Mapping[str, Callable[[Config], pa.Table | None]] = {
    "designs": _designs,
    "crystals": _table("structures/crystals.parquet", tables.CRYSTALS),
    "labels": _table("labels.parquet", tables.LABELS),
    "scfs": _scfs,
    "references": _table("references.parquet", tables.REFERENCES),
    "trajectories": _table("trajectories.parquet", tables.TRAJECTORIES),
}
"""How each table of the data set is read from the results of a run; None where the run lacks it. A design's cell is that of its `material_id` in `crystals`."""


def _path(folder: Path, name: str) -> Path:
    return folder / f"data/{name}.parquet"


def features(schema: pa.Schema) -> list[dict[str, Any]]:
    """The columns in the notation of `dataset_info`."""
    return [{"name": field.name, **_feature(field.type)} for field in schema]


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        inner = _feature(kind.value_type)
        return {"list": inner.get("dtype", inner.get("struct"))}
    if pa.types.is_struct(kind):
        return {"struct": [{"name": field.name, **_feature(field.type)} for field in kind]}
    return {"dtype": {"double": "float64", "float": "float32"}.get(str(kind), str(kind))}


def _card(config: Config, written: Mapping[str, pa.Table], folder: Path) -> str:
    head = {
        "pretty_name": f"xtalrl: {Path(config.results).name}",
        "tags": [
            "chemistry",
            "materials-science",
            "crystal-structure",
            "density-functional-theory",
            "offline-reinforcement-learning",
        ],
        "configs": [{"config_name": name, "data_files": _path(Path(), name).as_posix()} for name in written],
        "dataset_info": [
            {
                "config_name": name,
                "features": features(table.schema),
                "splits": [{"name": "train", "num_bytes": table.nbytes, "num_examples": table.num_rows}],
                "download_size": _path(folder, name).stat().st_size,
                "dataset_size": table.nbytes,
            }
            for name, table in written.items()
        ],
    }
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120).rstrip(),
        "---",
        "",
        f"# {head['pretty_name']}",
        "",
        f"Crystals designed for wanted band gaps by offline reinforcement learning, with the DFT calculations behind them: a run of xtalrl {__version__}. "
        f"Protocol `{config.dft.protocol}`, pseudopotentials `{config.dft.family}`; the program that ran each SCF is in `engine`. "
        f"The whole configuration is `{RECORD}`.",
        "",
        "`split` says to which split of its source a crystal belongs; the library calls all rows of a table `train`. "
        "The cell and the positions of a design are those of its `material_id` in `crystals`. "
        "A value that is null is not known; an SCF that failed has an outcome and no energy. "
        "Under which licence the crystals may be passed on is said by their source, and has to be added here before this is published.",
    ]
    for name, table in written.items():
        described = (table.schema.metadata or {}).get(b"description", b"").decode()
        lines += [
            "",
            f"## {name}",
            "",
            *([f"{described}.", ""] if described else []),
            "| column | unit | what it is |",
            "|---|---|---|",
        ]
        lines += [
            f"| `{field.name}` | {_said(field, 'unit')} | {_said(field, 'description')} |" for field in table.schema
        ]
    return "\n".join(lines) + "\n"


def _said(field: pa.Field, what: str) -> str:
    return str((field.metadata or {}).get(what.encode(), b"").decode()).replace("|", "\\|")
