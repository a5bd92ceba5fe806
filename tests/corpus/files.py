"""Small data files of others, one a kind, each with the line that refuses it, or as it loads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.data.helpers import main_file

STEPS = 12
ENTRIES = {
    "observations": np.random.default_rng(0).normal(size=(STEPS, 3)).astype(np.float32),
    "actions": np.random.default_rng(1).uniform(-1, 1, size=(STEPS, 2)).astype(np.float32),
    "rewards": np.arange(STEPS, dtype=np.float32),
    "terminals": np.arange(STEPS) % 4 == 3,
    "timeouts": np.zeros(STEPS, bool),
}
Change = Callable[[h5py.File], Any]


def d4rl_file(path: Path, change: Change | None = None) -> Path:
    """A small D4RL file, changed."""
    with h5py.File(path, "w") as file:
        for key, value in ENTRIES.items():
            file[key] = value
        if change is not None:
            change(file)
    return path


def replace(key: str, **settings: Any) -> Change:
    """One entry written otherwise."""

    def change(file: h5py.File) -> None:
        del file[key]
        file.create_dataset(key, **settings)

    return change


def link(key: str, to: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file[key]
        file[key] = to

    return change


def loop(file: h5py.File) -> None:
    del file["observations"]
    file["observations"], file["there"] = h5py.SoftLink("/there"), h5py.SoftLink("/observations")


def through_a_link(file: h5py.File) -> None:
    """A link within the file, over one that leaves it."""
    del file["observations"]
    file["out"] = h5py.ExternalLink("secret.hdf5", "/")
    file["observations"] = h5py.SoftLink("/out/observations")


def virtual(file: h5py.File) -> None:
    del file["observations"]
    layout = h5py.VirtualLayout((STEPS, 3), np.float32)
    layout[:] = h5py.VirtualSource("secret.hdf5", "observations", (STEPS, 3))
    file.create_virtual_dataset("observations", layout)


def null(file: h5py.File) -> None:
    del file["rewards"]
    file["rewards"] = h5py.Empty("f")


D4RL: dict[str, tuple[Change, str]] = {
    "external link": (
        link("observations", h5py.ExternalLink("secret.hdf5", "/observations")),
        "observations is a link to another file",
    ),
    "external link behind a link": (through_a_link, "out is a link to another file"),
    "external storage": (
        replace(
            "observations",
            shape=(STEPS, 3),
            dtype=np.float32,
            external=[("secret.hdf5", 0, STEPS * 12)],
        ),
        "observations has its numbers in another file",
    ),
    "virtual": (virtual, "observations has its numbers in another file"),
    "dangling link": (
        link("actions", h5py.SoftLink("/nowhere")),
        "is a link that leads nowhere",
    ),
    "looping links": (loop, "is a link that leads nowhere"),
    "null dataspace": (null, "rewards is not an array with one row a step"),
    "scalar": (link("rewards", np.float32(3)), "rewards is not an array with one row a step"),
    "width 0": (replace("actions", shape=(STEPS, 0), dtype="f4"), "actions holds no number a step"),
    "4e9 rows": (
        lambda f: [
            replace(k, shape=(4 * 10**9, *v.shape[1:]), dtype=v.dtype, chunks=(99, *v.shape[1:]))(f)
            for k, v in ENTRIES.items()
        ],
        "observations claims 4.8e.10 bytes and the file holds 0 of them",
    ),
    "width 1e8": (
        replace(
            "observations", shape=(STEPS, 10**8), dtype=np.float32, chunks=(1, 99), compression=1
        ),
        "observations claims 4.8e.09 bytes",
    ),
    "complex": (
        replace("actions", data=np.ones((STEPS, 2), complex)),
        "actions has dtype complex128",
    ),
    "NaN flags": (
        replace("terminals", data=np.full(STEPS, np.nan)),
        "terminals must be one 0 or 1",
    ),
    "three flags": (replace("terminals", data=np.ones((STEPS, 3))), "terminals must be one 0 or"),
    "1e30": (
        replace("observations", data=np.full((STEPS, 3), 1e30)),
        r"observations exceeds 1e\+18",
    ),
    "1e300": (replace("actions", data=np.full((STEPS, 2), 1e300)), "actions holds NaN or Inf"),
}


UNUSUAL: dict[str, Change] = {
    "big-endian": lambda f: [
        replace(k, data=ENTRIES[k].astype(">f4"))(f) for k in ("actions", "rewards")
    ],
    "long double": replace("rewards", data=ENTRIES["rewards"].astype(np.longdouble)),
    "unsigned": replace("rewards", data=ENTRIES["rewards"].astype(np.uint64)),
    "link within": lambda f: (
        f.move("actions", "there"),
        f.__setitem__("actions", h5py.SoftLink("/there")),
    ),
    "compressed": replace("observations", data=ENTRIES["observations"], compression="gzip"),
    "flags as floats": replace("terminals", data=ENTRIES["terminals"].astype(np.float64)[:, None]),
}


def on_file(change: Change) -> Callable[[], None]:
    """Something done to the dataset's numbers."""

    def run() -> None:
        with h5py.File(main_file("made/strange-v0"), "a") as file:
            change(file)

    return run


def metadata_file() -> Path:
    return main_file("made/strange-v0").parent / "metadata.json"


def on_metadata(**replaced: Any) -> Callable[[], None]:
    def run() -> None:
        path = metadata_file()
        path.write_text(json.dumps({**json.loads(path.read_text()), **replaced}))

    return run


def each_episode(key: str, value: Callable[[int], Any]) -> Change:
    def change(file: h5py.File) -> None:
        for number in range(3):
            del file[f"episode_{number}/{key}"]
            file[f"episode_{number}/{key}"] = value(len(file[f"episode_{number}/rewards"]))

    return change


def huge(kind: str = "Box", **space: Any) -> str:
    return json.dumps({"type": kind, "dtype": "float32", "low": 0, "high": 1, **space})


GOAL_ENTRY = "observations/desired_goal/a"
MINARI: dict[str, tuple[Callable[[], Any], str]] = {
    "an entry is missing": (
        on_file(lambda f: f.__delitem__(f"episode_2/{GOAL_ENTRY}")),
        f"{GOAL_ENTRY} has no such entry in episode 2 and shape .3. in episode 0",
    ),
    "an entry is added": (
        on_file(lambda f: f.__setitem__("episode_1/observations/more", np.ones((2, 1)))),
        r"observations/more has shape \[1\] a step in episode 1 and none in episode 0",
    ),
    "an entry is of width 1": (
        on_file(
            lambda f: (
                f.__delitem__(f"episode_1/{GOAL_ENTRY}"),
                f.__setitem__(f"episode_1/{GOAL_ENTRY}", np.ones((2, 1))),
            )
        ),
        rf"{GOAL_ENTRY} has shape \[1\] a step in episode 1 and shape \[3\] in episode 0",
    ),
    "external link": (
        on_file(
            link("episode_1/actions", h5py.ExternalLink("main_data.hdf5", "/episode_0/actions"))
        ),
        "episode 1: actions is a link to another file",
    ),
    "a group holds itself": (
        on_file(
            lambda f: f.__setitem__("episode_0/observations/again", f["episode_0/observations"])
        ),
        "is nested without end",
    ),
    "unfinished": (
        on_file(
            lambda f: [
                each_episode(key, lambda n: np.zeros(n, bool))(f)
                for key in ("terminations", "truncations")
            ]
        ),
        "3 of 3 trajectories .11 of 11 steps. end neither",
    ),
    "NaN flags": (
        on_file(each_episode("terminations", lambda n: np.full(n, np.nan))),
        "terminations must be one 0 or 1 a step",
    ),
    "three flags": (
        on_file(each_episode("truncations", lambda n: np.ones((n, 3)))),
        "truncations must be one 0 or 1 a step",
    ),
    "1e9 episodes": (
        on_metadata(total_episodes=10**9),
        "3 episodes where metadata.json says 1000",
    ),
    "no count": (on_metadata(total_episodes="3"), "total_episodes is '3', no count"),
    "minus one": (on_metadata(total_steps=-1), "total_steps is -1, no count"),
    "another format": (on_metadata(data_format="pickle"), "data_format is 'pickle'"),
    "a space of 1e12": (
        on_metadata(action_space=huge(shape=[10**12])),
        "action_space has the shape",
    ),
    "a binary space": (
        on_metadata(action_space=huge("MultiBinary", n=10**12)),
        "action_space has the shape",
    ),
    "images": (
        on_metadata(observation_space=huge(shape=[64, 64, 3], dtype="uint8")),
        "observation_space is an image",
    ),
    "a space that is a number": (on_metadata(action_space="3"), "not a readable Minari dataset"),
    "nested without end": (on_metadata(action_space="[" * 99999), "not a readable Minari dataset"),
    "metadata of 20 MB": (on_metadata(description=" " * 20_000_000), "larger than 16 MiB"),
    "metadata in a pipe": (
        lambda: (metadata_file().unlink(), os.mkfifo(metadata_file())),
        "it has no metadata.json",
    ),
    "a folder": (
        lambda: (main_file("made/strange-v0").unlink(), main_file("made/strange-v0").mkdir()),
        "not a readable HDF5 file .it is no file",
    ),
}
