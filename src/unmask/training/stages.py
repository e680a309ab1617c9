"""What each kind of stage does with its images and its weights.

Most train a module (`prepare`, then `fit`); the others have a function here.
"""

from collections.abc import Callable

from unmask.tasks.knn import knn_accuracy
from unmask.training.fit import Metrics, fit
from unmask.training.fitted_targets import fit_patch_pca
from unmask.training.prepare import features_of_splits, prepare
from unmask.training.robustness import measure_robustness
from unmask.training.run import Stage


def run_stage(stage: Stage) -> Metrics:
    """Train or measure, and return the metrics."""
    if stage.spec.kind in WITHOUT_FIT:
        return WITHOUT_FIT[stage.spec.kind](stage)
    module, data = prepare(stage)
    return fit(stage, module, data)


def measure_knn(stage: Stage) -> Metrics:
    """Classify the validation images by their nearest training images' features."""
    # the training images are the bank, the validation images the queries
    bank, queries = features_of_splits(stage, stage.image_data())
    accuracy = knn_accuracy(bank, queries, stage.recipe.k, stage.recipe.temperature)
    return {"val/accuracy": accuracy}


WITHOUT_FIT: dict[str, Callable[[Stage], Metrics]] = {
    "patch_pca": fit_patch_pca,
    "knn": measure_knn,
    "robustness": measure_robustness,
}
