"""The linear probe: trained in steps (Table 10), or solved exactly."""

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from unmask.config.recipe_parts import (
    IMAGE_SIZE,
    LABELS,
    FrozenPooling,
    ImageSize,
    LabelledImages,
    Schedule,
)
from unmask.config.section import Count, OpenFraction, Positive, Section

FROZEN_POOLING: Any = Field(
    description=(
        "the feature of an image: the class token (cls), the mean of the normalised"
        " patch tokens (mean), or the norm of the mean of unnormalised ones, as the"
        " official code's --global_pool (mean_norm)"
    )
)
EXACT = "lbfgs"
# keys that only the one kind of probe has
STEPPED_KEY = "epochs"
EXACT_KEY = "penalties"
# of tags: messages leave parts of a key out that hold the project's name
STEPPED_TAG, EXACT_TAG = "unmask.stepped", "unmask.exact"


class Probe(Section, LabelledImages, Schedule):
    """A linear head on frozen features (Table 10)."""

    pool: FrozenPooling = FROZEN_POOLING

    @model_validator(mode="before")
    @classmethod
    def refuse_exact_keys(cls, values: Any) -> Any:
        if isinstance(values, dict) and EXACT_KEY in values:
            raise ValueError(
                f"linear_probe.optimizer = {values.get('optimizer')!r}: the exact probe"
                f" has no other than {EXACT}; for one that is trained in steps type"
                " linear_probe=small or linear_probe=table10"
            )
        return values


class ExactProbe(Section):
    """A linear head on stored features, solved to convergence.

    L2-regularised multinomial logistic regression on standardised features.
    """

    optimizer: Literal["lbfgs"] = Field(
        description="of linear_probe=exact: solved by L-BFGS, without steps or seed"
    )
    penalties: Annotated[list[Positive], Field(min_length=1)] = Field(
        description=(
            "of linear_probe=exact: the loss is the mean cross-entropy plus half the"
            " penalty times the squared norm of the weights; of several penalties the"
            " one counts that is best on held-out training images"
        )
    )
    holdout: OpenFraction = Field(
        description=(
            "of linear_probe=exact: the share of each class's training images that the"
            " penalty is chosen on; the head is then solved on all"
        )
    )
    tolerance: Positive = Field(
        description=(
            "of linear_probe=exact: solved once no component of the gradient is larger"
        )
    )
    max_iterations: Count = Field(
        description="of linear_probe=exact: iterations after which the solver gives up"
    )
    pool: FrozenPooling = FROZEN_POOLING
    labels: Count | None = LABELS
    image_size: ImageSize = IMAGE_SIZE

    def count_held(self, images: int) -> int:
        """Return how many of a class's images are held out to choose the penalty."""
        return math.floor(images * self.holdout + 0.5)

    @model_validator(mode="before")
    @classmethod
    def refuse_stepped_keys(cls, values: Any) -> Any:
        if isinstance(values, dict) and STEPPED_KEY in values:
            raise ValueError(
                f"linear_probe.optimizer = {EXACT!r}: is of the probe that is solved"
                " exactly, which has no epochs and no rates; type linear_probe=exact"
            )
        return values


def choose_kind(value: Any) -> str:
    """Tell which kind of probe a section is."""
    optimizer = (
        value.get("optimizer")
        if isinstance(value, dict)
        else getattr(value, "optimizer", None)
    )
    return EXACT_TAG if optimizer == EXACT else STEPPED_TAG


AnyProbe = Annotated[
    Annotated[Probe, Tag(STEPPED_TAG)] | Annotated[ExactProbe, Tag(EXACT_TAG)],
    Discriminator(choose_kind),
]
