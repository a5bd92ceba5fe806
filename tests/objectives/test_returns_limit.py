"""The limit on the returns-to-go asked for: its closed form, and what planners ask for with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.envs import ExplorationType, set_exploration_type

from tests.settings import composed
from torchrl_td import TDPlannerActor
from torchrl_td.config import Config, check_read, limits_returns
from torchrl_td.data import load_episodes
from torchrl_td.errors import InputError
from torchrl_td.experiment.results import describe_run
from torchrl_td.modules import ReturnsLimit
from torchrl_td.objectives import ReturnsLimitLoss
from torchrl_td.training.trainer import Trainer

STRIDED = (
    "preset=strided",
    "task.strided_horizon=4",
    "refiner.hidden_dims=[16]",
    "returns_limit.hidden_dims=[16]",
    "training.batch_size=16",
)
LIMITED, FREE = "returns_limit.enabled=true", "returns_limit.enabled=false"


@pytest.fixture
def make_trainer(tiny_config: Callable[..., Config], tiny_pointmaze: str) -> Callable[..., Trainer]:
    data = load_episodes(tiny_pointmaze)
    cpu = torch.device("cpu")
    return lambda *words: Trainer(tiny_config(*STRIDED, "task.scored=false", *words), data, cpu)


@pytest.mark.parametrize(("expectile", "limit"), [(0.5, 1.0), (0.9, 0.9 * 3 / (0.9 + 0.2))])
def test_the_expectile_is_learned(expectile: float, limit: float) -> None:
    """Of 0, 0 and 3 the 0.9-expectile e solves 0.9 (3 - e) = 2 * 0.1 e."""
    part = ReturnsLimit(nn.Linear(1, 1, bias=False), expectile=expectile)
    loss = ReturnsLimitLoss(part)
    returns_to_go = torch.tensor([[0.0], [0.0], [3.0]])
    batch = TensorDict(observation=torch.ones(3, 1), returns_to_go=returns_to_go, batch_size=[3])
    optimizer = torch.optim.Adam(part.parameters(), 0.05)
    for _ in range(600):
        optimizer.zero_grad()
        loss(batch)["loss_returns_limit"].backward()
        optimizer.step()
    torch.testing.assert_close(part.estimate(torch.ones(1, 1)).item(), limit, atol=0.01, rtol=0)
    with pytest.raises(InputError, match="expectile must lie in"):
        ReturnsLimit(nn.Linear(1, 1), expectile=1.0)


@pytest.mark.parametrize("expectile", [0.9, 0.99, 0.999])
def test_the_limit_is_the_most_of_returns_spread_evenly(expectile: float) -> None:
    spread = torch.linspace(0, 7, 100_001, dtype=torch.float64)
    low, high = 0.0, 7.0
    for _ in range(60):  # the expectile e solves τ E(x − e)⁺ = (1 − τ) E(e − x)⁺
        e = (low + high) / 2
        above, below = (spread - e).clamp(min=0).mean(), (e - spread).clamp(min=0).mean()
        low, high = (e, high) if expectile * above > (1 - expectile) * below else (low, e)
    part = ReturnsLimit(nn.Linear(1, 1, bias=False), expectile=expectile)
    nn.init.constant_(part.network.weight, e)
    torch.testing.assert_close(part.limit(torch.ones(1, 1)).item(), 7.0, atol=1e-2, rtol=0)
    negative = part.limit(-torch.ones(1, 1)).item()
    assert -e < negative < 0


def test_no_more_is_asked_for_than_the_limit(make_trainer: Callable[..., Trainer]) -> None:
    """A target beyond the limit at its reset is worth the limit; a lower one is itself."""
    trainer = make_trainer(LIMITED)
    model, unit = trainer.model, trainer.model.normalizer.returns_scale
    limited = TDPlannerActor.from_model(model, trainer.config)
    start, later = torch.randn(2, 5, 6)
    limit = unit * model.returns_limit.limit(model.normalizer.normalize(start)).detach()
    model.returns_limit = None
    free = TDPlannerActor.from_model(model, trainer.config)

    def actions(actor: TDPlannerActor, target: Tensor, rewards: Tensor) -> Tensor:
        """At a reset and, when rewards have come in, a step later."""
        found, state = [], actor.planner_spec.zero([5])
        for number, observation in enumerate((start, later)):
            step = TensorDict(
                observation=observation,
                target_return=target - number * rewards,
                is_init=torch.full((5, 1), number == 0),
                planner=state,
                batch_size=[5],
            )
            with set_exploration_type(ExplorationType.DETERMINISTIC):
                step = actor(step)
            found.append(step["action"])
            state = step["next", "planner"]
        return torch.stack(found)

    rewards = torch.rand(5, 1) * unit
    torch.testing.assert_close(
        actions(limited, limit + 5 * unit, rewards), actions(free, limit, rewards)
    )
    below = limit - 5 * unit
    assert torch.equal(actions(limited, below, rewards), actions(free, below, rewards))
    assert not torch.allclose(
        actions(free, limit + 5 * unit, rewards), actions(free, limit, rewards)
    )


def test_the_other_parts_train_as_without_it(make_trainer: Callable[..., Trainer]) -> None:
    limited, free = make_trainer(LIMITED, "seed=3"), make_trainer(FREE, "seed=3")
    before = [p.clone() for p in limited.model.returns_limit.parameters()]
    for trainer in (limited, free):
        torch.manual_seed(0)  # what the refiner's loss draws
        for _ in range(3):
            trainer.train_step()
    assert free.model.returns_limit is None
    state = limited.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in free.model.state_dict().items())
    moved = zip(before, limited.model.returns_limit.parameters(), strict=True)
    assert not any(torch.equal(then, now) for then, now in moved)


@pytest.mark.parametrize("other", [("preset=strided", "task.scored=true"), ("preset=small",)])
def test_it_is_refused_where_no_draft_is_asked_for_a_return(other: tuple[str, ...]) -> None:
    config = composed(*other, LIMITED)
    assert not limits_returns(config)
    assert "returns_limit" not in describe_run(config, {}, 0)["settings"]
    with pytest.raises(InputError, match=r"returns_limit.enabled is of plans drafted at once"):
        check_read(config, [LIMITED])


def test_planners_from_noise_do_not_read_it() -> None:
    config = composed("preset=strided", "algorithm=decision_diffuser", LIMITED)
    assert not limits_returns(config)
    with pytest.raises(InputError, match=r"does not read returns_limit\.enabled"):
        check_read(config, [LIMITED])
