"""Settings: every mistake is one line that names the setting and what is allowed."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.settings import CONFIGS, TINY_RUN, quickly_composed, raw_composed
from torchrl_td.config import (
    Config,
    DatasetConfig,
    TaskConfig,
    check_config,
    override_config,
    to_dict,
)
from torchrl_td.config.limits import ALGORITHMS, CHOICES, POSITIVE, RANGES
from torchrl_td.errors import InputError


def minimal() -> dict[str, Any]:
    return {"preset": "small", "task": {"name": "t", "env": "e"}, "dataset": {"source": "s"}}


def with_(key: str, value: Any) -> dict[str, Any]:
    given = minimal()
    if key == "refiner.max_step":  # which refining must not start above
        given.setdefault("planner", {})["refine_steps"] = 0
    if key == "planner.candidates":  # which a critic chooses among
        given["critic"] = {"enabled": True}
    if (key, value) == ("generator.kind", "plan"):
        given["task"] |= {"strided_horizon": 8, "stride": 2}
    setting = key.removeprefix("algorithm.")
    name = next((name for name, reads in ALGORITHMS.items() if setting in reads), None)
    if key == "algorithm.name" and value in ALGORITHMS:
        name = value
    if name is not None:  # which comes with settings of its own
        given |= yaml.safe_load((CONFIGS / f"algorithm/{name}.yaml").read_text(encoding="utf-8"))
    if key == "training.patience":  # counts evaluations, so there have to be some
        given.setdefault("training", {})["evaluate_every"] = 1
    *sections, last = key.split(".")
    target = given
    for section in sections:
        target = target.setdefault(section, {})
    target[last] = value
    return given


def value_of(config: Config, key: str) -> Any:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def refused(given: Any) -> str:
    with pytest.raises(InputError) as error:
        check_config(given)
    message = str(error.value)
    assert message and "\n" not in message
    return message


def test_defaults() -> None:
    config = check_config(minimal())
    assert config == Config(
        preset="small",
        task=TaskConfig(name="t", env="e"),
        dataset=DatasetConfig(source="s"),
    )
    assert check_config(OmegaConf.create(minimal())) == config


def test_the_dictionary_given_is_not_changed() -> None:
    given = with_("refiner.multipliers", [1, 2])
    before = {k: dict(v) if isinstance(v, dict) else v for k, v in given.items()}
    check_config(given).refiner.multipliers.append(7)
    assert given == before


@settings(max_examples=10)
@given(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 10**9),
            "refiner.multipliers": st.lists(st.integers(1, 8), min_size=1, max_size=5),
            "planner.evaluations": st.one_of(st.none(), st.integers(1, 50)),
            "planner.temperature": st.floats(0, 10),
            "training.learning_rate": st.floats(1e-8, 1),
            "generator.causal": st.booleans(),
            "task.env_kwargs": st.dictionaries(
                st.text("abc_", min_size=1), st.one_of(st.integers(), st.booleans(), st.none())
            ),
        }
    )
)
def test_round_trip(values: dict[str, Any]) -> None:
    given = minimal()
    for key, value in values.items():
        *sections, last = key.split(".")
        target = given
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    config = check_config(given)
    for key, value in values.items():
        assert value_of(config, key) == value
    plain = to_dict(config)
    assert check_config(plain) == config
    assert plain == asdict(config)  # plain dictionaries and lists, as a checkpoint can hold


# --- unknown keys ----------------------------------------------------------------------------


def test_an_unknown_section() -> None:
    message = refused({**minimal(), "plannner": {"refine_steps": 2}})
    assert "'plannner'" in message
    for field in fields(Config):
        assert field.name in message


@pytest.mark.parametrize("section", [f.name for f in fields(Config)])
def test_an_unknown_setting_of_each_section(section: str) -> None:
    kind = type(getattr(Config(), section))
    if not is_dataclass(kind):
        assert f"'{section}' takes one value" in refused({**minimal(), section: {"nope": 1}})
        return
    message = refused(with_(f"{section}.nope", 1))
    assert f"'{section}.nope'" in message
    for field in fields(kind):
        assert field.name in message  # those without a default too


def test_sections_may_be_what_python_makes_of_them() -> None:
    want = check_config(minimal())
    for task in (TaskConfig(name="t", env="e"), OmegaConf.create({"name": "t", "env": "e"})):
        assert check_config(minimal() | {"task": task}) == want


def test_settings_of_the_environment_are_free() -> None:
    config = check_config(with_("task.env_kwargs", {"any": {"depth": [1, 2]}, "limit": math.inf}))
    assert config.task.env_kwargs == {"any": {"depth": [1, 2]}, "limit": math.inf}


# --- missing, types, choices, ranges ---------------------------------------------------------


@pytest.mark.parametrize("missing", ["preset", "task.name", "task.env", "dataset.source"])
def test_missing(missing: str) -> None:
    given = minimal()
    *sections, last = missing.split(".")
    target = given
    for section in sections:
        target = target[section]
    del target[last]
    assert missing in refused(given)
    target[last] = "???"
    assert missing in refused(given)


def test_everything_missing_is_named_at_once() -> None:
    message = refused({})
    for name in ("preset", "task.name", "task.env", "dataset.source"):
        assert name in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "abc"),
        ("seed", 1.5),
        ("seed", None),
        ("seed", [1]),
        ("seed", {"a": 1}),
        ("progress", "maybe"),
        ("planner", 3),
        ("planner", None),
        ("planner", [1]),
        ("task", "pointmaze"),
        ("planner.refine_steps", 2.5),
        ("planner.temperature", "warm"),
        ("planner.add_noise", 3.5),
        ("planner.guidance_scale", None),
        ("refiner.multipliers", 4),
        ("refiner.multipliers", None),
        ("refiner.multipliers", {"a": 1}),
        ("refiner.multipliers", [1, "x"]),
        ("task.env_kwargs", 3),
        ("resume", {"a": 1}),
        ("preset", "${nowhere}"),
    ],
)
def test_wrong_type(key: str, value: Any) -> None:
    assert key in refused(with_(key, value))


@pytest.mark.parametrize("key", CHOICES)
def test_choices(key: str) -> None:
    choices = CHOICES[key]
    message = refused(with_(key, "sideways"))
    assert key in message and "sideways" in message
    for choice in choices:
        assert choice in message
        given = with_(key, choice)
        if choice == "noise":  # needs a schedule that ends there
            given["refiner"] = {"schedule": "cosine", "denoising_steps": 5}
        assert value_of(check_config(given), key) == choice


@pytest.mark.parametrize("key", RANGES)
def test_ranges(key: str) -> None:
    low, high = RANGES[key]
    step = 0.01 if isinstance(value_of(Config(), key), float) else 1
    for bound, outside in ((low, -step), (high, step)):
        if bound is None:
            continue
        assert value_of(check_config(with_(key, bound)), key) == bound
        message = refused(with_(key, bound + outside))
        assert key in message and str(bound) in message


@pytest.mark.parametrize("key", POSITIVE)
@pytest.mark.parametrize("value", [0, -1])
def test_positive(key: str, value: float) -> None:
    assert f"{key}=" in refused(with_(key, value))
    assert value_of(check_config(with_(key, 1e-9)), key) == 1e-9


def test_a_value_is_no_logarithm_in_a_unit_of_nothing() -> None:
    assert "null for the values themselves" in refused(with_("value.symlog_unit", 0))
    assert check_config(with_("value.symlog_unit", None)).value.symlog_unit is None


def test_gradients_clipped_to_nothing_would_train_nothing() -> None:
    assert "null for no clipping" in refused(with_("training.gradient_clip", 0))
    assert check_config(with_("training.gradient_clip", None)).training.gradient_clip is None


@pytest.mark.parametrize("key", ["resume", "output_dir"])
def test_an_empty_path_is_not_the_present_folder(key: str) -> None:
    assert f"{key} is empty" in refused(with_(key, ""))


@pytest.mark.parametrize("value", [1, 1.5])
def test_an_average_has_to_move(value: float) -> None:
    assert "training.ema_decay=" in refused(with_("training.ema_decay", value))


@pytest.mark.parametrize(
    ("low", "high"), [(5.0, 5.0), (7.0, 5.0), (None, 5.0), (5.0, None), (math.nan, 5.0)]
)
def test_references_of_a_score(low: float | None, high: float | None) -> None:
    """Equal ones would divide by zero, and of one alone there is no score."""
    given = with_("task.score_min", low)
    given["task"]["score_max"] = high
    message = refused(given)
    assert "task.score_min=" in message and "None" not in message
    given["task"] |= {"score_min": -5.0, "score_max": 5.0}
    assert check_config(given).task.score_max == 5.0


def test_refining_starts_at_a_trained_denoising_step() -> None:
    given = with_("refiner.max_step", 4)
    given["planner"] = {"refine_steps": 5}
    assert "planner.refine_steps=5 is above refiner.max_step=4" in refused(given)
    given["planner"] = {"refine_steps": 4}
    assert check_config(given).refiner.max_step == 4


@pytest.mark.parametrize(("schedule", "refine_steps"), [("linear", 100), ("cosine", 5)])
def test_sampling_from_noise_starts_at_noise(schedule: str, refine_steps: int) -> None:
    given = with_("refiner.schedule", schedule)
    given["planner"] = {"init": "noise", "refine_steps": refine_steps}
    assert "planner.init=noise starts from pure noise" in refused(given)
    given["refiner"]["schedule"], given["planner"]["refine_steps"] = "cosine", 100
    assert check_config(given).planner.init == "noise"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "key",
    [
        "planner.temperature",
        "planner.guidance_scale",
        "training.learning_rate",
        "task.target_return",
        "refiner.condition_dropout",
        "evaluation.target_return",
    ],
)
def test_not_finite(key: str, value: float) -> None:
    """A NaN lies within any range if one only asks whether it lies outside."""
    assert f"{key}=" in refused(with_(key, value))


@pytest.mark.parametrize(
    "key", ["refiner.multipliers", "inverse_dynamics.hidden_dims", "critic.hidden_dims"]
)
@pytest.mark.parametrize("value", [[0], [4, -1], [70_000], [10**24]])
def test_widths(key: str, value: list[int]) -> None:
    assert f"{key}={value}" in refused(with_(key, value))


def test_a_setting_can_take_its_value_from_another() -> None:
    given = OmegaConf.create(with_("evaluation.target_return", "${task.target_return}"))
    given.task.target_return = 250.0
    assert check_config(given).evaluation.target_return == 250.0


# --- overrides -------------------------------------------------------------------------------


def test_override() -> None:
    config = check_config(minimal())
    words = [
        "planner.refine_steps=2",
        "planner.sampler=ddim",
        "planner.evaluations=null",
        "refiner.multipliers=[1,2]",
        "task.env_kwargs.maze=open",
        "output_dir=a=b",
        "seed=1",
        "seed=2",
    ]
    changed = override_config(config, words)
    assert changed.planner.refine_steps == 2 and changed.planner.sampler == "ddim"
    assert changed.planner.evaluations is None and changed.refiner.multipliers == [1, 2]
    assert changed.task.env_kwargs == {"maze": "open"}
    assert changed.output_dir == "a=b" and changed.seed == 2
    assert config == check_config(minimal())  # the one given stays as it was
    assert override_config(config, []) == config


def test_override_by_key() -> None:
    values = {
        "planner.evaluations": None,
        "planner.sampler": "ddim",
        "refiner.multipliers": [1, 2],
        "planner.guidance_scale": np.float64(1.5),  # as of a sweep by np.linspace
        "planner.plan_scores": (1.0, 2.0),
    }
    changed = override_config(check_config(with_("planner.evaluations", 1)), values)
    assert changed.planner.evaluations is None and changed.planner.sampler == "ddim"
    assert changed.planner.plan_scores == [1.0, 2.0]
    assert changed.refiner.multipliers == [1, 2] and changed.planner.guidance_scale == 1.5


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("planner.refine_steps", "key=value"),
        ("planner.refine_step=2", "planner.refine_step'; allowed are.*refine_steps"),
        ("nope.a=1", "'nope'"),
        ("=3", "unknown setting ''"),
        ("planner.refine_steps=two", "planner.refine_steps"),
        ("planner.refine_steps=", "planner.refine_steps"),
        ("planner.refine_steps=-1", "planner.refine_steps=-1; allowed is at least 0"),
        ("planner.sampler=euler", "ddpm, ddim"),
        ("planner=2", "'planner'"),
        ("seed.a=3", "'seed' takes one value"),
        ("refiner.multipliers=[1", "cannot read"),
        ("refiner.multipliers.0=3", "'refiner.multipliers' takes a list"),
        ("planner.temperature=nan", "planner.temperature=nan"),
    ],
)
def test_bad_override(word: str, named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        override_config(check_config(minimal()), [word])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        TINY_RUN,
        ("task=door/human", "algorithm=iql", "training.steps=7", "task=pointmaze/umaze"),
        ("preset=paper", "+training.unknown=1", "~dataset.sources", "dataset.source='minari:a b'"),
        ("generator.width=${refiner.channels}", "evaluation.baseline=null", "seed=3"),
    ],
)
def test_tests_compose_as_hydra_does(words: tuple[str, ...]) -> None:
    """Twice, for the first to be made must not change with what is made of it."""
    for _ in range(2):
        assert quickly_composed(*words) == raw_composed(*words)
