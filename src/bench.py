"""Time a pretraining step, the guards of a run, or reading images. See --help."""

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
    mark_started,
    positional_to_key,
    run_command,
)
from unmask.config.arguments import parse_arguments
from unmask.config.bench_arguments import Bench, unused_keys
from unmask.config.checks import ConfigError
from unmask.config.data import Container, Data
from unmask.config.keys import override_key
from unmask.distributed.processes import available_cores

if TYPE_CHECKING:
    from unmask.commands.bench.callbacks import Overhead

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="bench")
def run(cfg: DictConfig) -> None:
    """Print the seconds of a step, of the guards in it, or of reading images.

    Exits with 0 done, 1 error, 2 bad arguments.
    """
    mark_started()
    try:
        arguments = parse_bench(cfg)
    except ConfigError as error:
        fail(str(error), 2)
    spec = arguments.model_dump()
    refuse_missing_gpu(arguments)
    if arguments.data:
        with exit_on_user_error():
            print_loading(spec, arguments.data, arguments.source)
        return

    import torch

    # compare_steps imports the peer, Hugging Face's ViTMAE
    try:
        if arguments.subject == "guards":
            from unmask.commands.bench.callbacks import measure_overhead

            table = guards_table(spec, measure_overhead(spec))
        else:
            from unmask.commands.bench.step import compare_steps

            table = steps_table(spec, compare_steps(spec))
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


def parse_bench(cfg: DictConfig) -> Bench:
    """Return the arguments. Raises ConfigError, also for keys of another subject."""
    arguments = parse_arguments(Bench, OmegaConf.to_container(cfg, resolve=True))
    typed_keys = map(override_key, HydraConfig.get().overrides.task)
    if faults := unused_keys(arguments.subject, typed_keys):
        raise ConfigError(f"{faults}")
    return arguments


def refuse_missing_gpu(arguments: Bench) -> None:
    """Exit with 2 where a GPU is asked for and there is none."""
    import torch

    has_gpu = torch.cuda.is_available()
    if arguments.device == "cuda" and not has_gpu:
        fail("device = cuda: torch finds no GPU here; use device=cpu or device=auto", 2)
    decodes_on_gpu = arguments.data and arguments.data.decode == "nvjpeg"
    if decodes_on_gpu and (arguments.device == "cpu" or not has_gpu):
        fail(
            "data.decode = nvjpeg: there is no GPU to decode on; use data.decode=auto",
            2,
        )


def print_loading(spec: dict[str, Any], data: Data, container: Container) -> None:
    """Print what reading these images costs, and what to set."""
    import torch

    from unmask.commands.bench.loader import (
        measure_loading,
        model_images_per_second,
        training_images,
    )
    from unmask.commands.bench.loader_tables import (
        list_bad_images,
        loading_advice,
        loading_tables,
    )
    from unmask.data.loading.batch import ImageFormat
    from unmask.data.loading.module import LoaderSettings

    assert data.mean is not None
    assert data.std is not None
    costs = measure_loading(
        training_images(data, container),
        ImageFormat(data.image_size, tuple(data.mean), tuple(data.std)),
        LoaderSettings(data.num_workers, threads=data.threads),
        spec,
    )
    for table in loading_tables(costs):
        Console().print(table)
    for line in list_bad_images(costs):
        print(line)
    uses_gpu = torch.cuda.is_available() and spec["device"] != "cpu"
    device = "the GPU" if uses_gpu else "this CPU"
    needed = model_images_per_second(spec, data)
    print(loading_advice(costs, data.decode, needed, device))
    print(
        f"{platform.machine()}, {available_cores()} cores, torch {torch.__version__};"
        " times of one core are CPU time, medians of rounds in turn"
    )


def guards_table(spec: dict[str, Any], overhead: "Overhead") -> Table:
    """Return the seconds of each guard in a step, and of a checkpoint a minute."""
    # guards run once a step, a checkpoint is written once a minute by default
    title = (
        f"{spec['model']['name']}, batch {spec['batch']}: a step takes"
        f" {overhead.step:.3f} s (median)"
    )
    table = Table(title=title)
    table.add_column("what")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in overhead.guards.items():
        percent = 100 * seconds / overhead.step
        table.add_row(name, f"{seconds:.6f}", f"{percent:.3f} % of a step")
    total = sum(overhead.guards.values())
    table.add_row(
        "all guards",
        f"{total:.6f}",
        f"{100 * total / overhead.step:.3f} % of a step",
        end_section=True,
    )
    for name, seconds in overhead.checkpoint.items():
        percent = 100 * seconds / 60
        table.add_row(name, f"{seconds:.3f}", f"{percent:.2f} % of a minute")
    return table


def steps_table(spec: dict[str, Any], seconds: dict[str, dict[str, float]]) -> Table:
    """Return the seconds of a step of ours and of the peer."""
    title = (
        f"{spec['model']['name']}, batch {spec['batch']}, {spec['rounds']} rounds in"
        " turn"
    )
    table = Table(title=title)
    table.add_column("contestant")
    for column in ("median s", "least", "most", "x ours (median of rounds)"):
        table.add_column(column, justify="right")
    for name, row in seconds.items():
        values = [row[key] for key in ("median", "least", "most", "ratio")]
        table.add_row(name, *(f"{value:.3f}" for value in values))
    return table


if __name__ == "__main__":
    sys.argv[1:] = positional_to_key(sys.argv[1:], "subject")
    run_command(run, Bench.model_fields)
