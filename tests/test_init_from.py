"""A new run that starts from the weights of another."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict
from torchrl import torchrl_logger

from tests.refused import refused
from tests.settings import TINY_RUN, composed
from torchrl_td.checkpoint import Start, find_checkpoint, find_start, load_about, load_payload
from torchrl_td.config import Config
from torchrl_td.data import Normalizer, load_episodes
from torchrl_td.errors import InputError
from torchrl_td.experiment.run import run
from torchrl_td.training.trainer import Trainer

CPU = torch.device("cpu")
MakeConfig = Callable[..., Config]
SHORT = ("training.steps=2", "training.validate_every=0", "evaluation.episodes=1")
UNPLAYED = ("training.steps=3", "training.stop_after=2")
STRIDED = (
    "preset=strided",
    "generator.layers=1",
    "generator.width=16",
    "refiner.hidden_dims=[16]",
    "value.hidden_dims=[16]",
    "planner.refine_steps=1",
)
KINDS = {
    "small": (),
    "strided": STRIDED,
    "returns": (*STRIDED, "task.scored=false", "generator.members=2"),
    **{n: (f"algorithm={n}",) for n in ("rcbc", "rcbc_ensemble", "iql")},
}


def words_of(kind: str) -> list[str]:
    """A tiny run of a preset or algorithm; a baseline reads none of a planner's settings."""
    return [*TINY_RUN, *SHORT, *KINDS[kind], *SHORT]


@pytest.fixture(scope="module")
def finished(tiny_pointmaze: str, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """A run of each kind, of two steps."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("finished") / kind
            words = (f"dataset.source={tiny_pointmaze}", f"output_dir={made[kind]}")
            run(composed(*words_of(kind), *words, *UNPLAYED))
        return made[kind]

    return make


@pytest.fixture(scope="module")
def other_data(tiny_pointmaze: str) -> TensorDict:
    """Of the same task, with other means and spreads."""
    data = load_episodes(tiny_pointmaze)
    data = TensorDict(data.to_dict(), batch_size=data.batch_size)
    for key in ("observation", ("next", "observation")):
        data[key] = 0.5 * data[key] + 0.25
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_its_networks_and_units_are_the_checkpoints(
    kind: str, finished: Callable, other_data: TensorDict
) -> None:
    """Those that act and those that only losses hold; optimiser and step are new."""
    folder = finished(kind)
    config = composed(*words_of(kind), f"init_from={folder}", "seed=5", "output_dir=new")
    trainer = Trainer(config, other_data, CPU, start=find_start(config, None))
    weights = load_payload(find_checkpoint(folder), "planner", CPU)
    state = trainer.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in state.items())
    assert trainer.step == 0 and not trainer.optimizer.state_dict()["state"]
    if kind == "iql":
        losses = load_payload(find_checkpoint(folder), "training", CPU)["trainer"]["losses"]["iql"]
        mine = trainer.losses["iql"].state_dict()
        names = [name for name in mine if "qvalue" in name]
        assert names and all(torch.equal(mine[name], losses[name]) for name in names)
    if kind == "small":  # the averaged weights start from the same
        averaged = trainer.planner_state()
        assert all(torch.equal(value, weights[name]) for name, value in averaged.items())


@pytest.mark.parametrize(
    ("action", "says"),
    [(torch.rand(5, 3), None), (torch.rand(5, 2), "2 numbers"), (torch.eye(3) > 0, "3 choices")],
)
def test_units_of_actions_are_of_the_same_numbers(action: torch.Tensor, says: str | None) -> None:
    units = {f"normalizer.action_{name}": torch.ones(3) for name in ("loc", "scale")}
    weights = Normalizer(torch.zeros(2), torch.ones(2)).state_dict(prefix="normalizer.")
    start = Start({**weights, **units}, {}, True, {"checkpoint": "there"})
    fitted = Normalizer(torch.zeros(2), torch.ones(2))
    if says is None:
        assert torch.equal(start.normalizer(fitted, action).action_loc, torch.ones(3))
        return
    with pytest.raises(InputError, match=f"acts by 3 numbers, this data's actions are {says};"):
        start.normalizer(fitted, action)


@pytest.mark.parametrize("keep", [True, False])
def test_choices_are_no_numbers(keep: bool) -> None:
    """As many of the one as of the other were taken for them."""
    weights = Normalizer(torch.zeros(2), torch.ones(2)).state_dict(prefix="normalizer.")
    start = Start(weights, {}, keep, {"checkpoint": "there"}, choices=3)
    fitted = Normalizer(torch.zeros(2), torch.ones(2))
    start.normalizer(fitted, torch.eye(3) > 0)
    with pytest.raises(InputError, match="acts by 3 choices, this data's actions are 3 numbers;"):
        start.normalizer(fitted, torch.rand(5, 3))


@pytest.mark.parametrize(
    ("kind", "word", "needs"),
    [
        ("strided", "value.symlog_unit=0.1", "value.symlog_unit=null"),
        ("iql", "algorithm.normalize_rewards=false", "algorithm.normalize_rewards=true"),
    ],
)
def test_a_value_is_of_the_same_unit(kind: str, word: str, needs: str, finished: Callable) -> None:
    """Logarithms were taken for values, and the other way round."""
    words = [*words_of(kind), f"init_from={finished(kind)}", word]
    with pytest.raises(InputError, match=f"(?i)need {needs}, this run has {word};"):
        find_start(composed(*words), None)


@pytest.mark.parametrize("kind", ["strided", "iql"])
def test_rewards_are_in_the_unit_that_critics_learned_in(
    kind: str, finished: Callable, other_data: TensorDict
) -> None:
    """Kept as the normaliser is: theirs was fitted on data ten times as well paid."""
    paid = other_data.clone()
    paid["next", "reward"] *= 10
    words = [*words_of(kind), f"init_from={finished(kind)}"]
    state = load_payload(find_checkpoint(finished(kind)), "training", CPU)["trainer"]
    (mine,) = state["units"].items()
    for how in ("keep", "fit"):
        config = composed(*words, f"init_normalizer={how}")
        trainer = Trainer(config, paid, CPU, start=find_start(config, None))
        (unit,) = trainer.algorithm.units.items()
        assert (unit == mine) == (how == "keep") and unit[0] == mine[0]
    resumed = Trainer(config, paid, CPU)
    assert resumed.state_dict()["units"] == {unit[0]: unit[1]}


@pytest.mark.parametrize("kind", ["small", "strided"])
def test_units_may_be_fitted_anew(
    kind: str, finished: Callable, other_data: TensorDict, tiny_pointmaze: str
) -> None:
    words = [*words_of(kind), f"init_from={finished(kind)}", "init_normalizer=fit"]
    config = composed(*words, "task.returns_scale=50")
    trainer = Trainer(config, other_data, CPU, start=find_start(config, None))
    fresh = Trainer(config, other_data, CPU).model.state_dict()
    weights = load_payload(find_checkpoint(finished(kind)), "planner", CPU)
    trained = {name for name, _ in trainer.model.named_parameters()}
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, (weights if name in trained else fresh)[name]), name
    assert trainer.model.normalizer.returns_scale == 50


def test_a_run_says_where_it_started_and_goes_on_without_it(
    finished: Callable,
    tiny_config: MakeConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    other_data: TensorDict,
) -> None:
    monkeypatch.setattr(torchrl_logger, "propagate", True)
    caplog.set_level(logging.INFO, torchrl_logger.name)
    start = tmp_path / "start"
    shutil.copytree(finished("small"), start)
    words = [*SHORT, f"init_from={start}", "training.learning_rate=1e-9"]
    run(tiny_config(*words, "training.stop_after=1"), data=other_data)
    assert "2 steps on minari:pointmaze/umaze-v0); their normaliser is kept" in caplog.text
    shutil.rmtree(start)  # what the run needs of it is in its own checkpoint
    run(tiny_config(*words, "resume=auto"), data=other_data)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["training_steps"] == 2
    assert results["init_from"]["checkpoint"] == str(start) and results["init_from"]["step"] == 2
    assert results["init_from"]["dataset"]["hash"] != results["dataset"]["hash"]
    assert results["settings"]["init_normalizer"] == "keep"
    before = load_payload(find_checkpoint(finished("small")), "planner", CPU)
    for name, value in load_payload(find_checkpoint(tmp_path / "run"), "planner", CPU).items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)
    assert load_about(find_checkpoint(tmp_path / "run"))["init_from"] == results["init_from"]


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        (
            "small",
            ("generator.width=32",),
            "need generator.width=16, this run has generator.w.*=32",
        ),
        (
            "small",
            ("refiner.multipliers=[1,2,4]", "task.horizon=16", "generator.predict=state"),
            r"need generator.predict=change refiner.multipliers=\[1,2\] task.horizon=8, this run",
        ),
        (
            "small",
            ("algorithm=rcbc",),
            "need algorithm=trajectory_diffuser, this run has algorithm",
        ),
        ("small", ("task.returns_scale=5",), "need task.returns_scale=100, this run"),
        ("rcbc", ("algorithm.hidden_dims=[8]",), r"need algorithm.hidden_dims=\[256,256\], this"),
        ("rcbc_ensemble", ("algorithm.members=2",), "need algorithm.members=3, this run has algor"),
        ("strided", ("task.stride=4",), "need task.stride=8, this run has task.stride=4"),
        # Of what only one of them reads, only its own is named: the other takes none.
        ("strided", ("task.scored=false",), r"need task.scored=True .*, this run has gen"),
        (
            "returns",
            ("task.scored=true",),
            "need task.scored=False generator.returns_modulate=True generator.members=2 .*, "
            "this run has .*task.scored=True; give",
        ),
    ],
)
def test_other_networks_are_refused_by_their_settings(
    kind: str, words: tuple[str, ...], message: str, finished: Callable
) -> None:
    config = composed(*words_of(kind), *words, f"init_from={finished(kind)}")
    with pytest.raises(InputError, match=message) as caught:
        find_start(config, None)
    assert "\n" not in str(caught.value)


def test_training_may_be_another(finished: Callable) -> None:
    words = ("refiner.condition_dropout=0", "planner.refine_steps=3", "training.batch_size=2")
    assert find_start(composed(*words_of("small"), *words, f"init_from={finished('small')}"), None)


def test_what_does_not_fit_is_refused(
    finished: Callable, tiny_config: MakeConfig, tmp_path: Path, other_data: TensorDict
) -> None:
    words = (*SHORT, f"init_from={finished('small')}")
    narrow = other_data.clone()
    for key in ("observation", ("next", "observation")):
        narrow[key] = narrow[key][:, :5]
    config = composed(*words_of("small"), words[-1])
    with pytest.raises(InputError, match="reads observations of 6 numbers, this data's have 5"):
        Trainer(config, narrow, CPU, start=find_start(config, None))
    other_data = other_data.clone()
    other_data["action"] = other_data["action"][:, :1]
    with pytest.raises(InputError, match=r"inverse_dynamics.* is \[2, 16\] there and \[1, 16\]"):
        Trainer(config, other_data, CPU, start=find_start(config, None))
    refused(tiny_config(*SHORT, f"init_from={tmp_path}"), "no checkpoint at")
    with pytest.raises(InputError, match="init_from is empty"):
        tiny_config("init_from=")
    given = ["resume=" + str(finished("small")), words[-1]]
    refused(tiny_config(*given), "'init_from' cannot be given", given)
