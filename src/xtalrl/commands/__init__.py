"""The commands that a person types, and the checks behind them."""

import sys


def main() -> None:
    """The command `xtalrl`. Where the packages that it needs are missing, it says which extra of xtalrl has them."""
    try:
        from xtalrl.commands.cli import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "xtalrl":
            raise
        sys.exit(
            f"The Python package {error.name!r} is missing: the command `xtalrl` needs xtalrl with its extras. "
            'Run `pip install "xtalrl[train,workflow]"`, or name the path of the wheel or clone instead of `xtalrl`.'
        )
    app()
