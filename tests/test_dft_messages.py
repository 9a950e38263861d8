"""What pw.x, launchers and libraries say when a run fails: every family has its outcome, and what has no name is not physics."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import hypothesis.strategies as st
import pytest
from dft_data import SHARED, needs_shared
from hypothesis import given

from xtalrl.dft import messages
from xtalrl.dft.messages import UNNAMED, name_error
from xtalrl.dft.outcomes import Category, Outcome, Run, classify

HEADER = "     Program PWSCF v.7.2 starts on  1Jan2026 at  0: 0: 0\n"
_BAR = " " + "%" * 78

# At least one message of each family, as pw.x 6.5 to 7.4 has them.
NAMED = """
mpi_failed | fft_type_set | there are processes with no planes. Use pencil decomposition (-pd .true.)
mpi_failed | divide_et_impera | some nodes have no k-points
mpi_failed | set_para_diag | Too few bands for required ndiag
mpi_failed | check_para_diag | Too few bands for required ndiag
mpi_failed | n_plane_waves | No plane waves found: running on too many processors?
mpi_failed | n_plane_waves | Some processors have no plane waves! Wrong input  or too many processors for this job?
mpi_failed | mp_start_pools | invalid number of pools, out of range
mpi_failed | mp_start_images | n. of images must be divisor of nproc
mpi_failed | run_pwscf | image parallelization not allowed
mpi_failed | setup | Gamma-only calculations not allowed with pools
mpi_failed | blk2cyc_redist | nb less than the number of proc
mpi_failed | cyc2blk_zredist | works only with square processor mesh
mpi_failed | mp_startup | No task groups for GPUs
mpi_failed | init_ortho_group | problem with SCALAPACK, wrong no. of task rows
out_of_memory | cegterg | cannot allocate hpsi
out_of_memory | pcegterg | cannot allocate e (host)
out_of_memory | cdiaghg_gpu | cannot allocate work_d
out_of_memory | add_vuspsi_nc | error allocating ps
out_of_memory | fft_buffers | Allocation failed
out_of_memory | rdiaghg_gpu | allocate work_d
out_of_memory | s_psi_k | cannot allocate memory (ps)
killed | fft_scalar_cuFFT: cft_1z_gpu | cufftPlanMany failed
killed | cdiaghg_gpu | cusolverDnZhegvdx failed
killed | cdiaghg | error broadcasting array e
killed | cdiaghg | Called GPU eigensolver without GPU support
killed | fft_scatter | cudaMemcpy2D failed:
killed | fft_scatter | info<>0
killed | bcast_real | error in mpi_bcast 1
killed | zsqmred | in MPI_Comm_split 1
killed | poolrecover | info<>0 in recv
killed | cft_1z | stopped in DftiCreateDescriptor
killed | summary | cannot get device count
pseudopotential_not_found | readpp | file Si.upf not found
pseudopotential_unreadable | readpp | file Si.upf not readable
pseudopotential_unreadable | read_upf_v2::paw | Unknown format of PAW data.
pseudopotential_unreadable | read_pseudo_mesh | Reading pseudo file (R) for Si
pseudopotential_unreadable | scan_end | No PP_MESH block end statement, possibly corrupted file
input_not_found | read_input | opening input file
scratch_unusable | check_tempdir | temporary directory ./out/ cannot be created or accessed
scratch_unusable | create_directory | unable to create directory ./out/pw.save
scratch_unusable | davcio | error reading file "./out/pw.wfc1"
scratch_unusable | read_rhog | error reading file ./out/pw.save/charge-density
scratch_unusable | diropn | error opening ./out/pw.wfc1
scratch_unusable | seqopn | error opening ./out/pw.mix1
scratch_unusable | pw_restart - read_collected_wfc | error reading file
scratch_unusable | read_xml_file | fatal error reading xml file
scratch_unusable | qes_read: scf_convType | n_scf_steps: wrong number of occurrences
disk_full | davcio | error writing file "./out/pw.wfc1"
disk_full | write_rhog | error writing file ./out/pw.save/charge-density
disk_full | save_buffer | cannot write record
charge_wrong | electrons | charge is wrong: smearing is needed
charge_wrong | electrons | charge is wrong
too_few_bands | setup | too few bands
too_few_bands | setup | too few spin up bands
more_bands_than_plane_waves | memory_report | more bands than PWs!
more_bands_than_plane_waves | diag_bands | too many bands, or too few plane waves
magnetization_missing | iosys | fixed occupations and lsda need tot_magnetization
magnetization_missing | setup | spin-polarized system, specify occupations
atoms_overlap | check_atoms | atoms #   1 and #   2 overlap!
atoms_overlap | check_atoms | atoms #   1 and #   2 differ by lattice vector (-1,-1, 0) in crystal axis
invalid_cell | latgen | wrong at for ibrav=0
invalid_cell | ewald | optimal alpha not found
invalid_cell | rgen | too many r-vectors
diagonalization_failed | cdiaghg | S matrix not positive definite
diagonalization_failed | rdiaghg | problems computing cholesky
diagonalization_failed | cdiaghg | eigenvectors failed to converge
diagonalization_failed | c_bands | too many bands are not converged
diagonalization_failed | cdiagh | diagonalization (ZHEEV) failed
diagonalization_failed | pzpotrf | problems computing cholesky decomposition
diagonalization_failed | gram_schmidt_k | vectors are linear dependent
mixing_failed | broyden | factorization
mixing_failed | mix_rho | negative dr2
symmetry_failed | checkallsym | some of the original symmetry operations not satisfied
symmetry_failed | inverse_s | Not a group
symmetry_failed | kpoint_grid | something wrong in the checking algorithm
symmetry_failed | sym_rho_init_shell | lone vector
invalid_input | read_namelists | bad line in namelist &electrons: "x" (error could be in the previous line)
invalid_input | read_namelists | could not find namelist &control
invalid_input | card_kpoints | end of file while reading 4 k points
invalid_input | cell_base_init | ibrav=0: must read cell parameters
invalid_input | system_checkin | ecutwfc out of range
invalid_input | set_occupations | smearing hot unknown
invalid_input | iosys | PPCG diagonalization not supported anymore (Dec. 2024)
invalid_input | setup | Meta-GGA not implemented with USPP/PAW
invalid_input | matching_shortIDs | libxc needed for this functional, but it is not linked
invalid_input | irrek | too many k-points
stopped | zsqmred | something wrong with row 1
stopped | efermig | internal error, cannot bracket Ef
stopped | sym_rho_init | internal error: G-vector distribution failed
stopped | gk_sort | array gk out-of-bounds
stopped | fft_type_set | wrong fft dimensions
stopped | potinit | starting and expected charges differ
stopped | nonsense | no such thing
"""
TABLE = [tuple(part.strip() for part in line.split(" | ")) for line in NAMED.strip().splitlines()]


def box(routine: str, message: str) -> str:
    return f"\n{_BAR}\n     Error in routine {routine} (1):\n     {message}\n{_BAR}\n\n     stopping ...\n"


def crash(routine: str, message: str, task: int = 0) -> str:
    return f"\n{_BAR}\n     task #{task:10d}\n     from {routine} : error #         1\n     {message}\n{_BAR}\n\n"


@pytest.mark.parametrize(("outcome", "routine", "message"), TABLE)
def test_each_family_has_its_outcome(outcome: str, routine: str, message: str) -> None:
    """In the box and in CRASH alike."""
    for run in (
        Run(HEADER + box(routine, message), "", 1),
        Run(HEADER, "", 1, crash=crash(routine, message)),
        Run("", "", 1, crash=crash(routine, message)),
        Run(HEADER, box(routine, message), 1),
    ):
        result = classify(run)
        assert result.outcome == outcome
        assert result.detail.startswith(f"{routine}: {message}")


def test_every_outcome_that_a_message_can_have_is_in_the_table() -> None:
    assert {name for _, name in messages.FAMILIES} == {outcome for outcome, _, _ in TABLE}
    assert {name for _, name in (*messages.FAMILIES, *messages._NOISE)} <= set(Outcome)
    assert Outcome(UNNAMED) is Outcome.STOPPED


def test_only_verdicts_on_the_calculation_are_kept() -> None:
    """What is kept forever is few and named; what has no name is not among it."""
    assert {outcome for outcome, _, _ in TABLE if Outcome(outcome).is_kept} == {
        "charge_wrong", "too_few_bands", "more_bands_than_plane_waves", "magnetization_missing", "atoms_overlap", "invalid_cell",
        "diagonalization_failed", "mixing_failed", "symmetry_failed",
    }  # fmt: skip
    assert Outcome.STOPPED.category is Category.ENVIRONMENT


@needs_shared
def test_crash_says_what_the_box_says() -> None:
    """CRASH files and outputs of real runs of pw.x 6.7."""
    compared = 0
    for path in sorted((SHARED / "pw_failures").glob("*/CRASH")):
        said, printed = (
            messages.crash(path.read_text()),
            messages.boxes((path.parent / "pw.out").read_text(errors="replace")),
        )
        if not printed:
            continue
        assert set(map(name_error, said)) == set(map(name_error, printed)), path
        compared += 1
    assert compared > 15


def test_blanks_around_a_routine_are_not_its_name() -> None:
    """Some routines hand on their name with blanks at both ends, and some names have one inside."""
    for said in (messages.boxes(box("  read_namelists ", "x")), messages.crash(crash("  read_namelists ", "x"))):
        assert said == [("read_namelists", "x")]
    assert messages.boxes(box("fft_scalar_cuFFT: cft_1z_gpu", "x"))[0].routine == "fft_scalar_cuFFT: cft_1z_gpu"


def test_a_torn_box_leaves_the_word_to_crash() -> None:
    """Two processes that print at once, and a box that ends in the middle."""
    said = crash("cdiaghg", "S matrix not positive definite", 0) + crash("cdiaghg", "S matrix not positive definite", 1)
    for torn in (
        f"{_BAR}{_BAR}\n     Error in rou     Error in routinetine cdiag cdiaghg (159):hg (159):\n     S mat     S matrix norix not",
        f"{_BAR}\n     Error in routine cdiaghg (159):\n",
        box("cdicdiaghgaghg", "S matS matrix notrix not"),
    ):
        assert classify(Run(HEADER + torn, "", 1)).outcome.category is Category.ENVIRONMENT
        assert classify(Run(HEADER + torn, "", 1, crash=said)).outcome is Outcome.DIAGONALIZATION_FAILED


def test_what_the_machine_did_to_one_process_comes_first() -> None:
    said = crash("c_bands", "too many bands are not converged", 0) + crash("cegterg", "cannot allocate hpsi", 1)
    assert classify(Run(HEADER, "", 1, crash=said)).outcome is Outcome.OUT_OF_MEMORY


# stderr of a run that printed the header and then nothing of its own, its exit code, and what that is.
NOISE = {
    "gpu memory": ("0: ALLOCATE: 1234567 bytes requested; status = 2(out of memory)", 1, "out_of_memory"),
    "cuda memory": ("call to cuMemAlloc returned error 2: CUDA_ERROR_OUT_OF_MEMORY", 1, "out_of_memory"),
    "gpu data": ("FATAL ERROR: variable in data clause is partially present on the device: name=evc", 1, "killed"),
    "forrtl memory": ("forrtl: severe (41): insufficient virtual memory", 41, "out_of_memory"),
    "gfortran memory": ("Error allocating 123456 bytes\nError termination. Backtrace:\n#0 0x7f", 1, "out_of_memory"),
    "bad_alloc": ("terminate called after throwing an instance of 'std::bad_alloc'", 134, "out_of_memory"),
    "slurm oom": ("slurmstepd: error: Detected 1 oom_kill event in StepId=1.0. Some of the step tasks have been OOM Killed.", 137, "out_of_memory"),
    "srun oom": ("srun: error: n1: task 0: Out Of Memory", 137, "out_of_memory"),
    "stale handle": ("Fortran runtime error: Stale file handle", 2, "killed"),
    "forrtl io": ("forrtl: Input/output error\nforrtl: severe (28): CLOSE error, unit 99", 28, "killed"),
    "forrtl segv": ("forrtl: severe (174): SIGSEGV, segmentation fault occurred", 174, "killed"),
    "forrtl illegal": ("forrtl: severe (168): Program Exception - illegal instruction", 168, "killed"),
    "end of file": ("At line 214 of file x.f90\nFortran runtime error: End of file", 2, "killed"),
    "quota": ("forrtl: Disk quota exceeded", 1, "disk_full"),
    "no space": ("Fortran runtime error: No space left on device", 2, "disk_full"),
    "step cancelled": ("slurmstepd: error: *** STEP 1.0 ON n CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***", 255, "killed"),
    "job cancelled": ("slurmstepd: error: *** JOB 12 ON n CANCELLED AT 2026-01-01T00:00:00 DUE TO PREEMPTION ***", 1, "killed"),
    "node failure": ("srun: error: Node failure on n17\nsrun: Job step aborted: Waiting up to 32 seconds for job step to finish.", 1, "killed"),
    "task killed": ("srun: error: n17: task 0: Killed", 1, "killed"),
    "task segv": ("srun: error: n17: task 0: Segmentation fault (core dumped)", 139, "killed"),
    "open mpi": ("mpirun noticed that process rank 0 with PID 0 on node n exited on signal 4 (Illegal instruction).", 132, "killed"),
    "prte": ("prterun noticed that process rank 0 with PID 7 on node n exited on signal 9 (Killed).", 137, "killed"),
    "hydra": ("=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES\n=   EXIT CODE: 9", 9, "killed"),
    "mpich abort": ("Abort(1) on node 0 (rank 0 in comm 0): application called MPI_Abort(MPI_COMM_WORLD, 1) - process 0", 1, "killed"),
    "open mpi abort": ("MPI_ABORT was invoked on rank 3 in communicator MPI_COMM_WORLD\nwith errorcode 1.", 1, "killed"),
    "ucx": ("[n07:1234] mlx5: node07: got completion with error", 1, "killed"),
    "slots": ("There are not enough slots available in the system to satisfy the 16\nslots that were requested", 1, "mpi_failed"),
    "no step": ("srun: error: Unable to create step for job 7: Memory required by task is not available", 1, "mpi_failed"),
    "pmix": ("srun: error: Couldn't find the specified plugin name for mpi/pmix", 1, "mpi_failed"),
    "mpi_init": ("MPI_Init_thread: internal error, unable to start", 1, "mpi_failed"),
}  # fmt: skip


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("where", ["stderr", "stdout"])
def test_what_ends_without_a_word_of_pw_is_the_machines(kind: str, where: str) -> None:
    """Wherever the launcher's words went, they are kept; without the header it is no less the machine's."""
    words, code, outcome = NOISE[kind]
    for head in (HEADER, ""):
        run = Run(head + words + "\n", "", code) if where == "stdout" else Run(head, words, code)
        result = classify(run)
        assert not result.outcome.is_kept
        assert result.outcome.category is Category.ENVIRONMENT
        if where == "stderr":
            assert words.splitlines()[0].strip("= ") in result.detail
            if head:
                assert result.outcome == outcome


def test_the_number_of_an_abort_is_no_signal() -> None:
    """The eigensolvers of pw.x abort with their own error number, after a box that MPI_Abort may lose."""
    noise = "MPI_ABORT was invoked on rank 0 in communicator MPI_COMM_WORLD\nwith errorcode 134."
    assert (
        classify(Run(HEADER + box("cdiaghg", "S matrix not positive definite"), noise, 134)).outcome
        is Outcome.DIAGONALIZATION_FAILED
    )
    lost = classify(Run(HEADER, noise, 134))
    assert lost.outcome is Outcome.KILLED
    assert lost.detail.startswith("pw.x gave up with exit code 134, and its message is lost; stderr: MPI_ABORT")


@pytest.mark.parametrize("code", [1, 2, 9, 124, 127, 132, 137, 143, 152, 174, 255, -9, -15])
@pytest.mark.parametrize("timed_out", [False, True])
def test_a_run_that_never_began_failed_because_of_the_machine(code: int, timed_out: bool) -> None:
    for stdout in ("", "Lmod has loaded qe/7.2\n", box("electrons", "charge is wrong: smearing is needed")):
        for stderr in ("", "slurmstepd: error: something\n"):
            result = classify(Run(stdout, stderr, code, timed_out=timed_out))
            assert result.outcome.category is Category.ENVIRONMENT, result
            assert stderr.strip() in result.detail


@pytest.mark.parametrize("where", ["stderr", "stdout"])
@pytest.mark.parametrize(
    "words",
    [
        "srun: Job 7 step creation temporarily disabled, retrying (Requested nodes are busy)",
        "srun: job 12 queued and waiting for resources",
        "salloc: Pending job allocation 99",
    ],
)
def test_a_launcher_that_only_waits_keeps_its_words(words: str, where: str) -> None:
    for code, timed_out in ((-15, True), (124, False)):
        result = classify(
            Run("" if where == "stderr" else words, words if where == "stderr" else "", code, timed_out=timed_out)
        )
        assert (result.outcome, result.detail) == (Outcome.ENGINE_FAILED, f"pw.x did not start in time: {words}")


def test_a_run_that_waits_for_a_process_without_memory_is_no_time_limit() -> None:
    killed = "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0."
    assert classify(Run(HEADER, killed, -15, timed_out=True)).outcome is Outcome.OUT_OF_MEMORY
    complaint = "srun: error: n1: task 0: Terminated\nslurmstepd: error: *** STEP 1.0 ON n1 CANCELLED AT 2026 ***"
    assert classify(Run(HEADER, complaint, -15, timed_out=True)).outcome is Outcome.TIME_LIMIT


def test_a_box_with_noise_keeps_its_name_and_a_machine_failure_its_noise() -> None:
    noise = "-" * 70 + "\nMPI_ABORT was invoked on rank 3 in communicator MPI_COMM_WORLD\n" + "-" * 70
    assert classify(Run(HEADER + box("electrons", "charge is wrong"), noise, 1)).detail == "electrons: charge is wrong"
    layout = classify(Run(HEADER + box("fft_type_set", "there are processes with no planes."), noise, 1))
    assert layout.detail.startswith("fft_type_set: there are processes with no planes.; stderr: MPI_ABORT was invoked")
    long = classify(Run(HEADER, "\n".join(f"line {n} of a backtrace" for n in range(500)), 1))
    assert "line 0 of" in long.detail
    assert "line 499 of" in long.detail
    assert len(long.detail) < 700


WORDS = st.one_of(
    st.sampled_from(sorted(words for words, _, _ in NOISE.values())),
    st.sampled_from(
        ["     iteration #  1     ecut=    30.00 Ry", "     estimated scf accuracy    <       0.1 Ry", "   JOB DONE."]
    ),
    st.builds(box, st.text(max_size=12), st.text(max_size=40)),
    st.text(max_size=60),
)


@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=4), st.integers(-64, 255), st.booleans())
def test_no_noise_becomes_an_answer(stdout: list[str], stderr: list[str], code: int, began: bool) -> None:
    """Only words that are known to be pw.x's verdict are kept, wherever what else comes from."""
    result = classify(Run((HEADER if began else "") + "\n".join(stdout), "\n".join(stderr), code))
    assert result.detail
    verdict = {name for error in messages.boxes("\n".join((*stdout, *stderr, ""))) if (name := name_error(error))}
    assert not result.outcome.is_kept or str(result.outcome) in verdict | ({"time_limit"} if code == 124 else set())


def test_the_reader_of_sources_sees_each_call(root: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("errore", root / "tools/errore.py")
    assert spec is not None
    assert spec.loader is not None
    errore = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(errore)
    (tmp_path / "PW/src").mkdir(parents=True)
    (tmp_path / "PW/src/x.f90").write_text(
        "  CHARACTER(LEN=20) :: sub_name = ' control_checkin '\n"
        "  IF ( a ) CALL errore( 'setup', 'too few ' // &\n     & TRIM(kind) // ' bands', 1 ) ! it's, 'a comment'\n"
        "  ! CALL errore('never', 'called', 1)\n"
        "  call lax_error__( \"cdiaghg\", 'it''s (wrong), so', ABS( info ) ); IF (b) CALL errore(sub_name, ' isave out of range ', 1)\n"
    )  # fmt: skip
    assert [(routine, message) for routine, message, _ in errore.errors(tmp_path)] == [
        ("setup", "too few … bands"),
        ("cdiaghg", "it''s (wrong), so"),
        ("control_checkin", "isave out of range"),
    ]
