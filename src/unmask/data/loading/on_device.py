"""Images that lie on the training device: a batch brings the numbers of its samples, and its pixels are there."""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

# bytes of images that go there without being told to, and a quarter of what is free at
# most
DEVICE_LIMIT = 2**30


class OnDevice:
    """All images of a split on the device that asks for some of them: copied when it asks first, and kept.

    No dataclass, and nothing with a method `to`: Lightning would move all of it with each batch.
    """

    def __init__(self, images_NCHW: UInt8[Tensor, "N C H W"]) -> None:
        self.images_NCHW = images_NCHW
        self.copies: dict[torch.device, Tensor] = {}

    def taken(self, ids_B: Int[Tensor, "B"]) -> UInt8[Tensor, "B C H W"]:
        """The images of these samples, on their device."""
        if ids_B.device not in self.copies:
            self.copies[ids_B.device] = self.images_NCHW.to(ids_B.device)
        return self.copies[ids_B.device].index_select(0, ids_B % len(self.images_NCHW))


def goes_there(size: int, wanted: bool | str | None, device: torch.device) -> bool:
    """Whether images of `size` bytes are to lie on the device; wanted: "device", True (memory) or None, which decides.

    Raises ValueError where they must and there is no room.
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
    return wanted == "device" or size <= min(DEVICE_LIMIT, free // 4)
