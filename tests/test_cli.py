from __future__ import annotations

import gzip
import json
import shlex
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from test_dft_exchange import fill, record
from typer.testing import CliRunner

from xtalrl import __version__
from xtalrl.commands import main
from xtalrl.commands.cli import app
from xtalrl.config import load
from xtalrl.provenance import write_record
from xtalrl.workflow import as_typed

OUTPUT = """
     Program PWSCF v.6.7MaX starts on 21Nov2026 at 21: 0: 0

     number of electrons       =         8.00
     number of Kohn-Sham states=            8
     highest occupied, lowest unoccupied level (ev):     6.2012    6.8903
!    total energy              =     -15.84461382 Ry
     convergence has been achieved in   8 iterations
   JOB DONE.
"""


@pytest.fixture
def cli(root: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(root)
    return CliRunner()


def test_without_its_packages_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "xtalrl.commands.cli")
    with pytest.raises(SystemExit, match=r"'typer' is missing: .* `pip install \"xtalrl\[train,workflow\]\"`"):
        main()


def test_scf_parse_prints_one_json_line_a_file(cli: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "a.pwo").write_text(OUTPUT)
    (tmp_path / "b.pwo.gz").write_bytes(gzip.compress(OUTPUT.replace("   JOB DONE.\n", "").encode()))
    result = cli.invoke(app, ["scf-parse", str(tmp_path / "a.pwo"), str(tmp_path / "b.pwo.gz")])
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first["outcome"] == "converged"
    assert first["total_energy_ry"] == -15.84461382
    assert first["band_gap_ev"] == pytest.approx(0.6891)
    assert second["outcome"] == "converged_not_saved"


def test_scf_parse_names_a_file_that_is_not_there(cli: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "a.pwo").write_text(OUTPUT)
    result = cli.invoke(app, ["scf-parse", "nowhere.pwo", str(tmp_path / "a.pwo")])
    assert result.exit_code == 1
    missing, read = (json.loads(line) for line in result.stdout.splitlines())
    assert (missing["outcome"], read["outcome"]) == (None, "converged")
    assert "ERROR: 1 of 2 are not outputs of pw.x, plain or .gz:\nnowhere.pwo cannot be read" in result.stderr


def test_scf_parse_names_a_file_that_is_no_output_of_pw_x(cli: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "a.pwo").write_text(OUTPUT)
    result = cli.invoke(app, ["scf-parse", "README.md", str(tmp_path / "a.pwo")])
    assert result.exit_code == 1
    assert [json.loads(line)["outcome"] for line in result.stdout.splitlines()] == [None, "converged"]
    assert "ERROR: 1 of 2 are not outputs of pw.x, plain or .gz:\nREADME.md is not an output of pw.x" in result.stderr


def test_validity_reads_standard_input(cli: CliRunner) -> None:
    result = cli.invoke(app, ["validity", "--rule", "cdvae-smact14"], input="NaCl\n\nNaCl2\n")
    assert result.stdout.splitlines() == ["NaCl\tcdvae-smact14\tvalid", "NaCl2\tcdvae-smact14\tinvalid"]


def test_validity_judges_every_line(cli: CliRunner) -> None:
    result = cli.invoke(app, ["validity", "--rule", "cdvae-smact14"], input="NaCl\nXx2\nMgO\n")
    assert result.exit_code == 1
    assert [line.split("\t")[2] for line in result.stdout.splitlines()] == ["valid", "unreadable", "valid"]
    assert "Not a formula (1):\nline 2: 'Xx2'" in result.stderr


def test_validity_of_what_editors_and_typos_leave(cli: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "marked.txt").write_text("MgO\nNaCl\n", encoding="utf-8-sig")
    assert cli.invoke(app, ["validity", "--rule", "cdvae-smact14", str(tmp_path / "marked.txt")]).output.splitlines() == [
        "MgO\tcdvae-smact14\tvalid", "NaCl\tcdvae-smact14\tvalid",
    ]  # fmt: skip
    assert "valid" in cli.invoke(app, ["validity"], input="\ufeffMgO\n").stdout
    huge = cli.invoke(app, ["validity"], input=f"MgO\nC1e400\nC{'9' * 5000}\nNaCl\n")
    assert "NaCl\t" in huge.stdout and "C1e400\tcdvae-smact14\tunreadable" in huge.stdout
    assert "Not a formula (2):" in huge.stderr and len(huge.stderr) < 500
    (tmp_path / "latin.txt").write_bytes(b"NaCl\n\xfc\nMgO\n")
    latin = cli.invoke(app, ["validity", "--rule", "cdvae-smact14", str(tmp_path / "latin.txt")])
    assert [line.split("\t")[-1] for line in latin.stdout.splitlines()[:3]] == ["valid", "unreadable", "valid"]
    deep = cli.invoke(app, ["validity"], input=f"{'(' * 100_000}Na{')' * 100_000}\nNa0Cl\n")
    assert {line.split("\t")[-1] for line in deep.stdout.splitlines()} == {"unreadable"}
    empty = cli.invoke(app, ["validity"], input="\n \n")
    assert empty.exit_code == 1 and "Standard input holds no formula: give one per line" in empty.stderr


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "command",
    [
        "predict x.cif --gap", "predict x.cif --gap 1 --window", "predict x.cif --gap-from", "design x.cif --gap",
        "export x.csv --gap-from", "export x.csv --max-hull", "evaluate x.zip --target",
    ],
)  # fmt: skip
def test_what_is_not_finite_is_no_option(cli: CliRunner, command: str, number: str) -> None:
    answer = cli.invoke(app, [*command.split(), number])
    assert answer.exit_code == 1, answer.output
    assert f"{command.split()[-1]} is {number}: give a finite number." in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "given", "expected"),
    [
        (["--rule", "smact"], "NaCl", "'smact' is not a validity rule; there are: cdvae-smact14"),
        ([], "NaCl\nXx2", "line 2"),
        (["MgO"], "", "MgO cannot be read (No such file or directory)"),
    ],
)
def test_validity_answers_a_mistake_with_a_sentence(
    cli: CliRunner, arguments: list[str], given: str, expected: str
) -> None:
    result = cli.invoke(app, ["validity", *arguments], input=given)
    assert result.exit_code == 1
    assert expected in result.output


def test_summary_before_the_run_says_how_to_look(cli: CliRunner, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"results: {tmp_path}\n")
    result = cli.invoke(app, ["summary", "--configfile", str(config)])
    assert result.exit_code == 1
    assert "`xtalrl status` shows how far the run is" in result.output


def test_status_of_a_run_that_has_not_begun(cli: CliRunner, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"results: {tmp_path / 'results'}\ncache: {tmp_path / 'cache'}\n")
    result = cli.invoke(app, ["status", "--json", "--configfile", str(config)])
    stages = json.loads(result.stdout)
    assert {stage["state"] for stage in stages.values()} == {"waiting"}
    assert list(stages)[:4] == ["structures", "scf", "references", "labels"]


def test_doctor_names_what_is_missing_and_the_command_that_mends_it(
    cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("MP_API_KEY", raising=False)
    config = tmp_path / "config.yaml"
    config.write_text(f"results: {tmp_path / 'results'}\ncache: {tmp_path / 'cache'}\nstructures: {{source: demo}}\n")
    fresh = cli.invoke(app, ["doctor", "--configfile", str(config)], env={"COLUMNS": "300"})
    assert fresh.exit_code == 0
    assert "the embedded pw.x is fetched at the first run" in fresh.output
    with config.open("a") as file:
        file.write("dft: {command: pw-of-mine.x}\n")
    result = cli.invoke(app, ["doctor", "--configfile", str(config)], env={"COLUMNS": "300"})
    assert result.exit_code == 1
    assert "pw-of-mine.x" in result.output
    assert "sbatch is not on PATH" in result.output
    assert "MP_API_KEY is not set" in result.output
    assert "snakemake" in result.output


@pytest.mark.parametrize(
    "error", [ValueError("odd"), OSError(5, "Input/output error", "x"), KeyError("gone"), RecursionError()]
)
def test_doctor_never_ends_in_a_traceback(
    cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from xtalrl.commands import doctor

    def broken(*_: object, **__: object) -> object:
        raise error

    for name in [name for name in vars(doctor) if name.startswith("_check_")]:
        monkeypatch.setattr(doctor, name, broken)
    config = tmp_path / "config.yaml"
    config.write_text(f"results: {tmp_path / 'results'}\n")
    result = cli.invoke(app, ["doctor", "--configfile", str(config)], env={"COLUMNS": "300"})
    assert result.exit_code == 1
    assert result.output.count("cannot be checked") == 10


def test_doctor_on_damaged_files(cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The family's record, the engine's and a data set that are not files, and results that are one."""
    monkeypatch.setenv("PATH", "/nonexistent")
    (tmp_path / "results").write_text("a file")
    for folder in ("cache/families/sssp-1.3.0-efficiency/family.json", "cache/engine/engine.json", "data/train.csv"):
        (tmp_path / folder).mkdir(parents=True)
    config = tmp_path / "config.yaml"
    config.write_text(f"results: {tmp_path}/results\ncache: {tmp_path}/cache\nstructures: {{path: {tmp_path}/data}}\n")
    result = cli.invoke(app, ["doctor", "--configfile", str(config)], env={"COLUMNS": "300"})
    assert result.exit_code == 1, result.exception
    assert not isinstance(result.exception, OSError)
    assert "cannot be written (File exists)" in result.output


def test_an_export_of_the_cache_into_an_impossible_place(cli: CliRunner, tmp_path: Path) -> None:
    fill(tmp_path / "cache", record())
    (tmp_path / "file").write_text("")
    config = tmp_path / "config.yaml"
    config.write_text(f"cache: {tmp_path}/cache\n")
    for place in ("file/x.jsonl", "file/y/x.parquet", "n" * 300 + ".jsonl", "cache.parquet/"):
        (tmp_path / "cache.parquet").mkdir(exist_ok=True)
        result = cli.invoke(app, ["cache", "export", str(tmp_path / place), "--configfile", str(config)])
        assert result.exit_code == 1
        assert "ERROR: " in result.output, result.exception
    assert (tmp_path / "file").read_text() == ""


def test_evaluate_prints_the_command_and_runs_it(
    cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "My crystals").mkdir()
    (tmp_path / "My crystals/a.cif").write_text("")
    ran: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda command: ran.append(command) or CompletedProcess(command, 3))
    result = cli.invoke(app, ["evaluate", str(tmp_path / "My crystals"), "--alone", "--configfile", "config/demo.yaml"])
    assert result.exit_code == 3
    assert shlex.split(result.stdout) == ran[0][2:]
    assert ran[0][:4] == [sys.executable, "-m", "snakemake", "report"]
    settings = dict(item.split("=", 1) for item in ran[0][ran[0].index("--config") + 1 :])
    assert json.loads(settings["external"]) == {"My-crystals": str(tmp_path / "My crystals")}
    assert settings["results"] == "results/demo-My-crystals"
    assert json.loads(settings["evaluation"]) == {"targets_ev": [1.12, 3.0]}, "those of the run"
    assert json.loads(settings["policies"])["targets_ev"] == []


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        (".", "a b/c", "--name 'a b/c' cannot be the name of a set"),
        ("nowhere", "x", "nowhere does not exist: name a CIF, a folder or .zip of CIFs"),
        ("docs", "x", "The folder docs holds no crystals"),
        ("README.md", "x", "README.md is not of a known kind"),
        (".", "bc", "`external.bc` has the name of a policy"),
    ],
)
def test_evaluate_answers_a_mistake_with_a_sentence(cli: CliRunner, path: str, name: str, expected: str) -> None:
    result = cli.invoke(app, ["evaluate", path, "--name", name])
    assert result.exit_code == 1
    assert expected in result.output


def test_init_writes_what_is_not_there_and_nothing_over_it(cli: CliRunner, root: Path, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("results: results/mine\n")
    first = cli.invoke(app, ["init", str(tmp_path)])
    assert "config/config.yaml, which differs from ours" in first.stdout
    assert (tmp_path / "config/config.yaml").read_text() == "results: results/mine\n"
    assert (tmp_path / "profiles/slurm/head.sh").stat().st_mode & 0o111
    assert (tmp_path / "profiles/local/config.yaml").read_bytes() == (root / "profiles/local/config.yaml").read_bytes()
    assert "Wrote" not in cli.invoke(app, ["init", str(tmp_path)]).stdout
    assert "is the checkout" in cli.invoke(app, ["init"]).output
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "config").write_text("mine")
    (blocked / "Snakefile").symlink_to(tmp_path / "nowhere")
    refused = cli.invoke(app, ["init", str(blocked)])
    assert refused.exit_code == 1 and f"{blocked / 'config'} is a file, where a folder is needed" in refused.output
    assert sorted(path.name for path in blocked.iterdir()) == ["Snakefile", "config"]
    (blocked / "config").unlink()
    assert f"Kept   {blocked / 'Snakefile'}, which differs" in cli.invoke(app, ["init", str(blocked)]).output
    assert not (blocked / "Snakefile").exists(), "the link is as it was"


@pytest.mark.parametrize("target", ["-1", "1e300"])
def test_a_target_that_is_no_gap_names_the_option(cli: CliRunner, tmp_path: Path, target: str) -> None:
    (tmp_path / "a.cif").touch()
    refused = cli.invoke(app, ["evaluate", str(tmp_path), "--alone", "--dry-run", "--target", target])
    assert refused.exit_code == 1
    assert f"--target is {float(target):g}: a gap is from 0 to 30 eV." in refused.output


def test_a_configuration_that_is_not_there_is_named_as_it_was_typed(
    cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = cli.invoke(app, ["status", "--configfile", "nope.yaml"])
    assert refused.exit_code == 1 and "The configuration file nope.yaml does not exist" in refused.output


def test_commands_find_the_run_that_is_here(
    cli: CliRunner, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = load(root / "config/config.yaml", root / "config/demo.yaml")
    monkeypatch.chdir(tmp_path)
    assert f"There is no run in {tmp_path}/results." in cli.invoke(app, ["status"]).stderr
    write_record(demo)
    found = cli.invoke(app, ["summary"])
    assert "results/demo is the only run here." in found.stderr
    assert "results/demo/report.html does not exist yet" in found.stderr
    write_record(demo.model_copy(update={"results": "results/other"}))
    several = cli.invoke(app, ["summary"])
    assert several.exit_code == 1
    assert "name one, `--results results/demo` (results/demo, results/other)" in several.stderr
    named = cli.invoke(app, ["status", "--json", "--results", "results/demo"])
    assert json.loads(named.stdout)["train"]["total"] == 5
    nothing = cli.invoke(app, ["summary", "--results", "results/dmeo"])
    assert "results/dmeo holds no run. Runs beside it:" in nothing.stderr
    both = cli.invoke(app, ["summary", "--results", "results/demo", "--configfile", "config/demo.yaml"])
    assert "give one of them" in both.stderr


def test_a_configuration_that_is_not_there_is_said_where_it_was_looked_for(
    cli: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = cli.invoke(app, ["status", "--configfile", "mine.yaml"])
    assert result.exit_code == 1
    assert f"there is no folder config/ in {tmp_path}: `xtalrl init` makes one" in result.stderr
    assert cli.invoke(app, ["status", "--configfile", "config/demo.yaml"]).exit_code == 0, "the one that ships"


def test_the_version_and_the_short_help(cli: CliRunner) -> None:
    assert cli.invoke(app, ["--version"]).stdout == f"xtalrl {__version__}\n"
    assert "--configfile" in cli.invoke(app, ["status", "-h"], env={"COLUMNS": "200"}).stdout


def test_a_command_of_snakemake_is_one_that_works_here(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert as_typed("snakemake all", [Path("a.yaml"), Path("b.yaml")]) == "snakemake all --configfile a.yaml b.yaml"
    monkeypatch.chdir(tmp_path)
    assert as_typed("snakemake all", []) == "xtalrl init && snakemake all"
    assert as_typed("xtalrl status", []) == "xtalrl status"
