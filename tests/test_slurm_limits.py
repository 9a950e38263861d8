"""Limits as sacctmgr and scontrol of SLURM 22.05 tell them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtalrl.commands.slurm_limits import limits_of, to_minutes
from xtalrl.commands.submissions import Submission
from xtalrl.errors import XtalrlError

SACCTMGR = """#!/bin/sh
case "$*" in
  *"show associations where user="*) printf 'proj|me||150||2-00:00:00|normal\\nproj|me|gpu|4|||normal\\nother|me||7|||\\n' ;;
  *"where account=proj "*) printf 'proj||dept|120\\nproj|me||\\n' ;;
  *"where account=dept "*) printf 'dept||root|\\n' ;;
  *"where account=root "*) printf 'root|||9000\\nroot|root||\\n' ;;
  *"show users"*) echo 'me|proj' ;;
  *"name=normal"*) echo 'normal||||' ;;
  *"name=few"*) echo 'few|5|||00:10:00' ;;
  *"name=of_part"*) echo 'of_part||30||' ;;
esac
"""


@pytest.fixture(autouse=True)
def slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    texts = {
        "sacctmgr": SACCTMGR,
        "scontrol": '#!/bin/sh\ncase "$*" in *special) echo "   AllowQos=ALL QoS=of_part";; *) echo "   QoS=N/A";; esac\n',
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("LOGNAME", "me")


@pytest.mark.parametrize(
    ("options", "partition", "counts", "minutes"),
    [
        ("", "main", {150, 120, 9000}, {2880}),
        ("", "gpu", {150, 4, 120, 9000}, {2880}),
        ("--qos=few", "main", {150, 120, 9000, 5}, {2880, 10}),
        ("", "special", {150, 120, 9000, 30}, {2880}),
        ("-A other", "main", {7}, set()),
    ],
)
def test_limits_of_account_user_partition_and_qos(
    options: str, partition: str, counts: set[int], minutes: set[int]
) -> None:
    found = limits_of(Submission("any", tuple(options.split())), partition)
    assert {limit.value for limit in found[0]} == counts
    assert {limit.value for limit in found[1]} == minutes


def test_a_limit_says_whose_it_is() -> None:
    (counts, _) = limits_of(Submission("any", ()), "gpu")
    assert (
        min(counts, key=lambda limit: limit.value).name == "MaxSubmitJobs of user me in account proj in partition gpu"
    )


def test_no_accounting_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "sacctmgr").write_text(
        "#!/bin/sh\necho 'You are not running a supported accounting_storage plugin' >&2; exit 1\n"
    )
    with pytest.raises(XtalrlError, match="supported accounting_storage plugin"):
        limits_of(Submission("any", ()), "main")


@given(days=st.integers(0, 99), hours=st.integers(0, 23), minutes=st.integers(0, 59))
def test_time_limits_as_slurm_writes_them(days: int, hours: int, minutes: int) -> None:
    total = 1440 * days + 60 * hours + minutes
    for text in (f"{days}-{hours:02}:{minutes:02}:00", f"{days}-{hours}:{minutes}", str(total)):
        assert to_minutes(text) == total, text
    assert to_minutes(f"{hours:02}:{minutes:02}:30") == 60 * hours + minutes
    assert to_minutes(f"{minutes}:30") == minutes
    assert to_minutes(f"{days}-{hours}") == 1440 * days + 60 * hours


@pytest.mark.parametrize("text", ["infinite", "UNLIMITED", "n/a", "", "Partition_Limit", "1-"])
def test_what_is_no_time_limit(text: str) -> None:
    assert to_minutes(text) is None
