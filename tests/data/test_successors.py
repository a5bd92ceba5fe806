"""What followed an episode's last step, where a file does not hold it."""

from __future__ import annotations

import h5py
import numpy as np
import torch

from tests.data.helpers import SAMPLE
from torchrl_td.data import load_episodes
from torchrl_td.data.normalizer import displacement_scale
from torchrl_td.data.steps import successor_known
from torchrl_td.modules import InverseDynamics
from torchrl_td.networks import MLP
from torchrl_td.objectives import InverseDynamicsLoss
from torchrl_td.training_data import make_buffer


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
    network = InverseDynamics(MLP(2 * 39, (8,), 28))
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
