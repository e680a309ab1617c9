"""What a file says of its weights beside their sizes: target, statistics, licence."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from unmask.exchange.header import Header

Target = Literal["pixel", "pixel_norm"]
TARGET_CLASSES: dict[str, Target] = {"Pixel": "pixel", "NormalisedPixel": "pixel_norm"}


@dataclass(frozen=True)
class Facts:
    """What is known of how weights were trained; None: the file does not say.

    target: what the decoder predicts, pixels or pixels normalised by patch. mean, std:
    of the images, for pixels in [0, 1]. eval_crop: side of the centre crop as a share.
    classes: names of the head's classes.
    """

    target: Target | None = None
    mask_ratio: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    eval_crop: float | None = None
    classes: tuple[str, ...] | None = None
    license: str | None = None

    def to_record(self) -> dict[str, Any]:
        """Return what is known, as it is written into files of this project."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def recorded_facts(header: Header) -> Facts:
    """Return what the file says; a value of a wrong form counts as not said."""
    record = header.record
    if "config" in record:
        return _checkpoint_facts(record)
    if "geometry" in record:
        return _usable(record.get("facts", {}))
    config = header.config
    if "pretrained_cfg" in config:
        return _usable({**config["pretrained_cfg"], "license": _license(header)})
    if config:
        return _hub_facts(header)
    arguments = training_arguments(header)
    values = {"mask_ratio": arguments.get("mask_ratio")}
    if isinstance(arguments.get("norm_pix_loss"), bool):
        values["target"] = _target(arguments["norm_pix_loss"])
    return _usable(values | {key: arguments.get(key) for key in ("mean", "std")})


def training_arguments(header: Header) -> dict[str, Any]:
    """Return the command's arguments where a training script has saved them.

    The official code and timm save them as `args`, Lightning as hyper_parameters.
    """
    tree = header.tree if isinstance(header.tree, Mapping) else {}
    for key in ("args", "hyper_parameters", "config"):
        found = tree.get(key)
        if isinstance(found, argparse.Namespace):
            return vars(found)
        if isinstance(found, Mapping):
            return {str(name): value for name, value in found.items()}
    return {}


def _checkpoint_facts(record: dict[str, Any]) -> Facts:
    config = record["config"]
    data = config.get("data", {})
    values = {key: data.get(key) for key in ("mean", "std", "eval_crop")}
    if record.get("stage") == "pretrain":
        name = str(config.get("target", {}).get("_target_", "")).rpartition(".")[2]
        values |= {
            "target": TARGET_CLASSES.get(name),
            "mask_ratio": config.get("mask_ratio"),
        }
    return _usable(values | {"classes": record.get("classes")})


def _hub_facts(header: Header) -> Facts:
    """Read what Hugging Face's files beside the weights say."""
    config, preprocessor = header.config, header.preprocessor
    values: dict[str, Any] = {
        "mean": preprocessor.get("image_mean"),
        "std": preprocessor.get("image_std"),
        "license": _license(header),
    }
    if config.get("model_type") == "vit_mae":
        values["mask_ratio"] = config.get("mask_ratio")
        if isinstance(config.get("norm_pix_loss"), bool):
            values["target"] = _target(config["norm_pix_loss"])
    labels = config.get("id2label")
    if isinstance(labels, dict):
        values["classes"] = [labels.get(str(i), str(i)) for i in range(len(labels))]
    return _usable(values)


def _license(header: Header) -> str | None:
    """Return the licence that a model card names in its first lines, or timm's."""
    found = re.match(r"---\n(?:.*\n)*?license: *(\S.*)\n", header.card)
    configured = header.config.get("pretrained_cfg", {}).get("license")
    return found.group(1).strip() if found else configured


def _target(norm_pix_loss: bool) -> Target:
    return "pixel_norm" if norm_pix_loss else "pixel"


def _usable(values: Mapping[str, Any]) -> Facts:
    kept: dict[str, Any] = {}
    for key in ("mean", "std"):
        numbers = values.get(key)
        if isinstance(numbers, list | tuple) and all(map(_is_number, numbers)):
            kept[key] = tuple(map(float, numbers)) or None
    for key in ("mask_ratio", "eval_crop", "crop_pct"):
        if _is_number(values.get(key)):
            kept[key] = float(values[key])
    kept.setdefault("eval_crop", kept.pop("crop_pct", None))
    if values.get("target") in TARGET_CLASSES.values():
        kept["target"] = values["target"]
    if isinstance(values.get("classes"), list | tuple):
        kept["classes"] = tuple(map(str, values["classes"])) or None
    if isinstance(values.get("license"), str):
        kept["license"] = values["license"]
    return Facts(**kept)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
