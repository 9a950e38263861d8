"""The rooms of docs/architecture.md: a module imports from its own room and from those below, and nothing imports in a circle."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
BASICS = (
    "errors", "files", "csv_files", "yaml_files", "progress", "live", "resources", "sharing", "archives", "fetch", "elements", "cells", "oxidation", "energies", "workflow",
    "slurm_executor",
)  # fmt: skip
FLOORS = (
    BASICS,
    ("tables", "table_checks"),
    ("structures", "rl"),
    ("dft", "config"),
    ("provenance", "metrics"),
    ("campaign",),
    ("report",),
    ("commands",),
)
"""The rooms from the ground up. Rooms of one floor do not know each other, but for `NEIGHBOURS` and the basics."""
NEIGHBOURS = {("tables", "table_checks")}


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (SOURCE / "xtalrl").rglob("*.py")
    }


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, bool]]:
    """Modules of ours that a module imports, and whether only a function of it does; what only type checkers see is left out."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, lazy) for alias in child.names if alias.name in known)
            if isinstance(child, ast.ImportFrom) and child.module in known:
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    yield inner if inner in known else child.module, lazy
            yield from visit(child, lazy or isinstance(child, ast.FunctionDef))

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False)


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


def test_every_room_has_its_floor() -> None:
    rooms = {room(module) for module in modules()} - {""}
    assert rooms == {name for rooms in FLOORS for name in rooms}


def test_nothing_is_imported_from_above() -> None:
    known = modules()
    wrong = []
    for module, path in known.items():
        for other, _ in imports(module, path, known):
            here, there = room(module), room(other)
            if not here or not there or here == there or (here, there) in NEIGHBOURS:
                continue
            same = floor(there) == floor(here) and here not in BASICS
            if floor(there) > floor(here) or same:
                wrong.append(f"{module} imports {other}")
    assert not wrong


def test_no_module_imports_itself_by_way_of_others() -> None:
    known = modules()
    graph = {
        module: {other for other, lazy in imports(module, path, known) if not lazy and other != module}
        for module, path in known.items()
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(known)  # CycleError names the circle


def test_no_two_modules_have_one_name() -> None:
    names = Counter(module.rsplit(".", 1)[-1] for module, path in modules().items() if path.stem != "__init__")
    assert not {name for name, n in names.items() if n > 1}


def test_no_two_classes_have_one_name() -> None:
    names = Counter(
        node.name.lstrip("_")
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert not {name for name, n in names.items() if n > 1}


@pytest.mark.parametrize("heavy", ["pymatgen", "ase", "pandas", "scipy", "smact"])
def test_a_gpu_node_needs_little(heavy: str) -> None:
    found = [
        path.name
        for path in (SOURCE / "xtalrl/rl").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == heavy for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == heavy)
    ]
    assert not found
