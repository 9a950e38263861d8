"""The configuration that results were made with, beside the one at hand."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import pytest
import yaml

from xtalrl.commands.status import print_status
from xtalrl.config import Config
from xtalrl.errors import XtalrlError
from xtalrl.provenance import RECORD, differences, note_differences, refuse_unknown, write_record


def config(results: Path, **sections: Any) -> Config:
    return Config.model_validate({"results": str(results), **sections})


def test_a_record_tells_what_differs_and_nothing_else(tmp_path: Path) -> None:
    write_record(config(tmp_path, training={"steps": 1000}, policies={"seeds": [0]}))
    assert differences(config(tmp_path, training={"steps": 1000, "checkpoint_every": 7}, cache="elsewhere")) == []
    assert differences(config(tmp_path, training={"steps": 2000}, policies={"seeds": [0, 1]})) == [
        "`policies.seeds` is [0] there and [0, 1] here",
        "`training.steps` is 1000 there and 2000 here",
    ]


def test_a_report_tells_where_there_is_no_record(tmp_path: Path) -> None:
    made_with = yaml.safe_dump(config(tmp_path, external={"others": "a&b/<x>.xyz"}).model_dump(mode="json"))
    assert differences(config(tmp_path)) == [], "nothing tells"
    page = f'<details><summary>Configuration</summary><pre tabindex="0">{escape(made_with)}</pre></details>'
    (tmp_path / "report.html").write_text(page)
    assert differences(config(tmp_path)) == ["`external` is {'others': 'a&b/<x>.xyz'} there and {} here"]


def test_a_key_that_an_older_version_did_not_have_has_its_default(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("rollout: {designs: 1, unknown: 3}\nold: 1\n")
    assert differences(config(tmp_path)) == []
    assert differences(config(tmp_path, evaluation={"window_ev": 1}))


@pytest.mark.parametrize("content", ["a: [", "[1]", "rollout: 3", "", "\x00"])
def test_a_record_that_tells_nothing_is_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(XtalrlError, match=r"config\.yaml .*[Dd]elete it"):
        differences(config(tmp_path))


def test_what_snakemake_knows_is_not_refused(tmp_path: Path) -> None:
    write_record(config(tmp_path))
    other = config(tmp_path, training={"steps": 1})
    refuse_unknown(other, [])
    refuse_unknown(config(tmp_path), ["labels.parquet"])
    with pytest.raises(XtalrlError, match=r"`training\.steps` is 250000 there and 1 here"):
        refuse_unknown(other, ["labels.parquet"])


def test_status_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(config(tmp_path))
    other = config(tmp_path, training={"steps": 1})
    print_status(other, as_json=False)
    assert note_differences(other) in capsys.readouterr().out
