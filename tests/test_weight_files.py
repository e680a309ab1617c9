"""Weights in several files are found and read as one set, or refused with the remedy."""

import json
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from foreign_weights import HINTS, equal_tensors, official_state
from unmask.commands.cli import parse
from unmask.commands.convert import Convert
from unmask.commands.convert import run as convert
from unmask.commands.predict import run as predict
from unmask.commands.predict.arguments import Predict
from unmask.commands.reconstruct import Reconstruct
from unmask.commands.reconstruct import run as reconstruct
from unmask.config.checks import ConfigError
from unmask.exchange.read_weights import read_weights
from unmask.stages.fingerprint import weights_identity

State = dict[str, Tensor]


def in_shards(folder: Path, state: State, ending: str, count: int = 3) -> list[Path]:
    """Save as Hugging Face saves large models: shards, and an index of their names."""
    folder.mkdir()
    stem = "model" if ending == "safetensors" else "pytorch_model"
    paths = [
        folder / f"{stem}-{k + 1:05d}-of-{count:05d}.{ending}" for k in range(count)
    ]
    weight_map = {}
    for k, path in enumerate(paths):
        names = list(state)[k::count]
        part = {name: state[name].contiguous() for name in names}
        save_file(part, path) if ending == "safetensors" else torch.save(part, path)
        weight_map |= dict.fromkeys(names, path.name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    return paths


def refused(location: Path) -> str:
    with pytest.raises(ValueError, match=str(location.parent)) as raised:
        read_weights(location, HINTS)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shards_are_read_as_the_file_that_they_were_cut_from(
    ending: str, tmp_path: Path
) -> None:
    state = official_state(decoder=True)
    torch.save(state, tmp_path / "whole.pth")
    whole, _ = read_weights(tmp_path / "whole.pth", HINTS)
    folder = tmp_path / "shards"
    paths = in_shards(folder, state, ending)
    for location in (folder, *folder.glob("*.index.json")):
        joined, report = read_weights(location, HINTS)
        assert equal_tensors(joined.named_tensors(), whole.named_tensors())
        assert len(report.matched) + len(report.reshaped) == len(whole.named_tensors())
    # every shard counts
    before = weights_identity(str(folder))
    changed = {name: value + 1 for name, value in torch_state(paths[1]).items()}
    save_file(changed, paths[1]) if ending == "safetensors" else torch.save(
        changed, paths[1]
    )
    assert weights_identity(str(folder)) != before


def torch_state(path: Path) -> State:
    from safetensors.torch import load_file

    return load_file(path) if path.suffix == ".safetensors" else torch.load(path)


def test_shards_that_are_missing_or_given_alone_are_named(tmp_path: Path) -> None:
    paths = in_shards(tmp_path / "shards", official_state(), "safetensors")
    assert f"give their folder {paths[0].parent}" in refused(paths[0])
    paths[1].unlink()
    message = refused(tmp_path / "shards")
    assert f"{paths[1]} is missing (1 of 3 shards are); copy it" in message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "weight_map"),
        ("[", "not readable"),
        ('{"weight_map": {}}', "lists no files"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "shards beside it"),
        ('{"weight_map": {"a": 3}}', "not readable"),
    ],
)
def test_an_index_that_lists_no_shards_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    assert message in refused(tmp_path)


def test_a_name_in_two_shards_is_refused(tmp_path: Path) -> None:
    state = official_state()
    paths = in_shards(tmp_path / "shards", state, "bin")
    torch.save(state, paths[0])
    assert "both hold" in refused(tmp_path / "shards")


def deepspeed(folder: Path, names: Iterable[str], content: Any) -> Path:
    (folder / "global_step10").mkdir(parents=True)
    (folder / "latest").write_text("global_step10\n")
    for name in names:
        torch.save(content, folder / "global_step10" / name)
    return folder


def test_deepspeeds_folder_is_read_and_zeros_shards_are_refused_with_the_script(
    tmp_path: Path,
) -> None:
    state = official_state()
    torch.save(state, tmp_path / "whole.pth")
    whole, _ = read_weights(tmp_path / "whole.pth", HINTS)
    optimiser = "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    names = ("mp_rank_00_model_states.pt", optimiser)
    folder = deepspeed(tmp_path / "zero2", names, {"module": state})
    for location in (folder, folder / "global_step10"):
        read, _ = read_weights(location, HINTS)
        assert equal_tensors(read.named_tensors(), whole.named_tensors())
    assert "zero_to_fp32.py" in refused(folder / "global_step10" / optimiser)

    part = "zero_pp_rank_0_mp_rank_00_model_states.pt"
    empty = {"module": {name: torch.empty(0) for name in state}}
    folder = deepspeed(tmp_path / "zero3", (part,), empty)
    for location in (folder, folder / "global_step10", folder / "global_step10" / part):
        assert "python zero_to_fp32.py . joined" in refused(location)


def test_a_folder_of_other_files_names_them(tmp_path: Path) -> None:
    torch.save(official_state(), tmp_path / "model_best.pth")
    assert f"give a file: {tmp_path / 'model_best.pth'}" in refused(tmp_path)
    (tmp_path / "adapter_model.safetensors").touch()
    assert "merge_and_unload" in refused(tmp_path)
    (tmp_path / ".metadata").touch()
    (tmp_path / "__0_0.distcp").touch()
    for location in (tmp_path, tmp_path / ".metadata", tmp_path / "__0_0.distcp"):
        assert f"{tmp_path} holds the shards of torch.dist" in refused(location)
        assert "dcp_to_torch FOLDER joined.pth" in refused(location)


def test_arrays_of_numpy_are_not_said_to_be_damaged(tmp_path: Path) -> None:
    arrays = {name: value.numpy() for name, value in official_state().items()}
    torch.save({"model": arrays}, tmp_path / "arrays.pth")
    assert "holds NumPy's arrays, not tensors" in refused(tmp_path / "arrays.pth")
    (tmp_path / "arrays.pkl").write_bytes(pickle.dumps(arrays))
    assert "is a pickle of a dict, not PyTorch's" in refused(tmp_path / "arrays.pkl")


def test_commands_refuse_weights_as_they_refuse_arguments(tmp_path: Path) -> None:
    damaged = tmp_path / "cut.pth"
    damaged.write_bytes(b"PK")
    encoder = tmp_path / "encoder.pth"
    torch.save(official_state(), encoder)
    with pytest.raises(ConfigError, match=rf"^from={damaged} is damaged or cut short"):
        convert(parse(Convert, [f"from={damaged}", f"to={tmp_path / 'out'}"]))
    sizes = ["heads=4", f"images={tmp_path}"]
    for given, message in ((damaged, "cut short"), (encoder, "no decoder")):
        with pytest.raises(ConfigError, match=rf"^checkpoint={given} .*{message}"):
            reconstruct(parse(Reconstruct, [f"checkpoint={given}", *sizes]))
    for given, message in ((damaged, "cut short"), (encoder, "no classifier's head")):
        with pytest.raises(ConfigError, match=rf"^checkpoint={given} .*{message}"):
            predict(parse(Predict, [f"checkpoint={given}", *sizes]))
