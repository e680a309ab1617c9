"""The stages of a run, one after the other; a finished one comes from the ledger."""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from rich.console import Console

from unmask.callbacks.checkpointing import Preempted, leaving_when_asked
from unmask.config.checks import ConfigError
from unmask.config.schema import Trainer
from unmask.data.loading.workers import end_workers, lost_worker
from unmask.distributed import collectives
from unmask.distributed.processes import received_signals
from unmask.distributed.ranks import rank_info
from unmask.stages.fingerprint import FITTED, StageSpec
from unmask.stages.ledger import StageFolder
from unmask.stages.plan import Plan
from unmask.training.stages import Run, StageWork

VERSIONS = ("torch", "lightning", "timm")
# what the leader says again and again while another run owns the stage
WAITING = "waiting"
POLL = 0.5  # seconds
# of a process that waits for the others, in the time after which one that does not move
# is ended
PATIENCE = 1.5


def execute(plan: Plan, console: Console) -> list[dict[str, Any]]:
    """Results of all stages in order. Raises what a stage raised, after noting it there.

    Asked to leave (by one of SIGNALS) it raises Preempted, within a fit after saving. Where this process is one
    of several, all of them work on each stage together; but what a target needs to know of the images (FITTED) is
    found by the first one alone.
    """
    hush()
    if plan.config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        raise ConfigError(
            "trainer.accelerator = gpu: torch finds no GPU here; use trainer=auto or"
            " trainer=cpu"
        )
    if plan.config.data.decode == "nvjpeg" and not torch.cuda.is_available():
        raise ConfigError(
            "data.decode = nvjpeg: torch finds no GPU here; use data.decode=auto"
        )
    run, place = Run(plan, console), rank_info()
    for note in plan.listing.notes if plan.listing else ():
        console.print(f"warning: {note}", soft_wrap=True, markup=False)
    with leaving_when_asked(plan.config.trainer.max_minutes):
        alone = [spec for spec in plan.stages if spec.kind in FITTED]
        follows = place is not None and place.rank > 0
        results = [
            _awaited(run, spec) if follows else _stage(run, spec) for spec in alone
        ]
        with _together(plan):
            return results + [
                _stage(run, spec) for spec in plan.stages if spec not in alone
            ]


@contextmanager
def _together(plan: Plan) -> Iterator[None]:
    """One of several joins the others."""
    place = rank_info()
    if place is None:
        yield
        return
    if torch.cuda.is_available() and plan.config.trainer.accelerator != "cpu":
        if place.local_rank >= (seen := torch.cuda.device_count()):
            raise ConfigError(
                f"process {place.local_rank} of this machine sees {seen} GPU(s): start"
                " one process a GPU, and let each see all of them; srun:"
                " --gpus-per-node, not --gpus-per-task, which hides the others"
            )
        torch.cuda.set_device(place.local_rank)
    # the watchdog comes first: it knows where each process stands
    minutes = PATIENCE * plan.config.trainer.timeout_minutes
    with collectives.process_group(place.rank, place.size, minutes):
        yield


def hush() -> None:
    """Lightning's notices about hardware, adverts and loaders that are as they should be here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for message in (
        ".*many workers.*",
        ".*dataloader is not resumable.*",
        ".*LeafSpec.*",
        ".*custom batch sampler.*",
        ".*in eval mode at the start.*",
        ".*broadcast_buffers.*",
        ".*sync_dist=True.*",
    ):
        warnings.filterwarnings("ignore", message=message)


def _awaited(run: Run, spec: StageSpec) -> dict[str, Any]:
    """The result of what another process of this run is making; if that fails, this process is ended with it."""
    folder = StageFolder(run.config.runs_dir, spec)
    while (result := folder.result()) is None:
        time.sleep(POLL)
    return result


def _stage(run: Run, spec: StageSpec) -> dict[str, Any]:
    """The leader, or the only one, decides whether there is work, owns the folder and writes; the others follow."""
    if received_signals:  # and what was raised then was lost
        raise Preempted
    folder = StageFolder(run.config.runs_dir, spec)
    if not collectives.is_rank_zero():
        while (told := collectives.broadcast()) == WAITING:
            pass
        return told or _worked(run, spec, folder)
    if result := folder.result():
        run.console.print(f"{spec.title}: from the ledger, {folder.path}")
        return collectives.broadcast(result)
    folder.open()
    with folder.owned(
        run.config.wait, run.console.print, lambda: collectives.broadcast(WAITING)
    ):
        # another run may have finished it while we waited
        if result := collectives.broadcast(folder.result()):
            return result
        folder.keep_config(run.config.plain())
        run.console.print(f"{spec.title}: {folder.path}")
        return _worked(run, spec, folder)


def _worked(run: Run, spec: StageSpec, folder: StageFolder) -> dict[str, Any]:
    """What the stage's work gives, filed by the leader."""
    start = time.monotonic()
    work = StageWork(run, spec, folder)
    try:
        metrics = getattr(work, spec.kind)()
    except SystemExit:  # ours, or one of Lightning's, which leaves with 0 when asked to
        run.console.print(
            f"{spec.title}: stopped, {folder.path}; the same command goes on from there"
        )
        raise Preempted from None
    except (Exception, KeyboardInterrupt) as error:
        name = (
            "error.txt"
            if collectives.is_rank_zero()
            else f"error-{collectives.rank()}.txt"
        )
        folder.fail(error, name)
        if lost_worker(error):
            end_workers()
            raise ChildProcessError(
                f"{spec.title}: a loader's worker was killed (so do systems whose"
                " memory is full) or gave no image for"
                f" trainer.timeout_minutes={run.config.trainer.timeout_minutes:g}; look"
                " at the disk, or set a smaller data.num_workers; the same command"
                " goes on from the last checkpoint"
            ) from error
        advise(error, run.config.trainer, folder, name)
        raise
    if not collectives.is_rank_zero():
        return collectives.broadcast()
    seconds = round(work.fit.seconds_before + time.monotonic() - start, 1)
    facts = {"seconds": seconds, "versions": {name: version(name) for name in VERSIONS}}
    bad = work.fit.bad.merge()
    images = int(metrics.pop("images")) if "images" in metrics else len(run.splits[1])
    images -= sum(row["split"] == "validation" for row in bad)
    facts |= {
        "threads": torch.get_num_threads(),
        "processes": collectives.world_size(),
        "images": images,
    }
    facts |= {"bad_images": len(bad)} if bad else {}
    return collectives.broadcast(folder.finish(metrics, facts))


def memory_full(error: BaseException) -> bool:
    """Of the device, or of this process."""
    # the CPU's allocator raises a plain RuntimeError: only its text says what happened
    return isinstance(
        error, torch.OutOfMemoryError | MemoryError
    ) or "can't allocate memory" in str(error)


def advise(
    error: BaseException, trainer: Trainer, folder: StageFolder, name: str = "error.txt"
) -> None:
    """Notes on the error for whoever reads it: the remedy where it is known, and where the whole of it stands."""
    if memory_full(error):
        now = "the whole batch" if trainer.micro_batch is None else trainer.micro_batch
        now = now if trainer.split == 1 else f"{now}, in {trainer.split} parts"
        error.add_note(
            "the device's memory is full: set a smaller trainer.micro_batch (now"
            f" {now}); the same command then goes on from the last checkpoint"
        )
    error.add_note(f"traceback: {folder.path}/{name}")
