"""The device that a command computes on: device=auto, cpu or cuda."""

import torch

from unmask.config.checks import ConfigError


def choose_device(name: str | torch.device) -> torch.device:
    """Return the device of that name; `auto` takes a GPU where there is one.

    Raises ConfigError for one that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ConfigError(
            f"device={name}: give device=auto, cpu, cuda or cuda:N"
        ) from None
    try:
        # meta holds no numbers
        torch.empty(1, device=device).cpu()
    # each kind of device has errors of its own where there is none
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"device={name}: torch finds no such device here, or cannot use it"
            f" ({reason}); give device=auto or device=cpu"
        ) from error
    return device
