"""YAML files that people write, above all the configuration: read strictly, and merged as Snakemake merges them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from xtalrl.errors import XtalrlError

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
MAX_VALUES = 100_000
"""Maximum number of values in a file: aliases (`*a`) let a small file hold itself, or more values than any machine has memory for."""


_NOT_YET_KEYS = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")
"""Tags of the keys `<<` and `=`, which PyYAML replaces later."""


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key that occurs twice, where PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag in _NOT_YET_KEYS:
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, Hashable) and key in lines:
                again = "again" if lines[key] == line else f"again in line {line}"
                raise _Misleading(f"the key {key!r} stands in line {lines[key]} and {again}: keep one of them")
            if isinstance(key, Hashable):
                lines[key] = line
        return super().construct_mapping(node, deep)

    def construct_yaml_number(self, node: yaml.ScalarNode) -> float:
        """A number, refused unless YAML reads it as it looks in decimal: to YAML, 017 is 15 and 1:30 is 90."""
        is_whole = node.tag.endswith(":int")
        value: float = self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)
        if ":" in node.value or (re.match(r"[-+]?0[_0-7]*[1-7]", node.value) and is_whole):
            line = node.start_mark.line + 1
            raise _Misleading(
                f"YAML reads {node.value} in line {line} as {value}: write the number you mean in decimals"
            )
        return value


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_yaml_number)


class _Misleading(Exception):
    """A key that occurs twice, or a number that is not what it seems."""


def read_mapping(path: str | Path, kind: str = "configuration file") -> dict[str, Any]:
    """The `key: value` pairs of a YAML or JSON file.

    Args:
        path: path of the file.
        kind: what the file is, for messages.

    Raises:
        XtalrlError: the file is missing, no file, unreadable, not UTF-8, not YAML, empty or no mapping, or it contains itself, the
            same key twice, or a number in octal or sexagesimal digits.
    """
    text = _read_text(Path(path), f"The {kind} {path}")
    try:
        content = _parse(text, str(path))
    except _Misleading as error:
        raise XtalrlError(f"{path}: {error}.") from None
    except RecursionError:
        raise XtalrlError(f"{path} is nested deeper than any {kind} can be.") from None
    except (
        Exception
    ) as error:  # PyYAML raises KeyError, IndexError, AttributeError … for values that do not fit their tag.
        said = str(error) or type(error).__name__
        what = "it holds a number of more than 4,300 digits" if "int_max_str_digits" in said else said
        raise XtalrlError(f"{path} is not valid YAML: {what}") from None
    if content is None:
        raise XtalrlError(f"{path} is empty: it must hold `key: value` pairs.")
    if not isinstance(content, dict):
        raise XtalrlError(f"{path} must hold `key: value` pairs, not {type(content).__name__}.")
    _refuse_endless(content, str(path))
    return content


def read_merged(paths: Iterable[str | Path]) -> dict[str, Any]:
    """The merged content of configuration files, where later files override earlier ones.

    Raises:
        XtalrlError: as in `read_mapping`.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        content = read_mapping(path)
        if "__use_yte__" in content:  # Snakemake would then run the Python in it; xtalrl does not.
            raise XtalrlError(f"{path} holds `__use_yte__`: templates are not supported, write the values themselves.")
        update(merged, content)
    return merged


def update(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Merge `over` into `base`, section by section, as `snakemake.utils.update_config` does (Snakemake is not installed with the library)."""
    for key, value in over.items():
        if isinstance(value, Mapping):
            section = base.get(key, {})
            if value and not isinstance(section, dict):
                section = {}
            if isinstance(section, dict):
                update(section, value)
            base[key] = section
        else:
            base[key] = value


def refuse_second_options(arguments: Sequence[str]) -> None:
    """Refuse a snakemake or xtalrl command in which one option would silently replace another.

    Raises:
        XtalrlError: `--configfile`, `--config` or a key of `--config` is given twice, in one of its values, too.
    """
    for names, what in (
        (
            ("--configfile", "--configfiles"),
            "files after one `--configfile`, e.g. `--configfile first.yaml second.yaml`",
        ),
        (("--config", "-C"), "entries after one `--config`, e.g. `--config results=mine cache=ours`"),
    ):
        if sum(argument.partition("=")[0] in names for argument in arguments) > 1:
            raise XtalrlError(f"`{names[0]}` is given twice, and Snakemake would use the last alone: name all {what}.")
    after = itertools.dropwhile(lambda word: word not in ("--config", "-C"), arguments)
    entries = itertools.takewhile(lambda word: not word.startswith("-"), itertools.islice(after, 1, None))
    keys = []
    for entry in entries:
        key, _, value = entry.partition("=")
        keys.append(key)
        try:
            _parse(value, "")
        except _Misleading as error:
            raise XtalrlError(f"`--config {entry}`: {error}.") from None
        except Exception:  # Snakemake takes as text what is not YAML.
            continue
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise XtalrlError(f"`--config` sets {twice[0]!r} twice: keep one of them.")


def _read_text(path: Path, what: str) -> str:
    try:
        if not path.exists():
            raise XtalrlError(f"{what} does not exist; {_there_are()}.")
        if not path.is_file():
            raise XtalrlError(f"{what} is {'a folder' if path.is_dir() else 'not a regular file'}: name a YAML file.")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise XtalrlError(f"{what} has {size:,} bytes, and {MAX_BYTES:,} are allowed: name a YAML file.")
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise XtalrlError(
            f"{what} is not valid YAML: line {line} has the byte 0x{error.object[error.start]:02x}, which is not UTF-8. Save it as UTF-8."
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL byte
        raise XtalrlError(f"{what} cannot be read ({getattr(error, 'strerror', None) or error}).") from None


def _there_are() -> str:
    here = Path.cwd()
    known = ", ".join(sorted(str(path.relative_to(here)) for path in here.glob("config/*.yaml")))
    return (
        f"in {here} there are: {known}" if known else f"there is no folder config/ in {here}: `xtalrl init` makes one"
    )


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)  # As Snakemake does: JSON first.
    except ValueError:
        loader = _Loader(text)
        loader.name = name
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _Misleading(f"the key {key!r} stands twice: keep one of them")
        content[key] = value
    return content


def _refuse_endless(content: Any, name: str) -> None:
    left, values = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        values += 1
        if depth > MAX_DEPTH:
            raise XtalrlError(f"{name} refers to itself, or is nested deeper than {MAX_DEPTH} levels.")
        if values > MAX_VALUES:
            raise XtalrlError(f"{name} holds more than {MAX_VALUES:,} values once its aliases are followed.")
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
        left += [(item, depth + 1) for item in inner]
