"""Protocols: strict files, and a digest that changes with every physical setting."""

from __future__ import annotations

import pytest
import yaml
from dft_data import sssp

from xtalrl.dft.protocols import PROTOCOLS, Protocol, known_protocols, load_protocol
from xtalrl.errors import XtalrlError


def test_the_protocols_of_the_project() -> None:
    assert known_protocols() == ["demo", "paper", "paper-fast", "recommended"]
    digests = {load_protocol(name).digest(sssp()) for name in known_protocols()}
    assert len(digests) == 4


def test_cutoffs_come_from_the_protocol_or_the_family() -> None:
    family = sssp()
    assert load_protocol("paper").cutoffs_ry(family, ["Si", "O"]) == (30, 245)
    assert load_protocol("recommended").cutoffs_ry(family, ["Si", "O"]) == (50, 400)


def _leaves(content: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [
        leaf
        for key, value in content.items()
        for leaf in (_leaves(value, (*path, key)) if isinstance(value, dict) else [(*path, key)])
    ]


def test_the_digest_changes_with_every_setting_and_with_the_family() -> None:
    protocol, family = load_protocol("paper-fast"), sssp()
    content = protocol.model_dump()
    digests = {protocol.digest(family)}
    leaves = [leaf for leaf in _leaves(content) if leaf[0] not in ("name", "description", "nbnd", "occupations")]
    other = {"insulators": ("H",), "smearing": "gaussian", "diagonalization": "cg", "kpoints": (4, 4, 4)}
    for leaf in leaves:
        changed = protocol.model_dump()
        section = changed
        for key in leaf[:-1]:
            section = section[key]
        section[leaf[-1]] = other.get(leaf[-1]) or section[leaf[-1]] / 2 if leaf[-1] != "extra_bands" else 5
        if leaf[-1] == "electron_maxstep":
            section[leaf[-1]] = 7
        digests.add(Protocol.model_validate(changed).digest(family))
    assert len(digests) == len(leaves) + 1
    fewer = family.model_copy(update={"elements": {"Si": family.elements["Si"]}})
    assert protocol.digest(fewer) not in digests
    renamed = protocol.model_copy(update={"name": "mine", "description": "another"})
    assert renamed.digest(family) == protocol.digest(family)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ecut": 30}, "ecut"),
        ({"nbnd": 256}, "nbnd"),
        ({"ecutwfc_ry": "family"}, "both"),
        ({"conv_thr_ry": -1}, "conv_thr_ry"),
        ({"occupations": "smearing"}, "occupations"),
    ],
)
def test_a_wrong_file_gets_a_sentence(tmp_path, change: dict, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load((PROTOCOLS / "paper-fast.yaml").read_text()) | change))
    with pytest.raises(XtalrlError, match=message):
        load_protocol(str(path))


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(XtalrlError, match="paper, paper-fast, recommended"):
        load_protocol("sssp")


def test_a_protocol_of_ones_own(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((PROTOCOLS / "paper.yaml").read_text().replace("[3, 3, 3]", "[4, 4, 4]"))
    assert load_protocol(str(path)).name == "mine"
    assert load_protocol(str(path)).kpoints == (4, 4, 4)
