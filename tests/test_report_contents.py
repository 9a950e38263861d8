"""Every table and figure reads the files and settings that its entry names, and nothing else: its rule depends on these alone."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from campaign_data import campaign_files, write_campaign
from report_data import FILES, prediction_files, write_results
from test_report_drawings import SECTIONS

from xtalrl.config import Config
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.contents import FIGURES, TABLES, Content, settings_of
from xtalrl.report.results import Results, scoring_of

asked: set[str] = set()


class Watched(Scoring):
    """Writes down which of its settings are read."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            asked.add(name)
        return super().__getattribute__(name)

    def at(self, target_ev: float) -> Watched:
        """A copy, which alone reads nothing."""
        return Watched(**{**vars(self), "target_ev": target_ev})


class WatchedResults(Results):
    """Writes down what is read of the run."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            asked.add(name)
        return super().__getattribute__(name)


class WatchedFiles(dict[str, Any]):
    """Writes down which files are asked for."""

    def __getitem__(self, name: str) -> Any:
        asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        if name in self:
            asked.add(name)
        return super().get(name, default)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("contents")
    return folder, write_results(folder, 60, (0,), sections=SECTIONS, targets_ev=[1.12, 4.0], omegas=[1, 5])


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("campaign")
    return folder, write_campaign(folder)


@pytest.mark.parametrize("entry", [e for e in (*TABLES, *FIGURES) if not e.needs_confirmation], ids=lambda e: e.name)
def test_an_entry_names_what_it_reads(run: tuple[Path, Config], campaign: tuple[Path, Config], entry: Content) -> None:
    folder, config = campaign if entry.needs_campaign else run
    files = WatchedFiles({name: folder / FILES[name] for name in entry.inputs if name in FILES})
    if "snapshots" in entry.inputs:
        files["snapshots"] = [folder / f"learning_curve/{s}/evaluation.parquet" for s in config.training.snapshot_steps]
    if "predictions" in entry.inputs:
        files["predictions"] = prediction_files(folder, config)
    of_campaign = campaign_files(folder, config)
    files |= {name: of_campaign[name] for name in entry.inputs if name in of_campaign}
    ordinary, scoring = Results.of(config, files), scoring_of(config)
    watched = WatchedResults(**{field.name: getattr(ordinary, field.name) for field in fields(Results)})
    given = {field.name: getattr(scoring, field.name) for field in fields(Scoring)} | {"bootstrap_samples": 50}
    asked.clear()
    entry.function(watched, Watched(**given))
    known = settings_of(config).keys()
    assert asked & known == set(entry.settings)
    assert asked & {*FILES, *of_campaign, "snapshots", "predictions"} == set(entry.inputs)


def test_every_setting_is_known() -> None:
    known = settings_of(Config()).keys()
    assert all(set(entry.settings) <= known for entry in (*TABLES, *FIGURES))
    assert {field.name for field in fields(Scoring)} - {"target_ev"} <= known
