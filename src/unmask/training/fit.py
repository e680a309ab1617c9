"""The fit of one stage: Lightning's Trainer with this project's callbacks."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.plugins.environments import LightningEnvironment
from rich.console import Console

from unmask.callbacks.bad_images import BadImageReporter
from unmask.callbacks.checkpoint_writer import CheckpointWriter
from unmask.callbacks.checkpointing import Cadence, Checkpointing
from unmask.callbacks.dashboards import Dashboards
from unmask.callbacks.metrics import MetricsLogger
from unmask.callbacks.nonfinite import NonfiniteGuard, SpikeDetector, SpikeRule
from unmask.callbacks.pause import requested_pause
from unmask.callbacks.progress import StageProgress
from unmask.callbacks.tracer import Tracer
from unmask.callbacks.watchdog import Watchdog
from unmask.config.stage_kinds import ENCODER_STAGES
from unmask.data.loading.bad_images import BadImages
from unmask.data.loading.module import FeatureData, ImageData
from unmask.distributed import collectives
from unmask.mae import num_parameters
from unmask.optim import OptimizerRecipe
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder
from unmask.stages.plan import Plan
from unmask.storage import checkpoints
from unmask.tasks.recompute import TrainingTask
from unmask.training.dashboards import choose_dashboards
from unmask.training.fsdp import build_strategy
from unmask.training.micro_batches import num_micro_batches

Metrics = dict[str, float]
# progress, summary and checkpoints are callbacks of this project
QUIET_TRAINER: dict[str, Any] = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}


class Fitter:
    """Train one stage, from the newest checkpoint in its folder if there is one."""

    def __init__(
        self, plan: Plan, spec: StageSpec, folder: StageFolder, console: Console
    ) -> None:
        self.config = plan.config
        self.class_names = plan.class_names
        self.spec = spec
        self.folder = folder
        self.console = console
        self.recipe: Any = getattr(plan.config, spec.kind, None)
        self.bad_images = BadImages(
            folder.path,
            plan.config.data.bad_limit,
            lambda line: console.print(line, soft_wrap=True, markup=False),
        )
        # seconds of training before the checkpoint that this fit goes on from
        self.earlier_seconds = 0.0

    def __call__(
        self,
        module: TrainingTask,
        data: ImageData | FeatureData,
        callbacks: list[L.Callback],
    ) -> Metrics:
        """Train to the end and return the metrics of the final weights.

        Goes on from the newest checkpoint where there is one. callbacks: the stage's
        own, which run after the common ones. Raises FloatingPointError where a metric
        of the final weights is not finite.
        """
        make_optimizer = module.make_optimizer
        assert isinstance(make_optimizer, OptimizerRecipe)
        writer = CheckpointWriter(self.config.checkpoint.keep)
        spikes = self._spike_detector()
        dashboards = choose_dashboards(self.config, self.spec, self.folder.path)
        logger = self._metrics_logger(make_optimizer, dashboards, spikes)
        common = self._common_callbacks(make_optimizer, writer, logger, spikes)
        trainer = self._trainer([*common, *callbacks], make_optimizer, writer)
        newest = collectives.on_rank_zero(
            lambda: checkpoints.newest(self.folder.checkpoints)
        )
        with dashboards:
            trainer.fit(module, datamodule=data, ckpt_path=newest, weights_only=True)
            self.earlier_seconds = logger.earlier_seconds
            trainer.validate(module, datamodule=data, verbose=False)
        return {
            **self._validation_metrics(trainer),
            "parameters": num_parameters(module.model),
            "steps": self._num_steps(make_optimizer),
            "batch_size": make_optimizer.batch_size,
            **_skipped_steps(spikes),
        }

    def num_micro_batches(self, batch_size: int) -> int:
        """Return how many micro-batches the stage's batch is cut into."""
        return num_micro_batches(self.config, self.spec.kind, batch_size)

    def evaluation_trainer(self) -> L.Trainer:
        """Return a trainer that runs frozen models over images, and trains nothing."""
        plugins: list[Any] = [LightningEnvironment()]
        return L.Trainer(
            **self._devices(is_sharded=False),
            precision=self.config.trainer.precision,
            logger=False,
            plugins=plugins,
            callbacks=[BadImageReporter(self.bad_images)],
            **QUIET_TRAINER,
        )

    def _trainer(
        self,
        callbacks: list[L.Callback],
        make_optimizer: OptimizerRecipe,
        writer: CheckpointWriter,
    ) -> L.Trainer:
        # rounded up
        epochs_between = -(-self.recipe.epochs // self.config.watch.times)
        is_sharded = self._is_sharded()
        return L.Trainer(
            **self._devices(is_sharded),
            precision=self.config.trainer.precision,
            # stop_after cuts the training short in steps, not in epochs
            max_steps=self._num_steps(make_optimizer),
            max_epochs=-1,
            accumulate_grad_batches=self.num_micro_batches(make_optimizer.batch_size),
            check_val_every_n_epoch=epochs_between,
            callbacks=callbacks,
            logger=False,
            # ranks are known already: Lightning is not to ask SLURM for them
            plugins=[writer, LightningEnvironment()],
            default_root_dir=self.folder.path,
            log_every_n_steps=1,
            # FSDP gathers weights during validation, which inference mode forbids
            inference_mode=not is_sharded,
            **QUIET_TRAINER,
        )

    def _devices(self, is_sharded: bool) -> dict[str, Any]:
        """Return Trainer's options on devices: one, or one for each rank."""
        config = self.config.trainer
        options = {
            "accelerator": config.accelerator,
            # our samplers share the images out among the ranks
            "use_distributed_sampler": False,
        }
        if collectives.world_size() == 1:
            return options | {"devices": 1}
        return options | {
            "devices": collectives.world_size() // config.nodes,
            "num_nodes": config.nodes,
            "strategy": build_strategy(is_sharded),
        }

    def _is_sharded(self) -> bool:
        """Whether each rank holds a share of the model instead of a copy.

        Only where the encoder trains: of a frozen one there are no gradients and
        moments, which take most of the memory.
        """
        return (
            self.config.trainer.sharded
            and self.spec.kind in ENCODER_STAGES
            and collectives.world_size() > 1
        )

    def _common_callbacks(
        self,
        make_optimizer: OptimizerRecipe,
        writer: CheckpointWriter,
        logger: MetricsLogger,
        spikes: SpikeDetector | None,
    ) -> list[L.Callback]:
        """Return the callbacks of every stage, in the order in which they must run."""
        folder = self.folder.path
        facts = self._checkpoint_facts(make_optimizer.batch_size)
        settings = self.config.checkpoint
        return [
            Watchdog(folder, self.config.trainer.timeout_minutes),
            # before anything is written: a non-finite step leaves no trace elsewhere
            NonfiniteGuard(folder, facts, spikes),
            BadImageReporter(self.bad_images),
            logger,
            *([Tracer(folder)] if self.config.watch.trace else []),
            *requested_pause(folder, writer),
            # after the logger: a checkpoint holds its state at the same step
            Checkpointing(
                self.folder.checkpoints,
                writer,
                Cadence(settings.every_minutes, settings.every_steps, settings.best),
                facts,
                lambda: self.bad_images.limit_error,
            ),
            StageProgress(
                self.spec.title,
                make_optimizer.batch_size,
                self._steps_per_epoch(make_optimizer),
                self.console,
            ),
        ]

    def _checkpoint_facts(self, batch_size: int) -> dict[str, Any]:
        """Return what a checkpoint says of itself, to be resumed or read alone."""
        facts: dict[str, Any] = {
            "stage": self.spec.kind,
            "fingerprint": self.spec.fingerprint,
            "config": self.config.to_dict(),
            "accumulate": self.num_micro_batches(batch_size),
        }
        if self.spec.kind != "pretrain":
            # src/predict.py names the classes without the images at hand
            facts["classes"] = list(self.class_names)
        return facts

    def _metrics_logger(
        self,
        make_optimizer: OptimizerRecipe,
        dashboards: Dashboards,
        spikes: SpikeDetector | None,
    ) -> MetricsLogger:
        return MetricsLogger(
            self.folder.path,
            make_optimizer.batch_size,
            self._steps_per_epoch(make_optimizer),
            dashboards,
            lambda step: _skipped_steps(spikes) | self._bad_image_count(step),
        )

    def _spike_detector(self) -> SpikeDetector | None:
        rule = self.config.spikes
        if not rule.factor:
            return None
        return SpikeDetector(SpikeRule(rule.factor, rule.window, rule.limit))

    def _bad_image_count(self, step: int) -> Metrics:
        """Count the training images that could not be read by that step, if any."""
        count = self.bad_images.count("training", step)
        return {"bad_images": count} if count else {}

    def _steps_per_epoch(self, make_optimizer: OptimizerRecipe) -> int:
        return make_optimizer.total_steps // self.recipe.epochs

    def _num_steps(self, make_optimizer: OptimizerRecipe) -> int:
        """Return how many steps are made: stop_after leaves the schedule unchanged."""
        total = make_optimizer.total_steps
        return min(total, self.config.stop_after or total)

    def _validation_metrics(self, trainer: L.Trainer) -> Metrics:
        metrics = {
            key: float(value)
            for key, value in trainer.callback_metrics.items()
            if key.startswith("val/")
        }
        if not all(math.isfinite(value) for value in metrics.values()):
            raise FloatingPointError(
                f"{self.spec.title} ended with {metrics}; lower base_lr or lengthen"
                " warmup_epochs"
            )
        return metrics


def _skipped_steps(spikes: SpikeDetector | None) -> Metrics:
    """Count the steps left out for a spike of the loss, where that is asked for."""
    return {"skipped_steps": spikes.skipped} if spikes else {}
