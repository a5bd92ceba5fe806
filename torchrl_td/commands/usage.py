"""Help of the commands, with examples that its reader can run."""

from __future__ import annotations

import re
import sys

from torchrl_td.advice import command
from torchrl_td.experiment.streams import write_to


def usage(text: str) -> str:
    """A command's help as its reader calls it: in a checkout, as the example of the same name.

    Args:
        text: with commands as ``td-data``.
    """
    return re.sub(r"\btd-(?:offline|evaluate|data|demo)\b", lambda name: command(name[0]), text)


def help_asked(text: str) -> bool:
    """Prints a command's help where its words ask for it.

    Args:
        text: the help.

    Returns:
        Whether they do; there is nothing else to be done then.
    """
    asked = bool({"-h", "--help"} & set(sys.argv[1:]))
    if asked:
        write_to(sys.stdout, usage(text).strip() + "\n")
    return asked
