"""A pretraining step beside Hugging Face's ViTMAE, what guarding a run costs, or what reading images does: --help."""

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from unmask.commands.cli import (
    exit_on_user_error,
    fail,
    guarded,
    mark_started,
    one_word,
)
from unmask.config.arguments import Bench, arguments, unused
from unmask.config.checks import ConfigError
from unmask.config.keys import key_of
from unmask.config.schema import Container, Data
from unmask.distributed.processes import available_cores

if TYPE_CHECKING:
    from unmask.commands.bench.callbacks import Overhead

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="bench")
def run(cfg: DictConfig) -> None:
    """Prints seconds a step and the ratio to ours, round by round; of guards, their share of a step and of a minute."""
    mark_started()
    try:
        given = arguments(Bench, OmegaConf.to_container(cfg, resolve=True))
        spec = given.model_dump()
        if faults := unused(
            given.subject, map(key_of, HydraConfig.get().overrides.task)
        ):
            raise ConfigError(faults)
    except ConfigError as error:
        fail(str(error), 2)
    import torch

    from unmask.commands.bench.callbacks import measured_overhead
    from unmask.commands.bench.step import compare_steps

    if spec["device"] == "cuda" and not torch.cuda.is_available():
        fail("device = cuda: torch finds no GPU here; use device=cpu or device=auto", 2)
    if (
        given.data
        and given.data.decode == "nvjpeg"
        and (spec["device"] == "cpu" or not torch.cuda.is_available())
    ):
        fail(
            "data.decode = nvjpeg: there is no GPU to decode on; use data.decode=auto",
            2,
        )
    if given.data:
        with exit_on_user_error():
            loading(spec, given.data, given.source)
        return
    try:
        if spec["subject"] == "guards":
            table = guards(spec, measured_overhead(spec))
        else:
            table = results(spec, compare_steps(spec))
    except ImportError as error:
        fail(
            f"{error}; the peer comes with the development packages: pip install"
            " 'transformers>=5'",
            1,
        )
    Console().print(table)
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch"
        f" {torch.__version__}, float32"
    )


def loading(spec: Any, data: Data, container: Container) -> None:
    """Prints what reading these images takes, and what to set."""
    import torch

    from unmask.commands.bench.loader import measured, step_pace, training_images
    from unmask.commands.bench.loader_tables import advice, tables, unread
    from unmask.data.loading.batch import Format
    from unmask.data.loading.module import Loading

    assert data.mean is not None
    assert data.std is not None
    form = Format(data.image_size, tuple(data.mean), tuple(data.std))
    found = measured(
        training_images(data, container),
        form,
        Loading(data.num_workers, threads=data.threads),
        spec,
    )
    for table in tables(found):
        Console().print(table)
    device = (
        "the GPU"
        if torch.cuda.is_available() and spec["device"] != "cpu"
        else "this CPU"
    )
    for line in unread(found):
        print(line)
    print(advice(found, data.decode, step_pace(spec, data), device))
    print(
        f"{platform.machine()}, {available_cores()} cores, torch {torch.__version__}; a"
        " core: CPU time, medians of rounds in turn"
    )


def guards(spec: Any, found: "Overhead") -> Table:
    title = (
        f"{spec['model']['name']}, batch {spec['batch']}: a step takes {found.step:.3f}"
        " s (median)"
    )
    table = Table(title=title)
    for column in ("what", "seconds", "share"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, seconds in found.guards.items():
        table.add_row(
            name, f"{seconds:.6f}", f"{100 * seconds / found.step:.3f} % of a step"
        )
    total = sum(found.guards.values())
    table.add_row(
        "all guards",
        f"{total:.6f}",
        f"{100 * total / found.step:.3f} % of a step",
        end_section=True,
    )
    for name, seconds in found.checkpoint.items():
        table.add_row(name, f"{seconds:.3f}", f"{100 * seconds / 60:.2f} % of a minute")
    return table


def results(spec: Any, measured: dict[str, dict[str, float]]) -> Table:
    table = Table(
        title=(
            f"{spec['model']['name']}, batch {spec['batch']}, {spec['rounds']} rounds"
            " in turn"
        )
    )
    for column in (
        "contestant",
        "median s",
        "least",
        "most",
        "x ours (median of rounds)",
    ):
        table.add_column(column, justify="left" if column == "contestant" else "right")
    for name, row in measured.items():
        table.add_row(
            name, *(f"{row[key]:.3f}" for key in ("median", "least", "most", "ratio"))
        )
    return table


if __name__ == "__main__":
    sys.argv[1:] = one_word(sys.argv[1:], "subject")
    guarded(run, Bench.model_fields)
