"""An actor can be saved, copied and sent to another process."""

from __future__ import annotations

import copy
import io
import pickle

import torch
from tensordict import TensorDictBase
from torch import multiprocessing

from tests.planner.helpers import Build, act
from torchrl_td import TDPlannerActor


def action(actor: TDPlannerActor, step: TensorDictBase) -> torch.Tensor:
    return act(actor, step)["action"]


def perturb(actor: TDPlannerActor) -> TDPlannerActor:
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return actor


def test_state_dict_through_a_file(make_actor: Build, make_step):
    actor = perturb(make_actor())
    step = make_step(actor)
    file = io.BytesIO()
    torch.save(actor.state_dict(), file)
    file.seek(0)
    other = make_actor()
    before = action(other, step)
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(action(other, step), action(actor, step), rtol=0, atol=0)
    assert not torch.allclose(before, action(actor, step))


def test_new_weights_count_at_once(make_actor: Build, make_step):
    """Nothing computed from old weights is kept: training in place, loading, and copying in."""
    actor, step = make_actor(), make_step(make_actor())
    action(actor, step)  # fills whatever is cached
    fresh = make_actor()
    perturb(actor)
    fresh.load_state_dict(actor.state_dict())
    torch.testing.assert_close(action(actor, step), action(fresh, step), rtol=0, atol=0)
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.data = parameter.data * 1.1
        for mine, its in zip(fresh.parameters(), actor.parameters(), strict=True):
            mine.copy_(its)
    expected = make_actor()
    expected.load_state_dict(actor.state_dict())
    torch.testing.assert_close(action(actor, step), action(expected, step), rtol=0, atol=0)
    torch.testing.assert_close(action(fresh, step), action(expected, step), rtol=0, atol=0)


def test_deep_copy_is_independent(make_actor: Build, make_step):
    actor = make_actor(warm_start="previous", replan_every=2)
    step = make_step(actor, fresh=True)
    before = action(actor, step)
    twin = copy.deepcopy(actor)
    torch.testing.assert_close(action(twin, step), before, rtol=0, atol=0)
    perturb(twin)
    torch.testing.assert_close(action(actor, step), before, rtol=0, atol=0)
    assert not torch.allclose(action(twin, step), before)


def test_pickle(make_actor: Build, make_step):
    actor = make_actor(candidates=3, returns_floor_share=0.5)
    step = make_step(actor)
    twin = pickle.loads(pickle.dumps(actor))
    torch.testing.assert_close(action(twin, step), action(actor, step), rtol=0, atol=0)
    assert (twin.in_keys, twin.out_keys) == (actor.in_keys, actor.out_keys)


def _answer(connection, actor: TDPlannerActor, step: TensorDictBase) -> None:
    torch.set_num_threads(1)
    connection.send(action(actor, step).tolist())


def test_in_another_process(make_actor: Build, make_step):
    actor = make_actor()
    step = make_step(actor)
    context = multiprocessing.get_context("fork")
    mine, its = context.Pipe()
    process = context.Process(target=_answer, args=(its, actor, step))
    process.start()
    answer = mine.recv() if mine.poll(60) else None
    process.join(10)
    assert answer is not None
    torch.testing.assert_close(torch.tensor(answer), action(actor, step))


def test_shared_memory_keeps_the_plan(make_actor: Build, make_step):
    """Collectors put a policy's weights in shared memory."""
    actor = make_actor()
    step = make_step(actor)
    before = action(actor, step)
    torch.testing.assert_close(action(actor.share_memory(), step), before, rtol=0, atol=0)
