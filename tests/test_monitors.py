"""What watches a training: divergence, named by step and rows, and running means."""

from __future__ import annotations

import copy

import pytest
import torch

from torchrl_td.errors import InputError
from torchrl_td.training.monitors import DivergenceWatch, RunningMeans

CPU = torch.device("cpu")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_divergence_names_step_and_rows(bad: float) -> None:
    watch = DivergenceWatch(explosion=None)
    for step in range(5):
        loss, norm = torch.tensor(1.0), torch.tensor(bad if step == 3 else 1.0)
        watch.note(*((loss, [norm]) if step else (norm, [loss])), torch.tensor([step, 10 * step]))
    noted = watch.take()
    assert noted is not None and watch.take() is None
    with pytest.raises(InputError, match=r"at step 104: .* is not finite.* rows \[3, 30\]"):
        watch.check(*noted, step=105)


def test_explosion_is_relative_to_the_first_losses() -> None:
    watch = DivergenceWatch(explosion=100.0)
    values = torch.tensor([[2.0, 0.1], [250.0, 0.1]])  # a loss and a norm a step
    rows = [torch.tensor([1]), torch.tensor([2])]
    watch.check(values, rows, step=2)  # nothing to compare with yet
    watch.usual_loss = 3.0
    watch.check(values, rows, step=2)
    watch.usual_loss = 2.0
    with pytest.raises(InputError, match=r"at step 2: .*training.explosion=100 times"):
        watch.check(values, rows, step=2)


def test_a_value_that_diverges_is_told_though_it_may_grow(caplog: pytest.LogCaptureFixture) -> None:
    """TD3+BC's did on Door expert, to 1e17, and nothing but its score told of it."""
    watch, rows = DivergenceWatch(explosion=None), [torch.tensor([1])]
    watch.usual_loss = -2.0  # as of a policy's loss
    for loss, told in ((5.0, 0), (1e6, 0), (1e8, 1), (1e17, 1)):
        with caplog.at_level("WARNING", "torchrl"):
            watch.check(torch.tensor([[loss, 0.1]]), rows, step=7)
        assert len(caplog.messages) == told
    assert "about step 7: what it trains diverges" in caplog.text


def test_running_means() -> None:
    means = RunningMeans()
    assert means.read() == {}
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(2.0)})
    saved = copy.deepcopy(means.state_dict())
    means.add({"a": torch.tensor(2.0), "b": torch.tensor(6.0)})
    assert means.read() == {"a": 1.5, "b": 4.0}
    assert means.read() == {}
    resumed = RunningMeans()
    resumed.load_state_dict(saved, CPU)
    resumed.add({"a": torch.tensor(2.0), "b": torch.tensor(6.0)})
    assert resumed.read() == {"a": 1.5, "b": 4.0}
