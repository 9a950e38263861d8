"""The paper's own numbers, which are shown next to ours for orientation."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from xtalrl.csv_files import read_csv
from xtalrl.resources import RESOURCES
from xtalrl.rl.policies import PolicySpec, Reward

# Tables 1, 3 and 4 print the random policy's accuracy and similarity as fractions in columns of percent (0.0115 is 1/88).
_PRINTED_AS_FRACTION = ("accuracy_pct", "similarity_pct")


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables: its file in `resources/paper`, the training steps of its policies, and their target gap if all have the same."""

    number: int
    file: str
    steps: int
    target_ev: float | None = None


PAPER_TABLES = (
    PaperTable(1, "table1_presimulation.csv", 250_000),
    PaperTable(2, "table2_dft_success.csv", 250_000),
    PaperTable(3, "table3_total_energy_1.12ev.csv", 500_000, 1.12),
    PaperTable(4, "table4_total_energy_4ev.csv", 500_000, 4.0),
)


@dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper: the policy, its name in the paper, and its numbers in percent (None where there is none)."""

    policy: PolicySpec
    label: str
    values: Mapping[str, float | None]
    notes: Mapping[str, str]


@functools.cache
def paper_rows(table: PaperTable) -> tuple[PaperRow, ...]:
    """The rows of a table; fractions that were printed in a column of percentages are converted to percent, with a note."""
    return tuple(_read_row(row, table) for row in read_csv(RESOURCES / "paper" / table.file).rows)


def paper_values(table: PaperTable, spec: PolicySpec | None) -> Mapping[str, float | None]:
    """The numbers of the policy with the same reward, target and weight; empty if the table has no such policy."""
    return next((row.values for row in paper_rows(table) if spec and identity(row.policy) == identity(spec)), {})


def identity(spec: PolicySpec) -> Hashable:
    """A value that is equal for two policies with the same learning problem, whatever they are called."""
    reward = spec.reward
    if reward is None:
        return spec.kind
    energy = (reward.energy, reward.alpha1, reward.beta1 if reward.energy == "formation" else None)
    gap = (reward.alpha2, reward.beta2)
    return spec.kind, spec.omega, spec.target_ev, energy if reward.alpha1 else None, gap if reward.alpha2 else None


def _read_row(row: dict[str, str], table: PaperTable) -> PaperRow:
    kind = row.pop("policy")
    omega = _number(row.pop("omega"))
    target, reward = table.target_ev, Reward()
    label = {"random": "Random", "bc": "BC", "ucql": "u-CQL", "ccql": "c-CQL"}[kind]
    if table.target_ev is None:
        target = _number(row.pop("target_band_gap_ev"))
        label += f" {target:g} eV" if target is not None else ""
    else:
        alpha1, alpha2, beta = (_number(row.pop(name)) for name in ("alpha1", "alpha2", "beta"))
        reward = Reward("total")
        if alpha1 is not None and alpha2 is not None and beta is not None:
            reward = Reward("total", alpha1=alpha1, alpha2=alpha2, beta2=beta)
            label += f" {reward.setting}"
    label += f", ω = {omega:g}" if omega is not None else ""
    spec = PolicySpec(
        kind=kind,
        omega=omega,
        target_ev=target if kind == "ccql" else None,
        reward={"ccql": reward, "ucql": reward.without_gap()}.get(kind),
    )
    values = {name: _number(text) for name, text in row.items()}
    notes = {}
    if kind == "random":
        for name in _PRINTED_AS_FRACTION:
            if (value := values.get(name)) is not None:
                values[name] = 100 * value
                notes[name] = f"printed as the fraction {value:g} in a column of percent"
    return PaperRow(spec, label, values, notes)


def _number(text: str) -> float | None:
    return float(text) if text else None
