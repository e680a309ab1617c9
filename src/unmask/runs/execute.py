"""The stages of a run, one after the other; a finished one comes from the ledger."""

import logging
import time
import warnings
from importlib.metadata import version
from typing import Any

import torch
from rich.console import Console

from unmask.callbacks.keeper import Preempted, leaving_when_asked
from unmask.runs.checks import ConfigError
from unmask.runs.fingerprint import StageSpec
from unmask.runs.ledger import StageFolder
from unmask.runs.loggers import close_loggers
from unmask.runs.plan import Plan
from unmask.runs.work import Run, StageWork

VERSIONS = ("torch", "lightning", "timm")


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
        seconds = round(work.fit.seconds_before + time.monotonic() - start, 1)
        facts = {"seconds": seconds, "versions": {name: version(name) for name in VERSIONS}}
        images = int(metrics.pop("images")) if "images" in metrics else len(run.splits[1])
        return folder.finish(metrics, {**facts, "threads": torch.get_num_threads(), "images": images})


def advise(error: BaseException, micro_batch: int | None, folder: StageFolder) -> None:
    """Notes on the error for whoever reads it: the remedy where it is known, and where the whole of it stands."""
    # the CPU's allocator raises a plain RuntimeError: only its text says what happened
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        now = "the whole batch" if micro_batch is None else micro_batch
        error.add_note(
            f"the device's memory is full: set a smaller trainer.micro_batch (now {now}); "
            f"results stay equal unless images are mixed"
        )
    error.add_note(f"traceback: {folder.path}/error.txt")
