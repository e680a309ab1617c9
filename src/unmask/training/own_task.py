"""The stage `task`: the user's task measures the encoder that the run has."""

from functools import cache

import torch

from unmask.heads import Features as PooledFeatures
from unmask.tasks.features import LabelledFeatures, extract_features
from unmask.tasks.own_task import Change, ChangedImages, Features, run_task
from unmask.training import build
from unmask.training.fit import Metrics, evaluation_trainer
from unmask.training.prepare import build_features, features_of_splits
from unmask.training.run import Stage
from unmask.training.starting_weights import load_starting_weights


def measure_task(stage: Stage) -> Metrics:
    """Return the numbers of the user's task."""
    task = build.build_task(stage.config)
    return run_task(task, stage_features(stage), stage.config.seed)


def stage_features(stage: Stage) -> Features:
    """Return what computes features of both splits, of changed images or not."""
    images = stage.image_data()

    @cache
    def model() -> torch.nn.Module:
        built = build_features(stage.config, stage.spec.kind, stage.spec.start)
        if isinstance(built, PooledFeatures):
            load_starting_weights(built.encoder, stage)
        return built

    def features(
        change: Change | None = None,
    ) -> tuple[LabelledFeatures, LabelledFeatures]:
        # a loader draws a number: what the task draws must not depend on it
        with torch.random.fork_rng(devices=[]):
            if change is None:
                return features_of_splits(stage, images)[:2]
            changed = ChangedImages(model(), change)
            return extract_features(evaluation_trainer(stage), changed, images)[:2]

    return features
