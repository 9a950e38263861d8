"""A stand-in for pw.x where what happens to jobs matters and physics does not: `pw.py FOLDER -in pw.in`.

Energies and gaps are made up from the input. FOLDER/seconds says how long a run takes, those under way included, FOLDER/hungry names an
element whose crystals take 2 GB, FOLDER/hanging one whose crystals never end; all may change while the workflow runs.
"""

import hashlib
import re
import sys
import time
from pathlib import Path

folder, text = Path(sys.argv[1]), sys.stdin.read()


def holds(effect: str) -> bool:
    """Whether the crystal holds the element that is to have this effect."""
    path = folder / effect
    return path.exists() and re.search(rf"^{path.read_text()} ", text, re.MULTILINE) is not None


print("     Program PWSCF v.0.0 starts", flush=True)
if "ATOMIC_SPECIES" not in text:
    sys.exit("Error in routine read_namelists (1): could not find namelist &control")
if holds("hungry"):
    memory = bytearray(2 * 10**9)
    memory[::4096] = b"x" * len(memory[::4096])
    time.sleep(5)
while holds("hanging"):
    time.sleep(0.2)
start = time.monotonic()
while time.monotonic() - start < float((folder / "seconds").read_text() or "inf"):  # empty while it is being written
    time.sleep(0.2)
made_up = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
sites = int(re.search(r"nat = (\d+)", text)[1])
if "degauss" in text:
    print("     the Fermi energy is     5.0 ev")
else:
    print(f"     highest occupied, lowest unoccupied level (ev):     5.0000    {5 + 4 * made_up:.4f}")
energy = round(-sites * (10 + 0.1 * made_up), 8)
print(f"!    total energy              =     {energy:.8f} Ry")
Path("out/pw.save").mkdir(parents=True, exist_ok=True)
Path("out/pw.save/data-file-schema.xml").write_text(
    "<x><output><convergence_info><scf_conv><convergence_achieved>true</convergence_achieved></scf_conv></convergence_info>"
    f"<total_energy><etot>{energy / 2}</etot></total_energy></output></x>"
)
print("     convergence has been achieved in   4 iterations\n     JOB DONE.")
