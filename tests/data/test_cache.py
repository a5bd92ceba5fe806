"""The cache: quick, small in memory, and never trusted where it or its source changed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from tests.data.helpers import SAMPLE, forked, same
from torchrl_td.data import cache as cache_module
from torchrl_td.data import load_episodes, load_with_identity
from torchrl_td.data import source as source_module
from torchrl_td.data.cache import cache_root
from torchrl_td.data.source import files_identity
from torchrl_td.data.sources import d4rl
from torchrl_td.errors import InputError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test alone."""
    monkeypatch.setenv("TORCHRL_TD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Path(shutil.copy(SAMPLE, tmp_path))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each reading of the source."""
    calls: list[int] = []
    read = d4rl._chunks
    monkeypatch.setattr(d4rl, "_chunks", lambda *a: calls.append(1) or read(*a))
    return calls


def folder_in(root: Path) -> Path:
    (found,) = root.iterdir()
    return found


def test_the_second_time_the_source_is_not_read(root: Path, file: Path, reads: list[int]) -> None:
    first = load_episodes(f"d4rl:{file}")
    second = load_episodes(f"d4rl:{file}")
    assert len(reads) == 1 and same(first, second)
    assert second["observation"].dtype == torch.float32
    assert not list(root.glob(".*"))  # nothing is left of the building


def test_without_cache_nothing_is_left(root: Path, file: Path, reads: list[int]) -> None:
    first = load_episodes(f"d4rl:{file}", cache=False)
    assert same(first, load_episodes(f"d4rl:{file}", cache=False)) and len(reads) == 2
    assert not root.exists()


def test_settings_have_caches_of_their_own(root: Path, file: Path, reads: list[int]) -> None:
    for limit in (None, 7, None, 7):
        load_episodes(f"d4rl:{file}", max_episode_steps=limit)
    assert len(reads) == 2


def test_a_changed_file_is_read_again(root: Path, file: Path, reads: list[int]) -> None:
    load_episodes(f"d4rl:{file}")
    before = file.stat()
    with h5py.File(file, "a") as content:
        content["rewards"][5] = 123.0
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # the contents alone tell
    assert load_episodes(f"d4rl:{file}")["next", "reward"][5] == 123
    assert len(reads) == 2
    os.utime(file, ns=(1, 1))
    load_episodes(f"d4rl:{file}")
    assert len(reads) == 3
    assert len(list(root.iterdir())) == 1  # the outdated one is gone


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "one bit": flip,
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:-4]),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"\0"),
    "empty": lambda p: p.write_bytes(b""),
    "gone": lambda p: p.unlink(),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["observation.bin", "episode.bin", "next.done.bin", "meta.json"])
def test_a_damaged_cache_is_built_anew(
    root: Path, file: Path, reads: list[int], damage: str, name: str
) -> None:
    want = load_episodes(f"d4rl:{file}", cache=False)
    load_episodes(f"d4rl:{file}")
    DAMAGES[damage](folder_in(root) / name)
    assert same(load_episodes(f"d4rl:{file}"), want) and len(reads) == 3
    assert same(load_episodes(f"d4rl:{file}"), want) and len(reads) == 3  # the new one is used


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": 1},
        {"count": 10**12},
        {"files": {}},
        {"files": {"observation": {"file": "../../x", "dtype": "float32", "shape": [39]}}},
        {"files": None},
    ],
)
def test_foreign_metadata_is_not_believed(
    root: Path, file: Path, reads: list[int], change: dict
) -> None:
    want = load_episodes(f"d4rl:{file}")
    meta = folder_in(root) / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), **change}))
    assert same(load_episodes(f"d4rl:{file}"), want) and len(reads) == 2


def test_changes_to_what_was_loaded_stay_in_memory(root: Path, file: Path) -> None:
    first = load_episodes(f"d4rl:{file}")
    untouched = first.clone()
    first["observation"].zero_()
    first["next", "reward"] += 1
    assert same(load_episodes(f"d4rl:{file}"), untouched)


def test_bad_data_leaves_no_cache(root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.hdf5"
    with h5py.File(SAMPLE) as source, h5py.File(bad, "w") as out:
        for key in source:
            out[key] = source[key][()]
        out["actions"][599, 3] = np.nan
    for _ in range(2):
        with pytest.raises(InputError, match="actions holds NaN or Inf, first in row 599"):
            load_episodes(f"d4rl:{bad}")
    assert not list(root.iterdir())


@pytest.mark.stranger("machines")
def test_a_cache_that_cannot_be_written_only_costs_time(
    root: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want = load_episodes(f"d4rl:{file}", cache=False)
    warnings: list[str] = []
    monkeypatch.setattr(cache_module.torchrl_logger, "warning", warnings.append)
    root.write_text("a file where the folder should be")
    assert same(load_episodes(f"d4rl:{file}"), want)
    assert len(warnings) == 1 and "TORCHRL_TD_CACHE" in warnings[0]


@pytest.mark.stranger("machines")
def test_a_full_disk_is_one_line(root: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache_module.Writer, "append", full)
    with pytest.raises(InputError, match=r"no room .*TORCHRL_TD_CACHE") as caught:
        load_episodes(f"d4rl:{file}")
    assert "\n" not in str(caught.value)
    assert not list(root.iterdir())


@pytest.mark.stranger("machines")
def test_no_room_for_the_cache_nor_for_anything_else(
    small_disk: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data is larger than the cache's disk and the temporary one."""
    (small_disk / "full").write_bytes(bytes((3 << 20) - (1 << 16)))
    monkeypatch.setenv("TORCHRL_TD_CACHE", str(small_disk / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(InputError, match=r"no room .*set TMPDIR or TORCHRL_TD_CACHE") as caught:
        load_episodes(f"d4rl:{file}")
    assert "\n" not in str(caught.value)
    assert not list(small_disk.glob("torchrl_td-*"))


def test_a_killed_process_leaves_nothing_that_is_believed(
    root: Path, file: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = cache_module.Writer.append

    def killed(*args: Any) -> None:
        append(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(cache_module.Writer, "append", killed)
        assert forked(lambda: load_episodes(f"d4rl:{file}")) == -signal.SIGKILL
    (left,) = root.iterdir()
    assert left.name.startswith(".building-")
    want = load_episodes(f"d4rl:{file}", cache=False)
    assert same(load_episodes(f"d4rl:{file}"), want) and len(reads) == 2
    assert left.exists()  # it could be another process at work
    os.utime(left, (time.time() - 7 * 3600,) * 2)
    load_episodes(f"d4rl:{file}", max_episode_steps=3)
    assert not left.exists()


def test_two_processes_at_once(root: Path, file: Path, tmp_path: Path) -> None:
    def load(number: int) -> None:
        found = load_with_identity(f"d4rl:{file}")[1]["hash"]
        (tmp_path / f"said{number}").write_text(found)

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda number: forked(lambda: load(number)), range(2)))
    assert ended == [0, 0]
    said = [(tmp_path / f"said{number}").read_text() for number in range(2)]
    assert said == [load_with_identity(f"d4rl:{file}")[1]["hash"]] * 2
    assert not list(root.glob(".*"))


@pytest.mark.stranger("data files")
def test_a_change_between_the_sampled_blocks_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large files are not read whole; the time of the change of state cannot be set back."""
    for name, value in {"_WHOLE": 0, "_SAMPLES": 2, "_SAMPLE": 16}.items():
        monkeypatch.setattr(source_module, name, value)
    path = tmp_path / "large.hdf5"
    path.write_bytes(bytes(4096))
    about, before = path.stat(), files_identity([path], path)
    assert files_identity([path], path) == before
    time.sleep(0.02)  # a file system's clock may tick in hundredths
    with path.open("r+b") as opened:
        opened.seek(2000)
        opened.write(b"another")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    after = files_identity([path], path)
    assert after["size"] == before["size"] and after["hash"] != before["hash"]


def anonymous() -> int:
    """Bytes of this process' memory that is neither a file's nor shared."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(x.split()[1]) for x in lines if x.startswith(("RssAnon", "RssShmem"))) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's accounts")
def test_memory_stays_bounded(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 300_000
    rng = np.random.default_rng(0)
    large = tmp_path / "hopper.hdf5"
    with h5py.File(large, "w") as out:
        out["observations"] = rng.normal(size=(count, 11)).astype(np.float32)
        out["actions"] = rng.uniform(-1, 1, size=(count, 3)).astype(np.float32)
        out["rewards"] = rng.uniform(size=count).astype(np.float32)
        out["terminals"] = np.zeros(count, dtype=bool)
        out["timeouts"] = np.arange(1, count + 1) % 1000 == 0
    monkeypatch.setattr(d4rl, "CHUNK_STEPS", 20_000)

    def measured() -> None:
        peak = before = anonymous()
        append = cache_module.Writer.append

        def watched(*args: Any) -> None:
            nonlocal peak
            append(*args)
            peak = max(peak, anonymous())

        monkeypatch.setattr(cache_module.Writer, "append", watched)
        data = load_episodes(f"d4rl:{large}")
        size = sum(v.numel() * v.element_size() for v in data.values(True, True))
        (tmp_path / "said").write_text(f"{peak - before} {size}")

    assert forked(measured) == 0
    peak, size = map(int, (tmp_path / "said").read_text().split())
    assert size > 35e6
    assert peak < 0.5 * size  # a part at a time, and no second copy


def test_where_caches_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHRL_TD_CACHE", "/a")
    monkeypatch.setenv("MINARI_DATASETS_PATH", "/b")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_root() == Path("/a")
    monkeypatch.delenv("TORCHRL_TD_CACHE")
    assert cache_root() == Path("/b/.torchrl_td")
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    assert cache_root() == Path("/c/torchrl_td")


def test_identity_follows_the_values_and_not_the_place(
    root: Path, file: Path, tmp_path: Path
) -> None:
    first = load_with_identity(f"d4rl:{file}")[1]
    assert json.loads(json.dumps(first)) == first
    assert first["source"] == f"d4rl:{file}" and first["path"] == str(file)
    assert first["size"] == file.stat().st_size
    assert (first["transitions"], first["episodes"]) == (600, 4)
    moved = load_with_identity(f"d4rl:{shutil.copy(file, tmp_path / 'door-moved.hdf5')}")[1]
    assert moved["hash"] == first["hash"] and moved["path"] != first["path"]
    data = load_episodes(f"d4rl:{file}")
    from_python = load_with_identity(data)[1]
    assert from_python["source"] == "tensordict" and from_python["path"] is None
    assert from_python["hash"] == first["hash"]
    data["action"][300, 2] += 1e-3
    assert load_with_identity(data)[1]["hash"] != first["hash"]
    assert load_with_identity(data)[1]["transitions"] == 600


def test_episodes_and_identity_of_one_reading(
    root: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is resolved and its files are checksummed once for both."""
    looked = []
    monkeypatch.setattr(
        cache_module, "files_identity", lambda *files: looked.append(1) or files_identity(*files)
    )
    episodes, identity = load_with_identity(f"d4rl:{file}")
    assert len(looked) == 1
    assert same(episodes, load_episodes(f"d4rl:{file}"))
    assert identity == load_with_identity(f"d4rl:{file}")[1]
    data, identity = load_with_identity(episodes)
    assert same(data, episodes) and identity == load_with_identity(episodes)[1]
