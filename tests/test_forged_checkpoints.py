"""Checkpoints that a stranger made: refused in one line, and nothing in them runs."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from tests.checkpoints import about, forge, forge_about, mend_checksums, saved, untrained_checkpoint
from tests.refused import refused
from torchrl_td import TDPlannerActor, make_checkpoint_env
from torchrl_td.checkpoint import find_checkpoint, load_about, load_model, load_payload
from torchrl_td.config import Config
from torchrl_td.errors import InputError
from torchrl_td.experiment.checkpoint_evaluation import evaluate_checkpoint
from torchrl_td.experiment.run import run

pytestmark = pytest.mark.stranger("checkpoints and stored settings")


class Boom:
    """Makes the folder named by BOOM when it is unpickled."""

    def __reduce__(self) -> tuple:
        return os.mkdir, (os.environ["BOOM"],)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("original"))


@pytest.fixture
def path(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a sound checkpoint, to be forged."""
    monkeypatch.setenv("BOOM", str(tmp_path / "boom"))
    return Path(shutil.copytree(original, tmp_path / original.name))


def refuses(path: Path, match: str | None = None) -> None:
    """Whatever reads it says one line that names it."""
    with pytest.raises(InputError, match=match) as caught:
        load_model(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def pickle_in_a_tensordict(component: Path, archive: bool) -> None:
    """In place of the state dict what TorchRL's own adapter would unpickle."""
    (component / "state.pt").unlink()
    data = TensorDict({"weight": torch.zeros(1)}, [])
    data.set_non_tensor("code", Boom())
    if archive:
        data.save(component / "state.tdz", archive=True)
    else:
        data.save(component / "state")
    (component / "state.json").write_text(json.dumps({"kind": "dict", "items": []}))


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("component", ["0001-planner", "0002-training"])
def test_a_pickle_beside_the_tensors_does_not_run(
    component: str, archive: bool, path: Path, tmp_path: Path
) -> None:
    pickle_in_a_tensordict(path / "components" / component, archive)
    mend_checksums(path)
    shutil.rmtree(tmp_path / "boom", ignore_errors=True)
    refuses(path, "is no file of a checkpoint")
    for use in (
        lambda: TDPlannerActor.from_checkpoint(path),
        lambda: evaluate_checkpoint([f"checkpoint={path}", "device=cpu"]),
        lambda: load_payload(path, "planner", "cpu"),
        lambda: load_payload(path, "training", "cpu"),
    ):
        with pytest.raises(InputError, match="is no file of a checkpoint"):
            use()
    assert not (tmp_path / "boom").exists()


def test_resuming_runs_no_code(
    path: Path, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    """A damaged checkpoint is passed over for an older one, of which there is none here."""
    folder = tmp_path / "run" / "checkpoint"
    folder.mkdir(parents=True)
    path.rename(folder / path.name)
    pickle_in_a_tensordict(folder / path.name / "components" / "0002-training", archive=False)
    mend_checksums(folder / path.name)
    shutil.rmtree(tmp_path / "boom", ignore_errors=True)
    refused(tiny_config(f"resume={folder.parent}"), "every checkpoint in .* is damaged")
    assert not (tmp_path / "boom").exists()


def zipped(compression: int, **files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return file.getvalue()


def nested(depth: int) -> list:
    """2^depth entries that are few objects."""
    entry: list = []
    for _ in range(depth):
        entry = [entry, entry]
    return entry


CONTENTS: dict[str, Callable[[], bytes]] = {
    "object": lambda: saved(Boom()),
    "entry": lambda: saved({"weight": Boom()}),
    "legacy entry": lambda: saved({"weight": Boom()}, _use_new_zipfile_serialization=False),
    "legacy": lambda: saved({"weight": torch.zeros(3)}, _use_new_zipfile_serialization=False),
    "list": lambda: saved([1, 2]),
    "expanded": lambda: saved({"weight": torch.zeros(1).expand(10**12)}),
    "meta": lambda: saved({"weight": torch.zeros(10**9, device="meta")}),
    "sparse": lambda: saved({"weight": torch.eye(3).to_sparse()}),
    "endless": lambda: saved({"weight": nested(60)}),
    "bomb": lambda: zipped(zipfile.ZIP_DEFLATED, archive__data_pkl=bytes(10**7)),
    "no pickle": lambda: zipped(zipfile.ZIP_STORED, archive__version=b"3"),
    "empty": lambda: b"",
    "half": lambda: b"PK\x03\x04",
}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("component", ["planner", "training"])
def test_only_plain_tensors_are_read(component: str, kind: str, path: Path, tmp_path: Path) -> None:
    forge(path, component, CONTENTS[kind]())
    with pytest.raises(InputError, match="is damaged") as caught:
        load_payload(path, component, "cpu")
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("name", ["extra", "components/extra", "components/0000-about/extra"])
@pytest.mark.parametrize("kind", ["file", "folder", "link", "pipe"])
def test_nothing_else_may_be_in_the_folder(name: str, kind: str, path: Path) -> None:
    if kind == "file":
        (path / name).write_text("")
    elif kind == "folder":
        (path / name).mkdir()
    elif kind == "link":
        (path / name).symlink_to("/etc/hostname")
    else:
        os.mkfifo(path / name)
    refuses(path, f"{name} is no file of a checkpoint")


@pytest.mark.parametrize("name", ["manifest.json", "components/0001-planner/state.pt"])
def test_a_link_is_not_followed(name: str, path: Path, tmp_path: Path) -> None:
    (path / name).rename(tmp_path / "elsewhere")
    (path / name).symlink_to(tmp_path / "elsewhere")
    refuses(path, f"{name} is no file of a checkpoint")


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", "[" * 100_000, '{"metadata": []}', '{"metadata": {"torchrl_td_format": "1"}}'],
)
def test_a_forged_manifest(manifest: str, path: Path) -> None:
    (path / "manifest.json").write_text(manifest)
    refuses(path, "is not a checkpoint of torchrl_td")


def changed(keys: str, value: Any) -> dict[str, Any]:
    """The sound `about` with one entry changed; `...` removes it."""
    said = copy.deepcopy(about())
    *sections, name = keys.split(".")
    place = said
    for section in sections:
        place = place[section]
    if value is ...:
        del place[name]
    else:
        place[name] = value
    return said


@pytest.mark.parametrize(
    ("keys", "value", "names"),
    [
        ("step", ..., "step"),
        ("step", -1, "step"),
        ("step", True, "step"),
        ("step", 1e300, "step"),
        ("observation_dim", 10**12, "observation_dim"),
        ("observation_dim", "3", "observation_dim"),
        ("observation_dim", 0, "observation_dim"),
        ("observation_dim", 4, "does not fit its settings"),
        ("action_low", ..., "action_low"),
        ("action_low", [], "action_low"),
        ("action_low", [[1.0]], "action bounds"),
        ("action_low", [float("nan")], "action bounds"),
        ("action_low", [3.0], "wrong order"),
        ("action_choices", "both", "action_choices"),
        ("action_dtype", "load", "action_dtype"),  # a name within torch
        ("action_high", [2.0, 2.0], "action_high"),
        ("action_high", "two", "action_high"),
        ("dataset", ..., "dataset"),
        ("dataset", [], "dataset"),
        ("dataset.hash", ..., r"dataset\.hash"),
        ("dataset.score_mean", "much", r"dataset\.score_mean"),
        ("config", ..., "config"),
        ("config", "settings", "config"),
        ("config.preset", ..., "preset"),
        ("config.training", 3, "training"),
        ("config.trainings", {}, "trainings"),
        ("config.task.horizon", [8], r"task\.horizon"),
        ("config.task.horizon", 9, "does not fit its settings"),
        ("config.generator.width", 65_536, "does not fit its settings"),
        ("config.refiner.multipliers", [1] * 1000, r"refiner\.multipliers"),
        ("config.refiner.channels", 10**30, r"refiner\.channels"),
        ("config.task.name", "${oc.env:HOME}", r"interpolation"),
        ("config.task.env_kwargs", {"a": ["${oc.env:HOME}"]}, "interpolation"),
        ("config.task.env_kwargs", {"${oc.env:HOME}": 1}, "interpolation"),
        ("config.output_dir", "${seed}", "interpolation"),
        ("config.dataset.source", "???", r"dataset\.source"),
    ],
)
def test_what_a_checkpoint_says_of_itself(keys: str, value: Any, names: str, path: Path) -> None:
    forge_about(path, changed(keys, value))
    refuses(path, names)


@pytest.mark.parametrize("said", [[], "x", None, {}])
def test_a_checkpoint_that_says_nothing(said: Any, path: Path) -> None:
    forge_about(path, said)
    refuses(path)


def test_a_description_too_large_to_read(path: Path) -> None:
    forge(path, "about", b" " * (1 << 20) + b"{}")
    refuses(path, "larger than")


def test_an_environment_that_imports_a_module_has_to_be_named(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Its module may lie anywhere on Python's path, the checkpoint's own folder included."""
    (tmp_path / "stranger.py").write_text("import os; os.mkdir(os.environ['BOOM'])")
    monkeypatch.syspath_prepend(str(tmp_path))
    forge_about(path, changed("config.task.env", "stranger:Mine-v0"))
    TDPlannerActor.from_checkpoint(path)  # plans without an environment
    word = f"checkpoint={path}"
    for use in (lambda: make_checkpoint_env(path), lambda: evaluate_checkpoint([word])):
        with pytest.raises(InputError, match=r"'stranger:Mine-v0'.*; if you trust it, give"):
            use()
    assert not (tmp_path / "boom").exists()
    # Another one is taken, and that one where the person says so.
    assert make_checkpoint_env(path, env="Pendulum-v1").rollout(2)["target_return"].shape == (2, 1)
    with pytest.raises(InputError, match="cannot build environment 'stranger:Mine-v0'"):
        make_checkpoint_env(path, env="stranger:Mine-v0")
    assert (tmp_path / "boom").exists()


def test_resuming_asks_for_the_module_too(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    run(tiny_config("training.stop_after=1"))
    saved = find_checkpoint(tmp_path / "run")
    said = load_about(saved)
    said["config"]["task"]["env"] = "gymnasium_robotics:PointMaze_UMaze-v3"
    forge_about(saved, said)
    word = f"resume={tmp_path / 'run'}"
    refused(tiny_config(word), "if you trust it, give task.env=", [word])
    words = [word, f"task.env={said['config']['task']['env']}", "training.stop_after=2"]
    assert run(tiny_config(*words), words)["training_steps"] == 2


@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "20")))
@given(data=st.data())
def test_whatever_the_bytes_are(
    data: st.DataObject, original: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Loaded equal, or refused in one line that names the checkpoint."""
    folder = tmp_path_factory.mktemp("fuzz")
    path = Path(shutil.copytree(original, folder / original.name))
    names = sorted(file for file in path.rglob("*") if file.is_file())
    for _ in range(data.draw(st.integers(1, 3))):
        file = data.draw(st.sampled_from(names))
        content = bytearray(file.read_bytes())
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, 40))
        content[start : start + length] = data.draw(st.binary(max_size=40))
        file.write_bytes(content)
    if data.draw(st.booleans()):
        mend_checksums(path)
    try:
        model, _ = load_model(path)
    except InputError as error:
        assert path.name in str(error) and "\n" not in str(error)
    else:
        assert model.state_dict().keys() == load_model(original)[0].state_dict().keys()
    shutil.rmtree(folder)
