"""The Materials Project through the real client mp-api, against a server on loopback that answers as its API does."""

from __future__ import annotations

import csv
import logging
import subprocess
import sys
import traceback
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from materials_project_server import MaterialsProjectServer
from pymatgen.core import Lattice, Structure

from xtalrl import tables
from xtalrl.dft.requests import _read_elemental_crystals
from xtalrl.elements import ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.metrics.formulas import read_known_compositions
from xtalrl.structures import materials_project
from xtalrl.structures.crystals import build_crystals
from xtalrl.structures.materials_project import fetch_elemental_crystals, fetch_formulas, fetch_magnetizations

KEY = "k3yk3yk3yk3yk3yk3yk3yk3yk3yk3yZZ"


def document(
    material_id: str, structure: Structure, total_magnetization: float | None = 0.0, hull: float = 0.0, **more
) -> dict:
    """A document of the summary route."""
    structure = structure.copy(site_properties={"magmom": [0.0] * len(structure)})
    units = structure.composition.get_reduced_composition_and_factor()[1]
    return {
        "material_id": material_id,
        "formula_pretty": structure.composition.reduced_formula,
        "nsites": len(structure),
        "nelements": len(structure.composition),
        "energy_above_hull": hull,
        "deprecated": False,
        "total_magnetization": total_magnetization,
        "total_magnetization_normalized_formula_units": None
        if total_magnetization is None
        else total_magnetization / units,
        "structure": structure.as_dict(),
    } | more


def rock_salt(a: str, b: str, length: float = 4.4) -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(length), [a, b], [[0, 0, 0], [0.5, 0.5, 0.5]])


def bcc(element: str, length: float = 3.0) -> Structure:
    return Structure(Lattice.cubic(length), [element] * 2, [[0, 0, 0], [0.5, 0.5, 0.5]])


MNO = rock_salt("Mn", "O")
DOCUMENTS = [
    document("mp-1", MNO.get_primitive_structure(), total_magnetization=5.0),
    document("mp-2", rock_salt("Fe", "O").get_primitive_structure(), total_magnetization=None),
    document("mp-3", bcc("Li").get_primitive_structure()),
    document("mp-4", bcc("Li")),
    document("mp-5", bcc("Li", 4.0), hull=0.2),
    document("mp-6", bcc("Na")),
    document("mp-7", bcc("Ar")),
    document("mp-8", rock_salt("Na", "Cl"), deprecated=True),
    document("mp-9", rock_salt("K", "Cl"), batch_id="gnome_r2scan_statics"),
    document("mp-10", rock_salt("Mn", "O", 4.5), hull=0.1),
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    server = MaterialsProjectServer(DOCUMENTS, KEY)
    monkeypatch.setenv("MP_API_ENDPOINT", server.endpoint)
    monkeypatch.setenv("MP_API_KEY", KEY)
    monkeypatch.setattr(materials_project, "FIRST_WAIT_S", 0.01)
    yield from server.running()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


def write_csv(path: Path, rows: list[tuple[str, float]], structure: Structure = MNO) -> dict[str, Path]:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "band_gap", "cif", "spacegroup.number"])
        writer.writerows([name, gap, structure.to(fmt="cif"), 225] for name, gap in rows)
    return {"train": path}


def test_magnetizations_reach_the_crystals_per_cell(server: MaterialsProjectServer, tmp_path: Path) -> None:
    csvs = write_csv(
        tmp_path / "train.csv", [("mp-1", 1.0), ("mp-2", 1.0), ("mp-77", 1.0), ("demo-si", 2.0), ("mp-3", 0.0)]
    )
    fetch_magnetizations(csvs, tmp_path / "m.parquet", tmp_path / "cache")
    rows = {row["material_id"]: row for row in pq.read_table(tmp_path / "m.parquet").to_pylist()}
    assert set(rows) == {"mp-1", "mp-2", "mp-77"}, "neither metals nor foreign identifiers are asked for"
    assert rows["mp-1"]["total_magnetization"] == 5.0
    assert rows["mp-2"]["total_magnetization"] is rows["mp-77"]["total_magnetization"] is None
    assert pq.read_schema(tmp_path / "m.parquet").metadata[b"database_version"] == b"2025.11.20"

    build_crystals(
        csvs, tmp_path / "crystals.parquet", tmp_path / "rejected.parquet", 20, magnetizations=tmp_path / "m.parquet"
    )
    crystals = {row["material_id"]: row for row in tables.read_rows(tmp_path / "crystals.parquet", tables.CRYSTALS)}
    assert crystals["mp-1"]["n_sites"] == 8
    assert crystals["mp-1"]["tot_magnetization"] == pytest.approx(20.0), (
        "5 µB a formula unit, 4 of them in the cubic cell"
    )
    assert crystals["mp-2"]["tot_magnetization"] is None


def test_the_foreign_identifier_would_have_been_another_crystal() -> None:
    from mp_api.client.core.utils import validate_ids

    assert validate_ids(["demo-si"]) == ["demo-476"]


def test_crystals_of_other_sources_are_never_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MP_API_KEY", raising=False)
    csvs = write_csv(tmp_path / "train.csv", [("demo-si", 1.0), ("", 1.0), ("mp-1", 0.0)])
    fetch_magnetizations(csvs, tmp_path / "m.parquet", tmp_path / "cache")
    build_crystals(
        csvs, tmp_path / "crystals.parquet", tmp_path / "r.parquet", 20, magnetizations=tmp_path / "m.parquet"
    )
    assert tables.read_rows(tmp_path / "crystals.parquet", tables.CRYSTALS)[0]["tot_magnetization"] is None


def test_identifiers_are_asked_for_in_chunks(
    server: MaterialsProjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(materials_project, "IDS_PER_REQUEST", 2)
    csvs = write_csv(tmp_path / "train.csv", [(f"mp-{n}", 1.0) for n in (1, 2, 3, 4, 77)])
    fetch_magnetizations(csvs, tmp_path / "m.parquet", tmp_path / "cache")
    assert [request["material_ids"] for request in server.requests] == ["mp-1,mp-2", "mp-3,mp-4", "mp-77"]


def test_a_chunk_of_the_real_size_is_one_request(server: MaterialsProjectServer, tmp_path: Path) -> None:
    csvs = write_csv(tmp_path / "train.csv", [(f"mp-{1_000_000 + n}", 1.0) for n in range(201)])
    fetch_magnetizations(csvs, tmp_path / "m.parquet", tmp_path / "cache")
    assert [len(request["material_ids"].split(",")) for request in server.requests] == [200, 1]


def test_an_identifier_in_the_new_spelling_is_recognised(server: MaterialsProjectServer, tmp_path: Path) -> None:
    server.search = lambda query: {
        "data": [{"material_id": "mp-aaaaaaft", "total_magnetization": 1.0}], "meta": {"total_doc": 1},
    }  # fmt: skip
    fetch_magnetizations(
        write_csv(tmp_path / "train.csv", [("mp-149", 1.0)]), tmp_path / "m.parquet", tmp_path / "cache"
    )
    assert pq.read_table(tmp_path / "m.parquet").to_pylist()[0]["total_magnetization"] == 1.0


def test_what_is_cached_needs_neither_network_nor_key(
    server: MaterialsProjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    csvs = write_csv(tmp_path / "train.csv", [("mp-1", 1.0), ("mp-77", 1.0)])
    fetch_magnetizations(csvs, tmp_path / "m.parquet", cache)
    fetch_elemental_crystals(tmp_path / "elements.csv", cache)
    fetch_formulas(tmp_path / "formulas.txt", cache)
    before = [(tmp_path / name).read_bytes() for name in ("m.parquet", "elements.csv", "formulas.txt")]
    monkeypatch.delenv("MP_API_KEY")
    monkeypatch.setenv("MP_API_ENDPOINT", "http://127.0.0.1:1/")
    fetch_magnetizations(csvs, tmp_path / "m.parquet", cache)
    fetch_elemental_crystals(tmp_path / "elements.csv", cache)
    fetch_formulas(tmp_path / "formulas.txt", cache)
    assert before == [(tmp_path / name).read_bytes() for name in ("m.parquet", "elements.csv", "formulas.txt")]


def test_only_what_is_missing_is_asked_for_and_a_new_release_starts_anew(
    server: MaterialsProjectServer, tmp_path: Path
) -> None:
    def fetch(*names: str) -> list[str]:
        server.requests.clear()
        csvs = write_csv(tmp_path / "train.csv", [(name, 1.0) for name in names])
        fetch_magnetizations(csvs, tmp_path / "m.parquet", tmp_path / "cache")
        return [request["material_ids"] for request in server.requests]

    assert fetch("mp-1", "mp-2") == ["mp-1,mp-2"]
    assert fetch("mp-1", "mp-2", "mp-3") == ["mp-3"]
    server.database_version = "2026.01.01"
    assert fetch("mp-1", "mp-3") == []
    assert pq.read_schema(tmp_path / "m.parquet").metadata[b"database_version"] == b"2025.11.20"
    assert fetch("mp-1", "mp-4") == ["mp-1,mp-4"]
    assert pq.read_schema(tmp_path / "m.parquet").metadata[b"database_version"] == b"2026.01.01"


def test_a_run_that_was_cut_off_goes_on(
    server: MaterialsProjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(materials_project, "IDS_PER_REQUEST", 1)
    csvs = write_csv(tmp_path / "train.csv", [("mp-1", 1.0), ("mp-2", 1.0)])
    answer = server.search
    server.search = lambda query: server.faults.extend([500] * 6) or answer(query)  # all after the first request
    with pytest.raises(XtalrlError, match="500"):
        fetch_magnetizations(csvs, tmp_path / "m.parquet", tmp_path / "cache")
    assert not (tmp_path / "m.parquet").exists()
    server.search, server.requests[:] = answer, []
    fetch_magnetizations(csvs, tmp_path / "m.parquet", tmp_path / "cache")
    assert [request["material_ids"] for request in server.requests] == ["mp-2"]


def test_elemental_ground_states_are_what_references_accept(server: MaterialsProjectServer, tmp_path: Path) -> None:
    fetch_elemental_crystals(tmp_path / "elements.csv", tmp_path / "cache")
    with open(tmp_path / "elements.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["element"], row["material_id"]) for row in rows] == [("Li", "mp-3"), ("Na", "mp-6")], (
        "energy above hull 0; of two, the smaller cell; argon is not among the 88"
    )
    crystals = _read_elemental_crystals(str(tmp_path / "elements.csv"))
    lithium, sodium = crystals["Li"], crystals["Na"]
    assert lithium[0].matches(bcc("Li"))
    assert sodium[0].volume == pytest.approx(27.0), "the cell as it was served, though it is not the primitive one"
    assert (lithium[1], sodium[1]) == ("elements.csv mp-3", "elements.csv mp-6")
    assert (
        pq.read_schema(tmp_path / "cache/materials_project/elements.parquet").metadata[b"database_version"]
        == b"2025.11.20"
    )


def test_formulas_are_what_novelty_accepts(server: MaterialsProjectServer, tmp_path: Path) -> None:
    fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")
    assert (tmp_path / "formulas.txt").read_text().split() == ["Ar", "FeO", "Li", "MnO", "Na"], "no NaCl, no KCl"
    assert "Mn1O1" in read_known_compositions(tmp_path / "formulas.txt")


def test_pages(server: MaterialsProjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(materials_project, "PAGE", 3)
    server.documents = [{"material_id": f"mp-{n}", "formula_pretty": f"{e}O"} for n, e in enumerate(ELEMENTS)]
    server.faults = [(429, 0), 503]
    fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")
    assert set((tmp_path / "formulas.txt").read_text().split()) == {f"{element}O" for element in ELEMENTS}
    assert len(server.requests) == 1 + 30


def test_an_entry_without_a_formula_costs_only_itself(server: MaterialsProjectServer, tmp_path: Path) -> None:
    server.documents = [
        {"material_id": "mp-1", "formula_pretty": None},
        {"material_id": "mp-2", "formula_pretty": "LiF"},
    ]
    fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")
    assert (tmp_path / "formulas.txt").read_text().split() == ["LiF"]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "much", [1.0], None])
def test_a_magnetization_that_is_no_number_is_not_known(
    server: MaterialsProjectServer, tmp_path: Path, value: object
) -> None:
    server.documents = [
        {"material_id": "mp-1", "total_magnetization": value},
        {"material_id": "mp-2", "total_magnetization": 2.0},
    ]
    csvs = write_csv(tmp_path / "train.csv", [("mp-1", 1.0), ("mp-2", 1.0)])
    fetch_magnetizations(csvs, tmp_path / "m.parquet", tmp_path / "cache")
    rows = {row["material_id"]: row["total_magnetization"] for row in pq.read_table(tmp_path / "m.parquet").to_pylist()}
    assert rows == {"mp-1": None, "mp-2": 2.0}


def test_a_full_size_list(server: MaterialsProjectServer, tmp_path: Path) -> None:
    server.documents = [
        {"material_id": f"mp-{n * 88 + m:06d}", "formula_pretty": f"{a}{n + 2}{b}"}
        for n in range(50) for m, (a, b) in enumerate(zip(ELEMENTS, ELEMENTS[1:] + ELEMENTS[:1], strict=True))
    ]  # fmt: skip
    fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")
    assert len((tmp_path / "formulas.txt").read_text().split()) == 50 * 88
    assert [request.get("_page") for request in server.requests] == [None, "1", "2", "3", "4", "5"]


def test_pages_that_come_back_short_are_not_taken_for_all(server: MaterialsProjectServer, tmp_path: Path) -> None:
    server.short_pages = True
    server.documents = [{"material_id": f"mp-{n}", "formula_pretty": "LiF"} for n in range(1000)]
    with pytest.raises(XtalrlError, match=r"counts 1,000 formulas but sent 999.*`evaluation.formulas`"):
        fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")
    assert not (tmp_path / "cache/materials_project/formulas.parquet").exists()


@pytest.mark.parametrize("fault", [(429, 0), 500, 502, 503, 504, "cut", "torn", "html", "drop"])
def test_a_failure_that_passes_is_repeated(
    server: MaterialsProjectServer, tmp_path: Path, fault, logged: pytest.LogCaptureFixture
) -> None:
    server.faults = [fault, fault]
    server.heartbeat_faults = [fault]
    fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")
    assert "MnO" in (tmp_path / "formulas.txt").read_text()
    assert not server.faults
    assert "attempt 3 of 6" in logged.text


def test_retry_after_is_obeyed(
    server: MaterialsProjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    server.faults = [(429, 7), (429, "Fri, 31 Dec 1999 23:59:59 GMT"), (503, 99999), (429, "soon")]
    fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")
    waits = [seconds for seconds in slept if seconds > 0.2]
    assert waits == [7.0, materials_project.LONGEST_WAIT_S]
    assert "429 Too Many Requests; attempt 2 of 6 in 7.0 s" in logged.text


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ((429, 0), "429 Too Many Requests"),
        (503, "503 Service Unavailable"),
        ("cut", "ChunkedEncodingError"),
        ("torn", "cut off or not"),
        ("html", "cut off or not"),
        ("drop", "ConnectionError"),
    ],
)
def test_a_failure_that_stays_gets_a_sentence(
    server: MaterialsProjectServer, tmp_path: Path, fault, expected: str
) -> None:
    server.faults = [fault] * 99
    with pytest.raises(
        XtalrlError, match=r"gave no answer in 6 attempts.*Without the API: .*`evaluation.formulas`"
    ) as error:
        fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")
    assert expected in str(error.value)
    assert not (tmp_path / "formulas.txt").exists()
    assert len(server.faults) == 99 - 6


def test_no_network(monkeypatch: pytest.MonkeyPatch, server: MaterialsProjectServer, tmp_path: Path) -> None:
    monkeypatch.setenv("MP_API_ENDPOINT", "http://127.0.0.1:1/")
    with pytest.raises(XtalrlError, match=r"127.0.0.1:1/\) gave no answer in 6 attempts: ConnectionError.*HTTPS_PROXY"):
        fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")


@pytest.mark.parametrize("fault", [None, 401, 403])
def test_a_refused_key_is_told_at_once_and_not_shown(
    server: MaterialsProjectServer, tmp_path: Path, fault: int | None, logged: pytest.LogCaptureFixture
) -> None:
    if fault:
        server.faults = [fault]
    else:
        server.key = "another"
    with pytest.raises(XtalrlError, match="refused the key in MP_API_KEY") as error:
        fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")
    shown = "".join(traceback.format_exception(error.value)) + logged.text
    assert KEY not in shown


@pytest.mark.parametrize("fault", [400, 404, 422, 418])
def test_a_refused_request_is_told_without_the_key(
    server: MaterialsProjectServer, tmp_path: Path, fault: int, logged: pytest.LogCaptureFixture
) -> None:
    server.faults = [fault]
    csvs = write_csv(tmp_path / "train.csv", [("mp-1", 1.0)])
    with pytest.raises(XtalrlError, match=r"did not accept a request of mp-api.*`structures.magnetizations`") as error:
        fetch_magnetizations(csvs, tmp_path / "m.parquet", tmp_path / "cache")
    shown = "".join(traceback.format_exception(error.value)) + logged.text
    assert KEY not in shown


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (None, "MP_API_KEY is not set: log in at https://"),
        ("  ", "is not set"),
        ("secret", "holds 6 characters"),
        (f"{KEY[:-1]}\n!", "holds 33"),
    ],
)
def test_no_key_or_half_a_key(key: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MP_API_KEY", raising=False)
    monkeypatch.setattr("pymatgen.core.SETTINGS", {"PMG_MAPI_KEY": KEY})
    if key is not None:
        monkeypatch.setenv("MP_API_KEY", key)
    with pytest.raises(XtalrlError, match=expected) as error:
        fetch_elemental_crystals(tmp_path / "elements.csv", tmp_path / "cache")
    assert "`references.crystals`" in str(error.value)
    assert not key or key.strip() == "" or key not in str(error.value)


def test_the_key_is_sent_as_a_header_only(server: MaterialsProjectServer, tmp_path: Path) -> None:
    fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")
    assert not any(KEY in str(request) for request in server.requests)
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_damaged_cache_gets_a_sentence(server: MaterialsProjectServer, tmp_path: Path) -> None:
    path = tmp_path / "cache/materials_project/formulas.parquet"
    path.parent.mkdir(parents=True)
    path.write_text("no parquet")
    with pytest.raises(XtalrlError, match=r"formulas.parquet is not a readable table.*delete it and run"):
        fetch_formulas(tmp_path / "formulas.txt", tmp_path / "cache")


@pytest.mark.slow
def test_the_rules(server: MaterialsProjectServer, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three answers through Snakemake: asked for, cached, served again without network, and a missing key as a sentence."""

    def run(cache: str, *targets: str) -> subprocess.CompletedProcess[str]:
        config = {
            "results": str(tmp_path / "results"),
            "cache": str(tmp_path / cache),
            "structures": {"path": str(tmp_path / "mp20"), "magnetizations": "materials-project"},
            "references": {"crystals": "materials-project"},
            "evaluation": {"formulas": "materials-project"},
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        arguments = ["--cores", "1", "--forceall", "--configfile", str(tmp_path / "config.yaml"), "--nolock"]
        return subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments, *targets],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=300,
        )

    (tmp_path / "mp20").mkdir()
    for number, split in enumerate(("train", "val", "test"), 1):
        write_csv(tmp_path / "mp20" / f"{split}.csv", [(f"mp-{number}", 1.0)])
    targets = [str(tmp_path / "results/structures/crystals.parquet")]
    targets += [str(tmp_path / f"cache/materials_project/{name}") for name in ("elements.csv", "formulas.txt")]
    first = run("cache", *targets)
    assert first.returncode == 0, first.stderr
    rows = tables.read_rows(tmp_path / "results/structures/crystals.parquet", tables.CRYSTALS)
    assert [row["tot_magnetization"] for row in rows] == [pytest.approx(20.0), None]  # the test split is left out
    assert "MnO" in (tmp_path / "cache/materials_project/formulas.txt").read_text()

    monkeypatch.delenv("MP_API_KEY")
    offline = run("cache", *targets)
    assert offline.returncode == 0, offline.stderr
    without_key = run("empty", str(tmp_path / "empty/materials_project/formulas.txt"))
    assert without_key.returncode != 0
    assert "MP_API_KEY is not set: log in at" in without_key.stderr
    assert "Traceback" not in without_key.stderr
    shown = first.stdout + first.stderr + offline.stderr
    assert KEY not in shown
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"structure": {"lattice": "none"}}, "structure of mp-3 .* is unreadable"),
        ({"nsites": None}, "not the Materials Project's"),
    ],
)
def test_documents_of_another_layout_get_a_sentence(
    server: MaterialsProjectServer, tmp_path: Path, change: dict, expected: str
) -> None:
    server.documents = [DOCUMENTS[2] | change]
    with pytest.raises(XtalrlError, match=expected):
        fetch_elemental_crystals(tmp_path / "elements.csv", tmp_path / "cache")
