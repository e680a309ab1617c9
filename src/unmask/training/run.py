"""What the stages of one run share: the plan, the images and computed features."""

from functools import cached_property
from typing import Any

from rich.console import Console

from unmask.config.augmentation import Augment as AugmentConfig
from unmask.data.loading.bad_images import BadImages
from unmask.data.loading.folders import StoredImages
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import ImageData
from unmask.data.loading.sampler import balanced_subset
from unmask.randomness import make_key
from unmask.stages.plan import Plan
from unmask.stages.sizes import fit_batch_size
from unmask.tasks.features import LabelledFeatures
from unmask.training import build

Shape = tuple[int, int]  # height and width in pixels


class Run:
    """Keep what the stages of one run share.

    features: those of whole splits that no augmentation changes, by what they depend
    on; with them, the images that could not be read while they were computed.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan = plan
        self.config = plan.config
        self.console = console
        self.features: dict[
            tuple[Any, ...], tuple[LabelledFeatures, LabelledFeatures, BadImages]
        ] = {}

    @cached_property
    def splits(self) -> tuple[InMemory | StoredImages, InMemory | StoredImages]:
        """Open the training and validation images when a stage first needs them."""
        return build.load_splits(self.plan)

    def image_data(
        self,
        batch_size: int | None,
        labels: int | None,
        augment: AugmentConfig,
        shape: Shape,
        seed: int | None = None,
    ) -> ImageData:
        """Return a stage's loaders of training and validation images.

        batch_size: None takes all images. labels: how many labelled images to train
        on, equally many of each class; None takes all. seed: of the order and the
        crops; the run's by default.
        """
        train, val = self.splits
        key = make_key(self.config.seed, "labels")
        # a range, not a list: each loader worker would copy a list of millions of ids
        ids = (
            balanced_subset(train.labels_N, labels, key)
            if labels and labels < len(train)
            else range(len(train))
        )
        # where there are fewer images than a batch takes, the batch is cut to an even
        # number, since mixup pairs images
        batch = fit_batch_size(batch_size or len(ids), len(ids), augment.repeats)
        if batch_size and batch < batch_size:
            self.console.print(
                f"  batch of {batch} instead of {batch_size}: there are no more"
                " training images"
            )
        return ImageData(
            train,
            val,
            build.build_format(self.config, shape),
            build.build_augment(augment, self.config.data.eval_crop),
            ids,
            batch,
            self.config.seed if seed is None else seed,
            build.build_loading(self.config),
        )
