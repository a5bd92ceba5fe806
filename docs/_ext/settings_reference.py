"""Writes the reference of the settings from the YAML files and the comments in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from sphinx.application import Sphinx

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_LINE = re.compile(
    r"(?P<indent> *)(?P<key>[\w.@/]+):(?: +(?P<value>[^#]*?))?(?: *# (?P<says>.*))?$"
)
_INTRODUCTIONS = {
    "preset": "`preset=NAME` on the command line. A setting that a preset does not name is that "
    "of the preset it builds on.",
    "task": "`task=NAME`. One file in full, then what tells the others apart.",
    "algorithm": "`algorithm=NAME`: the planner, or a baseline in the same harness.",
    "logger": "`logger=NAME`: what is written beside `metrics.csv`.",
}


class Setting(NamedTuple):
    """A value in a YAML file and what its comments say."""

    key: str
    value: str
    says: str


def _head_lines(text: str) -> list[str]:
    return list(takewhile(lambda line: line.startswith("#"), text.splitlines()))


def head(text: str) -> str:
    """The comment with which a file begins, its directives for hydra apart."""
    lines = [line.removeprefix("#").removeprefix(" ") for line in _head_lines(text)]
    return "\n".join(line for line in lines if not line.startswith("@package"))


def read_settings(text: str) -> Iterator[Setting]:
    """The settings of a YAML text, each with the comment beside it, above it or continued below."""
    path: list[tuple[int, str]] = []
    above: list[str] = []
    found: list[Setting] = []
    for line in text.splitlines()[len(_head_lines(text)) :]:
        bare = line.strip()
        if bare.startswith("#"):
            above.append(bare.lstrip("# "))
            continue
        match = _LINE.match(line)
        if match is None:  # a list's entry or an empty line
            above = []
            continue
        # Lines above a value that has its own comment go on with the comment before them.
        if above and found and found[-1].says and match["says"]:
            last = found.pop()
            found.append(last._replace(says=" ".join([last.says, *above])))
            above = []
        indent = len(match["indent"])
        path = [(depth, key) for depth, key in path if depth < indent] + [(indent, match["key"])]
        if match["value"]:
            says = " ".join([*above, match["says"] or ""]).strip()
            found.append(Setting(".".join(key for _, key in path), match["value"].strip(), says))
        above = []
    yield from found


def table(settings: list[Setting], package: str = "") -> str:
    """A Markdown table of settings."""
    rows = ["| setting | value | what it is |", "| --- | --- | --- |"]
    for setting in settings:
        key = f"{package}.{setting.key}" if package else setting.key
        says = setting.says.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")
        rows.append(f"| `{key}` | `{setting.value}` | {says} |")
    return "\n".join(rows)


def _wanted(settings: Iterator[Setting], kind: str) -> list[Setting]:
    skipped = ("defaults", "hydra")
    return [s for s in settings if s.key.split(".")[0] not in skipped and s.key != kind]


def _file_section(path: Path, kind: str) -> str:
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(CONFIGS / kind).with_suffix("").as_posix()
    package = "" if "@package _global_" in text else kind
    settings = _wanted(read_settings(text), kind)
    parts = [f"## {name}", head(text).replace("*", "\\*")]
    return "\n\n".join([*parts, table(settings, package)] if settings else parts)


def _tasks() -> str:
    """The default task in full, and a table of all."""
    rows = [
        "| task | environment | data | horizon | k | guidance | target return |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for path in sorted((CONFIGS / "task").rglob("*.yaml")):
        settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        task, source = settings.get("task", {}), settings.get("dataset", {}).get("source", "")
        shown = ("env", "horizon", "refine_steps", "guidance_scale", "target_return")
        env, *numbers = (str(task.get(key, "")) for key in shown)
        name = path.relative_to(CONFIGS / "task").with_suffix("").as_posix()
        rows.append(f"| `{name}` | {env} | `{source}` | {' | '.join(numbers)} |")
    default = _file_section(CONFIGS / "task" / "pointmaze" / "umaze.yaml", "task")
    return "\n\n".join([default, "## All tasks", "\n".join(rows)])


def write_pages(folder: Path) -> None:
    """One page a group of settings, and one for the run's own."""
    folder.mkdir(parents=True, exist_ok=True)
    main = (CONFIGS / "td_offline.yaml").read_text(encoding="utf-8")
    pages = {"run": "# A run's settings\n\n" + table(_wanted(read_settings(main), ""))}
    for kind, introduction in _INTRODUCTIONS.items():
        files = sorted((CONFIGS / kind).glob("*.yaml"))
        body = _tasks() if kind == "task" else "\n\n".join(_file_section(f, kind) for f in files)
        pages[kind] = f"# `{kind}`\n\n{introduction}\n\n{body}"
    for name, page in pages.items():
        path, text = folder / f"{name}.md", page + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")  # only what changed is built anew


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir) / "generated/settings"))
    return {"parallel_read_safe": True}
