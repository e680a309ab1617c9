"""The arguments of src/plan.py."""

from unmask.config.hardware import Hardware
from unmask.config.section import Count, Section


class Plan(Section):
    """Hold what src/plan.py takes beside the run's own config."""

    hardware: Hardware
    images: Count | None
    val_images: Count | None
    classes: Count | None
    lacking: bool
