"""The policies and the predictor that ship with xtalrl, in `resources/pretrained`: used without a training, each with a model card beside it."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from xtalrl.errors import XtalrlError
from xtalrl.files import seal_json, unseal_json, write_whole
from xtalrl.resources import RESOURCES

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the network's layout and of the record; what was shipped with another cannot be used."""
FOLDER = RESOURCES / "pretrained"
PREDICTOR_FILE = "predictor/predictor.safetensors"


def pretrained_policies(folder: Path = FOLDER) -> list[str]:
    """Names of the shipped policies."""
    return sorted(path.parent.name for path in folder.glob("*/policy.json"))


def read_pretrained(name: str, folder: Path = FOLDER) -> tuple[dict[str, Any], Path]:
    """The record of a shipped policy, and the file of its weights, both checked.

    Raises:
        XtalrlError: there is none of this name, it is of another version, or its weights are not those it was shipped with.
    """
    path = folder / name / "policy.json"
    if not path.is_file():
        raise XtalrlError(
            f"There is no pretrained policy {name!r} (`policies.pretrained`, or `--policy`) in resources/pretrained; there are: "
            f"{', '.join(pretrained_policies(folder)) or 'none'}."
        )
    try:
        if (version := dict(json.loads(path.read_bytes())).get("format")) != FORMAT:
            raise XtalrlError(
                f"The pretrained policy {name!r} is of format {version!r}, and this version of xtalrl reads format {FORMAT}: "
                f"take the policy that came with this version, or train `rvs` yourself (`policies.pretrained: null`)."
            )
        record = unseal_json(path.read_bytes())
    except (TypeError, ValueError, RecursionError) as error:
        raise XtalrlError(f"{path} is not readable ({error}): get it again, `git checkout {path}`.") from None
    weights = path.with_name("weights.safetensors")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "missing"
    if digest != record["sha256"]:
        raise XtalrlError(
            f"{weights} is not the file that was shipped (sha256 {digest[:12]}, expected {record['sha256'][:12]}): "
            f"get it again, `git checkout {weights}`."
        )
    return record, weights


def take_pretrained(name: str, policy: str | Path, weights: str | Path) -> None:
    """Write a shipped policy as the policy of a run: its record and its weights.

    Raises:
        XtalrlError: as in `read_pretrained`.
    """
    record, source = read_pretrained(name)
    write_whole(weights, source.read_bytes())
    record["spec"]["pretrained"] = name
    write_whole(policy, seal_json(record).encode())
    logger.info(
        "The policy %s is the one that was shipped, trained for %s steps", name, f"{record['settings']['steps']:,}"
    )


def pretrained_predictor(folder: Path = FOLDER) -> Path:
    """The file of the shipped predictor; its checksum is in it.

    Raises:
        XtalrlError: it is not there.
    """
    path = folder / PREDICTOR_FILE
    if not path.is_file():
        raise XtalrlError(f"{path} is missing: get it again, `git checkout {path}`.")
    return path


def ship_policy(trained: str | Path, name: str, folder: Path = FOLDER) -> None:
    """Put a trained policy (policy.json and weights.safetensors in a folder of a run) among the shipped ones."""
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    weights = Path(trained) / "weights.safetensors"
    record = unseal_json((Path(trained) / "policy.json").read_bytes())
    content = weights.read_bytes()
    record |= {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest()}
    write_whole(target / "weights.safetensors", content)
    write_whole(target / "policy.json", seal_json(record).encode())
