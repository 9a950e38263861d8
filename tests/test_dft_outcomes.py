"""Outcomes: the 53 real failing or odd runs, each named by hand after reading it, and 64 production outputs read by ASE."""

from __future__ import annotations

import gzip
import io
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from dft_data import SHARED, needs_shared

from xtalrl.dft.levels import HARTREE_EV, clip_gap, read_xml
from xtalrl.dft.outcomes import Category, Outcome, Run, classify, scf_parse

FAILURES = SHARED / "pw_failures"
OUTPUTS = SHARED / "pw_outputs"

# Folder → outcome, energy in Ry and gap in eV as printed (None: not printed, or not to be believed).
EXPECTED: dict[str, tuple[Outcome, float | None, float | None]] = {
    "01_odd_electrons_fixed_nspin1": (Outcome.CHARGE_WRONG, None, None),
    "02_odd_retry_nspin2_totmag1": (Outcome.CONVERGED, -95.27132874, -4.1321),
    "03_odd_nspin2_totmag0": (Outcome.CHARGE_WRONG, None, None),
    "04_odd_nspin2_no_totmag": (Outcome.MAGNETIZATION_MISSING, None, None),
    "04b_odd_nspin2_totmag1_start": (Outcome.CONVERGED, -95.27132960, -4.3407),
    "05_even_metal_fixed": (Outcome.CONVERGED, -67.18109098, -1.6218),
    "06_too_few_bands": (Outcome.TOO_FEW_BANDS, None, None),
    "07_nbnd_equal_nocc": (Outcome.CONVERGED, -22.79417512, None),
    "08_not_converged_maxstep2": (Outcome.NOT_CONVERGED, None, None),
    "09_missing_pseudo_file": (Outcome.PSEUDOPOTENTIAL_NOT_FOUND, None, None),
    "10_missing_pseudo_dir": (Outcome.PSEUDOPOTENTIAL_NOT_FOUND, None, None),
    "11_more_bands_than_pws": (Outcome.MORE_BANDS_THAN_PLANE_WAVES, None, None),
    "12_sigterm_midrun": (Outcome.KILLED, None, None),
    "13_sigkill_midrun": (Outcome.KILLED, None, None),
    "14_timeout_cmd": (Outcome.TIME_LIMIT, None, None),
    "15_bad_namelist_variable": (Outcome.INVALID_INPUT, None, None),
    "16_truncated_input": (Outcome.INVALID_INPUT, None, None),
    "17_empty_input": (Outcome.INVALID_INPUT, None, None),
    "18_missing_positions_card": (Outcome.INVALID_INPUT, None, None),
    "19_nat_too_large": (Outcome.INVALID_INPUT, None, None),
    "20_nan_positions": (Outcome.INVALID_INPUT, None, None),
    "21_atoms_overlap": (Outcome.TIME_LIMIT, None, None),  # Hundreds of iterations at +44,000 Ry; killed.
    "21b_atoms_same_position": (Outcome.ATOMS_OVERLAP, None, None),
    "22_singular_cell": (Outcome.INVALID_CELL, None, None),
    "23_upf_empty": (Outcome.PSEUDOPOTENTIAL_UNREADABLE, None, None),
    "23_upf_html": (Outcome.PSEUDOPOTENTIAL_UNREADABLE, None, None),
    "23_upf_trunc": (Outcome.PSEUDOPOTENTIAL_UNREADABLE, None, None),
    "24_outdir_is_file": (Outcome.SCRATCH_UNUSABLE, None, None),
    "25_outdir_proc": (Outcome.SCRATCH_UNUSABLE, None, None),
    "26_disk_full_1MB": (Outcome.CONVERGED_NOT_SAVED, -22.79417551, 0.6898),  # Exit code 0, JOB DONE., no XML.
    "26_diskfull_24k_default": (Outcome.CONVERGED_NOT_SAVED, -22.79417551, 0.6898),
    "26_diskfull_24k_low": (Outcome.CONVERGED_NOT_SAVED, -22.79417551, 0.6898),
    "26_diskfull_300k_low": (Outcome.CONVERGED_NOT_SAVED, -22.79417551, 0.6898),
    "26b_disk_full_1MB_diskio_low": (Outcome.CONVERGED_NOT_SAVED, -22.79417551, 0.6898),
    "26c_disk_full_1MB_diskio_none": (Outcome.CONVERGED_NOT_SAVED, -22.79417551, 0.6898),
    "27_oom_ulimit_v": (Outcome.KILLED, None, None),  # Hung without a word, not even its header.
    "27b_oom_ulimit_v_late": (Outcome.OUT_OF_MEMORY, None, None),
    "28_nk_gt_np": (Outcome.MPI_FAILED, None, None),
    "29_mpirun_too_many": (Outcome.MPI_FAILED, None, None),
    "30_mpirun2_odd": (Outcome.CHARGE_WRONG, None, None),
    "31_input_not_found": (Outcome.INPUT_NOT_FOUND, None, None),
    "32_stdin_input": (Outcome.CONVERGED, -22.79417528, 0.6906),
    "33_unknown_species": (Outcome.INVALID_INPUT, None, None),
    "34_max_seconds_3": (Outcome.TIME_LIMIT, None, None),
    "35_diag_bad": (Outcome.INVALID_INPUT, None, None),
    "36_cpp_bad_occupations": (Outcome.INVALID_INPUT, None, None),
    "37_conv_nan_like_tinycell": (Outcome.MORE_BANDS_THAN_PLANE_WAVES, None, None),
    "38_stdout_dev_full": (Outcome.OUTPUT_LOST, None, None),
    "39_tot_charge_half": (Outcome.CHARGE_WRONG, None, None),
    "40_even_nspin2_totmag0": (Outcome.CONVERGED, -22.79417434, 0.6904),
    "41_nspin2_totmag_too_big_for_nbnd": (Outcome.TOO_FEW_BANDS, None, None),
    "42_two_jobs_same_outdir_a": (Outcome.CONVERGED, -22.79417528, 0.6906),
    "43_even_nspin2_totmag1": (Outcome.CHARGE_WRONG, None, None),
}


def _run(name: str) -> Run:
    folder = FAILURES / name
    code = (folder / "exit_code.txt").read_text().strip()
    xml = folder / "data-file-schema.xml"
    crash = folder / "CRASH"
    return Run(
        stdout=(folder / "pw.out").read_text(errors="replace"),
        stderr=(folder / "pw.err").read_text(errors="replace"),
        exit_code=int(code.split()[-1]),
        timed_out="hung" in code,
        xml=xml if xml.exists() else None,
        crash=crash.read_text(errors="replace") if crash.exists() else "",
    )


@needs_shared
def test_every_real_failure_is_in_the_table() -> None:
    assert sorted(EXPECTED) == sorted(path.name for path in FAILURES.iterdir())


@needs_shared
@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_run_is_named_and_read(name: str) -> None:
    outcome, energy, gap = EXPECTED[name]
    result = classify(_run(name))
    assert result.outcome is outcome, result
    assert result.total_energy_ry == energy
    assert result.band_gap_raw_ev == (None if gap is None else pytest.approx(gap, abs=2e-4))
    assert result.is_metallic is (None if gap is None else gap < 0)
    if not outcome.usable:
        assert result.detail


@needs_shared
def test_the_xml_gap_is_the_printed_one_wherever_both_exist() -> None:
    compared = 0
    for name, (outcome, energy, gap) in EXPECTED.items():
        xml = FAILURES / name / "data-file-schema.xml"
        if xml.exists() and outcome is not Outcome.OUTPUT_LOST:
            read = read_xml(xml)
            if not outcome.usable:
                assert read is None, name
            else:
                assert read is not None, name
                assert read.total_energy_ry == pytest.approx(energy, abs=1e-8), name
                assert read.band_gap_raw_ev == (None if gap is None else pytest.approx(gap, abs=2e-4)), name
                compared += 1
    assert compared == 7


@needs_shared
def test_production_outputs_agree_with_ase() -> None:
    from ase.io.espresso import read_espresso_out
    from ase.units import create_units

    rydberg = create_units("2006")["Ry"]  # ASE's reader has the constants of pw.x.

    files = sorted(OUTPUTS.glob("*.pwo.gz"))
    parsed = list(scf_parse(files, jobs=2))
    assert len(parsed) == 64
    assert [row["file"] for row in parsed] == [str(path) for path in files]
    outcomes = {row["outcome"] for row in parsed}
    assert outcomes == {"converged", "converged_not_saved"}
    for row, path in zip(parsed, files, strict=True):
        text = gzip.decompress(path.read_bytes()).decode()
        assert (row["outcome"] == "converged") == ("JOB DONE" in text)
        if row["outcome"] == "converged":
            atoms = next(read_espresso_out(io.StringIO(text)))
            assert row["total_energy_ry"] * rydberg == pytest.approx(atoms.get_potential_energy(), rel=1e-9)


@needs_shared
def test_the_gap_of_production_outputs_follows_from_their_bands() -> None:
    """Independent of the printed levels: bands of every k point, with half the electrons filling the lowest."""
    checked = 0
    for row in scf_parse(sorted(OUTPUTS.glob("*.pwo.gz"))):
        text = gzip.decompress(Path(row["file"]).read_bytes()).decode()
        filled = round(float(re.search(r"number of electrons\s+=\s+([\d.]+)", text)[1])) // 2  # type: ignore[index]
        blocks = re.findall(r"bands \(ev\):\s*\n\s*\n((?:\s+[-\d. ]+\n)+)", text)
        bands = [[float(word) for word in re.findall(r"-?\d+\.\d{4}", block)] for block in blocks]
        if not bands or row["band_gap_raw_ev"] is None:
            continue
        gap = min(levels[filled] for levels in bands) - max(levels[filled - 1] for levels in bands)
        assert row["band_gap_raw_ev"] == pytest.approx(gap, abs=2e-4), row["file"]
        checked += 1
    assert checked > 40


@needs_shared
def test_scf_parse_tells_the_spin_or_leaves_it_open() -> None:
    names = sorted(EXPECTED)
    told = {}
    for name, row in zip(names, scf_parse([FAILURES / name / "pw.out" for name in names]), strict=True):
        asked = re.search(r"nspin\s*=\s*(\d)", (FAILURES / name / "pw.in").read_text())
        assert row["nspin"] in (None, int(asked[1]) if asked else 1), name
        told[row["outcome"]] = row["nspin"]
    assert told["converged"] in (1, 2)
    assert list(row) == [
        "file", "outcome", "total_energy_ry", "band_gap_ev", "band_gap_raw_ev", "nspin", "total_magnetization", "reason",
    ]  # fmt: skip


@needs_shared
@pytest.mark.parametrize("harm", ["cut off", "garbage", "not converged"])
def test_a_damaged_xml_is_no_success(tmp_path, harm: str) -> None:
    """Exit code 0 and `JOB DONE.` are not enough: a late disk failure leaves both."""
    run = _run("32_stdin_input")
    assert run.xml is not None
    text = run.xml.read_text()
    damaged = {
        "cut off": text[: len(text) // 2],
        "garbage": text.replace("<etot>-1.1", "<etot>*******"),
        "not converged": text.replace("<convergence_achieved>true", "<convergence_achieved>false"),
    }[harm]
    assert damaged != text
    (tmp_path / "x.xml").write_text(damaged)
    result = classify(replace(run, xml=tmp_path / "x.xml"))
    assert (result.outcome, result.detail) == (Outcome.CONVERGED_NOT_SAVED, "the XML is cut off or did not converge")
    assert classify(replace(run, xml=None)).outcome is Outcome.CONVERGED_NOT_SAVED
    assert classify(replace(run, exit_code=1)).outcome is Outcome.CONVERGED_NOT_SAVED


@needs_shared
def test_text_and_xml_that_differ_are_told(tmp_path) -> None:
    run = _run("32_stdin_input")
    assert run.xml is not None
    (tmp_path / "x.xml").write_text(run.xml.read_text().replace("<etot>-1.139708764047863e1", "<etot>-1.139708e1"))
    result = classify(replace(run, xml=tmp_path / "x.xml"))
    assert result.outcome is Outcome.CONVERGED
    assert result.detail == "the XML's energy -22.79416000 Ry differs from the printed -22.79417528 Ry"
    run = replace(run, stdout=run.stdout.replace("6.3061    6.9967", "6.2061    6.9967"))
    assert "differs from the printed" in classify(run).detail


def test_a_restarted_run_counts_its_iterations_on() -> None:
    lines = [
        f"     iteration #{n:3d}     ecut=    30.00 Ry\n     estimated scf accuracy    <  0.1 Ry\n" for n in range(1, 6)
    ]
    end = "     Maximum CPU time exceeded\n     Calculation stopped in scf loop at iteration #     5\n"
    whole, later = (classify(Run("     Program PWSCF\n" + "".join(part) + end, "", 2)) for part in (lines, lines[3:]))
    assert whole == later
    assert whole.detail == "5 iterations done"
    assert classify(Run("     Program PWSCF\n" + lines[0] + end, "", 2)).detail == "1 iteration done"


@pytest.mark.parametrize(
    ("routine", "message", "outcome"),
    [  # Quoted from pw.x 7.2 restarted on torn files, and from pw.x 6.7 on a full disk.
        ("davcio", 'error reading file "./out/pw.wfc"', Outcome.SCRATCH_UNUSABLE),
        ("read_rhog", "error reading file ./out/pw.save/charge-density", Outcome.SCRATCH_UNUSABLE),
        ("write_rhog", "error writing file ./out/pw.save/charge-density", Outcome.DISK_FULL),
    ],
)
def test_a_file_that_cannot_be_read_is_no_full_disk(routine: str, message: str, outcome: Outcome) -> None:
    text = f"     Program PWSCF v.7.2 starts\n %%%\n     Error in routine {routine} (1):\n     {message}\n %%%\n     stopping ...\n"
    assert classify(Run(text, "", 1)).outcome is outcome


def test_an_output_from_before_the_end_is_not_a_result() -> None:
    banner = "     Program PWSCF v.7.2 starts on today\n"
    assert classify(Run(banner, "", exit_code=0)).outcome is Outcome.OUTPUT_LOST
    assert classify(Run("", "sh: pw.x: not found", exit_code=127)).outcome is Outcome.ENGINE_FAILED
    assert classify(Run(banner, "", exit_code=-11)).outcome is Outcome.KILLED
    assert classify(Run(banner, "", exit_code=137)).outcome is Outcome.KILLED
    unknown = classify(
        Run(banner + " %%%\n     Error in routine nonsense (7):\n     no such thing\n %%%\n", "", exit_code=1)
    )
    assert unknown.outcome is Outcome.STOPPED
    assert unknown.detail == "nonsense: no such thing"


@pytest.mark.parametrize(("name", "gap", "metal"), [("naf", 6.0925, False), ("aluminium", None, True)])
def test_a_smeared_output_shows_its_gap(root: Path, name: str, gap: float | None, metal: bool) -> None:
    """Real runs of pw.x 6.7 with Gaussian smearing, cut by hand; the XML of NaF's gives 6.0925 eV, too."""
    result = classify(Run((root / f"tests/fixtures/smeared/{name}.out").read_text(), "", exit_code=None))
    assert (result.smearing, result.band_gap_raw_ev, result.is_metallic) == (True, gap, metal)
    assert bool(result.detail) is metal


def test_a_smeared_output_without_levels_says_why_it_has_no_gap() -> None:
    text = "the Fermi energy is     6.1000 ev\n!    total energy              =     -22.66052781 Ry\n"
    result = classify(Run(text + "convergence has been achieved in   4 iterations\nJOB DONE.", "", exit_code=None))
    assert (result.outcome, result.band_gap_raw_ev) == (Outcome.CONVERGED, None)
    assert "levels were not printed" in result.detail


# Levels in Hartree and occupations of each k point; with two spins those of spin up first.
OCCUPATIONS = {
    "an insulator": (0, [("0 1 2", "1 1 0"), ("0 .5 1.7", "1 1 0")], 0.7),
    "one slightly smeared": (0, [("0 1 2", "1 .999 .001"), ("0 .5 1.7", "1 1.01 -.01")], 0.7),
    "bands that cross the Fermi energy": (0, [("0 1 2", "1 1 0"), ("0 1.4 1.7", "1 0 0")], None),
    "a degenerate level": (0, [("0 1 1", "1 .5 .5")], None),
    "a magnetic insulator": (3, [("0 1 2 0 1.2 3", "1 1 0 1 0 0"), ("0 1 2 0 1.2 3", "1 1 0 1 0 0")], 0.2),
    "a half-metal": (2, [("0 1 0 1", "1 0 1 1"), ("0 1 0 1", "1 1 1 0")], None),
    "overlapping spins of an imposed moment": (2, [("0 1 0 .8", "1 1 1 0")], -0.2),
    "no empty band": (0, [("0 1", "1 1")], None),
}


@pytest.mark.parametrize("case", OCCUPATIONS)
def test_the_gap_follows_from_levels_and_occupations(tmp_path: Path, case: str) -> None:
    up, points, gap = OCCUPATIONS[case]
    energies = "".join(
        f"<ks_energies><eigenvalues>{levels}</eigenvalues><occupations>{occupations}</occupations></ks_energies>"
        for levels, occupations in points
    )
    (tmp_path / "x.xml").write_text(
        "<x><output><convergence_info><scf_conv><convergence_achieved>true</convergence_achieved></scf_conv></convergence_info>"
        f"<total_energy><etot>-1</etot></total_energy><band_structure>{f'<nbnd_up>{up}</nbnd_up>' if up else ''}{energies}"
        "</band_structure></output></x>"
    )
    read = read_xml(tmp_path / "x.xml")
    assert read is not None
    assert read.band_gap_raw_ev == (None if gap is None else pytest.approx(gap * HARTREE_EV))


def test_only_usable_outcomes_have_a_verdict_on_metals() -> None:
    assert {outcome for outcome in Outcome if outcome.usable} == {Outcome.CONVERGED, Outcome.CONVERGED_NOT_SAVED}
    assert all(outcome.sentence.endswith(".") and isinstance(outcome.category, Category) for outcome in Outcome)
    assert [clip_gap(gap) for gap in (None, -0.5, 0.0, 1.5)] == [None, 0.0, 0.0, 1.5]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_file_that_cannot_be_read_does_not_stop_the_others(tmp_path, jobs: int) -> None:
    whole = gzip.compress(b"     Program PWSCF v.7.2 starts\n" * 100)
    for name, content in {"broken": b"not gzip", "cut": whole[:-20], "whole": whole}.items():
        (tmp_path / f"{name}.pwo.gz").write_bytes(content)
    names = ["broken.pwo.gz", "missing.pwo", "cut.pwo.gz", "whole.pwo.gz"]
    rows = list(scf_parse([tmp_path / name for name in names], jobs))
    assert [Path(row["file"]).name for row in rows] == names
    assert [row["outcome"] for row in rows] == [None, None, None, "killed"]
    assert [row["reason"][:20] for row in rows[:3]] == [
        "cannot be read (Not ", "cannot be read ([Err", "cannot be read (Comp",
    ]  # fmt: skip
    assert len({tuple(row) for row in rows}) == 1, "the same keys"


def test_the_documents_list_every_outcome_as_it_is(root) -> None:
    text = (root / "docs/dft.md").read_text()
    table = [
        line for line in text.splitlines() if re.match(r"\| `\w+` \| (success|physics|input|environment) \|", line)
    ]
    assert table == [f"| `{outcome}` | {outcome.category} | {outcome.sentence} |" for outcome in Outcome]


HEADER = "     Program PWSCF v.6.7MaX starts on  1Jan2026 at  0: 0: 0\n"


@pytest.mark.parametrize(
    ("stdout", "stderr", "exit_code", "outcome"),
    [
        (HEADER, "", 9, Outcome.KILLED),  # MPICH's Hydra: SIGKILL
        (HEADER, "", 132, Outcome.KILLED),  # SIGILL under Open MPI
        (HEADER, "", 152, Outcome.KILLED),  # SIGXCPU
        (HEADER, "Fortran runtime error: End of file", 2, Outcome.KILLED),
        (HEADER, "Stale file handle", 1, Outcome.KILLED),
        (HEADER, "", 1, Outcome.KILLED),
    ],
)
def test_what_ends_without_a_box_is_the_machines(stdout: str, stderr: str, exit_code: int, outcome: Outcome) -> None:
    result = classify(Run(stdout, stderr, exit_code))
    assert result.outcome is outcome
    assert result.outcome.category is Category.ENVIRONMENT
    assert result.detail


def box(routine: str, message: str) -> str:
    bar = " " + "%" * 78
    return f"{HEADER}\n{bar}\n     Error in routine {routine} (1):\n     {message}\n{bar}\n\n     stopping ...\n"


@pytest.mark.parametrize(
    ("routine", "message"),
    [
        ("fft_type_set", "there are processes with no planes. Use pencil decomposition (-pd .true.)"),
        ("divide_et_impera", "some nodes have no k-points"),
        ("check para diag", "some nodes have no k-points"),
        ("diag", "too few bands for the diagonalization group"),
        ("pcegterg", "Too few bands for required ndiag"),
    ],
)
def test_a_parallel_layout_is_the_installations(routine: str, message: str) -> None:
    result = classify(Run(box(routine, message), "", 1))
    assert result.outcome is Outcome.MPI_FAILED
    assert routine in result.detail


def test_a_launcher_that_only_waits_is_no_time_limit() -> None:
    waiting = Run(
        "", "srun: Job 7 step creation temporarily disabled, retrying (Requested nodes are busy)", None, timed_out=True
    )
    result = classify(waiting)
    assert result.outcome.category is Category.ENVIRONMENT
    assert "step creation temporarily disabled" in result.detail
    assert classify(Run(HEADER, "", None, timed_out=True)).outcome is Outcome.TIME_LIMIT


# The last run of a file, and its last SCF, tell. Real runs of pw.x 6.7 (H2, and H noncollinear) in tests/fixtures/ends, cut by hand.
CPU_TIME = "     Maximum CPU time exceeded\n     Calculation stopped in scf loop at iteration #     1\n   JOB DONE.\n"
ENDS: dict[str, tuple[list[str], str, float | None, str]] = {
    "bands": (["nscf"], "bands_done", None, "Not an SCF"),
    "bands, killed": (["nscf", "|End of band"], "killed", None, "in the middle"),
    "hybrid": (["hybrid"], "converged", -2.11354471, ""),
    "hybrid, killed before its exchange": (["hybrid", "|EXX: now go back"], "killed", None, "in the middle"),
    "hybrid, killed after an inner SCF": (["hybrid", "|!!"], "killed", None, "of SCF 3 of the run"),
    "hybrid, out of steps": (["hybrid", "|!!", "     Calculation (EXX) stopped after iteration #     3\n   JOB DONE.\n"],
                             "not_converged", None, "(EXX) stopped after iteration"),
    "hybrid, out of time": (["hybrid", "|!!", CPU_TIME], "time_limit", None, "of SCF 3 of the run"),
    "relaxation": (["relax"], "converged", -2.22303524, ""),
    "relaxation, out of steps": (["relax_steps"], "converged", -2.22243856, "maximum number of steps"),
    "relaxation, killed in its last SCF": (["relax", "|!    total energy"], "killed", None, "of SCF 3 of the run"),
    "relaxation, out of time in its last SCF": (["relax", "|!    total energy", CPU_TIME], "time_limit", None, "of SCF 3 of the run"),
    "failed, then right": (["not_converged", "relax"], "converged", -2.22303524, ""),
    "right, then failed": (["relax", "not_converged"], "not_converged", None, "NOT achieved"),
    "right, then killed": (["relax", "hybrid", "|EXX: now go back"], "killed", None, "in the middle"),
    "noncollinear": (["noncollinear"], "converged", -0.95541343, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_every_kind_of_output_says_how_it_ended(root: Path, tmp_path: Path, case: str) -> None:
    parts, outcome, energy, reason = ENDS[case]
    text = ""
    for part in parts:
        if part.startswith("|"):
            text = text[: text.rindex(part[1:])]
        else:
            text += part if part.endswith("\n") else (root / f"tests/fixtures/ends/{part}.out").read_text()
    contents = {
        label: "".join(f"{label}{line}\n" for line in text.splitlines())
        for label in ("0: ", " 0: ", "[1,0]<stdout>:", "[0] ", "[prterun-host-123@1,0]<stdout>: ", "[job1,0]<stdout>: ")
    }
    for name, content in enumerate([text, text.replace("\n", "\r\n"), *contents.values()]):
        (tmp_path / str(name)).write_text(content, newline="")
        (row,) = scf_parse([tmp_path / str(name)])
        assert (row["outcome"], row["total_energy_ry"]) == (outcome, energy), row
        assert reason in row["reason"] if reason else not row["reason"]
        assert row["nspin"] == (4 if case == "noncollinear" else 1)
        assert row["total_magnetization"] == (1.0 if case == "noncollinear" else None)


def test_the_energy_of_a_hybrid_is_that_of_its_exchange_however_the_functional_was_told(root: Path) -> None:
    text = (root / "tests/fixtures/ends/hybrid.out").read_text()
    silent = re.sub(r".*EXX-fraction.*\n", "", text)
    assert silent != text
    assert classify(Run(silent, "", None)).total_energy_ry == -2.11354471


@pytest.mark.parametrize("name", ["hybrid", "relax", "nscf", "noncollinear"])
def test_an_output_that_was_cut_off_anywhere_has_no_wrong_energy(root: Path, name: str) -> None:
    text = (root / f"tests/fixtures/ends/{name}.out").read_text()
    final = re.findall(r"^!!" if name == "hybrid" else r"^!", text, re.M)
    energies = (
        {float(word) for word in re.findall(rf"^{final[0]} +total energy += +(\S+) Ry", text, re.M)} if final else set()
    )
    for end in range(0, len(text), 7):
        result = classify(Run(text[:end], "", None))
        assert result.total_energy_ry in energies | {None}, text[:end][-200:]
        assert (result.outcome in (Outcome.CONVERGED, Outcome.BANDS_DONE)) <= ("JOB DONE." in text[:end])
        assert result.outcome.usable == (result.total_energy_ry is not None)


@pytest.mark.parametrize(
    "printed", ["*****************", "              NaN", "         Infinity", "      -2,22303524"]
)
def test_an_energy_that_is_no_number_is_the_machines(root: Path, printed: str) -> None:
    text = (root / "tests/fixtures/ends/relax.out").read_text().replace("      -2.22303524", printed)
    result = classify(Run(text, "", None))
    assert (result.outcome, result.total_energy_ry) == (Outcome.NO_ENERGY, None)
    assert result.outcome.category is Category.ENVIRONMENT
    assert printed.strip() in result.detail


def test_spins_with_a_fermi_energy_each_have_a_gap() -> None:
    """A moment imposed on a smeared run: levels of spin up at 2.5 and 6.0 eV, of spin down at 1.0 and 4.0 eV."""
    bands = "k = 0.0000 0.0000 0.0000 (   243 PWs)   bands (ev):\n\n    {:.4f}   {:.4f}\n\n"
    text = (
        "     Program PWSCF v.7.2 starts\n     number of k points=     1  gaussian smearing, width (Ry)=  0.0100\n"
        "     Self-consistent Calculation\n ------ SPIN UP ------------\n\n" + bands.format(2.5, 6.0)
        + " ------ SPIN DOWN ----------\n\n" + bands.format(1.0, 4.0)
        + "     the spin up/dw Fermi energies are     3.0000    3.5000 ev\n\n"
        "!    total energy              =      -2.22243856 Ry\n     convergence has been achieved in   4 iterations\n   JOB DONE.\n"
    )  # fmt: skip
    assert classify(Run(text, "", None)).band_gap_raw_ev == pytest.approx(1.5)
    printed = text.replace("4.0000\n\n", "4.0000\n\n     occupation numbers \n     1.0000   0.4000\n\n")
    assert classify(Run(printed, "", None)).band_gap_raw_ev is None
    assert "partly filled" in classify(Run(printed, "", None)).detail


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"   2.5000": "      NaN"}, "something else than numbers"),
        ({"   2.5000": " ********"}, "something else than numbers"),
        ({"gaussian smearing, width (Ry)=  0.0100": ""}, "the width of the smearing was not printed"),
        ({"gaussian smearing, width (Ry)=  0.0100": "Tetrahedron method (optimized)"}, None),
    ],
)
def test_a_gap_is_read_only_where_all_levels_and_the_width_are_there(
    changes: dict[str, str], reason: str | None
) -> None:
    bands = "k = 0.0000 0.0000 0.0000 (   243 PWs)   bands (ev):\n\n   -5.0000   {:.4f}   {:.4f}\n\n"
    text = (
        "     Program PWSCF v.7.2 starts\n     number of k points=     2  gaussian smearing, width (Ry)=  0.0100\n"
        "     Self-consistent Calculation\n\n" + bands.format(2.05, 8.5) + bands.format(2.5, 4.6)
        + "     the Fermi energy is     3.1000 ev\n\n"
        "!    total energy              =      -2.22243856 Ry\n     convergence has been achieved in   4 iterations\n   JOB DONE.\n"
    )  # fmt: skip
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    result = classify(Run(text, "", None))
    assert result.band_gap_raw_ev == (None if reason else pytest.approx(2.1))
    assert (reason or "") in result.detail


def test_a_hybrid_that_lost_its_head_is_one_all_the_same(root: Path) -> None:
    text = (root / "tests/fixtures/ends/hybrid.out").read_text()
    killed = text[text.index("Self-consistent Calculation") : text.index("EXX: now go back to refine")]
    result = classify(Run(f"{killed}EXX: now go back to refine exchange calculation\n", "", None))
    assert (result.outcome.usable, result.total_energy_ry) == (False, None)


@pytest.mark.parametrize("harm", ["folder", "pipe", "binary", "other", "empty", "prose"])
def test_what_is_no_output_at_all_has_a_reason(root: Path, tmp_path: Path, harm: str) -> None:
    path = tmp_path / "x.pwo"
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "binary": lambda: path.write_bytes(bytes(range(256)) * 9),
        "other": lambda: path.write_text("Program GIPAW\n"),
        "empty": lambda: path.write_text("\n"),
        "prose": lambda: path.write_text((root / "README.md").read_text()),
    }[harm]()
    fine = root / "tests/fixtures/ends/relax.out"
    rows = list(scf_parse([path, fine]))
    assert rows[0]["outcome"] is None
    said = {"other": "is not an output of pw.x", "prose": "is not an output of pw.x", "empty": "is empty"}
    assert rows[0]["reason"].startswith(said.get(harm, "cannot be read"))
    assert rows[1]["outcome"] == "converged"


QUANTUM_ESPRESSO = os.environ.get("XTALRL_QUANTUM_ESPRESSO", "")


@pytest.mark.skipif(
    not QUANTUM_ESPRESSO, reason="XTALRL_QUANTUM_ESPRESSO names no checkout of Quantum ESPRESSO (QEF/q-e)"
)
def test_the_outputs_of_quantum_espressos_own_tests() -> None:
    """All ended well: none was killed, the spin is that of the input, the energy the last one marked, and a gap or a reason why none."""
    paths = {
        path: path.read_text(errors="replace") for path in Path(QUANTUM_ESPRESSO).glob("test-suite/*/benchmark.out.*")
    }
    paths = {path: text for path, text in paths.items() if "Program PWSCF" in text}
    assert len(paths) > 300
    for (path, text), row in zip(paths.items(), scf_parse(paths), strict=True):
        ends = {"bands_done"} if "Band Structure Calculation" in text else {"converged"}
        assert row["outcome"] in ({"not_converged", "time_limit"} if "Calculation (EXX) stopped" in text else ends), row
        source = path.with_name(re.sub(r"benchmark\.out\.[^=]*inp=|\.args=.*", "", path.name))
        if source.is_file():
            asked = re.sub(r"!.*", "", source.read_text())
            nspin = re.search(r"nspin\s*=\s*(\d)", asked)
            noncollinear = re.search(r"noncolin\s*=\s*\.true", asked, re.I)
            assert row["nspin"] == (4 if noncollinear else int(nspin[1]) if nspin else 1), row
        if row["outcome"] == "converged":
            energies = re.findall(r"^!!? +total energy += +(\S+) Ry", text, re.M)
            assert row["total_energy_ry"] == float(energies[-1]), row
            assert row["band_gap_raw_ev"] is not None or row["reason"], row


def test_a_magnetization_that_is_no_number_is_not_known(root: Path) -> None:
    text = (root / "tests/fixtures/ends/noncollinear.out").read_text()
    before, printed, after = text.rpartition("total magnetization       =     1.00")
    assert printed
    result = classify(Run(f"{before}total magnetization       =*********{after}", "", None))
    assert (result.outcome, result.total_magnetization) == (Outcome.CONVERGED, None)
