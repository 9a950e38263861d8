"""Every key with every kind of wrong value, and damaged files: a configuration is taken as it says, or refused by name."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from xtalrl.config import Config, load
from xtalrl.errors import XtalrlError

N = int(os.environ.get("XTALRL_CONFIGS", "200"))
"""Values and damages tried, of each kind; at full size by `make harness`."""

STRANGE: dict[str, Any] = {
    "text": "abc", "no text": "", "blank": " ", "home": "~/x", "variable": "$HOME/x", "braces": "a{b}", "wildcard": "a*", "control": "a\x07b",
    "separator": "a\u2028b", "line": "a\nb", "long": "x" * 5000, "direction": "ünï\u202e☃", "minus": -1, "0": 0, "-0": -0.0, "huge": 10**30,
    "2**31": 2**31, "2**64": 2**64, "fraction": 0.5, "NaN": float("nan"), "inf": float("inf"), "-inf": -float("inf"), "1e308": 1e308,
    "5e-324": 5e-324, "null": None, "true": True, "false": False, "list": [], "null in a list": [None], "NaN in a list": [float("nan")],
    "inf in a list": [float("inf")], "true in a list": [True], "twice": [1, 1], "alike": [1.0, 1.0000001], "text twice": ["a", "a"],
    "nested": [[1, [2]]], "lists": [[1, 2, 3]], "many": list(range(2000)), "map": {}, "pairs": {"a": 1}, "number as key": {1: 2},
    "null as key": {None: 1},
}  # fmt: skip


def leaves(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield (*above, name)
            yield from leaves(field.annotation, (*above, name))
        else:
            yield (*above, name)


def sample(items: list[Any], seed: int) -> list[Any]:
    return random.Random(seed).sample(items, min(N, len(items)))


def taken_or_refused(path: Path, named: str) -> None:
    try:
        config = load(path)
    except XtalrlError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert named in message
        assert len(message.encode()) < 20_000
        return
    # What was taken is what will be done: nothing vanished, nothing is without end, and it can be written down.
    policies = config.policies
    pairs = len(policies.targets_ev) + len(policies.any_targets_ev) + policies.ucql
    single = policies.random + policies.bc + len(policies.rvs_targets_ev)
    ordinary = [spec for spec in config.policy_specs().values() if not spec.in_sweep]
    assert len(ordinary) == single + pairs * len(policies.omegas)
    assert sum(config.dft.shards.model_dump().values()) <= 80_000
    assert Config.model_validate_json(config.model_dump_json()) == config
    for folder in (config.results, config.cache):
        assert folder.strip() and not set(folder) & set("{}*?[]~\0\n")


def test_every_key_with_every_strange_value(tmp_path: Path) -> None:
    tried = sample(list(itertools.product(leaves(Config), STRANGE)), 1)
    for number, (keys, kind) in enumerate(tried):
        content = STRANGE[kind]
        for key in reversed(keys):
            content = {key: content}
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(content, allow_unicode=True))
        taken_or_refused(path, keys[0])


@pytest.mark.parametrize("name", ["config", "paper", "sweep", "demo", "test"])
def test_damaged_files(root: Path, tmp_path: Path, name: str) -> None:
    """A flipped bit, a lost or a doubled line, a lost end: another configuration or a sentence, and the file is named or the key is."""
    whole, rng, path = (root / f"config/{name}.yaml").read_bytes(), random.Random(name), tmp_path / "damaged.yaml"
    for _ in range(N // 5):
        lines = whole.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        match rng.randrange(4):
            case 0:
                line = bytearray(lines[at])
                line[rng.randrange(len(line))] ^= 1 << rng.randrange(8)
                lines[at] = bytes(line)
            case 1:
                del lines[at]
            case 2:
                lines.insert(rng.randrange(len(lines)), lines[at])
            case 3:
                lines = [whole[: rng.randrange(len(whole))]]
        path.write_bytes(b"".join(lines))
        taken_or_refused(path, "")
