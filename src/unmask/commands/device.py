"""The device that a command computes on: device=auto, cpu or cuda."""

import torch

from unmask.config.checks import ConfigError


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes a GPU where there is one.

    Raises ConfigError for `cuda` without a GPU.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ConfigError(
            f"device={name}: torch finds no GPU here; use device=auto or device=cpu"
        )
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")
