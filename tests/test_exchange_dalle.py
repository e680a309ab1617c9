"""DALL-E's published encoder is read without its package, and nothing else is."""

import os
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import published_dalle
from unmask.exchange.dalle import read_dalle

CODES, WIDTH = 512, 16


@pytest.fixture(scope="module")
def published() -> nn.Module:
    return published_dalle.Encoder(WIDTH, CODES)


def save_module(module: nn.Module, path: Path, zipped: bool = True) -> Path:
    with published_dalle.package():
        torch.save(module, path, _use_new_zipfile_serialization=zipped)
    assert find_spec("dall_e") is None
    return path


@pytest.fixture
def images01() -> Tensor:
    """Two images of bold colours, one in 8 x 8 pixels, so that tokens differ."""
    colours = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(3)).round()
    return colours.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)


def test_the_pickled_module_opens_without_its_package_and_gives_its_tokens(
    published: nn.Module, images01: Tensor, tmp_path: Path
) -> None:
    encoder = read_dalle(save_module(published, tmp_path / "encoder.pkl"))
    expected = published(0.8 * images01 + 0.1).argmax(dim=1).reshape(2, 4 * 6)
    assert encoder.tokens(images01).equal(expected)
    assert len(expected.unique()) > 5
    assert (encoder.codes, encoder.channels) == (CODES, 3)
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_plain_state_dicts_are_the_same_encoder(
    published: nn.Module, images01: Tensor, tmp_path: Path
) -> None:
    state = published.state_dict()
    torch.save(state, tmp_path / "encoder.pt")
    save_file(dict(state), tmp_path / "encoder.safetensors")
    one, other = (
        read_dalle(tmp_path / name) for name in ("encoder.pt", "encoder.safetensors")
    )
    assert one.state_dict().keys() == state.keys()
    assert one.tokens(images01).equal(other.tokens(images01))
    assert all(value.equal(state[name]) for name, value in other.state_dict().items())


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_a_module_that_hides_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    module = published_dalle.Encoder(WIDTH, CODES)
    module._buffers["more"] = Malicious(tmp_path / "trace")  # type: ignore[assignment]
    save_module(module, tmp_path / "encoder.pkl")
    with pytest.raises(
        ValueError,
        match=(r"encoder.pkl holds more than tensors: .*\S+mkdir; refused"),
    ):
        read_dalle(tmp_path / "encoder.pkl")
    assert not (tmp_path / "trace").exists()


def test_a_module_with_broken_numbers_is_refused(tmp_path: Path) -> None:
    module = published_dalle.Encoder(WIDTH, CODES)
    module.blocks.input.b[0] = torch.nan  # type: ignore[union-attr, index, operator]
    with pytest.raises(
        ValueError, match=r"encoder.pkl: blocks.input.b is not finite; copy or download"
    ):
        read_dalle(save_module(module, tmp_path / "encoder.pkl"))


def test_modules_in_the_format_before_zip_are_refused_with_the_remedy(
    published: nn.Module, tmp_path: Path
) -> None:
    path = save_module(published, tmp_path / "encoder.pkl", zipped=False)
    with pytest.raises(
        ValueError,
        match=(r"encoder.pkl .*PyTorch.* before 1\.6.*state_dict\(\)"),
    ):
        read_dalle(path)


def test_modules_of_other_classes_are_refused_by_name(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.BatchNorm2d(3)), tmp_path / "other.pkl")
    with pytest.raises(
        ValueError,
        match=(r"other.pkl holds more than tensors: .*torch.nn.*BatchNorm2d; refused"),
    ):
        read_dalle(tmp_path / "other.pkl")


def test_other_files_are_refused_in_one_sentence(
    published: nn.Module, tmp_path: Path
) -> None:
    state = published.state_dict()
    lacking = OrderedDict(
        (name, value)
        for name, value in state.items()
        if name != "blocks.group_4.block_2.id_path.b"
    )
    lacking.pop("blocks.group_1.block_1.res_path.conv_1.w")
    torch.save(lacking, tmp_path / "cut.pt")
    torch.save({"encoder.weight": torch.zeros(2)}, tmp_path / "mae.pt")
    torch.save(nn.Sequential(nn.ReLU()), tmp_path / "empty.pkl")
    (tmp_path / "damaged.pkl").write_bytes(b"\x80\x02 cut")
    for name, message in {
        "cut.pt": (
            r"cut.pt does not fit DALL-E's encoder: .*Missing"
            r" key.*group_1.block_1.res_path.conv_1.w"
        ),
        "mae.pt": (
            r"mae.pt is not DALL-E's encoder: its tensors are \[encoder.weight,"
            r" .*wanted are those of https"
        ),
        "empty.pkl": r"empty.pkl is not DALL-E's encoder: its tensors are \[, ...\]",
        "damaged.pkl": r"damaged.pkl is damaged or cut short",
        "nowhere.pkl": r"nowhere.pkl: no such file or folder",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_dalle(tmp_path / name)
