"""Mean and std of your images, their sizes, and which cannot be read; kept for data.statistics=. See --help."""

import sys
from pathlib import Path

from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from hydra_plugins.composition import Composer
from unmask.commands.cli import exit_on_user_error, guarded, mark_started
from unmask.config.arguments import Measure, arguments
from unmask.config.checks import ConfigError, check
from unmask.config.experiments import CONF
from unmask.stages.plan import make_plan

DEFAULTS = CONF / "measure.yaml"
GROUPS = [str(path.relative_to(CONF)) for path in CONF.rglob("*") if path.is_dir()]
HELP = """\
python src/measure.py <data of train.py> [images=10000] [out=FILE]

Decodes the training images once: mean and std of all their pixels per channel, in [0, 1], their sizes and kinds, and
those that cannot be read. Kept in a file, which training takes: data.statistics=FILE (instead of data.mean, data.std).

  python src/measure.py data=image_folder data.root=/path/to/images
  python src/measure.py data=listed data.root=/path/to/images data.channels=5 images=10000

"""


def run() -> None:
    """Exits with 0 measured, 1 nothing could be read, 2 bad config."""
    typed = sys.argv[1:]
    if {"--help", "-h"} & set(typed):
        print(HELP + DEFAULTS.read_text(), end="")
        return
    own = [
        argument
        for argument in typed
        if argument.partition("=")[0] in Measure.model_fields
    ]
    mark_started()
    with exit_on_user_error():
        given = arguments(
            Measure,
            OmegaConf.to_container(
                OmegaConf.merge(OmegaConf.load(DEFAULTS), OmegaConf.from_dotlist(own))
            ),
        )
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                raw = Composer()(
                    [argument for argument in typed if argument not in own]
                )
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(str(error).splitlines()[0]) from None
        raw["stages"] = ["pretrain"]  # that images have no labels is no fault here
        plan = make_plan(check(raw))
        from unmask.commands.measure import keep, measure, said

        console = Console()
        measured = measure(plan, given.images, given.threads, console)
        out = keep(measured, Path(given.out).expanduser() if given.out else None, plan)
        console.print(said(measured), highlight=False, soft_wrap=True, markup=False)
        console.print(f"kept: data.statistics={out}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    guarded(run, [*GROUPS, *Measure.model_fields])
