"""What a failed stage leaves behind: a traceback in its folder, a remedy in a line."""

import torch

from unmask.config.trainer import Trainer
from unmask.data.loading.workers import is_lost_worker, kill_workers
from unmask.distributed import collectives
from unmask.stages.ledger import StageFolder


def handle_failure(error: BaseException, trainer: Trainer, folder: StageFolder) -> None:
    """Write the traceback into the stage's folder and add what helps to the error.

    Raises ChildProcessError in its place where a loader worker was killed or hangs.
    """
    rank = collectives.rank()
    name = "error.txt" if collectives.is_rank_zero() else f"error-{rank}.txt"
    folder.record_failure(error, name)
    if is_lost_worker(error):
        # a worker that hangs would keep this process from ending
        kill_workers()
        raise ChildProcessError(
            f"{folder.spec.title}: a loader's worker was killed (so do systems whose"
            " memory is full) or gave no image for"
            f" trainer.timeout_minutes={trainer.timeout_minutes:g}; look at the disk,"
            " or set a smaller data.num_workers; the same command goes on from the"
            " last checkpoint"
        ) from error
    if is_out_of_memory(error):
        error.add_note(_memory_remedy(trainer))
    # a full disk, or a folder that was removed, has no room for it
    if (folder.path / name).exists():
        error.add_note(f"traceback: {folder.path}/{name}")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device's or this process's memory was full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # the CPU's allocator raises a plain RuntimeError: only its text says what happened
    return "can't allocate memory" in str(error)


def _memory_remedy(trainer: Trainer) -> str:
    whole = trainer.micro_batch is None
    now = "the whole batch" if whole else str(trainer.micro_batch)
    if trainer.split > 1:
        now += f", in {trainer.split} parts"
    return (
        "the device's memory is full: set a smaller trainer.micro_batch (now"
        f" {now}); the same command then goes on from the last checkpoint"
    )
