"""Stages as artifacts of W&B, each with the one that it was made from."""

import json
from collections.abc import Iterator
from typing import Any

from unmask.dashboards.card import Card
from unmask.dashboards.orders import WandbJob


def send_artifacts(run: Any, card: Card, job: WandbJob) -> Iterator[str]:
    """Send a stage's result, config and, where asked for, weights as an artifact.

    The artifact of its parent is an input of the run: W&B draws the lineage. Yields
    what the user is to know. Takes a server: offline there are no inputs.
    """
    import wandb

    record = card.record
    if record.parent:
        try:
            run.use_artifact(f"{artifact_name(record.parent)}:latest")
        # wandb raises errors of its own and of its service
        except Exception:
            yield (
                f"no lineage: {record.parent} is not in the project yet; send it"
                f" first: python src/send.py {record.folder.parents[1]}/{record.parent}"
            )
    artifact = wandb.Artifact(
        artifact_name(record.key),
        record.kind,
        description=card.name,
        metadata={"fingerprint": record.fingerprint, "command": card.notes},
    )
    artifact.add_file(str(card.folder / "result.json"))
    with artifact.new_file("config.json") as file:
        json.dump(card.config, file, indent=1)
    # names are padded: the last one is the newest
    checkpoints = sorted((card.folder / "checkpoints").glob("step=*.ckpt"))
    if job.sends_weights and checkpoints:
        artifact.add_file(str(checkpoints[-1]))
    run.log_artifact(artifact)


def artifact_name(key: str) -> str:
    """Return the artifact's name of a stage "kind/fingerprint"."""
    return key.replace("/", "-")
