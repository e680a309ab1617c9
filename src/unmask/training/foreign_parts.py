"""Parts from files of the user's are tried before a stage starts."""

import traceback
from collections.abc import Callable
from pathlib import Path

from unmask.config.augmentation import augment_key
from unmask.config.checks import ConfigError
from unmask.config.foreign import is_foreign, is_written_here
from unmask.config.schema import Config
from unmask.data.images.unreadable import printable
from unmask.training.foreign_augment import check_augmentation
from unmask.training.foreign_data import check_data
from unmask.training.foreign_masking import check_masking
from unmask.training.foreign_models import check_decoder, check_encoder
from unmask.training.foreign_target import check_target
from unmask.training.foreign_task import check_task_class

MAX_REASON = 300  # characters
# by the key that names a part: what it is called, and how it is tried
CHECKS: dict[str, tuple[str, Callable[[Config], None]]] = {
    "model._target_": ("an encoder", check_encoder),
    "decoder._target_": ("a decoder", check_decoder),
    "masking._target_": ("a sampler", check_masking),
    "target._target_": ("a target", check_target),
    "data.source": ("a data set", check_data),
    "task._target_": ("a task", check_task_class),
}


def check_foreign_parts(config: Config, reads_data: bool = True) -> None:
    """Raise ConfigError where a part of the user's does not work.

    reads_data: whether a data set of the user's is loaded; prices go without.
    """
    stages = {f"{augment_key(stage)}._target_": stage for stage in config.used_stages}
    for key, name in config.own_classes.items():
        if key == "data.source" and not reads_data:
            continue
        kind, check = CHECKS.get(key, ("an augmentation", None))
        try:
            if check:
                check(config)
            else:
                check_augmentation(config, stages[key])
        # code of the user's may raise anything, and exit
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"{key} = {name}: {_reason(error)}; docs/extending.md shows what {kind}"
                " has"
            ) from error


def _reason(error: BaseException) -> str:
    """Return one line on an error, with the line of the user's code that raised it."""
    text = printable(" ".join(str(error).split()))[:MAX_REASON]
    frames = list(traceback.walk_tb(error.__traceback__))
    module = str(frames[-1][0].f_globals.get("__name__"))
    if is_foreign(module) or type(error) is not ValueError:
        text = f"{type(error).__name__}: {text}"
    theirs = [
        f"{frame.f_code.co_filename}, line {line}"
        for frame, line in frames
        if is_foreign(str(frame.f_globals.get("__name__")))
        and is_written_here(Path(frame.f_code.co_filename))
    ]
    return f"{text} ({theirs[-1]})" if theirs else text
