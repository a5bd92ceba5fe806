"""The one exception a user's mistake raises, and others in one line."""

from __future__ import annotations


class TDError(ValueError):
    """A mistake that the user can mend: bad data, a wrong setting, a missing file.

    The message is one line that names the cause and the remedy. Command line
    programs print it without a traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its type's name if it has none.

    Examples:
        >>> from torchrl_td.errors import first_line
        >>> first_line(RuntimeError("no memory\\nat 0x7f")), first_line(KeyError())
        ('no memory', 'KeyError')
    """
    return str(error).splitlines()[0] if str(error) else type(error).__name__
