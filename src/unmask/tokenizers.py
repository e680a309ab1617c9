"""Images as discrete tokens, one for each patch, as targets (Table 1d, "dVAE token").

Two dVAEs (Ramesh et al. 2021, arXiv 2102.12092, Sec. 2.1): DALL-E's encoder, for its
published weights, and a small one to train on any data set. Both have `codes` and
`tokens(images)`, which returns the tokens in the order of unmask.patches.
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask.initialisation import initialise_normal
from unmask.patches import unpatchify

# pixels are mapped to [0.1, 0.9], as in the training of the published encoder
LOGIT_LAPLACE_EPS = 0.1
DOWNSAMPLING = 8
DALLE_CODES = 8192


class PlainConv(nn.Module):
    """A padded convolution whose parameters have the published names, `w` and `b`."""

    def __init__(self, in_width: int, out_width: int, side: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(out_width, in_width, side, side))
        self.b = nn.Parameter(torch.zeros(out_width))

    def forward(self, maps_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return F.conv2d(maps_BCHW, self.w, self.b, padding=self.w.shape[2] // 2)


class ResidualBlock(nn.Module):
    """Add a bottleneck of a quarter of the width, scaled by `gain`, to the input."""

    def __init__(self, in_width: int, out_width: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.id_path: nn.Module = nn.Identity()
        if in_width != out_width:
            self.id_path = PlainConv(in_width, out_width, 1)
        inner = out_width // 4
        widths = (in_width, inner, inner, inner, out_width)
        sides = (3, 3, 3, 1)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, side in enumerate(sides):
            layers[f"relu_{i + 1}"] = nn.ReLU()
            layers[f"conv_{i + 1}"] = PlainConv(widths[i], widths[i + 1], side)
        self.res_path = nn.Sequential(layers)

    def forward(self, maps_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return self.id_path(maps_BCHW) + self.gain * self.res_path(maps_BCHW)


class DallEEncoder(nn.Module):
    """DALL-E's image encoder (Ramesh et al. 2021, Appendix A.1), frozen.

    Parameters have the published state dict's names. They start at zero;
    unmask.exchange.dalle reads the published weights.
    """

    def __init__(
        self, codes: int = DALLE_CODES, width: int = 256, channels: int = 3
    ) -> None:
        super().__init__()
        self.codes = codes
        self.channels = channels
        num_groups = 4
        blocks_per_group = 2
        # as published: 1 over the square of the number of blocks
        gain = (num_groups * blocks_per_group) ** -2
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            input=PlainConv(channels, width, 7)
        )
        in_width = width
        for group in range(num_groups):
            out_width = width * 2**group
            blocks: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(blocks_per_group):
                blocks[f"block_{block + 1}"] = ResidualBlock(in_width, out_width, gain)
                in_width = out_width
            # three poolings by 2 make the 8 pixels of a token
            if group < num_groups - 1:
                blocks["pool"] = nn.MaxPool2d(2)
            layers[f"group_{group + 1}"] = nn.Sequential(blocks)
        layers["output"] = nn.Sequential(
            OrderedDict(relu=nn.ReLU(), conv=PlainConv(in_width, codes, 1))
        )
        self.blocks = nn.Sequential(layers)
        self.requires_grad_(False)

    @torch.no_grad()
    def tokens(self, images01_BCHW: Float[Tensor, "B C H W"]) -> Int[Tensor, "B L"]:
        """Return one token for each 8 x 8 pixels of images in [0, 1].

        In float32 also under autocast. Raises ValueError for sides that are no multiple
        of 8 and for another number of channels.
        """
        _, channels, height, width = images01_BCHW.shape
        if channels != self.channels or height % DOWNSAMPLING or width % DOWNSAMPLING:
            raise ValueError(
                f"images of {channels} channels and {height} x {width} pixels; DALL-E's"
                f" encoder takes {self.channels} channels and sides that are multiples"
                f" of {DOWNSAMPLING}: resize them first"
            )
        with torch.autocast(images01_BCHW.device.type, enabled=False):
            scale = 1 - 2 * LOGIT_LAPLACE_EPS
            mapped = scale * images01_BCHW.float() + LOGIT_LAPLACE_EPS
            return self.blocks(mapped).argmax(dim=1).flatten(1)


class DallETokenizer(nn.Module):
    """DALL-E's tokens of normalised images, one for each patch of an MAE's grid.

    As in BEiT (Bao et al. 2021) images are resized by a Lanczos filter to 8 pixels a
    token: 112 pixels for a grid of 14. Grey images become RGB. The normalisation by
    mean and std is undone.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: DallEEncoder,
        grid: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        if len(mean) not in (1, encoder.channels):
            raise ValueError(
                f"images of {len(mean)} channels; DALL-E's tokens are of 1 (grey) or"
                f" {encoder.channels}"
            )
        self.encoder = encoder
        self.grid = grid
        self.codes = encoder.codes
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    @torch.no_grad()
    def tokens(self, images_BCHW: Float[Tensor, "B C H W"]) -> Int[Tensor, "B L"]:
        """Return the most probable code of each patch."""
        rows, cols = self.grid
        with torch.autocast(images_BCHW.device.type, enabled=False):
            pixels = images_BCHW.float() * self.std + self.mean
            shape = (DOWNSAMPLING * rows, DOWNSAMPLING * cols)
            # Lanczos overshoots at edges
            resized = lanczos_resize(pixels, shape).clamp(0, 1)
        return self.encoder.tokens(resized.expand(-1, self.encoder.channels, -1, -1))


def lanczos_resize(
    images_BCHW: Float[Tensor, "B C H W"], shape: tuple[int, int]
) -> Float[Tensor, "B C h w"]:
    """Resize to (height, width) as Pillow's antialiased Lanczos: torch has none."""
    rows, columns = (
        lanczos_weights(old_size, new_size).to(images_BCHW)
        for old_size, new_size in zip(images_BCHW.shape[2:], shape, strict=True)
    )
    return rows @ images_BCHW @ columns.T


def lanczos_weights(
    old_size: int, new_size: int, lobes: int = 3
) -> Float[Tensor, "new old"]:
    """Return the weights of the old pixels in each new one: a windowed sinc."""
    # as wide as the coarser of the two grids: this is what prevents aliasing
    scale = max(1.0, old_size / new_size)
    centres = torch.arange(new_size, dtype=torch.float64) + 0.5
    centres = centres * (old_size / new_size)
    pixels = torch.arange(old_size, dtype=torch.float64) + 0.5
    distance = (pixels - centres[:, None]) / scale
    window = torch.sinc(distance) * torch.sinc(distance / lobes)
    weights = torch.where(distance.abs() < lobes, window, 0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


class SmallTokenizer(nn.Module):
    """A small dVAE on normalised images: every patch is one of `codes`.

    It is trained with the Gumbel-softmax relaxation (Jang et al. 2017). The encoder
    sees two pixels beyond a patch, the decoder the patches around it.
    """

    def __init__(
        self,
        patch_size: int,
        channels: int,
        codes: int = 256,
        width: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.channels = channels
        self.codes = codes
        # the width at full resolution
        fine = max(8, width // 4)
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, fine, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(fine, width, patch_size, stride=patch_size),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, codes, 1),
        )
        self.codebook = nn.Parameter(torch.zeros(codes, width))
        self.around = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, patch_size**2 * channels, 1),
        )
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        for name, parameter in self.named_parameters():
            # He et al. 2015: all convolutions but the outermost feed a ReLU
            if parameter.ndim == 4:
                std = math.sqrt(2 / parameter[0].numel())
                initialise_normal(parameter, std, seed, name)
            elif name == "codebook":
                initialise_normal(parameter, 1.0, seed, name)
            else:
                nn.init.zeros_(parameter)

    def logits(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K h w"]:
        """Return the score of each code for each patch.

        Raises ValueError where the patch size does not divide the image.
        """
        height, width = images_BCHW.shape[2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"patch_size={self.patch_size} does not divide an image of {height} x"
                f" {width} pixels"
            )
        return self.encoder(images_BCHW)

    @torch.no_grad()
    def tokens(self, images_BCHW: Float[Tensor, "B C H W"]) -> Int[Tensor, "B L"]:
        """Return each patch's most probable code; in float32 also under autocast."""
        with torch.autocast(images_BCHW.device.type, enabled=False):
            return self.logits(images_BCHW.float()).argmax(dim=1).flatten(1)

    def loss(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        noise_BLK: Float[Tensor, "B L K"],
        temperature: float,
        usage_weight: float = 0.0,
    ) -> Float[Tensor, ""]:
        """Return the squared error of the relaxed reconstruction + usage_weight * KL.

        noise: uniform numbers in [0, 1). KL(mean code probabilities || uniform), in
        nats, keeps all codes in use (the diversity loss of wav2vec 2.0, Baevski et al.
        2020, Eq. 4). The mean is over all patches of the batch, so unlike the error it
        depends on the size of a micro-batch.
        """
        logits_BKhw = self.logits(images_BCHW).float()
        grid = (logits_BKhw.shape[2], logits_BKhw.shape[3])
        scores_BLK = logits_BKhw.flatten(2).mT.contiguous()
        # The noise has 2**24 equally likely values, of which zero alone would give
        # infinite Gumbel noise.
        gumbel_BLK = -(-noise_BLK.clamp(min=2.0**-25).log()).log()
        relaxed_BLK = ((scores_BLK + gumbel_BLK) / temperature).softmax(dim=-1)
        reconstruction_BCHW = self.decode(relaxed_BLK, grid).float()
        error = (reconstruction_BCHW - images_BCHW.float()).square().mean()
        if not usage_weight:
            return error
        # KL(p || uniform) = log K - H(p)
        usage_K = scores_BLK.softmax(dim=-1).mean(dim=(0, 1))
        entropy = torch.special.entr(usage_K).sum()
        return error + usage_weight * (math.log(self.codes) - entropy)

    def decode(
        self, weights_BLK: Float[Tensor, "B L K"], grid: tuple[int, int]
    ) -> Float[Tensor, "B C H W"]:
        """Return images from mixtures of codes on a grid of (rows, columns)."""
        vectors_BLD = weights_BLK @ self.codebook
        patches_BPhw = self.around(vectors_BLD.mT.unflatten(2, grid))
        return unpatchify(patches_BPhw.flatten(2).mT, grid, self.channels)

    def reconstruct(
        self, tokens_BL: Int[Tensor, "B L"], grid: tuple[int, int]
    ) -> Float[Tensor, "B C H W"]:
        """Return images from one code for each patch."""
        one_hot_BLK = F.one_hot(tokens_BL, self.codes).to(self.codebook)
        return self.decode(one_hot_BLK, grid)
