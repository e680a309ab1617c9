"""Where jobs that were queued by 0.1 look for their class."""

from unmask.distributed.submitit_job import CellJob

__all__ = ["CellJob"]
