"""The settings that a run has no use for, and their refusal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import attrgetter

from torchrl_td.config.limits import FREE_FORM, FROM_NOISE, OF_DRAFTS, OF_PLANS, PLANNERS
from torchrl_td.config.settings import Config
from torchrl_td.config.words import setting_of, word_by_word
from torchrl_td.errors import InputError

_Uses = tuple[tuple[str, ...], bool, str]
"""Settings, whether a planner reads them, and what they need."""

# Settings of a task that the presets refer to, and in place of what.
_STANDS_FOR = {
    "task.refine_steps": "planner.refine_steps",
    "task.guidance_scale": "planner.guidance_scale",
    "task.training_steps": "training.steps",
    "task.strided_steps": "training.steps",
    "task.learning_rate": "training.learning_rate",
    "task.scored": "value.enabled",
}


def check_read(config: Config, overrides: Sequence[str]) -> None:
    """Refuses words that set what the run, or its algorithm, does not read.

    Args:
        config: the settings.
        overrides: ``key=value`` words that a user gave.

    Raises:
        InputError: at the first of them; or one takes a setting out, as ``~key``.

    Examples:
        >>> from torchrl_td.config import AlgorithmConfig, Config, check_read
        >>> check_read(Config(algorithm=AlgorithmConfig(name="bc")), ["generator.width=64"])
        Traceback (most recent call last):
        ...
        torchrl_td.errors.InputError: algorithm=bc does not read generator.width; leave it out, or
        choose an algorithm that does
    """
    name, unread, needs = config.algorithm.name, unread_settings(config), _needs(config)
    overrides = word_by_word(overrides)
    given = {setting_of(word) for word in overrides}
    for word in overrides:
        key = setting_of(word)
        if word.startswith("~") and not f"{key}.".startswith(FREE_FORM):
            raise InputError(f"{word} leaves {key} without a value; give {key}=<value>")
        if key == "init_normalizer" and config.init_from is None:
            raise InputError(
                f"{word} is of weights to start from; give init_from=<run>, too, or leave it out"
            )
        if name != "trajectory_diffuser" and _named(key, unread):
            raise InputError(
                f"algorithm={name} does not read {key}; leave it out, or choose an algorithm that "
                f"does"
            )
        if (found := _named(key, needs)) is not None:
            raise InputError(f"{key} {needs[found]}")
        if _overruled(config, key) and (target := _STANDS_FOR[key]) not in given:
            value = attrgetter(target)(config)
            raise InputError(f"{key} is not read here, where {target} is {value}; give {target}")


def unread_settings(config: Config) -> tuple[str, ...]:
    """Sections and settings that the run's algorithm has no use for, as its results leave out."""
    if config.algorithm.name == "diffuser":
        return (*OF_DRAFTS, "planner.guidance_scale", "refiner.condition_dropout")
    if config.algorithm.name in FROM_NOISE:
        return OF_DRAFTS
    if config.algorithm.name not in PLANNERS:
        return OF_PLANS
    return tuple(key for keys, read, _ in _drafts(config) if not read for key in keys)


def reads(config: Config, setting: str) -> bool:
    """Whether the run's algorithm has a use for a section, or for a setting and its section."""
    section = setting.partition(".")[0]
    unread = {setting, section} & {*unread_settings(config), *_needs(config)}
    return not unread and not _overruled(config, setting)


def limits_returns(config: Config) -> bool:
    """Whether no more is asked for at a reset than the data's returns-to-go from there."""
    return config.returns_limit.enabled and reads(config, "returns_limit")


def _named(key: str, names: Collection[str]) -> str | None:
    """The first of the names that is a key, or a section that it is in."""
    return next((name for name in names if key == name or key.startswith(f"{name}.")), None)


def _needs(config: Config) -> dict[str, str]:
    """What a planner has no use for, and what would have one."""
    if config.algorithm.name not in PLANNERS:
        return {}
    uses = (*_drafts(config), *_networks(config))
    return {key: why for keys, read, why in uses if not read for key in keys}


def _overruled(config: Config, key: str) -> bool:
    """Whether a task's setting is not that of the run, which a preset refers to it for."""
    return key in _STANDS_FOR and len(set(attrgetter(key, _STANDS_FOR[key])(config))) > 1


def _drafts(config: Config) -> tuple[_Uses, ...]:
    """What depends on how plans are drafted, and what they are asked for."""
    scored, task = config.value.enabled, config.task
    return (
        (
            (
                "generator.returns_modulate",
                "generator.members",
                "inverse_dynamics.returns_modulate",
                "inverse_dynamics.members",
                "returns_limit",
            ),
            config.generator.kind == "plan" and not scored,
            "is of plans drafted at once for a return: it needs generator.kind=plan and "
            "task.scored=false",
        ),
        (
            ("planner.returns_floor_share",),
            not scored,
            "is of plans asked for a return: it needs value.enabled=false",
        ),
        (
            ("value.played_goal_share",),
            scored and task.pays_any_goal,
            "tells the value another goal: it needs value.enabled=true and task.pays_any_goal=true",
        ),
    )


def _networks(config: Config) -> tuple[_Uses, ...]:
    """What depends on the kind of a part, which results have nonetheless."""
    generator, refiner, value = config.generator, config.refiner, config.value
    at_once = generator.kind == "plan"
    of_a_value = ("hidden_dims", "members", "combine", "discount", "expectile", "target_decay")
    of_a_unet = ("channels", "multipliers", "kernel_size", "embedding_dim", "embedding_hidden_dim")
    return (
        (
            ("planner.plan_scores",),
            value.enabled,
            "is of plans asked for a score, as by task.scored=true in preset=strided",
        ),
        (
            tuple(f"value.{key}" for key in (*of_a_value, "symlog_unit")),
            value.enabled,
            "is of plans asked for a score, as by task.scored=true in preset=strided",
        ),
        (
            (
                *("task.stride", "task.strided_horizon", "task.strided_steps", "task.scored"),
                "inverse_dynamics.plan_states",
            ),
            at_once,
            "is of strided plans, as preset=strided makes them",
        ),
        (
            ("task.horizon",),
            not at_once,
            "is of plans of every step; with generator.kind=plan, as in preset=strided, give "
            "task.strided_horizon and task.stride",
        ),
        (
            ("generator.predict", "inverse_dynamics.input"),
            not at_once,
            "is of plans of every step: generator.kind=plan does not read it",
        ),
        (
            ("generator.heads", "generator.feedforward", "generator.causal"),
            generator.kind == "transformer",
            "is an attention network's: it needs generator.kind=transformer",
        ),
        (
            ("refiner.hidden_dims",),
            refiner.kind == "mlp",
            "is an MLP's: it needs refiner.kind=mlp",
        ),
        (
            tuple(f"refiner.{key}" for key in of_a_unet),
            refiner.kind == "unet",
            "is a U-Net's: it needs refiner.kind=unet",
        ),
        (
            ("refiner.batch_size",),
            at_once,
            "is of strided plans, as preset=strided makes them",
        ),
        (
            ("refiner.beta_start", "refiner.beta_end"),
            refiner.schedule == "linear",
            "is of a linear schedule: it needs refiner.schedule=linear",
        ),
        (
            ("critic.enabled",),
            not at_once,
            "is of plans of every step: generator.kind=plan has no use for a critic",
        ),
        (
            ("critic.hidden_dims",),
            config.critic.enabled and not at_once,
            "is a critic's: it needs critic.enabled=true and plans of every step",
        ),
        (
            ("returns_limit.hidden_dims", "returns_limit.expectile"),
            config.returns_limit.enabled,
            "is a limit's: it needs returns_limit.enabled=true",
        ),
        (
            ("planner.refresh_every", "planner.refresh_distance"),
            config.planner.warm_start != "none",
            "is of plans that continue the last one, by planner.warm_start=previous",
        ),
    )
