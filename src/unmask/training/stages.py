"""The work of each stage: what is trained on which images from which weights, and what is measured."""

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from torch import nn

from unmask.callbacks.pictures import Pictures
from unmask.config.recipes import Augment as AugmentConfig
from unmask.config.recipes import (
    FineTune,
    PartialFineTune,
    TokenizerRecipe,
    mixed_together,
)
from unmask.config.schema import FROZEN
from unmask.data.listing.names import Names
from unmask.data.loading.bad_images import BadImages
from unmask.data.loading.folders import Files, Folder
from unmask.data.loading.in_memory import InMemory
from unmask.data.loading.module import FeatureData, ImageData
from unmask.data.loading.sampler import balanced_subset
from unmask.distributed import collectives
from unmask.drop_path import DropPath, install_drop_path, linear_rates
from unmask.encoder import Encoder
from unmask.exchange.geometry import Hints
from unmask.exchange.load import load_encoder, load_mae, load_pretrained
from unmask.exchange.read import read
from unmask.exchange.summary import described
from unmask.exchange.weights import Weights
from unmask.heads import (
    AttentiveFeatures,
    Classifier,
    Features,
    FineTuneFeatures,
    Given,
    Pool,
    RawPixels,
    train_last_blocks,
)
from unmask.optim import Recipe
from unmask.randomness import make_key
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import LedgerError, StageFolder
from unmask.stages.plan import Plan
from unmask.stages.sizes import fitting
from unmask.storage import checkpoints
from unmask.storage.atomic import write_json
from unmask.targets import AnyTarget, NormalisedPixel, PatchPCA, Pixel, Tokens
from unmask.tasks.classify import Classify, Regularisation
from unmask.tasks.features import LabelledFeatures, extract, knn_accuracy
from unmask.tasks.pretrain import Pretrain
from unmask.tasks.tokenizer import Annealing, TrainTokenizer
from unmask.training import build
from unmask.training.classifiers import of_stage
from unmask.training.fit import Fitting, Metrics
from unmask.training.fitted_targets import fit_patch_pca, give_basis, give_weights
from unmask.training.learning_rates import part_rates, rates_table, rows
from unmask.training.robustness import Robustness

Shape = tuple[int, int]
NOTHING = Files(Folder(Path(), Names(())), torch.empty(0, dtype=torch.long), 1)


class Run:
    """What the stages of one run share: the plan, the images (read once, when first needed), the console."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.config, self.console = plan, plan.config, console
        self.extracted: dict[
            tuple[Any, ...], tuple[LabelledFeatures, LabelledFeatures, BadImages]
        ] = {}

    @cached_property
    def splits(self) -> tuple[InMemory | Files, InMemory | Files]:
        return build.load_splits(self.plan)

    def data(
        self,
        batch_size: int | None,
        labels: int | None,
        augment: AugmentConfig,
        shape: Shape,
        seed: int | None = None,
    ) -> ImageData:
        """Loaders of a stage; the batch is cut to the number of images where there are fewer, to an even one.

        seed: of the order and the crops, where it is not the run's.
        """
        train, val = self.splits
        key = make_key(self.config.seed, "labels")
        # all are no list: each loader process would come to own a copy
        ids = (
            balanced_subset(train.labels_N, labels, key)
            if labels and labels < len(train)
            else range(len(train))
        )
        batch = fitting(batch_size or len(ids), len(ids), augment.repeats)
        if batch_size and batch < batch_size:
            self.console.print(
                f"  batch of {batch}, not {batch_size}: there are no more training"
                " images"
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


class StageWork:
    """One stage being worked on in its folder; a method for each kind of stage."""

    def __init__(self, run: Run, spec: StageSpec, folder: StageFolder) -> None:
        self.run, self.spec, self.folder, self.config = run, spec, folder, run.config
        self.recipe: Any = getattr(run.config, spec.kind, None)
        self.shape: Shape = run.config.stage_image_size(spec.kind)
        self.fit = Fitting(run.plan, spec, folder, run.console)

    def pretrain(self) -> Metrics:
        config = self.config
        data = self.run.data(self.recipe.batch_size, None, config.augment, self.shape)
        target = self.target()
        model, masking = build.build_mae(config), build.build_masking(config)
        if self.spec.start == "given":
            weights = self.given_weights()
            # an encoder alone can be gone on with: its decoder starts anew
            whole = (
                weights.decoder is not None
                and isinstance(target, Pixel | NormalisedPixel)
                and config.decoder.depth
            )
            report = (
                load_mae(model, weights)
                if whole
                else load_encoder(model.encoder, weights)
            )
            self.run.console.print(described(weights, {"load": report}))
            if not whole:
                self.run.console.print(
                    "  these weights have no decoder for this target: it starts from"
                    " random ones"
                )
        module = Pretrain(
            model,
            masking,
            target,
            config.seed,
            self.optimizer(data),
            config.loss_on == "all",
        )
        if target.to_pixels is None:  # there is nothing to draw
            return self.fit(module, data, [])
        pictures = Pictures(
            self.folder.pictures, data.val_views, data.form, config.watch.pictures
        )
        return self.fit(module, data, [pictures])

    def patch_pca(self) -> Metrics:
        assert self.config.data.patch_size is not None
        data = self.run.data(None, None, build.PLAIN, self.shape)
        return fit_patch_pca(
            self.folder, data, self.config.data.patch_size, self.fit.bad
        )

    def tokenizer(self) -> Metrics:
        """A dVAE is made once for all seeds, from images as evaluation sees them."""
        recipe: TokenizerRecipe = self.recipe
        data = self.run.data(
            recipe.batch_size, None, build.PLAIN, self.shape, recipe.seed
        )
        make_optimizer = self.optimizer(data)
        annealing = Annealing(make_optimizer.total_steps)
        model = build.small_tokenizer(self.config)
        module = TrainTokenizer(
            model, recipe.seed, make_optimizer, annealing, recipe.usage_weight
        )
        return self.fit(module, data, [])

    def target(self) -> AnyTarget:
        """The target, with what the stage before found in the training images."""
        target = build.build_target(self.config)
        if self.spec.parent is None:
            return target
        if isinstance(target, PatchPCA):
            give_basis(target, StageFolder(self.config.runs_dir, self.spec.parent).path)
        elif isinstance(target, Tokens):
            give_weights(target.tokenizer, self.parent_checkpoint()[1]["state_dict"])
        return target

    def knn(self) -> Metrics:
        knn = self.config.knn
        data = self.run.data(None, knn.labels, build.PLAIN, self.shape)
        bank, queries = self.extract(knn.pool, knn.labels, data)
        return {"val/accuracy": knn_accuracy(bank, queries, knn.k, knn.temperature)}

    def linear_probe(self) -> Metrics:
        """Without augmentation the frozen features never change: they are computed once."""
        recipe, data = self.recipe, self.data()
        if not recipe.augment.changes:
            bank, queries = self.extract(recipe.pool, recipe.labels, data)
            fixed = FeatureData(bank, queries, data.batch_size, self.config.seed)
            return self.classify(Given(bank.features_ND.shape[1]), fixed, data)
        features = self.features(recipe.pool).eval().requires_grad_(False)
        features.at_once = self.at_once(data)
        return self.classify(features, data, data)

    def attentive_probe(self) -> Metrics:
        features = AttentiveFeatures(
            self.encoder(), self.recipe.heads, self.config.seed
        )
        data = self.data()
        features.at_once = self.at_once(data)
        return self.classify(features, data, data)

    def finetune(self) -> Metrics:
        recipe: FineTune = self.recipe
        data = self.data()
        if self.spec.start == "pixels":
            return self.classify(self.features(recipe.pool), data, data)
        features = FineTuneFeatures(self.encoder(), recipe.pool)
        depth = len(features.encoder.blocks)
        per_block = linear_rates(depth, recipe.drop_path)
        if isinstance(recipe, PartialFineTune):
            train_last_blocks(features, recipe.blocks)
            # a frozen block gives the same features each time: coins there would only
            # add noise
            per_block = [
                rate if i >= depth - recipe.blocks else 0.0
                for i, rate in enumerate(per_block)
            ]
        install_drop_path(features.encoder.blocks, per_block)
        if (
            isinstance(recipe, PartialFineTune)
            and recipe.blocks == 0.5
            and recipe.drop_path
        ):
            # of the half that is trained
            features.encoder.blocks[-1].drop_path2 = DropPath(recipe.drop_path)
        return self.classify(features, data, data)

    scratch = partial_finetune = finetune

    def robustness(self) -> Metrics:
        ready = of_stage(*self.parent_checkpoint())
        own = self.run.splits[1] if self.recipe.source == "corrupted" else NOTHING
        return Robustness(self.run.plan, self.folder, self.fit)(ready.model, own)

    def at_once(self, data: ImageData) -> int | None:
        """Images that a frozen encoder takes; None: all of a process's share."""
        trainer = self.config.trainer
        if trainer.split == 1:
            return trainer.micro_batch
        return max(
            1,
            (trainer.micro_batch or data.batch_size // collectives.world_size())
            // trainer.split,
        )

    def data(self) -> ImageData:
        return self.run.data(
            self.recipe.batch_size, self.recipe.labels, self.recipe.augment, self.shape
        )

    def extract(
        self, pool: Pool, labels: int | None, data: ImageData
    ) -> tuple[LabelledFeatures, LabelledFeatures]:
        """Features of both splits, computed once for all stages of a run that use them."""
        wanted = (self.spec.start, pool, labels, self.shape)
        if wanted not in self.run.extracted:
            found = extract(self.fit.quiet_trainer(), self.features(pool), data)
            self.run.extracted[wanted] = (*found, self.fit.bad)
        bank, queries, bad = self.run.extracted[wanted]
        self.fit.bad.adopt(bad)
        return bank, queries

    def encoder(self) -> Encoder:
        """The parent's encoder, the given one, or the random one of this seed."""
        grid = self.config.grid_of(self.shape)
        if self.spec.start == "given":
            encoder, weights = (
                build.build_encoder(self.config, grid),
                self.given_weights(),
            )
            self.run.console.print(
                described(weights, {"load": load_encoder(encoder, weights)})
            )
            return encoder
        if self.spec.parent is None:
            return build.build_encoder(self.config, grid, self.config.seed)
        encoder = build.build_encoder(self.config, grid)
        load_pretrained(
            encoder, self.parent_checkpoint()[1]["state_dict"], self.config.grid
        )
        return encoder

    def parent_checkpoint(self) -> tuple[Path, dict[str, Any]]:
        """Place and content of the final one of the stage that this one starts from."""
        assert self.spec.parent is not None
        folder = StageFolder(self.config.runs_dir, self.spec.parent)
        path = collectives.on_rank_zero(lambda: checkpoints.newest(folder.checkpoints))
        if path is None:
            raise LedgerError(
                f"{folder.path} is finished but has no whole checkpoint; remove that"
                " folder to redo it"
            )
        result, content = folder.result(), checkpoints.load(path)
        if result is None or content["global_step"] != result["metrics"]["steps"]:
            raise LedgerError(
                f"the final checkpoint of {folder.path} is missing or damaged,"
                f" {path.name} is an earlier one; remove {folder.path}/result.json and"
                " the same command makes the last steps again"
            )
        return path, content

    def given_weights(self) -> Weights:
        """init_from, whatever its layout; sizes it does not tell are taken from the config."""
        model, decoder = self.config.model, self.config.decoder
        weights, _ = read(
            Path(str(self.config.init_from)).expanduser(),
            otherwise=Hints(model.heads, decoder.heads),
        )
        return weights

    def features(self, pool: Pool) -> Features | RawPixels:
        if self.spec.start == "pixels":
            return RawPixels(self.config.data.channels * self.shape[0] * self.shape[1])
        return Features(self.encoder(), pool)

    def optimizer(self, data: ImageData) -> Recipe:
        recipe, per_epoch = (
            self.recipe,
            len(data.ids) * data.repeats.views // data.batch_size,
        )
        return Recipe(
            recipe.optimizer,
            recipe.base_lr,
            data.batch_size,
            recipe.weight_decay,
            recipe.betas,
            round(recipe.warmup_epochs * per_epoch),
            recipe.epochs * per_epoch,
            decay_tokens=self.spec.kind == "pretrain",
            min_lr=recipe.min_lr,
            layer_decay=(
                getattr(recipe, "layer_decay", 1.0)
                if self.spec.start != "pixels"
                else 1.0
            ),
        )

    def classify(
        self, features: Any, fed: ImageData | FeatureData, data: ImageData
    ) -> Metrics:
        """Train a classifier on the features and file what it confuses."""
        config, recipe = self.config, self.recipe
        model = Classifier(
            features, self.run.plan.num_classes, self.spec.kind in FROZEN, config.seed
        )
        regular = Regularisation(config.seed)
        if isinstance(recipe, FineTune):
            together = mixed_together(data.batch_size)
            regular = Regularisation(
                config.seed,
                recipe.smoothing,
                recipe.mixup,
                recipe.cutmix,
                recipe.ema,
                together,
            )
        make_optimizer = self.optimizer(data)
        self.say_rates(model, make_optimizer)
        module = Classify(model, make_optimizer, regular)
        metrics = self.fit(module, fed, [])
        self.file_classes(module)
        return metrics

    def file_classes(self, module: Classify) -> None:
        """classes.csv, and confusion.csv where there are not too many classes for a square of them."""
        names, (images, right) = list(self.run.plan.class_names), module.class_counts()
        counts = module.confusion_counts()  # all processes add theirs
        if not collectives.is_rank_zero():
            return
        table = pd.DataFrame({"class": names, "images": images.cpu().numpy()})
        # a class without validation images has no accuracy, and an empty cell
        table["accuracy"] = (
            100 * right.cpu().numpy() / table["images"].replace(0, float("nan"))
        ).round(2)
        table.to_csv(self.folder.path / "classes.csv", index=False)
        if counts is not None:
            confusion = pd.DataFrame(
                counts.cpu().numpy(), index=pd.Index(names, name="true"), columns=names
            )
            confusion.to_csv(self.folder.path / "confusion.csv")

    def say_rates(self, model: nn.Module, make_optimizer: Recipe) -> None:
        """Show and keep what is trained at which rate, before the first step."""
        found = part_rates(model, make_optimizer(model)[0])
        self.run.console.print(
            rates_table(f"{self.spec.title}: what is trained", found)
        )
        if collectives.is_rank_zero():
            write_json(self.folder.path / "rates.json", rows(found))
