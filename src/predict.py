"""Print the most probable classes of any images, by any classifier. See --help."""

from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from unmask.commands.cli import exit_on_user_error, mark_started, run_command
from unmask.config.arguments import Predict, parse_arguments

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="predict")
def run(cfg: DictConfig) -> None:
    """Predict, print and write.

    Exits with 0 done, 1 error (such as no image that can be read), 2 bad arguments.
    """
    mark_started()
    with exit_on_user_error():
        raw = OmegaConf.to_container(cfg, resolve=True)
        arguments = parse_arguments(Predict, raw)
        # imports torch, for which --help and wrong arguments need not wait
        from unmask.commands.predict import (
            MAX_ROWS,
            predict,
            predictions_table,
            write_csv,
        )

        predictions = predict(arguments)
        if arguments.out:
            write_csv(predictions, Path(arguments.out))
    # a file has all rows, and the terminal some; without a file it has all
    shown = MAX_ROWS if arguments.out else None
    Console().print(predictions_table(predictions, shown))
    if arguments.out:
        count = len(predictions.names)
        more = f", the first {MAX_ROWS} of them above" if count > MAX_ROWS else ""
        Console().print(
            f"{count} images: {arguments.out}{more}", soft_wrap=True, markup=False
        )
    errors = Console(stderr=True)
    if predictions.assumption:
        errors.print(predictions.assumption, soft_wrap=True, markup=False)
    for fault in predictions.skipped:
        errors.print(f"skipped: {fault}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_command(run, Predict.model_fields)
