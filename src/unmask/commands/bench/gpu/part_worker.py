"""One part of the GPU benchmark, in a process of its own: an error ends it alone."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from unmask.commands.bench.gpu.context import PartName, PartRequest, Report
from unmask.commands.bench.gpu.feeding import measure_feeding
from unmask.commands.bench.gpu.small_images import measure_small_images
from unmask.commands.bench.gpu.training import (
    measure_fsdp,
    measure_guards,
    measure_models,
    measure_parity,
)
from unmask.commands.bench.step_messages import Failure
from unmask.commands.bench.step_worker import error_line

MEASURES: dict[PartName, Callable[[PartRequest], Iterator[Report]]] = {
    "guards": measure_guards,
    "parity": measure_parity,
    "fsdp": measure_fsdp,
    "small": measure_small_images,
    "feeding": measure_feeding,
    "models": measure_models,
}


def serve_part(connection: Connection) -> None:
    """Send each report as soon as it is there, then None; or what went wrong."""
    request: PartRequest = connection.recv()
    # what Lightning says of devices and loaders is not about what is measured
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
    try:
        for report in MEASURES[request.name](request):
            connection.send(report)
        connection.send(None)
    # whatever it is: the other parts are measured without this one
    except Exception as error:
        connection.send(Failure(error_line(error)))


if __name__ == "__main__":
    serve_part(Connection(int(sys.argv[1])))
