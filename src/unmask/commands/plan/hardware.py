"""The machine that a price is for: its devices, their memory, and the share of their peak that training reaches."""

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from unmask.config.checks import ConfigError, described
from unmask.config.recipes import Count, Part, Positive, Proportion

Precision = Literal["32-true", "bf16-mixed"]
GIB = 2**30
TERA = 1e12
# as people say it
PRECISIONS: dict[Precision, str] = {"32-true": "float32", "bf16-mixed": "bf16-mixed"}


class Hardware(Part):
    """Peaks are dense, by precision; null where this machine is to be measured."""

    name: str = Field(description="what the price says it is for")
    devices: Count = Field(description="how many share the batch")
    memory_gib: Positive | None = Field(
        description="of one device, as its driver reports it"
    )
    tflops: dict[Precision, Positive] | None = Field(
        description="peak of one device, dense, by precision"
    )
    utilisation: dict[Precision, Proportion] | None = Field(
        description="share of the peak that training reaches"
    )
    source: str = Field(description="where the share of the peak is from")

    @model_validator(mode="after")
    def complete(self) -> "Hardware":
        if (self.tflops is None) != (self.utilisation is None):
            raise ValueError(
                "hardware.tflops and hardware.utilisation: give both, or null for both"
                " to measure"
            )
        return self

    @property
    def measured(self) -> bool:
        return self.tflops is None

    def speed(self, precision: Precision) -> float:
        """FLOP/s that one device is expected to reach."""
        assert self.tflops is not None
        assert self.utilisation is not None
        return TERA * self.tflops[precision] * self.utilisation[precision]


class Planned(Part):
    """What `plan.yaml` says beside the run itself."""

    hardware: Hardware
    images: Count | None = Field(
        description="training images, where the data are neither here nor well known"
    )
    val_images: Count | None = Field(
        description="validation images; null: a tenth of images"
    )
    classes: Count | None = Field(description="classes of those images")


def planned(raw: Any) -> Planned:
    """Raises ConfigError with a line for each fault."""
    try:
        return Planned.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(described(error)) from None
