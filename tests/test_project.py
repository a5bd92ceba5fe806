"""The project's own rules: layout, pins, documented settings and commands."""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from tensordict import TensorDict
from torchrl.envs import step_mdp

from tests.tiny import tiny_actor

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "torchrl_td"

# Each folder may import from itself and from those of the rows above it; those of one row do not
# know one another. `errors` and `advice` serve all.
ROWS = (
    ("errors", "advice"),
    ("data", "networks"),
    ("modules",),
    ("objectives", "inference"),
    ("config",),
    ("envs", "baselines"),
    ("checkpoint",),
    ("training", "actors"),
    ("experiment",),
    ("comparison", "demo"),
    ("commands",),
)


def library_files() -> list[Path]:
    return sorted(LIBRARY.rglob("*.py"))


def row(parts: tuple[str, ...]) -> int:
    """The row of a module, given without the leading `torchrl_td`."""
    return next(number for number, row in enumerate(ROWS) if parts[0] in row)


def imported_modules(tree: ast.AST, package: tuple[str, ...]) -> list[tuple[int, tuple[str, ...]]]:
    """Line and dotted parts of everything of `torchrl_td` that `tree` imports."""
    found: list[tuple[int, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            kept = package[: len(package) - node.level + 1] if node.level else ()
            base = (*kept, *(node.module.split(".") if node.module else ()))
            # `from torchrl_td import data` names a module in its last part.
            names = [
                (*base, alias.name) if base == ("torchrl_td",) else base for alias in node.names
            ]
        else:
            continue
        found += [(node.lineno, name[1:]) for name in names if name[0] == "torchrl_td"]
    return found


def import_faults(source: str, module: tuple[str, ...]) -> list[str]:
    """Imports in `source` that go against the layout; `module` is its name in `torchrl_td`."""
    mine = row(module)
    faults = []
    for line, parts in imported_modules(ast.parse(source), ("torchrl_td", *module[:-1])):
        if not parts or (len(parts) == 1 and parts[0].startswith("__")):
            continue
        if row(parts) >= mine and parts[0] != module[0]:
            faults.append(f"line {line}: {'.'.join(module)} imports {'.'.join(parts)}")
    return faults


def comment_faults(text: str) -> list[str]:
    """Values in a YAML text that no comment explains: at the line's end or right above."""
    faults = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        value = re.match(r"\s*(-\s+)?[\w./@]+\s*:\s*([^#\s].*)$", line)
        if value is None or "#" in line:
            continue
        above = lines[number - 1].strip() if number else ""
        if not above.startswith("#"):
            faults.append(f"line {number + 1}: {line.strip()}")
    return faults


def readme_commands() -> list[str]:
    """Lines of the fenced bash blocks of the README."""
    blocks = re.findall(
        r"^```(?:bash|sh|shell)\n(.*?)^```",
        (ROOT / "README.md").read_text(encoding="utf-8"),
        re.M | re.S,
    )
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    requirements = [
        Requirement(line) for line in lines if line.strip() and not line.startswith("#")
    ]
    return {normal(requirement.name): requirement for requirement in requirements}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_imports_go_one_way() -> None:
    faults = []
    for path in library_files():
        module = path.relative_to(LIBRARY).with_suffix("").parts
        if module != ("__init__",):  # the package's front door re-exports from everywhere
            faults += import_faults(path.read_text(encoding="utf-8"), module)
    assert faults == []


def foreign_imports(source: str) -> set[str]:
    """Top-level names of the packages, ours apart, that `source` imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names - {"torchrl_td"}


def test_the_method_knows_neither_settings_nor_machinery() -> None:
    """Networks, modules and losses take plain arguments; speed is added from outside."""
    for folder in ("networks", "modules", "objectives"):
        barred = {"omegaconf", "hydra", "openvino"}
        barred |= {"tensordict", "torchrl"} if folder == "networks" else set()
        files = sorted((LIBRARY / folder).glob("*.py"))
        assert files
        for path in files:
            source = path.read_text(encoding="utf-8")
            assert not foreign_imports(source) & barred, path.name
            tree = ast.parse(source)
            own = {parts[0] for _, parts in imported_modules(tree, ("torchrl_td", folder))}
            assert not own & {"config", "inference", "training", "checkpoint"}, path.name
            for word in ("cuda.graph", "CUDAGraph"):
                assert word not in source, f"{path.name} knows {word}"


def test_an_action_is_ten_files_away_from_the_actor() -> None:
    """Those whose functions run in a call: with more, nobody could follow it."""
    actor = tiny_actor(warm_start="previous", replan_every=2)
    td = TensorDict(
        observation=torch.zeros(2, 6),
        target_return=torch.ones(2, 1),
        is_init=torch.ones(2, 1, dtype=torch.bool),
        planner=actor.planner_spec.zero([2]),
        batch_size=[2],
    )
    ran, before = set(), sys.getprofile()
    sys.setprofile(lambda frame, *_: ran.add(Path(frame.f_code.co_filename)))
    try:
        for _ in range(4):  # draft, follow, replan, follow
            td = step_mdp(actor(td))
            td["is_init"] = torch.zeros(2, 1, dtype=torch.bool)
    finally:
        sys.setprofile(before)
    assert len(ran.intersection(library_files())) <= 10


def test_import_rule_finds_a_wrong_import() -> None:
    wrong = "from torchrl_td.actors.td_planner_actor import x\nfrom torchrl_td import training\n"
    assert len(import_faults(wrong, ("modules", "refiner"))) == 2
    assert len(import_faults("from ..actors import x\n", ("modules", "refiner"))) == 1
    right = (
        "from torchrl_td.errors import InputError\nfrom .noise_schedule import x\nimport torch\n"
    )
    assert import_faults(right, ("modules", "refiner")) == []


def test_nothing_that_is_loaded_can_run() -> None:
    """Ruff bars pickle's own functions; these two read pickles as well, unless told not to."""
    for path in library_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            where = f"{path.name}, line {node.lineno}"
            if ast.unparse(node.func) == "torch.load":
                assert given.get("weights_only") == "True", where
            assert given.get("allow_pickle", "False") == "False", where


def test_every_setting_has_a_comment() -> None:
    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert files, "configs/ holds no YAML"
    faults = {
        str(f.relative_to(ROOT)): comment_faults(f.read_text(encoding="utf-8")) for f in files
    }
    assert {name: lines for name, lines in faults.items() if lines} == {}


def test_every_yaml_loads() -> None:
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path


def test_comment_rule_finds_a_bare_value() -> None:
    assert comment_faults("a: 1  # steps\n# metres\nb: 2\n\nc:\n  d: 3\n") == ["line 6: d: 3"]


def test_constraints_are_exact() -> None:
    for name, requirement in pins().items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", name
        assert Version(specifier.version).local is None, f"{name}: no local suffix"
        assert requirement.marker is None and requirement.url is None, name


def test_constraints_satisfy_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    known = pins()
    for line in [*project["dependencies"], *(line for lines in extras.values() for line in lines)]:
        requirement = Requirement(line)
        if requirement.name == "torchrl_td":
            assert requirement.extras <= set(extras)
            continue
        (pin,) = known[normal(requirement.name)].specifier
        assert requirement.specifier.contains(pin.version), line
    assert Version(next(iter(known["mujoco"].specifier)).version) < Version("3.12")


def test_readme_commands_are_what_ci_runs() -> None:
    """The README's two lines are set-up plus one command; CI's are the same but for the folder."""
    setups = [line for line in readme_commands() if "-m venv" in line]
    assert len(setups) == 2, "the README needs two set-up lines in fenced bash blocks"
    ci = (
        (ROOT / ".ci" / "run").read_text(encoding="utf-8").replace('"$work/venv/bin/', ".venv/bin/")
    )
    ci = ci.replace('python" ', "python ").replace('pip" ', "pip ").replace('"$work/venv"', ".venv")
    ci_commands = [line.strip().replace(" --quiet", "") for line in ci.splitlines()]
    example, tests = (line.split(" && ") for line in setups)
    assert example[:-1] == tests[:-1]
    assert example[-1] == ".venv/bin/python examples/td_offline.py"
    for command in tests:
        assert command in ci_commands
    assert (ROOT / "examples" / "td_offline.py").is_file()


def test_docstring_examples_never_see_the_users_datasets(
    pytestconfig: pytest.Config, datasets_path: Path
) -> None:
    """Also when the library's folder alone is run: the conftest.py above it sets it."""
    assert pytestconfig.pluginmanager.get_plugin(str(ROOT / "conftest.py")) is not None
    assert os.environ["MINARI_DATASETS_PATH"] == str(datasets_path)
