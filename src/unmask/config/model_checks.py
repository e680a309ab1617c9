"""What must fit together in the model: sizes, widths, masking and target."""

from collections.abc import Iterator
from math import prod

from unmask.config.architecture import CrossDecoder, ForeignModel
from unmask.config.schema import Config

# of queries, keys, values and the projection after them; as multiples of width squared
ATTENTION_MATRICES = 4
DECODER_MLP_RATIO = 4


def check_geometry(config: Config) -> Iterator[str]:
    """Yield an error message where images, patches and mask ratio do not fit."""
    misfit = _check_image_sizes(config)
    if misfit:
        # the number of patches, on which the rest depends, has no meaning
        yield misfit
        return
    yield from _check_decoder(config)
    patches, visible = prod(config.grid), config.num_visible
    if patches < 2:
        yield (
            f"data.patch_size = {config.data.patch_size}: the image is one patch; pick"
            " a smaller one"
        )
    # a sampler of the user's is asked before the first stage: it may need torch
    elif visible is not None and not 0 < visible < patches:
        yield (
            f"mask_ratio = {config.mask_ratio}: keeps {visible} of {patches} patches;"
            f" pick one that keeps between 1 and {patches - 1}"
        )
    yield from config.masking.misfits(config.grid, config.mask_ratio)


def _check_decoder(config: Config) -> Iterator[str]:
    """Yield an error message where the decoder does not fit what it decodes."""
    decoder = config.decoder
    is_cross = isinstance(decoder, CrossDecoder)
    # without blocks nothing mixes the tokens of visible and hidden patches
    if decoder.depth == 0 and not (config.encoder.mask_tokens or is_cross):
        yield (
            "decoder.depth = 0: a linear head predicts a patch from its own token, and"
            " a mask token that the encoder has not seen knows nothing of the image;"
            " add encoder.mask_tokens=true"
        )
    if not isinstance(decoder, CrossDecoder):
        return
    if decoder.depth == 0:
        yield (
            "decoder.depth = 0: decoder=cross reads the encoder in its blocks; set"
            " decoder.depth=1 or more, or decoder=mae"
        )
    if config.encoder.mask_tokens:
        yield (
            "encoder.mask_tokens = true: decoder=cross has mask tokens of its own, that"
            " read visible patches; set encoder.mask_tokens=false, or decoder=mae"
        )
    ratio = decoder.prediction_ratio
    if ratio is not None and ratio > config.mask_ratio:
        yield (
            f"decoder.prediction_ratio = {ratio:g}: only"
            f" mask_ratio={config.mask_ratio:g} of the patches are hidden; give that or"
            " less, or null for all of them"
        )
    if ratio is not None and config.loss_on == "all":
        yield (
            f"decoder.prediction_ratio = {ratio:g}: loss_on=all predicts every patch;"
            " set loss_on=hidden, or decoder.prediction_ratio=null"
        )


def _check_image_sizes(config: Config) -> str | None:
    """Return an error for the first side that is not a multiple of patch_size."""
    patch = config.data.patch_size
    assert patch is not None
    sizes = {"data": config.data.image_size}
    for stage in config.active_stages:
        sizes[stage] = config.stage_image_size(stage)
    for section, size in sizes.items():
        for side in size:
            if side % patch:
                nearest = max(patch, round(side / patch) * patch)
                near = range(2, min(side, 2 * patch + 1))
                divisors = [divisor for divisor in near if side % divisor == 0]
                hint = (
                    f", patch sizes that divide {side}: {divisors}" if divisors else ""
                )
                return (
                    f"{section}.image_size = {side}: not a multiple of"
                    f" data.patch_size={patch}; nearest image size: {nearest}{hint}"
                )
    return None


def check_target(config: Config) -> Iterator[str]:
    """Yield an error message where the target does not fit patches or channels."""
    if config.init_from and isinstance(config.model, ForeignModel):
        yield (
            f"init_from = {config.init_from}: the weights are an Encoder's of this"
            f" project, and model._target_={config.model.target_} is yours; set"
            " init_from=null"
        )
    if config.init_from and config.encoder.mask_tokens and "pretrain" in config.stages:
        yield (
            f"init_from = {config.init_from}: pretrained weights have no mask tokens"
            " for the encoder; set init_from=null or encoder.mask_tokens=false"
        )
    patch, channels = config.data.patch_size, config.data.channels
    assert patch is not None
    yield from config.target.misfits(patch, channels)
    if config.tokenizer_file and channels not in (1, 3):
        yield (
            f"tokenizer.file = {config.tokenizer_file}: DALL-E's encoder takes 1 or 3"
            f" channels, not {channels}; set tokenizer.file=null"
        )


def check_widths(config: Config) -> Iterator[str]:
    """Yield an error message where heads or positions do not fit a width."""
    for name, part in (("model", config.model), ("decoder", config.decoder)):
        if part.width % part.heads:
            divisors = [h for h in range(1, part.width + 1) if part.width % h == 0]
            nearest = sorted(divisors, key=lambda heads: abs(heads - part.heads))[:4]
            yield (
                f"{name}.heads = {part.heads}: does not divide"
                f" {name}.width={part.width}; heads that do:"
                f" {', '.join(map(str, sorted(nearest)))}"
            )
        # a sine and a cosine, for rows and for columns
        if part.width % 4:
            multiple = max(4, round(part.width / 4) * 4)
            yield (
                f"{name}.width = {part.width}: sine-cosine positions need a multiple of"
                f" 4; nearest: {multiple}"
            )


def count_weights(config: Config, with_decoder: bool) -> float:
    """Return the number of weights in matrices of the encoder, and of the decoder."""
    model, decoder, data = config.model, config.decoder, config.data
    assert data.patch_size is not None
    block = ATTENTION_MATRICES + 2 * model.mlp_ratio
    count: float = model.width * data.patch_size**2 * data.channels
    count += model.depth * block * model.width**2
    if with_decoder and decoder.depth:
        block = ATTENTION_MATRICES + 2 * DECODER_MLP_RATIO
        # of MAE's decoder once, of CrossMAE's keys and values in each block
        reading = model.width * decoder.width
        if isinstance(decoder, CrossDecoder):
            block, reading = block - 2, 2 * decoder.depth * reading
        count += reading + decoder.depth * block * decoder.width**2
    return count
