"""Packed weights give the plain networks' results, and never an old weight's."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune

from torchrl_td.inference import packed_weights as packing
from torchrl_td.inference.packed_weights import Linear, PackedWeights, active_weights
from torchrl_td.networks import (
    MLP,
    TemporalUNet,
    TrajectoryTransformer,
    temporal_conv,
)
from torchrl_td.networks.temporal_conv import PointwiseConv, TemporalConv, TemporalUpsample

pytestmark = pytest.mark.skipif(not PackedWeights.available(), reason="needs oneDNN")


@pytest.fixture(autouse=True, params=["all", "convolutions", "large"])
def smallest(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every weight packed, also the small ones of these tests, and as it is used."""
    if request.param != "large":
        monkeypatch.setattr(packing, "_SMALLEST", 0)
    if request.param == "convolutions":
        monkeypatch.setattr(temporal_conv, "_LARGE", 0)


def run(
    network: Callable[..., torch.Tensor], *inputs: torch.Tensor, packed: PackedWeights | None = None
):
    with torch.no_grad(), packed or PackedWeights([network]):
        return network(*inputs)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 5),
    length=st.integers(1, 20),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 40)),
)
def test_convolutions(batch, length, kernel, stride, channels):
    for conv in (
        TemporalConv(*channels, kernel, stride),
        TemporalUpsample(channels[0]),
        PointwiseConv(*channels),
    ):
        x = torch.randn(batch, channels[0], length)
        torch.testing.assert_close(run(conv, x), conv(x), rtol=1e-4, atol=1e-5)


def test_convolution_of_any_memory_order():
    conv = TemporalConv(6, 8, 5)
    x = torch.randn(2, 7, 6).transpose(1, 2)
    torch.testing.assert_close(run(conv, x), conv(x.contiguous()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_one_packed_convolution_for_any_length_and_batch(stride: int):
    conv = TemporalConv(24, 40, 5, stride)
    packed = PackedWeights([conv])
    for batch, length in ((2, 8), (64, 8), (1, 32), (3, 5)):
        x = torch.randn(batch, 24, length)
        torch.testing.assert_close(run(conv, x, packed=packed), conv(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outputs", [1, 100, 256, 768, 1536])
@pytest.mark.parametrize("threads", [1, 3, 16])
def test_one_row(monkeypatch: pytest.MonkeyPatch, outputs: int, threads: int):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    for bias in (True, False):
        linear, x = Linear(70, outputs, bias=bias), torch.randn(1, 1, 70)
        torch.testing.assert_close(run(linear, x), linear(x), rtol=1e-4, atol=1e-5)
        column = torch.randn(1, 70, 1).mT  # another order of memory
        torch.testing.assert_close(run(linear, column), linear(column), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("horizon", [8, 16, 32])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_unet(horizon: int, batch: int):
    unet = TemporalUNet(5, 16, (1, 2, 4, 8))
    inputs = (torch.randn(batch, horizon, 5), torch.randint(1, 99, (batch,)), torch.rand(batch, 1))
    torch.testing.assert_close(run(unet, *inputs), unet(*inputs), rtol=1e-4, atol=1e-5)


def test_what_the_embeddings_add():
    unet = TemporalUNet(5, 16, (1, 2))
    step, condition = torch.randn(2, 3, 64)
    packed = PackedWeights([unet])
    for _ in range(2):
        for pair in ((step, condition), (step, None), (None, condition)):
            found = run(unet.project, *pair, packed=packed)
            torch.testing.assert_close(found, unet.project(*pair), rtol=1e-4, atol=1e-5)
        unet.middle[0].embedding.weight.data.mul_(2)  # one among the several packed together
        unet.middle[1].embedding.weight = nn.Parameter(torch.randn(32, 128))


def test_nothing_to_multiply():
    conv, linear = TemporalConv(4, 6, 3), Linear(4, 6)
    assert run(conv, torch.randn(0, 4, 8)).shape == (0, 6, 8)
    assert run(linear, torch.randn(0, 4)).shape == (0, 6)


def test_transformer():
    network = TrajectoryTransformer(5, 14, width=64, layers=2)
    mask = torch.arange(14) >= torch.tensor([[0], [5], [13]])
    inputs = (torch.randn(3, 14, 5), torch.rand(3, 14, 1), mask)
    for one, other in zip(run(network, *inputs), network(*inputs), strict=True):
        torch.testing.assert_close(one[mask], other[mask], rtol=1e-4, atol=1e-5)


def replace_storage(weight: nn.Parameter) -> None:
    weight.data = torch.randn_like(weight)


def optimiser_step(weight: nn.Parameter) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.5).step()


CHANGES: dict[str, Callable[[nn.Parameter], object]] = {
    "optimiser": optimiser_step,
    "in place": lambda weight: weight.detach().mul_(2),
    "behind the version counter": lambda weight: weight.data.mul_(2),
    "copied into": lambda weight: weight.data.copy_(torch.randn_like(weight)),
    "another storage": replace_storage,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changed_weights_are_packed_anew(change: Callable[[nn.Parameter], object]):
    network, x = MLP(6, (48, 48), 3), torch.randn(4, 6)
    packed = PackedWeights([network])
    before = run(network, x, packed=packed)
    change(network[2].weight)
    after = run(network, x, packed=packed)
    torch.testing.assert_close(after, network(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(after, before)


def test_a_change_of_all_columns_but_one_is_noticed():
    """The rows' length divides the distance between the entries that are compared."""
    network, x = MLP(6, (256,), 256), torch.randn(2, 6)
    packed = PackedWeights([network])
    run(network, x, packed=packed)
    network[2].weight.data[:, 1:] += 0.05
    torch.testing.assert_close(run(network, x, packed=packed), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "compute",
    [
        lambda layer: parametrizations.weight_norm(layer),
        lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    ],
    ids=["parametrised", "pruned"],
)
def test_computed_weights(compute: Callable[[nn.Module], object]):
    """Before and after the weights were packed, in a linear layer and in a convolution."""
    for network, layer, x in (
        (MLP(6, (48,), 3), "0", torch.randn(4, 6)),
        (TemporalConv(8, 16, 5), "", torch.randn(2, 8, 9)),
    ):
        packed = PackedWeights([network])
        run(network, x, packed=packed)
        compute(network.get_submodule(layer))
        for weights in (packed, PackedWeights([network])):
            found = run(network, x, packed=weights)
            torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-5)
    prune.random_unstructured(network, "bias", 0.5)  # nothing is left to be packed
    found = run(network, x, packed=PackedWeights([network]))
    torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-5)


def test_weights_made_in_inference_mode():
    """They have no version counter."""
    with torch.inference_mode():
        network, x = MLP(6, (48,), 3), torch.randn(4, 6)
        packed = PackedWeights([network])
        for _ in range(2):
            expected = network(x)
            torch.testing.assert_close(
                run(network, x, packed=packed), expected, rtol=1e-4, atol=1e-5
            )
            network[0].weight.mul_(2)


def test_packed_where_another_device_is_the_default():
    network, x = MLP(6, (48,), 3), torch.randn(1, 6)
    with torch.device("meta"):
        found = run(network, x)
    torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-5)


def test_replaced_parameters_and_modules_are_noticed():
    network, x = MLP(6, (48, 48), 3), torch.randn(4, 6)
    packed = PackedWeights([network])
    run(network, x, packed=packed)
    network[0].weight = nn.Parameter(torch.randn(48, 6))
    conv, window = TemporalConv(8, 16, 5), torch.randn(2, 8, 9)
    kept = PackedWeights([conv])
    run(conv, window, packed=kept)
    conv.weight = nn.Parameter(torch.randn(16, 8, 5))
    expected = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(run(conv, window, packed=kept), conv(window), **expected)
    other = {"weight": torch.randn(16, 8, 5), "bias": torch.randn(16)}
    with torch.no_grad(), kept:
        found = torch.func.functional_call(conv, other, window)
    torch.testing.assert_close(found, torch.func.functional_call(conv, other, window), **expected)
    torch.testing.assert_close(run(network, x, packed=packed), network(x), rtol=1e-4, atol=1e-5)
    network[2] = Linear(48, 48)
    for _ in range(2):
        torch.testing.assert_close(run(network, x, packed=packed), network(x), rtol=1e-4, atol=1e-5)
        network[2].weight.data.mul_(2)
    other = {name: torch.randn_like(p) for name, p in network.named_parameters()}
    with torch.no_grad(), packed:
        expected = torch.func.functional_call(network, other, x)
    torch.testing.assert_close(expected, torch.func.functional_call(network, other, x))


def test_kept_while_the_weights_are_the_same(monkeypatch: pytest.MonkeyPatch):
    network, x = MLP(6, (48, 48), 3), torch.randn(4, 6)
    packed = PackedWeights([network])
    run(network, x, packed=packed)
    asked = []
    monkeypatch.setattr(Linear, "_matrix", lambda self, variant: asked.append(self))
    run(network, x, packed=packed)
    assert asked == []


def test_gradients_never_use_them():
    network, x = MLP(6, (16,), 3), torch.randn(4, 6)
    with PackedWeights([network]):
        network(x).sum().backward()
    gradient = network[0].weight.grad.clone()
    network.zero_grad()
    network(x).sum().backward()
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(gradient, network[0].weight.grad)


def test_active_inside_of_the_block_and_this_thread_only():
    packed, seen = PackedWeights([MLP(2, (4,), 2)]), []
    with torch.no_grad():
        with packed, PackedWeights([MLP(2, (4,), 2)]) as inner:
            assert active_weights() is inner
        assert active_weights() is None
        with packed:
            assert active_weights() is packed
            thread = threading.Thread(target=lambda: seen.append(active_weights()))
            thread.start()
            thread.join()
        with pytest.raises(RuntimeError), packed:
            raise RuntimeError
        assert active_weights() is None
    assert seen == [None]


def test_blocks_of_two_threads_end_in_any_order():
    packed, outer = PackedWeights([MLP(2, (4,), 2)]), PackedWeights([MLP(2, (4,), 2)])
    inside, done, seen = threading.Event(), threading.Event(), []

    def other() -> None:
        with torch.no_grad(), packed:
            inside.set()
            done.wait(60)
        seen.append(active_weights())

    with torch.no_grad(), outer:
        with packed:
            thread = threading.Thread(target=other)
            thread.start()
            assert inside.wait(60)
        assert active_weights() is outer
        done.set()
        thread.join()
    assert seen == [None]


def test_a_copy_of_the_network_has_its_own():
    network, x = MLP(6, (16,), 3), torch.randn(4, 6)
    packed = PackedWeights([network])
    run(network, x, packed=packed)
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin[0].weight.mul_(3)
    torch.testing.assert_close(run(twin, x), twin(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(run(network, x, packed=packed), network(x), rtol=1e-4, atol=1e-5)
