"""What pw.x and its launcher say when a run fails, and which outcome each message means.

pw.x stops by `errore` of UtilXlib and similar routines, which print a box with a routine and a message, and write the same into the file CRASH.
`FAMILIES` names them: read from the sources of Quantum ESPRESSO 6.5 to 7.4, counted by `tools/errore.py` (docs/dft.md has the numbers).
A message that is not known to be a verdict on the crystal or on the input must not become one: a message without a name is `stopped`, which is
never kept.
"""

from __future__ import annotations

import re
from typing import NamedTuple

UNNAMED = "stopped"


class Error(NamedTuple):
    """One message of pw.x."""

    routine: str
    message: str

    def __str__(self) -> str:
        """Text of an outcome's detail."""
        return f"{self.routine}: {self.message}"


_BOX = re.compile(r"Error in routine\s+(\S.*?)[^\S\n]+\(\s*-?\d+\):[^\S\n]*\n\s*(.*?)\s*\n")
_CRASH = re.compile(r"^\s*from\s+(\S.*?)\s+: error #\s*-?\d+[^\S\n]*\n\s*(.*?)\s*$", re.M)


def boxes(stdout: str) -> list[Error]:
    """The errors that pw.x printed, in order."""
    return [Error(*found) for found in _BOX.findall(stdout)]


def crash(text: str) -> list[Error]:
    """The errors in a CRASH file, in their order; each process of a parallel run may have left one."""
    return [Error(*found) for found in _CRASH.findall(text)]


# `routine: message` → name of the outcome. The first that fits wins, so that what the machine did comes before what it did it to.
FAMILIES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile("|".join(patterns)), name)
    for name, patterns in (
        ("out_of_memory", (
            r"(?i:cannot allocate|error (when |while )?allocating|allocation failed|: allocat(e|ing) (?!on)\w+$|out of memory)",
        )),
        ("killed", (  # Accelerators, the network and libraries do not know the crystal.
            r"(?i:cufft|cusolver|cublas|cuda|hipfft|rocfft|gpu (support|buffers)|gpu function|device (count|id)\b|synchronizing device|"
            r"(creating|destroying|set) stream|device support|device compiled)",
            r"(?i:error (in|at) mpi_|\bin mpi_\w+( \d+)?( of \w+)?$|: mpi_\w+$|info ?<> ?0|alltoall error|MPI (communicator|rank)|: in (isend|recv|wait|bcast|"
            r"gather)$|building (col|row)_comm|error broadcasting array)",
            r"D(FTI|fti)|fftw_init_threads|association of (the )?signal",
        )),
        ("mpi_failed", (  # More processes than the cell can be divided among, or a division that this pw.x cannot make.
            r"no planes|nodes have no k-points|plane waves( found|!).*too many processors|(?i:too few bands for)",
            r"^check_para_diag|^check para diag|^mp_|number of (pools|images|band groups)|^run_pwscf: image|^init_ortho_group|^desc(la)?_init",
            r"less than the number of proc|number of bands < number of proc|square (processor mesh|grid)|(?i:task_? ?groups?\b)|nyfft|nproc_ortho|SCALAPACK",
            r"(with|by|for) pools|pools with no k-points|for parallel driver|parallelization not|nkstot/kunit|inconsistent number of k-points",
        )),
        ("stopped", (r"internal error|should not happen|in the wrong case|code (number|is) ",)),  # What pw.x says about itself.
        ("pseudopotential_not_found", (r"^readpp: .*not found",)),
        ("pseudopotential_unreadable", (
            r"^(readpp|readvan|readrrkj|readgth|read_(upf|pseudo|pp_|ncpp|cpmd|casino|psml|fhi)|upf|scan_(begin|end): |make_emended_upf|pseudo )",
        )),
        ("input_not_found", (r"opening input file",)),
        ("scratch_unusable", (
            r"^(check_tempdir|create_directory|seqopn|qeh5|setup_file_property_hdf5|prepare_for_reading|error in h5|read_xml_file|qexsd_c\w+|qes_read|"
            r"read_rhog|read_wfc|read_scf|read_file|read_conf_from_file|aceinit0)|read_collected_wfc|(?i:error (while )?reading( from)? file|error opening)",
            r"problem reading ef from file|needed files are missing|: opening xml output file|cannot open (unit|.* for (reading|writing)|.*output file)",
        )),
        ("disk_full", (
            r"(?i:error (while )?writing|cannot write|problem writing|: writing )|error closing|^(davcio|diropn|pw_restart|write_(rhog|wfc|scf|collected_wfc))\b",
        )),
        ("charge_wrong", (r"charge is wrong",)),
        ("too_few_bands", (r"^setup: too few (spin (up|dw) )?bands",)),
        ("more_bands_than_plane_waves", (r"more bands than PWs|too many bands, or too few plane waves",)),
        ("magnetization_missing", (r"fixed occupations and lsda need tot_magnetization|spin-polarized system, specify occupations",)),
        ("atoms_overlap", (r"atoms #.* overlap!|differ by lattice vector|overlapping atoms",)),
        ("invalid_cell", (
            r"^(inlocalhostat|recips|latgen|volume|invmat)\b|wrong volume|optimal (alpha|eta) not found|^rgen: too many r-vectors",
        )),
        ("diagonalization_failed", (
            r"S matrix not positive|problems computing (cholesky|inverse)|eigenvectors failed|incorrect call to (ZHEGV|DSYGV)|(zhegvd|dsygvd) failed|"
            r"too many bands are not converged|diagonalization (\(\w+\) )?failed|: P(ZHE|DSY)EVD$|problem in the local inversion",
            r"vectors are linear dependent|^(cr|rr)mmdiagg: (cannot solve diis|norm <= 0|psp <= 0|sw <= 0)|^tqli: too many iterations",
        )),
        ("mixing_failed", (r"^broyden: |^mix_rho: negative",)),
        ("symmetry_failed", (
            r"^(checkallsym|sgam_\w+|inverse_s|multable|coset|d_matrix|find_group|tipo_sym|divide_class(_so)?|divide_sym_so|angle vectors|angle_rot|"
            r"is_d2|versor|which_c2|symonpair|sym_rho\w*|wypos)\b|kpoint_grid: something wrong|irrek_nc: Internal|^summary: point (double )?group",
        )),
        ("invalid_input", (
            r"^(read_namelists|read_cards\w*|read_input|read_line|card_\w+|cards|\w+_checkin|fixval|iosys\w*|input|pos_iosys|init_pos|set_cutoff|"
            r"set_occupations|set_nelup_neldw|setup|electrons_base_initval|ions_base_init|find_nat|check_atoms|init_start_k|trimcheck|field_compare|"
            r"control_flags|cell_base\w*|cell_alat|abc2celldm|init_run|sort_atoms|sorttau|atom_name|atom_weight|init_wfc|wfcinit)\b",
            r"^(set_dft\w*|enforce_input_dft|matching_\w+|get_name|xclib_\w+|beef\w*|start_exx|exx_grid_init|set_finite_size_volume|nlc|dftname)\b",
            r"^(\w*oscdft\w*|sic_init|fcp\w*|gcscf\w*|esm\w*|rism\w*|\w+_rism|init_1drism|read_mol\w*|read_solvents|\w*lauefft\w*|init_constraint|"
            r"init_extffield|init_hubbard|init_lda_plus_u|offset_atom_wfc|determine_hubbard_occ|set_hubbard_\w+|hubbard_occ\w*|alloc_neighborhood|"
            r"init_twochem|energy_xdm|tsvdw|init_london|libmbd_interface|add_\w+field|init_q_aeps|wannier_check|tetra\w*|opt_tetra\w*|c_phase\w*|read_V)\b",
            r"(?i:not (yet |in )?(implemented|supported|available|compiled|allowed|parametrized|programmed)|not linked|libxc needed|does not support|"
            r"only supports|only for insulators|no longer|NYI\b|untested)|too many k.?points|nvecx is too small|in RISM|must be |^\S+: unknown |conflicting",
        )),
    )
)  # fmt: skip

# Words of launchers, libraries and the kernel where pw.x itself had no chance to say anything → name of the outcome.
_NOISE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"(?i)cannot allocate memory|out[ _-]of[ _-]memory|oom[-_ ]kill|virtual memory|bad_alloc|would exceed memory|memory cgroup|"
         r"error allocating|std::bad_alloc|allocation failed", "out_of_memory"),
        (r"No space left on device|(?i:disk quota exceeded)|File size limit exceeded", "disk_full"),
        (r"xmltools\.f90|read_upf", "pseudopotential_unreadable"),
        # A task or step that ended under srun is not srun's own failure.
        (r"\*\*\* (STEP|JOB) .* CANCELLED|srun: error: \S+: tasks? [\d,-]+: |srun: error: (Node failure|.*Job step aborted)|srun: Job step aborted|"
         r"BAD TERMINATION|(?i:process .*exited on signal)|node failure", "killed"),
        (r"not enough slots available|srun: error|(?i:pmi\w*_init|mpi_init\w*\b.*(fail|error)|orte_init|prte_init|unable to (launch|start)|failed to start)",
         "mpi_failed"),
    )
)  # fmt: skip


def name_error(error: Error) -> str:
    """Name of the outcome that a message of pw.x means; `UNNAMED` if it has none."""
    return next((name for pattern, name in FAMILIES if pattern.search(str(error))), UNNAMED)


def name_noise(text: str) -> tuple[str, str] | None:
    """Name of the outcome that the words of a launcher, a library or the kernel have, and the line that says so."""
    for pattern, name in _NOISE:
        if found := pattern.search(text):
            start = text.rfind("\n", 0, found.start()) + 1
            return name, text[start:].partition("\n")[0].strip()
    return None
