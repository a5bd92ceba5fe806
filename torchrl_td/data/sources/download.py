"""Whether a server can be reached, answered within seconds."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from urllib.parse import urlparse

from torchrl_td.errors import InputError

PATIENCE = 6.0
"""Seconds to wait for a server's first answer."""


def require_network(url: str, name: str, remedy: str) -> None:
    """Refuse to go on where the server of ``url`` does not answer within seconds.

    Libraries that download try again for long, and looking up a name cannot be
    interrupted, so it is asked once here, in a thread of its own.

    Args:
        url: of what is to be downloaded; proxies of the environment are used.
        name: what the message begins with.
        remedy: how to get it otherwise, for the message.

    Raises:
        InputError: no answer.
    """
    answer: list[str] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=PATIENCE):
                answer.append("")
        except urllib.error.HTTPError:
            answer.append("")  # it answered, if only to say no
        except (OSError, ValueError) as error:
            answer.append(" ".join(str(getattr(error, "reason", error)).split()))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    reason = answer[0] if answer else f"no answer in {PATIENCE:g} seconds"
    if reason:
        host = urlparse(url).hostname
        raise InputError(f"{name} {host} cannot be reached ({reason}); {remedy}")
