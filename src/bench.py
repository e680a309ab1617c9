"""Time a pretraining step beside others, or guards, or reading images. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

import platform
import shlex
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from unmask.commands.bench.arguments import CHART_SUFFIX, Bench
from unmask.commands.cli import command
from unmask.config.checks import ConfigError
from unmask.config.data import Container, Data
from unmask.distributed.processes import available_cores
from unmask.storage.atomic import write_csv_rows, write_text

if TYPE_CHECKING:
    from rich.table import Table

    from unmask.commands.bench.callbacks import Overhead


def run(arguments: Bench) -> None:
    """Print the seconds of a step, of the guards in it, or of reading images."""
    spec = arguments.model_dump()
    refuse_missing_gpu(arguments)
    if arguments.data:
        print_loading(spec, arguments.data, arguments.source)
    elif arguments.subject == "guards":
        print_guards(spec)
    elif arguments.subject == "gpu":
        print_gpu(spec)
    else:
        print_steps(spec)


def print_steps(spec: dict[str, Any]) -> None:
    """Print a step of ours beside those of others, and write it where that is asked."""
    from unmask.commands.bench.entries import absence_notes
    from unmask.commands.bench.machine import describe_machine
    from unmask.commands.bench.step import compare_steps
    from unmask.commands.bench.step_tables import csv_rows, remarks, result_tables

    console = Console()
    with console.status("") as status:
        results = compare_steps(spec, status.update)
    for table in result_tables(results, spec):
        console.print(table)
    machine = describe_machine(spec)
    for line in [*absence_notes(spec), *remarks(results, spec), machine]:
        console.print(line, highlight=False, markup=False)
    if spec["out"]:
        write_steps(csv_rows(results, spec), Path(spec["out"]), machine)


def write_steps(rows: list[dict[str, Any]], path: Path, machine: str) -> None:
    """Write a CSV file, and a chart of it beside it."""
    # matplotlib takes seconds
    from unmask.reports.speed_chart import speed_chart

    write_csv_rows(path, [list(rows[0]), *(list(row.values()) for row in rows)])
    chart = path.with_suffix(CHART_SUFFIX)
    title = f"{rows[0]['model']}, batch {rows[0]['batch']}\n{machine}"
    write_text(chart, speed_chart(rows, title))
    print(f"Written: {path} and {chart}")


def print_gpu(spec: dict[str, Any]) -> None:
    """Measure all that waits for a GPU, print it, and write the page."""
    from unmask.commands.bench.gpu.context import FULL, PARTS, SMALLEST
    from unmask.commands.bench.gpu.page import console_lines, page_text
    from unmask.commands.bench.gpu.parts import measure_parts
    from unmask.commands.bench.machine import describe_machine

    if spec["smallest"]:
        spec["device"] = "cpu"
    console = Console()
    sizes = SMALLEST if spec["smallest"] else FULL
    device = "cpu" if spec["smallest"] else "cuda"
    with console.status("") as status:
        results = measure_parts(
            [*PARTS], sizes, device, 60 * spec["minutes"], status.update
        )
    for result in results:
        for line in console_lines(result):
            console.print(line, highlight=False, markup=False)
    machine = describe_machine(spec)
    print(machine)
    if spec["out"]:
        typed = f"python src/bench.py {shlex.join(sys.argv[1:])}"
        write_text(Path(spec["out"]), page_text(results, machine, typed, date.today()))
        print(f"Written: {spec['out']}")


def print_guards(spec: dict[str, Any]) -> None:
    """Print what checkpoints, logs and checks add to a step."""
    from unmask.commands.bench.callbacks import measure_overhead
    from unmask.commands.bench.machine import describe_machine

    Console().print(guards_table(spec, measure_overhead(spec)))
    print(f"{describe_machine(spec)}, float32")


def refuse_missing_gpu(arguments: Bench) -> None:
    """Raise ConfigError where a GPU is asked for and there is none."""
    import torch

    has_gpu = torch.cuda.is_available()
    if arguments.subject == "gpu" and not (has_gpu or arguments.smallest):
        raise ConfigError(
            f"subject = {arguments.subject}: torch finds no GPU here; smallest=true"
            " runs all of it on this CPU, too small to tell anything"
        )
    if arguments.device == "cuda" and not has_gpu:
        raise ConfigError(
            f"device = {arguments.device}: torch finds no GPU here; use device=cpu or"
            " device=auto"
        )
    if arguments.tricks and has_gpu and arguments.device != "cpu":
        raise ConfigError(
            f"tricks = {str(arguments.tricks).lower()}: they are choices on a CPU; add"
            " device=cpu"
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


if __name__ == "__main__":
    command(Bench, run, positional="subject")
