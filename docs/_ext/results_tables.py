"""Writes the tables of the results page from the files under benchmarks/results/."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sphinx.application import Sphinx

from torchrl_td.comparison.intervals import bootstrap_mean, probability_of_improvement
from torchrl_td.comparison.tables import REFINED, Row, lead, rows

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
_ONE_VALUE = "compare_one_value"  # made when preset strided had `value.members=1`
_TABLE = "compare"  # the planner and its baselines on every task
# Folders of results beside it, of other settings, and what is other there.
_RCBC = {
    "compare_rcbc_ensemble": "three networks, whose actions' mean is taken",
    "compare_rcbc_30000": "30,000 steps, as the planner",
    "compare_rcbc_60000": "60,000 steps, four times as many",
    "compare_rcbc_paper_returns": "asked for the return that the paper asks for",
    "compare_returns_as_input": "asked for the return of the data's best hundredth",
    "compare_rcbc_modulated": "the return scales and shifts the layers",
}
_PLANNERS = {
    "compare_one_network": "one network each for generator and inverse dynamics",
    "compare_fast_products": "the same (mazes have one), trained by oneDNN's products",
    "compare_one_generator": "one network for the generator, three for inverse dynamics",
    "compare_evaluated_goals": "the value is told the goals of resets seeded 0, 1, 2, ...",
    "compare_medium_15000": "15,000 steps, and the same goals",
    "compare_own_goals": "the value learns of the data's own goals alone; medium: 15,000 steps",
}
# What the files call a way to plan, and what a reader is told.
_VARIANTS = {
    "naive": "naive port of the pseudo-code",
    "plain": "the library as it stands",
    "openvino": "compiled by OpenVINO",
    "cudagraph": "one CUDA graph",
    "ddim2": "the same, two DDIM evaluations",
    "warm": "the same, warm start",
    "warm_ddim2": "the same, warm start and two DDIM evaluations",
    "bf16": "the same in bfloat16, a whole plan",
    "bf16_warm_ddim2": "the same in bfloat16, warm start and two DDIM evaluations",
    "decision_diffuser": "Decision Diffuser, from noise",
    "diffuser": "Diffuser, guided by a value",
}


def read(name: str) -> Any:
    """The contents of a result file."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def markdown(head: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def comparison(folder: str) -> str:
    """What `benchmarks/compare.py` wrote there, its headings one level deeper."""
    text = (RESULTS / folder / "comparison.md").read_text(encoding="utf-8")
    lines = text.splitlines()[1:]
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in lines)


def results_of(folder: str) -> list[Row]:
    """One row a task and method there."""
    paths = sorted((RESULTS / folder).rglob("*-seed*.json"))
    return rows([json.loads(path.read_text(encoding="utf-8")) for path in paths])


def beside(folders: dict[str, str], wanted: Callable[[str], bool]) -> str:
    """The planner's lead over methods with other settings, or with no place in its table.

    Args:
        folders: of their results, and what is other there; an empty text shows the method.
        wanted: whether a method is to be shown.
    """
    planner = {row.task: row for row in results_of(_TABLE) if row.method.endswith(REFINED)}
    lines: list[list[object]] = []
    for folder, other in folders.items():
        for row in results_of(folder):
            if wanted(row.method):
                low, high = bootstrap_mean(row.scores)
                score = f"{row.scores.mean():.1f} ± {row.scores.std():.1f}"
                cells = [row.task, other or row.method, score, f"{low:.1f} to {high:.1f}"]
                lines.append([*cells, lead(planner[row.task], row), f"`{folder}/`"])
    head = ["task", "what is other" if any(folders.values()) else "method", "score"]
    return markdown([*head, "95 % interval", "the planner's lead, its interval", "files"], lines)


def improvement(folders: dict[str, str]) -> str:
    """Who improves on whom, over all tasks of a kind that a method has several seeds of.

    Args:
        folders: of the methods' results, and what is other there; an empty text shows the method.
    """
    planner = {row.task: row for row in results_of(_TABLE) if row.method.endswith(REFINED)}
    lines: list[list[object]] = []
    for folder, other in folders.items():
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in results_of(folder):
            if len(row.scores) > 1 and not row.method.startswith("planner"):
                kind = "agents'" if row.task.startswith("zoo/") else "mazes"
                if kind == "agents'" or "maze" in row.task:
                    groups.setdefault((other or row.method, kind), []).append(row)
        for (method, kind), theirs in groups.items():
            ours = [planner[row.task] for row in theirs]
            runs = [np.stack([row.scores.mean(1) for row in some], 1) for some in (ours, theirs)]
            chance, (low, high) = probability_of_improvement(*runs)  # each [seeds, tasks]
            means = [f"{scores.mean():.1f}" for scores in runs]
            cells = [f"{chance:.2f} ({low:.2f} to {high:.2f})", f"`{folder}/`"]
            lines.append([method, kind, len(theirs), *means, *cells])
    head = ["method", "data", "tasks", "planner's mean", "its mean", "probability of improvement"]
    return markdown([*head, "files"], lines)


def controllers() -> str:
    """The scripted controllers that made the mazes' data, at full skill."""
    rows: list[list[object]] = []
    folder = RESULTS / _TABLE
    for path in sorted(folder.rglob("controller.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        entry = found["results"][0] if "results" in found else found
        task = path.parent.relative_to(folder).as_posix()
        rows.append([task, _score(entry), entry["episodes"]])
    return markdown(["task", "score", "episodes"], rows)


def _score(entry: dict[str, Any]) -> str:
    return f"{entry['score_mean']:.1f} ± {entry['score_std']:.1f}"


def runs(*names: str) -> str:
    """One row a result of single runs."""
    rows: list[list[object]] = []
    for name in names:
        run = read(name)
        for entry in run["results"]:
            k, steps = entry["refine_steps"], run["training_steps"]
            cells = [run["task"], run["environment"], run["preset"], f"{steps:,}", k]
            rows.append([*cells, _score(entry), entry["episodes"], f"`{name}`"])
    head = ["data", "environment", "preset", "steps", "k", "score", "episodes", "file"]
    return markdown(head, rows)


def seeds(name: str) -> str:
    """Methods over several seeds, as `benchmarks/compare.py` aggregates them."""
    rows: list[list[object]] = []
    for part in read(name).values():
        for entry in part["tasks"]:
            cells = [entry["task"], entry["method"], _score(entry)]
            rows.append([*cells, f"{entry['seeds']} × {entry['episodes'] // entry['seeds']}"])
    return markdown(["task", "method", "score", "seeds × episodes"], rows)


def plans(*names: str, key: str) -> str:
    """Milliseconds a plan, each way to plan a row, each size and batch a column."""
    entries = [entry for name in names for entry in read(name) if entry["variant"] in _VARIANTS]
    found = {(e["variant"], e["size"], e["batch"]): f"{e[key]:.1f}" for e in entries}
    columns = sorted({(size, batch) for _, size, batch in found}, key=lambda c: (c[1] > 1, *c))
    rows: list[list[object]] = [
        [says, *(found.get((way, *column), "–") for column in columns)]
        for way, says in _VARIANTS.items()
        if any(way == variant for variant, _, _ in found)
    ]
    return markdown(["", *(f"{size} × {batch}" for size, batch in columns)], rows)


def training(*names: str) -> str:
    """Optimisation steps a second."""
    rows: list[list[object]] = []
    for entry in (entry for name in names for entry in read(name)):
        settings = [w for w in ("cudagraph", "compile", "autocast") if entry[w]]
        settings += [w for w in entry.get("settings", ()) if not w.startswith("training.")]
        task = entry.get("task", "hopper/medium-expert")  # of before, and its horizon the task's
        cells = [
            entry["preset"],
            task,
            entry["device"],
            entry["horizon"],
            ", ".join(settings) or "–",
        ]
        # Neither is there for every preset, nor the first in results of before.
        compared = (entry.get("times_default_products"), entry["times_straightforward"])
        ratios = ["–" if times is None else f"{times:.1f}" for times in compared]
        speed, memory = entry["steps_per_second"], entry["peak_memory_mib"]
        rows.append([*cells, f"{speed:.1f}", *ratios, f"{memory:.0f}"])
    head = ["preset", "task", "device", "horizon", "settings", "steps a second"]
    return markdown([*head, "× PyTorch's own products", "× a straightforward loop", "MiB"], rows)


def price() -> str:
    """What each saving in planning costs in score."""
    tasks = {"zoo hopper": read("price_zoo_hopper.json"), "umaze": read("price_umaze.json")}
    found: dict[tuple[str, str], list[object]] = {}
    for run in tasks.values():
        for entry in run["results"]:
            cells = [_score(entry), f"{entry['ms_median']:.1f}"]
            found.setdefault((entry["curve"], entry["setting"]), []).extend(cells)
    head = ["planner", "setting"]
    for task in tasks:
        head += [f"{task}: score", "ms"]
    return markdown(head, [[*key, *cells] for key, cells in found.items()])


def known_optimum() -> str:
    """What algorithms make where their best policy is known, each seed's."""
    rows: list[list[object]] = []
    for row in read("known_optimum.json")["results"]:
        what = row["what"].rpartition("=")
        says = {"evaluation.target_return": "asked for ", "algorithm.value_scale": "guided by "}
        known = "at most 20" if row["known"] is None else f"{row['known']:.1f}"
        made = ", ".join(f"{value:.1f}" for value in row["made"])
        rows.append([row["algorithm"], says.get(what[0], "") + (what[2] or "–"), known, made])
    return markdown(["algorithm", "", "known", "made by each seed"], rows)


def loading() -> str:
    """Seconds and memory to read a data set, and milliseconds to draw a batch."""
    found = read("data_loading.json")
    files = [
        [e["format"], e["time"], f"{e['seconds']:.1f}", f"{e['peak_times_float32']:.2f}"]
        for e in found["loading"]
    ]
    draws = [
        [f"{e['transitions']:,}", e["batch"], f"{e['median_ms']:.2f}"] for e in found["sampling"]
    ]
    head = [
        "format",
        "time",
        "s for 2 million transitions",
        "memory, × the data in single precision",
    ]
    return "\n\n".join(
        [markdown(head, files), markdown(["transitions", "windows", "ms to draw them"], draws)]
    )


def write_tables(folder: Path) -> None:
    """One file a table, which `results.md` includes."""
    folder.mkdir(parents=True, exist_ok=True)
    h200 = ["h200/planner_speed_hopper.json", "h200/planner_speed_others.json"]
    speeds = [f"training_speed{of}.json" for of in ("_maze", "_one_network", "")]
    speeds += ["h200/training_speed_cudagraph.json"]
    tables = {
        "comparison": comparison(_TABLE),
        "beside_others": beside({"compare_iql_td3_bc": "", "compare_dt": ""}, lambda method: True),
        "improvement": improvement(
            {
                "compare_iql_td3_bc": "",
                "compare_rcbc_60000": "rcbc, 60,000 steps",
                "compare_rcbc_ensemble": "rcbc, three networks",
            }
        ),
        "beside_rcbc": beside(_RCBC, lambda method: method.startswith("rcbc")),
        "beside_planners": beside(_PLANNERS, lambda method: method.endswith(REFINED)),
        "comparison_one_value": comparison(_ONE_VALUE),
        "controllers": controllers(),
        "seeds": seeds("zoo_hopper_medium_expert_small.json"),
        "runs": runs("door_human_small.json", "h200/paper_zoo_hopper_medium_expert_seed0.json"),
        "plans_cpu": plans("planner_speed.json", key="processor_ms"),
        "plans_h200": plans(*h200, key="median_ms"),
        "training": training(*speeds),
        "price": price(),
        "known_optimum": known_optimum(),
        "loading": loading(),
    }
    for name, text in tables.items():
        (folder / f"{name}.inc.md").write_text(text + "\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write_tables(Path(app.srcdir) / "generated"))
    return {"parallel_read_safe": True}
