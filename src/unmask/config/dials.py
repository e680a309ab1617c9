"""The dials of a config: what differs from the defaults, named as a user types it.

The defaults are those of the groups that the config chose: with `model=mae_vit_b` its
own decoder is no difference. A value that follows another one (`${labels}`) is none
either; the dial is the one that it follows.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import yaml

from unmask.config.conf_files import CONF
from unmask.config.data import default_patch_size
from unmask.config.experiments import merge
from unmask.config.foreign import is_foreign
from unmask.config.groups import coarse_block
from unmask.config.keys import known_keys
from unmask.config.recipe_parts import WARMUP_SHARE
from unmask.config.recipes import STAGES
from unmask.config.statistics import standard_statistics

# libyaml reads ten times as fast, where it is there
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# a choice of a group is known by these: they weigh more than all other values
NAMES = ("name", "source", "_target_", "optimizer")
NAME_WEIGHT = 100
TARGET_KEY = "._target_"
# groups that change no result, or other groups, and what only Hydra reads
OTHER_GROUPS = ("trainer", "logger", "scale", "experiment", "method")
FILE_ONLY = ("defaults", "hydra", "scale")
REFERENCE = re.compile(r"\$\{([\w.]+)\}")

Content = dict[str, Any]


class Dials(NamedTuple):
    """What differs from the defaults.

    values: by key, such as {"model": "mae_vit_b", "decoder.depth": 2}. follows: of keys
    whose default is the value of another one, that other key.
    """

    values: dict[str, Any]
    follows: dict[str, str]

    def followers(self, dial: str) -> list[str]:
        """Return the keys that follow a dial, or one in that section."""
        return [
            leaf
            for leaf, source in self.follows.items()
            if source.startswith(dial) and (source + ".").startswith(dial + ".")
        ]


class Choice(NamedTuple):
    """One file of a group, compared with a config: its keys that differ."""

    name: str
    differs: dict[str, Any]
    follows: dict[str, str]


def read_dials(config: Content) -> Dials:
    """Return what differs from the defaults in a resolved config.

    Keys that either of the two lacks are no differences: other versions wrote them.
    """
    values: dict[str, Any] = {}
    follows: dict[str, str] = {}
    flat = flatten(config)
    defaults, groups = _defaults("config")
    above: Content = {}
    scale = (config.get("scale") or {}).get("name")
    if scale and (CONF / "scale" / f"{scale}.yaml").exists():
        values["scale"] = scale
        above, own_groups = _defaults(f"scale/{scale}")
        groups = groups | own_groups
    differs = _differences(defaults | above, flat, config)
    for group, default in groups.items():
        choice = _choose(group, default, above, flat, config)
        if choice.name != default:
            values[group] = choice.name
        differs |= choice.differs
        follows |= choice.follows
    differs |= _keys_of_own_classes(flat)
    keys = sorted((key for key in flat if key in differs), key=_rank)
    return Dials(values | {key: flat[key] for key in keys}, follows)


def _keys_of_own_classes(flat: Content) -> Content:
    """Return the classes that are the user's, and what they are called with.

    No file of conf/ has a default for these keys.
    """
    known = known_keys()
    classes = [
        key.removesuffix(TARGET_KEY)
        for key, value in flat.items()
        if key.endswith(TARGET_KEY) and isinstance(value, str) and is_foreign(value)
    ]
    return {
        key: value
        for key, value in flat.items()
        for part in classes
        if key.startswith(f"{part}.")
        and (key not in known or key == f"{part}{TARGET_KEY}")
    }


def _rank(key: str) -> int:
    """Return where a dial stands: those at the root, of the model, of the recipes."""
    section, dot, _ = key.partition(".")
    return (section in STAGES) + bool(dot)


def format_value(value: Any) -> str:
    """Return a value as it is typed after its key."""
    if isinstance(value, bool) or value is None:
        return yaml.safe_dump(value).split()[0]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        if len(set(map(str, value))) == 1 and len(value) == 2:
            return format_value(value[0])
        return f"[{','.join(map(format_value, value))}]"
    return str(value)


@cache
def _defaults(name: str) -> tuple[Content, dict[str, str]]:
    """Return the flat values of a file of conf/, and the choice of each group."""
    content = _read_yaml(f"{name}.yaml")
    own = {key: value for key, value in content.items() if key not in FILE_ONLY}
    values: Content = {}
    groups: dict[str, str] = {}
    for base in content.get("defaults", []):
        # a scale may build on another one
        if isinstance(base, str) and name.startswith("scale/"):
            base_values, base_groups = _defaults(f"scale/{base}")
            values, groups = values | base_values, groups | base_groups
    return values | flatten(own), groups | _chosen_groups(content)


def _chosen_groups(content: Content) -> dict[str, str]:
    """Return the choices of a file's list of defaults, without those of no result."""
    chosen = {}
    for entry in content.get("defaults", []):
        for key, name in entry.items() if isinstance(entry, dict) else ():
            group = key.split()[-1].strip("/")
            if (CONF / group).is_dir() and group not in OTHER_GROUPS:
                chosen[group] = name
    return chosen


def _choose(
    group: str, default: str, above: Content, flat: Content, config: Content
) -> Choice:
    """Return the file of a group that the config is nearest to.

    above: values that replace those of the file; flat: those of the config by key.
    """
    best = _compare(group, default, above, flat, config)
    if not best.differs:
        return best
    best_weight = _weight(best)
    for path in sorted((CONF / group).glob("*.yaml")):
        choice = _compare(group, path.stem, above, flat, config)
        # the default stays where no other one is nearer
        if _weight(choice) < best_weight:
            best, best_weight = choice, _weight(choice)
    return best


def _weight(choice: Choice) -> int:
    """Return how far a choice is from the config."""
    return sum(
        NAME_WEIGHT if key.rpartition(".")[2] in NAMES else 1 for key in choice.differs
    )


def _compare(
    group: str, name: str, above: Content, flat: Content, config: Content
) -> Choice:
    own = _group_values(group, name)
    expected = {key: above.get(key, value) for key, value in own.items()}
    differs = _differences(expected, flat, config)
    follows = {
        key: reference[1]
        for key, value in expected.items()
        if isinstance(value, str)
        and (reference := REFERENCE.fullmatch(value))
        and key not in differs
    }
    return Choice(name, differs, follows)


@cache
def _group_values(group: str, name: str) -> Content:
    """Return the flat keys and values that a choice of a group sets."""
    return flatten(_read_file(group, name))


@cache
def _read_file(group: str, name: str) -> Content:
    """Return a file of a group with those it builds on, below the keys that it sets."""
    content = _read_yaml(f"{group}/{name}.yaml")
    if "@package _global_" in (CONF / group / f"{name}.yaml").read_text():
        return content
    values: Content = {}
    for base in content.get("defaults", []):
        values = merge(values, _read_file(group, base)[group])
    own = {key: value for key, value in content.items() if key != "defaults"}
    return {group: merge(values, own)}


@cache
def _read_yaml(name: str) -> Content:
    return yaml.load((CONF / name).read_text(), LOADER) or {}


def flatten(content: Content, prefix: str = "") -> Content:
    """Return all values by their dotted keys."""
    return dict(_leaves(content, prefix))


def _leaves(content: Content, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _differences(expected: Content, flat: Content, config: Content) -> Content:
    """Return the keys of the config whose values are not the expected ones."""
    return {
        key: flat[key]
        for key, value in expected.items()
        if key in flat and not _is_same(_resolve(value, flat), flat[key], key, config)
    }


def _resolve(value: Any, flat: Content) -> Any:
    """Return the value that a reference such as ${finetune.epochs} leads to."""
    reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return flat.get(reference[1]) if reference else value


def _is_same(expected: Any, value: Any, key: str, config: Content) -> bool:
    if expected is None and value is not None:
        expected = _filled(key, config)
    if isinstance(value, list) and isinstance(expected, int | float):
        # one number stands for both sides of an image
        expected = [expected] * len(value)
    return expected == value


def _filled(key: str, config: Content) -> Any:
    """Return what the schema puts in the place of null."""
    section, _, name = key.rpartition(".")
    data, model = config.get("data", {}), config.get("model", {})
    if name == "warmup_epochs":
        return config[section]["epochs"] * WARMUP_SHARE
    if key == "decoder.mlp_ratio":
        return model["mlp_ratio"]
    if key == "target.components":
        return max(1, data["patch_size"] ** 2 * data["channels"] // 8)
    if key == "masking.block":
        rows, cols = (side // data["patch_size"] for side in data["image_size"])
        return coarse_block((rows, cols))
    if key in ("data.mean", "data.std"):
        mean, std = standard_statistics(data["channels"])
        return list(mean if key == "data.mean" else std)
    if key == "data.patch_size":
        try:
            return default_patch_size(
                tuple(data["image_size"]), model["patch_size_at_224"]
            )
        except ValueError:
            # the user had to choose one
            return None
    return None
