"""What writes the site's pages from settings and results; the build itself is a step of CI."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
pytest.importorskip("sphinx")


def extension(name: str) -> Any:
    """One of Sphinx's extensions of ours, which are no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_settings_comment_is_beside_above_or_continued() -> None:
    text = """# @package _global_
# What the file is.
task:
  name: a # its name
  # return asked for
  target: 3000
  scores: [1, 2] # the first
  # and the second
  steps: 5 # to train
"""
    found = extension("settings_reference").read_settings(text)
    assert [tuple(setting) for setting in found] == [
        ("task.name", "a", "its name"),
        ("task.target", "3000", "return asked for"),
        ("task.scores", "[1, 2]", "the first and the second"),
        ("task.steps", "5", "to train"),
    ]


def test_every_setting_of_a_run_is_on_its_page(tmp_path: Path) -> None:
    extension("settings_reference").write_pages(tmp_path)
    assert "| `evaluation.episodes` | `40` | whole" in (tmp_path / "run.md").read_text("utf-8")
    assert "`planner.warm_start` | `previous`" in (tmp_path / "preset.md").read_text("utf-8")
    assert "`logger.kind` | `wandb`" in (tmp_path / "logger.md").read_text("utf-8")
    tasks = (tmp_path / "task.md").read_text("utf-8")
    for path in (DOCS.parent / "configs" / "task").rglob("*.yaml"):
        assert (
            f"| `{path.relative_to(DOCS.parent / 'configs' / 'task').with_suffix('')}` |" in tasks
        )


def test_the_results_page_has_what_the_files_say(tmp_path: Path) -> None:
    extension("results_tables").write_tables(tmp_path)
    tables = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    included = (DOCS / "results.md").read_text(encoding="utf-8")
    for name in tables:
        assert f"generated/{name}" in included
    for name, text in tables.items():  # each row is as wide as the head of its table
        for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
            widths = {len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(widths) == 1, (name, table)
    assert "| one CUDA graph | 7.3 | 9.5 | 12.9 |" in tables["plans_h200.inc.md"]
    lead = "| zoo/hopper/medium-expert | td3_bc | 82.8 ± 35.6 | 56.3 to 102.3 | +30.1 ("
    assert lead in tables["beside_others.inc.md"]
    assert (
        "| paper | hopper/medium-expert | NVIDIA H200 | 16 | cudagraph | 116.7 | – | 14.4 |"
        in tables["training.inc.md"]
    )
