"""The report: complete, offline, tolerant of what a run does not have, small."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_data import write_results
from test_report_figures import make as make_figure
from test_report_tables import make as make_table

from xtalrl import tables
from xtalrl.config import Config
from xtalrl.errors import XtalrlError
from xtalrl.report.html import make_report
from xtalrl.report.tables import make_table2


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


def embedded(text: str, name: str) -> dict[str, dict]:
    """Columns of a table that is in the page as JSON, by key."""
    (found,) = re.findall(rf'<script type="application/json" id="{name}-data">(.*?)</script>', text, re.S)
    return {column["key"]: column for column in json.loads(found)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("results")
    config = write_results(folder, 160, (0, 1), targets_ev=[1.12, 3.0], omegas=[5])
    make_table((folder, config), name="tables/table1_composition")
    make_table((folder, config), make_table2, name="tables/table2_dft_success")
    (folder / "figures").mkdir()
    make_figure(folder, config, "figures/figure2")
    return folder, config


def test_it_loads_nothing(run: tuple[Path, Config]) -> None:
    text, page = report(*run)
    assert page.loads
    assert all(load.startswith("data:") for load in page.loads)
    assert "@import" not in text
    assert not re.search(r"url\((?!['\"]?data:)", text)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|import\(", text)


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
        "recommended", "pseudo-dojo-0.5-pbe-sr-standard", "embedded pw.x 7.2", "cdvae-smact14",
        "Table 1", "Table 2", "The SCF did not converge in the allowed number of iterations.",
        "c-CQL 1.12 eV, ω = 5", "10.1039/D4DD00024B", "accuracy of the greedy action", "SHA-256",
    ):  # fmt: skip
        assert part in text, part


def test_every_design_is_in_it(run: tuple[Path, Config]) -> None:
    folder, _ = run
    text, _ = report(*run)
    columns = embedded(text, "designs")
    rows = tables.read_rows(folder / "evaluation/evaluation.parquet", tables.EVALUATION)
    assert len(rows) == 5 * 2 * 40
    for key in ("material_id", "formula", "policy", "outcome"):
        assert [columns[key]["dictionary"][code] for code in columns[key]["data"]] == [row[key] for row in rows]
    assert columns["band_gap"]["data"] == [
        None if row["band_gap"] is None else round(row["band_gap"], 2) for row in rows
    ]


def test_hits_are_of_the_policys_own_target(run: tuple[Path, Config]) -> None:
    folder, _ = run
    columns = embedded(report(*run)[0], "designs")
    shown = [columns["hit"]["dictionary"][code] for code in columns["hit"]["data"]]
    targets = {"ccql-1.12ev-w5": 1.12, "ccql-3ev-w5": 3.0}
    for row, hit in zip(
        tables.read_rows(folder / "evaluation/evaluation.parquet", tables.EVALUATION), shown, strict=True
    ):
        target = targets.get(row["policy"])
        known = target is not None and row["band_gap"] is not None
        assert hit == ("" if not known else "yes" if abs(row["band_gap"] - target) < 0.25 else "no")


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
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
setTimeout(() => {
  const designs = document.querySelector("[data-name=designs]"), found = () => designs.querySelector(".found").textContent;
  const type = (input, value) => { input.value = value; input.dispatchEvent(new Event(input.tagName === "SELECT" ? "change" : "input")); };
  const seen = { all: found(), drawn: designs.querySelectorAll("tbody tr").length };
  const policy = designs.querySelector("select");
  type(policy, [...policy.options].find((option) => option.text === "bc").value);
  seen.bc = found();
  const gap = designs.querySelector("input[type=number]");
  type(gap, "1");
  seen.bc_above_1 = found();
  const column = [...designs.querySelectorAll("thead th")].findIndex((cell) => cell.textContent.startsWith("Gap"));
  const heading = designs.querySelectorAll("thead th")[column];
  heading.querySelector("button").click();
  heading.querySelector("button").click();
  seen.sort = heading.getAttribute("aria-sort");
  seen.gaps = [...designs.querySelectorAll("tbody tr")].map((row) => Number(row.children[column].textContent));
  type(designs.querySelector("input[type=search]"), "no such formula");
  seen.nothing = designs.querySelector("tbody").textContent;
  document.querySelector("figure > button").click();
  seen.zoomed = document.getElementById("zoom").open;
  document.getElementById("theme").click();
  seen.theme = document.documentElement.dataset.theme;
  document.title = "READER " + JSON.stringify({ ...seen, errors });
}, 1000);
</script>
"""


@pytest.mark.slow
def test_a_browser_can_use_it(run: tuple[Path, Config], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on PATH (`apt-get install chromium`)")
    folder, _ = run
    text, _ = report(*run)
    page = tmp_path / "page.html"
    page.write_text(text + _READER)
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--virtual-time-budget=4000",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    (title,) = re.findall(r"<title>READER (.*?)</title>", done.stdout)
    seen = json.loads(title)
    rows = [
        row
        for row in tables.read_rows(folder / "evaluation/evaluation.parquet", tables.EVALUATION)
        if row["policy"] == "bc"
    ]
    gaps = sorted(
        (round(g, 2) for row in rows if (g := row["band_gap"]) is not None and round(g, 2) >= 1), reverse=True
    )
    assert seen["errors"] == []
    assert (seen["all"], seen["drawn"], seen["bc"]) == ("400 rows", 100, "80 of 400 rows")
    assert (seen["bc_above_1"], seen["gaps"]) == (f"{len(gaps)} of 400 rows", gaps)
    assert (seen["sort"], seen["nothing"], seen["zoomed"]) == ("descending", "Nothing fits these filters.", True)
    assert seen["theme"] in ("dark", "light")


@pytest.mark.slow
def test_the_papers_size_stays_small(tmp_path: Path) -> None:
    """12 policies on 2,486 skeletons."""
    config = write_results(tmp_path, 4 * 2486, (0,))
    text, _ = report(tmp_path, config)
    assert len(embedded(text, "designs")["policy"]["data"]) == 12 * 2486
    assert len(text.encode()) < 15e6
