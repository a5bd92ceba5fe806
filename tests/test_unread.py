"""Settings that a run does not read are refused, and those that it reads are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

import torchrl_td.demo
from tests.settings import composed
from torchrl_td import InputError, TDPlannerActor
from torchrl_td.config import check_read, reads
from torchrl_td.experiment.results import describe_run

DEMO = Path(torchrl_td.demo.__file__).parent / "checkpoint"  # of plans asked for a score


@pytest.mark.parametrize(
    ("preset", "word", "needs"),
    [
        ("small", "task.stride=4", "as preset=strided makes them"),
        ("small", "task.strided_horizon=16", "as preset=strided makes them"),
        ("small", "task.scored=true", "as preset=strided makes them"),
        ("small", "inverse_dynamics.plan_states=3", "as preset=strided makes them"),
        ("small", "refiner.hidden_dims=[9]", "needs refiner.kind=mlp"),
        ("small", "value.members=5", "as by task.scored=true"),
        ("small", "planner.plan_scores=[1]", "as by task.scored=true"),
        ("small", "critic.hidden_dims=[7]", "needs critic.enabled=true"),
        ("small", "planner.refresh_every=3", "by planner.warm_start=previous"),
        ("strided", "task.horizon=64", "give task.strided_horizon and task.stride"),
        ("strided", "generator.heads=3", "needs generator.kind=transformer"),
        ("strided", "generator.predict=state", "generator.kind=plan does not read it"),
        ("strided", "inverse_dynamics.input=states", "generator.kind=plan does not read it"),
        ("strided", "refiner.channels=99", "needs refiner.kind=unet"),
        ("strided", "critic.enabled=true", "has no use for a critic"),
        ("small", "refiner.batch_size=8", "as preset=strided makes them"),
        ("small", "generator={kind: gru, heads: 2}", "needs generator.kind=transformer"),
        ("strided", "generator= {heads: 2}", "needs generator.kind=transformer"),
    ],
)
def test_what_another_kind_of_part_reads_is_refused(preset: str, word: str, needs: str) -> None:
    """And stays among the settings of results, whose comparison knows it."""
    config = composed(f"preset={preset}", word)
    with pytest.raises(InputError, match=f"^{word.partition('=')[0]}.* is .*{needs}"):
        check_read(config, [word])
    assert describe_run(config, {}, 0)["settings"]["generator"]["heads"]
    assert "horizon" in describe_run(config, {}, 0)["settings"]["task"]


def test_what_a_part_of_that_kind_reads_is_taken() -> None:
    for words in (
        ["preset=small", "task.horizon=16", "generator.heads=2", "refiner.channels=16"],
        ["preset=small", "critic.enabled=true", "critic.hidden_dims=[7]"],
        ["preset=small", "planner.warm_start=previous", "planner.refresh_every=3"],
        ["task.stride=4", "value.members=5", "planner.plan_scores=[1]", "refiner.hidden_dims=[9]"],
        ["evaluation={baseline: null}", "preset=small", "generator= {heads: 2}"],
        ["task=zoo/hopper/medium", "returns_limit.expectile=0.9"],
        ["task=zoo/hopper/medium", "+task.scored=true", "value.discount=0.9"],
    ):
        check_read(composed(*words), words)


def test_a_schedules_own_settings_are_those_of_its_kind() -> None:
    words = ["preset=small", "refiner.schedule=cosine", "refiner.beta_end=0.03"]
    with pytest.raises(InputError, match=r"^refiner\.beta_end is .* refiner\.schedule=linear"):
        check_read(composed(*words), words)
    check_read(composed("preset=small", words[2]), words[2:])


def test_a_tasks_setting_that_the_preset_does_not_refer_to_is_refused() -> None:
    for words, target in (
        (["task.refine_steps=5"], "planner.refine_steps is 1"),
        (["task.training_steps=77"], "training.steps is 15000"),
        (["task.learning_rate=0.5"], "training.learning_rate is 0.001"),
        (["algorithm=bc", "task.training_steps=77"], "training.steps is 20000"),
        (["algorithm=decision_diffuser", "task.guidance_scale=2"], "planner.guidance_scale is"),
    ):
        with pytest.raises(InputError, match=f"^{words[-1].partition('=')[0]} is not .* {target}"):
            check_read(composed(*words), words)
    for taken in (
        ["task.strided_steps=77", "task.guidance_scale=2", "task.scored=false"],
        ["preset=small", "task.refine_steps=3"],
        ["preset=paper", "task.training_steps=77", "task.learning_rate=0.5"],
        ["task.strided_steps=77", "training.steps=5"],
    ):
        check_read(composed(*taken), taken)


def test_what_is_not_read_is_not_compared_either() -> None:
    """So a run goes on, and weights are taken, whatever such settings were before."""
    config = composed("task.horizon=64", "generator.heads=2", "task.refine_steps=5")
    assert not any(reads(config, key) for key in ("task.horizon", "generator.heads"))
    assert not reads(config, "task.refine_steps") and reads(config, "task.stride")


def test_an_actor_refuses_what_its_plans_do_not_read() -> None:
    with pytest.raises(InputError, match=r"^planner\.returns_floor_share is of plans asked for a"):
        TDPlannerActor.from_checkpoint(DEMO, returns_floor_share=0.5)
    TDPlannerActor.from_checkpoint(DEMO, returns_floor_share=None, refresh_every=10)  # as it is
    actor = TDPlannerActor.from_checkpoint(DEMO, plan_scores=[2.0])
    assert actor.planner.plan_scores.tolist() == [2.0]
