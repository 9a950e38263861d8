"""What a configuration file may be, and how several of them and several options go together."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snakemake.utils import update_config

from xtalrl.config import load
from xtalrl.errors import XtalrlError
from xtalrl.yaml_files import read_mapping, read_merged, refuse_second_options, update

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + inner] * 10)}]\n"
    for inner, name in zip("abcdefgh", "bcdefghi", strict=True)
)  # fmt: skip

REFUSED = {
    "twice": ("training:\n  steps: 5\n  batch_size: 1\n  steps: 6\n", "'steps' stands in line 2 and again in line 4"),
    "twice at the top": ("results: a\nresults: b\n", "'results' stands in line 1 and again in line 2"),
    "twice in JSON": ('{"results": "a", "results": "b"}', "'results' stands twice"),
    "twice in a line": ("training: {steps: 5, steps: 6}\n", "'steps' stands in line 1 and again"),
    "twice in a line of JSON": ('{"results": "a", "results": "a"}', "'results' stands twice"),
    "twice, quoted": ("results: a\n'results': b\n", "'results' stands in line 1"),
    "itself": ("training: &t\n  steps: *t\n", "refers to itself"),
    "itself in a list": ("a: &a [*a]\n", "refers to itself"),
    "billion laughs": (LAUGHS, "more than 100,000 values"),
    "deep": ("a: " + "[" * 5000 + "]" * 5000, "nested deeper"),
    "deep maps": ("a: " + "{a: " * 3000 + "1" + "}" * 3000, "nested deeper"),
    "nested": ("a: " + "[" * 50 + "]" * 50, "nested deeper than 20"),
    "empty": ("", "is empty"),
    "a remark": ("# nothing\n", "is empty"),
    "text": ("hello\n", "must hold `key: value` pairs, not str"),
    "list": ("- a\n", "must hold `key: value` pairs, not list"),
    "JSON list": ("[1, 2]", "must hold `key: value` pairs, not list"),
    "two documents": ("a: 1\n---\nb: 2\n", "not valid YAML"),
    "unclosed": ("a: {b: 1\n", "not valid YAML"),
    "tab": ("training:\n\tsteps: 5\n", "not valid YAML"),
    "python": ("results: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
    "python name": ("results: !!python/name:os.system\n", "not valid YAML"),
    "tuple": ("results: !!python/tuple [1]\n", "not valid YAML"),
    "own tag": ("results: !mine x\n", "not valid YAML"),
    "wrong bool": ("results: !!bool maybe\n", "not valid YAML"),
    "wrong time": ("results: !!timestamp later\n", "not valid YAML"),
    "no day": ("results: 2024-99-99\n", "not valid YAML"),
    "no number": ("results: !!int ''\n", "not valid YAML"),
    "long number": ("training: {steps: " + "9" * 5000 + "}\n", "not valid YAML"),
    "list as key": ("[1, 2]: 3\n", "not valid YAML"),
    "map as key": ("? {a: b}\n: 3\n", "not valid YAML"),
    "control": ("results: a\0b\n", "not valid YAML"),
    "octal": ("training: {steps: 017}\n", "YAML reads 017 in line 1 as 15"),
    "sexagesimal": ("a: 1\ntraining: {steps: 1:30}\n", "YAML reads 1:30 in line 2 as 90"),
    "template": ("__use_yte__: true\nresults: x\n", "templates are not supported"),
    "latin-1": ("a: 1\nresults: é\n".encode("latin-1"), "line 2 has the byte 0xe9, which is not UTF-8"),
    "UTF-16": ("results: x\n".encode("utf-16"), "line 1 has the byte 0xff, which is not UTF-8"),
    "packed": (b"\x1f\x8b\x08\x00abc", "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_that_says_nothing_certain_is_refused(tmp_path: Path, what: str) -> None:
    content, sentence = REFUSED[what]
    path = tmp_path / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(XtalrlError) as error:
        read_merged([path])
    assert sentence in str(error.value)
    assert str(path) in str(error.value)


def test_what_is_no_readable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "huge.yaml").touch()
    os.truncate(tmp_path / "huge.yaml", 11_000_000)
    os.mkfifo(tmp_path / "pipe")
    for path, sentence in {
        "nowhere.yaml": "`xtalrl init` makes one",
        ".": "is a folder",
        "pipe": "not a regular file",
        "/dev/null": "not a regular file",
        "huge.yaml": "11,000,000 bytes",
        "loop": "loop",
        "gone": "does not exist",
        "a\0b": "a\0b",
        "x" * 300: "xxx",
        "huge.yaml/x": "huge.yaml/x",
    }.items():
        with pytest.raises(XtalrlError) as error:
            read_mapping(path)
        assert sentence in str(error.value)


@pytest.mark.parametrize(
    "text", ["\ufeffresults: x\n", '{"results": "x"}', "\n\nresults: x\r\n", "a: &a {results: x}\n<<: *a\n", "results: &r x\n"]
)  # fmt: skip
def test_the_usual_forms_are_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert read_mapping(tmp_path / "a.yaml")["results"] == "x"


def test_merge_keys_and_aliases_are_no_repetition(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {steps: 5, batch_size: 3}\ntraining: {<<: *a, steps: 6}\nother: *a\n")
    content = read_mapping(tmp_path / "a.yaml")
    assert content["training"] == {"steps": 6, "batch_size": 3}
    assert content["other"] == content["a"]


values = st.recursive(
    st.none() | st.integers(0, 3) | st.lists(st.integers(0, 1), max_size=1),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), values), max_size=4))
def test_files_are_laid_over_each_other_as_snakemake_does(files: list[dict]) -> None:
    ours: dict = {}
    theirs: dict = {}
    for content in files:
        update(ours, copy.deepcopy(content))
        update_config(theirs, copy.deepcopy(content))
    assert ours == theirs


@pytest.mark.parametrize(
    ("arguments", "is_refused"),
    [
        (["--configfile", "a", "b"], False),
        (["--configfile", "a", "--config", "b=1"], False),
        (["--configfile", "a", "--configfile", "b"], True),
        (["--configfile=a", "--configfile=b"], True),
        (["--configfiles", "a", "-n", "--configfile", "b"], True),
        (["--config", "a=1", "-C", "b=2"], True),
        (["--config", "a=1", "b={a: 1}", "--cores", "a=1"], False),
        (["all", "-C", "a=1", "b=2", "a=3"], True),
        (["--config", "b={a: 1, c: {a: 2}}", "c={", "d=: :"], False),
        (["--config", "b={a: 1, a: 2}"], True),
    ],
)
def test_an_option_that_would_replace_the_first_is_refused(arguments: list[str], is_refused: bool) -> None:
    if not is_refused:
        return refuse_second_options(arguments)
    with pytest.raises(
        XtalrlError, match=r"given twice.* after one `--config|sets 'a' twice|the key 'a' stands in line 1 and again"
    ):
        refuse_second_options(arguments)
    return None


def run(root: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"COLUMNS": "400"},
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def test_several_files_mean_the_same_to_both(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"results: {tmp_path}/first\nstructures: {{source: demo}}\n")
    (tmp_path / "b.json").write_text(json.dumps({"results": f"{tmp_path}/second"}))
    files = [str(tmp_path / "a.yaml"), str(tmp_path / "b.json")]
    xtalrl = ["-c", "from xtalrl.commands.cli import app; app()", "summary"]
    snakemake = ["-m", "snakemake", "--dry-run", "structures"]
    assert f"{tmp_path}/second" in run(root, *xtalrl, "--configfile", *files)
    planned = run(root, *snakemake, "--configfile", *files)
    assert f"{tmp_path}/second/structures/demo/train.csv" in planned
    twice = ["--configfile", files[0], "--configfile", files[1]]
    for command in (xtalrl, snakemake):
        assert "name all files after one `--configfile`" in run(root, *command, *twice)


def test_the_workflow_reads_its_files_strictly(root: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("training:\n  steps: 5\n  steps: 6\n")
    command = [
        "-m",
        "snakemake",
        "--dry-run",
        "structures",
        "--configfile",
        "config/test.yaml",
        str(tmp_path / "a.yaml"),
    ]
    assert "'steps' stands in line 2 and again in line 3" in run(root, *command)
    with pytest.raises(XtalrlError, match="'steps' stands in line 2"):
        load(root / "config/test.yaml", tmp_path / "a.yaml")
