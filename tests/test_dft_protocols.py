"""Protocols: strict files, and a digest that changes with every physical setting."""

from __future__ import annotations

import pytest
import yaml
from dft_data import sssp

from xtalrl.dft.protocols import PROTOCOLS, Protocol, known_protocols, load_protocol
from xtalrl.dft.pseudopotentials import describe_family, known_families
from xtalrl.errors import XtalrlError


def test_the_protocols_of_the_project() -> None:
    assert known_protocols() == ["demo", "paper", "paper-fast", "sssp"]
    digests = {load_protocol(name).digest(sssp()) for name in known_protocols()}
    assert len(digests) == 4


def test_cutoffs_come_from_the_protocol_or_the_family() -> None:
    family = sssp()
    assert load_protocol("paper").cutoffs_ry(family, ["Si", "O"]) == (30, 245)
    assert load_protocol("sssp").cutoffs_ry(family, ["Si", "O"]) == (50, 400)


def _leaves(content: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    return [
        leaf
        for key, value in content.items()
        for leaf in (_leaves(value, (*path, key)) if isinstance(value, dict) else [(*path, key)])
    ]


def test_the_digest_changes_with_every_setting_and_with_the_family() -> None:
    content, family = load_protocol("paper-fast").model_dump(), sssp()
    content["references"] |= {
        "starting_magnetization": {"Fe": 0.5},
        "atom": {"box_angstrom": 10, "starting_magnetization": 0.5, "elements": ("P",)},
    }
    protocol = Protocol.model_validate(content)
    digests = {protocol.digest(family)}
    leaves = [leaf for leaf in _leaves(content) if leaf[0] not in ("name", "description", "nbnd", "occupations")]
    other = {
        "insulators": ("H",),
        "elements": ("H",),
        "smearing": "methfessel-paxton",
        "diagonalization": "cg",
        "kpoints": (4, 4, 4),
    }
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
    content["references"]["atom"]["kpoints"] = None
    assert Protocol.model_validate(content).digest(family) == protocol.digest(family), "its default"
    renamed = protocol.model_copy(update={"name": "mine", "description": "another"})
    assert renamed.digest(family) == protocol.digest(family)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ecut": 30}, "`ecut` is not a known key; allowed here: name, description, ecutwfc_ry"),
        ({"nbnd": 256}, "give `nbnd` or `extra_bands`, and one of them only"),
        ({"ecutwfc_ry": "family"}, "both numbers or both `family`"),
        ({"ecutwfc_ry": "sssp"}, "`ecutwfc_ry` is 'sssp': it must be a number of Ry, or `family`"),
        ({"ecutrho_ry": 100}, "`ecutrho_ry` is 100: at least 4 times `ecutwfc_ry` is needed"),
        ({"conv_thr_ry": -1}, "`conv_thr_ry` is -1: it must be greater than 0"),
        ({"ecutrho_ry": float("inf")}, "`ecutrho_ry` is inf: it must be a number of Ry"),
        ({"mixing_beta": 2}, "`mixing_beta` is 2: it must be less than or equal to 1"),
        (
            {"references.starting_magnetization": {"Fe": 3}},
            r"`references.starting_magnetization` is \{'Fe': 3\}: it must be",
        ),
        ({"extra_bands": 0}, "`extra_bands` is 0: it must be greater than or equal to 1"),
        ({"occupations": "smearing"}, "`occupations` is 'smearing': it must be 'fixed'"),
        ({"kpoints": [3, 3]}, r"`kpoints` is \[3, 3\]: it must be three whole numbers"),
        ({"kpoints": None}, "`kpoints` is None: it must be three whole numbers"),
        ({"references.smearing": "cold"}, "`references.smearing` is 'cold': it must be 'marzari-vanderbilt'"),
        ({"references.insulators": ["Q"]}, r"`references.insulators` is \['Q'\]: 'Q' is not an element"),
        ({"references.atom": {"box": 10}}, "`references.atom.box_angstrom` is missing"),
    ],
)
def test_a_wrong_file_gets_a_sentence(tmp_path, change: dict, message: str) -> None:
    content = yaml.safe_load((PROTOCOLS / "paper-fast.yaml").read_text())
    for key, value in change.items():
        section, _, name = key.rpartition(".")
        (content[section] if section else content)[name] = value
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(XtalrlError, match=message) as error:
        load_protocol(str(path))
    assert str(error.value).startswith(f"{path} is not a valid protocol")


def test_a_file_that_is_no_text_gets_a_sentence(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(XtalrlError, match=r"mine\.yaml is not valid YAML"):
        load_protocol(str(path))


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(XtalrlError, match="paper, paper-fast, sssp"):
        load_protocol("recommended")


def test_a_protocol_of_ones_own(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((PROTOCOLS / "paper.yaml").read_text().replace("[3, 3, 3]", "[4, 4, 4]"))
    assert load_protocol(str(path)).name == "mine"
    assert load_protocol(str(path)).kpoints == (4, 4, 4)


def test_the_documents_list_every_protocol_and_family(root) -> None:
    text = (root / "docs/dft.md").read_text()
    for name in known_protocols():
        assert f"| `{name}` |" in text
        bands = load_protocol(name).extra_bands
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}` |"))
        assert (f"occupied + {bands}" if bands else "256") in row
        assert f"{load_protocol(name).conv_thr_ry:.0e}".replace("e-0", "e-") in row
    for name in known_families():
        assert f"| `{name}` | {len(describe_family(name).elements)} |" in text
