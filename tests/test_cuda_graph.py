"""The step as a CUDA graph: on the CPU by a stand-in that replays operations as a graph does."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict

from tests.graph_stand_in import Tape
from torchrl_td.config import Config
from torchrl_td.data import load_episodes
from torchrl_td.errors import InputError
from torchrl_td.training.cuda_graph import CudaGraphStep, check_cuda_graph
from torchrl_td.training.distributed import World
from torchrl_td.training.trainer import Trainer

CPU = torch.device("cpu")
Make = Callable[..., Trainer]


@pytest.fixture
def tapes(tapes: list[Tape], monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Has a trainer on the CPU take them, too."""
    monkeypatch.setattr("torchrl_td.training.trainer.check_cuda_graph", lambda device, world: None)
    return tapes


@pytest.fixture
def make_trainer(tiny_config: Callable[..., Config], tiny_pointmaze: str) -> Make:
    def make(*words: str, device: str = "cpu") -> Trainer:
        given = ("training.decay_steps=12", "training.gradient_clip=0.5", *words)
        return Trainer(tiny_config(*given), load_episodes(tiny_pointmaze), torch.device(device))

    return make


def train(trainer: Trainer, steps: int) -> list[list[float]]:
    """Metrics of each step, the learning rate among them."""
    rows = []
    for _ in range(steps):
        trainer.train_step()
        rows.append([*trainer.read_metrics().values(), trainer.learning_rate()])
    trainer.check_health()
    return rows


@pytest.mark.parametrize("words", [(), ("critic.enabled=true", "training.autocast=true")])
def test_a_replayed_step_is_the_plain_step(
    words: tuple[str, ...], make_trainer: Make, tapes: list[Tape]
) -> None:
    """Nothing a step needs is outside of static tensors, and nothing in it waits for the device."""
    plain = make_trainer(*words)
    graph = make_trainer("training.cudagraph=true", *words)
    torch.manual_seed(5)
    expected = train(plain, 10)
    torch.manual_seed(5)
    torch.testing.assert_close(train(graph, 10), expected, rtol=1e-3, atol=1e-6)
    (tape,) = tapes
    assert tape.replays == 7  # of ten steps; the others warmed up
    assert expected[0][-1] > 2 * expected[-1][-1]  # so a learning rate of the past would show
    for ours, theirs in zip(
        graph.planner_state().values(), plain.planner_state().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("steps", [2, 5])
def test_resumes_bit_for_bit(steps: int, make_trainer: Make, tapes: list[Tape]) -> None:
    """In a new process, and in the one that has captured a graph of states since replaced."""
    whole = make_trainer("training.cudagraph=true")
    train(whole, steps)
    state = copy.deepcopy(whole.state_dict())
    expected = train(whole, 6)
    resumed = make_trainer("training.cudagraph=true")
    for trainer in (whole, resumed):
        trainer.load_state_dict(copy.deepcopy(state))
        assert train(trainer, 6) == expected
    assert len(tapes) == 3  # each state has a graph of its own


def test_goes_on_with_or_without(make_trainer: Make, tapes: list[Tape]) -> None:
    """A run may be resumed on another device, and so without the graph that it began with."""
    for first, second in (("true", "false"), ("false", "true")):
        trainer = make_trainer(f"training.cudagraph={first}")
        train(trainer, 5)
        state = copy.deepcopy(trainer.state_dict())
        expected = train(trainer, 5)
        other = make_trainer(f"training.cudagraph={second}")
        other.load_state_dict(state)
        torch.testing.assert_close(train(other, 5), expected, rtol=1e-3, atol=1e-6)
        assert isinstance(other.optimizer.param_groups[0]["lr"], torch.Tensor) == (second == "true")


def test_a_step_that_reads_the_device_is_found(tapes: list[Tape]) -> None:
    """The stand-in sees what the tests above rely on: stale numbers, and waiting."""
    weight, factor = torch.ones(2), [1.0]
    step = CudaGraphStep(lambda batch: {"out": weight.mul_(factor[0])}, CPU)
    outputs = []
    for factor[0] in (2.0, 2.0, 2.0, 2.0, 3.0):
        outputs.append(float(step(TensorDict(x=torch.ones(1)))["out"][0]))
    assert outputs == [2.0, 4.0, 8.0, 16.0, 32.0]  # the last by the 2 of the recording
    waiting = CudaGraphStep(lambda batch: {"out": weight * weight.sum().item()}, CPU)
    with pytest.raises(AssertionError, match="the host waits"):
        for _ in range(4):
            waiting(TensorDict(x=torch.ones(1)))


@pytest.mark.parametrize(
    ("device", "size", "says"),
    [
        ("cpu", 1, "training.cudagraph=true needs a CUDA device, this run is on cpu; give device="),
        ("cuda", 2, "training.cudagraph=true takes one process, this run has 2; "),
    ],
)
def test_what_cannot_be_captured_is_refused(device: str, size: int, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        check_cuda_graph(torch.device(device), World(0, size))
    assert "\n" not in str(caught.value)


def test_a_run_on_the_cpu_is_refused(make_trainer: Make) -> None:
    with pytest.raises(InputError, match=r"training\.cudagraph=true needs a CUDA device"):
        make_trainer("training.cudagraph=true")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (("training.cudagraph=true",), 20),
        # Compiled kernels round in other ways, which gradient norms show after some steps.
        (("training.compile=true",), 8),
        (("training.compile=true", "training.cudagraph=true"), 8),
    ],
)
def test_trains_the_same_on_a_gpu(words: tuple[str, ...], steps: int, make_trainer: Make) -> None:
    plain, fast = make_trainer(device="cuda"), make_trainer(*words, device="cuda")
    torch.manual_seed(5)
    expected = train(plain, steps)
    torch.manual_seed(5)
    torch.testing.assert_close(train(fast, steps), expected, rtol=1e-2, atol=1e-4)


@pytest.mark.gpu
def test_resumes_on_a_gpu(make_trainer: Make) -> None:
    whole = make_trainer("training.cudagraph=true", device="cuda")
    train(whole, 8)
    state = copy.deepcopy(whole.state_dict())
    expected = train(whole, 8)
    resumed = make_trainer("training.cudagraph=true", device="cuda")
    for trainer in (whole, resumed):
        trainer.load_state_dict(copy.deepcopy(state))
        torch.testing.assert_close(train(trainer, 8), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
def test_no_step_waits_for_the_gpu(make_trainer: Make) -> None:
    trainer = make_trainer("training.cudagraph=true", device="cuda")
    train(trainer, 5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            trainer.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
