"""What README and site show runs: their Python as it stands, of their commands the settings."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer

from tests.checkpoints import untrained_checkpoint, untrained_maze_checkpoint
from tests.data.conftest import write
from tests.data.helpers import SAMPLE
from tests.settings import composed
from torchrl_td.commands.data import parser

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
COMMANDS = PROJECT["scripts"]
BUILT = ("_build", "generated", "method")  # by Sphinx
PAGES = [
    ROOT / "README.md",
    *sorted(p for p in (ROOT / "docs").rglob("*.md") if not set(BUILT) & set(p.parts)),
]
TEXTS = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in PAGES}
BLOCKS = {
    name: re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) for name, text in TEXTS.items()
}
LINES = [
    pytest.param(line.partition(" #")[0].split(), id=f"{name}: {line.partition(' #')[0]}")
    for name, text in TEXTS.items()
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    for line in block.splitlines()
    if line and not re.match("#|.* -m venv", line)
]


def gathered() -> TensorDictReplayBuffer:
    """What a collector could have gathered: one episode."""
    done = torch.arange(5).unsqueeze(-1) == 4
    steps = TensorDict(
        observation=torch.randn(5, 3),
        action=torch.randn(5, 2),
        next=TensorDict(
            observation=torch.randn(5, 3),
            reward=torch.ones(5, 1),
            done=done,
            terminated=torch.zeros_like(done),
            truncated=done,
            batch_size=[5],
        ),
        batch_size=[5],
    )
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(5))
    buffer.extend(steps)
    return buffer


def run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs a page's Python in a folder with the runs that it loads; gives the names it leaves."""
    monkeypatch.chdir(folder)
    untrained_maze_checkpoint(folder / "runs" / "first" / "checkpoint")
    if page != "docs/own_data.md":  # which trains it
        untrained_checkpoint(folder / "runs" / "pendulum" / "checkpoint")
    names: dict[str, Any] = {"replay_buffer": gathered()}
    for block in BLOCKS[page]:
        exec(block, names)
    return names


def test_the_readme_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run("README.md", tmp_path, monkeypatch)
    assert names["rollout"]["action"].shape == (300, 2)


def test_own_data_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("mujoco/hopper/medium-v0")
    shutil.copy(SAMPLE, tmp_path / "door-human-v0.hdf5")
    names = run("docs/own_data.md", tmp_path, monkeypatch)
    assert len(names["episodes"]) == 5


def test_the_backbone_of_ones_own_drafts_as_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = run("docs/how_to/backbone.md", tmp_path, monkeypatch)
    generator, history = names["generator"], names["history"]
    want, want_returns = generator.generate_uncached(*history, 7)
    draft, returns = generator.generate(*history, 7)
    assert torch.allclose(draft, want) and torch.allclose(returns, want_returns)


def test_the_sampler_of_ones_own_reads_the_refiner_s_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = run("docs/how_to/sampler.md", tmp_path, monkeypatch)
    unet, draft, returns = names["unet"], names["draft"], torch.ones(4, 1)
    schedule = names["NoiseSchedule"]()
    unrefined = names["HeunRefiner"](unet, schedule, refine_steps=0)
    assert torch.equal(unrefined.refine(draft, returns), draft)
    clipped = names["HeunRefiner"](unet, schedule, refine_steps=5, clip_range=0.1)
    plan = clipped.refine(draft, returns)
    assert torch.equal(plan[:, 0], draft[:, 0]) and plan[:, 1:].abs().max() < 0.1001


OF_THEIR_OWN = (
    "README.md",
    "docs/own_data.md",
    "docs/how_to/backbone.md",
    "docs/how_to/sampler.md",
)
OTHERS = sorted(name for name in BLOCKS if BLOCKS[name] and name not in OF_THEIR_OWN)


@pytest.mark.parametrize("page", OTHERS)
def test_the_python_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(page, tmp_path, monkeypatch)


@pytest.mark.parametrize("line", LINES)
def test_command_lines_are_of_settings_that_there_are(line: list[str]) -> None:
    number = next(n for n, word in enumerate(line) if word.endswith(".py") or word[:3] == "td-")
    program, words = line[number], [word for word in line[number + 1 :] if word != "-m"]
    if program.startswith("td-"):
        assert program in COMMANDS
    else:
        assert (ROOT / program).is_file()
    if program == "td-data":
        parser().parse_args(words)
    elif program in ("td-offline", "examples/td_offline.py"):
        if "--config-dir" in words:  # a folder of the reader's own, and a task in it
            folder = words.index("--config-dir")
            words = [w for w in [*words[:folder], *words[folder + 2 :]] if w != "task=my_task"]
        settings = (word for word in words if not word.startswith("hydra/"))
        # Of several values for a multirun the first; a list's commas are its own.
        composed(*(w if "[" in w else w.partition(",")[0] for w in settings))
    elif program in ("td-evaluate", "examples/td_evaluate.py"):
        composed(*(word for word in words if not word.startswith("checkpoint=")))


def test_the_readmes_scores_are_those_of_the_comparison() -> None:
    text = (ROOT / "benchmarks/results/compare/comparison.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \*\*\d.*$", TEXTS["README.md"], re.M)
    assert len(rows) >= 10
    for row in rows:
        name, mean, planner, draft, rcbc, best, *_ = (c.strip(" *") for c in row.split("|")[1:])
        task = "/".join(name.lower().replace(",", "").split()[:2])
        comparison = next(p for p in text.split("\n## ") if p.splitlines()[0].endswith(task))
        score, interval = re.fullmatch(r"(.*?)\*\* \((.*)\)", planner).groups()  # type: ignore[union-attr]
        assert f"mean score {mean}," in comparison, row
        assert f"| planner strided, refined | {score} | {interval} |" in comparison, row
        assert f"| planner strided, draft | {draft} |" in comparison, row
        score, interval = re.fullmatch(r"(.*?) \((.*)\)", rcbc).groups()  # type: ignore[union-attr]
        assert f"| rcbc | {score} | {interval} |" in comparison, row
        assert f"| bc_best | {best} |" in comparison, row


def test_every_folder_of_results_is_explained() -> None:
    text = (ROOT / "docs/how_to/reproduce.md").read_text(encoding="utf-8")
    folders = [path for path in (ROOT / "benchmarks/results").glob("compare*") if path.is_dir()]
    assert len(folders) > 1
    for folder in folders:
        assert f"`{folder.name}`" in text or f"/{folder.name}/`" in text, folder.name
