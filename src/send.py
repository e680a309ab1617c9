"""Send metrics of finished stages to W&B: src/send.py <folder> ... See --help."""

import sys
from pathlib import Path

from omegaconf import OmegaConf

from unmask.commands.cli import disable_telemetry, exit_on_user_error, fail
from unmask.config.arguments import Send, parse_arguments

DEFAULTS = Path(__file__).parent.parent / "conf" / "send.yaml"


def main() -> None:
    """Send the rows that W&B lacks.

    Exits with 0 sent, 1 W&B did not take them, 2 bad arguments.
    """
    typed = sys.argv[1:]
    if not typed or {"--help", "-h"} & set(typed):
        print(DEFAULTS.read_text(), end="")
        if not typed:
            fail("give folders of finished stages: src/send.py runs/pretrain/...", 2)
        return
    disable_telemetry()
    with exit_on_user_error():
        # what is no key=value is a folder
        values = OmegaConf.from_dotlist([word for word in typed if "=" in word])
        folders = {"folders": [word for word in typed if "=" not in word]}
        merged = OmegaConf.merge(OmegaConf.load(DEFAULTS), folders, values)
        arguments = parse_arguments(Send, OmegaConf.to_container(merged))
        from unmask.commands.send import send

        for folder in arguments.folders:
            print(f"{folder}: {send(Path(folder), arguments)}")


if __name__ == "__main__":
    main()
