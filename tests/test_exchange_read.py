"""Files of other projects, in every spelling, are read completely or refused in one sentence."""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foreign_weights import (
    HINTS,
    TINY,
    build_encoder,
    build_mae,
    build_weights,
    equal_tensors,
    loaded_completely,
    official_state,
    random_images,
    random_tensors,
    save_official,
)
from unmask.exchange.geometry import Hints
from unmask.exchange.load_into_model import load_encoder, load_mae
from unmask.exchange.read_weights import read_weights
from unmask.exchange.sizes import Stack
from unmask.exchange.write import write_weights


def test_official_pretraining_files_load_with_and_without_decoder(
    tmp_path: Path,
) -> None:
    state = official_state(decoder=True)
    weights, report = read_weights(
        save_official(tmp_path / "mae_visualize.pth", state), HINTS
    )
    assert (weights.layout, weights.geometry, weights.pool) == ("official", TINY, None)
    model = build_mae(TINY)
    loaded = load_mae(model, weights)
    assert len(loaded.matched) == len(model.state_dict()) == len(state)
    assert report.reshaped == {
        "encoder.patch_embed.weight": "(32, 3, 2, 2) -> (32, 12)"
    }
    assert model.decoder.head.weight.equal(state["decoder_pred.weight"])

    alone, _ = read_weights(
        save_official(tmp_path / "mae_pretrain.pth", official_state()), HINTS
    )
    encoder = build_encoder(TINY)
    assert not load_encoder(encoder, alone).missing
    assert encoder.blocks[1].attn.qkv.weight.equal(
        official_state()["blocks.1.attn.qkv.weight"]
    )
    with pytest.raises(ValueError, match=r"these weights \(official\) have no decoder"):
        load_mae(model, alone)


def test_official_heads_of_known_widths_need_no_hint(tmp_path: Path) -> None:
    weights, report = read_weights(
        save_official(tmp_path / "ti.pth", official_state(decoder=True, width=192))
    )
    assert weights.geometry.encoder.heads == 3
    assert weights.geometry.decoder == Stack(16, 2, 16, 4.0)
    assert "assumed to be 16" in report.notes[0]
    with pytest.raises(
        ValueError, match=r"width 32 is not a known ViT's \(192: 3.*add heads=N"
    ):
        read_weights(save_official(tmp_path / "odd.pth", official_state()))
    with pytest.raises(
        ValueError, match=r"heads=5 does not divide the encoder's width 32"
    ):
        read_weights(tmp_path / "odd.pth", Hints(heads=5))


def test_wrapped_names_and_a_lone_mask_token_are_understood(tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in official_state().items()}
    weights, report = read_weights(
        save_official(
            tmp_path / "ddp.pth", state | {"module.mask_token": torch.zeros(1, 1, 16)}
        ),
        HINTS,
    )
    assert weights.decoder is None
    assert list(report.dropped) == ["module.mask_token"]


def hub_model(kind: str, **more: Any) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig if "MAE" in kind else transformers.ViTConfig
    if "MAE" in kind:
        more |= {
            "decoder_hidden_size": 16,
            "decoder_num_hidden_layers": 2,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 64,
        }
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    model = getattr(transformers, kind)(
        config(image_size=8, patch_size=2, **sizes, **more)
    )
    model.load_state_dict(
        random_tensors(
            {name: value.shape for name, value in model.state_dict().items()}
        )
    )
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "kind",
    ["ViTMAEForPreTraining", "ViTMAEModel", "ViTModel", "ViTForImageClassification"],
)
@pytest.mark.parametrize("spelling", ["saved", "in memory", "pytorch_model.bin"])
def test_hugging_face_files_are_read_in_every_spelling(
    kind: str, spelling: str, tmp_path: Path
) -> None:
    model = hub_model(kind, layer_norm_eps=1e-6)
    model.save_pretrained(tmp_path)
    state = (
        model.state_dict()
        if spelling == "in memory"
        else load_file(tmp_path / "model.safetensors")
    )
    (tmp_path / "model.safetensors").unlink()
    if spelling == "pytorch_model.bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        save_file(state, tmp_path / "model.safetensors")
    weights, report = read_weights(tmp_path)
    assert (weights.layout, weights.geometry.grid, weights.geometry.encoder) == (
        "hf",
        (4, 4),
        TINY.encoder,
    )
    assert weights.geometry.decoder == (
        TINY.decoder if kind == "ViTMAEForPreTraining" else None
    )
    assert set(report.dropped) == (
        {"pooler.dense.weight", "pooler.dense.bias"} if kind == "ViTModel" else set()
    )
    assert not report.notes
    if kind == "ViTModel":
        encoder, images = build_encoder(TINY), random_images(TINY)
        load_encoder(encoder, weights)
        torch.testing.assert_close(
            encoder(images), model(images).last_hidden_state, rtol=1e-4, atol=1e-5
        )


def test_the_hubs_spelling_is_what_we_write(tmp_path: Path) -> None:
    write_weights(build_weights(TINY), tmp_path / "hf", "hf")
    names = load_file(tmp_path / "hf" / "model.safetensors").keys()
    assert "vit.encoder.layer.1.attention.attention.query.weight" in names
    assert "decoder.decoder_layers.1.intermediate.dense.bias" in names


@pytest.mark.parametrize(
    ("decoder", "kind"), [(True, "ViTMAEForPreTraining"), (False, "ViTMAEModel")]
)
def test_hugging_face_loads_what_we_write_without_a_complaint(
    decoder: bool, kind: str, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    weights, _ = read_weights(
        save_official(tmp_path / "in.pth", official_state(decoder=decoder)), HINTS
    )
    write_weights(weights, tmp_path / "hf", "hf")
    model, info = getattr(transformers, kind).from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert loaded_completely(info)
    model.save_pretrained(tmp_path / "again")
    again, _ = read_weights(tmp_path / "again")
    assert equal_tensors(again.named_tensors(), weights.named_tensors())


def test_an_epsilon_that_differs_is_noted_and_an_activation_that_differs_refused(
    tmp_path: Path,
) -> None:
    hub_model("ViTMAEModel").save_pretrained(tmp_path)
    assert (
        "layer_norm_eps=1e-12, here it is 1e-06" in read_weights(tmp_path)[1].notes[0]
    )
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"hidden_act": "relu"}, "hidden_act=relu; only gelu"),
        ({"model_type": "deit"}, "model_type deit; known: vit, vit_mae"),
        ({"num_attention_heads": "4"}, "unusable"),
        ({"num_channels": 1}, "channels=1.*channels=3"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            read_weights(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not readable as JSON"):
        read_weights(tmp_path)


def test_timms_folders_of_the_hub_say_grid_statistics_and_licence(
    tmp_path: Path,
) -> None:
    save_file(official_state(tokens=11), tmp_path / "model.safetensors")
    settings = {
        "input_size": [3, 4, 10],
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "crop_pct": 0.9,
        "license": "cc-by-nc-4.0",
    }
    config = {"architecture": "vit_tiny", "pretrained_cfg": settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights, report = read_weights(tmp_path, Hints(heads=4))
    assert (weights.layout, weights.geometry.grid) == ("timm", (2, 5))
    facts = weights.facts
    assert (facts.mean, facts.std) == ((0.5,) * 3, (0.25,) * 3)
    assert (facts.eval_crop, facts.license) == (0.9, "cc-by-nc-4.0")
    assert not report.notes


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("blocks.1.mlp.fc2.bias"),
            r"read as official: missing blocks.1.mlp.fc2.bias$",
        ),
        (
            lambda s: without("norm.weight")(s) | {"nrom.weight": s["norm.weight"]},
            r"missing norm.weight; unexpected nrom.weight$",
        ),
        (lambda s: s | {"reg_token": torch.zeros(1, 4, 32)}, r"unexpected reg_token$"),
        (
            lambda s: s | {"blocks.0.ls1.gamma": torch.zeros(32)},
            r"unexpected blocks.0.ls1.gamma$",
        ),
        (
            lambda s: s | {"norm.weight": torch.zeros(31)},
            r"encoder.norm.weight is \(31,\), not \(32,\)$",
        ),
        (
            lambda s: s | {"pos_embed": torch.zeros(1, 16, 32)},
            (
                r"15 positions are no square; give grid=\[rows,columns\], one of"
                r" \[1,15\] \[3,5\]"
            ),
        ),
        (
            lambda s: s | {"patch_embed.proj.weight": torch.zeros(32, 12)},
            r"kernel is \(32, 12\), not",
        ),
        (lambda s: s | {"cls_token": torch.tensor(0.0)}, r"its shapes make no model"),
        (
            lambda s: s | {"blocks.900000000.norm1.weight": torch.zeros(32)},
            r"block 900000000, but only 3 of them",
        ),
        (
            lambda s: (
                s
                | {
                    "fc_norm.weight": torch.zeros(32),
                    "fc_norm.bias": torch.zeros(32),
                }
            ),
            r"has norm and fc_norm",
        ),
        (
            lambda s: s | {"decoder_embed.weight": torch.zeros(16, 32)},
            r"missing decoder_blocks.0.*and 11 more",
        ),
        (
            lambda s: s | {"module.norm.weight": s["norm.weight"]},
            r"several names mean norm.weight",
        ),
        (
            lambda s: {k.replace("blocks", "layers"): v for k, v in s.items()},
            r"unexpected layers.0.attn",
        ),
        (
            lambda s: {"conv1.weight": torch.zeros(4, 3, 7, 7)},
            r"no known layout: its first names are conv1.weight; known are the official",
        ),
        (lambda s: {}, r"no.* file of named tensors: it holds model, optimizer, epoch"),
    ],
)
def test_an_incomplete_file_gets_one_sentence(
    change: Callable[[dict[str, Tensor]], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    path = save_official(tmp_path / "bad.pth", change(official_state()))
    with pytest.raises(ValueError, match=message) as raised:
        read_weights(path, HINTS)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_files_cut_short_empty_or_of_another_kind_get_one_sentence(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"weights.{suffix}"
    write_weights(
        build_weights(TINY),
        path,
        "safetensors" if suffix == "safetensors" else "official",
    )
    complete = path.read_bytes()
    for content, message in (
        (complete[: len(complete) // 2], "damaged or cut short"),
        (complete[:50], "damaged or cut short"),
        (b"", "is empty: 0 bytes"),
        (
            b"<html>not found</html>",
            (
                "damaged or cut short|neither a PyTorch nor a safetensors file: it"
                " begins with"
            ),
        ),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message) as raised:
            read_weights(path)
        assert "\n" not in str(raised.value)
    torch.save([1, 2], path.with_suffix(".list"))
    with pytest.raises(ValueError, match="holds a list, not named tensors"):
        read_weights(path.with_suffix(".list"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda value: value * float("nan"), "norm.weight is not finite"),
        (
            lambda value: value.long(),
            "norm.weight is of torch.int64; weights are floating point",
        ),
        (lambda value: value.to_sparse(), "norm.weight is a sparse tensor"),
    ],
    ids=["nan", "integers", "sparse"],
)
def test_tensors_that_cannot_be_weights_are_named(
    spoil: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    tensors = official_state()
    with pytest.raises(ValueError, match=message):
        read_weights(
            save_official(
                tmp_path / "bad.pth",
                tensors | {"norm.weight": spoil(tensors["norm.weight"])},
            ),
            HINTS,
        )


def test_places_without_weights_get_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        read_weights(tmp_path / "none")
    with pytest.raises(
        ValueError,
        match=r"holds neither model.safetensors nor pytorch_model.bin nor checkpoints",
    ):
        read_weights(tmp_path)
    # the folder of a stage
    (tmp_path / "knn" / "checkpoints").mkdir(parents=True)
    (tmp_path / "knn" / "config.yaml").touch()
    with pytest.raises(ValueError, match="is a stage without weights: measurements"):
        read_weights(tmp_path / "knn")
    (tmp_path / "knn" / "checkpoints" / "step=00000001.damaged").touch()
    with pytest.raises(ValueError, match=r"damaged checkpoints alone \(step=00000001"):
        read_weights(tmp_path / "knn")
    bare = {
        f"encoder.{name}": value for name, value in build_weights(TINY).encoder.items()
    }
    save_file(bare, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match=r"does not say how many channels"):
        read_weights(tmp_path / "bare.safetensors", HINTS)


class Intruder:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_wants_to_run_code_is_refused_and_leaves_no_trace(
    zipped: bool, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    content = {
        "model": official_state(),
        "args": argparse.Namespace(hook=Intruder(trace)),
    }
    torch.save(content, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        ValueError,
        match=(r"holds more than tensors: .*posix.mkdir; refused"),
    ) as raised:
        read_weights(tmp_path / "bad.pth", HINTS)
    assert "\n" not in str(raised.value)
    assert not trace.exists()


def test_a_target_that_exists_stays_without_overwrite(tmp_path: Path) -> None:
    weights, path, folder = build_weights(TINY), tmp_path / "there", tmp_path / "folder"
    path.write_text("mine")
    with pytest.raises(
        ValueError, match=r"there exists; give another place or add overwrite=true"
    ):
        write_weights(weights, path, "timm")
    assert path.read_text() == "mine"
    with pytest.raises(ValueError, match=r"is a file; layout=hf writes a folder"):
        write_weights(weights, path, "hf", overwrite=True)
    write_weights(weights, path, "timm", overwrite=True)
    assert equal_tensors(read_weights(path)[0].encoder, weights.encoder)
    write_weights(weights, folder, "hf")
    with pytest.raises(ValueError, match=r"folder exists; give"):
        write_weights(weights, folder, "hf")
    write_weights(weights, folder, "hf", overwrite=True)
    with pytest.raises(ValueError, match=r"is a folder; layout=timm writes a file"):
        write_weights(weights, folder, "timm", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "there"]


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unmask.exchange.write.safetensors_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_weights(build_weights(TINY), tmp_path / "out.safetensors", "timm")
    assert not list(tmp_path.iterdir())
