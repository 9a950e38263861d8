"""A digest of the code that decides what a policy learns."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

_SOURCES = Path(__file__).parents[1]
_PREFIXES = ("xtalrl.rl", "xtalrl.elements")


@functools.cache
def digest_of_code(module: str = "xtalrl.rl.learner") -> str:
    """SHA-256 of the code of a module and of all modules of `xtalrl.rl` that it needs, without comments, docstrings and layout.

    A checkpoint of a version with other code is not taken for what this version would have learned. Code that reads, writes or explains
    may change in between, and so may docstrings.
    """
    code = {name: ast.unparse(_without_docstrings(tree)) for name, tree in _trees(module).items()}
    return hashlib.sha256("\n".join(f"# {name}\n{code[name]}" for name in sorted(code)).encode()).hexdigest()


def _trees(module: str) -> dict[str, ast.Module]:
    """The module and all modules that it imports, anywhere in it, directly or indirectly."""
    trees: dict[str, ast.Module] = {}
    wanted = [module]
    while wanted:
        name = wanted.pop()
        path = _file_of(name)
        if name in trees or path is None or not name.startswith(_PREFIXES):
            continue
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(trees[name]):
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                wanted += [alias.name for alias in node.names]
    return trees


def _file_of(module: str) -> Path | None:
    path = _SOURCES.joinpath(*module.split(".")[1:])
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [  # type: ignore[attr-defined]
                statement
                for statement in body
                if not (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                    and isinstance(statement.value.value, str)
                )
            ]
    return tree
