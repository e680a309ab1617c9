"""Which dials of a run one of its stages depends on, and whether its seed is one."""

from collections.abc import Iterator
from typing import Any

from unmask.config.dials import Dials
from unmask.config.probes import EXACT
from unmask.config.recipes import (
    FINE_TUNING_STAGES,
    FITTED_STAGES,
    STAGES,
    draws_numbers,
)
from unmask.stages.fingerprint import DATA_KEYS

# of the data, beside DATA_KEYS: which images these are, and how they are decoded
IMAGE_KEYS = ("source", "root", "range", "decode", "holdout", "flip", *DATA_KEYS)
ALWAYS = (
    *("scale", "trainer.precision", "source"),
    *(f"data.{key}" for key in IMAGE_KEYS),
)
GIVEN = ("init_from", "weights", "grid", "positions")
STEPPED = ("spikes", "stop_after")
PRETRAINING = (
    *("mask_ratio", "encoder", "decoder", "masking", "target", "loss_on", "augment"),
    *("pretrain", "model", *STEPPED),
)


def stage_dials(
    dials: Dials, kind: str, start: str, config: dict[str, Any]
) -> dict[str, Any]:
    """Return the dials that a stage depends on, those of its parents included.

    start: the weights it starts from, as in StageSpec. The seed is left out.
    """
    keys = set(_scope(kind, start, config))

    def counts(dial: str) -> bool:
        # of the data the choice itself, not all keys below it
        if dial == "data" or _is_in(dial, keys):
            return True
        # values that the stage uses may follow it
        return any(_is_in(leaf, keys) for leaf in dials.followers(dial))

    return {
        dial: value
        for dial, value in dials.values.items()
        if dial != "seed" and counts(dial)
    }


def depends_on(key: str, kind: str, start: str, config: dict[str, Any]) -> bool:
    """Tell whether a stage's result depends on a key, or on one in that section."""
    keys = set(_scope(kind, start, config))
    return key == "data" or _is_in(key, keys) or any(_is_in(k, {key}) for k in keys)


def stage_seed(kind: str, start: str, config: dict[str, Any]) -> int | None:
    """Return the seed that a stage's result depends on; None where all seeds share it.

    Its parents count: kNN draws nothing, and the pretraining before it does.
    """
    if kind in FITTED_STAGES:
        return config["tokenizer"]["seed"] if kind == "tokenizer" else None
    recipe = config.get(kind) or {}
    is_drawn = draws_numbers(kind, recipe) or start in ("pretrained", "random")
    return config["seed"] if is_drawn or recipe.get("labels") else None


def _scope(kind: str, start: str, config: dict[str, Any]) -> Iterator[str]:
    """Yield keys and sections; a section stands for all keys in it."""
    yield from ALWAYS
    yield kind
    if kind in FITTED_STAGES:
        return
    measured = [kind]
    if STAGES[kind].parent == "classifier":
        measured.append(config[kind]["of"])
        yield measured[-1]
    if any(each in FINE_TUNING_STAGES for each in measured):
        yield "labels"
    if start != "pixels":
        yield "model"
    recipe = config.get(measured[-1]) or {}
    if STAGES[measured[-1]].trains and recipe.get("optimizer") != EXACT:
        yield from STEPPED
    if start in ("pretrained", "given") or kind == "pretrain":
        yield from GIVEN
    if start == "pretrained" or kind == "pretrain":
        yield from PRETRAINING
        if str(config["target"].get("_target_")) == STAGES["tokenizer"].target:
            yield "tokenizer"


def _is_in(key: str, keys: set[str]) -> bool:
    """Tell whether a key, or a section that it is in, is one of the keys."""
    while key not in keys:
        key, dot, _ = key.rpartition(".")
        if not dot:
            return False
    return True
