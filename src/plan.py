"""Price a run, a sweep or a table of the paper before it is launched. See --help."""

from unmask.commands.help import begin_command

if __name__ == "__main__":
    begin_command(__file__)

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from hydra_plugins.experiment_sweeper import cell_fault, cells_by_table
from unmask.commands.cli import MULTIRUN, command
from unmask.commands.composition import Composer, hydra_errors_as_config_errors
from unmask.commands.plan.arguments import Plan
from unmask.config.checks import ConfigError, check, fill_missing_roots
from unmask.config.datasets import DatasetSize
from unmask.config.hardware import Hardware
from unmask.config.recipes import TRAINED_STAGES
from unmask.config.schema import Config
from unmask.stages.sizes import dataset_size

if TYPE_CHECKING:
    from unmask.commands.plan.price_stages import Estimator, TrainingStep
    from unmask.commands.plan.price_types import Cell

# experiment, config, size of the data, and the name that data= takes
PlannedRun = tuple[str, Config, DatasetSize, str]


def run(arguments: Plan, overrides: Sequence[str]) -> None:
    """Print the price of a run, or of a sweep."""
    overrides = [override for override in overrides if override not in MULTIRUN]
    with hydra_errors_as_config_errors():
        runs = list(planned_runs(overrides, data_size(arguments)))
    print_price(runs, arguments)


def data_size(arguments: Plan) -> DatasetSize | None:
    """Return the size of the data as typed; None where images= is not.

    A tenth of the images are validation images by default, and there are 1000 classes.
    """
    if arguments.images is None:
        if arguments.val_images or arguments.classes:
            raise ConfigError(
                f"images: missing; val_images={arguments.val_images} and"
                f" classes={arguments.classes} need images=, the number of training"
                " images"
            )
        return None
    a_tenth = -(-arguments.images // 10)  # rounded up
    return DatasetSize(
        arguments.images, arguments.val_images or a_tenth, arguments.classes or 1000
    )


def planned_runs(
    arguments: list[str], size: DatasetSize | None
) -> Iterator[PlannedRun]:
    """Yield every cell of the sweep, checked.

    size: of the data, where it was typed. Raises ConfigError with all faults.
    """
    faults = []
    composer = Composer()
    for experiment, _, overrides in cells_by_table(arguments):
        try:
            # the data need not be here: a missing data.root is no fault
            config = check(fill_missing_roots(composer(overrides)))
            if config.trainer.precision == "auto":
                raise ConfigError(
                    "trainer.precision = auto: it is measured on the machine that"
                    " trains; type 32-true or bf16-mixed for a price"
                )
            try_own_classes(config)
            data_name = composer.choices(overrides).get("data", "")
            known_size = size or dataset_size(config, data_name)
            yield experiment, config, known_size, data_name
        except ConfigError as error:
            faults.append(cell_fault(overrides, error) if overrides else str(error))
    if faults:
        raise ConfigError("\n".join(faults))


def try_own_classes(config: Config) -> None:
    """Raise ConfigError where a class of the user's does not work."""
    if config.has_foreign_parts:
        # it takes torch, for which other prices wait until all cells are checked
        from unmask.training.foreign_models import check_countable
        from unmask.training.foreign_parts import check_foreign_parts

        check_foreign_parts(config, reads_data=False)
        if {"model._target_", "decoder._target_"} & {*config.own_classes}:
            check_countable(config)


def print_price(runs: list[PlannedRun], arguments: Plan) -> None:
    """Count FLOPs and memory, measure speed where that is asked for, and print."""
    # these import torch, for which --help and wrong arguments need not wait
    from unmask.commands.plan.assumptions import VIT_B_WIDTH, assumptions
    from unmask.commands.plan.lacking import LedgerStages
    from unmask.commands.plan.price_stages import Estimator
    from unmask.commands.plan.price_table import price_table
    from unmask.commands.plan.price_types import Cell, unique_stages
    from unmask.commands.plan.scaling import scaling_table
    from unmask.commands.plan.step_tables import step_tables

    console = Console()
    estimator = Estimator()
    ledger = LedgerStages(reads_ledger=arguments.lacking)
    hardware = arguments.hardware
    cells: list[Cell] = []
    # each model takes a second or two
    with console.status("counting") as status:
        for experiment, config, size, data_name in runs:
            status.update(f"counting FLOPs, cell {len(cells) + 1} of {len(runs)}")
            cells.append(Cell(experiment, config, size))
            estimator.price_cell(cells[-1], ledger.lacking(config, data_name))
        status.update("counting memory")
        steps = training_steps(estimator, cells, hardware.devices)
    stages = unique_stages(cells)
    known = ledger.describe(len(stages), runs[0][1].runs_dir)
    is_small = any(cell.config.model.width < VIT_B_WIDTH for cell in cells)
    if stages and not hardware.needs_measuring and is_small:
        console.print(
            "These models are too small to keep such devices busy; hardware=here"
            " measures this machine."
        )
    measured_tables: list[Table] = []
    notes: list[str] = []
    if hardware.needs_measuring and steps:
        with console.status("measuring this machine"):
            hardware, measured_tables, notes = measure(estimator, cells, hardware)
    if stages or not known:
        console.print(price_table(cells, hardware))
    # of small models devices wait for the host, not for each other
    if steps and hardware.link and not (is_small or hardware.needs_measuring):
        measured_tables.append(scaling_table(steps, hardware))
    for table in [*step_tables(steps, hardware, console.width), *measured_tables]:
        console.print(table)
    about = assumptions(cells, hardware) if stages else []
    for sentence in filter(None, [known, *notes, *about]):
        console.print(sentence, soft_wrap=False, highlight=False, markup=False)


def training_steps(
    estimator: "Estimator", cells: list["Cell"], devices: int
) -> list["TrainingStep"]:
    """Return the different training steps of the cells, in the order of the stages."""
    from unmask.commands.plan.price_stages import has_training_step

    steps = [
        estimator.training_step(cell.config, price.spec.kind, cell.size, devices)
        for cell in cells
        for price in cell.prices
        if has_training_step(cell.config, price.spec)
    ]
    # cells share steps
    unique = dict.fromkeys(steps)
    return sorted(unique, key=lambda step: TRAINED_STAGES.index(step.kind))


def measure(
    estimator: "Estimator", cells: list["Cell"], hardware: Hardware
) -> tuple[Hardware, list[Table], list[str]]:
    """Return this machine as measured, a table of its speeds, and notes."""
    from unmask.commands.plan.speed import measure_speeds
    from unmask.commands.plan.step_tables import measured_table

    # one device's step of pretraining, once for each model
    configs = {
        estimator.training_step(cell.config, "pretrain", cell.size, 1): cell.config
        for cell in cells
    }
    steps = list(configs)
    speeds, too_big = measure_speeds([(configs[step], step) for step in steps])
    notes = [too_big] if too_big else []
    first = next(filter(None, speeds), None)
    if first is None:
        return hardware, [], notes
    return first.as_hardware(hardware), [measured_table(steps, speeds)], notes


if __name__ == "__main__":
    command(Plan, run, takes_run=True)
