"""What a measurement is of, and on which images: the sides of a table of transfers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmask.config.recipes import STAGES
from unmask.config.robustness import CORRUPTED
from unmask.stages.fingerprint import START_TITLES, set_title
from unmask.stages.scope import GIVEN, PRETRAINING

# what such tables call encoders that nobody has pretrained
CONTROLS = {"random": "random weights", "pixels": "raw pixels"}
DIGITS = 6  # of a fingerprint, where people read it
SIDES = ("encoder", "set")


def encoder_name(
    key: str, start: str, config: dict[str, Any], parents: Mapping[str, str | None]
) -> str | None:
    """Return what a stage measures, in a word; None where it measures nothing.

    The first digits of the pretraining, or the name of given weights. key: the stage's,
    "kind/fingerprint"; parents: the parent's key of each stage.
    """
    if STAGES[key.partition("/")[0]].role != "measurement":
        return None
    if start in CONTROLS:
        return CONTROLS[start]
    if start == "given":
        place = str(config.get("init_from"))
        found = re.search(r"pretrain/([0-9a-f]{12})", place)
        return found[1][:DIGITS] if found else Path(place).name
    parent = parents.get(key)
    # of robustness the parent is a classifier, whose parent is the pretraining
    while parent and not parent.startswith("pretrain/"):
        parent = parents.get(parent)
    return parent.partition("/")[2][:DIGITS] if parent else None


def set_name(kind: str, config: dict[str, Any]) -> str | None:
    """Return which images a stage measures on, in a word; None where it does not."""
    if STAGES[kind].role != "measurement":
        return None
    data = config["data"]
    own = set_title(str(data["root"])) if data["root"] else str(data["source"])
    if kind != "robustness":
        return own
    recipe = config["robustness"]
    if recipe["source"] == CORRUPTED:
        return f"{own}, corrupted"
    return set_title(str(recipe["root"]))


def plain_title(title: str, kind: str, start: str, config: dict[str, Any]) -> str:
    """Return a stage's title without what it names of the encoder and the set."""
    if kind == "robustness":
        return title.removesuffix(f", {set_title(str(config[kind]['root']))}")
    return title.replace(START_TITLES.get(start, "\n"), "")


def is_of_side(dial: str, sides: tuple[str, ...] = SIDES) -> bool:
    """Tell whether a dial is a part of what an encoder, or a set, is."""
    section = dial.partition(".")[0]
    is_of_encoder = section in PRETRAINING or dial in GIVEN
    is_of_set = dial in ("data", "data.root", "source", *ROOT_DIALS)
    return ("encoder" in sides and is_of_encoder) or ("set" in sides and is_of_set)


ROOT_DIALS = ("robustness", "robustness.root", "robustness.sets")
