"""What each kind of stage does: from a recipe to a model, its images and their fit.

A stage is one training or one evaluation. Pretraining comes first, before it what its
target must know of the images (`patch_pca`, `tokenizer`); then the encoder is evaluated
(`knn`, the probes, fine-tuning), and last a fine-tuned classifier (`robustness`).
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from unmask.callbacks.pictures import Pictures
from unmask.config.augmentation import mixing_group_size
from unmask.config.recipes import (
    FineTune,
    PartialFineTune,
    TokenizerRecipe,
)
from unmask.config.stage_kinds import FROZEN_STAGES
from unmask.data.listing.names import pack_names
from unmask.data.loading.folders import FolderStore, StoredImages
from unmask.data.loading.module import FeatureData, ImageData
from unmask.distributed import collectives
from unmask.drop_path import DropPath, install_drop_path, linear_rates
from unmask.encoder import Encoder
from unmask.heads import (
    AttentiveFeatures,
    Classifier,
    Features,
    FineTuneFeatures,
    Pool,
    PrecomputedFeatures,
    RawPixels,
    train_last_blocks,
)
from unmask.optim import OptimizerRecipe
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder
from unmask.storage.atomic import write_json
from unmask.targets import AnyTarget, PatchPCA, Tokens
from unmask.tasks.classify import Classify, Regularisation
from unmask.tasks.features import LabelledFeatures, extract_features
from unmask.tasks.knn import knn_accuracy
from unmask.tasks.pretrain import Pretrain
from unmask.tasks.tokenizer import Annealing, TrainTokenizer
from unmask.training import build
from unmask.training.class_tables import write_class_tables
from unmask.training.classifiers import classifier_from_checkpoint
from unmask.training.fit import Fitter, Metrics
from unmask.training.fitted_targets import fit_patch_pca, load_basis, load_tokenizer
from unmask.training.learning_rates import part_rates, rates_as_rows, rates_table
from unmask.training.robustness import RobustnessEvaluation
from unmask.training.run import Run, Shape
from unmask.training.starting_weights import (
    load_init_from,
    read_parent_checkpoint,
    starting_encoder,
)


class StageRunner:
    """Train or evaluate one stage in its folder.

    Each kind of stage has a method of its name, which returns the stage's metrics.
    """

    def __init__(self, run: Run, spec: StageSpec, folder: StageFolder) -> None:
        self.run = run
        self.config = run.config
        self.spec = spec
        self.folder = folder
        # the stage's part of the config; patch_pca has none
        self.recipe: Any = getattr(run.config, spec.kind, None)
        self.shape: Shape = run.config.stage_image_size(spec.kind)
        self.fitter = Fitter(run.plan, spec, folder, run.console)

    def pretrain(self) -> Metrics:
        """Train the masked autoencoder (MAE Sec. 3)."""
        config = self.config
        data = self.run.image_data(
            self.recipe.batch_size, None, config.augment, self.shape
        )
        target = self.target()
        model = build.build_mae(config)
        masking = build.build_masking(config)
        if self.spec.start == "given":
            load_init_from(model, target, config, self.run.console)
        module = Pretrain(
            model,
            masking,
            target,
            config.seed,
            self.optimizer_recipe(data),
            config.loss_on == "all",
        )
        # predictions of HOG or tokens cannot be drawn
        if target.to_pixels is None:
            return self.fitter(module, data, [])
        pictures = Pictures(
            self.folder.pictures,
            data.val_views,
            data.image_format,
            config.watch.pictures,
        )
        return self.fitter(module, data, [pictures])

    def target(self) -> AnyTarget:
        """Return the pretraining target, with what an earlier stage fitted for it."""
        target = build.build_target(self.config)
        if self.spec.parent is None:
            return target
        if isinstance(target, PatchPCA):
            load_basis(target, StageFolder(self.config.runs_dir, self.spec.parent).path)
        elif isinstance(target, Tokens):
            _, content = self.parent_checkpoint()
            load_tokenizer(target.tokenizer, content["state_dict"])
        return target

    def patch_pca(self) -> Metrics:
        """Fit the PCA of the training images' patches, which a target predicts."""
        assert self.config.data.patch_size is not None
        data = self.run.image_data(None, None, build.NO_AUGMENTATION, self.shape)
        return fit_patch_pca(
            self.folder, data, self.config.data.patch_size, self.fitter.bad_images
        )

    def tokenizer(self) -> Metrics:
        """Train the small dVAE, once for all seeds, on images without augmentation."""
        recipe: TokenizerRecipe = self.recipe
        data = self.run.image_data(
            recipe.batch_size, None, build.NO_AUGMENTATION, self.shape, recipe.seed
        )
        make_optimizer = self.optimizer_recipe(data)
        module = TrainTokenizer(
            build.build_small_tokenizer(self.config),
            recipe.seed,
            make_optimizer,
            Annealing(make_optimizer.total_steps),
            recipe.usage_weight,
        )
        return self.fitter(module, data, [])

    def knn(self) -> Metrics:
        """Classify the validation images by their nearest training images' features."""
        knn = self.config.knn
        data = self.run.image_data(None, knn.labels, build.NO_AUGMENTATION, self.shape)
        # the training images are the bank, the validation images the queries
        bank, queries = self.extract(knn.pool, knn.labels, data)
        return {"val/accuracy": knn_accuracy(bank, queries, knn.k, knn.temperature)}

    def linear_probe(self) -> Metrics:
        """Train a linear classifier on frozen features (MAE A.1, Table 10)."""
        recipe = self.recipe
        images = self.labelled_images()
        if not recipe.augment.changes_images:
            # features of unchanged images never change: they are computed once
            bank, queries = self.extract(recipe.pool, recipe.labels, images)
            stored = FeatureData(bank, queries, images.batch_size, self.config.seed)
            width = bank.features_ND.shape[1]
            return self.classify(PrecomputedFeatures(width), stored, images)
        features = self.features(recipe.pool).eval().requires_grad_(False)
        features.micro_batch_size = self.frozen_micro_batch_size(images)
        return self.classify(features, images, images)

    def attentive_probe(self) -> Metrics:
        """Train attention pooling and a linear classifier on a frozen encoder."""
        features = AttentiveFeatures(
            self.encoder(), self.recipe.heads, self.config.seed
        )
        images = self.labelled_images()
        features.micro_batch_size = self.frozen_micro_batch_size(images)
        return self.classify(features, images, images)

    def finetune(self) -> Metrics:
        """Train encoder and classifier end to end (MAE A.1, Table 9).

        Partial fine-tuning trains the encoder's last blocks alone (MAE Fig. 9). Raw
        pixels, a control, have no encoder.
        """
        recipe: FineTune | PartialFineTune = self.recipe
        images = self.labelled_images()
        if self.spec.start == "pixels":
            return self.classify(self.features(recipe.pool), images, images)
        features = FineTuneFeatures(self.encoder(), recipe.pool)
        if isinstance(recipe, PartialFineTune):
            train_last_blocks(features, recipe.blocks)
        _install_drop_path(features.encoder, recipe)
        return self.classify(features, images, images)

    # they differ from fine-tuning in their recipes and in what they start from
    scratch = partial_finetune = finetune

    def robustness(self) -> Metrics:
        """Measure a finished classifier on images it was not trained for (Table 13)."""
        classifier = classifier_from_checkpoint(*self.parent_checkpoint())
        validation = (
            self.run.splits[1] if self.recipe.source == "corrupted" else _no_images()
        )
        evaluation = RobustnessEvaluation(self.run.plan, self.folder, self.fitter)
        return evaluation(classifier.model, validation)

    def labelled_images(self) -> ImageData:
        """Return the loaders of a classifier: batch, labels and augmentation."""
        return self.run.image_data(
            self.recipe.batch_size, self.recipe.labels, self.recipe.augment, self.shape
        )

    def frozen_micro_batch_size(self, images: ImageData) -> int | None:
        """Return how many images a frozen encoder takes at once; None takes all.

        The head sees the whole batch in any case, as its BatchNorm must.
        """
        trainer = self.config.trainer
        if trainer.split == 1:
            return trainer.micro_batch
        rank_share = images.batch_size // collectives.world_size()
        return max(1, (trainer.micro_batch or rank_share) // trainer.split)

    def features(self, pool: Pool) -> Features | RawPixels:
        """Return the frozen features that a kNN or a linear probe classifies."""
        if self.spec.start == "pixels":
            height, width = self.shape
            return RawPixels(self.config.data.channels * height * width)
        return Features(self.encoder(), pool)

    def extract(
        self, pool: Pool, labels: int | None, images: ImageData
    ) -> tuple[LabelledFeatures, LabelledFeatures]:
        """Return features of both splits, computed once for all stages of a run."""
        # all that the features of one run depend on
        key = (self.spec.start, pool, labels, self.shape)
        if key not in self.run.features:
            bank, queries = extract_features(
                self.fitter.evaluation_trainer(), self.features(pool), images
            )
            self.run.features[key] = (bank, queries, self.fitter.bad_images)
        bank, queries, bad_images = self.run.features[key]
        # this stage did not read the images, yet its result depends on the bad ones
        self.fitter.bad_images.copy_from(bad_images)
        return bank, queries

    def encoder(self) -> Encoder:
        """Return the encoder with the weights that this stage starts from."""
        return starting_encoder(self.config, self.spec, self.run.console)

    def parent_checkpoint(self) -> tuple[Path, dict[str, Any]]:
        """Return path and content of the parent stage's final checkpoint."""
        return read_parent_checkpoint(self.config, self.spec)

    def optimizer_recipe(self, data: ImageData) -> OptimizerRecipe:
        """Return the recipe's optimizer and schedule, counted in optimiser steps."""
        recipe = self.recipe
        # repeated augmentation makes several views of an image
        steps_per_epoch = len(data.ids) * data.repeats.views // data.batch_size
        # pixels have no layers whose rates could decay
        layer_decay = (
            getattr(recipe, "layer_decay", 1.0) if self.spec.start != "pixels" else 1.0
        )
        return OptimizerRecipe(
            recipe.optimizer,
            recipe.base_lr,
            data.batch_size,
            recipe.weight_decay,
            recipe.betas,
            round(recipe.warmup_epochs * steps_per_epoch),
            recipe.epochs * steps_per_epoch,
            decay_tokens=self.spec.kind == "pretrain",
            min_lr=recipe.min_lr,
            layer_decay=layer_decay,
        )

    def classify(
        self, features: Any, data: ImageData | FeatureData, images: ImageData
    ) -> Metrics:
        """Train a classifier on the features and write its tables of classes.

        data: what the loaders give, images or stored features. images: those that set
        batch size and schedule.
        """
        is_probe = self.spec.kind in FROZEN_STAGES
        model = Classifier(
            features, self.run.plan.num_classes, is_probe, self.config.seed
        )
        make_optimizer = self.optimizer_recipe(images)
        # before the first step: what is shown is what training starts with
        self.report_rates(model, make_optimizer)
        regularisation = self.regularisation(images.batch_size)
        module = Classify(model, make_optimizer, regularisation)
        metrics = self.fitter(module, data, [])
        write_class_tables(self.folder.path, self.run.plan.class_names, module)
        return metrics

    def regularisation(self, batch_size: int) -> Regularisation:
        """Return smoothing, mixup, cutmix and weight averaging; probes have none."""
        recipe = self.recipe
        if not isinstance(recipe, FineTune | PartialFineTune):
            return Regularisation(self.config.seed)
        return Regularisation(
            self.config.seed,
            recipe.smoothing,
            recipe.mixup,
            recipe.cutmix,
            recipe.ema,
            mixing_group_size(batch_size),
        )

    def report_rates(self, model: nn.Module, make_optimizer: OptimizerRecipe) -> None:
        """Print and write what is trained at which rate, before the first step."""
        optimizer, _ = make_optimizer(model)
        rates = part_rates(model, optimizer)
        title = f"{self.spec.title}: what is trained"
        self.run.console.print(rates_table(title, rates))
        if collectives.is_rank_zero():
            write_json(self.folder.path / "rates.json", rates_as_rows(rates))


def _install_drop_path(encoder: Encoder, recipe: FineTune | PartialFineTune) -> None:
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


def _no_images() -> StoredImages:
    """Return an empty split, for stages that read folders of their own."""
    store = FolderStore(Path(), pack_names([]))
    return StoredImages(store, torch.empty(0, dtype=torch.long), 1)
