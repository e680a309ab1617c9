"""The kinds of stages that train no module: each measures or fits by a function here.

All others are prepared (`prepare`) and trained (`fit`).
"""

from collections.abc import Callable

from unmask.tasks.knn import knn_accuracy
from unmask.training.fit import Metrics
from unmask.training.fitted_targets import fit_patch_pca
from unmask.training.prepare import features_of_splits
from unmask.training.robustness import measure_robustness
from unmask.training.run import Stage


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
