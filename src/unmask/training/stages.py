"""The stages that train no module: each measures, fits or solves by a function.

All others are prepared (`prepare`) and trained (`fit`).
"""

from collections.abc import Callable

import torch

from unmask.config.probes import ExactProbe
from unmask.tasks.features import top1_accuracy
from unmask.tasks.knn import knn_predictions
from unmask.training.class_tables import write_class_tables
from unmask.training.exact_probe import solve_probe
from unmask.training.fit import Metrics
from unmask.training.fitted_targets import fit_patch_pca
from unmask.training.own_task import measure_task
from unmask.training.prepare import features_of_splits
from unmask.training.robustness import measure_robustness
from unmask.training.run import Stage


def measure_knn(stage: Stage) -> Metrics:
    """Classify the validation images by their nearest training images' features."""
    # the training images are the bank, the validation images the queries
    bank, queries, ids_N = features_of_splits(stage, stage.image_data())
    predicted_N = knn_predictions(
        bank, queries, stage.recipe.k, stage.recipe.temperature
    )
    labels_N = queries.labels_N
    answers_N3 = torch.stack([ids_N, labels_N, predicted_N], 1)
    write_class_tables(stage.folder.path, stage.run.plan.class_names, answers_N3)
    return {"val/accuracy": top1_accuracy(predicted_N, labels_N)}


WITHOUT_FIT: dict[str, Callable[[Stage], Metrics]] = {
    "patch_pca": fit_patch_pca,
    "knn": measure_knn,
    "robustness": measure_robustness,
    "task": measure_task,
}


def function_without_fit(stage: Stage) -> Callable[[Stage], Metrics] | None:
    """Return what makes the stage's result; None where a module is trained."""
    if isinstance(stage.recipe, ExactProbe):
        return solve_probe
    return WITHOUT_FIT.get(stage.spec.kind)
