"""Finished stages to W&B, as far as it lacks their rows: src/send.py <folder> [<folder> ...]. See --help."""

import sys
from pathlib import Path

from omegaconf import OmegaConf

from unmask.commands.cli import disable_telemetry, exit_on_user_error, fail
from unmask.config.arguments import Send, arguments

DEFAULTS = Path(__file__).parent.parent / "conf" / "send.yaml"


def main() -> None:
    """Exits with 0 sent, 1 W&B did not take it, 2 bad arguments."""
    typed = sys.argv[1:]
    if not typed or {"--help", "-h"} & set(typed):
        print(DEFAULTS.read_text(), end="")
        raise SystemExit(
            0
            if typed
            else fail(
                "give the folders of finished stages: src/send.py runs/pretrain/...", 2
            )
        )
    disable_telemetry()
    with exit_on_user_error():
        values = OmegaConf.from_dotlist(
            [argument for argument in typed if "=" in argument]
        )
        folders = {"folders": [argument for argument in typed if "=" not in argument]}
        given = arguments(
            Send,
            OmegaConf.to_container(
                OmegaConf.merge(OmegaConf.load(DEFAULTS), folders, values)
            ),
        )
        from unmask.commands.send import send

        for folder in given.folders:
            print(f"{folder}: {send(Path(folder), given)}")


if __name__ == "__main__":
    main()
