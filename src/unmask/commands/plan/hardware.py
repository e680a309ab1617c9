"""The hardware that a price is for, and the arguments of src/plan.py."""

from typing import Literal

from pydantic import model_validator

from unmask.config.section import Count, Positive, PositiveFraction, Section

Precision = Literal["32-true", "bf16-mixed"]
GIB = 2**30
TERA = 1e12
PRECISION_NAMES: dict[Precision, str] = {
    "32-true": "float32",
    "bf16-mixed": "bf16-mixed",
}


class Hardware(Section):
    """Describe the devices. Their peak is null where this machine is to be measured."""

    name: str
    # the price is for all of them together, not for one
    devices: Count
    memory_gib: Positive | None
    # makers also publish peaks for sparse matrices, twice as high
    tflops: dict[Precision, Positive] | None
    utilisation: dict[Precision, PositiveFraction] | None
    source: str

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

    def flops_per_second(self, precision: Precision) -> float:
        """Return the FLOP/s that one device is expected to reach."""
        assert self.tflops is not None
        assert self.utilisation is not None
        return TERA * self.tflops[precision] * self.utilisation[precision]


class Plan(Section):
    """Hold what src/plan.py takes beside the run's own config."""

    hardware: Hardware
    images: Count | None
    val_images: Count | None
    classes: Count | None
