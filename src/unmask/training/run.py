"""What is at hand while a run's stages are made: the plan, the images, the folders."""

from functools import cached_property
from typing import Any

from rich.console import Console

from unmask.config.augmentation import Augment
from unmask.dashboards.process import Dashboards
from unmask.data.loading.bad_images import BadImages
from unmask.data.loading.folders import StoredImages, narrow_values
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import ImageData
from unmask.data.loading.sampler import balanced_subset
from unmask.randomness import make_key
from unmask.stages.evaluation_sets import stage_config
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder
from unmask.stages.origin import Origin
from unmask.stages.plan import Plan
from unmask.stages.sizes import fit_batch_size
from unmask.tasks.features import SplitFeatures
from unmask.training import build

NO_AUGMENTATION = Augment(
    crop="none",
    scale=(1.0, 1.0),
    flip=False,
    policy=None,
    erasing=0.0,
    jitter=0.0,
    repeats=1,
)


class Run:
    """Keep what the stages of one run share.

    features: those of whole splits that no augmentation changes, by what they depend
    on; with them, the images that could not be read while they were computed.
    """

    def __init__(
        self, plan: Plan, console: Console, origin: Origin | None = None
    ) -> None:
        self.plan = plan
        # which command asks for the stages
        self.origin = origin or Origin()
        self.config = plan.config
        self.console = console
        self.features: dict[tuple[Any, ...], tuple[SplitFeatures, BadImages]] = {}

    @cached_property
    def splits(self) -> tuple[InMemory | StoredImages, InMemory | StoredImages]:
        """Open the training and validation images when a stage first needs them."""
        data, listing = self.config.data, self.plan.listing
        note = narrow_values(listing, data.channels, data.ranges) if listing else None
        if note:
            self.console.print(
                f"warning: {note}; python src/measure.py finds the data.range to set",
                soft_wrap=True,
                markup=False,
            )
        return build.load_splits(self.plan)


class Stage:
    """Keep what belongs to one stage: its recipe, its folder, its unreadable images."""

    def __init__(self, run: Run, spec: StageSpec, folder: StageFolder) -> None:
        self.run = run
        # of several test sets the one that this stage measures
        self.config = stage_config(run.config, spec)
        self.console = run.console
        self.spec = spec
        self.folder = folder
        # the stage's part of the config; patch_pca has none
        self.recipe: Any = getattr(self.config, spec.kind, None)
        self.shape = run.config.stage_image_size(spec.kind)
        self.bad_images = BadImages(
            folder.path,
            run.config.data.bad_limit,
            lambda line: run.console.print(line, soft_wrap=True, markup=False),
        )
        # none until the stage begins
        self.dashboards = Dashboards()
        # seconds of training before the checkpoint that the fit goes on from
        self.earlier_seconds = 0.0

    def image_data(
        self, augment: Augment = NO_AUGMENTATION, seed: int | None = None
    ) -> ImageData:
        """Return the loaders of the training and validation images.

        Batches are the recipe's, or all images where it has no batches; so are the
        labelled images, equally many of each class. seed: of the order and the crops;
        the run's by default.
        """
        config = self.config
        train, val = self.run.splits
        labels = getattr(self.recipe, "labels", None)
        batch_size = getattr(self.recipe, "batch_size", None)
        # a range, not a list: each loader worker would copy a list of millions of ids
        ids = (
            balanced_subset(train.labels_N, labels, make_key(config.seed, "labels"))
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
            build.build_format(config, self.shape),
            build.build_augment(augment, config.data),
            ids,
            batch,
            config.seed if seed is None else seed,
            build.build_loading(config),
        )
