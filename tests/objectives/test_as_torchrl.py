"""The losses as TorchRL's own: what its users and its own tests do with a loss module."""

from __future__ import annotations

import re

import pytest
import torch
from tensordict import TensorDict

from tests.objectives.cases import (
    LOSSES,
    B,
    H,
    PlainNoise,
    T,
    counted_steps,
    each_loss,
    generator,
    make,
    seeded,
    window,
)
from torchrl_td.errors import InputError
from torchrl_td.objectives import TrajectoryGeneratorLoss

COLLECTOR_MASK = ("collector", "mask")


def whole_window(name: str) -> TensorDict:
    td = window(name)
    td["mask"][:] = True
    return td


@each_loss
def test_a_window_without_a_mask_is_all_real(name: str) -> None:
    key, loss, _ = make(name)
    td = whole_window(name)
    assert torch.equal(seeded(loss, td.exclude("mask"))[key], seeded(loss, td)[key])


@pytest.mark.parametrize("rows", [1, T, B])
@each_loss
def test_a_mask_with_a_last_axis_of_one(name: str, rows: int) -> None:
    """With 1 or T rows, [B, T, 1] broadcasts against [B, T] without an error."""
    key, loss, _ = make(name)
    td = torch.cat([window(name)[1:]] * 3)[:rows]  # the first is padded at its right
    want = seeded(loss, td)[key]
    got = seeded(loss, td.clone().set("mask", td["mask"].unsqueeze(-1)))[key]
    assert torch.equal(got, want)
    full = torch.ones_like(td["mask"])
    assert not torch.equal(seeded(loss, td.clone().set("mask", full))[key], want)


@each_loss
def test_a_mask_of_another_shape_is_refused(name: str) -> None:
    _, loss, _ = make(name)
    with pytest.raises(InputError, match="'mask' has shape"):
        loss(window(name).set("mask", torch.ones(B, T, 2, dtype=torch.bool)))


@each_loss
def test_the_collectors_mask(name: str) -> None:
    """As ``mask`` itself where TorchRL finds it; not where ``loss_mask_key`` is None."""
    key, loss, _ = make(name)
    td, plain = window(name), whole_window(name)
    td.update(plain.exclude("mask"))
    want, unmasked = seeded(loss, td)[key], seeded(loss, plain)[key]
    plain[COLLECTOR_MASK] = td["mask"].unsqueeze(-1)
    assert torch.equal(seeded(loss, plain)[key], want)
    assert torch.equal(seeded(loss, plain.exclude("mask"))[key], want)
    loss.loss_mask_key = None
    assert torch.equal(seeded(loss, plain)[key], unmasked)
    loss.loss_mask_key = COLLECTOR_MASK
    assert torch.equal(seeded(loss, plain)[key], want)


@each_loss
def test_a_mask_of_the_users_own(name: str) -> None:
    """Its steps do not count, but the networks read them."""
    key, loss, module = make(name)
    td = whole_window(name)
    unmasked = seeded(loss, td)[key]
    none = seeded(LOSSES[name][1](module, reduction="none"), td)[key]
    counted = torch.ones(B, T, dtype=torch.bool)
    counted[:, ::3] = False
    td["counted"] = counted
    loss.loss_mask_key = "counted"
    counted = counted_steps(name, counted)
    got = seeded(loss, td)[key]
    assert torch.allclose(got, none[counted].mean(), rtol=1e-5)
    assert not torch.allclose(got, unmasked)
    with pytest.raises(KeyError, match="'counted'"):
        loss(td.exclude("counted"))


@each_loss
def test_an_entry_that_is_missing_is_named(name: str) -> None:
    _, loss, _ = make(name)
    for key in loss.in_keys:
        with pytest.raises(KeyError, match=re.escape(repr(key))):
            loss(window(name).exclude(key))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@each_loss
def test_any_batch_shape(name: str, reduction: str) -> None:
    key, _, module = make(name)
    loss = LOSSES[name][1](module, reduction=reduction)
    td = window(name)
    want = seeded(loss, td)[key]
    got = seeded(loss, td.reshape(2, B // 2, T))[key]
    assert torch.equal(got, want if reduction == "mean" else want.unflatten(0, (2, B // 2)))
    one = seeded(loss, td[:1])[key]
    assert torch.equal(seeded(loss, td[0])[key], one if reduction == "mean" else one[0])


@pytest.mark.parametrize("name", ["refiner", "plan_generator"])
def test_windows_shorter_than_the_plan_are_refused(name: str) -> None:
    _, loss, _ = make(name)
    with pytest.raises(InputError, match=r"7 steps, fewer than .*8"):
        loss(window(name)[:, : H - 1])


@each_loss
def test_it_compiles_in_one_graph(name: str) -> None:
    """Of batches of several sizes: what compares shapes must be traced where they are symbols."""
    key, loss, module = make(name)
    if name == "refiner":  # a U-Net would be traced as well, but slowly
        module.network = PlainNoise()
        loss = LOSSES[name][1](module)
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="eager", fullgraph=True, dynamic=True)
    for td in (window(name), window(name)[:4]):
        got = seeded(compiled, td)
        assert torch.allclose(got[key], seeded(loss, td)[key])
    got[key].backward()


@pytest.mark.parametrize("name", [*LOSSES, "gru"])
def test_every_parameter_is_reset(name: str) -> None:
    if name == "gru":
        module = generator("gru")
        loss = TrajectoryGeneratorLoss(module)
    else:
        _, loss, module = make(name)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.fill_(1000.0)
    loss.reset_parameters_recursive()
    for key, parameter in module.named_parameters():
        assert not (parameter == 1000.0).any(), key


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@each_loss
def test_other_precisions(name: str, dtype: torch.dtype) -> None:
    key, loss, module = make(name)
    td = window(name)
    want = LOSSES[name][1](module)(td)[key] if name != "refiner" else None
    loss.to(dtype)
    other = loss(td.apply(lambda t: t.to(dtype) if t.is_floating_point() else t))[key]
    assert other.dtype == dtype and other.isfinite()
    if want is not None:  # the refiner's noise is another in another precision
        assert torch.allclose(other.float(), want, rtol=0.05)
    other.backward()


@each_loss
def test_no_reduction_given_means_the_mean(name: str) -> None:
    key, loss, module = make(name)
    td = window(name)
    other = LOSSES[name][1](module, reduction=None)
    assert torch.equal(seeded(other, td)[key], seeded(loss, td)[key])


@each_loss
def test_in_keys_can_be_set_and_out_keys_selected(name: str) -> None:
    key, loss, _ = make(name)
    td = window(name)
    want = seeded(loss, td)[key]
    loss.select_out_keys(key)
    assert loss.out_keys == [key]
    assert set(seeded(loss, td).keys()) == {key}
    keywords = {"_".join([k] if isinstance(k, str) else k): td[k] for k in loss.in_keys}
    assert torch.equal(seeded_call(loss, **keywords, mask=td["mask"]), want)
    loss.in_keys = list(reversed(loss.in_keys))
    tensors = [td[k] for k in loss.in_keys]
    assert torch.equal(seeded_call(loss, *tensors, mask=td["mask"]), want)


def seeded_call(loss: torch.nn.Module, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    return loss(*args, **kwargs)


@each_loss
def test_state_dict_goes_round(name: str) -> None:
    key, loss, _ = make(name)
    _, other, _ = make(name)
    td = window(name)
    assert not torch.equal(seeded(other, td)[key], seeded(loss, td)[key])
    other.load_state_dict(loss.state_dict())
    assert torch.equal(seeded(other, td)[key], seeded(loss, td)[key])
