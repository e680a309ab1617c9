"""The linear probe that is solved to convergence (linear_probe=exact).

Nothing is saved on the way: a stage that was interrupted begins anew, and ends with the
same bits.
"""

from collections.abc import Callable
from typing import NoReturn

import torch
from torch import nn

from unmask.data.loading.module import FeatureData
from unmask.distributed import collectives
from unmask.heads import Classifier
from unmask.stages.convergence import CONVERGED
from unmask.storage import checkpoints
from unmask.tasks.classify import Classify, Regularisation
from unmask.tasks.features import LabelledFeatures
from unmask.tasks.regression import (
    Head,
    Objective,
    Search,
    Standardisation,
    Stop,
    choose_penalty,
)
from unmask.training import build
from unmask.training.class_tables import write_class_tables
from unmask.training.fit import Metrics, evaluation_trainer
from unmask.training.prepare import build_classifier, features_of_splits
from unmask.training.run import Stage


def solve_probe(stage: Stage) -> Metrics:
    """Return the metrics of the head that is solved on the training images.

    Its checkpoint and its tables are those of a probe that was trained.
    """
    images = stage.image_data()
    rows = features_of_splits(stage, images)
    bank = rows.train
    standardise = Standardisation.of(bank.features_ND)
    # one head for all ranks: sums on GPUs may differ in their last bits
    head = collectives.on_rank_zero_at_length(
        lambda keep_alive: _solve(stage, bank, standardise, keep_alive)
    )
    num_classes = stage.run.plan.num_classes
    model = build_classifier(
        stage.config, stage.spec.kind, stage.spec.start, num_classes
    )
    _install(model, head, standardise)
    module = Classify(model, _refuse_training, Regularisation(stage.config.seed))
    data = FeatureData(rows, images.batch_size, stage.config.seed)
    trainer = evaluation_trainer(stage)
    trainer.validate(module, datamodule=data, verbose=False)
    if collectives.is_rank_zero():
        _save(stage, module, head)
    write_class_tables(
        stage.folder.path, stage.run.plan.class_names, module.predictions()
    )
    return {
        **{name: float(value) for name, value in trainer.callback_metrics.items()},
        "parameters": head.weights_KD.numel() + head.bias_K.numel(),
        "penalty": head.penalty,
        "iterations": head.iterations,
        "gradient": head.gradient,
        CONVERGED: float(head.gradient <= stage.recipe.tolerance),
    }


def _solve(
    stage: Stage,
    bank: LabelledFeatures,
    standardise: Standardisation,
    keep_alive: Callable[[], None],
) -> Head:
    """Choose the penalty on held-out training images, then solve on all of them.

    keep_alive: is called after each part of the images.
    """
    recipe, num_classes = stage.recipe, stage.run.plan.num_classes
    device = build.training_device(stage.config)
    stop = Stop(recipe.tolerance, recipe.max_iterations)
    search = Search(recipe.penalties, recipe.holdout)
    penalty = choose_penalty(bank, search, num_classes, stop, device, keep_alive)
    objective = Objective(bank, standardise, num_classes, device, keep_alive)
    return objective.minimise(penalty, stop)


def _install(model: Classifier, head: Head, standardise: Standardisation) -> None:
    """Give a classifier the head, and its BatchNorm the statistics of the features."""
    norm = model.norm
    assert isinstance(norm, nn.BatchNorm1d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(standardise.mean_D)
    norm.running_var.copy_(standardise.variance_D)
    with torch.no_grad():
        model.head.weight.copy_(head.weights_KD)
        model.head.bias.copy_(head.bias_K)


def _save(stage: Stage, module: Classify, head: Head) -> None:
    """Write the head as the checkpoint of a probe, for src/predict.py."""
    content = {
        "state_dict": module.state_dict(),
        "global_step": head.iterations,
        "epoch": 0,
        "unmask": {
            "stage": stage.spec.kind,
            "fingerprint": stage.spec.fingerprint,
            "config": stage.config.to_dict(),
            "classes": list(stage.run.plan.class_names),
        },
    }
    checkpoints.save(content, stage.folder.checkpoints, head.iterations, keep=1)


def _refuse_training(model: nn.Module) -> NoReturn:
    raise AssertionError("an exact probe takes no steps")
