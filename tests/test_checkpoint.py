"""Checkpoints: atomic, rotated, verified; damaged, foreign and newer ones are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrl.checkpoint import Checkpoint

from tests.checkpoints import about, untrained_checkpoint
from torchrl_td import checkpoint as module
from torchrl_td.actors.td_planner_actor import TDPlannerActor
from torchrl_td.checkpoint import (
    find_checkpoint,
    load_about,
    load_model,
    load_payload,
    rename_damaged_after,
    save_checkpoint,
    tidy_checkpoints,
)
from torchrl_td.config import Config
from torchrl_td.errors import InputError
from torchrl_td.experiment.evaluate import evaluate
from torchrl_td.experiment.run import run


def save(folder: Path, step: int, **options: object) -> Path:
    planner = {"weight": torch.arange(1000.0) + step}
    return save_checkpoint(folder, step, about(step), planner, {"step": step}, **options)


def steps(folder: Path, prefix: str = "step") -> list[int]:
    return sorted(int(path.name.rpartition("-")[2]) for path in folder.glob(f"{prefix}-*"))


def payload_of(path: Path) -> Path:
    return next(path.rglob("*planner/state.pt"))


def test_round_trip(tmp_path: Path) -> None:
    path = save(tmp_path, 5)
    assert find_checkpoint(path) == find_checkpoint(tmp_path) == path
    assert load_about(path)["step"] == 5
    assert torch.equal(load_payload(path, "planner", "cpu")["weight"], torch.arange(1000.0) + 5)


def test_checksums_are_those_of_the_first_version(tmp_path: Path) -> None:
    """Named under `components`, so that checkpoints of any version are intact to any other."""
    sums = json.loads(next(save(tmp_path, 1).rglob("sha256.json")).read_text())
    names = ["0000-about/value.json", "0001-planner/state.pt", "0002-training/state.pt"]
    assert sorted(sums) == names


def test_keeps_the_newest_and_the_best_apart(tmp_path: Path) -> None:
    save(tmp_path, 1, best=True)
    for step in range(2, 6):
        save(tmp_path, step, keep=2)
    save(tmp_path, 5, best=True)
    assert steps(tmp_path) == [4, 5] and steps(tmp_path, "best") == [5]
    assert find_checkpoint(tmp_path / "best").name == "best-000000000005"
    assert find_checkpoint(tmp_path).name == "step-000000000005"


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "delete", "no manifest"])
def test_a_damaged_one_is_named_and_an_older_one_taken(damage: str, tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    file = payload_of(newest)
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "delete":
        file.unlink()
    else:
        (newest / "manifest.json").unlink()
    with pytest.raises(InputError) as caught:
        load_about(newest)
    assert str(newest) in str(caught.value) and "\n" not in str(caught.value)
    assert find_checkpoint(tmp_path).name == "step-000000000001"
    rename_damaged_after(tmp_path, 1)
    assert steps(tmp_path) == [1] and (tmp_path / f"damaged-{newest.name}").exists()
    shutil.rmtree(tmp_path / "step-000000000001")
    with pytest.raises(InputError, match="no checkpoint"):
        find_checkpoint(tmp_path)


@settings(max_examples=10)
@given(data=st.data())
def test_any_flipped_bit_is_found(data: st.DataObject, tmp_path_factory) -> None:
    path = save(tmp_path_factory.mktemp("flip"), 1)
    components = [file for file in path.rglob("*") if file.is_file() and file.parent != path]
    file = data.draw(st.sampled_from(sorted(components)))
    content = bytearray(file.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        load_about(path)
    shutil.rmtree(path)


def test_when_all_are_damaged(tmp_path: Path) -> None:
    payload_of(save(tmp_path, 1)).write_bytes(b"")
    with pytest.raises(InputError, match=r"every checkpoint in .* is damaged"):
        find_checkpoint(tmp_path)


def test_refuses_foreign_and_newer_ones(tmp_path: Path) -> None:
    foreign = Checkpoint(value={"a": 1}).save(tmp_path / "foreign")
    with pytest.raises(InputError, match="not a checkpoint of torchrl_td"):
        load_about(foreign)
    path = save(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["metadata"]["torchrl_td_format"] = module.FORMAT_VERSION + 1
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"has format 2, this torchrl_td reads up to 1; update"):
        load_about(path)
    with pytest.raises(InputError, match="the path does not exist"):
        find_checkpoint(tmp_path / "no")
    with pytest.raises(InputError, match="no checkpoint at"):
        find_checkpoint(tmp_path / "foreign" / "components")


def test_what_a_kill_leaves_is_cleared_away(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (tmp_path / f".{path.name}.stage-00ff").mkdir()
    (tmp_path / f".{path.name}.delete-00ff").mkdir()
    # Killed between moving the old one away and the new one in.
    path.rename(tmp_path / f".{path.name}.backup-00ff")
    tidy_checkpoints(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert load_about(path)["step"] == 1


def test_a_failed_save_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, keep=1)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"No space left on device; free some space"):
        save(tmp_path, 2, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000000001"]


def test_a_full_disk(small_disk: Path) -> None:
    save(small_disk, 1)
    big = {"weight": torch.zeros(1_000_000)}
    with pytest.raises(
        InputError, match=r"a checkpoint to .*: (it is not whole|No sp).*; free some"
    ):
        save_checkpoint(small_disk, 2, {}, big, {})
    assert [p.name for p in small_disk.iterdir()] == ["step-000000000001"]
    assert load_about(find_checkpoint(small_disk))["step"] == 1


def test_a_planner_needs_no_dataset(
    tiny_config: Callable[..., Config], tmp_path: Path, tiny_pointmaze: str
) -> None:
    run(tiny_config("training.steps=2", "training.stop_after=1"))
    config = tiny_config()
    model, about = load_model(tmp_path / "run")
    assert about["observation_dim"] == 6 and about["step"] == 1
    assert about["action_low"] == [-1.0, -1.0] and about["action_high"] == [1.0, 1.0]
    assert about["config"]["task"]["horizon"] == config.task.horizon
    assert about["dataset"]["source"] == tiny_pointmaze and about["dataset"]["hash"]
    assert float(model.normalizer.returns_scale) == config.task.returns_scale
    assert model.normalizer.scale.std() > 0  # the data's, not an empty one
    actor = TDPlannerActor.from_checkpoint(tmp_path / "run", refine_steps=1)
    assert actor.planner.refiner.refine_steps == 1
    assert actor.in_keys[:3] == ["observation", "target_return", "is_init"]
    renamed = TDPlannerActor.from_checkpoint(
        tmp_path / "run",
        in_keys=[("agent", "obs"), "goal", "start"],
        out_keys=[("agent", "action"), "draft", "plan"],
        planner_key="memory",
    )
    assert renamed.in_keys[:4] == [("agent", "obs"), "goal", "start", ("memory", "observation")]
    assert renamed.out_keys[:3] == [("agent", "action"), "draft", "plan"]
    assert renamed.action_high.tolist() == [1.0, 1.0]
    with pytest.raises(InputError, match="device='gpu' cannot be used"):
        TDPlannerActor.from_checkpoint(tmp_path / "run", device="gpu")
    # On a device all of it is there; meta stands in for a GPU.
    actor = TDPlannerActor.from_checkpoint(tmp_path / "run", device="meta")
    held = [*actor.named_parameters(), *actor.named_buffers()]
    assert [name for name, tensor in held if tensor.device.type != "meta"] == []


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["auto", "none"])
def test_a_planner_on_a_gpu_plays(
    mode: str, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config("training.steps=2", "training.stop_after=1")
    run(config)
    actor = TDPlannerActor.from_checkpoint(tmp_path / "run", device="cuda").compile(mode)
    result = evaluate(actor, config, episodes=1)
    assert result.compile == ("cudagraph" if mode == "auto" else "none")
    expected = evaluate(TDPlannerActor.from_checkpoint(tmp_path / "run"), config, episodes=1)
    assert result.lengths == expected.lengths


def test_a_checkpoint_that_does_not_fit_its_settings(tmp_path: Path) -> None:
    path = untrained_checkpoint(tmp_path)
    said = load_about(path)
    said["config"]["generator"]["width"] = 32
    planner = dict(load_payload(path, "planner", "cpu"))
    other = save_checkpoint(tmp_path / "other", 1, said, planner, {})
    with pytest.raises(InputError, match="does not fit its settings") as caught:
        load_model(other)
    assert "\n" not in str(caught.value)


def test_a_program_of_doubles_loads_what_was_trained(tmp_path: Path) -> None:
    path = untrained_checkpoint(tmp_path)
    expected = load_model(path)[0].state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        state = load_model(path)[0].state_dict()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(value, state[name]) for name, value in expected.items())
    assert {state[name].dtype for name in expected} == {v.dtype for v in expected.values()}
