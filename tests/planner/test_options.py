"""Settings of the planner that change when and from what it plans."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDictBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from tests.planner.helpers import Build, act
from torchrl_td import InputError


def follow_up(out: TensorDictBase, observation: torch.Tensor) -> TensorDictBase:
    """The next step's input, the environment having moved to ``observation``."""
    step = out.select("target_return").clone()
    step["observation"] = observation
    step["is_init"] = torch.zeros_like(step["target_return"], dtype=torch.bool)
    step["planner"] = out["next", "planner"].clone()
    return step


def test_deterministic_planning_repeats_and_random_planning_obeys_the_seed(
    make_actor: Build, make_step
):
    actor = make_actor()
    step = make_step(actor)
    torch.testing.assert_close(act(actor, step)["action"], act(actor, step)["action"])
    with set_exploration_type(ExplorationType.RANDOM):
        torch.manual_seed(1)
        first, second = actor(step.clone())["action"], actor(step.clone())["action"]
        torch.manual_seed(1)
        again = actor(step.clone())["action"]
    assert not torch.equal(first, second)
    torch.testing.assert_close(first, again, rtol=0, atol=0)


def test_given_noise_takes_the_place_of_drawn_noise(make_actor: Build, make_step):
    actor = make_actor()
    step = make_step(actor)
    noise = torch.randn(actor.planner.noise_shape(3))
    step["planner", "noise"] = noise
    with set_exploration_type(ExplorationType.RANDOM):
        one, other = actor(step.clone())["action"], actor(step.clone())["action"]
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    step["planner", "noise"] = torch.zeros_like(noise)
    silent = step.exclude(("planner", "noise"))
    torch.testing.assert_close(act(actor, step)["action"], act(actor, silent)["action"])
    assert not torch.allclose(act(actor, step)["action"], one)


def test_replanning_every_n_steps_follows_the_plan_in_between(make_actor: Build, make_step):
    actor = make_actor(replan_every=3)
    out = act(actor, make_step(actor, fresh=True))
    plan, planner = out["plan", "refined"], actor.planner
    for offset in (1, 2):
        observation = plan[:, offset] + 0.01  # the environment went nearly where planned
        out = act(actor, follow_up(out, observation))
        torch.testing.assert_close(out["plan", "refined"], plan)
        normalize = actor.normalizer.normalize
        expected = planner.act(normalize(observation), normalize(plan[:, offset + 1]))
        torch.testing.assert_close(out["action"], expected, rtol=1e-4, atol=1e-5)
    out = act(actor, follow_up(out, plan[:, 3]))
    assert not torch.allclose(out["plan", "refined"], plan)
    torch.testing.assert_close(out["plan", "refined"][:, 0], plan[:, 3])


def test_rows_replan_on_their_own_clock(make_actor: Build, make_step):
    """A row reset between two plans is planned for at once, and the other follows on."""
    actor = make_actor(replan_every=4)
    out = act(actor, make_step(actor, (2,), fresh=True))
    plan = out["plan", "refined"]
    step = follow_up(out, plan[:, 1])
    step["is_init"][1] = True
    mixed = act(actor, step)
    torch.testing.assert_close(mixed["plan", "refined"][0], plan[0])
    alone = act(actor, step[1:])
    torch.testing.assert_close(mixed["plan", "refined"][1], alone["plan", "refined"][0])
    torch.testing.assert_close(mixed["action"][1], alone["action"][0])
    assert mixed["next", "planner", "steps"].flatten().tolist() == [2, 1]


def test_what_a_reset_leaves_behind_is_never_read(make_actor: Build, make_step):
    for settings in ({}, {"warm_start": "previous"}, {"replan_every": 2}):
        actor = make_actor(**settings)
        clean = make_step(actor, fresh=True)
        dirty = clean.clone()
        for name in ("observation", "returns_to_go", "plan", "plan_returns_to_go"):
            dirty["planner", name].fill_(torch.nan)
        dirty["planner", "steps"].fill_(12)
        expected, out = act(actor, clean), act(actor, dirty)
        for key in ("action", ("plan", "refined"), ("next", "planner", "observation")):
            torch.testing.assert_close(out[key], expected[key])


@pytest.mark.parametrize("replan_every", [1, 3])
def test_warm_start_refines_the_shifted_plan(make_actor: Build, make_step, replan_every: int):
    settings = {"replan_every": replan_every, "refresh_distance": 1e9}
    actor = make_actor(warm_start="previous", refresh_every=1000, **settings)
    cold_actor = make_actor(**settings)
    step = make_step(actor, fresh=True)
    out = act(actor, step)
    torch.testing.assert_close(out["action"], act(cold_actor, step)["action"])
    plan, returns = out["next", "planner", "plan"], out["next", "planner", "plan_returns_to_go"]
    for offset in range(1, replan_every + 1):
        step = follow_up(out, out["plan", "refined"][:, offset] + 0.02)
        out = act(actor, step)
    present = actor.normalizer.normalize(step["observation"]).unsqueeze(1)
    draft = actor.normalizer.normalize(out["plan", "draft"])
    kept = actor.horizon - replan_every
    torch.testing.assert_close(draft[:, :1], present)
    torch.testing.assert_close(draft[:, 1:kept], plan[:, replan_every + 1 :])
    generator = actor.planner.generator
    history = torch.cat([present, plan[:, replan_every + 1 :]], 1)
    asked = actor.normalizer.scale_returns(step["target_return"]).unsqueeze(1)
    asked = torch.cat([asked, returns[:, replan_every + 1 :]], 1)
    mask = torch.ones(history.shape[:2], dtype=torch.bool)
    tail, _ = generator.generate_uncached(history, asked, mask, replan_every)
    torch.testing.assert_close(draft[:, kept:], tail[:, 1:], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(draft, actor.normalizer.normalize(out["plan", "refined"]))


@pytest.mark.parametrize(
    ("refresh_every", "refresh_distance", "drift", "fresh"),
    [(1, 1e9, 0.0, True), (5, 0.5, 0.0, False), (5, 0.5, 2.0, True), (2, 0.5, 0.0, False)],
)
def test_warm_start_drafts_anew_when_it_should(
    make_actor: Build, make_step, refresh_every, refresh_distance, drift, fresh
):
    """Row 1 is where its plan said, row 0 may have left it."""
    settings = {"refresh_every": refresh_every, "refresh_distance": refresh_distance}
    warm = make_actor(warm_start="previous", **settings)
    cold = make_actor()
    out = act(warm, make_step(warm, fresh=True))
    observation = out["plan", "refined"][:, 1].clone()
    observation[0] += drift
    step = follow_up(out, observation)
    drafts = act(warm, step)["plan", "draft"], act(cold, step)["plan", "draft"]
    assert torch.allclose(drafts[0][0], drafts[1][0], atol=1e-5) == fresh
    assert torch.allclose(drafts[0][1], drafts[1][1], atol=1e-5) == (refresh_every == 1)
    if refresh_every == 2:  # the second plan after the reset is warm, the third drafted anew
        step = follow_up(act(warm, step), observation)
        torch.testing.assert_close(
            act(warm, step)["plan", "draft"], act(cold, step)["plan", "draft"]
        )


def test_a_fresh_row_in_a_warm_batch_gets_the_cold_plan(make_actor: Build, make_step):
    warm = make_actor(warm_start="previous", refresh_distance=1e9)
    cold = make_actor()
    step = make_step(warm, (3,))
    step["planner", "steps"].fill_(1)
    step["is_init"][1] = True
    mixed, plain = act(warm, step), act(cold, step)
    for key in ("action", ("plan", "draft"), ("plan", "refined")):
        torch.testing.assert_close(mixed[key][1], plain[key][1])
        assert not torch.allclose(mixed[key][0], plain[key][0], atol=1e-4)


def test_rows_that_are_not_due_have_no_draft_made(make_actor: Build, make_step, monkeypatch):
    """Where they are tells nothing: they are compared with a state planned for another time."""
    actor = make_actor(
        warm_start="previous", replan_every=4, refresh_every=1000, refresh_distance=0.5
    )
    step = make_step(actor, (2,))
    step["planner", "steps"] = torch.tensor([[8], [5]])  # the first is due
    plan = step["planner", "plan"]
    step["observation"] = actor.normalizer.denormalize(torch.stack([plan[0, 4], plan[1, 1]]))
    planner, drafted = actor.planner, []
    plan_anew = planner.plan
    monkeypatch.setattr(planner, "plan", lambda *a, **kw: drafted.append(1) or plan_anew(*a, **kw))
    act(actor, step)
    assert not drafted
    step["observation"][0] += 5
    act(actor, step)
    assert len(drafted) == 1


def test_deterministic_planning_with_noise_and_candidates_repeats(make_actor: Build, make_step):
    for settings in ({}, {"warm_start": "previous", "refresh_distance": 1e9}, {"replan_every": 2}):
        actor = make_actor(candidates=4, **settings)
        step = make_step(actor, (32,))
        step["planner", "noise"] = torch.randn(actor.planner.noise_shape(32))
        first = act(actor, step)["action"]
        assert torch.equal(first, act(actor, step)["action"])
        with set_exploration_type(ExplorationType.RANDOM):
            assert not torch.equal(first, actor(step.clone())["action"])


@pytest.mark.parametrize("mode", ["none", "auto"])
@pytest.mark.parametrize("settings", [{}, {"warm_start": "previous", "replan_every": 2}])
def test_no_environments(make_actor: Build, make_step, mode: str, settings):
    actor = make_actor(**settings).compile(mode)
    for _ in range(3):
        assert act(actor, make_step(actor, (0,)))["action"].shape == (0, 2)


def test_candidates_share_a_draft_and_the_best_is_chosen(make_actor: Build, make_step):
    actor = make_actor(candidates=4)
    single = make_actor()
    step = make_step(actor)
    out = act(actor, step)
    torch.testing.assert_close(out["plan", "draft"], act(single, step)["plan", "draft"])
    # Each candidate is what one plan alone makes of its noise; the chosen has the highest value.
    plans, values = [], []
    for noise in actor.planner.candidate_noise:
        step["planner", "noise"] = noise.expand(3, 1, *noise.shape)
        alone = act(single, step)
        plans.append(alone["action"])
        present = actor.normalizer.normalize(step["observation"])
        values.append(actor.planner.critic.value(present, alone["action"]))
    best = torch.stack(values).argmax(0).flatten()
    expected = torch.stack(plans)[best, torch.arange(3)]
    torch.testing.assert_close(out["action"], expected, rtol=1e-4, atol=1e-5)


def test_returns_floor(make_actor: Build, make_step):
    """A share of what each environment was asked for at its own reset."""
    floored, plain = make_actor(returns_floor_share=0.5), make_actor()
    resets = torch.tensor([[60.0], [200.0], [-40.0]])
    later = torch.tensor([[40.0], [40.0], [-90.0]])
    asked = torch.tensor([[40.0], [100.0], [-40.0]])

    def second_action(actor, target: torch.Tensor) -> torch.Tensor:
        first = make_step(actor, fresh=True)
        first["target_return"][:] = resets
        second = follow_up(act(actor, first), first["observation"])
        second["target_return"][:] = target
        return act(actor, second)["action"]

    expected = second_action(plain, asked)
    torch.testing.assert_close(second_action(floored, later), expected)
    assert not torch.allclose(second_action(plain, later)[1:], expected[1:])


def test_returns_floor_after_steps_at_random(make_actor: Build, make_step):
    """As a collector's init_random_frames has it: the first step it sees is none after a reset."""

    def second_action(actor, target: float) -> torch.Tensor:
        first = make_step(actor, fresh=True)
        first["is_init"][:] = False
        first["target_return"][:] = 60.0
        second = follow_up(act(actor, first), first["observation"])
        second["target_return"][:] = target
        return act(actor, second)["action"]

    floored, plain = make_actor(returns_floor_share=0.5), make_actor()
    torch.testing.assert_close(second_action(floored, 10.0), second_action(plain, 30.0))


def test_generator_alone_acts_on_the_draft(make_actor: Build, make_step):
    actor = make_actor(refiner={"refine_steps": 0})
    out = act(actor, make_step(actor))
    torch.testing.assert_close(out["plan", "refined"], out["plan", "draft"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"warm_start": "last"}, "unknown warm_start 'last'; allowed are none, previous"),
        ({"replan_every": 0}, "replan_every must lie in 1..7, got 0"),
        ({"replan_every": 8}, "replan_every must lie in 1..7, got 8"),
        ({"refresh_every": 0}, "refresh_every must be at least 1"),
        ({"refresh_distance": -1.0}, "refresh_distance must not be negative"),
        ({"refresh_distance": math.nan}, "refresh_distance must be a number, got nan"),
        ({"refresh_every": 2.5}, "refresh_every must be a whole number, got 2.5"),
        ({"replan_every": 1.5}, "replan_every must be a whole number, got 1.5"),
        ({"returns_floor_share": math.nan}, "returns_floor_share must lie in 0..1, got nan"),
        ({"returns_floor_share": 1.5}, "returns_floor_share must lie in 0..1, got 1.5"),
        ({"in_keys": ["observation"]}, "in_keys must be 3 keys .observation, target return, res"),
        ({"out_keys": ["action", "plan", "plan"]}, "out_keys must be keys of their own"),
        ({"planner_key": ()}, "are one entry, or one holds the other"),
        ({"planner_key": "action"}, "'action' and 'action' are one entry"),
        ({"planner_key": ("plan", "draft")}, "are one entry, or one holds the other"),
        ({"out_keys": ["action", "observation"]}, "'observation' and 'observation' are one entry"),
        ({"out_keys": ["action", "_", "planner"]}, "'planner' and 'planner' are one entry"),
        ({"out_keys": []}, "out_keys must be 1 to 3 keys .action, draft, refined plan"),
    ],
)
def test_wrong_settings(make_actor: Build, settings, words):
    with pytest.raises(InputError, match=words):
        make_actor(**settings)
