"""What may be said of the encoder and the decoder: the paper's, others, and yours."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)

from unmask.config.foreign import check_part
from unmask.config.groups import FOREIGN, OWN, choose_tag
from unmask.config.section import Count, Positive, PositiveFraction, Section

Width = Annotated[int, Field(ge=1, le=16_384)]
Depth = Annotated[int, Field(ge=1, le=256)]
DecoderDepth = Annotated[int, Field(ge=0, le=256)]
ENCODER: Literal["unmask.encoder.Encoder"] = "unmask.encoder.Encoder"
DECODER: Literal["unmask.decoder.Decoder"] = "unmask.decoder.Decoder"
CROSS_DECODER = "unmask.cross_decoder.CrossDecoder"
# of a tag: messages leave parts of a key out that hold the project's name
CROSS = "unmask.cross"
YOURS = "or `module.name` of a class of yours (docs/extending.md)"


def _check_name(value: str) -> str:
    """Return the name; ValueError where it leads to no class of the user's."""
    check_part(value)
    return value


ForeignName = Annotated[str, AfterValidator(_check_name)]


class EncoderSizes(BaseModel):
    """The sizes that every encoder is made with."""

    name: str = Field(description="the model's name in tables")
    width: Width = Field(description="width of the encoder: channels of its tokens")
    depth: Depth = Field(description="number of transformer blocks in the encoder")
    heads: Width = Field(description="attention heads of the encoder")
    mlp_ratio: Positive = Field(
        description="hidden width of the MLP, as a multiple of the block's width"
    )
    patch_size_at_224: Count = Field(
        description=(
            "side of a patch for images of 224 pixels (14 for ViT-H, 16 for the others)"
        )
    )
    # with a default: configs of older ledgers lack it
    class_tokens: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1,
        description="number of class tokens (the paper: 1; Pixio: 8)",
    )


class Model(Section, EncoderSizes):
    # with a default: configs of older ledgers lack it
    target_: Literal["unmask.encoder.Encoder"] = Field(
        default=ENCODER, alias="_target_", description="the encoder's class"
    )


class ForeignModel(Section, EncoderSizes):
    """An encoder from a file of the user's; its other keys are arguments, too."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    target_: ForeignName = Field(alias="_target_", description=YOURS)


AnyModel = Annotated[
    Annotated[Model, Tag(OWN)] | Annotated[ForeignModel, Tag(FOREIGN)],
    Discriminator(choose_tag),
]


class Encoder(Section):
    mask_tokens: bool = Field(
        description=(
            "feed mask tokens to the encoder in place of the hidden patches (Table 1c)"
        )
    )


class DecoderSizes(BaseModel):
    """The sizes that every decoder is made with."""

    # without a block, mask tokens must have passed through the encoder
    depth: DecoderDepth = Field(
        description=(
            "number of transformer blocks in the decoder (Table 1a); 0: a linear head,"
            " which needs encoder.mask_tokens=true"
        )
    )
    width: Width = Field(
        description="width of the decoder: channels of its tokens (Table 1b)"
    )
    heads: Width = Field(description="attention heads of the decoder")
    mlp_ratio: Positive | None = Field(
        description=(
            "hidden width of the decoder's MLP, as a multiple of its width; null:"
            " model.mlp_ratio"
        )
    )


class Decoder(Section, DecoderSizes):
    # with a default: configs of older ledgers lack it
    target_: Literal["unmask.decoder.Decoder"] = Field(
        default=DECODER, alias="_target_", description="set by decoder=mae or cross"
    )


class CrossDecoder(Section, DecoderSizes):
    """CrossMAE's decoder (Fu et al. 2024)."""

    target_: Literal["unmask.cross_decoder.CrossDecoder"] = Field(
        alias="_target_", description="set by decoder=mae or cross"
    )
    prediction_ratio: PositiveFraction | None = Field(
        description=(
            "share of all patches that a training step predicts, at most mask_ratio;"
            " null: all hidden ones"
        )
    )
    inter_block: bool = Field(
        description=(
            "each block reads a learned sum of all the encoder's blocks; false: the"
            " encoder's output"
        )
    )


class ForeignDecoder(Section, DecoderSizes):
    """A decoder from a file of the user's; its other keys are arguments, too."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    target_: ForeignName = Field(alias="_target_", description=YOURS)


def _choose_decoder(value: Any) -> str:
    """Tell which of the sections a decoder is checked against."""
    typed = value.get("_target_") if isinstance(value, dict) else None
    if typed == CROSS_DECODER or isinstance(value, CrossDecoder):
        return CROSS
    return choose_tag(value)


AnyDecoder = Annotated[
    Annotated[Decoder, Tag(OWN)]
    | Annotated[CrossDecoder, Tag(CROSS)]
    | Annotated[ForeignDecoder, Tag(FOREIGN)],
    Discriminator(_choose_decoder),
]
