"""Devices: their memory and their peak FLOP/s, from conf/hardware."""

from typing import Literal

import yaml
from pydantic import Field, model_validator

from unmask.config.conf_files import CONF
from unmask.config.section import Count, Positive, PositiveFraction, Section

Precision = Literal["32-true", "bf16-mixed"]
GIB = 2**30
GIGA = 1e9
TERA = 1e12
PRECISION_NAMES: dict[Precision, str] = {
    "32-true": "float32",
    "bf16-mixed": "bf16-mixed",
}


class Link(Section):
    """Say how fast devices send to each other: data sheets' bytes, in one direction.

    gb_s: 10^9 bytes a second from one device of a node to another. network_gb_s: from
    one node to another, all adapters together.
    """

    devices_per_node: Count
    gb_s: Positive
    network_gb_s: Positive


class Hardware(Section):
    """Describe the devices. Their peak is null where this machine is to be measured.

    cuda_names: what CUDA calls a device that has this peak. link: null where what
    devices send to each other is not counted.
    """

    name: str
    # the price is for all of them together, not for one
    devices: Count
    memory_gib: Positive | None
    # makers also publish peaks for sparse matrices, twice as high
    tflops: dict[Precision, Positive] | None
    utilisation: dict[Precision, PositiveFraction] | None
    source: str
    link: Link | None = None
    cuda_names: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def peak_and_share_belong_together(self) -> "Hardware":
        if (self.tflops is None) != (self.utilisation is None):
            raise ValueError(
                f"hardware.tflops = {self.tflops} and hardware.utilisation ="
                f" {self.utilisation}: give both, or null for both to measure"
            )
        return self

    @property
    def needs_measuring(self) -> bool:
        return self.tflops is None

    @property
    def link_rate(self) -> float | None:
        """Return the bytes a second that pass between neighbours in a ring of devices.

        None for one device, and where it is not known.
        """
        if self.link is None or self.devices == 1:
            return None
        slowest = self.link.gb_s
        if self.devices > self.link.devices_per_node:
            slowest = min(slowest, self.link.network_gb_s)
        return GIGA * slowest

    def flops_per_second(self, precision: Precision) -> float:
        """Return the FLOP/s that one device is expected to reach."""
        assert self.tflops is not None
        assert self.utilisation is not None
        return TERA * self.tflops[precision] * self.utilisation[precision]


def peak_flops(cuda_name: str, precision: Precision) -> float | None:
    """Return the FLOP/s that a device can reach by its data sheet.

    None for a device that conf/hardware does not name.
    """
    for path in sorted((CONF / "hardware").glob("*.yaml")):
        content = yaml.safe_load(path.read_text())
        if cuda_name in content.get("cuda_names", []):
            return TERA * content["tflops"][precision]
    return None
