"""For all tests: shape annotations are enforced; fixtures of a tiny autoencoder."""

from collections.abc import Callable
from pathlib import Path

from jaxtyping import install_import_hook

SOURCE = Path(__file__).parent.parent / "src"
SHAPED = [
    path
    for path in SOURCE.glob("unmask/**/*.py")
    if "from jaxtyping import" in path.read_text()
]
NAMES = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in SHAPED
]
# before anything of the package is imported
install_import_hook(NAMES, "typechecking.check")

import pytest
import torch
from torch import Tensor

from unmask.decoder import Decoder
from unmask.encoder import Encoder
from unmask.mae import MAE
from unmask.masking import Masking, RandomMasking
from unmask.randomness import Key, make_key

# test processes run side by side
torch.set_num_threads(1)

GRID, PATCH, CHANNELS = (4, 4), 2, 3


@pytest.fixture
def key() -> Key:
    return make_key(0, "test")


@pytest.fixture
def images() -> Tensor:
    """Return four normalised images of 8 x 8 pixels."""
    return torch.randn(4, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def masking(key: Key) -> Masking:
    """Return a masking with 4 of 16 visible patches in each of the four images."""
    return RandomMasking(GRID, 0.75)(key, torch.arange(4), 0)


@pytest.fixture
def make_mae() -> Callable[..., MAE]:
    """Return a function that makes an autoencoder on 4 x 4 patches of 2 x 2 pixels.

    rough: change every weight at random, so that no bias is zero.
    """

    def make(
        seed: int = 0,
        width: int = 32,
        decoder_width: int = 16,
        decoder_depth: int = 2,
        rough: bool = True,
    ) -> MAE:
        encoder = Encoder(GRID, PATCH, CHANNELS, width, depth=2, heads=4)
        decoder = Decoder(
            GRID, width, PATCH**2 * CHANNELS, decoder_width, decoder_depth, heads=4
        )
        model = MAE(encoder, decoder, seed)
        if rough:
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter += 0.1 * torch.randn(
                            parameter.shape, generator=generator
                        )
        return model

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files that start processes first: long ones at the end leave cores idle."""
    heavy = {item.path for item in items if item.get_closest_marker("process")}
    items.sort(key=lambda item: item.path not in heavy)
