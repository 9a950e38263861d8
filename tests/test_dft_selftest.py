"""The silicon run of `xtalrl doctor`: a wrong energy is told, and the embedded pw.x has the right one."""

from __future__ import annotations

from pathlib import Path

import pytest
from dft_data import fake_pw
from test_dft_engines import fetched_cache, needs_embedded

from xtalrl.commands.checks import State
from xtalrl.commands.doctor import _check_engine
from xtalrl.config import validate
from xtalrl.dft.engines import find_engine
from xtalrl.dft.pseudopotentials import describe_family
from xtalrl.dft.selftest import KNOWN, compute_silicon
from xtalrl.resources import PROJECT

DOJO = "pseudo-dojo-0.4-pbe-sr-standard"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with the family's description and an empty file for silicon."""
    family = describe_family(DOJO)
    folder = tmp_path / "cache" / "families" / DOJO
    folder.mkdir(parents=True)
    (folder / "family.json").write_text(family.model_dump_json())
    (folder / family.elements["Si"].file).touch()
    return tmp_path / "cache"


def test_the_energy_is_known_for_every_family_of_the_project() -> None:
    for name in (DOJO, "sssp-1.3.0-efficiency"):
        assert describe_family(name).elements["Si"].md5 in KNOWN


def test_a_pw_that_computes_something_else_is_told(tmp_path, cache: Path) -> None:
    command, _ = fake_pw(tmp_path)
    config = validate({"cache": str(cache), "dft": {"command": command, "family": DOJO}})
    check = _check_engine(config)
    assert check.state is State.MISSING
    assert "silicon has -20.00000000 Ry instead of -16.87930108 Ry" in check.finding
    (tmp_path / "pw.x").write_text('#!/bin/sh\necho "     Program PWSCF v.7.2 starts"\nexit 3\n')
    check = _check_engine(config)
    assert check.state is State.MISSING
    assert "the SCF of silicon ends as killed (exit code 3 without a message of pw.x)" in check.finding


@pytest.mark.parametrize("change", ["an XML that does not say whether it converged", "no XML", "an old version"])
def test_silicon_passes_where_a_run_would_be_taken(tmp_path, cache: Path, monkeypatch, change: str) -> None:
    """What was printed is right each time; with the default config no run takes it, so that doctor must not pass it."""
    command, _ = fake_pw(tmp_path)
    script = Path(command).read_text().replace("-10.0 * nat", "-16.87930108").replace("-5.0 * nat", "-8.43965054")
    harmed = {
        "an XML that does not say whether it converged": script.replace(
            "<convergence_achieved>true</convergence_achieved>", ""
        ),
        "no XML": script.replace('"FAKE_PW_UNSAVED" in os.environ', "True"),
        "an old version": script.replace("v.7.2", "v.6.4.1"),
    }[change]
    assert harmed != script

    def checked(accept_not_saved: bool) -> State:
        dft = {"command": command, "family": DOJO, "accept_not_saved": accept_not_saved}
        return _check_engine(validate({"cache": str(cache), "dft": dft})).state

    Path(command).write_text(script)
    assert checked(False) is State.OK
    Path(command).write_text(harmed)
    assert checked(False) is State.MISSING
    assert checked(True) is (State.MISSING if change == "an old version" else State.OK)


def test_without_pseudopotentials_only_the_start_is_seen(tmp_path) -> None:
    command, _ = fake_pw(tmp_path)
    check = _check_engine(validate({"cache": str(tmp_path), "dft": {"command": command, "family": DOJO}}))
    assert check.state is State.OK
    assert "its speed is told once the pseudopotentials are here" in check.finding


def test_srun_is_not_tried_outside_a_job(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    check = _check_engine(validate({"cache": str(tmp_path), "dft": {"command": "srun --overlap -n 1 pw.x"}}))
    assert check.finding == "`srun --overlap -n 1 pw.x` starts only in a job, and was not tried here"


@needs_embedded
def test_the_embedded_pw_has_the_known_energy(monkeypatch, tmp_path) -> None:
    family = next((PROJECT / "results").glob(f"**/families/{DOJO}/family.json"), None)
    if family is None:
        pytest.skip("PseudoDojo is not fetched (`make engine`)")
    monkeypatch.setenv("PATH", str(tmp_path))
    cache = fetched_cache()
    assert cache is not None
    found = compute_silicon(find_engine(None, cache), family)
    assert found.fault is None
    assert found.cpu_s is not None
    assert 0.1 < found.cpu_s < 30
    assert str(found).endswith("its energy is right")
