"""How a stage changes its training images, and which of a batch stay together."""

import re
from math import lcm
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from unmask.config.own_class import OWN_CLASS, OwnClass, refuse_other_keys
from unmask.config.section import (
    Count,
    FractionBelowOne,
    PositiveFraction,
    Section,
)

# one part of timm's policy string: m9, n2, inc1, mmax10, p0.5 or mstd0.5
RANDAUGMENT_TERM = re.compile(r"(m|n|inc|mmax)\d+|(p|mstd)\d+(\.\d+)?")
MAX_MIXING_GROUP = 16  # images


class Augment(Section):
    model_config = ConfigDict(extra="allow", populate_by_name=True)

    # Table 1e compares none, fixed, random, and random with jitter
    crop: Literal["none", "fixed", "random", "random_once", "padded"] = Field(
        description=(
            "`none`: the whole image; `fixed`: a crop of fixed size at a random"
            " position; `random`: a crop of random size, up to ten tries (Table 1e);"
            " `random_once`: the same with one try, as in the official linear probe;"
            " `padded`: the image shifted by up to 1/8 of its side, with black borders"
            " (usual on CIFAR)"
        )
    )
    scale: tuple[PositiveFraction, PositiveFraction] = Field(
        description=(
            "[smallest, largest] area of a random crop, as a fraction of the image"
        )
    )
    flip: bool = Field(
        description="mirror each training image with probability 1/2, left to right"
    )
    policy: str | None = Field(
        description=(
            "RandAugment as timm writes it, such as rand-m9-mstd0.5-inc1; needs 1 or 3"
            " channels; null: none"
        )
    )
    erasing: FractionBelowOne = Field(
        description=(
            "probability that a random box of an image is replaced by noise (timm's"
            " random erasing); 0: never"
        )
    )
    jitter: FractionBelowOne = Field(
        description=(
            "strength of random changes of brightness, contrast and saturation (Table"
            " 1e); 0: none"
        )
    )
    # Hoffer et al. 2020: an epoch then has `repeats` times as many steps
    repeats: Count = Field(
        description=(
            "repeated augmentation: how many views of each image a batch holds; the"
            " image is decoded once for all of them"
        )
    )

    # with a default: configs of older ledgers lack it
    target_: OwnClass | None = OWN_CLASS

    @model_validator(mode="after")
    def refuse_keys_of_no_class(self) -> "Augment":
        refuse_other_keys(self, self.target_)
        return self

    @property
    def changes_images(self) -> bool:
        """Tell whether an image looks different in each epoch."""
        return (
            self.crop != "none" or self.flip or self.erasing > 0 or self.works_per_image
        )

    @property
    def works_per_image(self) -> bool:
        """Tell whether some change is made to one image at a time, on the CPU."""
        own = self.target_ is not None
        return own or self.policy is not None or self.jitter > 0

    @field_validator("policy")
    @classmethod
    def check_policy(cls, value: str | None) -> str | None:
        first, *terms = (value or "rand").split("-")
        # timm has asserts for these, deep inside the first batch
        if first != "rand" or not all(map(RANDAUGMENT_TERM.fullmatch, terms)):
            raise ValueError(
                f"augment.policy={value}: write RandAugment as timm does, such as"
                " rand-m9-mstd0.5-inc1"
            )
        return value


def mixing_group_size(batch_size: int) -> int:
    """Return how many images mixup and cutmix mix with each other.

    The group is even, has 16 images at most and divides an even batch. It does not
    depend on micro-batches and processes, so that they change no result; the official
    code mixes within a GPU's part of the batch.
    """
    return next(
        size for size in range(MAX_MIXING_GROUP, 0, -2) if batch_size % size == 0
    )


def indivisible_group_size(recipe: Any, batch_size: int, repeats: int) -> int:
    """Return how many images of a batch must share a micro-batch and a process.

    Images that are mixed with each other stay together, and so do views of one image.
    """
    # pretraining and probes have neither key
    mixes = getattr(recipe, "mixup", 0) or getattr(recipe, "cutmix", 0)
    return lcm(mixing_group_size(batch_size) if mixes else 1, repeats)


def augment_key(stage: str) -> str:
    """Return the key under which a stage's augmentation stands."""
    return "augment" if stage == "pretrain" else f"{stage}.augment"


def stage_augment(config: Any, stage: str) -> Augment | None:
    """Return how a stage changes its training images, None where it does not."""
    if stage == "pretrain":
        return config.augment
    return getattr(getattr(config, stage, None), "augment", None)


def stage_repeats(config: Any, stage: str) -> int:
    """Return how many views of each image a batch of that stage holds."""
    augment = stage_augment(config, stage)
    return augment.repeats if augment else 1
