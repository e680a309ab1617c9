"""What a stage's result depends on, as a hash: the science, never the machine.

In: seed, architecture, masking, target, recipe, crops, what the model sees of the data,
the data's identity, the stage it starts from, precision, the version of its kind's
results, and code that is not the project's. Out:
devices, micro-batches, workers, paths, loggers, when checkpoints are saved, pictures,
which other stages run. A test puts every key of the config on one side or the other.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from unmask.config.architecture import Decoder, ForeignDecoder, ForeignModel
from unmask.config.augmentation import mixing_group_size
from unmask.config.checks import ConfigError
from unmask.config.data import Data
from unmask.config.foreign import part_digest, part_name
from unmask.config.groups import ForeignPart
from unmask.config.probes import EXACT
from unmask.config.recipes import STAGES, draws_numbers, makes_steps
from unmask.config.schema import Config
from unmask.exchange.weight_files import find_weights
from unmask.storage.atomic import sha256

# raise it when a change of the code changes the results of all kinds of stages; of one
# kind: `result_version` in its row of STAGES
RESULT_VERSION = 1
# what titles add for the weights that a stage starts from
START_TITLES = {
    "given": ", given weights",
    "random": ", random encoder",
    "pixels": ", raw pixels",
}
PRETRAIN_KEYS = (
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
# values of a recipe that mean nothing to raw pixels
ENCODER_KEYS = ("pool", "layer_decay", "drop_path")
# values of robustness that say where images are
SET_KEYS = ("root", "sets", "unknown_classes")
DATA_KEYS = ("image_size", "patch_size", "channels", "mean", "std", "eval_crop")
DECODER_MLP_RATIO = 4.0
# folders that do not tell sets apart by their names
SPLIT_FOLDERS = ("train", "val", "valid", "validation", "test", "images")
# names differ from model to model of the same shape
MODEL_KEYS = ("width", "depth", "heads", "mlp_ratio")
LABEL_KEYS = ("name", "patch_size_at_224")


def resolve_decode(data: Data) -> Literal["fast", "scaled", "reference", "nvjpeg"]:
    """Return how files are decoded; `auto` is `fast`."""
    return "fast" if data.decode == "auto" else data.decode


@dataclass(frozen=True)
class StageSpec:
    """One stage of a run: what it does, from which weights, after which stage.

    start: "pretrained", "given" (init_from), "random" (also: from scratch), "pixels",
    or "images" for what is fitted to images. science: all that the result depends on,
    beside the parent, which made the weights. root: the folder of separate test
    images, whose name the title shows.
    """

    kind: str
    start: str
    # two stages are the same if kind, start, parents and root are: their science then
    # is, too
    science: dict[str, Any] = field(compare=False)
    parent: "StageSpec | None" = None
    root: str | None = None

    @property
    def fingerprint(self) -> str:
        parent = self.parent.fingerprint if self.parent else None
        return digest({**self.science, "parent": parent})

    @property
    def key(self) -> str:
        """Return the stage's name in the ledger, which is its folder below runs_dir."""
        return f"{self.kind}/{self.fingerprint}"

    @property
    def title(self) -> str:
        """Return what tables call this stage."""
        kind = STAGES[self.kind]
        recipe = self.science.get("recipe", {})
        folder = {"source": set_title(self.root)} if self.root else {}
        part = {"part": part_name(str(recipe.get("_target_")))}
        title = kind.title.format(**{**recipe, **folder, **part})
        if recipe.get("optimizer") == EXACT:
            title += ", exact"
        # the classifier that robustness measures has said what it starts from
        if self.start in kind.controls or (
            self.start == "given" and kind.parent != "classifier"
        ):
            title += START_TITLES[self.start]
        # robustness on the validation images of the data set itself
        return title if self.root else title.removesuffix(", corrupted")


class GivenWeights(NamedTuple):
    """Describe the weights of init_from as far as a result depends on them.

    identity: a hash of their content, with the choice among several in a file. grid: of
    their positions. is_recorded: whether the file itself names the grid.
    """

    identity: str
    grid: tuple[int, int]
    is_recorded: bool


def set_title(root: str) -> str:
    """Return what tables call other images: their folder, with that above val/."""
    path = Path(root).resolve()
    is_split = path.name.casefold() in SPLIT_FOLDERS
    return f"{path.parent.name}/{path.name}" if is_split else path.name


def digest(content: dict[str, Any]) -> str:
    """Return 12 hexadecimal digits of the content, whatever the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def pretrain_science(
    config: Config,
    identity: str,
    weights: str | None = None,
    tokenizer: str | None = None,
) -> dict[str, Any]:
    """Return what a pretraining depends on.

    weights: the identity of those it starts from, None where they are random;
    tokenizer: the identity of DALL-E's encoder, where it makes the tokens.
    """
    values = config.to_dict()
    science = _common_science("pretrain", config, identity)
    science |= {key: values[key] for key in PRETRAIN_KEYS}
    science["decoder"] = _decoder_science(config)
    science["model"] = _model_science(config)
    science["augment"] = _augment_science(values["augment"])
    for key, part in (("masking", config.masking), ("target", config.target)):
        if isinstance(part, ForeignPart):
            science[key] = values[key] | {"code": part_digest(part.target_)}
    if config.target.takes_tokenizer:
        science["target"] = values["target"] | {"file": tokenizer}
    if weights:
        science["weights"] = weights
    return science


def fitted_science(kind: str, config: Config, identity: str) -> dict[str, Any]:
    """Return what the PCA of patches or the small dVAE depends on.

    No model, no masks, and not the run's seed: many runs share one of them.
    """
    science = _common_science(kind, config, identity)
    if kind == "tokenizer":
        recipe = config.to_dict()["tokenizer"]
        # with a file nothing is trained
        science["recipe"] = {k: v for k, v in recipe.items() if k != "file"}
    return science


def measure_science(
    kind: str, start: str, config: Config, identity: str, weights: str | None = None
) -> dict[str, Any]:
    """Return what a measurement depends on beside its parent.

    The model's shape is in it only where no parent has it: with a random encoder and
    with given weights, whose identity is `weights`.
    """
    values = config.to_dict()
    # the size counts among the data, whether the stage or the data sets it
    recipe = {key: value for key, value in values[kind].items() if key != "image_size"}
    if "augment" in recipe:
        recipe["augment"] = _augment_science(recipe["augment"])
    if recipe.get("_target_"):
        recipe["code"] = part_digest(recipe["_target_"])
    science = _common_science(kind, config, identity)
    science |= {"start": start, "recipe": recipe}
    if recipe.get("mixup") or recipe.get("cutmix"):
        science["mixed_together"] = mixing_group_size(recipe["batch_size"])
    # kNN on all images draws nothing, nor does an exact probe
    if draws_numbers(kind, recipe) or start == "random" or values[kind]["labels"]:
        science["seed"] = values["seed"]
    if start in ("random", "given"):
        science["model"] = _model_science(config)
    if start == "given":
        science["weights"] = weights
    if start == "pixels":
        science["data"] = {
            k: v for k, v in science["data"].items() if k != "patch_size"
        }
        science["recipe"] = {k: v for k, v in recipe.items() if k not in ENCODER_KEYS}
    return science


def positions_science(
    config: Config, kind: str, grid: tuple[int, int], is_recorded: bool = True
) -> dict[str, Any]:
    """Return what a stage's result depends on where positions change their grid.

    grid: of the weights that the stage starts from. Empty for timm's resampling from a
    recorded or square grid: results from before this choice existed stay valid.
    """
    is_resampled = grid != config.grid_for(config.stage_image_size(kind))
    as_before = is_recorded or grid[0] == grid[1]
    if as_before and (not is_resampled or config.positions == "timm"):
        return {}
    by = {"by": config.positions} if is_resampled else {}
    return {"positions": {**by, "from": list(grid)}}


def robustness_science(
    config: Config, identity: str, test_identity: str | None
) -> dict[str, Any]:
    """Return what the robustness stage depends on beside its parent, the classifier.

    test_identity: of the images in folders of their own, None where there are none.
    """
    recipe = config.to_dict()["robustness"]
    # the classifier's stage says which images it saw, of which size
    science = _common_science(config.robustness.of, config, identity)
    science["stage"] = "robustness"
    science["version"] = RESULT_VERSION + STAGES["robustness"].result_version
    # the identity of the images says which sets these are, and which images of them
    science["recipe"] = {k: v for k, v in recipe.items() if k not in SET_KEYS}
    science["seed"] = config.seed
    science["other"] = test_identity
    return science


def _common_science(kind: str, config: Config, identity: str) -> dict[str, Any]:
    """Return what every stage depends on."""
    values = config.to_dict()["data"]
    values["image_size"] = list(config.stage_image_size(kind))
    data = {"identity": identity} | {key: values[key] for key in DATA_KEYS}
    # only where it is set: results from before this key existed stay valid
    if config.data.ranges:
        data["range"] = values["range"]
    if config.data.is_foreign:
        data["code"] = part_digest(config.data.source)
    if config.data.arrays is None:
        # which library decodes does not count: all of them give the same pixels
        data["pixels"] = resolve_decode(config.data)
    science: dict[str, Any] = {
        "version": RESULT_VERSION + STAGES[kind].result_version,
        "stage": kind,
        "precision": config.precision,
        "data": data,
    }
    # only where they are set: results from before these keys existed stay valid
    if makes_steps(config, kind) and config.spikes.factor:
        science["spikes"] = [config.spikes.factor, config.spikes.window]
    if makes_steps(config, kind) and config.stop_after:
        science["stop_after"] = config.stop_after
    return science


def _augment_science(augment: dict[str, Any]) -> dict[str, Any]:
    """Return what a result depends on; results from before a key existed stay valid."""
    science = {
        key: value for key, value in augment.items() if (key, value) != ("repeats", 1)
    }
    # results from before classes of the user's have no such key
    target = science.pop("_target_", None)
    if target:
        science |= {"_target_": target, "code": part_digest(target)}
    if augment["erasing"]:
        # its noise is drawn from all bits of the state; it was from 32 of them
        science["erasing_noise"] = 2
    return science


def _model_science(config: Config) -> dict[str, Any]:
    """Return what a result depends on; results from before a key existed stay valid."""
    model, values = config.model, config.to_dict()["model"]
    if isinstance(model, ForeignModel):
        code = {"code": part_digest(model.target_)}
        return {k: v for k, v in values.items() if k not in LABEL_KEYS} | code
    tokens = {"class_tokens": model.class_tokens} if model.class_tokens != 1 else {}
    return {key: values[key] for key in MODEL_KEYS} | tokens


def _decoder_science(config: Config) -> dict[str, Any]:
    """Return what a result depends on; results from before a key existed stay valid."""
    decoder, science = config.decoder, config.to_dict()["decoder"]
    # every decoder had 4 before there was a choice
    if decoder.mlp_ratio == DECODER_MLP_RATIO:
        del science["mlp_ratio"]
    if isinstance(decoder, Decoder):
        del science["_target_"]
    if isinstance(decoder, ForeignDecoder):
        science["code"] = part_digest(decoder.target_)
    return science


def weights_identity(path: str, key: str = "init_from") -> str:
    """Return a hash of weights, the same wherever they lie.

    path: as `find_weights` takes it; of a stage's folder the last checkpoint counts.
    Raises ConfigError, which names `key`, where there are no weights.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return _checkpoint_digest(place)[:16]
    try:
        found = find_weights(place)
    except ValueError as error:
        raise ConfigError(f"{key} = {error}") from None
    if found.is_stage:
        return _checkpoint_digest(found.path)[:16]
    # heads and the kind of model stand in config.json alone
    config = place / "config.json"
    files = [*found.parts, *([config] if config.exists() else [])]
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()[:16]


def _checkpoint_digest(path: Path) -> str:
    """Return the sha256 of a file of weights.

    Of a stage's checkpoint whose optimiser's state was left out to free space it is
    that of the whole one: its weights are the same.
    """
    digest = sha256(path)
    try:
        entries = json.loads((path.parent / "last.json").read_text())
        for entry in entries:
            if entry["file"] == path.name and entry["sha256"] == digest:
                return str(entry.get("whole_sha256", digest))
    except (OSError, ValueError, TypeError, KeyError):
        # of other origin, or the index is damaged
        pass
    return digest
