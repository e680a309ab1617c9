"""What must fit together in the model: sizes, widths, masking and target."""

from collections.abc import Iterator
from math import prod

from unmask.config.groups import BlockMasking, PCATarget
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
    # without blocks nothing mixes the tokens of visible and hidden patches
    if config.decoder.depth == 0 and not config.encoder.mask_tokens:
        yield (
            "decoder.depth = 0: a linear head predicts a patch from its own token, and"
            " a mask token that the encoder has not seen knows nothing of the image;"
            " add encoder.mask_tokens=true"
        )
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
    is_grid = config.masking.target_.endswith("GridMasking")
    if is_grid and config.mask_ratio != 0.75:
        yield (
            f"mask_ratio = {config.mask_ratio}: masking=grid keeps one patch of each"
            " 2 x 2 cell; set mask_ratio=0.75"
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
    if config.init_from and config.encoder.mask_tokens and "pretrain" in config.stages:
        yield (
            f"init_from = {config.init_from}: pretrained weights have no mask tokens"
            " for the encoder; set init_from=null or encoder.mask_tokens=false"
        )
    patch, channels = config.data.patch_size, config.data.channels
    assert patch is not None
    # a patch has as many principal components as it has values
    values = patch**2 * channels
    if isinstance(config.target, PCATarget):
        components = config.target.components or 0
        if components > values:
            yield (
                f"target.components = {components}: a patch of {patch} x {patch} pixels"
                f" and {channels} channels has {values} components; the paper takes an"
                f" eighth of them: target.components={max(1, values // 8)}"
            )
    if config.tokenizer_file and channels not in (1, 3):
        yield (
            f"tokenizer.file = {config.tokenizer_file}: DALL-E's encoder takes 1 or 3"
            f" channels, not {channels}; set tokenizer.file=null"
        )


def check_block_size(config: Config) -> Iterator[str]:
    """Yield an error message where the smallest block is more than what is hidden."""
    if not isinstance(config.masking, BlockMasking):
        return
    smallest = config.masking.min_patches
    assert config.num_visible is not None
    hidden = prod(config.grid) - config.num_visible
    if smallest and smallest > hidden:
        yield (
            f"masking.min_patches = {smallest}: only {hidden} patches are hidden; set"
            f" masking.min_patches={hidden} or less"
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
        count += model.width * decoder.width
        count += decoder.depth * block * decoder.width**2
    return count
