"""The sets of images of robustness.sets: each is a stage of its own."""

from collections.abc import Iterator

from unmask.config.robustness import CORRUPTED
from unmask.config.schema import Config
from unmask.stages.fingerprint import StageSpec


def each_test_set(config: Config) -> Iterator[Config]:
    """Yield the config for each set of robustness.sets, as if it alone were typed.

    Without robustness.sets the config itself: its fingerprints, and those of a set that
    is named by robustness.root, are the same.
    """
    if config.robustness.sets is None:
        yield config
    for name in config.robustness.sets or ():
        yield _on_test_set(config, None if name == CORRUPTED else name)


def stage_config(config: Config, spec: StageSpec) -> Config:
    """Return the config as one stage reads it: robustness of its own set alone."""
    if spec.kind != "robustness" or config.robustness.sets is None:
        return config
    return _on_test_set(config, spec.root)


def _on_test_set(config: Config, root: str | None) -> Config:
    """Return the config for a folder of images, or for the data's own, corrupted."""
    source = "folder" if root else CORRUPTED
    values = {"sets": None, "root": root, "source": source}
    recipe = config.robustness.model_copy(update=values)
    return config.model_copy(update={"robustness": recipe})
