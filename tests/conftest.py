"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared and noisy: how long a draw takes says nothing about the code.
settings.register_profile("xtalrl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xtalrl")

# One core for each of the processes that share the tests.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tests side by side start Snakemake in one folder, the checkout. Its end deletes the folder of locks there, which another that is about to write
# its own would miss: so tests that run something pass `--nolock`.
ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give all tests of a file to one process, since they share fixtures, and all that start a SLURM: there is one on a machine."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "slurm" if "test_slurm" in file else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The developers' real data beside the checkout; a user's machine does not have it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the developers' data set ../shared/data is not here")
    return folder


@pytest.fixture
def steps_done(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The step of every update of a learner from now on."""
    from xtalrl.rl.learner import Learner

    done: list[int] = []
    update = Learner.update
    monkeypatch.setattr(Learner, "update", lambda self, batch: done.append(self.step) or update(self, batch))
    return done
