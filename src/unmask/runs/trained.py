"""Classifiers as a stage left them."""

from typing import Any

from torch import Tensor

from unmask.heads import AttentiveFeatures, Classifier, Features, FineTuneFeatures
from unmask.runs import build
from unmask.runs.schema import Config

TUNED = ("finetune", "partial_finetune", "scratch")


def weights_of(content: dict[str, Any]) -> dict[str, Tensor]:
    """The weights that were measured: the averaged ones where there is an average."""
    state: dict[str, Tensor] = content["state_dict"]
    prefix = "ema.module." if any(name.startswith("ema.module.") for name in state) else "model."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def trained_classifier(content: dict[str, Any], config: Config) -> Classifier:
    """The classifier in a checkpoint of this project, ready to predict.

    Raises ValueError where the checkpoint holds no classifier, or one on features that were computed beforehand.
    """
    kind, weights = content["unmask"]["stage"], weights_of(content)
    if "head.weight" not in weights:
        raise ValueError(
            f"this is a checkpoint of stage {kind}, which classifies nothing; give one of {', '.join(TUNED)}"
        )
    if not any(name.startswith("features.encoder.") for name in weights):
        raise ValueError(
            f"this {kind} was trained on stored features and holds no encoder; give one of {', '.join(TUNED)}"
        )
    encoder = build.build_encoder(config, config.grid_of(config.stage_image_size(kind)))
    recipe = getattr(config, kind)
    if kind == "attentive_probe":
        features: Any = AttentiveFeatures(encoder, recipe.heads, config.seed)
    else:
        features = (FineTuneFeatures if kind in TUNED else Features)(encoder, recipe.pool)
    model = Classifier(features, len(weights["head.bias"]), kind not in TUNED, config.seed)
    model.load_state_dict(weights)
    return model.eval()
