"""What a message tells its reader to run: a checkout and an installed package differ in that."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_IN_CHECKOUT = (_PACKAGE.parent / "pyproject.toml").is_file()


def install(extra: str) -> str:
    """The line that installs an extra.

    Args:
        extra: as ``pyproject.toml`` names it.

    Examples:
        >>> from torchrl_td.advice import install
        >>> install("robotics").startswith("pip install ")
        True
    """
    return f"pip install -e '.[{extra}]'" if _IN_CHECKOUT else f"pip install 'torchrl_td[{extra}]'"


def resume(folder: str | Path) -> str:
    """The word that continues a run, as a shell and hydra take it.

    Args:
        folder: the run's.

    Examples:
        >>> from torchrl_td.advice import resume
        >>> resume("runs/first")
        'resume=runs/first'
        >>> print(resume("runs/my first"))
        'resume="runs/my first"'
    """
    plain = re.fullmatch(r"[\w./:+-]+", str(folder), re.ASCII)
    return f"resume={folder}" if plain else shlex.quote(f'resume="{folder}"')


def command(name: str) -> str:
    """How a program of ours is called.

    Args:
        name: of the console command, as ``td-data``.

    Examples:
        >>> from torchrl_td.advice import command
        >>> command("td-data") in ("td-data", "python examples/td_data.py")
        True
    """
    return f"python examples/{name.replace('-', '_')}.py" if _IN_CHECKOUT else name
