"""A pretraining step beside Hugging Face's ViTMAE, interleaved in one run. See --help."""

import platform
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from unmask.runs.arguments import Bench, arguments
from unmask.runs.checks import ConfigError
from unmask.runs.commands import enter, fail, guarded

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="bench")
def run(cfg: DictConfig) -> None:
    """Prints seconds a step and the ratio to ours, round by round."""
    enter()
    try:
        spec = arguments(Bench, OmegaConf.to_container(cfg, resolve=True)).model_dump()
    except ConfigError as error:
        fail(str(error), 2)
    import torch

    from unmask.runs.benchmark import compare_steps

    if spec["device"] == "cuda" and not torch.cuda.is_available():
        fail("device = cuda: torch finds no GPU here; use device=cpu or device=auto", 2)
    try:
        measured = compare_steps(spec)
    except ImportError as error:
        fail(f"{error}; the peer comes with the development packages: pip install 'transformers>=5'", 1)
    Console().print(results(spec, measured))
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32")


def results(spec: Any, measured: dict[str, dict[str, float]]) -> Table:
    table = Table(title=f"{spec['model']['name']}, batch {spec['batch']}, {spec['rounds']} rounds in turn")
    for column in ("contestant", "median s", "least", "most", "x ours (median of rounds)"):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for name, row in measured.items():
        table.add_row(name, *(f"{row[key]:.3f}" for key in ("median", "least", "most", "ratio")))
    return table


if __name__ == "__main__":
    guarded(run, Bench.model_fields)
