"""Weights are found in whatever people save around them, and the table says which."""

import argparse
import collections
import enum
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from foreign_weights import HINTS, equal_tensors, official_state
from unmask.exchange.read_weights import read_weights

State = dict[str, Any]


class Mode(enum.Enum):
    FAST = 1


class Attributes(dict):
    """Lightning's hyper_parameters are such a dictionary."""


class Wrapped(nn.Module):
    """A module that is pickled whole; its class is unknown where it is read."""

    def __init__(self, state: State) -> None:
        super().__init__()
        for name, value in state.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(last, nn.Parameter(value))


def prefixed(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def other(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


WRAPPERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda s: s,
    "DeepSpeed": lambda s: {"module": s, "ds_version": "0.15", "lr_scheduler": None},
    "two levels": lambda s: {"state": {"model": s, "rng": np.random.rand(3)}},
    "DDP": lambda s: prefixed("module.", s),
    "DDP below a key": lambda s: {"model_state_dict": prefixed("module.", s)},
    "torch.compile": lambda s: {"model": prefixed("_orig_mod.", s)},
    "compiled DDP": lambda s: prefixed("module._orig_mod.", s),
    "compiled blocks": lambda s: {
        name.replace("blocks.1.", "blocks.1._orig_mod."): v for name, v in s.items()
    },
    "FSDP": lambda s: prefixed("_fsdp_wrapped_module.", s),
    "backbone": lambda s: {"state_dict": prefixed("backbone.", s)},
    "encoder": lambda s: prefixed("encoder.", s),
    "deep": lambda s: prefixed("model.visual.trunk.", s),
    "Lightning": lambda s: {
        "state_dict": prefixed("model.", s) | {"criterion.weight": torch.ones(3)},
        "hyper_parameters": Attributes(lr=1e-3, root=pathlib.PurePosixPath("/data")),
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "pytorch-lightning_version": "2.0",
    },
    "EMA beside": lambda s: {"model": s, "model_ema": other(s), "epoch": 3},
    "timm with EMA": lambda s: {
        "state_dict": s,
        "state_dict_ema": other(s),
        "args": argparse.Namespace(img_size=8, model="vit", mode=Mode.FAST),
        "metric": np.float64(81.2),
    },
    "student and teacher": lambda s: {"student": s, "teacher": other(s)},
    "EMA by prefix": lambda s: {
        "state_dict": prefixed("net.", s) | prefixed("net_ema.module.", other(s))
    },
    "torch's average": lambda s: (
        prefixed("module.", s) | {"n_averaged": torch.tensor(3)}
    ),
    "entries between": lambda s: {**s, "epoch": 3, "loss": np.float32(0.1)},
    "OmegaConf": lambda s: {"model": s, "cfg": OmegaConf.create({"lr": [1, 2]})},
    "numpy and paths": lambda s: {
        "model": s,
        "best": np.float32(1.5),
        "history": [np.int64(3), np.arange(3)],
        "folder": pathlib.PosixPath("/data"),
        "window": collections.deque([1.0, 2.0], maxlen=5),
        "counts": collections.defaultdict(list, {"a": [1]}),
    },
    "a whole module": Wrapped,
    "a module below a key": lambda s: {"model": Wrapped(s), "epoch": 3},
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_weights_are_read_from_what_people_save_around_them(
    kind: str, tmp_path: pathlib.Path
) -> None:
    expected, _ = read_weights(save(official_state(), tmp_path / "plain.pth"), HINTS)
    path = save(WRAPPERS[kind](official_state()), tmp_path / "wrapped.pth")
    weights, _ = read_weights(path, HINTS)
    assert equal_tensors(weights.named_tensors(), expected.named_tensors())
    assert weights.geometry == expected.geometry


@pytest.mark.parametrize("kind", ["bare", "numpy and paths", "DDP"])
def test_the_format_before_zip_is_read_as_well(
    kind: str, tmp_path: pathlib.Path
) -> None:
    content = WRAPPERS[kind](official_state())
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    weights, _ = read_weights(tmp_path / "old.pth", HINTS)
    assert weights.encoder["cls_token"].equal(official_state()["cls_token"])


@pytest.mark.parametrize(
    ("kind", "choice"),
    [
        ("EMA beside", "model_ema"),
        ("timm with EMA", "state_dict_ema"),
        ("student and teacher", "teacher"),
        ("EMA by prefix", "net_ema"),
    ],
)
def test_an_average_is_named_and_taken_where_it_is_chosen(
    kind: str, choice: str, tmp_path: pathlib.Path
) -> None:
    path = save(WRAPPERS[kind](official_state()), tmp_path / "ema.pth")
    _, plain = read_weights(path, HINTS)
    assert any("not taken" in note and "weights=ema" in note for note in plain.notes)
    for typed in ("ema", choice):
        weights, report = read_weights(path, HINTS, choice=typed)
        expected = official_state()["cls_token"] + 1
        assert weights.encoder["cls_token"].equal(expected)
        assert any("weights taken" in note for note in report.notes)
    with pytest.raises(ValueError, match=r"no weights=swa; it has weights="):
        read_weights(path, HINTS, choice="swa")


def test_several_sets_of_weights_are_asked_for(tmp_path: pathlib.Path) -> None:
    state = official_state()
    path = save({"actor": state, "critic": other(state)}, tmp_path / "two.pth")
    with pytest.raises(ValueError, match=r"choose one: weights=actor, weights=critic"):
        read_weights(path, HINTS)
    weights, _ = read_weights(path, HINTS, choice="critic")
    assert weights.encoder["cls_token"].equal(state["cls_token"] + 1)


def test_the_report_names_what_was_not_taken(tmp_path: pathlib.Path) -> None:
    content = WRAPPERS["Lightning"](official_state())
    _, report = read_weights(save(content, tmp_path / "lightning.ckpt"), HINTS)
    assert "does not begin with model." in report.dropped["criterion.weight"]
    text = " ".join(report.notes)
    assert "weights taken: state_dict.model" in text
    assert "not taken: hyper_parameters, callbacks" in text


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("shutil.rmtree", "rmtree"),
        ("subprocess.Popen", "Popen"),
        ("builtins.eval", "eval"),
    ],
)
def test_what_would_run_a_program_is_refused_beside_good_weights(
    name: str, function: str, tmp_path: pathlib.Path
) -> None:
    import importlib

    module = importlib.import_module(name.partition(".")[0])

    class Intruder:
        def __reduce__(self) -> Any:
            return getattr(module, function), (str(tmp_path / "trace"),)

    path = save({"model": official_state(), "more": Intruder()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=rf"it wants {name}; refused"):
        read_weights(path, HINTS)


def test_a_torchscript_program_is_refused_with_the_remedy(
    tmp_path: pathlib.Path,
) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(ValueError, match=r"TorchScript.*save its state_dict"):
        read_weights(tmp_path / "script.pt")


def save(content: Any, path: pathlib.Path) -> pathlib.Path:
    torch.save(content, path)
    return path


def test_shapes_are_read_without_a_tensor(tmp_path: pathlib.Path) -> None:
    from unmask.exchange.header import read_header
    from unmask.exchange.selection import select_weights

    state: dict[str, Tensor] = official_state(decoder=True)
    header = read_header(save({"model": state}, tmp_path / "mae.pth"))
    shapes = {n: value.shape for n, value in select_weights(header).tensors.items()}
    assert shapes == {name: tuple(value.shape) for name, value in state.items()}
