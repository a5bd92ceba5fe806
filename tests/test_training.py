"""The trainer: its parts, its step against one written by hand, its state, its options."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from torchrl_td.config import Config
from torchrl_td.data import load_episodes
from torchrl_td.training.joint_loss import JointLoss
from torchrl_td.training.trainer import Trainer
from torchrl_td.training.trajectory_diffuser import TrajectoryDiffuserTraining

CPU = torch.device("cpu")


@pytest.fixture
def make_trainer(tiny_config: Callable[..., Config], tiny_pointmaze: str) -> Callable[..., Trainer]:
    def make(*words: str) -> Trainer:
        return Trainer(tiny_config(*words), load_episodes(tiny_pointmaze), CPU)

    return make


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.planner_state().items()}


@pytest.mark.parametrize("each", [False, True])
def test_a_step_is_the_one_written_by_hand(
    make_trainer: Callable[..., Trainer], each: bool
) -> None:
    """Three losses added up, clipped as a whole or each, AdamW, linear decay, averaged refiner."""
    words = ("training.gradient_clip=0.5", f"training.clip_each_part={each}")
    trainer = make_trainer(*words, "training.ema_decay=0.9")
    settings = trainer.config.training
    model = copy.deepcopy(trainer.model)
    losses = TrajectoryDiffuserTraining(model, trainer.config).losses
    average = copy.deepcopy(model.refiner_network)
    parameters = {name: list(loss.parameters()) for name, loss in losses.items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": ps, "weight_decay": 1e-4 if name == "refiner" else 0.0}
            for name, ps in parameters.items()
        ],
        lr=settings.learning_rate,
    )
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - 0.99 * step / settings.decay_steps)
        before = torch.random.get_rng_state()
        state = trainer.buffer.sampler._rng.get_state()
        batch = trainer.buffer.sample()
        total = sum(loss(batch)[f"loss_{name}"] for name, loss in losses.items())
        total.backward()
        squares: list[float] = []
        groups = [group["params"] for group in optimizer.param_groups]
        for clipped in groups if each else [[p for group in groups for p in group]]:
            squares.append(torch.nn.utils.clip_grad_norm_(clipped, 0.5).item() ** 2)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for slow, fast in zip(
                average.parameters(), model.refiner_network.parameters(), strict=True
            ):
                slow.mul_(0.9).add_(0.1 * fast)
        torch.random.set_rng_state(before)
        trainer.buffer.sampler._rng.set_state(state)
        trainer.train_step()
        assert trainer.learning_rate() == optimizer.param_groups[0]["lr"]  # the step's own
        means = trainer.read_metrics()
        norms = [means[f"gradient_norm/{name}"] for name in losses]
        assert sum(n**2 for n in norms) == pytest.approx(sum(squares), rel=2e-4)
        assert sum(means[f"loss_{name}"] for name in losses) == pytest.approx(
            total.item(), rel=1e-5
        )
    # Adam makes whole steps of the rounding errors in gradients that are zero but for them, such
    # as those of a convolution's bias before a group norm.
    felt = {p: optimizer.state[p]["exp_avg_sq"].sqrt() > 1e-6 for p in model.parameters()}
    for ours, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        mask = felt[theirs]
        torch.testing.assert_close(ours[mask], theirs[mask], rtol=1e-3, atol=1e-6)
    for ours, theirs, trained in zip(
        trainer.planner_model().refiner_network.parameters(),
        average.parameters(),
        model.refiner_network.parameters(),
        strict=True,
    ):
        mask = felt[trained]
        torch.testing.assert_close(ours[mask], theirs[mask], rtol=1e-3, atol=1e-6)
    compared = sum(int(mask.sum()) for mask in felt.values())
    assert compared > 0.5 * sum(p.numel() for p in model.parameters())


def test_paper_optimizer(make_trainer: Callable[..., Trainer]) -> None:
    """METHOD: Adam, AdamW 1e-4 for the refiner alone, decayed to 1 % by decay_steps."""
    trainer = make_trainer("training.decay_steps=10", "training.learning_rate=2e-4")
    optimizer, scheduler = trainer.optimizer, trainer.scheduler
    decays = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {"generator": 0.0, "refiner": 1e-4, "inverse_dynamics": 0.0}
    rates = []
    for _ in range(13):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(2e-4) and rates[5] == pytest.approx(2e-4 * 0.505)
    assert rates[10] == rates[12] == pytest.approx(2e-6)


def test_warm_up(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("training.decay_steps=10", "training.warmup_steps=4")
    rates = []
    for _ in range(5):
        rates.append(trainer.scheduler.get_last_lr()[0] / trainer.config.training.learning_rate)
        trainer.optimizer.step()
        trainer.scheduler.step()
    decay = [1 - 0.99 * step / 10 for step in range(5)]
    assert rates == pytest.approx([0.25 * decay[0], 0.5 * decay[1], 0.75 * decay[2], *decay[3:]])


@pytest.mark.parametrize("part", ["generator", "inverse_dynamics", "refiner"])
def test_a_part_trained_beside_others_is_the_part_trained_alone(
    make_trainer: Callable[..., Trainer], part: str
) -> None:
    """To the digit, with a clip for each part; one clip over all couples them."""

    def train(alone: bool, each: bool) -> list[torch.Tensor]:
        words = ("training.gradient_clip=0.1", f"training.clip_each_part={each}")
        trainer = make_trainer(*words)
        for group in trainer.optimizer.param_groups:
            if alone and group["name"] != part:
                for parameter in group["params"]:
                    parameter.requires_grad_(False)
        if alone:
            trainer.joint_loss = JointLoss({part: trainer.losses[part]})
        for _ in range(3):
            trainer.train_step()
        return [p.clone() for p in trainer.algorithm.parts()[part]]

    for one, other in zip(train(True, each=True), train(False, each=True), strict=True):
        assert torch.equal(one, other)
    pairs = zip(train(True, each=False), train(False, each=False), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)


def test_state_continues_bit_for_bit(make_trainer: Callable[..., Trainer]) -> None:
    one = make_trainer()
    for _ in range(3):
        one.train_step()
    state = copy.deepcopy(one.state_dict())
    for _ in range(3):
        one.train_step()
    whole = one.read_metrics()
    other = make_trainer("seed=5", "dataset.validation_share=0")  # same shapes, all else differs
    other = make_trainer()
    torch.rand(17)
    other.load_state_dict(state)
    for _ in range(3):
        other.train_step()
    assert other.step == 6 and other.learning_rate() == one.learning_rate()
    left, right = weights(one), weights(other)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert other.read_metrics() == whole


def test_validation_and_evaluation_change_nothing(make_trainer: Callable[..., Trainer]) -> None:
    def train(validating: bool) -> dict[str, torch.Tensor]:
        trainer = make_trainer()
        for _ in range(3):
            trainer.train_step()
            if validating:
                trainer.validate()
                trainer.planner_model()
        return weights(trainer)

    left, right = train(True), train(False)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_validation_is_always_on_the_same_windows(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer()
    trainer.train_step()
    first = trainer.validate()
    assert first == trainer.validate()
    assert first.keys() == {
        "loss_generator",
        "loss_refiner",
        "loss_inverse_dynamics",
        "loss_refiner_ema",
    }
    assert first["loss_refiner"] != first["loss_refiner_ema"]
    untrained = make_trainer()  # where the average is the refiner itself
    losses = untrained.validate()
    assert losses["loss_refiner"] == pytest.approx(losses["loss_refiner_ema"], abs=1e-7)


def test_planner_model_has_the_averaged_weights(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("training.ema_decay=0.75")
    start = copy.deepcopy(trainer.model.refiner_network.state_dict())
    trainer.train_step()
    trained, planning = trainer.model.refiner_network, trainer.planner_model().refiner_network
    for name, value in planning.state_dict().items():
        expected = 0.75 * start[name] + 0.25 * trained.state_dict()[name]
        torch.testing.assert_close(value, expected)
    assert any(not torch.equal(v, start[n]) for n, v in trained.state_dict().items())


def test_the_average_is_torchrls(make_trainer: Callable[..., Trainer]) -> None:
    from torchrl.objectives import SoftUpdate

    def train(theirs: bool) -> dict[str, torch.Tensor]:
        trainer = make_trainer()
        if theirs:
            decay = trainer.config.training.ema_decay
            trainer.algorithm.updaters = [SoftUpdate(trainer.losses["refiner"], eps=decay)]
        for _ in range(3):
            trainer.train_step()
        return weights(trainer)

    left, right = train(True), train(False)
    for name in left:
        torch.testing.assert_close(left[name], right[name])


def test_the_seed_governs_everything(make_trainer: Callable[..., Trainer]) -> None:
    def train(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(1234 + seed)
        trainer = make_trainer(f"seed={seed}")
        trainer.train_step()
        return weights(trainer)

    left, right, other = train(1), train(1), train(2)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert not torch.equal(left["normalizer.loc"], other["normalizer.loc"])  # another split
    assert not torch.equal(
        left["inverse_dynamics.network.0.weight"], other["inverse_dynamics.network.0.weight"]
    )


def test_rows_are_those_of_the_whole_dataset(make_trainer: Callable[..., Trainer]) -> None:
    """A diverging run names rows that its user can look up."""
    trainer = make_trainer()
    trainer.train_step()
    noted = trainer.watch.take()
    assert noted is not None
    present = trainer.rows[noted[1][0]]
    data = load_episodes(trainer.config.dataset.source)["observation"]
    train = trainer.model.normalizer.normalize(data)
    stored = trainer.buffer.storage.get(slice(0, len(trainer.rows)))["observation"]
    torch.testing.assert_close(train[present], stored[noted[1][0]])


def test_what_is_noted_of_a_step_is_small(make_trainer: Callable[..., Trainer]) -> None:
    """The batch's present rows, and not the windows' index that they are read from."""
    trainer = make_trainer()
    trainer.train_step()
    noted = trainer.watch.take()
    assert noted is not None
    (rows,) = noted[1]
    assert rows.untyped_storage().nbytes() == rows.numel() * rows.element_size()


def test_autocast_trains_nearly_the_same(make_trainer: Callable[..., Trainer]) -> None:
    losses = []
    for word in ("training.autocast=false", "training.autocast=true"):
        trainer = make_trainer(word)
        for _ in range(4):
            trainer.train_step()
        means = trainer.read_metrics()
        losses.append([means[f"loss_{name}"] for name in trainer.losses])
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert losses[0] != losses[1]  # it does compute in bfloat16
    torch.testing.assert_close(losses[0], losses[1], rtol=0.05, atol=0.01)


def test_compile_trains_the_same(
    make_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced, but not compiled to machine code, which takes minutes."""
    traced = []

    def eager(module: torch.nn.Module, *_: Any, **__: Any) -> None:
        traced.append(module)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")

    plain = make_trainer()
    plain.train_step()
    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    compiled = make_trainer("training.compile=true")
    compiled.train_step()
    assert len(traced) == 2
    left, right = weights(plain), weights(compiled)
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-6)
    assert compiled.validate().keys() == plain.validate().keys()
    compiled.load_state_dict(copy.deepcopy(compiled.state_dict()))


def test_a_batch_too_large_for_the_data_is_fine(make_trainer: Callable[..., Trainer]) -> None:
    trainer = make_trainer("training.batch_size=5000")  # windows are drawn with replacement
    trainer.train_step()
    assert trainer.step == 1


def test_a_part_without_gradients_has_its_norm_on_the_device(
    make_trainer: Callable[..., Trainer],
) -> None:
    """One on the CPU could not be stacked with those of the others; meta stands in for a GPU."""
    trainer = make_trainer()
    trainer.device = torch.device("meta")
    norms = trainer._clip_gradients()
    assert len(norms) == 3 and {norm.device.type for norm in norms.values()} == {"meta"}


@pytest.mark.gpu
def test_trains_on_a_gpu(tiny_config: Callable[..., Config], tiny_pointmaze: str) -> None:
    cuda = torch.device("cuda")
    trainer = Trainer(tiny_config(), load_episodes(tiny_pointmaze), cuda)
    assert trainer.buffer.storage.get(0)["observation"].device.type == "cuda"
    for _ in range(20):
        trainer.train_step()
    first = trainer.read_metrics()
    state = copy.deepcopy(trainer.state_dict())
    for _ in range(20):
        trainer.train_step()
    assert trainer.read_metrics()["loss_generator"] < first["loss_generator"]
    trainer.load_state_dict(state)
    trainer.check_health()
    assert trainer.step == 20
