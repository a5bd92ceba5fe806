"""Episodes from Minari: what the files hold, in one order, and refused where they are broken."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import time
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from tensordict import TensorDict
from torchrl.envs import GymEnv, GymWrapper
from torchrl.envs.transforms import Reward2GoTransform

from torchrl_td.data import (
    check_matches_env,
    load_episodes,
    minari_torchrl,
    observation_keys,
    returns_to_go,
)
from torchrl_td.data import minari as minari_module
from torchrl_td.data.minari_torchrl import memmap_like_copies
from torchrl_td.data.pointmaze import make_pointmaze
from torchrl_td.errors import TDError

HAS_ARROW = importlib.util.find_spec("pyarrow") is not None
BOX = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64)
GOAL = gymnasium.spaces.Dict(
    {
        "observation": gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float64),
        "achieved_goal": gymnasium.spaces.Dict({"b": BOX, "a": BOX}),
        "desired_goal": gymnasium.spaces.Dict({"b": BOX, "a": BOX}),
    }
)


def draw(space: gymnasium.Space, count: int, rng: np.random.Generator) -> Any:
    """Random observations [count, ...] of a space."""
    if isinstance(space, gymnasium.spaces.Dict):
        return {key: draw(entry, count, rng) for key, entry in space.items()}
    return rng.normal(size=(count, *space.shape)).astype(space.dtype)


def make(
    dataset_id: str = "made/plain-v0",
    lengths: tuple[int, ...] = (4, 1, 6),
    space: gymnasium.Space = BOX,
    data_format: str = "hdf5",
) -> list[dict[str, Any]]:
    """Write a small Minari dataset anew; returns its episodes as they were given."""
    shutil.rmtree(minari.storage.get_dataset_path(dataset_id), ignore_errors=True)
    rng = np.random.default_rng(0)
    episodes = []
    for number, length in enumerate(lengths):
        ends = np.arange(length) == length - 1
        odd = number % 2 == 1
        episodes.append(
            {
                "observations": draw(space, length + 1, rng),
                "actions": rng.uniform(-1, 1, size=(length, 2)).astype(np.float32),
                "rewards": rng.normal(size=length),
                "terminations": ends & odd,
                "truncations": ends & (not odd),
            }
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # author, e-mail, permalink
        minari.create_dataset_from_buffers(
            dataset_id,
            [EpisodeBuffer(id=i, infos=None, **e) for i, e in enumerate(episodes)],
            observation_space=space,
            action_space=gymnasium.spaces.Box(-1, 1, (2,), np.float32),
            data_format=data_format,
        )
    return episodes


def main_file(dataset_id: str = "made/plain-v0") -> Path:
    return Path(minari.storage.get_dataset_path(dataset_id)) / "data" / "main_data.hdf5"


def check_equal(
    data: TensorDict, episodes: list[dict[str, Any]], vectors: list[np.ndarray]
) -> None:
    """What was loaded is what was given; ``vectors`` are the joined observations [T+1, O]."""
    lengths = [len(e["rewards"]) for e in episodes]
    assert torch.bincount(data["episode"]).tolist() == lengths
    for episode, vector, rows in zip(episodes, vectors, data.split(lengths), strict=True):
        assert np.array_equal(rows["observation"], vector[:-1].astype(np.float32))
        assert np.array_equal(rows["next", "observation"], vector[1:].astype(np.float32))
        assert np.array_equal(rows["action"], episode["actions"])
        assert np.array_equal(rows["next", "reward"][:, 0], episode["rewards"].astype(np.float32))
        assert np.array_equal(rows["next", "terminated"][:, 0], episode["terminations"])
        assert np.array_equal(rows["next", "truncated"][:, 0], episode["truncations"])
        done = episode["terminations"] | episode["truncations"]
        assert np.array_equal(rows["next", "done"][:, 0], done)
        total = np.cumsum(episode["rewards"][::-1])[::-1]
        assert np.allclose(rows["returns_to_go"][:, 0], total, atol=1e-5)
        assert np.allclose(rows["next", "returns_to_go"][:, 0], [*total[1:], 0], atol=1e-5)


def test_pointmaze_equals_its_file(tiny_pointmaze: str) -> None:
    data = load_episodes(tiny_pointmaze)
    episodes, vectors = [], []
    with h5py.File(main_file("pointmaze/umaze-v0")) as file:
        for number in range(12):
            group = file[f"episode_{number}"]
            columns = ("actions", "rewards", "terminations", "truncations")
            episodes.append({key: group[key][()] for key in columns})
            entries = [group["observations"][key][()] for key in ("observation", "desired_goal")]
            vectors.append(np.concatenate(entries, -1))  # (x, y, vx, vy, goal x, goal y)
    check_equal(data, episodes, vectors)
    assert data.shape == (3600,) and data["observation"].shape == (3600, 6)
    for key, value in data.items(True, True):
        kind = torch.int64 if key == "episode" else torch.bool if key[-1] in ENDS else torch.float32
        assert value.dtype == kind and value.device == torch.device("cpu"), key
    moved = load_episodes(tiny_pointmaze, device="meta")
    assert moved["observation"].device.type == "meta"


ENDS = ("done", "terminated", "truncated")
FORMATS = [
    "hdf5",
    pytest.param("arrow", marks=pytest.mark.skipif(not HAS_ARROW, reason="needs pyarrow")),
]


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("lengths", [(4, 1, 6), (5,), (1,), (1, 1)])
def test_every_format_and_length(data_format: str, lengths: tuple[int, ...]) -> None:
    episodes = make(lengths=lengths, data_format=data_format)
    data = load_episodes("minari:made/plain-v0")
    check_equal(data, episodes, [e["observations"] for e in episodes])


@pytest.mark.parametrize("data_format", FORMATS)
def test_nested_goals_are_joined_in_the_documented_order(data_format: str) -> None:
    episodes = make("made/goal-v0", space=GOAL, data_format=data_format)
    seen = [e["observations"] for e in episodes]
    want = [
        np.concatenate([o["observation"], o["desired_goal"]["a"], o["desired_goal"]["b"]], -1)
        for o in seen
    ]
    check_equal(load_episodes("minari:made/goal-v0"), episodes, want)
    chosen = [("achieved_goal", "b"), "observation"]
    want = [np.concatenate([o["achieved_goal"]["b"], o["observation"]], -1) for o in seen]
    check_equal(load_episodes("minari:made/goal-v0", observation_keys=chosen), episodes, want)


@pytest.mark.parametrize("through_torchrl", [True, False])
@pytest.mark.parametrize("chunk", [1, 5, 7])
def test_parts_join_seamlessly(
    chunk: int, through_torchrl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = make(lengths=(4, 1, 6, 2, 3))
    monkeypatch.setattr(minari_module, "CHUNK_STEPS", chunk)
    monkeypatch.setattr(minari_module, "_FEW", 5000 if through_torchrl else 0)
    data = load_episodes("minari:made/plain-v0", cache=False)
    check_equal(data, episodes, [e["observations"] for e in episodes])


def test_torchrls_own_class_reads_it_and_is_not_believed_blindly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make()
    used = []

    class Watched(minari_torchrl.MinariExperienceReplay):
        def __init__(self, *args: Any, **kwargs: Any):
            used.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(minari_torchrl, "MinariExperienceReplay", Watched)
    load_episodes("minari:made/plain-v0", cache=False)
    assert used
    # As it is without our care, it gives zeros: that must not pass for data.
    monkeypatch.setattr(minari_torchrl, "memmap_like_copies", contextlib.nullcontext)
    with pytest.raises(TDError, match="of episode 0 is not what the file holds"):
        load_episodes("minari:made/plain-v0", cache=False)


def test_memmap_like_is_itself_again() -> None:
    before = TensorDict.memmap_like
    with pytest.raises(RuntimeError), memmap_like_copies():
        assert TensorDict.memmap_like is TensorDict.memmap
        raise RuntimeError
    assert TensorDict.memmap_like is before


@given(
    st.lists(
        st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12), min_size=1, max_size=8
    )
)
def test_returns_to_go_closed_form(rewards: list[list[float]]) -> None:
    flat = torch.tensor([r for episode in rewards for r in episode])
    done = torch.tensor([i == len(e) - 1 for e in rewards for i in range(len(e))])
    want = [sum(e[i:]) for e in rewards for i in range(len(e))]
    got = returns_to_go(flat, done)
    assert got.dtype == torch.float64
    assert np.allclose(got, want, rtol=1e-9, atol=1e-6)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_returns_to_go_equal_torchrls(lengths: list[int]) -> None:
    reward = torch.randn(sum(lengths), generator=torch.Generator().manual_seed(0)).double()
    done = torch.zeros(sum(lengths), dtype=torch.bool)
    done[torch.tensor(lengths).cumsum(0) - 1] = True
    transform = Reward2GoTransform(gamma=1.0, out_keys=["reward_to_go"])
    data = TensorDict(
        {"next": {"reward": reward[:, None], "done": done[:, None], "terminated": done[:, None]}},
        batch_size=[sum(lengths)],
    )
    want = transform.inv(data)["reward_to_go"].squeeze(-1)
    assert torch.allclose(returns_to_go(reward, done), want.double(), atol=1e-5)


def test_long_sums_stay_exact() -> None:
    reward = torch.full((1_000_000,), 0.1)
    done = torch.zeros(1_000_000, dtype=torch.bool)
    done[499_999::500_000] = True
    assert returns_to_go(reward, done)[500_000].item() == pytest.approx(
        500_000 * float(reward[0]), rel=1e-12
    )


def edit(change: Callable[[h5py.File], Any]) -> Callable[[], None]:
    def run() -> None:
        with h5py.File(main_file(), "a") as file:
            change(file)

    return run


def replaced(key: str, value: Any) -> Callable[[], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        if value is not None:
            file[key] = value

    return edit(change)


def metadata(**replace: Any) -> Callable[[], None]:
    def run() -> None:
        path = main_file().parent / "metadata.json"
        content = {**json.loads(path.read_text()), **replace}
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return run


nan = np.ones((7, 3))
nan[3, 1] = np.nan
BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "truncated": (
        lambda: main_file().write_bytes(main_file().read_bytes()[:4000]),
        "not a readable HDF5 file .*truncated.* get it again",
    ),
    "foreign": (lambda: main_file().write_bytes(b"PK\3\4" * 99), "not a readable HDF5 file"),
    "no file": (lambda: main_file().unlink(), "not a readable Minari dataset"),
    "no metadata": (
        lambda: (main_file().parent / "metadata.json").unlink(),
        "not a readable Minari dataset",
    ),
    "broken metadata": (
        lambda: (main_file().parent / "metadata.json").write_text("{"),
        "not a readable Minari dataset",
    ),
    "no spaces": (metadata(observation_space=None), "metadata.json has no 'observation_space'"),
    "other id": (metadata(dataset_id="made/plain-v3"), "it holds made/plain-v3, not made/plain-v0"),
    "no episodes": (metadata(total_episodes=0), "it holds no episodes"),
    "missing episode": (metadata(total_episodes=4), "episode 3 is missing; delete"),
    "no actions": (replaced("episode_2/actions", None), "episode 2 has no 'actions'"),
    "no observations": (
        replaced("episode_1/observations", None),
        "episode 1 has no 'observations'",
    ),
    "lengths": (
        replaced("episode_2/rewards", np.ones(5)),
        "episode 2: rewards has 5 rows where 6 actions need 6",
    ),
    "one observation short": (
        replaced("episode_2/observations", np.ones((6, 3))),
        "episode 2: observations has 6 rows where 6 actions need 7",
    ),
    "zero length": (
        edit(
            lambda f: [
                (f.__delitem__(f"episode_1/{k}"), f.__setitem__(f"episode_1/{k}", v))
                for k, v in {
                    "actions": np.ones((0, 2), np.float32),
                    "observations": np.ones((1, 3)),
                }.items()
            ]
        ),
        "episode 1 has no steps; remove it",
    ),
    "text": (
        replaced("episode_0/observations", np.array([b"x"] * 5)),
        r"episode 0: observations has dtype \|S1, not numbers",
    ),
    "integer actions": (
        edit(
            lambda f: [
                (f.__delitem__(f"episode_{i}/actions"), f.__setitem__(f"episode_{i}/actions", v))
                for i, v in enumerate([np.ones((n, 2), np.int64) for n in (4, 1, 6)])
            ]
        ),
        "actions has dtype torch.int64, but only continuous",
    ),
    "NaN": (
        replaced("episode_2/observations", nan),
        r"observations holds NaN or Inf, first in row 8 \(episode 2\); drop or mend",
    ),
    "other width": (
        replaced("episode_2/observations", np.ones((7, 4))),
        r"made/plain-v0: ",
    ),
    "zeros": (
        edit(
            lambda f: [
                f[f"episode_{i}/actions"].write_direct(np.zeros((n, 2), np.float32))
                for i, n in enumerate((4, 1, 6))
            ]
        ),
        "action is all zero",
    ),
}


@pytest.mark.parametrize("through_torchrl", [True, False])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_datasets_are_refused_in_one_line(
    case: str, through_torchrl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    make()
    harm, message = BROKEN[case]
    harm()
    if not through_torchrl:
        monkeypatch.setattr(minari_module, "_FEW", 0)
        message = OTHERWISE.get(case, message)
    with pytest.raises(TDError, match=message) as caught:
        load_episodes("minari:made/plain-v0")
    assert "made/plain-v0" in str(caught.value) and "\n" not in str(caught.value)


# What Minari's own account of its episodes says of them.
OTHERWISE = {
    "truncated": "not a readable Minari dataset",
    "foreign": "not a readable Minari dataset",
    "missing episode": "not a readable Minari dataset .*episode_3",
}


def test_metadata_that_names_an_environment_runs_nothing() -> None:
    make()
    spec = '{"id": "X-v0", "entry_point": "os:mkdir", "kwargs": {"path": "harm"}}'
    metadata(observation_space=None, env_spec=spec)()
    with pytest.raises(TDError, match="has no 'observation_space'"):
        load_episodes("minari:made/plain-v0")
    assert not Path("harm").exists()


@pytest.mark.parametrize("dataset_id", ["plain", "../x", "a b-v0", "made/plain-vx"])
def test_what_is_no_id(dataset_id: str) -> None:
    with pytest.raises(TDError, match="no Minari id, which looks like"):
        load_episodes(f"minari:{dataset_id}")


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    make()

    def no_answer(url: str, name: str, remedy: str) -> None:
        raise TDError(f"{name} {url} cannot be reached; {remedy}")

    monkeypatch.setattr(minari_module, "require_network", no_answer)
    with pytest.raises(TDError, match="use made/plain-v0, which is here, or run 'minari downl"):
        load_episodes("minari:made/plain-v7")


def test_a_missing_dataset_is_downloaded_whole(
    monkeypatch: pytest.MonkeyPatch, datasets_path: Path
) -> None:
    episodes = make("made/origin-v0")
    origin = datasets_path / "made/origin-v0"
    place = datasets_path / "far/away-v0"
    shutil.rmtree(place, ignore_errors=True)
    calls = []

    def download(dataset_id: str) -> None:
        target = Path(minari.storage.get_dataset_path(dataset_id))
        shutil.copytree(origin, target)
        calls.append(target)
        if len(calls) == 1:
            raise ConnectionError("the network went away\nhalf way")
        path = target / "data" / "metadata.json"
        path.write_text(path.read_text().replace("made/origin-v0", dataset_id))

    monkeypatch.setattr(minari_module, "require_network", lambda *_: None)
    monkeypatch.setattr(minari, "download_dataset", download)
    with pytest.raises(TDError, match=r"not downloaded \(the network went away half way") as caught:
        load_episodes("minari:far/away-v0")
    assert "minari download far/away-v0" in str(caught.value) and not place.exists()
    assert calls[0] != place  # it was written elsewhere first
    data = load_episodes("minari:far/away-v0")
    check_equal(data, episodes, [e["observations"] for e in episodes])
    load_episodes("minari:far/away-v0")
    assert len(calls) == 2


def test_without_a_network_one_line_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: time.sleep(60))
    monkeypatch.setattr("torchrl_td.data.remote.PATIENCE", 0.3)
    began = time.monotonic()
    with pytest.raises(TDError, match=r"huggingface\.co cannot be reached .no answer") as caught:
        load_episodes("minari:D4RL/door/human-v9")
    assert time.monotonic() - began < 5 and "\n" not in str(caught.value)
    assert "minari download D4RL/door/human-v9" in str(caught.value)


def pendulum() -> GymEnv:
    return GymEnv("Pendulum-v1")


def fitting(**replace: torch.Tensor) -> TensorDict:
    entries = {"observation": torch.rand(6, 3), "action": torch.rand(6, 1)}
    return TensorDict({**entries, **replace}, batch_size=[6])


def test_an_environment_that_fits() -> None:
    action = torch.full((6, 1), 2.0)
    action[0] = -2.0001  # rounding
    check_matches_env(fitting(action=action), pendulum())


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        ({"observation": torch.rand(6, 4)}, "observation has 4 numbers, the environment's 3"),
        ({"action": torch.rand(6, 2)}, "action has 2 numbers, the environment's 1"),
        (
            {"action": torch.tensor([0.0, 1, 2, 2.1, -3, 0])[:, None]},
            r"outside the environment's bounds in 33\.3 % of the steps, first in row 3; rescale",
        ),
    ],
)
def test_an_environment_that_does_not_fit(replace: dict, message: str) -> None:
    with pytest.raises(TDError, match=message) as caught:
        check_matches_env(fitting(**replace), pendulum(), name="minari:mine-v0")
    assert str(caught.value).startswith("minari:mine-v0: ") and "\n" not in str(caught.value)


def test_the_order_is_the_same_for_spaces_specs_and_data() -> None:
    env = make_pointmaze("umaze")
    wrapped = GymWrapper(env)
    assert observation_keys(env.observation_space) == ["observation", "desired_goal"]
    assert observation_keys(wrapped.observation_spec) == ["observation", "desired_goal"]
    assert observation_keys(GOAL) == ["observation", ("desired_goal", "a"), ("desired_goal", "b")]
    assert observation_keys(BOX) == ["observation"]
    with pytest.raises(TDError, match="no entries"):
        observation_keys({})
    env.close()
