"""The price of a run, a sweep or a table of the paper, before anything is launched. See --help."""

import sys
from collections.abc import Iterator

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from hydra_plugins.composition import Composer
from hydra_plugins.experiment_sweeper import cell_fault, cells_by_table
from unmask.commands.cli import MULTIRUN, fail, guarded, mark_started
from unmask.commands.plan.hardware import Planned, planned
from unmask.config.checks import ConfigError, check, elsewhere
from unmask.config.experiments import CONF
from unmask.config.schema import TRAINED, Config
from unmask.stages.sizes import Size, size_of

GROUPS = [str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()]
OWN = ("hardware", "images", "val_images", "classes")  # keys of plan.yaml
OWN_KEYS = [
    *OWN,
    *(
        f"hardware.{key}"
        for key in ("name", "devices", "memory_gib", "tflops", "utilisation", "source")
    ),
]
HELP = """\
python src/plan.py <what train.py takes> [hardware=...]

What it costs, before it is launched: parameters, FLOPs, images, hours, GPU-hours, disk, and the memory of a training
step by part. Stages that several cells share are counted once. No image is read, so the data need not be here.

  One run              python src/plan.py model=mae_vit_b data=imagenet mask_ratio=0.75
  A sweep              python src/plan.py decoder.depth=1,2,4,8
  A table of the paper python src/plan.py experiment=decoder_depth scale=paper hardware=h200x8
  All of them          python src/plan.py experiment=all scale=paper

  hardware={hardware}
                       here measures this machine with {steps} steps of the real training;
                       hardware.devices=4, hardware.memory_gib=40 change one that is near yours
  images= classes=     how many images and classes, for data that are neither here nor well known
"""


def configs(
    arguments: list[str], given: Size | None
) -> Iterator[tuple[str, Config, Size, str]]:
    """(experiment, config, size of the data, its name) of every cell, checked. Raises ConfigError with all faults."""
    faults, composer = [], Composer()
    for group, _, overrides in cells_by_table(arguments):
        try:
            config, chosen = (
                check(elsewhere(composer(overrides))),
                composer.choices(overrides).get("data", ""),
            )
            yield group, config, size_of(config, chosen, given), chosen
        except ConfigError as error:
            faults.append(cell_fault(overrides, error) if overrides else str(error))
    if faults:
        raise ConfigError("\n".join(faults))


def sized(own: Planned) -> Size | None:
    """What the user says of the data."""
    if own.images is None:
        if own.val_images or own.classes:
            raise ConfigError(
                "images: missing; val_images and classes say more of images that are"
                " said to be so many"
            )
        return None
    return Size(own.images, own.val_images or -(-own.images // 10), own.classes or 1000)


def run() -> None:
    """Prints the price; exits with 0, or 2 for a bad config."""
    arguments = [argument for argument in sys.argv[1:] if argument not in MULTIRUN]
    if "--help" in arguments or "-h" in arguments:
        from unmask.commands.plan.probe import STEPS

        names = " | ".join(
            sorted(path.stem for path in (CONF / "hardware").glob("*.yaml"))
        )
        print(HELP.format(hardware=names, steps=STEPS), end="")
        return
    own = [
        argument
        for argument in arguments
        if argument.lstrip("+").partition("=")[0].partition(".")[0] in OWN
    ]
    mark_started()
    try:
        if strange := [
            argument
            for argument in arguments
            if argument.lstrip("+").startswith("hydra.")
        ]:
            raise ConfigError(
                f"{strange[0]}: a price has no launcher and no sweeper; leave it out"
            )
        with initialize_config_dir(str(CONF), version_base="1.3"):
            asked = planned(
                OmegaConf.to_container(compose("plan", overrides=own), resolve=True)
            )
            cells = list(configs([a for a in arguments if a not in own], sized(asked)))
        report(cells, asked)
    except ConfigError as error:
        fail(str(error), 2)
    except (HydraException, OmegaConfBaseException) as error:
        known = ", ".join(
            sorted(path.stem for path in (CONF / "hardware").glob("*.yaml"))
        )
        first = str(error).splitlines()[0]
        fail(
            f"{first}; hardware is one of {known}" if "hardware/" in first else first, 2
        )


def report(wanted: list[tuple[str, Config, Size, str]], asked: Planned) -> None:
    """Count, measure where that is asked for, and print."""
    from unmask.commands.plan.cost import Cell, Estimator, has_step
    from unmask.commands.plan.tables import (
        WIDE,
        assumptions,
        measured_table,
        price_table,
        step_tables,
    )

    console, estimator, hardware = Console(), Estimator(), asked.hardware
    cells = [Cell(group, config, size) for group, config, size, _ in wanted]
    with console.status("counting") as status:  # a model takes a second or two
        for i, (cell, (_, _, _, chosen)) in enumerate(zip(cells, wanted, strict=True)):
            status.update(f"counting FLOPs, cell {i + 1} of {len(cells)}")
            estimator.price(cell, chosen)
        status.update("counting memory")
        trained = [
            (c, price.spec.kind)
            for c in cells
            for price in c.prices
            if has_step(c.config, price.spec)
        ]
        steps = list(
            dict.fromkeys(
                estimator.step(c.config, kind, c.size, hardware.devices)
                for c, kind in trained
            )
        )
    steps.sort(key=lambda step: TRAINED.index(step.kind))
    notes, measured = [], []
    if not hardware.measured and any(cell.config.model.width < WIDE for cell in cells):
        console.print(
            "These models are too small to keep such devices busy; hardware=here"
            " measures this machine."
        )
    if hardware.measured:
        from unmask.commands.plan.probe import probe

        models = {
            estimator.step(c.config, "pretrain", c.size, 1): c.config for c in cells
        }
        with console.status("measuring this machine"):
            found, too_big = probe([(config, step) for step, config in models.items()])
        notes += [too_big] if too_big else []
        if first := next(filter(None, found), None):
            hardware = first.hardware(hardware)
            measured = [measured_table(list(models), found)]
    console.print(price_table(cells, hardware))
    for table in [*step_tables(steps, hardware, console.width), *measured]:
        console.print(table)
    for sentence in [*notes, *assumptions(cells, hardware)]:
        console.print(sentence, soft_wrap=False, highlight=False, markup=False)


if __name__ == "__main__":
    guarded(run, [*GROUPS, *OWN_KEYS])
