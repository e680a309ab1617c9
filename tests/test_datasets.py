"""A data set is one entry of one table, and a file of conf/data/."""

import re
from pathlib import Path

import pytest
import yaml

from small_runs import raw_config
from unmask.config.checks import ConfigError
from unmask.config.datasets import DATASETS, KNOWN_SIZES

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "src/unmask/config/datasets.py"
# how images of one's own are laid out: words that others use, too
OWN_IMAGES = {"image_folder", "listed"}


def sources(file: Path) -> set[str]:
    """Return the source that a file of conf/data/ sets, itself or by its default."""
    content = yaml.safe_load(file.read_text())
    if "source" in content:
        return {content["source"]}
    return sources(file.with_stem(content["defaults"][0]))


@pytest.mark.parametrize("name", DATASETS)
def test_each_data_set_has_a_file_by_which_it_is_chosen(name: str) -> None:
    assert sources(ROOT / f"conf/data/{name}.yaml") == {name}


def test_only_the_table_spells_the_names_of_data_sets() -> None:
    names = "|".join(DATASETS.keys() - OWN_IMAGES)
    spelled = {
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in (ROOT / "src").rglob("*.py")
        if file != TABLE
        for match in re.finditer(rf"\b(?:{names})\b", file.read_text())
    }
    assert not spelled


def test_sizes_agree_with_classes() -> None:
    for name, dataset in DATASETS.items():
        if dataset.arrays:
            size = KNOWN_SIZES[name]
            assert sum(dataset.arrays.class_sizes) == size.train
            assert len(dataset.arrays.class_sizes) == size.classes
            assert len(set(dataset.arrays.classes)) == size.classes


def test_an_unknown_source_is_told_which_there_are() -> None:
    from unmask.config.checks import check

    with pytest.raises(
        ConfigError, match=r"data.source = 'svhn': .*'mnist5k'.*'listed'"
    ):
        check(raw_config("data.source=svhn"))
