"""Images that lie on the training device: batches bring sample ids, not pixels."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

# images up to this size go to the device by default, if they take no more than a
# quarter of what is free there
MAX_AUTO_BYTES = 2**30


class OnDevice:
    """All images of a split, copied to a device when it first takes some of them.

    It is no dataclass, and has no method `to`: Lightning would move all of it with each
    batch.
    """

    def __init__(self, images_NCHW: UInt8[Tensor, "N C H W"]) -> None:
        self.images_NCHW = images_NCHW
        self.copies: dict[torch.device, Tensor] = {}

    def take(self, ids_B: Int[Tensor, "B"]) -> UInt8[Tensor, "B C H W"]:
        """Return the images of these samples, on the device of the ids."""
        device = ids_B.device
        if device not in self.copies:
            self.copies[device] = self.images_NCHW.to(device)
        # the repeats of an image have ids beyond the number of images
        return self.copies[device].index_select(0, ids_B % len(self.images_NCHW))


def should_move_to_device(
    size: int, wanted: bool | str | None, device: torch.device
) -> bool:
    """Return whether images of `size` bytes should lie on the device.

    wanted: data.in_memory; "device" demands it, None decides by size. Raises ValueError
    if "device" is wanted and there is no room.
    """
    if wanted not in (None, "device"):
        return False
    if device.type != "cuda":
        return wanted == "device"
    free, _ = torch.cuda.mem_get_info(device)
    if wanted == "device" and size > free:
        raise ValueError(
            f"data.in_memory=device: the images take {size / 1e9:.1f} GB and {device}"
            f" has {free / 1e9:.1f} GB free; set data.in_memory=true"
        )
    return wanted == "device" or size <= min(MAX_AUTO_BYTES, free // 4)
