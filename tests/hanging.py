"""A training that is slow after its third step and hangs after its sixth.

python tests/hanging.py overrides...
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "src"), str(Path(__file__).parent)]

from small_runs import run
from unmask.callbacks.metrics import MetricsLogger

original = MetricsLogger.on_train_batch_end


def on_train_batch_end(self: MetricsLogger, trainer: Any, *args: Any) -> None:
    original(self, trainer, *args)
    if trainer.global_step == 3:
        print("between two batches", flush=True)
        time.sleep(1)
    if trainer.global_step == 6:
        waits_for_ever()


def waits_for_ever() -> None:
    print("hanging", flush=True)
    time.sleep(1000)


MetricsLogger.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign]
run(*sys.argv[1:])
