"""Downloads: whether a server can be reached, answered within seconds, and Minari's own."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlparse

import minari

from torchrl_td.data.mazes.record import staged
from torchrl_td.data.sources.hdf5 import one_line
from torchrl_td.errors import InputError

PATIENCE = 6.0
"""Seconds to wait for a server's first answer."""

_REMOTES = {"hf": "https://huggingface.co", "gcp": "https://storage.googleapis.com"}


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


def download_minari(dataset_id: str, name: str, path: Path) -> None:
    """Fetch a dataset from Minari's remote; it appears whole or not at all."""
    others = _other_versions(dataset_id, path)
    remedy = f"run 'minari download {dataset_id}' where there is a network and copy it to {path}"
    if others:
        remedy = f"use {', '.join(others)}, which is here, or {remedy}"
    remote = os.environ.get("MINARI_REMOTE", "hf://farama-minari").partition("://")[0]
    url = os.environ.get("HF_ENDPOINT") or _REMOTES["hf"] if remote == "hf" else _REMOTES[remote]
    require_network(url, f"{name}: not found at {path}, and", remedy)
    try:
        with staged(dataset_id), contextlib.redirect_stdout(io.StringIO()):
            minari.download_dataset(dataset_id)
    except Exception as error:  # whatever the remote's library raises
        raise InputError(
            f"{name}: not found at {path}, and not downloaded ({one_line(error)}); {remedy}"
        ) from error


def _other_versions(dataset_id: str, path: Path) -> list[str]:
    """The ids of the same dataset's versions that are here.

    Minari's own list of local datasets fails where the name of any folder among them is no id.
    """
    name = dataset_id.rpartition("-v")[0]
    folders = sorted(path.parent.glob(f"{path.name.rpartition('-v')[0]}-v*/data"))
    ids = [dataset_id.removesuffix(path.name) + folder.parent.name for folder in folders]
    return [one for one in ids if one.rpartition("-v")[0] == name]
