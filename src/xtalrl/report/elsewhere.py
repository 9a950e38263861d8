"""Which SCFs of a run were computed elsewhere and taken from what `dft.finished` names; this is stated wherever the run is shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtalrl import tables
from xtalrl.campaign.preflight import scf_stages
from xtalrl.config import Config
from xtalrl.dft.exchange import finished_scfs


@dataclass(frozen=True)
class ComputedElsewhere:
    """The pw.x runs that were taken over from elsewhere."""

    source: str
    taken: int
    total: int
    """Number of pw.x runs behind the results, wherever they were made."""
    engines: tuple[str, ...]
    first: str
    last: str
    """End (UTC) of the last of the runs that were taken over; `first` is the end of the first."""

    @property
    def sentence(self) -> str:
        """What a reader must know before looking at any number of the run."""
        days = self.first[:10] if self.first[:10] == self.last[:10] else f"{self.first[:10]} to {self.last[:10]}"
        here = self.total - self.taken
        return (
            f"{self.taken:,} of the {self.total:,} runs of pw.x behind these results {'was' if self.taken == 1 else 'were'} computed elsewhere, by {' and '.join(self.engines)}, {days}, "
            f"and taken from {self.source}; "
            + (f"{here:,} {'was' if here == 1 else 'were'} computed here." if here else "none was computed here.")
        )


def computed_elsewhere(config: Config) -> ComputedElsewhere | None:
    """What a run took over; None if `dft.finished` names nothing, or if nothing of it was needed.

    Raises:
        XtalrlError: the file that `dft.finished` names, or a table of the run, cannot be read.
    """
    if config.dft.finished is None:
        return None
    records = {(record.key, record.wall_s): record for record in finished_scfs(config.dft.finished)}
    runs = {(attempt["key"], attempt["wall_s"]) for attempt in _attempts(config)}
    if not (taken := [records[run] for run in runs if run in records]):
        return None
    ended = sorted(record.ended or "" for record in taken)
    return ComputedElsewhere(
        source="what ships with xtalrl" if config.dft.finished == "demo" else config.dft.finished,
        taken=len(taken),
        total=len(runs),
        engines=tuple(sorted({record.engine for record in taken})),
        first=ended[0],
        last=ended[-1],
    )


def _attempts(config: Config) -> Iterator[dict[str, Any]]:
    for stage in scf_stages(config):
        path = Path(config.results, stage, "outcomes.parquet")
        if path.is_file():
            for row in tables.read_rows(path, tables.SCF_OUTCOMES):
                yield from row["attempts"]
