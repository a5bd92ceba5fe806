"""The one exception a user's mistake raises."""

from __future__ import annotations


class TDError(ValueError):
    """A mistake that the user can mend: bad data, a wrong setting, a missing file.

    The message is one line that names the cause and the remedy. Command line
    programs print it without a traceback.
    """
