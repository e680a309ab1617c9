"""From a stage to the module that it trains, with its weights, and its images.

The models of stages are built here and nowhere else: for training and for a replay
(`prepare`), for prices and for classifiers that are read from checkpoints
(`build_features`, `build_classifier`).
"""

import math
from typing import Any, NamedTuple

from unmask.config.augmentation import mixing_group_size
from unmask.config.probes import ExactProbe, Probe
from unmask.config.recipes import (
    FROZEN_STAGES,
    AttentiveProbe,
    FineTune,
    PartialFineTune,
)
from unmask.config.schema import Config
from unmask.data.loading.module import FeatureData, ImageData
from unmask.distributed import collectives
from unmask.drop_path import DropPath, install_drop_path, linear_rates
from unmask.encoder import AnyEncoder
from unmask.heads import (
    AnyFeatures,
    AttentiveFeatures,
    Classifier,
    Features,
    FineTuneFeatures,
    PrecomputedFeatures,
    RawPixels,
    train_last_blocks,
)
from unmask.optim import OptimizerRecipe
from unmask.tasks.classify import Classify, Regularisation
from unmask.tasks.features import SplitFeatures, extract_features
from unmask.tasks.recompute import TrainingTask
from unmask.tasks.tokenizer import Annealing, TrainTokenizer
from unmask.training import build
from unmask.training.fit import evaluation_trainer
from unmask.training.run import Stage
from unmask.training.starting_weights import (
    load_fitted,
    load_init_from,
    load_starting_weights,
)


class Prepared(NamedTuple):
    """What a stage trains, with the weights it starts from, and on which data."""

    module: TrainingTask
    data: ImageData | FeatureData


def prepare(stage: Stage) -> Prepared:
    """Return the module that the stage trains, and its data.

    Raises LedgerError where the weights of an earlier stage are missing or damaged.
    """
    if stage.spec.kind == "pretrain":
        return _prepare_pretraining(stage)
    if stage.spec.kind == "tokenizer":
        return _prepare_tokenizer(stage)
    return _prepare_classifier(stage)


def _prepare_pretraining(stage: Stage) -> Prepared:
    """Prepare the masked autoencoder (MAE Sec. 3)."""
    config = stage.config
    data = stage.image_data(config.augment)
    module = build.build_pretraining(config, _optimizer_recipe(stage, data))
    load_fitted(module.target, stage)
    if stage.spec.start == "given":
        load_init_from(module.model, module.target, config, stage.console)
    return Prepared(module, data)


def _prepare_tokenizer(stage: Stage) -> Prepared:
    """Prepare the small dVAE, once for all seeds, on images without augmentation."""
    seed = stage.recipe.seed
    data = stage.image_data(seed=seed)
    make_optimizer = _optimizer_recipe(stage, data)
    module = TrainTokenizer(
        build.build_small_tokenizer(stage.config),
        seed,
        make_optimizer,
        Annealing(make_optimizer.total_steps),
        stage.recipe.usage_weight,
    )
    return Prepared(module, data)


def _prepare_classifier(stage: Stage) -> Prepared:
    """Prepare a probe, or fine-tuning (MAE A.1)."""
    kind, start = stage.spec.kind, stage.spec.start
    images = stage.image_data(stage.recipe.augment)
    data: ImageData | FeatureData = images
    if has_fixed_features(stage.config, kind):
        rows = features_of_splits(stage, images)
        data = FeatureData(rows, images.batch_size, stage.config.seed)
    model = build_classifier(stage.config, kind, start, stage.run.plan.num_classes)
    features = model.features
    if isinstance(features, Features | FineTuneFeatures | AttentiveFeatures):
        load_starting_weights(features.encoder, stage)
    if isinstance(features, Features | AttentiveFeatures):
        features.micro_batch_size = _frozen_micro_batch_size(stage, images.batch_size)
    if isinstance(features, FineTuneFeatures):
        _install_drop_path(features.encoder, stage.recipe)
    regularisation = _regularisation(stage, images.batch_size)
    # the average of the weights starts as a copy of them: they are loaded by now
    module = Classify(model, _optimizer_recipe(stage, images), regularisation)
    return Prepared(module, data)


def build_classifier(
    config: Config, kind: str, start: str, num_classes: int, on_images: bool = False
) -> Classifier:
    """Return the classifier that a stage trains; its weights are still to be loaded.

    Where its features are computed once, the encoder is no part of it, unless it is to
    work on images.
    """
    features: AnyFeatures
    if has_fixed_features(config, kind) and not on_images:
        num_pixels = config.data.channels * math.prod(config.stage_image_size(kind))
        width = num_pixels if start == "pixels" else config.model.width
        features = PrecomputedFeatures(width)
    else:
        features = build_features(config, kind, start)
    return Classifier(features, num_classes, kind in FROZEN_STAGES, config.seed)


def build_features(config: Config, kind: str, start: str) -> AnyFeatures:
    """Return the features that a stage's head, or its kNN, classifies.

    start: the weights it starts from, as in a StageSpec. Random ones, the control, are
    those that pretraining of this seed started from; others are still to be loaded.
    """
    shape = config.stage_image_size(kind)
    if start == "pixels":
        return RawPixels(config.data.channels * math.prod(shape))
    seed = config.seed if start == "random" else None
    encoder = build.build_encoder(config, config.grid_for(shape), seed)
    recipe = getattr(config, kind)
    if isinstance(recipe, AttentiveProbe):
        return AttentiveFeatures(encoder, recipe.heads, config.seed)
    if isinstance(recipe, FineTune | PartialFineTune):
        trained = FineTuneFeatures(encoder, recipe.pool)
        train_last_blocks(trained, getattr(recipe, "blocks", math.inf))
        return trained
    return Features(encoder, recipe.pool).eval().requires_grad_(False)


def has_fixed_features(config: Config, kind: str) -> bool:
    """Return whether features are computed once: frozen, on images without changes."""
    recipe = getattr(config, kind)
    if isinstance(recipe, ExactProbe):
        return True
    return isinstance(recipe, Probe) and not recipe.augment.changes_images


def features_of_splits(stage: Stage, images: ImageData) -> SplitFeatures:
    """Return features of both splits, computed once for all stages of a run."""
    spec, recipe = stage.spec, stage.recipe
    # all that the features of one run depend on
    key = (spec.start, recipe.pool, recipe.labels, stage.shape)
    if key not in stage.run.features:
        model = build_features(stage.config, spec.kind, spec.start)
        if isinstance(model, Features):
            load_starting_weights(model.encoder, stage)
        rows = extract_features(evaluation_trainer(stage), model, images)
        stage.run.features[key] = (rows, stage.bad_images)
    rows, bad_images = stage.run.features[key]
    # this stage did not read the images, yet its result depends on the bad ones
    stage.bad_images.copy_from(bad_images)
    return rows


def _frozen_micro_batch_size(stage: Stage, batch_size: int) -> int | None:
    """Return how many images a frozen encoder takes at once; None takes all.

    The head sees the whole batch in any case, as its BatchNorm must.
    """
    trainer = stage.config.trainer
    if trainer.split == 1:
        return trainer.micro_batch
    rank_share = batch_size // collectives.world_size()
    return max(1, (trainer.micro_batch or rank_share) // trainer.split)


def _install_drop_path(encoder: AnyEncoder, recipe: FineTune | PartialFineTune) -> None:
    """Give each block its drop-path rate: linear in depth, none where it is frozen."""
    depth = len(encoder.blocks)
    rates = linear_rates(depth, recipe.drop_path)
    if isinstance(recipe, PartialFineTune):
        # a frozen block gives the same features each time; dropping it would add noise
        first_trained = depth - recipe.blocks
        rates = [rate if i >= first_trained else 0.0 for i, rate in enumerate(rates)]
    install_drop_path(encoder.blocks, rates)
    is_half_block = isinstance(recipe, PartialFineTune) and recipe.blocks == 0.5
    if is_half_block and recipe.drop_path:
        # the MLP, which is the half of the last block that is trained
        encoder.blocks[-1].drop_path2 = DropPath(recipe.drop_path)


def _regularisation(stage: Stage, batch_size: int) -> Regularisation:
    """Return smoothing, mixup, cutmix and weight averaging; probes have none."""
    recipe: Any = stage.recipe
    if not isinstance(recipe, FineTune | PartialFineTune):
        return Regularisation(stage.config.seed)
    return Regularisation(
        stage.config.seed,
        recipe.smoothing,
        recipe.mixup,
        recipe.cutmix,
        recipe.ema,
        mixing_group_size(batch_size),
    )


def _optimizer_recipe(stage: Stage, data: ImageData) -> OptimizerRecipe:
    """Return the recipe's optimizer and schedule, counted in optimiser steps."""
    recipe = stage.recipe
    # repeated augmentation makes several views of an image
    steps_per_epoch = len(data.ids) * data.repeats.views // data.batch_size
    # pixels have no layers whose rates could decay
    has_layers = stage.spec.start != "pixels"
    return OptimizerRecipe(
        recipe.optimizer,
        recipe.base_lr,
        data.batch_size,
        recipe.weight_decay,
        recipe.betas,
        round(recipe.warmup_epochs * steps_per_epoch),
        recipe.epochs * steps_per_epoch,
        decay_tokens=stage.spec.kind == "pretrain",
        min_lr=recipe.min_lr,
        layer_decay=getattr(recipe, "layer_decay", 1.0) if has_layers else 1.0,
    )
