"""From a config to its stages in order: each with its parent before it."""

from unmask.config.schema import Config
from unmask.config.stage_kinds import FITTED_STAGES
from unmask.stages.fingerprint import (
    StageSpec,
    fitted_science,
    measure_science,
    pretrain_science,
    robustness_science,
    weights_identity,
)

# which controls say something: fine-tuning a random encoder is what `scratch` does, and
# pixels have no blocks or tokens
STAGE_CONTROLS = {
    "knn": ("random", "pixels"),
    "linear_probe": ("random", "pixels"),
    "attentive_probe": ("random",),
    "partial_finetune": ("random",),
    "finetune": ("pixels",),
}
# the stage that a target needs before pretraining
TARGET_STAGES = {
    "unmask.targets.PatchPCA": "patch_pca",
    "unmask.targets.Tokens": "tokenizer",
}


def list_stages(
    config: Config, identity: str, test_identity: str | None
) -> list[StageSpec]:
    """List the stages of a run: each measurement followed by its controls.

    A stage's parent comes before it, even where it is not in `stages`.
    identity: of the data set; test_identity: of the folders that robustness reads.
    """
    weights = weights_identity(config.init_from) if config.init_from else None
    fitted = {
        kind: StageSpec(kind, "images", fitted_science(kind, config, identity))
        for kind in FITTED_STAGES
    }
    pretraining = _pretraining(config, identity, weights, fitted)
    # init_from is measured as it is, unless the run pretrains and starts from it
    is_given = weights is not None and "pretrain" not in config.stages

    def measurement(kind: str, start: str) -> StageSpec:
        science = measure_science(kind, start, config, identity, weights)
        parent = pretraining if start == "pretrained" else None
        return StageSpec(kind, start, science, parent)

    stages: list[StageSpec] = []
    for kind in config.stages:
        if kind in FITTED_STAGES:
            stages.append(fitted[kind])
            continue
        measured = config.robustness.of if kind == "robustness" else kind
        if measured != "scratch" and not is_given:
            if pretraining.parent:
                stages.append(pretraining.parent)
            stages.append(pretraining)
        starts = _start_weights(measured, config, is_given)
        if kind == "robustness":
            # of the classifier alone: controls have none of their own
            classifier = measurement(measured, starts[0])
            science = robustness_science(config, identity, test_identity)
            stages.append(classifier)
            stages.append(StageSpec(kind, starts[0], science, classifier))
        else:
            stages += [measurement(kind, start) for start in starts]
    # parents that several stages share are run once
    return list(dict.fromkeys(stages))


def _pretraining(
    config: Config,
    identity: str,
    weights: str | None,
    fitted: dict[str, StageSpec],
) -> StageSpec:
    """Return the run's pretraining; weights: the identity of those it starts from."""
    parent = fitted.get(TARGET_STAGES.get(config.target.target_, ""))
    tokenizer = None
    # with DALL-E's encoder no tokenizer is trained
    if config.tokenizer_file:
        parent = None
        tokenizer = weights_identity(config.tokenizer_file, "tokenizer.file")
    science = pretrain_science(config, identity, weights, tokenizer)
    return StageSpec("pretrain", "given" if weights else "random", science, parent)


def _start_weights(kind: str, config: Config, is_given: bool) -> list[str]:
    """List the weights that a stage measures, as in `StageSpec.start`."""
    if kind == "pretrain":
        return []
    if kind == "scratch":
        return ["random"]
    controls = [name for name in config.controls if name in STAGE_CONTROLS[kind]]
    return ["given" if is_given else "pretrained", *controls]
