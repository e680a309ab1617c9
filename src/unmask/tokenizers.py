"""Images as discrete tokens, one per patch, for targets in the way of BEiT (MAE Table 1d, "dVAE token").

Two dVAEs (Ramesh et al. 2021, arXiv 2102.12092, Sec. 2.1): the encoder of DALL-E's, for its published weights, and a
small one to train on any data set. Both have `codes` and `tokens(images)` in the order of unmask.patches.
"""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unmask.initialisation import initialise_normal
from unmask.patches import unpatchify

# pixels are squeezed to [0.1, 0.9], as the published encoder was trained on them
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
    """A bottleneck of a quarter of the width; what it adds is scaled by `gain`."""

    def __init__(self, in_width: int, out_width: int, gain: float) -> None:
        super().__init__()
        inner = out_width // 4
        self.gain = gain
        self.id_path = (
            PlainConv(in_width, out_width, 1)
            if in_width != out_width
            else nn.Identity()
        )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        widths, sides = (in_width, inner, inner, inner, out_width), (3, 3, 3, 1)
        for i, side in enumerate(sides):
            layers[f"relu_{i + 1}"] = nn.ReLU()
            layers[f"conv_{i + 1}"] = PlainConv(widths[i], widths[i + 1], side)
        self.res_path = nn.Sequential(layers)

    def forward(self, maps_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        return self.id_path(maps_BCHW) + self.gain * self.res_path(maps_BCHW)


class DallEEncoder(nn.Module):
    """DALL-E's image encoder (Ramesh et al. 2021, Appendix A.1), with the published state dict's names.

    Frozen and without weights of its own: exchange.dalle reads them.
    """

    def __init__(
        self, codes: int = DALLE_CODES, width: int = 256, channels: int = 3
    ) -> None:
        super().__init__()
        self.codes, self.channels = codes, channels
        groups, depth = 4, 2
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            input=PlainConv(channels, width, 7)
        )
        here = width
        for group in range(groups):
            inside: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(depth):
                inside[f"block_{block + 1}"] = ResidualBlock(
                    here, width * 2**group, gain=(groups * depth) ** -2
                )
                here = width * 2**group
            if group < groups - 1:
                inside["pool"] = nn.MaxPool2d(2)
            layers[f"group_{group + 1}"] = nn.Sequential(inside)
        layers["output"] = nn.Sequential(
            OrderedDict(relu=nn.ReLU(), conv=PlainConv(here, codes, 1))
        )
        self.blocks = nn.Sequential(layers)
        self.requires_grad_(False)

    @torch.no_grad()
    def tokens(self, images01_BCHW: Float[Tensor, "B C H W"]) -> Int[Tensor, "B L"]:
        """One token for each 8 x 8 pixels of images in [0, 1]; float32 whatever the autocast.

        Raises ValueError for sides that are no multiple of 8 and for other counts of channels.
        """
        _, channels, height, width = images01_BCHW.shape
        if channels != self.channels or height % DOWNSAMPLING or width % DOWNSAMPLING:
            raise ValueError(
                f"images of {channels} channels and {height} x {width} pixels; DALL-E's"
                f" encoder takes {self.channels} channels and sides that are multiples"
                f" of {DOWNSAMPLING}: resize them first"
            )
        with torch.autocast(images01_BCHW.device.type, enabled=False):
            squeezed = (
                1 - 2 * LOGIT_LAPLACE_EPS
            ) * images01_BCHW.float() + LOGIT_LAPLACE_EPS
            return self.blocks(squeezed).argmax(dim=1).flatten(1)


class DallETokenizer(nn.Module):
    """DALL-E's tokens on the grid of an MAE, of images as the MAE sees them (normalised by mean and std).

    BEiT (Bao et al. 2021) resizes by Lanczos's filter to 8 pixels a token, 112 for a grid of 14; grey becomes RGB.
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
        self.encoder, self.grid, self.codes = encoder, grid, encoder.codes
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    @torch.no_grad()
    def tokens(self, images_BCHW: Float[Tensor, "B C H W"]) -> Int[Tensor, "B L"]:
        with torch.autocast(images_BCHW.device.type, enabled=False):
            pixels = images_BCHW.float() * self.std + self.mean
            resized = resize(
                pixels, (DOWNSAMPLING * self.grid[0], DOWNSAMPLING * self.grid[1])
            ).clamp(0, 1)
        return self.encoder.tokens(resized.expand(-1, self.encoder.channels, -1, -1))


def resize(
    images_BCHW: Float[Tensor, "B C H W"], shape: tuple[int, int]
) -> Float[Tensor, "B C h w"]:
    """Lanczos resampling to (height, width), antialiased as Pillow's: torch has none."""
    rows, columns = (
        lanczos(old, new).to(images_BCHW)
        for old, new in zip(images_BCHW.shape[2:], shape, strict=True)
    )
    return rows @ images_BCHW @ columns.T


def lanczos(old: int, new: int, lobes: int = 3) -> Float[Tensor, "new old"]:
    """The weights of `old` pixels in each of `new`: a windowed sinc as wide as the coarser of the two grids."""
    scale = max(1.0, old / new)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * (old / new)
    distance = (torch.arange(old, dtype=torch.float64) + 0.5 - centres[:, None]) / scale
    weights = torch.where(
        distance.abs() < lobes, torch.sinc(distance) * torch.sinc(distance / lobes), 0.0
    )
    return (weights / weights.sum(dim=1, keepdim=True)).float()


class SmallTokenizer(nn.Module):
    """A small dVAE: every patch is one of `codes`, relaxed by Gumbel's noise to be learnt (Jang et al. 2017).

    Images are those that the MAE sees. The encoder sees two pixels beyond a patch, the decoder the patches around it.
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
        self.patch_size, self.channels, self.codes = patch_size, channels, codes
        fine = max(8, width // 4)  # at full resolution
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
        for name, parameter in self.named_parameters():
            # He et al. 2015, as every convolution but the outermost feeds a ReLU
            if parameter.ndim == 4:
                initialise_normal(
                    parameter, math.sqrt(2 / parameter[0].numel()), seed, name
                )
            elif name == "codebook":
                initialise_normal(parameter, 1.0, seed, name)
            else:
                nn.init.zeros_(parameter)

    def logits(self, images_BCHW: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K h w"]:
        """Raises ValueError where the patch does not divide the image."""
        height, width = images_BCHW.shape[2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"patch_size={self.patch_size} does not divide an image of {height} x"
                f" {width} pixels"
            )
        return self.encoder(images_BCHW)

    @torch.no_grad()
    def tokens(self, images_BCHW: Float[Tensor, "B C H W"]) -> Int[Tensor, "B L"]:
        """The most probable code of each patch; float32 whatever the autocast."""
        with torch.autocast(images_BCHW.device.type, enabled=False):
            return self.logits(images_BCHW.float()).argmax(dim=1).flatten(1)

    def loss(
        self,
        images_BCHW: Float[Tensor, "B C H W"],
        noise_BLK: Float[Tensor, "B L K"],
        temperature: float,
        usage_weight: float = 0.0,
    ) -> Float[Tensor, ""]:
        """Squared error of the relaxed reconstruction + usage_weight * KL(mean code probabilities || uniform), nats.

        noise: uniform numbers in [0, 1). The mean is over all patches of the batch (the diversity loss of wav2vec
        2.0, Baevski et al. 2020, Eq. 4), so unlike the error it depends on how many images come at once.
        """
        logits_BKhw = self.logits(images_BCHW).float()
        grid = (logits_BKhw.shape[2], logits_BKhw.shape[3])
        scores_BLK = logits_BKhw.flatten(2).mT.contiguous()
        # of 2**24 equally likely values zero alone would be noise of infinite size
        gumbel_BLK = -(-noise_BLK.clamp(min=2.0**-25).log()).log()
        relaxed_BLK = ((scores_BLK + gumbel_BLK) / temperature).softmax(dim=-1)
        error = (
            (self.decode(relaxed_BLK, grid).float() - images_BCHW.float())
            .square()
            .mean()
        )
        if not usage_weight:
            return error
        usage_K = scores_BLK.softmax(dim=-1).mean(dim=(0, 1))
        return error + usage_weight * (
            math.log(self.codes) - torch.special.entr(usage_K).sum()
        )

    def decode(
        self, weights_BLK: Float[Tensor, "B L K"], grid: tuple[int, int]
    ) -> Float[Tensor, "B C H W"]:
        """Images from mixtures of codes, or from codes as one-hot vectors, on a grid of (rows, columns)."""
        coarse_BDhw = self.around((weights_BLK @ self.codebook).mT.unflatten(2, grid))
        return unpatchify(coarse_BDhw.flatten(2).mT, grid, self.channels)

    def reconstruct(
        self, tokens_BL: Int[Tensor, "B L"], grid: tuple[int, int]
    ) -> Float[Tensor, "B C H W"]:
        return self.decode(F.one_hot(tokens_BL, self.codes).to(self.codebook), grid)
