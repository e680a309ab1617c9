"""The hardware that a price is for, and the arguments of src/plan.py."""

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from unmask.config.checks import ConfigError, describe_errors
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

    name: str = Field(description="what the price says it is for")
    # the price is for all of them together, not for one
    devices: Count = Field(description="how many share the batch")
    memory_gib: Positive | None = Field(
        description="of one device, as its driver reports it"
    )
    # makers also publish peaks for sparse matrices, twice as high
    tflops: dict[Precision, Positive] | None = Field(
        description="dense peak of one device, by precision"
    )
    utilisation: dict[Precision, PositiveFraction] | None = Field(
        description="share of the peak that training reaches"
    )
    source: str = Field(description="where the share of the peak is from")

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


class PlanArguments(Section):
    """Hold the arguments of src/plan.py besides those of the run."""

    hardware: Hardware
    images: Count | None = Field(
        description="training images, where the data are neither here nor well known"
    )
    val_images: Count | None = Field(
        description="validation images; null: a tenth of images"
    )
    classes: Count | None = Field(description="classes of those images")


def check_plan_arguments(raw: Any) -> PlanArguments:
    """Raise ConfigError with a line for each mistake."""
    try:
        return PlanArguments.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(describe_errors(error)) from None
