"""The fit of one stage: Lightning's Trainer with this project's callbacks."""

import math
from dataclasses import asdict
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import nn

from unmask.blocks import compile_blocks
from unmask.callbacks.bad_images import BadImageReporter
from unmask.callbacks.checkpoint_writer import CheckpointWriter
from unmask.callbacks.checkpointing import Cadence, Checkpointing
from unmask.callbacks.head_gradient import HeadGradient
from unmask.callbacks.heartbeat import Heartbeat
from unmask.callbacks.metrics import MetricsLogger
from unmask.callbacks.nonfinite import NonfiniteGuard, SpikeDetector, SpikeRule
from unmask.callbacks.pause import requested_pause
from unmask.callbacks.pictures import Pictures
from unmask.callbacks.probe import Accuracy, FeatureProbe
from unmask.callbacks.progress import PeakSpeed, StageProgress
from unmask.callbacks.tracer import Tracer
from unmask.callbacks.watchdog import Watchdog
from unmask.config.trainer import Trainer
from unmask.data.loading.module import FeatureData, ImageData
from unmask.data.loading.views import Views
from unmask.distributed import collectives
from unmask.mae import num_parameters
from unmask.optim import OptimizerRecipe
from unmask.storage import checkpoints
from unmask.storage.atomic import write_json
from unmask.tasks.classify import Classify
from unmask.tasks.knn import knn_accuracy
from unmask.tasks.pretrain import Pretrain
from unmask.tasks.recompute import TrainingTask
from unmask.tasks.ridge import ridge_accuracy
from unmask.training.class_tables import write_class_tables
from unmask.training.fsdp import build_strategy, is_sharded
from unmask.training.learning_rates import part_rates, rates_table
from unmask.training.micro_batches import num_micro_batches
from unmask.training.run import Stage

Metrics = dict[str, float]
# progress, summary and checkpoints are callbacks of this project
QUIET_TRAINER: dict[str, Any] = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "num_sanity_val_steps": 0,
}


def fit(
    stage: Stage,
    module: TrainingTask,
    data: ImageData | FeatureData,
    peak_speed: PeakSpeed | None = None,
) -> Metrics:
    """Train to the end and return the metrics of the final weights.

    peak_speed: of the devices, where that is known.
    Goes on from the newest checkpoint in the stage's folder, where there is one. Raises
    FloatingPointError where a metric of the final weights is not finite.
    """
    make_optimizer = module.make_optimizer
    assert isinstance(make_optimizer, OptimizerRecipe)
    if isinstance(module, Classify):
        _report_rates(stage, module.model, make_optimizer)
    if stage.config.trainer.compile:
        compile_blocks(module.model)
    writer = CheckpointWriter(stage.config.checkpoint.keep)
    spikes = _spike_detector(stage)
    logger = MetricsLogger(
        stage.folder.path,
        make_optimizer.batch_size,
        _steps_per_epoch(stage, make_optimizer),
        stage.dashboards,
        lambda step: _skipped_steps(spikes) | _bad_image_count(stage, step),
        peak_speed,
    )
    callbacks = _callbacks(stage, make_optimizer, writer, logger, spikes)
    head_gradient = None
    if stage.spec.kind == "linear_probe" and isinstance(module, Classify):
        per_epoch = _steps_per_epoch(stage, make_optimizer)
        head_gradient = HeadGradient(module.model.head, per_epoch)
        # before Checkpointing, so that a checkpoint holds its sums at the same step
        callbacks = [head_gradient, *callbacks]
    if isinstance(module, Pretrain) and isinstance(data, ImageData):
        callbacks += _pictures(stage, module, data) + _probe(stage, data)
    trainer = _trainer(stage, callbacks, make_optimizer, writer)
    newest = collectives.on_rank_zero(
        lambda: checkpoints.newest(stage.folder.checkpoints, to_go_on=True)
    )
    trainer.fit(module, datamodule=data, ckpt_path=newest, weights_only=True)
    stage.earlier_seconds = logger.earlier_seconds
    trainer.validate(module, datamodule=data, verbose=False)
    metrics = {
        **_validation_metrics(stage, trainer),
        "parameters": num_parameters(module.model),
        "steps": _num_steps(stage, make_optimizer),
        "batch_size": make_optimizer.batch_size,
        **_skipped_steps(spikes),
        **(head_gradient.metrics() if head_gradient else {}),
    }
    if isinstance(module, Classify):
        write_class_tables(
            stage.folder.path, stage.run.plan.class_names, module.predictions()
        )
    return metrics


def evaluation_trainer(stage: Stage) -> L.Trainer:
    """Return a trainer that runs frozen models over images, and trains nothing."""
    plugins: list[Any] = [LightningEnvironment()]
    return L.Trainer(
        **_devices(stage.config.trainer, sharded=False),
        precision=stage.config.precision,
        logger=False,
        plugins=plugins,
        callbacks=[BadImageReporter(stage.bad_images)],
        **QUIET_TRAINER,
    )


def _trainer(
    stage: Stage,
    callbacks: list[L.Callback],
    make_optimizer: OptimizerRecipe,
    writer: CheckpointWriter,
) -> L.Trainer:
    config = stage.config
    # rounded up
    epochs_between = -(-stage.recipe.epochs // config.watch.times)
    sharded = is_sharded(config, stage.spec.kind)
    return L.Trainer(
        **_devices(config.trainer, sharded),
        precision=config.precision,
        # stop_after cuts the training short in steps, not in epochs
        max_steps=_num_steps(stage, make_optimizer),
        max_epochs=-1,
        accumulate_grad_batches=num_micro_batches(
            config, stage.spec.kind, make_optimizer.batch_size
        ),
        check_val_every_n_epoch=epochs_between,
        callbacks=callbacks,
        logger=False,
        # ranks are known already: Lightning is not to ask SLURM for them
        plugins=[writer, LightningEnvironment()],
        default_root_dir=stage.folder.path,
        log_every_n_steps=1,
        # FSDP gathers weights during validation, which inference mode forbids
        inference_mode=not sharded,
        **QUIET_TRAINER,
    )


def _devices(trainer: Trainer, sharded: bool) -> dict[str, Any]:
    """Return Lightning's options on devices: one, or one for each rank."""
    options = {
        "accelerator": trainer.accelerator,
        # our samplers share the images out among the ranks
        "use_distributed_sampler": False,
    }
    if collectives.world_size() == 1:
        return options | {"devices": 1}
    return options | {
        "devices": collectives.world_size() // trainer.nodes,
        "num_nodes": trainer.nodes,
        "strategy": build_strategy(sharded),
    }


def _callbacks(
    stage: Stage,
    make_optimizer: OptimizerRecipe,
    writer: CheckpointWriter,
    logger: MetricsLogger,
    spikes: SpikeDetector | None,
) -> list[L.Callback]:
    """Return the callbacks of every stage, in the order in which they must run."""
    config = stage.config
    folder = stage.folder.path
    facts = _checkpoint_facts(stage, make_optimizer.batch_size)
    settings = config.checkpoint
    return [
        Watchdog(folder, config.trainer.timeout_minutes),
        # before anything is written: a non-finite step leaves no trace elsewhere
        NonfiniteGuard(folder, facts, spikes, logger.add_gradient_norm),
        BadImageReporter(stage.bad_images),
        logger,
        *([Tracer(folder)] if config.watch.trace else []),
        *requested_pause(folder, writer),
        # after the logger: a checkpoint holds its state at the same step
        Checkpointing(
            stage.folder.checkpoints,
            writer,
            Cadence(settings.every_minutes, settings.every_steps, settings.best),
            facts,
            lambda: stage.bad_images.limit_error,
        ),
        Heartbeat(folder),
        StageProgress(
            stage.spec.title,
            make_optimizer.batch_size,
            _steps_per_epoch(stage, make_optimizer),
            stage.console,
            lambda: logger.step_loss,
            logger.peak_speed,
        ),
    ]


def _pictures(stage: Stage, module: Pretrain, data: ImageData) -> list[L.Callback]:
    # predictions of HOG or tokens cannot be drawn
    if module.target.to_pixels is None:
        return []
    return [
        Pictures(
            stage.folder.pictures,
            data.val_views,
            data.image_format,
            stage.config.watch.pictures,
        )
    ]


def _probe(stage: Stage, data: ImageData) -> list[L.Callback]:
    watch, knn = stage.config.watch, stage.config.knn
    if watch.probe is None:
        return []
    accuracy: Accuracy = ridge_accuracy
    if watch.probe == "knn":
        accuracy = partial(knn_accuracy, k=knn.k, temperature=knn.temperature)
    bank = Views(data.train_views.split, data.image_format, None, data.seed)
    return [
        FeatureProbe(
            watch.probe,
            accuracy,
            bank,
            data.val_views,
            watch.probe_images,
            data.image_format,
            knn.pool,
        )
    ]


def _checkpoint_facts(stage: Stage, batch_size: int) -> dict[str, Any]:
    """Return what a checkpoint says of itself, to be resumed or read alone."""
    kind = stage.spec.kind
    facts: dict[str, Any] = {
        "stage": kind,
        "fingerprint": stage.spec.fingerprint,
        "config": stage.config.to_dict(),
        "accumulate": num_micro_batches(stage.config, kind, batch_size),
    }
    if kind != "pretrain":
        # src/predict.py names the classes without the images at hand
        facts["classes"] = list(stage.run.plan.class_names)
    return facts


def _report_rates(
    stage: Stage, model: nn.Module, make_optimizer: OptimizerRecipe
) -> None:
    """Print and write what is trained at which rate, before the first step."""
    optimizer, _ = make_optimizer(model)
    rates = part_rates(model, optimizer)
    stage.console.print(rates_table(f"{stage.spec.title}: what is trained", rates))
    if collectives.is_rank_zero():
        rows = [asdict(rate) for rate in rates]
        write_json(stage.folder.path / "rates.json", rows)


def _spike_detector(stage: Stage) -> SpikeDetector | None:
    rule = stage.config.spikes
    if not rule.factor:
        return None
    return SpikeDetector(SpikeRule(rule.factor, rule.window, rule.limit))


def _skipped_steps(spikes: SpikeDetector | None) -> Metrics:
    """Count the steps left out for a spike of the loss, where that is asked for."""
    return {"skipped_steps": spikes.skipped} if spikes else {}


def _bad_image_count(stage: Stage, step: int) -> Metrics:
    """Count the training images that could not be read by that step, if any."""
    count = stage.bad_images.count("training", step)
    return {"bad_images": count} if count else {}


def _steps_per_epoch(stage: Stage, make_optimizer: OptimizerRecipe) -> int:
    return make_optimizer.total_steps // stage.recipe.epochs


def _num_steps(stage: Stage, make_optimizer: OptimizerRecipe) -> int:
    """Return how many steps are made: stop_after leaves the schedule unchanged."""
    total = make_optimizer.total_steps
    return min(total, stage.config.stop_after or total)


def _validation_metrics(stage: Stage, trainer: L.Trainer) -> Metrics:
    metrics = {
        key: float(value)
        for key, value in trainer.callback_metrics.items()
        if key.startswith("val/")
    }
    if not all(math.isfinite(value) for value in metrics.values()):
        raise FloatingPointError(
            f"{stage.spec.title} ended with {metrics}; lower base_lr or lengthen"
            " warmup_epochs"
        )
    return metrics
