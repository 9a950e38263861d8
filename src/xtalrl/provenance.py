"""The configuration that a folder of results was made with, compared with the current one."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from xtalrl.config import CHANGES_NO_RESULT, Config
from xtalrl.errors import XtalrlError, shorten
from xtalrl.files import write_whole

RECORD = "config.yaml"
"""File in the folder of results: the whole configuration of the latest run that made anything there."""
_HEAD = "# What these results were made with."
_SHOWN = 5
_IN_REPORT = re.compile(r"<summary>Configuration</summary><pre[^>]*>(.*?)</pre>", re.DOTALL)


def write_record(config: Config) -> None:
    """Record that the results of this run are made with this configuration."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_whole(Path(config.results) / RECORD, f"{_HEAD}\n{text}".encode())


def refuse_other_files(config: Config) -> None:
    """Refuse a folder of results in which the record would replace a file of the user, such as a configuration or a profile.

    Raises:
        XtalrlError: there is such a file.
    """
    record = Path(config.results) / RECORD
    if record.exists() and not record.read_text(encoding="utf-8", errors="replace").startswith(_HEAD):
        raise XtalrlError(
            f"`results` is {config.results!r}, where {RECORD} is not the record of a run, which would replace it: name a folder of its own, "
            "e.g. `results/mine`."
        )


def read_record(results: str | Path) -> dict[str, Any] | None:
    """The configuration that results were made with, from their record or, without one, from their report; None if there is neither.

    Raises:
        XtalrlError: the record is damaged.
    """
    record, report = Path(results) / RECORD, Path(results) / "report.html"
    if record.exists():
        text = record.read_text(encoding="utf-8", errors="replace")
    elif report.exists() and (found := _IN_REPORT.search(report.read_text(encoding="utf-8", errors="replace"))):
        text = html.unescape(found[1])
    else:
        return None
    try:
        content: dict[str, Any] = dict(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)).items())
        dict(_leaves(Config, content))
    except (yaml.YAMLError, TypeError, AttributeError):
        raise XtalrlError(
            f"{record} does not tell any more which configuration {results} was made with. If it was the one that you give, delete it; "
            "else choose another folder with `results:`, where no SCF that is in the cache is run again."
        ) from None
    return content


def differences(config: Config) -> list[str]:
    """How the configuration differs from the one that its results were made with, as in "`training.steps` is 1000 there and 2000 here".

    Keys that change no result are ignored; a key that an older version did not have counts as its default. The list is also empty where
    nothing tells what the results were made with.
    """
    recorded = read_record(config.results)
    if recorded is None:
        return []
    here, there = (dict(_leaves(Config, data)) for data in (config.model_dump(mode="json"), recorded))
    there = dict(_leaves(Config, Config().model_dump(mode="json"))) | there
    return [
        f"`{key}` is {_in_brief(there[key])} there and {_in_brief(value)} here"
        for key, value in here.items()
        if there[key] != value
    ]


def note_differences(config: Config) -> str:
    """A sentence if results were made with another configuration, else an empty string."""
    try:
        found = differences(config)
    except XtalrlError as error:
        return str(error)
    return f"{config.results} was made with another configuration: {shorten(found, _SHOWN, '; ')}." if found else ""


def refuse_unknown(config: Config, unknown: Sequence[str]) -> None:
    """Refuse files that Snakemake has no record of, if they were made with another configuration.

    Args:
        unknown: files that Snakemake has no record of.

    Raises:
        XtalrlError: they were made with another configuration.
    """
    if unknown and (found := differences(config)):
        record = Path(config.results) / RECORD
        raise XtalrlError(
            f"Snakemake has no record of how {unknown[0]} {f'and {len(unknown) - 1} more were' if unknown[1:] else 'was'} made (copied "
            f"without .snakemake?), so that it would take them for made with this configuration. They were not: {shorten(found, _SHOWN, '; ')}. "
            "Give the configuration that they were made with, or another folder with `results:`: no SCF that is in the cache is run again. Or "
            "go on from them: once\n"
            f"  snakemake --touch --forceall all --configfile {record}\n"
            "makes Snakemake know them, and it then plans what this configuration changes."
        )


def _in_brief(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _leaves(model: type[BaseModel], data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Key and value of every setting that changes a result."""
    for name, field in model.model_fields.items():
        if name not in data or field.json_schema_extra == CHANGES_NO_RESULT:
            continue
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from _leaves(section, data[name] or {}, f"{path}{name}.")
        else:
            yield f"{path}{name}", data[name]
