"""trainer.precision=auto: the precision that is fastest on this machine.

It is part of what a result depends on, so it is settled before anything is planned.
"""

import json
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from unmask.config.checks import ConfigError
from unmask.config.schema import Config
from unmask.config.trainer import Settled
from unmask.distributed.machine import cpu_identity, gpu_identity
from unmask.distributed.processes import available_cores
from unmask.stages.fingerprint import digest
from unmask.storage.user_cache import keep, user_cache

MEASURING = "unmask.training.precision_choice"


def settle_precision(config: Config) -> Config:
    """Return the config with float32 or bfloat16 in place of `auto`.

    Measured by another process, since torch takes seconds to import, once for each
    machine and model; the answer is in the user's cache.
    """
    if config.trainer.precision != "auto":
        return config
    path = _cache_path(config)
    settled = _read(path) if path else None
    if settled is None:
        settled = _measured(config)
        keep(path, settled)
    trainer = config.trainer.model_copy(update={"precision": settled})
    return config.model_copy(update={"trainer": trainer})


def _read(path: Path) -> Settled | None:
    with suppress(OSError, ValueError):
        text = path.read_text()
        return next(name for name in get_args(Settled) if name == text)
    return None


def _cache_path(config: Config) -> Path | None:
    folder = user_cache()
    key = {
        "cpu": cpu_identity(),
        "gpus": gpu_identity(),
        "cores": available_cores(),
        "torch": version("torch"),
        "accelerator": config.trainer.accelerator,
        "shapes": [
            *(config.model.model_dump(), config.decoder.model_dump()),
            *(config.grid, config.mask_ratio, config.encoder.mask_tokens),
            *(config.pretrain.batch_size, config.trainer.micro_batch),
        ],
    }
    return folder and folder / "kernels" / f"precision-{digest(key)}.txt"


def _measured(config: Config) -> Settled:
    """Ask a process with torch; raise ConfigError where it cannot say."""
    done = subprocess.run(
        [sys.executable, "-m", MEASURING],
        input=json.dumps(config.to_dict()),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    for name in get_args(Settled):
        if done.stdout.strip() == name:
            return name
    reason = next(iter(done.stderr.strip().splitlines()[-1:]), "no answer")
    raise ConfigError(
        f"trainer.precision = auto: measuring failed ({reason}); set 32-true or"
        " bf16-mixed"
    )
