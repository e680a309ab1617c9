"""What a stage's result depends on, as a hash: the science, never the machine.

In: seed, architecture, masking, target, recipe, crops, what the model sees of the data, the data's identity, the
stage it starts from, precision and RESULT_VERSION. Out: devices, micro-batches, workers, paths, loggers, checkpoint
cadence, pictures, which other stages run. A test lists every key of the config on one side or the other.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unmask.config.checks import ConfigError
from unmask.config.groups import TokensTarget
from unmask.config.recipes import mixed_together
from unmask.config.schema import CHANNELS, STEPPED, Config, Data
from unmask.storage.atomic import sha256

RESULT_VERSION = 1  # raise it when a change of the code changes results
TITLES = {
    "knn": "kNN",
    "linear_probe": "linear probe",
    "attentive_probe": "attentive probe",
    "finetune": "fine-tune",
    "partial_finetune": "fine-tune, {blocks:g} last blocks",
    "patch_pca": "PCA of patches",
    "tokenizer": "own dVAE",
}
# what a target needs to know of the training images before pretraining starts
FITTED = ("patch_pca", "tokenizer")
# values of a recipe that mean nothing to raw pixels
OF_ENCODERS = ("pool", "layer_decay", "drop_path")
DATA_KEYS = ("image_size", "patch_size", "channels", "mean", "std", "eval_crop")


def chosen_decode(data: Data) -> Literal["fast", "scaled", "reference", "nvjpeg"]:
    """How files are decoded."""
    return "fast" if data.decode == "auto" else data.decode


def kind_title(kind: str) -> str:
    """What tables call all stages of a kind."""
    return TITLES.get(kind, kind).partition(",")[0]


@dataclass(frozen=True)
class StageSpec:
    """One fit or evaluation. start: which weights the features come from; parent: the stage that made them."""

    kind: str
    # "pretrained", "given" (init_from), "random" (also: from scratch), "pixels" or
    # "images"
    start: str
    science: dict[str, Any] = field(compare=False)
    parent: "StageSpec | None" = None

    @property
    def fingerprint(self) -> str:
        return digest(
            {**self.science, "parent": self.parent.fingerprint if self.parent else None}
        )

    @property
    def title(self) -> str:
        of = {
            "pretrained": "",
            "given": ", given weights",
            "random": ", random encoder",
            "pixels": ", raw pixels",
        }
        if self.kind in ("pretrain", "scratch"):
            return self.kind + of["given" if self.start == "given" else "pretrained"]
        if self.kind in FITTED:
            return TITLES[self.kind]
        if self.kind == "robustness":
            recipe = self.science["recipe"]
            return f"robustness of {recipe['of']}" + (
                "" if recipe["source"] == "corrupted" else f", {recipe['source']}"
            )
        return TITLES[self.kind].format(**self.science["recipe"]) + of[self.start]


def digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def pretrain_science(
    config: Config,
    identity: str,
    weights: str | None = None,
    tokenizer: str | None = None,
) -> dict[str, Any]:
    """weights: the identity of those it starts from, where it is not from random ones; tokenizer: of a file's."""
    plain = config.plain()
    keys = (
        "seed",
        "mask_ratio",
        "encoder",
        "decoder",
        "masking",
        "target",
        "loss_on",
        "augment",
        "pretrain",
    )
    science = (
        _common("pretrain", config, identity)
        | {key: plain[key] for key in keys}
        | {"model": _shape(plain)}
    )
    science["augment"] = _told(plain["augment"])
    if isinstance(config.target, TokensTarget):
        science["target"] = plain["target"] | {"file": tokenizer}
    return science | ({"weights": weights} if weights else {})


def fitted_science(kind: str, config: Config, identity: str) -> dict[str, Any]:
    """Of the PCA of patches, or of the small dVAE: no model, no masks, and not the run's seed."""
    recipe = {
        key: value
        for key, value in config.plain()["tokenizer"].items()
        if key != "file"
    }
    return _common(kind, config, identity) | (
        {"recipe": recipe} if kind == "tokenizer" else {}
    )


def measure_science(
    kind: str, start: str, config: Config, identity: str, weights: str | None = None
) -> dict[str, Any]:
    """Of a measuring stage: the encoder's shape counts only where it is not the parent's or absent."""
    plain = config.plain()
    # the size counts as the data's, whoever set it
    recipe = {key: value for key, value in plain[kind].items() if key != "image_size"}
    recipe |= {"augment": _told(recipe["augment"])} if "augment" in recipe else {}
    science = _common(kind, config, identity) | {"start": start, "recipe": recipe}
    if recipe.get("mixup") or recipe.get("cutmix"):
        science["mixed_together"] = mixed_together(recipe["batch_size"])
    if kind != "knn" or start == "random" or plain[kind]["labels"]:
        science["seed"] = plain["seed"]
    if start in ("random", "given"):
        science["model"] = _shape(plain)
    if start == "given":
        science["weights"] = weights
    if start == "pixels":
        science["data"] = {
            key: value for key, value in science["data"].items() if key != "patch_size"
        }
        science["recipe"] = {
            key: value for key, value in recipe.items() if key not in OF_ENCODERS
        }
    return science


def robustness_science(
    config: Config, identity: str, other: str | None
) -> dict[str, Any]:
    """other: the identity of the images in its own folders; the classifier is the parent's."""
    recipe = {
        key: value
        for key, value in config.plain()["robustness"].items()
        if key != "root"
    }
    common = _common(config.robustness.of, config, identity) | {"stage": "robustness"}
    return common | {"recipe": recipe, "seed": config.seed, "other": other}


def _common(kind: str, config: Config, identity: str) -> dict[str, Any]:
    data = config.plain()["data"] | {"image_size": list(config.stage_image_size(kind))}
    # which decoder is here counts not: all give the same pixels
    of_files = (
        {} if data["source"] in CHANNELS else {"pixels": chosen_decode(config.data)}
    )
    leaves_out = config.spikes.factor and kind in STEPPED
    spikes = (
        {"spikes": [config.spikes.factor, config.spikes.window]} if leaves_out else {}
    )
    cut = (
        {"stop_after": config.stop_after}
        if config.stop_after and kind in STEPPED
        else {}
    )
    return (
        spikes
        | cut
        | {
            "version": RESULT_VERSION,
            "stage": kind,
            "precision": config.trainer.precision,
            "data": (
                {"identity": identity}
                | {key: data[key] for key in DATA_KEYS}
                | of_files
            ),
        }
    )


def _told(augment: dict[str, Any]) -> dict[str, Any]:
    """Without what results had before there was a choice: their fingerprints stay."""
    return {
        key: value for key, value in augment.items() if (key, value) != ("repeats", 1)
    }


def _shape(plain: dict[str, Any]) -> dict[str, Any]:
    return {
        key: plain["model"][key] for key in ("width", "depth", "heads", "mlp_ratio")
    }


MODEL_FILES = ("model.safetensors", "pytorch_model.bin")


def weights_identity(place: str, key: str = "init_from") -> str:
    """The same for the same weights wherever they lie. Raises ConfigError where there are none."""
    path = Path(place).expanduser()
    if path.is_file():
        return sha256(path)[:16]
    inside = next(
        (path / name for name in MODEL_FILES if (path / name).is_file()), None
    )
    if inside:
        config = path / "config.json"  # heads and kind of model stand there
        return hashlib.sha256(
            (sha256(inside) + (sha256(config) if config.exists() else "")).encode()
        ).hexdigest()[:16]
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    files = sorted(folder.glob("step=*.ckpt"))
    if not files:
        raise ConfigError(
            f"{key} = {place}: neither a file, nor a Hugging Face folder, nor a stage's"
            " folder with checkpoints"
        )
    return sha256(files[-1])[:16]
