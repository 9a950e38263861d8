"""The report: complete, offline, tolerant of what a run does not have, small."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.util
import json
import re
import shutil
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_data import write_results

from xtalrl import tables
from xtalrl.config import Config
from xtalrl.csv_files import write_csv
from xtalrl.errors import XtalrlError
from xtalrl.metrics.confirmation import CONFIRMED, WITHDRAWN
from xtalrl.report.contents import figures_of, tables_of
from xtalrl.report.html import make_report
from xtalrl.report.lists import DesignList
from xtalrl.report.viewer_data import ASSETS, THREE_DMOL, three_dmol


class Page(HTMLParser):
    """What the page loads, its ids, its links into itself, its visible text, and whether its elements nest."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "line"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.text = ""
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.loads += [value for name in ("src", "data", "srcset") if (value := attributes.get(name))]
        if tag == "link":
            self.loads.append(attributes["href"] or "")
        if tag == "a" and (href := attributes["href"] or "").startswith("#"):
            self.targets.append(href[1:])
        if "id" in attributes:
            self.ids.append(attributes["id"] or "")
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.text += data


def report(folder: Path, config: Config) -> tuple[str, Page]:
    make_report(results=folder, config=config.model_dump(mode="json"), report=folder / "report.html")
    text = (folder / "report.html").read_text()
    return text, Page(text)


LABELS = {
    "random": "random", "bc": "BC", "ucql-w5": "u-CQL, ω = 5", "ccql-1.12ev-w5": "c-CQL 1.12 eV, ω = 5", "ccql-3ev-w5": "c-CQL 3 eV, ω = 5",
}  # fmt: skip
TARGETS = {"ccql-1.12ev-w5": 1.12, "ccql-3ev-w5": 3.0}


def ranked(folder: Path) -> list[dict[str, Any]]:
    """The designs of a run without finer SCFs as the page lists them."""
    rows = tables.read_rows(folder / "evaluation/evaluation.parquet", tables.EVALUATION)

    def distance(row: dict[str, Any]) -> float:
        if row["band_gap"] is None:
            return 2000
        return abs(row["band_gap"] - TARGETS[row["policy"]]) if row["policy"] in TARGETS else 1000

    return sorted(rows, key=distance)


def shown(column: dict[str, Any]) -> list[str]:
    return [column["dictionary"][code] for code in column["data"]]


def embedded(text: str, name: str) -> dict[str, dict]:
    """Columns of a table that is in the page, by key."""
    return {column["key"]: column for column in content(text, name)}


def content(text: str, name: str) -> Any:
    """What `packed` put into the page."""
    (found,) = re.findall(rf'<script type="text/plain" id="{name}-data">(.*?)</script>', text, re.S)
    return json.loads(zlib.decompress(base64.b64decode(found)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("results")
    config = write_results(folder, 160, (0, 1), targets_ev=[1.12, 3.0], omegas=[5])
    write_tables(folder, config)
    (folder / "figures").mkdir()
    for figure in figures_of(config):
        (folder / f"figures/{figure.name}.png").write_bytes(PIXEL)
    return folder, config


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def write_tables(folder: Path, config: Config) -> None:
    """Every table of the list of contents, with made-up numbers."""
    policies = list(config.policy_specs())
    for table in tables_of(config):
        rows = []
        for number, policy in enumerate(policies):
            row = {key: policy if key in ("policy", "first") else f"{key}{number % 2}" for key in table.keys}
            row |= {"target_ev": (1.12, 3)[number % 2]} if "target_ev" in row else {}
            for column in table.columns:
                row |= {column.name: number, f"{column.name}_low": number - 0.5, f"{column.name}_high": number + 0.5}
                row |= {f"{column.name}_n": 40, f"{column.name}_interval": "Wilson score"}
                row |= {f"{column.name}_paper": 12.34} if column.in_paper else {}
            rows.append(row | ({"p": 0.01 * 10**-number} if "p" in row else {}))
        write_csv(folder / f"tables/{table.name}.csv", list(rows[0]), rows)
        (folder / f"tables/{table.name}.txt").write_text("Validity rule: `cdvae-smact14`.\n")


def test_it_loads_nothing(run: tuple[Path, Config]) -> None:
    text, page = report(*run)
    assert page.loads
    assert all(load.startswith("data:") for load in page.loads)
    text = text.replace(
        str(three_dmol()), ""
    )  # the browser keeps it from loading: see the policy, and the browser's test
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert not re.search(r"url\((?!['\"]?data:)", text)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|import\(", text)


def test_the_library_it_holds_is_named_with_version_and_licence() -> None:
    version = THREE_DMOL.partition(" ")[2]
    folder = ASSETS / "3dmol"
    readme = (folder / "README.md").read_text()
    assert f"3dmol {version}" in readme
    assert f"3dmol v{version}\n" in (folder / "3Dmol-min.js.LICENSE.txt").read_text()
    assert hashlib.sha256((folder / "3Dmol-min.js").read_bytes()).hexdigest() in readme


def test_it_is_well_formed(run: tuple[Path, Config]) -> None:
    _, page = report(*run)
    assert page.stack == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.targets) <= set(page.ids)


def test_it_tells_the_run(run: tuple[Path, Config]) -> None:
    _, page = report(*run)
    text = " ".join(page.text.split())
    for part in (
        "5 policies with 2 training seeds each filled the skeletons of 40 validation crystals",
        "paper-fast", "sssp-1.3.0-efficiency", "embedded pw.x 7.2", "cdvae-smact14",
        "Table 1", "Table 2", "The SCF did not converge in the allowed number of iterations.",
        "Redistributions in binary form must reproduce", "c-CQL 1.12 eV, ω = 5", "10.1039/D4DD00024B", "accuracy of the greedy action", "SHA-256",
    ):  # fmt: skip
        assert part in text, part


def test_every_design_is_in_it(run: tuple[Path, Config]) -> None:
    folder, _ = run
    text, _ = report(*run)
    columns = embedded(text, "designs")
    rows = ranked(folder)
    assert len(rows) == 5 * 2 * 40
    for key in ("material_id", "formula", "outcome"):
        assert shown(columns[key]) == [row[key] for row in rows]
    assert shown(columns["policy"]) == [LABELS[row["policy"]] for row in rows]
    assert columns["policy"]["dictionary"] == list(LABELS.values())
    assert columns["band_gap"]["data"] == [
        None if row["band_gap"] is None else round(row["band_gap"], 2) for row in rows
    ]
    stability = tables.read_rows(folder / "evaluation/stability.parquet", tables.STABILITY)
    hull = {row["request_id"]: round(row["energy_above_hull"], 3) for row in stability}
    assert hull
    assert columns["energy_above_hull"]["data"] == [hull.get(row["request_id"]) for row in rows]
    labels = [column["label"] for column in columns.values()]
    assert len(set(labels)) == len(labels), "no two columns have one name"


def test_hits_are_of_the_policys_own_target(run: tuple[Path, Config]) -> None:
    folder, _ = run
    hits = shown(embedded(report(*run)[0], "designs")["hit"])
    for row, hit in zip(ranked(folder), hits, strict=True):
        target = TARGETS.get(row["policy"])
        known = target is not None and row["band_gap"] is not None
        assert hit == ("" if not known else "yes" if abs(row["band_gap"] - target) < 0.25 else "no")
    assert hits.index("no") == hits.count("yes") > 0


def test_confirmed_hits_come_first_and_withdrawn_ones_last_of_the_hits() -> None:
    rows = [
        {"policy": "c", "request_id": name, "band_gap": gap}
        for name, gap in (("failed", None), ("far", 5.0), ("withdrawn", 2.0), ("open", 2.1), ("confirmed", 2.2), ("near", 2.4))
    ]  # fmt: skip
    rows.append({"policy": "bc", "request_id": "no target", "band_gap": 2.0})
    verdicts = {("c", "withdrawn"): WITHDRAWN, ("c", "confirmed"): CONFIRMED, ("c", "near"): CONFIRMED}
    designs = DesignList(rows, {}, {"c": 2.0, "bc": None}, 0.25, {}, verdicts)
    names = [row["request_id"] for row in designs.ranked]
    assert names == ["confirmed", "open", "withdrawn", "near", "far", "no target", "failed"]


def test_tiles_say_the_highest_nu_at_each_target(run: tuple[Path, Config], tmp_path: Path) -> None:
    config = run[1]
    folder = shutil.copytree(run[0], tmp_path / "results")
    path = folder / "tables/desired_range.csv"
    header, *_ = path.read_text().splitlines()
    blank = dict.fromkeys(header.split(","), "")

    def row(policy: str, target: float, nu: float, low: float | None) -> dict[str, Any]:
        known = {key: 0 for key in blank if key.endswith(("_pct", "_n"))} | {"nu_pct": nu}
        return (
            blank
            | known
            | {"policy": policy, "target_ev": target}
            | ({"nu_pct_low": low, "nu_pct_high": 50} if low else {})
        )

    rows = [
        row("bc", 1.12, 20, 11),
        row("ccql-1.12ev-w5", 1.12, 20, 12),
        row("random", 1.12, 3, 1),
        row("random", 3, 0, None),
    ]
    write_csv(path, list(blank), rows)
    _, page = report(folder, config)
    text = " ".join(page.text.split())
    assert "20.0 % ν at 1.12 eV [12.0, 50.0]: designs of c-CQL 1.12 eV, ω = 5 within ±0.25 eV, the highest of 3" in text
    assert "0.0 % ν at 3 eV: no policy has a design within ±0.25 eV" in text


def test_no_table_has_two_columns_of_one_name_and_policies_have_one_name(run: tuple[Path, Config]) -> None:
    text, page = report(*run)
    for head in re.findall(r"<thead>(.*?)</thead>", text, re.S):
        names = re.findall(r"<th [^>]*>(.*?)</th>", head, re.S)
        assert len(names) == len(set(names))
    for table in tables_of(run[1]):
        if f'id="{table.name}-data"' in text:
            columns = embedded(text, table.name)
            assert len({column["label"] for column in columns.values()}) == len(columns)
            for key in {"policy", "first", "second"} & columns.keys():
                assert not {*columns[key]["dictionary"]} & ({*LABELS} - {"random"})
    assert page.text.index("Every design, best first") < page.text.index("Table 1")


def test_failures_and_rejections_are_listed(run: tuple[Path, Config]) -> None:
    folder, _ = run
    text, _ = report(*run)
    outcomes = [
        row
        for stage in ("scf", "evaluation")
        for row in tables.read_rows(folder / stage / "outcomes.parquet", tables.SCF_OUTCOMES)
        if row["outcome"] != "converged"
    ]
    assert len(embedded(text, "failures")["request_id"]["data"]) == len(outcomes) > 0
    assert len(embedded(text, "rejected")["row"]["data"]) == 240


def test_same_input_same_bytes(run: tuple[Path, Config]) -> None:
    assert report(*run)[0] == report(*run)[0]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """Imported labels, no figures, no tables, no training logs, nothing rejected."""
    config = write_results(tmp_path, 24, (0,), imported_labels=True, targets_ev=[2.0], omegas=[5])
    for name in ("policies", "structures", "references.parquet"):
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    text, page = report(tmp_path, config)
    for part in ("their labels were imported", "No row of the source was rejected", "no references.parquet"):
        assert part in page.text
    assert "Learning curves" not in page.text
    assert set(page.targets) <= set(page.ids)
    assert embedded(text, "designs")


def test_a_crystal_without_a_graph_is_among_the_rejected(tmp_path: Path) -> None:
    config = write_results(tmp_path, 24, (0,), targets_ev=[2.0], omegas=[5])
    listed = tables.read(tmp_path / "structures/rejected.parquet", tables.REJECTED).num_rows
    failure = {
        "source": "crystals.parquet",
        "row": 7,
        "material_id": "mp-7",
        "split": "train",
        "reason": "no_neighbors",
    }
    tables.write_rows([failure | {"detail": "x"}], tables.REJECTED, tmp_path / "structures/graph_failures.parquet")
    text, _ = report(tmp_path, config)
    assert len(embedded(text, "rejected")["row"]["data"]) == listed + 1
    assert "no_neighbors" in text


def test_text_from_files_cannot_break_the_page(tmp_path: Path) -> None:
    config = write_results(tmp_path, 24, (0,), targets_ev=[2.0], omegas=[5])
    path = tmp_path / "structures/rejected.parquet"
    rows = tables.read_rows(path, tables.REJECTED)
    rows[0]["detail"] = "</script><script>alert(1)</script>"
    rows[0]["reason"] = "<b>odd</b>"
    tables.write_rows(rows, tables.REJECTED, path)
    text, page = report(tmp_path, config)
    assert "<script>alert" not in text
    assert "<b>odd</b>" not in text
    assert "<b>odd</b>" in page.text
    assert embedded(text, "rejected")["detail"]["dictionary"][0] == "</script><script>alert(1)</script>"


def test_an_empty_folder_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(XtalrlError, match=r"holds no evaluation/evaluation.parquet: run `snakemake evaluate` first"):
        make_report(results=tmp_path, config={}, report=tmp_path / "report.html")


# Uses the page as a reader would, and leaves what happened in the title.
_READER = """
<script>
const errors = [], seen = {};
addEventListener("error", (event) => errors.push(event.message));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => errors.push(`${event.violatedDirective} ${event.blockedURI}`));
const until = async (test) => { for (let i = 0; i < 100 && !test(); i++) await new Promise((go) => setTimeout(go, 50)); };
// Colours in the picture that are not grey: atoms.
const colours = async (viewer) => {
  const image = new Image();
  image.src = viewer.pngURI();
  await image.decode();
  const canvas = document.createElement("canvas"), draw = canvas.getContext("2d");
  [canvas.width, canvas.height] = [image.width, image.height];
  draw.drawImage(image, 0, 0);
  const pixels = draw.getImageData(0, 0, canvas.width, canvas.height).data;
  let n = 0;
  for (let i = 0; i < pixels.length; i += 4) n += Math.max(...pixels.slice(i, i + 3)) - Math.min(...pixels.slice(i, i + 3)) > 60;
  return n;
};
(async () => {
  await until(() => document.querySelector("[data-name=designs] .found"));
  const designs = document.querySelector("[data-name=designs]"), found = () => designs.querySelector(".found").textContent;
  const field = (label) => [...designs.querySelectorAll("label")].find((node) => node.firstChild.textContent === label).querySelector("select, input");
  const type = (input, value) => { input.value = value; input.dispatchEvent(new Event(input.tagName === "SELECT" ? "change" : "input")); };
  const choose = (label, text) => type(field(label), [...field(label).options].find((option) => option.text === text).value);
  Object.assign(seen, { all: found(), drawn: designs.querySelectorAll("tbody tr").length });
  choose("Policy", "BC");
  seen.bc = found();
  type(field("Gap (eV)"), "1");
  seen.bc_above_1 = found();
  const column = [...designs.querySelectorAll("thead th")].findIndex((cell) => cell.textContent.startsWith("Gap"));
  const heading = designs.querySelectorAll("thead th")[column];
  heading.querySelector("button").click();
  heading.querySelector("button").click();
  seen.sort = heading.getAttribute("aria-sort");
  seen.gaps = [...designs.querySelectorAll("tbody tr")].map((row) => Number(row.children[column].textContent));
  type(field("Search"), "no such formula");
  seen.nothing = designs.querySelector("tbody").textContent;
  type(field("Search"), "");
  type(field("Gap (eV)"), "");
  choose("Policy", "any");
  choose("Target (eV)", "3");
  choose("Outcome", "converged");
  seen.target_3_converged = found();

  designs.querySelector("tbody button").click();
  const dialog = document.getElementById("design"), marked = designs.querySelector("tbody tr.hit td.hit"), facts = (name) => dialog.querySelector(`[data-facts=${name}]`).textContent;
  await until(() => facts("scf"));
  const viewers = [...dialog.querySelectorAll("[data-cell]")].map((host) => host.viewer);
  const title = () => dialog.querySelector("h2").textContent;
  const elements = (viewer) => [...new Set(viewer.selectedAtoms({}).map((atom) => atom.elem))].sort();
  Object.assign(seen, { open: dialog.open, first: title(), elements: viewers.map(elements), facts: facts("design"), scf: facts("scf") });
  seen.address = location.hash;
  seen.marked = marked && marked.textContent;
  seen.attempts = dialog.querySelectorAll("[data-attempts] tbody tr").length;
  seen.colours = await Promise.all(viewers.map(colours));
  const before = viewers[1].getView();
  dialog.querySelector("[data-cell=true]").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  await until(() => String(viewers[1].getView()) !== String(before));
  seen.turned_together = String(viewers[1].getView()) !== String(before) && String(viewers[1].getView().slice(4)) === String(viewers[0].getView().slice(4));
  const atoms = viewers[1].selectedAtoms({}).length;
  dialog.querySelector("[data-option=cells]").click();
  seen.more_cells = viewers[1].selectedAtoms({}).length > 5 * atoms;
  dialog.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  seen.second = title();
  dialog.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
  seen.back = title();
  dialog.close();

  document.querySelector("figure > button").click();
  seen.zoomed = document.getElementById("zoom").open;
  document.getElementById("zoom").close();
  document.getElementById("theme").click();
  seen.theme = document.documentElement.dataset.theme;
  seen.unsortable = [...document.querySelectorAll("section table")].filter((table) => !table.querySelector("thead th button")).length;
  document.title = "SEEN " + JSON.stringify({ ...seen, errors });
})().catch((error) => { document.title = "SEEN " + JSON.stringify({ ...seen, errors: [...errors, String(error.stack)] }); });
</script>
"""


def browse(text: str, folder: Path, width: int = 1280) -> dict[str, Any]:
    """Show a page in a browser, whose scripts leave what they saw in the title."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on PATH (`apt-get install chromium`)")
    page = folder / "page.html"
    page.write_text(text)
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
            "--disable-background-networking", "--virtual-time-budget=20000", f"--window-size={width},900",
            f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    (title,) = re.findall(r"<title>SEEN (.*?)</title>", done.stdout)
    seen: dict[str, Any] = json.loads(html.unescape(title))
    return seen


# Looks at the page, then at an opened design and an enlarged figure.
_AXE = """
<script>
(async () => {
  const seen = {}, wait = (test) => new Promise((go) => { const look = () => (test() ? go() : setTimeout(look, 50)); look(); });
  const look = async (name) => {
    const { violations, passes } = await axe.run(document);
    seen[name] = { passes: passes.length, violations: violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.target).join(", ")}`) };
  };
  await wait(() => !document.querySelector("[data-columns]:empty"));
  await look("page");
  document.querySelector("[data-name=designs] tbody button").click();
  await wait(() => document.querySelector("[data-facts=scf]").textContent);
  await look("design");
  document.getElementById("design").close();
  document.querySelector("figure > button").click();
  await look("figure");
  seen.wider = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.unsaid = [...document.querySelectorAll(".scroll")].filter((one) => one.scrollWidth > one.clientWidth + 1 && one.previousElementSibling.hidden).length;
  seen.width = innerWidth;
  document.title = "SEEN " + JSON.stringify(seen);
})();
</script>
"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 500])
def test_axe_finds_nothing(run: tuple[Path, Config], tmp_path: Path, width: int) -> None:
    """`make oracles` and CI install axe-core; 500 pixels are the narrowest window that chromium opens without a screen."""
    package = importlib.util.find_spec("axe_playwright_python")
    if package is None or package.origin is None:
        pytest.skip("axe-core is not installed (`make oracles`)")
    axe = (Path(package.origin).parent / "axe.min.js").read_text()
    seen = browse(f"{report(*run)[0]}<script>{axe}</script>{_AXE}", tmp_path, width)
    for name in ("page", "design", "figure"):
        assert seen[name]["passes"] > 10
        assert seen[name]["violations"] == [], name
    assert (seen["width"], seen["wider"], seen["unsaid"]) == (width, 0, 0)


@pytest.mark.slow
def test_a_browser_can_use_it(run: tuple[Path, Config], tmp_path: Path) -> None:
    folder, _ = run
    text, _ = report(*run)
    seen = browse(text + _READER, tmp_path)
    assert seen["errors"] == []
    everything = ranked(folder)
    rows = [row for row in everything if row["policy"] == "bc"]
    gaps = sorted(
        (round(g, 2) for row in rows if (g := row["band_gap"]) is not None and round(g, 2) >= 1), reverse=True
    )
    assert (seen["all"], seen["drawn"], seen["bc"]) == ("400 rows", 100, "80 of 400 rows")
    assert (seen["bc_above_1"], seen["gaps"]) == (f"{len(gaps)} of 400 rows", gaps)
    assert (seen["sort"], seen["nothing"], seen["zoomed"]) == ("descending", "Nothing fits these filters.", True)
    assert seen["theme"] in ("dark", "light")
    assert seen["unsortable"] == 0

    converged = [row for row in everything if row["policy"] == "ccql-3ev-w5" and row["outcome"] == "converged"]
    assert seen["target_3_converged"] == f"{len(converged)} of 400 rows"
    # The list is sorted by the gap, largest first: the same for the dialog and its neighbours.
    first, second = sorted(converged, key=lambda row: -round(row["band_gap"], 2))[:2]
    assert seen["first"] == seen["back"] == f"{first['formula']} on {first['material_id']}, by {LABELS['ccql-3ev-w5']}"
    assert seen["second"] == f"{second['formula']} on {second['material_id']}, by {LABELS['ccql-3ev-w5']}"
    number = int(seen["address"].removeprefix("#design-"))
    assert (everything[number - 1]["formula"], everything[number - 1]["material_id"]) == (
        first["formula"],
        first["material_id"],
    )
    assert seen["marked"] == "yes"
    crystals = tables.read_rows(folder / "structures/crystals.parquet", tables.CRYSTALS)
    (true,) = [row["species"] for row in crystals if row["material_id"] == first["material_id"]]
    assert seen["elements"] == [sorted({*true}), sorted({*first["species"]})]
    assert min(seen["colours"]) > 500
    assert (seen["open"], seen["turned_together"], seen["more_cells"], seen["attempts"]) == (True, True, True, 1)
    assert f"{first['band_gap']:.2f} eV" in seen["facts"]
    for part in ("converged", "nspin 1", "ecutwfc30 Ry", "paper-fast"):
        assert part in seen["scf"]


def test_cells_designs_and_attempts_are_in_it(run: tuple[Path, Config]) -> None:
    folder, _ = run
    text, _ = report(*run)
    data = content(text, "viewer")
    cells = {
        row["material_id"]: row for row in tables.read_rows(folder / "structures/crystals.parquet", tables.CRYSTALS)
    }
    scfs = {
        row["request_id"]: row for row in tables.read_rows(folder / "evaluation/outcomes.parquet", tables.SCF_OUTCOMES)
    }

    def species(text: str) -> list[str]:
        return [data["elements"]["symbols"][ord(character) - data["first_character"]] for character in text]

    for number, row in enumerate(ranked(folder)):
        skeleton, scf = data["designs"]["skeleton"][number], data["designs"]["scf"][number]
        cell = cells[row["material_id"]]
        assert data["skeletons"]["id"][skeleton] == row["material_id"]
        assert species(data["designs"]["species"][number]) == row["species"]
        assert species(data["skeletons"]["species"][skeleton]) == cell["species"]
        assert data["skeletons"]["lattice"][skeleton] == pytest.approx(cell["lattice"], abs=1e-4)
        shifts = np.array(data["skeletons"]["coordinates"][skeleton]) / data["coordinate_steps"] - cell["frac_coords"]
        assert np.abs(shifts - np.round(shifts)).max() < 1e-4
        assert (scf is None) == (row["request_id"] is None)
        if scf is not None:
            attempts = scfs[row["request_id"]]["attempts"]
            shown = data["scfs"]["attempts"][scf]
            assert [[data["texts"][part] for part in one[:3]] for one in shown] == [
                [attempt[name] for name in ("strategy", "outcome", "detail")] for attempt in attempts
            ]
            assert [one[3:] for one in shown] == [
                [
                    attempt["nspin"],
                    attempt["tot_magnetization"],
                    attempt["exit_code"],
                    attempt["wall_s"],
                    attempt["key"][:12],
                ]
                for attempt in attempts
            ]


def test_an_external_set_stands_beside_the_policies(tmp_path: Path) -> None:
    config = write_results(tmp_path, 24, (0,), targets_ev=[2.0], omegas=[5])
    path = tmp_path / "evaluation/evaluation.parquet"
    rows = tables.read_rows(path, tables.EVALUATION)
    cell = tables.read_rows(tmp_path / "structures/crystals.parquet", tables.CRYSTALS)[0]
    own = cell | {"material_id": "others/x", "split": "external"}
    design = {"policy": "others", "material_id": "others/x", "species": own["species"], "true_formula": None}
    tables.write_rows([own], tables.CRYSTALS, tmp_path / "external/others/crystals.parquet")
    tables.write_rows([*rows, rows[0] | design | {"n_correct": None, "n_similar": None}], tables.EVALUATION, path)
    entry = {"source": "argon.cif", "row": 0, "material_id": "argon", "split": "external"}
    rejection = entry | {"reason": "element_outside_88", "detail": "Ar"}
    tables.write_rows([rejection], tables.REJECTED, tmp_path / "external/others/rejected.parquet")
    (tmp_path / "set").mkdir()
    config = Config.model_validate(config.model_dump() | {"external": {"others": str(tmp_path / "set")}})
    text, page = report(tmp_path, config)
    assert "4 policies filled the skeletons of 6 validation crystals" in " ".join(page.text.split())
    assert "1 set of crystals designed elsewhere stands beside them" in page.text
    assert "argon.cif" in embedded(text, "rejected")["source"]["dictionary"]
    data = content(text, "viewer")
    skeleton = data["designs"]["skeleton"][-1]
    assert (data["skeletons"]["id"][skeleton], data["skeletons"]["species"][skeleton]) == ("others/x", None)
    assert embedded(text, "designs")["n_correct"]["data"][-1] is None


def test_a_run_without_policies(tmp_path: Path) -> None:
    """Only external crystals: no labels, no references, no training."""
    config = write_results(tmp_path, 24, (0,), targets_ev=[2.0], omegas=[5])
    for name in ("labels.parquet", "references.parquet", "policies", "scf"):
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    none = {"random": False, "bc": False, "ucql": False, "targets_ev": []}
    config = Config.model_validate(config.model_dump() | {"policies": none, "external": {"random": str(tmp_path)}})
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/desired_range.csv").write_text("")
    _, page = report(tmp_path, config)
    text = " ".join(page.text.split())
    assert "filled the skeletons" not in text
    assert "Nothing to list" in text


def test_a_table_of_an_older_version_gets_a_sentence(tmp_path: Path) -> None:
    config = write_results(tmp_path, 24, (0,), targets_ev=[2.0], omegas=[5])
    write_csv(tmp_path / "tables/table1_composition.csv", ["policy"], [{"policy": "bc"}])
    with pytest.raises(
        XtalrlError, match=r"table1_composition.csv lacks the column\(s\) accuracy_pct.* run `snakemake tables`"
    ):
        report(tmp_path, config)


@pytest.mark.slow
def test_the_papers_size_stays_small(tmp_path: Path) -> None:
    """12 policies on 2,486 skeletons."""
    config = write_results(tmp_path, 4 * 2486, (0,))
    text, _ = report(tmp_path, config)
    assert len(embedded(text, "designs")["policy"]["data"]) == 12 * 2486
    assert len(text.encode()) < 15e6
