"""The import path under which jobs queued by version 0.1 look for CellJob."""

from unmask.distributed.submitit_job import CellJob

__all__ = ["CellJob"]
