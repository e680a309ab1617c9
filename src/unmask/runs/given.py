"""Weights that a run is given (`init_from`): known by their content, read before anything starts."""

import hashlib
from pathlib import Path

from unmask.durable import sha256
from unmask.runs.checks import ConfigError

MODEL_FILES = ("model.safetensors", "pytorch_model.bin")


def weights_identity(place: str, key: str = "init_from") -> str:
    """The same for the same weights wherever they lie. Raises ConfigError where there are none."""
    path = Path(place).expanduser()
    if path.is_file():
        return sha256(path)[:16]
    inside = next((path / name for name in MODEL_FILES if (path / name).is_file()), None)
    if inside:
        config = path / "config.json"  # heads and kind of model stand there
        return hashlib.sha256((sha256(inside) + (sha256(config) if config.exists() else "")).encode()).hexdigest()[:16]
    folder = path if path.name == "checkpoints" else path / "checkpoints"
    files = sorted(folder.glob("step=*.ckpt"))
    if not files:
        raise ConfigError(
            f"{key} = {place}: neither a file, nor a Hugging Face folder, nor a stage's folder with checkpoints"
        )
    return sha256(files[-1])[:16]
