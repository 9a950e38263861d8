"""Tensors in safetensors files with a checksum: weights, snapshots and checkpoints.

The metadata of such a file have a single key, `xtalrl`, because safetensors writes several keys in random order, and equal weights must give equal
files. Its value is JSON that says what the file is, with the SHA-256 of the whole file, computed with zeros in the place of the checksum.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from xtalrl.files import write_whole

_METADATA = "xtalrl"
_CHECKSUM = re.compile(rb"(?<=sha256:)[0-9a-f]{64}")
_NONE_YET = b"0" * 64


class DamagedError(ValueError):
    """A file of tensors that cannot be read, or is not as it was written."""


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and a description of them (plain data), completely or not at all.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    write_whole(path, tensors_to_bytes(tensors, about))


def tensors_to_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """The content of a file with these tensors."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {_METADATA: json.dumps({**about, "checksum": f"sha256:{_NONE_YET.decode()}"}, sort_keys=True)}
    content: bytes = save(contiguous, metadata)
    start = content.index(b"sha256:" + _NONE_YET) + len(b"sha256:")
    return content[:start] + hashlib.sha256(content).hexdigest().encode() + content[start + len(_NONE_YET) :]


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and their description, which is empty for a file of an older version without a checksum.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: the file may not be read.
        DamagedError: the file is damaged or was changed.
    """
    try:
        content = Path(path).read_bytes()
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        about = json.loads(json.loads(header).get("__metadata__", {}).get(_METADATA, "null"))
        if about is not None:
            found = _CHECKSUM.search(header)
            if found is None or f"sha256:{found[0].decode()}" != about.pop("checksum"):
                raise DamagedError("its checksum is damaged")
            start, end = 8 + found.start(), 8 + found.end()
            if hashlib.sha256(content[:start] + _NONE_YET + content[end:]).hexdigest().encode() != found[0]:
                raise DamagedError("its checksum does not fit")
        return load(content), about or {}
    except (FileNotFoundError, PermissionError, DamagedError):
        raise
    except Exception as error:  # Of a damaged file, safetensors, json and torch raise nearly anything.
        raise DamagedError(" ".join(str(error).split())[:200] or type(error).__name__) from None
