"""One stage's training, from wherever its folder stands to the end, and the metrics of the final weights."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.plugins.environments import LightningEnvironment
from rich.console import Console

from unmask.callbacks.bad_images import BadImageReporter
from unmask.callbacks.checkpoint_writer import CheckpointWriter
from unmask.callbacks.checkpointing import Cadence, Checkpointing
from unmask.callbacks.dashboards import Dashboard, Dashboards, TensorBoard
from unmask.callbacks.metrics import MetricsLogger
from unmask.callbacks.nonfinite import NonfiniteGuard, SpikeDetector, SpikeRule
from unmask.callbacks.progress import StageProgress
from unmask.callbacks.tracer import Tracer, pause_requested
from unmask.callbacks.wandb_run import GRACE, START, RunCard, WandbRun
from unmask.callbacks.watchdog import Watchdog
from unmask.config.recipes import kept_together, repeats_of
from unmask.config.schema import ENCODING, FROZEN, Config
from unmask.data.loading.bad_images import BadImages
from unmask.data.loading.module import FeatureData, ImageData
from unmask.distributed import collectives
from unmask.mae import num_parameters
from unmask.optim import Recipe
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder
from unmask.stages.plan import Plan
from unmask.storage import checkpoints
from unmask.tasks.recompute import Trained
from unmask.training.fsdp import strategy

FLUSH = 30.0  # seconds that a disk may take for TensorBoard's last events


def open_dashboards(config: Config, spec: StageSpec, folder: Path) -> Dashboards:
    """Those that are chosen. Of several processes the one that writes the journal opens them."""
    chosen: list[tuple[Dashboard, float]] = []
    if wandb := config.logger.wandb:
        group = spec.parent.fingerprint if spec.parent else spec.fingerprint
        card = RunCard(spec.kind, spec.fingerprint, group, config.plain())
        run = WandbRun(
            card,
            folder,
            wandb.project,
            wandb.entity,
            wandb.mode == "online",
            wandb.finish_seconds,
        )
        chosen.append((run, START + wandb.finish_seconds + GRACE))
    if config.logger.tensorboard:
        chosen.append((TensorBoard(folder / config.logger.tensorboard.name), FLUSH))
    return Dashboards(chosen)


Metrics = dict[str, float]
QUIET: dict[str, Any] = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}


class Fitting:
    """Lightning's Trainer with this project's callbacks, for one stage."""

    def __init__(
        self, plan: Plan, spec: StageSpec, folder: StageFolder, console: Console
    ) -> None:
        self.config, self.class_names = plan.config, plan.class_names
        self.spec, self.folder, self.console = spec, folder, console
        self.recipe: Any = getattr(plan.config, spec.kind, None)
        self.bad = BadImages(
            folder.path,
            plan.config.data.bad_limit,
            lambda line: console.print(line, soft_wrap=True, markup=False),
        )
        # of work that an interrupted call did and this one goes on from
        self.seconds_before = 0.0

    def __call__(
        self,
        module: Trained,
        data: ImageData | FeatureData,
        callbacks: list[L.Callback],
    ) -> Metrics:
        """Train to the end from wherever the folder's newest checkpoint stands; metrics of the final weights."""
        plan = module.make_optimizer
        assert isinstance(plan, Recipe)
        per_epoch = plan.total_steps // self.recipe.epochs
        about = {
            "stage": self.spec.kind,
            "fingerprint": self.spec.fingerprint,
            "config": self.config.plain(),
            "accumulate": self.accumulate(plan.batch_size),
        }
        if self.spec.kind != "pretrain":
            # for whoever has the checkpoint and not the images
            about["classes"] = list(self.class_names)
        io, spikes, rule = (
            CheckpointWriter(self.config.checkpoint.keep),
            self.spikes(),
            self.config.checkpoint,
        )
        cadence = Cadence(rule.every_minutes, rule.every_steps, rule.best)
        skipped: Callable[[], Metrics] = (
            (lambda: {"skipped_steps": spikes.skipped}) if spikes else dict
        )
        shown = open_dashboards(self.config, self.spec, self.folder.path)
        journal = MetricsLogger(
            self.folder.path,
            plan.batch_size,
            per_epoch,
            shown,
            lambda step: skipped() | self.listed(step),
        )
        callbacks = [
            Watchdog(self.folder.path, self.config.trainer.timeout_minutes),
            NonfiniteGuard(self.folder.path, about, spikes),
            BadImageReporter(self.bad),
            journal,
            *([Tracer(self.folder.path)] if self.config.watch.trace else []),
            *pause_requested(self.folder.path, io),
            Checkpointing(
                self.folder.checkpoints, io, cadence, about, lambda: self.bad.fault
            ),
            StageProgress(self.spec.title, plan.batch_size, per_epoch, self.console),
            *callbacks,
        ]
        trainer = self.trainer(callbacks, plan, io)
        newest = collectives.on_rank_zero(
            lambda: checkpoints.newest(self.folder.checkpoints)
        )
        with shown:
            trainer.fit(module, datamodule=data, ckpt_path=newest, weights_only=True)
            self.seconds_before = journal.earlier
            trainer.validate(module, datamodule=data, verbose=False)
        measured = {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            if key.startswith("val/")
        }
        if not all(math.isfinite(value) for value in measured.values()):
            raise FloatingPointError(
                f"{self.spec.title} ended with {measured}; lower base_lr or lengthen"
                " warmup_epochs"
            )
        facts = {
            "parameters": num_parameters(module.model),
            "steps": self.steps(plan),
            "batch_size": plan.batch_size,
        }
        return {**measured, **facts, **skipped()}

    def listed(self, step: int) -> Metrics:
        """How many images could not be read by that step, where there are any."""
        bad = self.bad.count("training", step)
        return {"bad_images": bad} if bad else {}

    def spikes(self) -> SpikeDetector | None:
        rule = self.config.spikes
        return (
            SpikeDetector(SpikeRule(rule.factor, rule.window, rule.limit))
            if rule.factor
            else None
        )

    def steps(self, plan: Recipe) -> int:
        """How many are made; the schedule is that of all of them."""
        return min(plan.total_steps, self.config.stop_after or plan.total_steps)

    def accumulate(self, batch_size: int) -> int:
        """Micro-batches a step: as few as fit trainer.micro_batch and divide the batch.

        A probe has one: its BatchNorm must see the whole batch, and only its frozen encoder is costly. So has the small
        dVAE: how evenly codes are used is counted over the batch.
        Images that are mixed with each other stay together. Several processes share each micro-batch.
        """
        if self.spec.kind in (*FROZEN, "tokenizer"):
            return 1
        unit = kept_together(
            self.recipe, batch_size, repeats_of(self.config, self.spec.kind)
        )
        at_once = min(
            (self.config.trainer.micro_batch or batch_size) * collectives.world_size(),
            batch_size,
        )
        shared = unit * collectives.world_size()
        fewest = -(-batch_size // at_once)
        possible = [
            parts
            for parts in range(fewest, batch_size + 1)
            if batch_size % (parts * shared) == 0
        ]
        if not possible:
            raise ValueError(
                f"{self.spec.kind}: a batch of {batch_size} does not split evenly on"
                f" {collectives.world_size()} processes"
                + (
                    f", in parts of {unit} images that are mixed with each other or"
                    " views of one"
                    if unit > 1
                    else ""
                )
            )
        return next(
            (
                parts
                for parts in possible
                if parts >= fewest * self.config.trainer.split
            ),
            possible[-1],
        )

    @property
    def sharded(self) -> bool:
        """Whether each process holds a share of the model: of a frozen encoder there are no gradients and moments."""
        return (
            self.config.trainer.sharded
            and self.spec.kind in ENCODING
            and collectives.world_size() > 1
        )

    def trainer(
        self, callbacks: list[L.Callback], plan: Recipe, io: CheckpointWriter
    ) -> L.Trainer:
        config = self.config.trainer
        return L.Trainer(
            **self.where(self.sharded),
            precision=config.precision,
            max_steps=self.steps(plan),
            max_epochs=-1,
            accumulate_grad_batches=self.accumulate(plan.batch_size),
            check_val_every_n_epoch=-(-self.recipe.epochs // self.config.watch.times),
            callbacks=callbacks,
            logger=False,
            plugins=[io, LightningEnvironment()],
            default_root_dir=self.folder.path,
            log_every_n_steps=1,
            inference_mode=not self.sharded,
            **QUIET,
        )

    def quiet_trainer(self) -> L.Trainer:
        plugins: list[Any] = [LightningEnvironment()]
        return L.Trainer(
            **self.where(sharded=False),
            precision=self.config.trainer.precision,
            logger=False,
            plugins=plugins,
            callbacks=[BadImageReporter(self.bad)],
            **QUIET,
        )

    def where(self, sharded: bool) -> dict[str, Any]:
        """One device, or those of all processes that have joined; the loaders share the samples out themselves."""
        config = self.config.trainer
        found = {"accelerator": config.accelerator, "use_distributed_sampler": False}
        if collectives.world_size() == 1:
            return found | {"devices": 1}
        each = collectives.world_size() // config.nodes
        return found | {
            "devices": each,
            "num_nodes": config.nodes,
            "strategy": strategy(sharded),
        }
