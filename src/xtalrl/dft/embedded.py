"""pw.x in this process: `python embedded.py FOLDER < pw.in`. Run as a file, so that it starts in a moment and imports nothing of ours.

The wheel of QEpy carries the whole of pw.x 7.2 as a shared library (measured: energies equal to a system pw.x to 1e-8 Ry).
FOLDER holds `qepy/qepylibs/libqepy_pw.so`, `qepy.libs/` and, optionally, an OpenBLAS in `scipy.libs/`. Loaded first and globally,
OpenBLAS takes the place of the reference BLAS that the library was linked with (measured: half the CPU at 128 bands of silicon).
"""

import ctypes
import glob
import sys


def _load(pattern: str) -> ctypes.CDLL:
    return ctypes.CDLL(sorted(glob.glob(pattern))[0], mode=ctypes.RTLD_GLOBAL)


def main(folder: str) -> None:
    """Run pw.x on stdin; does not return before pw.x has ended, and exits with its code."""
    _load(f"{folder}/qepy.libs/libquadmath-*")
    fortran = _load(f"{folder}/qepy.libs/libgfortran-*.so.5*")
    if glob.glob(f"{folder}/scipy.libs/libopenblas*"):
        _load(f"{folder}/scipy.libs/libopenblas*")
    pw = _load(f"{folder}/qepy/qepylibs/libqepy_pw.so")
    arguments = (ctypes.c_char_p * 1)(b"pw.x")
    fortran._gfortran_set_args(1, arguments)
    pw.pwscf_()


if __name__ == "__main__":
    main(sys.argv[1])
