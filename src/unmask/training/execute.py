"""The stages of a run, one after the other; finished ones come from the ledger."""

import logging
import os
import shlex
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from rich.console import Console

from unmask.callbacks.checkpointing import Preempted, preemptible
from unmask.config.checks import ConfigError
from unmask.config.probes import ExactProbe
from unmask.config.recipes import FITTED_STAGES
from unmask.config.schema import Config
from unmask.distributed import collectives
from unmask.distributed.processes import received_signals
from unmask.distributed.ranks import rank_info
from unmask.stages.drift import (
    begin_stage,
    describe_drift,
    finish_sources,
    kept_result,
)
from unmask.stages.evaluation_sets import stage_config
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder
from unmask.stages.origin import Origin, write_origin
from unmask.stages.plan import Plan
from unmask.tasks.own_task import task_measure
from unmask.training.build import build_task, count_visible, training_device
from unmask.training.dashboards import choose_dashboards
from unmask.training.failures import handle_failure
from unmask.training.fit import fit
from unmask.training.foreign_parts import check_foreign_parts
from unmask.training.kernel_choice import stage_kernels
from unmask.training.prepare import prepare
from unmask.training.run import Run, Stage
from unmask.training.stages import function_without_fit
from unmask.training.utilisation import peak_images_per_second

Result = dict[str, Any]  # the content of a stage's result.json
REPORTED_PACKAGES = ("torch", "lightning", "timm")
# what rank zero broadcasts again and again while another run works on the stage: ranks
# that hear nothing for too long would give up
KEEP_ALIVE = "waiting"
POLL_SECONDS = 0.5  # between looks for a result
# times trainer.timeout_minutes: the watchdog, which knows where each rank stands, ends
# a run that hangs before the other ranks give up on it
PROCESS_GROUP_TIMEOUT_FACTOR = 1.5


def execute(plan: Plan, console: Console, origin: Origin | None = None) -> list[Result]:
    """Return the results of all stages, making those that the ledger lacks.

    origin: which command asks for them, as their folders record it.
    All ranks work on each stage together, but rank zero alone fits the PCA or the
    tokenizer that a target needs (FITTED_STAGES). Raises Preempted where this process
    is asked to stop, after saving; raises what a stage raised, after noting it in the
    stage's folder.
    """
    silence_lightning()
    _refuse_missing_gpu(plan.config)
    _refuse_missing_compiler(plan.config)
    check_foreign_parts(plan.config)
    for note in plan.listing.notes if plan.listing else ():
        console.print(f"warning: {note}", soft_wrap=True, markup=False)
    run = Run(plan, console, origin)
    earlier = {
        spec: StageFolder(plan.config.runs_dir, spec).result() for spec in plan.stages
    }
    if drift := describe_drift(plan.config, earlier, collectives.is_rank_zero()):
        console.print(drift, soft_wrap=True, markup=False)
    fitted = [spec for spec in plan.stages if spec.kind in FITTED_STAGES]
    others = [spec for spec in plan.stages if spec.kind not in FITTED_STAGES]
    ranks = rank_info()
    is_rank_zero = ranks is None or ranks.rank == 0
    with preemptible(plan.config.trainer.max_minutes):
        # before the ranks meet: fitting may take longer than they wait for each other
        results = [
            _stage_result(run, spec) if is_rank_zero else _wait_for_result(run, spec)
            for spec in fitted
        ]
        with _process_group_of(plan):
            return results + [_stage_result(run, spec) for spec in others]


def _refuse_missing_gpu(config: Config) -> None:
    if torch.cuda.is_available():
        return
    if config.trainer.accelerator == "gpu":
        raise ConfigError(
            f"trainer.accelerator = {config.trainer.accelerator}: torch finds no GPU"
            " here; use trainer=auto or trainer=cpu"
        )
    if config.data.decode == "nvjpeg":
        raise ConfigError(
            f"data.decode = {config.data.decode}: torch finds no GPU here; use"
            " data.decode=auto"
        )


def silence_lightning() -> None:
    """Hide Lightning's adverts, and its advice on what is deliberate here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for message in (
        ".*many workers.*",
        ".*dataloader is not resumable.*",
        ".*LeafSpec.*",
        ".*custom batch sampler.*",
        ".*in eval mode at the start.*",
        ".*broadcast_buffers.*",
        ".*sync_dist=True.*",
        "The `srun` command is available.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _refuse_missing_compiler(config: Config) -> None:
    # CXX may start with a wrapper such as ccache
    compiler = next(iter(shlex.split(os.environ.get("CXX", ""))), "g++")
    is_cpu = training_device(config).type == "cpu"
    if config.trainer.compile and is_cpu and not shutil.which(compiler):
        raise ConfigError(
            f"trainer.compile = true: torch.compile needs a C++ compiler, and there is"
            f" no {compiler} here; install one, or set trainer.compile=false"
        )


@contextmanager
def _process_group_of(plan: Plan) -> Iterator[None]:
    """Let the ranks of this run work together within; do nothing where there is one."""
    ranks = rank_info()
    if ranks is None:
        yield
        return
    if torch.cuda.is_available() and plan.config.trainer.accelerator != "cpu":
        visible = torch.cuda.device_count()
        if ranks.local_rank >= visible:
            raise ConfigError(
                f"process {ranks.local_rank} of this machine sees {visible} GPU(s):"
                " start one process a GPU, and let each see all of them; srun:"
                " --gpus-per-node, not --gpus-per-task, which hides the others"
            )
        torch.cuda.set_device(ranks.local_rank)
    minutes = PROCESS_GROUP_TIMEOUT_FACTOR * plan.config.trainer.timeout_minutes
    with collectives.process_group(ranks.rank, ranks.world_size, minutes):
        yield


def _wait_for_result(run: Run, spec: StageSpec) -> Result:
    """Wait until rank zero has finished the stage.

    Where it fails, the launcher ends this process too.
    """
    folder = StageFolder(run.config.runs_dir, spec)
    while (result := kept_result(folder, run.config.rerun)) is None:
        time.sleep(POLL_SECONDS)
    return result


def _stage_result(run: Run, spec: StageSpec) -> Result:
    """Return the stage's result, from the ledger or by running the stage.

    Rank zero decides which, holds the folder's lock and writes; the others follow.
    """
    # an exception that was raised in a signal handler may have been lost
    if received_signals:
        raise Preempted
    folder = StageFolder(run.config.runs_dir, spec)
    if not collectives.is_rank_zero():
        while (message := collectives.broadcast()) == KEEP_ALIVE:
            pass
        return message or _run_stage(run, spec, folder)
    rerun = run.config.rerun
    if result := kept_result(folder, rerun):
        run.console.print(f"{spec.title}: from the ledger, {folder.path}")
        return collectives.broadcast(result)
    folder.create()
    with folder.hold_lock(
        run.config.wait, run.console.print, lambda: collectives.broadcast(KEEP_ALIVE)
    ):
        # another run may have finished it while this one waited for the lock
        if result := collectives.broadcast(kept_result(folder, rerun)):
            return result
        if drift := begin_stage(folder, rerun, run.config.adopt):
            run.console.print(drift, soft_wrap=True, markup=False)
        folder.write_config(stage_config(run.config, spec).to_dict())
        write_origin(folder.path, spec, run.origin)
        run.console.print(f"{spec.title}: {folder.path}")
        return _run_stage(run, spec, folder)


def _run_stage(run: Run, spec: StageSpec, folder: StageFolder) -> Result:
    """Train or evaluate, write result.json on rank zero, and show it on dashboards."""
    stage = Stage(run, spec, folder)
    with choose_dashboards(stage) as stage.dashboards:
        return _make_result(stage)


def _make_result(stage: Stage) -> Result:
    start = time.monotonic()
    run, spec, folder = stage.run, stage.spec, stage.folder
    try:
        with stage_kernels(stage):
            if measure := function_without_fit(stage):
                metrics = measure(stage)
            else:
                metrics = fit(stage, *prepare(stage), peak_images_per_second(stage))
    except SystemExit as leaving:
        # after a second Ctrl-C Lightning exits by itself
        if not (isinstance(leaving, Preempted) or received_signals):
            error = RuntimeError(
                f"something exited in the middle of {spec.title}, with code"
                f" {leaving.code}"
            )
            error.__cause__ = leaving
            handle_failure(error, run.config.trainer, folder)
            raise error from leaving
        run.console.print(
            f"{spec.title}: stopped, {folder.path}; the same command"
            f" {_resumption(stage)}"
        )
        raise Preempted from None
    except (Exception, KeyboardInterrupt) as error:
        handle_failure(error, run.config.trainer, folder)
        raise
    if not collectives.is_rank_zero():
        return collectives.broadcast()
    seconds = stage.earlier_seconds + time.monotonic() - start
    facts = _result_facts(stage, metrics, seconds)
    return collectives.broadcast(folder.finish(metrics, facts))


def _resumption(stage: Stage) -> str:
    """Return what the same command does with a stage that was stopped."""
    if isinstance(stage.recipe, ExactProbe):
        return "begins this stage anew"
    return "goes on from there"


def _result_facts(
    stage: Stage, metrics: dict[str, float], seconds: float
) -> dict[str, Any]:
    """Return what a result says beside its metrics: time, versions, images."""
    bad_images = stage.bad_images.merge()
    # a stage that measures other images than the validation split counts them itself
    measured = metrics.pop("images", None)
    images = len(stage.run.splits[1]) if measured is None else int(measured)
    images -= sum(row["split"] == "validation" for row in bad_images)
    facts: dict[str, Any] = {
        "seconds": round(seconds, 1),
        "versions": {name: version(name) for name in REPORTED_PACKAGES},
        "threads": torch.get_num_threads(),
        "processes": collectives.world_size(),
        "images": images,
        **finish_sources(stage.folder),
    }
    if stage.spec.kind == "pretrain":
        facts["visible_patches"] = count_visible(stage.config)
    if stage.spec.kind == "task":
        facts["measure"] = task_measure(build_task(stage.config), metrics)
    if bad_images:
        facts["bad_images"] = len(bad_images)
    return facts
