"""What followed an episode's last step, where a file does not hold it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl import torchrl_logger
from torchrl.modules import MLP

from tests.data.helpers import SAMPLE
from torchrl_td.data import displacement_scale, load_episodes
from torchrl_td.data.transitions import successor_known
from torchrl_td.data.validation import broken_successors, warn_once
from torchrl_td.modules import InverseDynamics
from torchrl_td.objectives import InverseDynamicsLoss
from torchrl_td.training.buffers import make_buffer


def test_a_successor_that_the_file_lacks_teaches_nothing() -> None:
    """Pairs of states that windows hold as known are neighbours in the file."""
    data = load_episodes(f"d4rl:{SAMPLE}")
    with h5py.File(SAMPLE) as file:
        raw = {key: file[key][()] for key in file}
    ends = raw["terminals"] | raw["timeouts"]
    assert np.array_equal(successor_known(data)[:, 0], ~ends)
    buffer = make_buffer(data, 8, 64, 0, torch.device("cpu"))
    window = buffer.sample()
    index, known = window["index"], window["next", "known"][..., 0].bool()
    assert np.array_equal(known, ~ends[index]) and 0 < (~known).sum() < known.numel() / 10
    assert np.array_equal(window["observation"], raw["observations"][index])  # the last ones too
    assert np.array_equal(window["action"], raw["actions"][index])
    following = raw["observations"][np.minimum(index + 1, 599)]
    assert np.array_equal(window["next", "observation"][known], following[known.numpy()])
    network = InverseDynamics(MLP(2 * 39, 28, num_cells=(8,)))
    window["mask"][:] = True
    loss = InverseDynamicsLoss(network, reduction="none")(window)["loss_inverse_dynamics"]
    assert torch.equal(loss.ne(0).any(-1), known)
    # How far states are apart is measured on pairs within episodes alone.
    steps = np.diff(raw["observations"].astype(np.float64), axis=0)[~ends[:-1]]
    measured = displacement_scale(data, 2, samples=100_000)[1]
    assert np.allclose(measured, np.sqrt((steps**2).mean(0)), rtol=0.05, atol=1e-4)


def test_known_successors_need_no_entry() -> None:
    data = load_episodes(f"d4rl:{SAMPLE}")
    data["next", "observation"] = data["next", "observation"] + 1  # as from ``next_observations``
    buffer = make_buffer(data, 4, 8, 0, torch.device("cpu"))
    assert ("next", "known") not in buffer.sample().keys(True)


def test_a_state_that_stays_is_known_unless_the_episode_ends() -> None:
    data = load_episodes(f"d4rl:{SAMPLE}")
    data["next", "observation"] = data["observation"].clone()
    assert torch.equal(successor_known(data), ~data["next", "done"])


@pytest.mark.parametrize("zeroed", [True, False])
def test_next_observations_zeroed_at_the_ends_are_not_states(zeroed: bool) -> None:
    """As TorchRL's D4RLExperienceReplay leaves them; one that is zero may be a state."""
    steps = walk(30, 20)
    steps["next", "observation"][[29, 49] if zeroed else [29]] = 0
    data = load_episodes(steps)
    unknown = torch.nonzero(~successor_known(data)[:, 0]).flatten()
    assert unknown.tolist() == ([29, 49] if zeroed else [])
    kept = torch.arange(50)[successor_known(data)[:, 0]]
    assert torch.equal(data["next", "observation"][kept], steps["next", "observation"][kept])


# --- next observations that do not follow ----------------------------------------------------


def walk(*lengths: int) -> TensorDict:
    """A random walk whose episodes' last next observations lead nowhere that is stored."""
    count = sum(lengths)
    state = torch.randn(count + 1, 4).cumsum(0) + 100
    ends = torch.tensor(lengths).cumsum(0) - 1
    following = state[1:].clone()
    following[ends] = torch.randn(len(lengths), 4)
    done = torch.zeros(count, 1, dtype=torch.bool)
    done[ends] = True
    return TensorDict(
        observation=state[:-1],
        action=torch.rand(count, 2),
        next=TensorDict(
            observation=following, reward=torch.rand(count, 1), done=done, batch_size=[count]
        ),
        batch_size=[count],
    )


def broken(steps: TensorDict) -> str | None:
    return broken_successors(load_episodes(steps))


def test_next_observations_that_follow_are_not_suspected(tiny_pointmaze: str) -> None:
    assert broken(walk(30, 1, 1, 20)) is None
    half = walk(30, 20)
    for key in ("observation", ("next", "observation")):
        half[key] = half[key].half()  # rounded
    half["next", "observation"] = half["next", "observation"].float() + 1e-4
    assert broken(half) is None
    assert broken(walk(1)[:1].set(("next", "done"), torch.ones(1, 1, dtype=torch.bool))) is None
    for source in (f"d4rl:{SAMPLE}", tiny_pointmaze):  # the first stores no next observations
        assert broken_successors(load_episodes(source)) is None


def test_steps_out_of_order_or_left_out_are_told() -> None:
    steps = walk(30, 20)
    shuffled = steps.clone()
    shuffled["next", "observation"] = steps["next", "observation"].flip(0)
    assert "in 100 % of the steps, first in row 0 (episode 0)" in str(broken(shuffled))


def test_a_trajectory_ends_where_its_next_step_is_another(warned: list[str]) -> None:
    steps = walk(30, 20)
    kept = torch.arange(50) != 40  # a step of the second episode is missing
    data = load_episodes(steps[kept])
    assert torch.equal(data["observation"], steps["observation"][[*range(30), *range(41, 50)]])
    assert "1 of 3 trajectories (10 of 49 steps) end neither" in warned[0]
    steps["next", "done"][29] = False  # where the first episode ends
    data = load_episodes(steps)
    assert torch.equal(data["observation"], steps["observation"][30:])
    assert float(data["returns_to_go"][0]) == pytest.approx(
        float(steps["next", "reward"][30:].sum())
    )


def test_a_sample_of_large_data_is_looked_at() -> None:
    steps = walk(*[100] * 1000)  # more than are looked at
    assert broken(steps) is None
    steps["observation"] = steps["observation"].roll(1, 0)
    assert "in 100 % of the steps" in str(broken(steps))


def test_loading_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    warn_once.cache_clear()
    monkeypatch.setattr(torchrl_logger, "warning", found.append)
    steps = walk(30, 20)
    load_episodes(steps)
    assert found == []
    steps["observation"] = steps["observation"].flip(0)
    for _ in range(2):
        load_episodes(steps)
    assert len(found) == 1 and found[0].startswith("tensordict: next/observation is not the")
