"""Every baseline in the harness of the planner: from its YAML to results.json and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs.utils import ExplorationType

from tests.graph_stand_in import Tape
from tests.settings import CONFIGS, TINY_RUN, composed
from torchrl_td import TDPlannerActor, load_actor, make_checkpoint_env
from torchrl_td.baselines import BASELINES
from torchrl_td.baselines.cloning import best_episodes
from torchrl_td.checkpoint import find_checkpoint, load_model, load_payload
from torchrl_td.config import FROM_NOISE, Config, check_config
from torchrl_td.data import load_episodes
from torchrl_td.errors import InputError
from torchrl_td.experiment.checkpoint_evaluation import evaluate_checkpoint
from torchrl_td.experiment.run import run
from torchrl_td.training.trainer import Trainer

MakeConfig = Callable[[str], Config]
CPU = torch.device("cpu")
# What makes each algorithm's run one of seconds.
TINY: dict[str, tuple[str, ...]] = {
    "dt": ("algorithm.width=16", "algorithm.layers=1", "algorithm.context=4"),
    **dict.fromkeys(
        ("bc", "bc_best", "rcbc", "rcbc_modulated", "rcbc_ensemble", "iql", "td3_bc"),
        ("algorithm.hidden_dims=[16]",),
    ),
}
# Of the two that plan, the preset's networks as well.
SMALL_PLANS = [
    w for w in TINY_RUN if w.split("=")[0].split(".")[0] in ("refiner", "task", "inverse_dynamics")
]
TINY |= {
    "decision_diffuser": (*SMALL_PLANS, "refiner.denoising_steps=20"),
    "diffuser": (*SMALL_PLANS, "algorithm.hidden_dims=[16]", "refiner.denoising_steps=4"),
}
ALL = list(TINY)
RUN = (
    "task.max_episode_steps=12",
    "dataset.validation_share=0.2",
    "training.steps=6",
    "training.batch_size=16",
    "training.log_every=3",
    "training.validate_every=3",
    "training.checkpoint_every=2",
    "evaluation.episodes=2",
    "progress=false",
    "device=cpu",
)


@pytest.fixture
def make_config(tiny_pointmaze: str, tmp_path: Path) -> Callable[..., Config]:
    def make(name: str, *words: str) -> Config:
        where = (f"dataset.source={tiny_pointmaze}", f"output_dir={tmp_path / 'run'}")
        return composed(f"algorithm={name}", *RUN, *TINY[name], *where, *words)

    return make


@pytest.fixture(scope="module")
def finished(tiny_pointmaze: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Folder and summary of an algorithm's run, made once for all tests."""

    @cache
    def finish(name: str) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp(name) / "run"
        where = (f"dataset.source={tiny_pointmaze}", f"output_dir={folder}")
        return folder, run(composed(f"algorithm={name}", *RUN, *TINY[name], *where))

    return finish


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_payload(find_checkpoint(path), "planner", "cpu"))


def test_every_algorithm_has_its_settings() -> None:
    files = {path.stem for path in (CONFIGS / "algorithm").glob("*.yaml")}
    assert files == {"trajectory_diffuser", *ALL}
    assert {*BASELINES, *FROM_NOISE} == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_trains_plays_and_is_loaded_again(name: str, finished: Callable[[str], Any]) -> None:
    folder, summary = finished(name)
    assert summary == json.loads((folder / "results.json").read_text())
    (result,) = summary["results"]
    assert summary["algorithm"] == result["name"] == name and len(result["returns"]) == 2
    assert summary["settings"]["algorithm"]["name"] == name
    assert "generator" not in summary["settings"]
    assert (summary["preset"] is None) == (name in BASELINES)
    assert all(count > 0 for count in summary["parameters"].values())
    again = evaluate_checkpoint([f"checkpoint={folder}", "device=cpu"])
    assert again["results"][0]["returns"] == result["returns"]
    header = (folder / "metrics.csv").read_text().splitlines()[0]
    assert "validation/loss_" in header and "train/gradient_norm/" in header


@pytest.mark.parametrize("name", ALL)
def test_continues_bit_for_bit(
    name: str, finished: Callable[[str], Any], make_config: Any, tmp_path: Path
) -> None:
    run(make_config(name, "training.stop_after=3"))
    run(make_config(name, "resume=auto"))
    whole, resumed = weights(finished(name)[0]), weights(tmp_path / "run")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_policy_is_no_planner(finished: Callable[[str], Any]) -> None:
    folder, _ = finished("bc")
    with pytest.raises(InputError, match="holds algorithm bc, which makes no plans"):
        TDPlannerActor.from_checkpoint(folder)
    with pytest.raises(InputError, match=r"algorithm=bc does not read planner\.refine"):
        evaluate_checkpoint([f"checkpoint={folder}", "planner.refine_steps=1"])


@pytest.mark.parametrize("name", ["rcbc", "dt", "diffuser"])
def test_the_policy_of_a_run_drops_into_a_collector(
    name: str, finished: Callable[[str], Any]
) -> None:
    folder, summary = finished(name)
    collector = Collector(
        make_checkpoint_env(folder, seed=1000),  # evaluation.seed
        load_actor(folder),
        frames_per_batch=12,
        total_frames=12,
        auto_register_policy_transforms=True,
        exploration_type=ExplorationType.DETERMINISTIC,
    )
    (batch,) = collector
    collector.shutdown()
    if name != "diffuser":  # whose evaluation draws noise
        played = summary["results"][0]["returns"][0]
        assert float(batch["next", "reward"].sum()) == pytest.approx(played)
    assert batch["action"].std() > 0


def first_step(folder: Path) -> tuple[Any, Any]:
    """The policy of a run, and what the environment gives it first."""
    env, actor = make_checkpoint_env(folder), load_actor(folder)
    if hasattr(actor, "make_tensordict_primer"):
        env.append_transform(actor.make_tensordict_primer())
    return actor, env.reset()


@pytest.mark.parametrize("name", ["bc", "rcbc", "dt"])
def test_no_environment_at_all_is_acted_in(name: str, finished: Callable[[str], Any]) -> None:
    """As a collector's partial batch may be."""
    actor, step = first_step(finished(name)[0])
    for shape in ((0,), (2, 0)):
        none = step.expand(*shape)
        assert actor(none)["action"].shape == (*shape, 2)


@pytest.mark.parametrize("name", ["bc", "rcbc", "dt"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
def test_numbers_that_are_not_finite_are_no_action(
    name: str, value: float, finished: Callable[[str], Any]
) -> None:
    actor, step = first_step(finished(name)[0])
    step["observation"].fill_(value)
    with pytest.raises(InputError, match=r"'observation' (holds NaN or Inf|is so large)"):
        actor(step)


def test_a_context_that_no_primer_made_is_asked_for(finished: Callable[[str], Any]) -> None:
    actor, step = first_step(finished("dt")[0])
    with pytest.raises(InputError, match=r"make_tensordict_primer\(\)"):
        actor(step.exclude("context"))


@pytest.mark.parametrize("name", ["rcbc", "dt"])
def test_an_environment_in_double_precision_is_acted_in_alike(
    name: str, finished: Callable[[str], Any]
) -> None:
    actor, step = first_step(finished(name)[0])
    double = step.clone()
    for key in ("observation", "target_return"):
        double[key] = step[key].double()
    assert torch.equal(actor(step)["action"], actor(double)["action"])


def test_settings_that_are_not_read_are_refused(make_config: Any) -> None:
    for word in ("generator.width=16", "planner.refine_steps=2", "training.cudagraph=true"):
        with pytest.raises(InputError, match=f"algorithm=bc does not read {word.split('=')[0]}"):
            run(make_config("bc", word), [word])
    with pytest.raises(InputError, match=r"trajectory_diffuser does not read algorithm\.hidden"):
        check_config({"preset": "small", "algorithm": {"hidden_dims": [8]}, **_NEEDED})
    with pytest.raises(InputError, match=r"algorithm=bc needs algorithm\.hidden_dims"):
        check_config({"preset": "small", "algorithm": {"name": "bc"}, **_NEEDED})
    with pytest.raises(InputError, match=r"algorithm\.name='ppo'; allowed are trajectory_diff.*bc"):
        check_config({"preset": "small", "algorithm": {"name": "ppo"}, **_NEEDED})


_NEEDED = {"task": {"name": "t", "env": "e"}, "dataset": {"source": "s"}}


@pytest.mark.parametrize("name", ["rcbc", "rcbc_modulated", "rcbc_ensemble"])
def test_rcbc_reads_the_return_asked_for(name: str, finished: Callable[[str], Any]) -> None:
    model, about = load_model(finished(name)[0])
    actor = model.actor(check_config(about["config"]))
    step = TensorDict(observation=torch.zeros(2, 6), batch_size=[2])
    step["target_return"] = torch.tensor([[0.0], [500.0]])
    low, high = actor(step)["action"]
    assert not torch.equal(low, high)
    by_name = actor(observation=step["observation"], target_return=step["target_return"])
    torch.testing.assert_close(by_name[1], high)
    plain, _ = actor(step.set("target_return", torch.full((2, 1), 500.0)))["action"]
    torch.testing.assert_close(plain, high)


def test_networks_of_an_ensemble_learn_as_alone_and_their_mean_acts(
    finished: Callable[[str], Any],
) -> None:
    model, about = load_model(finished("rcbc_ensemble")[0])
    config = check_config(about["config"])
    observation, returns = torch.randn(5, 6), torch.rand(5, 1)
    action = torch.rand(5, model.action_low.shape[0])
    batch = TensorDict(
        observation=observation, returns_to_go=returns, action=action, batch_size=[5]
    )
    loss = BASELINES["rcbc_ensemble"](model, config).losses["bc"]
    together = torch.autograd.grad(loss(batch)["loss_bc"], list(loss.parameters()))
    networks = list(model.network)
    alone = [
        gradient
        for network in networks
        for gradient in torch.autograd.grad(
            (network(observation, returns) - action).square().mean(), list(network.parameters())
        )
    ]
    assert len(networks) == 3
    torch.testing.assert_close(together, tuple(alone))
    mean = sum(network(observation, returns) for network in networks) / 3
    torch.testing.assert_close(model.network(observation, returns), mean)


def test_the_best_tenth_is_of_episodes_by_their_return(
    tiny_pointmaze: str, make_config: Any
) -> None:
    episodes = load_episodes(tiny_pointmaze)
    rows = best_episodes(episodes, 0.25)
    number = episodes["episode"].reshape(-1)
    returns = torch.stack([episodes["next", "reward"][number == i].sum() for i in range(12)])
    assert set(number[rows].tolist()) == set(returns.topk(3).indices.tolist())
    assert len(rows) == 3 * 300
    trainer = Trainer(make_config("bc_best"), episodes, CPU)
    data = trainer.buffer.storage.get(slice(0, len(trainer.buffer)))
    kept = trainer.model.normalizer.denormalize(data["observation"])
    torch.testing.assert_close(kept, episodes["observation"][trainer.rows], atol=1e-4, rtol=0)


def test_several_processes_are_refused(make_config: Any, tiny_pointmaze: str) -> None:
    from torchrl_td.training.distributed import World

    with pytest.raises(InputError, match="algorithm=bc trains in one process, this run has 2"):
        Trainer(make_config("bc"), load_episodes(tiny_pointmaze), CPU, World(0, 2))


@pytest.mark.parametrize("name", list(BASELINES))
def test_no_step_waits_for_the_device(name: str, make_config: Any, tiny_pointmaze: str) -> None:
    trainer = Trainer(make_config(name), load_episodes(tiny_pointmaze), CPU)
    trainer.train_step()  # the first may, as an optimiser that makes its states
    with Tape():
        trainer.train_step()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_td3_bc_trains_its_policy_every_other_step(
    device: str, make_config: Any, tiny_pointmaze: str
) -> None:
    trainer = Trainer(make_config("td3_bc"), load_episodes(tiny_pointmaze), torch.device(device))
    moved = []
    for _ in range(4):
        before = {n: [p.clone() for p in ps] for n, ps in trainer.algorithm.parts().items()}
        trainer.train_step()
        after = trainer.algorithm.parts()
        pairs = {n: zip(before[n], after[n], strict=True) for n in after}
        moved.append({n for n, both in pairs.items() if any((a != b).any() for a, b in both)})
    assert moved == [{"qvalue"}, {"actor", "qvalue"}] * 2
    trainer.check_health()


def test_noise_on_targets_is_in_shares_of_the_actions(
    make_config: Any, tiny_pointmaze: str
) -> None:
    """Of the range's half, as in the authors' code: in actions of ±0.05 0.2 is all there is."""
    trainer = Trainer(make_config("td3_bc"), load_episodes(tiny_pointmaze), CPU)
    (loss,) = trainer.algorithm.losses.values()
    assert torch.equal(loss.policy_noise, torch.full((2,), 0.2))  # actions of ±1
    assert torch.equal(loss.noise_clip, torch.full((2,), 0.5))
    assert not {"policy_noise", "noise_clip"} & loss.state_dict().keys()
    network = trainer.algorithm.policy.network
    network.low, network.high = torch.tensor([-0.05, -3]), torch.tensor([0.05, 1])
    loss = trainer.algorithm.make_losses()["td3_bc"]
    torch.testing.assert_close(loss.policy_noise, torch.tensor([0.01, 0.4]))
    torch.testing.assert_close(loss.noise_clip, torch.tensor([0.025, 1.0]))


def test_iql_learns_from_whole_transitions_in_scaled_rewards(
    make_config: Any, tiny_pointmaze: str
) -> None:
    """The best episode is worth 1000 more than the worst; what followed must be in the data."""
    episodes = load_episodes(tiny_pointmaze)
    last = episodes["next", "done"].reshape(-1)
    known = episodes.clone()
    known["next", "observation"][last] = known["observation"][last]
    trainer = Trainer(make_config("iql", "dataset.validation_share=0"), known, CPU)
    data = trainer.buffer.storage.get(slice(0, len(trainer.buffer)))
    assert len(data) == len(episodes) - int(last.sum())
    number = episodes["episode"].reshape(-1)[~last]
    returns = [float(data["next", "reward"][number == i].sum()) for i in range(12)]
    assert max(returns) - min(returns) == pytest.approx(1000, rel=0.02)


@pytest.mark.parametrize("name", ["iql", "td3_bc"])
def test_an_end_is_learnt_from_though_what_followed_is_unknown(
    name: str, make_config: Any, tiny_pointmaze: str
) -> None:
    """Nothing follows it to be valued, and its reward may be the only one."""
    episodes = load_episodes(tiny_pointmaze).clone()
    last = episodes["next", "done"].reshape(-1)
    episodes["next", "observation"][last] = episodes["observation"][last]
    episodes["next", "terminated"], episodes["next", "reward"] = (
        last[:, None],
        last[:, None].float(),
    )
    config = make_config(name, "dataset.validation_share=0", "algorithm.normalize_rewards=false")
    data = Trainer(config, episodes, CPU).buffer.storage
    assert data.get(slice(0, len(episodes)))["next", "reward"].sum() == last.sum()
    ends = episodes[last].clone()
    ends["next", "terminated"] = torch.zeros_like(ends["next", "terminated"])
    with pytest.raises(InputError, match=f"algorithm={name} learns from steps whose next"):
        Trainer(config, ends, CPU)


@pytest.mark.parametrize("name", ["iql", "td3_bc"])
def test_actions_without_bounds_are_refused(
    name: str, make_config: Any, tiny_pointmaze: str
) -> None:
    episodes = load_episodes(tiny_pointmaze)
    for bound in (float("inf"), torch.finfo(torch.float32).max):  # as TorchRL has it
        bounds = -torch.full((2,), bound), torch.full((2,), bound)
        with pytest.raises(InputError, match=f"^{name} keeps actions within the envir"):
            Trainer(make_config(name), episodes, CPU, action_bounds=bounds)
        Trainer(make_config("bc"), episodes, CPU, action_bounds=bounds)


def test_the_decision_transformer_is_validated_without_dropout(
    make_config: Any, tiny_pointmaze: str
) -> None:
    """As it acts; its loss hid the network from what turns dropout off."""
    episodes = load_episodes(tiny_pointmaze)
    found = []
    for share in (0.0, 0.9):
        trainer = Trainer(make_config("dt", f"algorithm.dropout={share}"), episodes, CPU)
        found.append(trainer.validate())
        assert trainer.losses["dt"].training
    assert found[0] == found[1]


def test_what_follows_the_present_is_not_seen_by_the_decision_transformer(
    make_config: Any, tiny_pointmaze: str
) -> None:
    """Its action is the one that training saw at the end of the same steps, however many."""
    trainer = Trainer(make_config("dt"), load_episodes(tiny_pointmaze), CPU)
    model = trainer.planner_model()
    actor, normalizer, K = model.actor(trainer.config), model.normalizer, model.context
    steps = load_episodes(tiny_pointmaze)[:7]
    state = actor._spec.zero()[None]
    for t in range(7):
        step = TensorDict(
            observation=steps["observation"][t, None],
            target_return=steps["returns_to_go"][t, None],
            is_init=torch.tensor([[t == 0]]),
            context=state,
            batch_size=[1],
        )
        action = actor(step)["action"]
        state = step["next", "context"]
        seen = slice(max(0, t + 1 - K), t + 1)
        taken = state["action"][:, : min(t + 1, K)]
        inputs = (
            normalizer.normalize(steps["observation"][seen])[None],
            taken,
            normalizer.scale_returns(steps["returns_to_go"][seen])[None],
        )
        torch.testing.assert_close(action, model.network(*inputs)[:, -1].clamp(-1, 1))
