"""The paper's own numbers, to stand beside ours for orientation."""

from __future__ import annotations

import csv
import functools

from xtalrl.resources import RESOURCES
from xtalrl.rl.policies import PolicySpec

# Tables 1, 3 and 4 print the random policy's accuracy and similarity as fractions in columns of percent (0.0115 is 1/88).
_PRINTED_AS_FRACTION = ("accuracy_pct", "similarity_pct")


@functools.cache
def paper_table(file: str) -> dict[str, dict[str, float | None]]:
    """The paper's Table 1 or 2 by the name of the policy; every value in percent, None where the paper has none.

    Args:
        file: `table1_presimulation.csv` or `table2_dft_success.csv` of `resources/paper`.
    """
    with (RESOURCES / "paper" / file).open(newline="") as handle:
        return dict(_read_row(row) for row in csv.DictReader(handle))


def _read_row(row: dict[str, str]) -> tuple[str, dict[str, float | None]]:
    kind = row.pop("policy")
    target, omega = row.pop("target_band_gap_ev"), row.pop("omega")
    spec = PolicySpec(
        kind=kind,  # type: ignore[arg-type]
        target_ev=float(target) if target else None,
        omega=float(omega) if omega else None,
    )
    values = {name: float(text) if text else None for name, text in row.items()}
    if kind == "random":
        values |= {name: 100 * value for name in _PRINTED_AS_FRACTION if (value := values.get(name)) is not None}
    return spec.name, values
