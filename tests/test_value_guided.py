"""The value-guided planner: its training, its proposals, and the settings that go together."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.envs import ExplorationType, set_exploration_type
from torchrl.modules import MLP
from torchrl.objectives import SoftUpdate

from tests.settings import composed
from tests.tiny import tiny_actor
from torchrl_td import TDPlannerActor
from torchrl_td.config import Config, check_read
from torchrl_td.data import Normalizer, load_episodes
from torchrl_td.errors import InputError
from torchrl_td.experiment.results import describe_run
from torchrl_td.experiment.run import run
from torchrl_td.modules import (
    DiffusionRefiner,
    NoiseSchedule,
    PlanCritic,
    PlanGenerator,
    PlanInverseDynamics,
    PlanValue,
    TrajectoryPlanner,
)
from torchrl_td.modules.plan_parts import Ensemble, members_of
from torchrl_td.networks import ModulatedMLP, PlanDenoiser
from torchrl_td.objectives import PlanValueLoss
from torchrl_td.objectives.plan_value import outcome_bounds
from torchrl_td.training.trainer import Trainer

CPU = torch.device("cpu")
STRIDED = (
    "preset=strided",
    "task.strided_horizon=4",
    "task.stride=2",
    "task.scored=true",
    "inverse_dynamics.plan_states=3",
    "refiner.hidden_dims=[16]",
    "value.hidden_dims=[16]",
    "training.batch_size=16",
)
Make = Callable[..., Trainer]


@pytest.fixture
def strided_config(tiny_config: Callable[..., Config]) -> Callable[..., Config]:
    return lambda *words: tiny_config(*STRIDED, *words)


@pytest.fixture
def make_trainer(strided_config: Callable[..., Config], tiny_pointmaze: str) -> Make:
    return lambda *words: Trainer(strided_config(*words), load_episodes(tiny_pointmaze), CPU)


def test_each_part_trains_as_it_would_alone(make_trainer: Make) -> None:
    """With a clip each, what the refiner's loss is changes no bit of any other part."""
    one, other = make_trainer("seed=3"), make_trainer("seed=3", "refiner.condition_dropout=1.0")
    for trainer in (one, other):
        for _ in range(3):
            trainer.train_step()
    for part in ("plan_value", "generator", "inverse_dynamics"):
        mine, its = (getattr(t.model, part).state_dict() for t in (one, other))
        assert all(torch.equal(value, its[name]) for name, value in mine.items()), part
    mine, its = (t.model.refiner_network.state_dict() for t in (one, other))
    assert not all(torch.equal(value, its[name]) for name, value in mine.items())


@pytest.mark.parametrize(
    "asked",
    [
        (),
        ("task.scored=false", "training.return_tilt=5", "inverse_dynamics.returns_modulate=true"),
        ("task.scored=false", "generator.members=2", "inverse_dynamics.members=3"),
    ],
)
def test_an_interrupted_run_ends_as_an_undisturbed_one(
    strided_config: Callable[..., Config], tmp_path: Any, asked: tuple[str, ...]
) -> None:
    """For scores, for returns that modulate, better episodes drawn more often, and of ensembles."""
    run(strided_config(*asked))
    whole = (tmp_path / "run" / "metrics.csv").read_text()
    part = strided_config("training.stop_after=7", f"output_dir={tmp_path / 'part'}", *asked)
    run(part)
    part.training.stop_after, part.resume = None, str(tmp_path / "part")
    run(part)
    assert (tmp_path / "part" / "metrics.csv").read_text() == whole


class Rightwards(nn.Module):
    """A generator's network whose plans go as far right as the score that they are asked for."""

    def forward(self, inputs: Tensor) -> Tensor:
        score = inputs[..., -1:]
        states = score.unsqueeze(-2) * torch.tensor([[1.0], [2.0], [3.0]])  # [..., H - 1, 1]
        return torch.cat([states, 0 * states], -1).flatten(-2)


class Peak(nn.Module):
    """A value that is highest where the first coordinate is 4, with numbers for the outcomes."""

    def forward(self, observation: Tensor) -> Tensor:
        value = -(observation[..., :1] - 4).abs()
        return torch.cat([value, 0 * value, 0 * value], -1)


def planner(scores: list[float], refine_steps: int = 0) -> TrajectoryPlanner:
    network = PlanDenoiser(2, 4, (8,))
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return TrajectoryPlanner(
        PlanGenerator(Rightwards(), torch.ones(4, 2)),
        DiffusionRefiner(network, NoiseSchedule(), refine_steps=refine_steps),
        PlanInverseDynamics(MLP(2 + 3 * 2 + 1, 2, num_cells=[8]), torch.ones(4, 2), plan_states=3),
        horizon=4,
        plan_scores=scores,
        plan_value=PlanValue(Peak()),
    )


@pytest.mark.parametrize("refine_steps", [0, 2])
def test_the_proposal_of_the_highest_value_is_followed(refine_steps: int) -> None:
    """Of plans to (c, 2c, 3c) the mean distance from 4 is least for c = 2; the draft has c = 3."""
    history = torch.zeros(5, 3, 2), torch.ones(5, 3, 1), torch.ones(5, 3, dtype=torch.bool)
    parts = planner([3.0, 1.0, 1.5, 2.0, 2.5], refine_steps)
    draft, _, plan, action = parts.plan(*history)
    assert draft[:, 1:, 0].eq(torch.tensor([3.0, 6.0, 9.0])).all()
    reached = parts.plan_scores.unsqueeze(-1) * torch.tensor([1.0, 2.0, 3.0])  # [N, H - 1]
    expected = parts.plan_scores[(reached - 4).abs().mean(-1).argmin()]
    torch.testing.assert_close(plan[:, 1, 0], expected.expand(5), atol=0.05, rtol=0)
    alone = parts.inverse_dynamics.act_on(plan, expected.expand(5, 1))
    torch.testing.assert_close(action, alone)


def test_with_one_score_the_draft_is_followed() -> None:
    history = torch.zeros(2, 3, 2), torch.ones(2, 3, 1), torch.ones(2, 3, dtype=torch.bool)
    draft, _, plan, action = planner([3.0]).plan(*history)
    assert torch.equal(draft, plan) and action.shape == (2, 2)


@pytest.mark.parametrize(
    "settings", [{"replan_every": 2}, {"warm_start": "previous"}], ids=lambda s: next(iter(s))
)
def test_strided_plans_are_made_anew_at_each_step(settings: dict[str, Any]) -> None:
    normalizer = Normalizer(torch.zeros(2), torch.ones(2))
    with pytest.raises(InputError, match="needs warm_start='none' and replan_every=1"):
        TDPlannerActor(planner([3.0]), normalizer, **settings)


def test_parts_that_score_plans_otherwise_are_refused() -> None:
    parts = planner([3.0])
    critic = PlanCritic(MLP(4, 1, num_cells=[8]))
    settings: dict[str, Any] = {"horizon": 4, "critic": critic, "candidates": 2}
    with pytest.raises(InputError, match="chosen by plan_scores, not by candidates"):
        TrajectoryPlanner(parts.generator, parts.refiner, parts.inverse_dynamics, **settings)
    whole = tiny_actor().planner
    with pytest.raises(InputError, match="plan_scores are what a PlanGenerator's"):
        TrajectoryPlanner(
            whole.generator, whole.refiner, whole.inverse_dynamics, horizon=8, plan_scores=[1.0]
        )


def test_nothing_refined_is_the_draft_for_the_first_score(make_trainer: Make) -> None:
    trainer = make_trainer("planner.refine_steps=0")
    scores = trainer.config.planner.plan_scores
    actor = TDPlannerActor.from_model(trainer.planner_model(), trainer.config)
    assert len(scores) > 1 and actor.planner.plan_scores.tolist() == scores[:1]


def test_one_batch_plans_as_its_rows_do(make_trainer: Make) -> None:
    trainer = make_trainer()
    actor = TDPlannerActor.from_model(trainer.planner_model(), trainer.config)
    td = TensorDict(
        observation=torch.randn(3, 6),
        target_return=torch.ones(3, 1),
        is_init=torch.ones(3, 1, dtype=torch.bool),
        planner=actor.planner_spec.zero([3]),
        batch_size=[3],
    )
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        whole = actor(td.clone())["action"]
        rows = torch.stack([actor(td[i].clone())["action"] for i in range(3)])
    torch.testing.assert_close(whole, rows)
    # Where there is sampling noise, each of the plans proposed has its own.
    shape = actor.planner.noise_shape(3)
    assert shape[1] == len(trainer.config.planner.plan_scores) > 1
    with set_exploration_type(ExplorationType.RANDOM):
        refined = actor(td.clone())["plan", "refined"]
    td["planner", "noise"] = torch.zeros(shape)
    assert actor(td)["plan", "refined"].shape == refined.shape


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generator.kind=transformer"], "generator.kind=plan"),
        (["planner.plan_scores=null"], "planner.plan_scores"),
        (["planner.warm_start=previous"], "planner.warm_start=none"),
        (["planner.replan_every=2"], "planner.replan_every=1"),
        (["task.stride=null"], "task.stride"),
        (["training.return_tilt=5"], "asked for scores, and all data is drawn evenly"),
        (["planner.plan_scores=[]"], "one or more numbers from -4 to 4"),
        (["planner.plan_scores=[5]"], "one or more numbers from -4 to 4"),
        (["planner.candidates=3", "critic.enabled=true"], "planner.candidates=1"),
        (["inverse_dynamics.plan_states=4"], "from 1 to 3"),
    ],
)
def test_settings_that_do_not_go_together(
    strided_config: Callable[..., Config], words: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        strided_config(*words)


def test_a_stride_that_leaves_no_whole_plan(make_trainer: Make) -> None:
    with pytest.raises(InputError, match="no episode is as long"):
        make_trainer("task.stride=200")


def test_asked_for_returns(strided_config: Callable[..., Config], tiny_pointmaze: str) -> None:
    """Without a value each part is told what the data brought from the present on."""
    episodes = load_episodes(tiny_pointmaze)
    words = ("task.scored=false", "dataset.validation_share=0")
    trainer = Trainer(strided_config(*words), episodes, CPU)
    batch = trainer.buffer.sample()
    parts = trainer.algorithm.prepare(batch)
    brought = episodes["returns_to_go"][batch["index"][:, 0]] / trainer.config.task.returns_scale
    for condition in (
        parts["inverse_dynamics", "condition"],
        parts["generator", "returns_to_go"][:, 0],
        parts["refiner", "returns_to_go"][:, -1],
        parts["returns_limit", "returns_to_go"],
    ):
        torch.testing.assert_close(condition, brought)
    trainer.train_step()
    named = {"generator", "refiner", "inverse_dynamics", "returns_limit"}
    assert set(trainer.losses) == named
    planner = trainer.planner_model().planner()
    history = torch.zeros(2, 3, 6), torch.ones(2, 3, 1), torch.ones(2, 3, dtype=torch.bool)
    low, high = planner.plan(*history), planner.plan(history[0], 2 * history[1], history[2])
    assert not torch.equal(low[3], high[3])  # it does ask for them


def test_what_only_returns_read_is_refused_elsewhere(
    strided_config: Callable[..., Config],
) -> None:
    settings = [("returns_modulate", "true"), ("members", "2")]
    for part, (name, value) in product(("generator", "inverse_dynamics"), settings):
        word = f"{part}.{name}={value}"
        check_read(strided_config("task.scored=false", word), [word])
        for config in (strided_config(word), composed("preset=small", word)):
            with pytest.raises(InputError, match=f"{part}.{name} is of plans drafted at"):
                check_read(config, [word])
            assert name not in describe_run(config, {}, 0)["settings"][part]


def test_a_score_that_is_asked_for_has_no_floor(strided_config: Callable[..., Config]) -> None:
    """Nor is the preset's recorded, so that results of scores are the same whatever it is."""
    key = "planner.returns_floor_share"
    for scored, recorded in ((True, None), (False, 0.5)):
        config = strided_config(f"task.scored={str(scored).lower()}", f"{key}=0.5")
        assert describe_run(config, {}, 0)["planner"]["returns_floor_share"] == recorded
        if scored:
            with pytest.raises(InputError, match=f"{key} is of plans asked for a return"):
                check_read(config, [f"{key}=0.5"])
        else:
            check_read(config, [f"{key}=0.5"])


def test_a_modulated_part_of_another_width_is_refused() -> None:
    network = ModulatedMLP(2 + 2 * 2 + 1, 2, num_cells=[8])  # of two planned states, not three
    with pytest.raises(InputError, match=r"inverse dynamics reads 7 numbers, but .* given 9"):
        TrajectoryPlanner(
            PlanGenerator(Rightwards(), torch.ones(4, 2)),
            DiffusionRefiner(PlanDenoiser(2, 4, (8,)), NoiseSchedule()),
            PlanInverseDynamics(network, torch.ones(4, 2), plan_states=3),
            horizon=4,
        )


@pytest.mark.parametrize("scored", [False, True])
def test_returns_modulate_and_scores_join_the_inputs(make_trainer: Make, scored: bool) -> None:
    def kinds(*words: str) -> list[type]:
        model = make_trainer(*words).model
        assert model.inverse_dynamics.action_dim == 2
        parts = (model.generator, model.inverse_dynamics)
        found = [{type(one) for one in members_of(part.network)} for part in parts]
        return [kind for one in found for kind in one]

    modulated = [f"{part}.returns_modulate=true" for part in ("generator", "inverse_dynamics")]
    assert kinds(f"task.scored={scored}", *modulated) == [MLP if scored else ModulatedMLP] * 2
    plain = "generator.returns_modulate=false"
    assert kinds("task.scored=false", plain, modulated[1]) == [MLP, ModulatedMLP]


def test_the_lowest_of_several_values_counts_or_their_mean() -> None:
    parts = [MLP(3, 3, num_cells=[8]) for _ in range(4)]
    several, alone = PlanValue(Ensemble(parts)), [PlanValue(part) for part in parts]
    states = torch.randn(20, 3)
    values = torch.stack([one.value(states) for one in alone])
    assert torch.equal(several.value(states), values.amin(0))
    mean = PlanValue(Ensemble(parts), combine="mean")
    torch.testing.assert_close(mean.value(states), values.mean(0))
    assert len(values.argmin(0).unique()) > 1
    same = PlanValue(Ensemble([parts[0], parts[0]]))
    outcome = torch.randn(20, 1)
    torch.testing.assert_close(same.score(states, outcome), alone[0].score(states, outcome))


def test_each_of_several_values_learns_as_it_would_alone() -> None:
    """From the same outcomes, for where rewards are all there is no target to share."""
    parts = [MLP(3, 3, num_cells=[8]) for _ in range(2)]
    batch = TensorDict(
        observation=torch.randn(9, 3),
        plan=TensorDict(
            reward=torch.randn(9, 1),
            end=torch.randn(9, 3),
            discount=torch.zeros(9, 1),
            batch_size=[9],
        ),
        batch_size=[9],
    )
    together = PlanValueLoss(PlanValue(Ensemble(parts)))(batch)["loss_plan_value"]
    alone = [PlanValueLoss(PlanValue(part))(batch)["loss_plan_value"] for part in parts]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_the_values_targets_are_torchrls(make_trainer: Make) -> None:
    def train(theirs: bool) -> dict[str, torch.Tensor]:
        trainer = make_trainer()
        loss = trainer.losses["plan_value"]
        if theirs:
            *others, _ = trainer.algorithm.updaters
            decay = trainer.config.value.target_decay
            trainer.algorithm.updaters = [*others, SoftUpdate(loss, eps=decay)]
        for _ in range(3):
            trainer.train_step()
        return dict(loss.target_plan_value_network_params.flatten_keys(".").items())

    left, right = train(True), train(False)
    start = make_trainer().losses["plan_value"].target_plan_value_network_params.flatten_keys(".")
    for name, value in left.items():
        torch.testing.assert_close(value, right[name])
        assert not torch.equal(value, start[name])


def test_states_valued_for_their_scores_teach_the_value_as_well(make_trainer: Make) -> None:
    trainer = make_trainer()
    loss = trainer.losses["plan_value"]
    batch = trainer.algorithm.prepare(trainer.buffer.sample())["plan_value"]
    gradients = []
    for one in (batch, batch.exclude(("plan", "members"))):
        loss.zero_grad()
        loss(one)["loss_plan_value"].backward()
        gradients.append(
            [weight.grad.clone() for weight in loss.parameters() if weight.requires_grad]
        )
    assert gradients[0] and all(map(torch.equal, *gradients)) and gradients[0][0].any()


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40), st.floats(0, 0.99))
def test_no_sum_of_rewards_is_out_of_their_bounds(rewards: list[float], discount: float) -> None:
    least, most = outcome_bounds(torch.tensor(rewards), discount, terminates=True)
    total = 0.0
    for reward in reversed(rewards):
        total = reward + discount * total
        assert least - 1e-3 <= total <= most + 1e-3
    least, most = outcome_bounds(torch.tensor(rewards), discount, terminates=False)
    assert least <= most
    assert outcome_bounds(torch.tensor(rewards), 1.0, terminates=True) == (-math.inf, math.inf)


def test_outcomes_are_clipped_to_what_rewards_can_bring(make_trainer: Make) -> None:
    trainer = make_trainer()
    loss = trainer.losses["plan_value"]
    least, most = loss.bounds
    assert least == 0 and most > 0  # PointMaze pays 0 or 1, and its episodes go on
    batch = trainer.algorithm.prepare(trainer.buffer.sample())["plan_value"]
    batch["plan", "reward"] = batch["plan", "reward"] + 2 * most
    assert loss.outcome(batch).eq(most).all()


def test_held_out_data_are_valued_in_the_unit_of_the_training_data(make_trainer: Make) -> None:
    trainer = make_trainer("dataset.validation_share=0.3")
    (train,), (held_out,) = trainer.buffers.values(), trainer.validation.values()
    unit = trainer.losses["plan_value"].bounds[1] * (1 - trainer.config.value.discount)
    for buffer in (train, held_out):
        to_go = buffer.storage[:]["discounted_to_go"] / unit  # of rewards that are 0 or 1
        paid = to_go[:-1] - trainer.config.value.discount * to_go[1:]
        assert ((paid - paid.round()).abs() < 1e-3).float().mean() > 0.95  # but at episodes' ends
