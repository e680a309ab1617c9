"""Time a pretraining step, the guards of a run, or reading images. See --help."""

import platform
from typing import TYPE_CHECKING, Any

from rich.console import Console

from unmask.commands.bench.arguments import Bench
from unmask.commands.cli import command
from unmask.config.checks import ConfigError
from unmask.config.data import Container, Data
from unmask.distributed.processes import available_cores

if TYPE_CHECKING:
    from rich.table import Table

    from unmask.commands.bench.callbacks import Overhead


def run(arguments: Bench) -> None:
    """Print the seconds of a step, of the guards in it, or of reading images."""
    spec = arguments.model_dump()
    refuse_missing_gpu(arguments)
    if arguments.data:
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
        raise ValueError(
            f"{error}; the peer comes with the development packages: pip install"
            " 'transformers>=5'"
        ) from None
    Console().print(table)
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch"
        f" {torch.__version__}, float32"
    )


def refuse_missing_gpu(arguments: Bench) -> None:
    """Raise ConfigError where a GPU is asked for and there is none."""
    import torch

    has_gpu = torch.cuda.is_available()
    if arguments.device == "cuda" and not has_gpu:
        raise ConfigError(
            f"device = {arguments.device}: torch finds no GPU here; use device=cpu or"
            " device=auto"
        )
    decode = arguments.data.decode if arguments.data else "auto"
    if decode == "nvjpeg" and (arguments.device == "cpu" or not has_gpu):
        raise ConfigError(
            f"data.decode = {decode}: there is no GPU to decode on; use"
            " data.decode=auto"
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
    from unmask.data.loading.module import LoaderSettings
    from unmask.training.build import data_format

    costs = measure_loading(
        training_images(data, container),
        data_format(data),
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


def guards_table(spec: dict[str, Any], overhead: "Overhead") -> "Table":
    """Return the seconds of each guard in a step, and of a checkpoint a minute."""
    from unmask.commands.bench.measure import make_table

    # guards run once a step, a checkpoint is written once a minute by default
    title = (
        f"{spec['model']['name']}, batch {spec['batch']}: a step takes"
        f" {overhead.step:.3f} s (median)"
    )
    guards = overhead.guards | {"all guards": sum(overhead.guards.values())}
    rows = [
        (name, f"{seconds:.6f}", f"{100 * seconds / overhead.step:.3f} % of a step")
        for name, seconds in guards.items()
    ]
    rows += [
        (name, f"{seconds:.3f}", f"{100 * seconds / 60:.2f} % of a minute")
        for name, seconds in overhead.checkpoint.items()
    ]
    return make_table(title, ("what", "seconds", "share"), rows)


def steps_table(spec: dict[str, Any], seconds: dict[str, dict[str, float]]) -> "Table":
    """Return the seconds of a step of ours and of the peer."""
    from unmask.commands.bench.measure import make_table

    title = (
        f"{spec['model']['name']}, batch {spec['batch']}, {spec['rounds']} rounds in"
        " turn"
    )
    header = ("contestant", "median s", "least", "most", "x ours (median of rounds)")
    rows = [
        (name, *(f"{row[key]:.3f}" for key in ("median", "least", "most", "ratio")))
        for name, row in seconds.items()
    ]
    return make_table(title, header, rows)


if __name__ == "__main__":
    command(Bench, run, positional="subject")
