"""From a config to its stages in order: each with its parent before it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from unmask.config.recipes import FITTED_STAGES, STAGES
from unmask.config.robustness import CORRUPTED
from unmask.config.schema import Config
from unmask.stages.evaluation_sets import each_test_set
from unmask.stages.fingerprint import (
    GivenWeights,
    StageSpec,
    fitted_science,
    measure_science,
    positions_science,
    pretrain_science,
    robustness_science,
    weights_identity,
)
from unmask.stages.view_science import ImageSizes, view_science


def list_stages(
    config: Config,
    identity: str,
    test_identities: Mapping[str, str] | None,
    image_sizes: ImageSizes = frozenset(),
) -> list[StageSpec]:
    """List the stages of a run: each measurement followed by its controls.

    A stage's parent comes before it, even where it is not in `stages`.
    identity: of the data set; test_identities: of the folders that robustness reads;
    None where nobody has listed them. image_sizes: of the data set, where they are
    known.
    """
    given = _given(config)
    views = partial(view_science, config, image_sizes=image_sizes)
    fitted = _fitted(config, identity, views)
    pretraining = _pretraining(config, identity, given, fitted, views("pretrain"))
    # init_from is measured as it is, unless the run pretrains and starts from it
    is_given = given is not None and "pretrain" not in config.stages

    def measurement(kind: str, start: str) -> StageSpec:
        science = measure_science(
            kind, start, config, identity, given and given.identity
        )
        science |= views(kind)
        if start == "given" and given:
            science |= positions_science(config, kind, given.grid, given.is_recorded)
        elif start == "pretrained":
            science |= positions_science(config, kind, config.grid)
        parent = pretraining if start == "pretrained" else None
        return StageSpec(kind, start, science, parent)

    stages: list[StageSpec] = []
    for kind in config.stages:
        if kind in FITTED_STAGES:
            stages.append(fitted[kind])
            continue
        of_classifier = STAGES[kind].parent == "classifier"
        measured = getattr(config, kind).of if of_classifier else kind
        pretrains = kind == pretraining.kind or STAGES[measured].parent == "pretraining"
        if pretrains and not is_given:
            if pretraining.parent:
                stages.append(pretraining.parent)
            stages.append(pretraining)
        starts = _start_weights(measured, config, is_given)
        if of_classifier:
            # of the classifier alone: controls have none of their own
            classifier = measurement(measured, starts[0])
            stages.append(classifier)
            for each in each_test_set(config):
                science = _robustness(each, identity, test_identities)
                science |= view_science(each, kind, image_sizes)
                root = _test_root(each)
                stages.append(StageSpec(kind, starts[0], science, classifier, root))
        else:
            stages += [measurement(kind, start) for start in starts]
    # parents that several stages share are run once
    return list(dict.fromkeys(stages))


def _robustness(
    config: Config, identity: str, test_identities: Mapping[str, str] | None
) -> dict[str, Any]:
    root = _test_root(config)
    if root is None:
        return robustness_science(config, identity, None)
    known = "unlisted" if test_identities is None else test_identities[root]
    return robustness_science(config, identity, known)


def _test_root(config: Config) -> str | None:
    """Return the folder of other images; None where the data's own are corrupted."""
    recipe = config.robustness
    return None if recipe.source == CORRUPTED else recipe.root


def _given(config: Config) -> GivenWeights | None:
    """Return what is known of the weights of init_from; None without them."""
    if not config.init_from:
        return None
    # most runs need none of what reads files of weights
    from unmask.stages.given_weights import check_given_weights

    return check_given_weights(config)


def _fitted(
    config: Config, identity: str, views: Callable[[str], dict[str, Any]]
) -> dict[str, StageSpec]:
    """Return the stages that are fitted to images, by their kind."""
    stages = {}
    for kind in FITTED_STAGES:
        science = fitted_science(kind, config, identity) | views(kind)
        stages[kind] = StageSpec(kind, "images", science)
    return stages


def _pretraining(
    config: Config,
    identity: str,
    given: GivenWeights | None,
    fitted: dict[str, StageSpec],
    views: dict[str, Any],
) -> StageSpec:
    """Return the run's pretraining.

    given: the weights that it starts from; views: what it depends on of them.
    """
    parent = next(
        (
            spec
            for kind, spec in fitted.items()
            if STAGES[kind].target == config.target.target_
        ),
        None,
    )
    tokenizer = None
    # with DALL-E's encoder no tokenizer is trained
    if config.tokenizer_file:
        parent = None
        tokenizer = weights_identity(config.tokenizer_file, "tokenizer.file")
    weights = given and given.identity
    science = pretrain_science(config, identity, weights, tokenizer) | views
    if given:
        science |= positions_science(config, "pretrain", given.grid, given.is_recorded)
    return StageSpec("pretrain", "given" if given else "random", science, parent)


def _start_weights(kind: str, config: Config, is_given: bool) -> list[str]:
    """List the weights that a stage measures, as in `StageSpec.start`."""
    if kind == "pretrain":
        return []
    if STAGES[kind].parent is None:
        return ["random"]
    controls = [name for name in config.controls if name in STAGES[kind].controls]
    return ["given" if is_given else "pretrained", *controls]
