"""The stages of a run, one after the other; a finished one comes from the ledger."""

import logging
import math
import time
import warnings
from functools import cached_property
from importlib.metadata import version
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from rich.console import Console

from unmask import checkpoints
from unmask.callbacks.journal import Journal
from unmask.callbacks.keeper import Keeper, Preempted, SafeIO, leaving_when_asked
from unmask.callbacks.pictures import Pictures
from unmask.callbacks.progress import StageProgress
from unmask.data.folders import Files
from unmask.data.module import FeatureData, Format, ImageData
from unmask.data.sampler import balanced_subset
from unmask.data.sources import InMemory
from unmask.heads import Classifier, Features, FineTuneFeatures, Given, Pool, RawPixels
from unmask.mae import num_parameters
from unmask.optim import Recipe
from unmask.randomness import make_key
from unmask.runs import build
from unmask.runs.checks import ConfigError
from unmask.runs.fingerprint import StageSpec
from unmask.runs.ledger import LedgerError, StageFolder
from unmask.runs.loggers import build_loggers, close_loggers
from unmask.runs.plan import Plan
from unmask.runs.schema import ClassifyRecipe
from unmask.runs.schema import Recipe as RecipeConfig
from unmask.tasks.classify import Classify
from unmask.tasks.features import LabelledFeatures, extract
from unmask.tasks.neighbours import knn_accuracy
from unmask.tasks.pretrain import Pretrain

Metrics = dict[str, float]
VERSIONS = ("torch", "lightning", "timm")


class Run:
    """What the stages of one run share: the plan, the images (read once, when first needed), the console."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.config, self.console = plan, plan.config, console
        self.extracted: dict[tuple[str, str, int | None], tuple[LabelledFeatures, LabelledFeatures]] = {}

    @cached_property
    def splits(self) -> tuple[InMemory | Files, InMemory | Files]:
        return build.load_splits(self.plan)

    @cached_property
    def form(self) -> Format:
        return build.build_format(self.config)

    def data(self, recipe: RecipeConfig | None, labels: int | None, augment: Any) -> ImageData:
        """Loaders of a stage; the batch is cut to the number of images where there are fewer."""
        train, val = self.splits
        ids = list(range(len(train)))
        if labels is not None and labels < len(train):
            ids = balanced_subset(train.labels_N, labels, make_key(self.config.seed, "labels"))
        batch_size = min(recipe.batch_size, len(ids)) if recipe else len(ids)
        if recipe and batch_size < recipe.batch_size:
            self.console.print(f"  batch of {batch_size}, not {recipe.batch_size}: there are no more training images")
        loading = build.build_loading(self.config)
        return ImageData(
            train,
            val,
            self.form,
            build.build_augment(augment, self.config.data.eval_crop),
            ids,
            batch_size,
            self.config.seed,
            loading,
        )


class StageWork:
    """One stage being worked on in its folder."""

    def __init__(self, run: Run, spec: StageSpec, folder: StageFolder) -> None:
        self.run, self.spec, self.folder, self.config = run, spec, folder, run.config
        self.recipe: ClassifyRecipe = getattr(run.config, spec.kind)
        self.seconds_before = 0.0  # of work that an interrupted call did and this one goes on from

    def pretrain(self) -> Metrics:
        config = self.config
        data = self.run.data(config.pretrain, None, config.augment)
        model, masking, target = build.build_mae(config), build.build_masking(config), build.build_target(config)
        module = Pretrain(model, masking, target, config.seed, self.optimizer(data))
        pictures = Pictures(self.folder.pictures, data.val_views, self.run.form, config.watch.pictures)
        return self.fit(module, data, [pictures])

    def knn(self) -> Metrics:
        knn = self.config.knn
        data = self.run.data(None, knn.labels, self.config.finetune.augment)
        bank, queries = self.extract(knn.pool, knn.labels, data)
        return {"val/accuracy": knn_accuracy(bank, queries, knn.k, knn.temperature)}

    def linear_probe(self) -> Metrics:
        """Without augmentation the frozen features never change: they are computed once."""
        recipe = self.recipe
        data = self.run.data(recipe, recipe.labels, recipe.augment)
        if recipe.augment.crop == "none" and not recipe.augment.flip:
            bank, queries = self.extract(recipe.pool, recipe.labels, data)
            fixed = FeatureData(bank, queries, data.batch_size, self.config.seed)
            model = self.classifier(Given(bank.features_ND.shape[1]), probe=True)
            return self.fit(Classify(model, self.optimizer(data)), fixed, [])
        features = self.features(recipe.pool).eval().requires_grad_(False)
        features.at_once = self.config.trainer.micro_batch
        model = self.classifier(features, probe=True)
        return self.fit(Classify(model, self.optimizer(data)), data, [])

    def extract(self, pool: Pool, labels: int | None, data: ImageData) -> tuple[LabelledFeatures, LabelledFeatures]:
        """Features of both splits, computed once for all stages of a run that use them."""
        wanted = (self.spec.start, pool, labels)
        if wanted not in self.run.extracted:
            self.run.extracted[wanted] = extract(self.quiet_trainer(), self.features(pool), data)
        return self.run.extracted[wanted]

    def finetune(self) -> Metrics:
        recipe = self.recipe
        data = self.run.data(recipe, recipe.labels, recipe.augment)
        if self.spec.start == "pixels":
            features: Any = self.features(recipe.pool)
        else:
            features = FineTuneFeatures(self.encoder(), recipe.pool)
        return self.fit(Classify(self.classifier(features, probe=False), self.optimizer(data)), data, [])

    scratch = finetune

    def encoder(self) -> Any:
        """The parent's encoder, or the random one of this seed."""
        if self.spec.parent is None:
            return build.build_encoder(self.config, self.config.seed)
        folder = StageFolder(self.config.runs_dir, self.spec.parent)
        path = checkpoints.newest(folder.checkpoints)
        if path is None:
            raise LedgerError(f"{folder.path} is finished but has no whole checkpoint; remove that folder to redo it")
        result, content = folder.result(), checkpoints.load(path)
        if result is None or content["global_step"] != result["metrics"]["steps"]:
            raise LedgerError(
                f"the final checkpoint of {folder.path} is missing or damaged, {path.name} is an earlier one; remove "
                f"{folder.path}/result.json and the same command makes the last steps again"
            )
        encoder = build.build_encoder(self.config)
        encoder.load_state_dict(checkpoints.weights(path, "model.encoder."))
        return encoder

    def features(self, pool: Any) -> Any:
        if self.spec.start == "pixels":
            height, width = self.config.data.image_size
            return RawPixels(self.config.data.channels * height * width)
        return Features(self.encoder(), pool)

    def classifier(self, features: Any, probe: bool) -> Classifier:
        return Classifier(features, self.run.plan.num_classes, probe, self.config.seed)

    def optimizer(self, data: ImageData) -> Recipe:
        recipe, per_epoch = self.recipe, len(data.ids) // data.batch_size
        assert recipe.warmup_epochs is not None
        return Recipe(
            recipe.optimizer, recipe.base_lr, data.batch_size, recipe.weight_decay, recipe.betas,
            round(recipe.warmup_epochs * per_epoch), recipe.epochs * per_epoch,
            decay_tokens=self.spec.kind == "pretrain",
        )  # fmt: skip

    def fit(self, module: Pretrain | Classify, data: ImageData | FeatureData, callbacks: list[L.Callback]) -> Metrics:
        """Train to the end from wherever the folder's newest checkpoint stands; metrics of the final weights."""
        plan = module.make_optimizer
        assert isinstance(plan, Recipe)
        per_epoch = plan.total_steps // self.recipe.epochs
        about = {
            "stage": self.spec.kind, "fingerprint": self.spec.fingerprint, "config": self.config.plain(),
            "accumulate": self.accumulate(plan.batch_size),
        }  # fmt: skip
        cadence = self.config.checkpoint
        journal = Journal(self.folder.path, plan.batch_size, per_epoch)
        callbacks = [
            journal,
            Keeper(self.folder.checkpoints, cadence.every_minutes, cadence.every_steps, about),
            StageProgress(self.spec.title, plan.batch_size, per_epoch, self.run.console),
            *callbacks,
        ]
        trainer = self.trainer(callbacks, plan)
        newest = checkpoints.newest(self.folder.checkpoints)
        trainer.fit(module, datamodule=data, ckpt_path=newest, weights_only=True)
        self.seconds_before = journal.earlier
        trainer.validate(module, datamodule=data, verbose=False)
        measured = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
        if not all(math.isfinite(value) for value in measured.values()):
            raise FloatingPointError(
                f"{self.spec.title} ended with {measured}; lower base_lr or lengthen warmup_epochs"
            )
        facts = {"parameters": num_parameters(module.model), "steps": plan.total_steps, "batch_size": plan.batch_size}
        return {**measured, **facts}

    def accumulate(self, batch_size: int) -> int:
        """Micro-batches a step: as few as fit trainer.micro_batch and divide the batch.

        A probe has one: its BatchNorm must see the whole batch, and only its frozen encoder is costly.
        """
        if self.spec.kind == "linear_probe":
            return 1
        fewest = -(-batch_size // min(self.config.trainer.micro_batch or batch_size, batch_size))
        return next(parts for parts in range(fewest, batch_size + 1) if batch_size % parts == 0)

    def trainer(self, callbacks: list[L.Callback], plan: Recipe) -> L.Trainer:
        config = self.config.trainer
        return L.Trainer(
            accelerator=config.accelerator, devices=1, precision=config.precision,
            max_steps=plan.total_steps, max_epochs=-1,
            accumulate_grad_batches=self.accumulate(plan.batch_size),
            check_val_every_n_epoch=-(-self.recipe.epochs // self.config.watch.times),
            callbacks=callbacks, logger=build_loggers(self.config, self.spec, self.folder.path),
            plugins=[SafeIO(self.config.checkpoint.keep), LightningEnvironment()], use_distributed_sampler=False,
            default_root_dir=self.folder.path, log_every_n_steps=1, **QUIET,
        )  # fmt: skip

    def quiet_trainer(self) -> L.Trainer:
        config = self.config.trainer
        return L.Trainer(accelerator=config.accelerator, devices=1, precision=config.precision, logger=False, **QUIET)


QUIET: dict[str, Any] = {
    "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}  # fmt: skip


def execute(plan: Plan, console: Console) -> list[dict[str, Any]]:
    """Results of all stages in order. Raises what a stage raised, after noting it there.

    Asked to leave (SIGTERM, SIGINT, SIGUSR1) it raises Preempted, within a fit after saving.
    """
    hush()
    if plan.config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator = gpu: torch finds no GPU here; use trainer=auto or trainer=cpu")
    run = Run(plan, console)
    with leaving_when_asked():
        return [_stage(run, spec) for spec in plan.stages]


def hush() -> None:
    """Lightning's notices about hardware, adverts and loaders that are as they should be here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for message in (
        ".*many workers.*",
        ".*dataloader is not resumable.*",
        ".*LeafSpec.*",
        ".*custom batch sampler.*",
        ".*in eval mode at the start.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _stage(run: Run, spec: StageSpec) -> dict[str, Any]:
    folder = StageFolder(run.config.runs_dir, spec)
    if result := folder.result():
        run.console.print(f"{spec.title}: from the ledger, {folder.path}")
        return result
    folder.open()
    with folder.owned(run.config.wait, run.console.print):
        if result := folder.result():  # another process finished it while we waited
            return result
        folder.keep_config(run.config.plain())
        run.console.print(f"{spec.title}: {folder.path}")
        start = time.monotonic()
        work = StageWork(run, spec, folder)
        try:
            metrics = getattr(work, spec.kind)()
        except SystemExit:  # ours, or one of Lightning's, which leaves with 0 when asked to
            run.console.print(f"{spec.title}: stopped, {folder.path}; the same command goes on from there")
            raise Preempted from None
        except (Exception, KeyboardInterrupt) as error:
            folder.fail(error)
            advise(error, run.config.trainer.micro_batch, folder)
            raise
        finally:
            close_loggers(run.config)
        seconds = round(work.seconds_before + time.monotonic() - start, 1)
        facts = {"seconds": seconds, "versions": {name: version(name) for name in VERSIONS}}
        images = len(run.splits[1])
        return folder.finish(metrics, {**facts, "threads": torch.get_num_threads(), "images": images})


def advise(error: BaseException, micro_batch: int | None, folder: StageFolder) -> None:
    """Notes on the error for whoever reads it: the remedy where it is known, and where the whole of it stands."""
    # the CPU's allocator raises a plain RuntimeError: only its text says what happened
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        now = "the whole batch" if micro_batch is None else micro_batch
        error.add_note(
            f"the device's memory is full: set a smaller trainer.micro_batch (now {now}); results stay equal"
        )
    error.add_note(f"traceback: {folder.path}/error.txt")
