"""Pseudopotential families: facts against the published table and the files, and every way a location can be wrong."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import tarfile
import threading
import zipfile

import pytest
from dft_data import SHARED, SSSP, needs_shared, sssp

from xtalrl.dft import pseudopotentials
from xtalrl.dft.pseudopotentials import FAMILIES, describe_family, fetch_family, known_families, load_family, md5_of
from xtalrl.elements import ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.fetch.wheels import Wheel, extract_members, fetch_wheel

ARCHIVE = SHARED / "sssp" / "SSSP_1.3.0_PBE_efficiency.tar.gz"


@pytest.fixture
def family(tmp_path, monkeypatch):
    """A family of two made-up files, and the folder that holds them."""
    source = tmp_path / "source" / "deep"
    source.mkdir(parents=True)
    elements = {}
    for element in ("Si", "O"):
        (source / f"{element}.upf").write_text(f"<UPF> {element} </UPF>")
        md5 = hashlib.md5((source / f"{element}.upf").read_bytes()).hexdigest()
        elements[element] = f"{{file: {element}.upf, md5: {md5}, ecutwfc_ry: 30, ecutrho_ry: 120, z_valence: 4}}"
    families = tmp_path / "families"
    families.mkdir()
    (families / "tiny.yaml").write_text(
        "name: tiny\nfunctional: PBE\ndescription: d\nlicence: l\ncitation: c\ncutoffs_from: f\narchive: none.tar.gz\nelements:\n"
        + "".join(f"  {element}: {entry}\n" for element, entry in elements.items())
    )
    monkeypatch.setattr(pseudopotentials, "FAMILIES", families)
    return source


def test_the_families_of_the_project() -> None:
    assert known_families() == ["pseudo-dojo-0.4-pbe-sr-standard", SSSP]
    assert sssp().missing(ELEMENTS) == []
    dojo = describe_family("pseudo-dojo-0.4-pbe-sr-standard")
    assert set(dojo.missing(ELEMENTS)) == set("Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Ac Th Pa U Np Pu".split())
    assert all(pseudo.ecutrho_ry == 4 * pseudo.ecutwfc_ry for pseudo in dojo.elements.values())
    assert dojo.elements["Si"].ecutwfc_ry == 36


@needs_shared
def test_sssp_is_the_published_table() -> None:
    table = json.loads((SHARED / "sssp" / "SSSP_1.3.0_PBE_efficiency.json").read_text())
    ours = {
        element: {
            "filename": p.file,
            "md5": p.md5,
            "cutoff_wfc": p.ecutwfc_ry,
            "cutoff_rho": p.ecutrho_ry,
            "z_valence": p.z_valence,
        }
        for element, p in sssp().elements.items()
    }
    assert ours == table


@needs_shared
def test_sssp_from_its_archive(tmp_path) -> None:
    path = fetch_family(SSSP, str(ARCHIVE), tmp_path)
    family, folder = load_family(path)
    assert path == tmp_path / "families" / SSSP / "family.json"
    assert family.digest == sssp().digest
    assert len(list(folder.glob("*.[uU][pP][fF]"))) == 103
    times = {file: file.stat().st_mtime_ns for file in folder.glob("*.UPF")}
    fetch_family(SSSP, "nothing is read when every file is there", tmp_path)
    assert {file: file.stat().st_mtime_ns for file in folder.glob("*.UPF")} == times


@needs_shared
def test_sssp_from_the_network(tmp_path, monkeypatch) -> None:
    """The published archive, from a mirror: its md5 is checked as a whole, then that of each file."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(SHARED))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *arguments: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("XTALRL_MIRROR", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        described = sssp().model_copy(update={"installed": None})
        monkeypatch.setattr(pseudopotentials, "describe_family", lambda name: described)
        path = fetch_family(SSSP, None, tmp_path)
        server.shutdown()
    assert len(list(path.parent.glob("*.[uU][pP][fF]"))) == 103
    assert (tmp_path / "downloads" / ARCHIVE.name).stat().st_size == ARCHIVE.stat().st_size


@pytest.mark.parametrize("kind", ["folder", "tar.gz", "zip"])
def test_a_folder_or_archive_of_the_users(family, tmp_path, kind: str) -> None:
    location = family.parent
    if kind == "tar.gz":
        location = tmp_path / "files.tar.gz"
        with tarfile.open(location, "w:gz") as tar:
            tar.add(family, "anything")
    elif kind == "zip":
        location = tmp_path / "files.zip"
        with zipfile.ZipFile(location, "w") as archive:
            for file in family.iterdir():
                archive.write(file, f"a/b/{file.name}")
    path = fetch_family("tiny", str(location), tmp_path / "cache")
    assert sorted(file.name for file in path.parent.iterdir()) == ["O.upf", "Si.upf", "family.json"]
    assert load_family(path)[0].n_electrons(["Si", "O", "O"]) == 12


def test_a_folder_that_holds_the_archive_is_as_good_as_the_archive(family, tmp_path) -> None:
    folder = tmp_path / "downloads" / "of mine"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "none.tar.gz", "w:gz") as tar:
        tar.add(family / "Si.upf", "x/Si.upf")
    (folder / "another.zip").write_bytes(b"PK damaged")
    (folder / "O.upf").write_text("another version")
    with pytest.raises(XtalrlError, match=r"another version of O\.upf .*another\.zip is damaged"):
        fetch_family("tiny", str(folder.parent), tmp_path / "cache")
    shutil.copy(family / "O.upf", folder)
    path = fetch_family("tiny", str(folder.parent), tmp_path / "cache")
    assert sorted(file.name for file in path.parent.iterdir()) == ["O.upf", "Si.upf", "family.json"]


def test_what_is_fetched_takes_group_and_mode_of_the_cache(family, tmp_path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o2770)
    old = os.umask(0o077)
    try:
        path = fetch_family("tiny", str(family), cache)
    finally:
        os.umask(old)
    assert path.parent.stat().st_mode & 0o7777 == 0o2770
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o660}


def test_missing_and_wrong_files_are_named(family, tmp_path) -> None:
    (family / "O.upf").unlink()
    with pytest.raises(XtalrlError, match=r"missing O\.upf"):
        fetch_family("tiny", str(family), tmp_path / "cache")
    (family / "O.upf").write_text("another version")
    with pytest.raises(XtalrlError, match=r"another version of O\.upf \(md5 .* instead of"):
        fetch_family("tiny", str(family), tmp_path / "cache")
    assert not (tmp_path / "cache" / "families" / "tiny" / "Si.upf").exists()
    with pytest.raises(XtalrlError, match="no such folder or archive"):
        fetch_family("tiny", str(tmp_path / "nowhere"), tmp_path / "cache")
    broken = tmp_path / "broken.tar.gz"
    with tarfile.open(broken, "w:gz") as tar:
        tar.add(family, "f")
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(XtalrlError, match="damaged"):
        fetch_family("tiny", str(broken), tmp_path / "cache")


def test_swapped_files_are_told_by_their_checksums(family, tmp_path) -> None:
    right = {file.stem: md5_of(file.read_bytes()) for file in family.iterdir()}
    silicon, oxygen = (family / "Si.upf").read_bytes(), (family / "O.upf").read_bytes()
    (family / "Si.upf").write_bytes(oxygen)
    (family / "O.upf").write_bytes(silicon)
    message = (
        rf"O\.upf \(md5 {right['Si']} instead of {right['O']}\), Si\.upf \(md5 {right['O']} instead of {right['Si']}\)"
    )
    with pytest.raises(XtalrlError, match=message):
        fetch_family("tiny", str(family), tmp_path / "cache")


def test_an_installed_package_saves_the_download(family, tmp_path, monkeypatch) -> None:
    described = describe_family("tiny").model_copy(update={"installed": str(family)})
    monkeypatch.setattr(pseudopotentials, "describe_family", lambda name: described)
    path = fetch_family("tiny", None, tmp_path / "cache")
    assert load_family(path)[0].digest == described.digest
    # A package of another version does not count.
    (family / "O.upf").write_text("another version")
    monkeypatch.setattr(pseudopotentials, "_download", lambda *arguments: pytest.fail("it downloads"))
    with pytest.raises(pytest.fail.Exception, match="it downloads"):
        fetch_family("tiny", None, tmp_path / "other")


def test_a_damaged_file_in_the_cache_is_replaced(family, tmp_path) -> None:
    path = fetch_family("tiny", str(family), tmp_path)
    (path.parent / "Si.upf").write_text("truncated")
    fetch_family("tiny", str(family), tmp_path)
    assert (path.parent / "Si.upf").read_text() == (family / "Si.upf").read_text()


def test_a_changed_record_of_a_family_is_refused(family, tmp_path) -> None:
    path = fetch_family("tiny", str(family), tmp_path)
    content = path.read_text()
    cutoff = next(iter(load_family(path)[0].elements.values())).ecutwfc_ry
    for damaged in (content.replace(f"{cutoff}", f"{cutoff + 1}", 1), content[:100], "[" * 10**5, ""):
        path.write_text(damaged)
        with pytest.raises(XtalrlError, match=r"is damaged: delete it and run `snakemake .*family.json`"):
            load_family(path)
    path.write_bytes(b"\xff")
    with pytest.raises(XtalrlError, match="is damaged"):
        load_family(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(XtalrlError, match="is damaged"):
        load_family(path)


@pytest.mark.parametrize("name", ["sssp", str(FAMILIES / f"{SSSP}.yaml"), f"../families/{SSSP}"])
def test_an_unknown_family_and_a_path_are_refused_with_the_known_ones(tmp_path, name: str) -> None:
    with pytest.raises(XtalrlError, match=f"there are: .*{SSSP}.*not a path"):
        fetch_family(name, None, tmp_path)
    with pytest.raises(XtalrlError, match="snakemake"):
        load_family(tmp_path / "family.json")


def test_a_wheel_in_the_downloads_is_taken_without_pip(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("xtalrl.fetch.wheels._run_pip", lambda *_: pytest.fail("pip was called"))
    path = tmp_path / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/data/Si.upf", "content")
    wheel = Wheel(project="tiny", version="1.0", sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert fetch_wheel(wheel, tmp_path) == path
    extract_members(path, ["tiny/data/Si.upf"], tmp_path / "out")
    assert (tmp_path / "out/tiny/data/Si.upf").read_text() == "content"
    with pytest.raises(XtalrlError, match="does not hold tiny/other"):
        extract_members(path, ["tiny/other"], tmp_path / "out")


def test_a_wheel_that_pip_cannot_get_gets_a_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(XtalrlError, match=r"tiny==1\.0.*copy the wheel into"):
        fetch_wheel(Wheel(project="tiny", version="1.0", sha256="0" * 64), tmp_path / "downloads")
    shutil.rmtree(tmp_path / "downloads")
