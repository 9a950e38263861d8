"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines are shared and noisy: how long a draw takes says nothing about the code.
settings.register_profile("xtalrl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xtalrl")

ROOT = Path(__file__).resolve().parents[1]


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
