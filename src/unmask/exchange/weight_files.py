"""Files of weights: which hold a set of them, and where one may be written.

A set is one file, or the shards that an index lists. Imports no torch: files are found
before anything starts.
"""

import json
import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from unmask.storage.removed_weights import removed_weights

WritableLayout = Literal["timm", "hf", "official", "safetensors"]
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_ENDING = ".index.json"
STAGE_FILES = "step=*.ckpt"
DAMAGED_FILES = "step=*.damaged"
STAGE_CONFIG = "config.yaml"
# DeepSpeed's: the file that names the newest folder, and the weights in it
LATEST_FILE = "latest"
DEEPSPEED_FILE = "mp_rank_00_model_states.pt"
ZERO_SHARD = re.compile(r"zero_pp_rank_\d+_mp_rank|_optim_states\.pt$")
HUB_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)")
# of torch.distributed.checkpoint
DISTRIBUTED_FILE = ".metadata"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar", ".th")
MAX_LISTED = 4
ZERO_SHARDS = (
    "holds the shards that DeepSpeed's ZeRO makes of weights or of the optimiser; join"
    " them by the script that it saves beside them: python zero_to_fp32.py . joined,"
    " and give the folder joined"
)
DISTRIBUTED_SHARDS = (
    "holds the shards of torch.distributed.checkpoint; join them: python -m"
    " torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER joined.pth"
)


class WeightFiles(NamedTuple):
    """Name the files of one set of weights.

    path: the file, or the index of the shards. parts: the files with tensors.
    """

    path: Path
    parts: tuple[Path, ...]

    @property
    def is_stage(self) -> bool:
        """Return whether it is the last checkpoint of a stage in the ledger."""
        return self.path.match(STAGE_FILES)


def find_weights(location: Path) -> WeightFiles:
    """Return the files of the weights at a path.

    It is a file, an index of shards, or a folder: Hugging Face's, DeepSpeed's, or a
    stage's in the ledger. Raises ValueError where there are none, with what to give.
    """
    if not location.exists():
        raise ValueError(f"{location}: no such file or folder")
    path = _find_in_folder(location) if location.is_dir() else location
    if path.name.endswith(INDEX_ENDING):
        return WeightFiles(path, _read_index(path))
    _refuse_part(path)
    return WeightFiles(path, (path,))


def _find_in_folder(folder: Path) -> Path:
    for name in HUB_FILES:
        if (folder / name).is_file():
            return folder / name
    indexes = sorted(folder.glob(f"*{INDEX_ENDING}"), key=_not_safetensors)
    if indexes:
        return indexes[0]
    stage = folder if folder.name == "checkpoints" else folder / "checkpoints"
    saved = sorted(stage.glob(STAGE_FILES))
    if saved:
        return saved[-1]
    if removed := removed_weights(stage):
        raise ValueError(f"{folder}: {removed}")
    newest = _deepspeed_folder(folder)
    if (newest / DEEPSPEED_FILE).is_file():
        return newest / DEEPSPEED_FILE
    raise ValueError(f"{folder} {_explain_folder(folder, newest)}")


def _not_safetensors(index: Path) -> tuple[bool, str]:
    return ".safetensors." not in index.name, index.name


def _deepspeed_folder(folder: Path) -> Path:
    """Return the folder that DeepSpeed's file `latest` names, else the folder."""
    latest = folder / LATEST_FILE
    if not latest.is_file():
        return folder
    return folder / latest.read_text(errors="replace").strip()


def _explain_folder(folder: Path, newest: Path) -> str:
    """Say what a folder without weights holds, and what to give."""
    if any(newest.glob("zero_pp_rank_*")):
        return ZERO_SHARDS
    if (folder / DISTRIBUTED_FILE).is_file():
        return DISTRIBUTED_SHARDS
    if any((folder / name).is_file() for name in ADAPTER_FILES):
        return (
            "holds an adapter alone, which changes another model's weights; merge it"
            " into them and save the whole (merge_and_unload, save_pretrained)"
        )
    if (folder / STAGE_CONFIG).is_file():
        return _explain_stage(folder)
    files = sorted(p for p in folder.iterdir() if p.suffix in WEIGHT_SUFFIXES)
    text = f"holds neither {' nor '.join(HUB_FILES)} nor checkpoints of a stage"
    if files:
        return f"{text}; give a file: {', '.join(map(str, files[:MAX_LISTED]))}"
    return text


def _explain_stage(folder: Path) -> str:
    """Say why a stage has no weights, and what to give."""
    damaged = sorted((folder / "checkpoints").glob(DAMAGED_FILES))
    if damaged:
        return (
            f"has damaged checkpoints alone ({damaged[-1].name}); its command, in"
            " origin.json, with rerun=true makes them again"
        )
    return (
        "is a stage without weights: measurements such as kNN keep none, and a training"
        " has none before its first checkpoint; give a pretraining or a fine-tuning"
    )


def _refuse_part(path: Path) -> None:
    """Raise ValueError for a file that holds a part of the weights."""
    if ZERO_SHARD.search(path.name):
        raise ValueError(f"{path} {ZERO_SHARDS}")
    if path.name == DISTRIBUTED_FILE or path.suffix == ".distcp":
        raise ValueError(f"{path.parent} {DISTRIBUTED_SHARDS}")
    shard = HUB_SHARD.fullmatch(path.name)
    if shard and int(shard[2]) > 1:
        raise ValueError(
            f"{path} is one of {int(shard[2])} shards; give their folder {path.parent},"
            f" with {shard[1]}{shard[3]}{INDEX_ENDING} in it"
        )


def _read_index(index: Path) -> tuple[Path, ...]:
    """Return the shards that an index lists; ValueError where one is missing."""
    try:
        weight_map: dict[str, Any] = json.loads(index.read_text())["weight_map"]
        names = sorted(set(weight_map.values()))
        # shards lie beside their index, whatever it says
        is_beside = all(Path(name).name == name for name in names)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is not readable: {error!r}; copy it again") from None
    if not names or not is_beside:
        raise ValueError(
            f"{index} lists {', '.join(names[:MAX_LISTED]) or 'no files'}; expected the"
            " names of shards beside it"
        )
    shards = tuple(index.parent / name for name in names)
    missing = [shard for shard in shards if not shard.is_file()]
    if missing:
        raise ValueError(
            f"{missing[0]} is missing ({len(missing)} of {len(shards)} shards are);"
            " copy it, too"
        )
    return shards


def check_target(path: Path, layout: WritableLayout, overwrite: bool) -> None:
    """Raise ValueError if the target exists and may not, or cannot, be replaced."""
    layouts = get_args(WritableLayout)
    if layout not in layouts:
        raise ValueError(f"unknown layout={layout}; choose one of {', '.join(layouts)}")
    if path.exists() and path.is_dir() != (layout == "hf"):
        present, written = "a file", "a folder"
        if path.is_dir():
            present, written = written, present
        raise ValueError(
            f"{path} is {present}; layout={layout} writes {written}: give another place"
        )
    is_occupied = any(path.iterdir()) if path.is_dir() else path.exists()
    if is_occupied and not overwrite:
        raise ValueError(f"{path} exists; give another place or add overwrite=true")
