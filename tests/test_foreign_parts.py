"""Samplers, targets and data sets from a file of the user's work everywhere."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from small_runs import COARSE, ROOT, call, plan_for, raw_config
from unmask.config.checks import ConfigError, check
from unmask.config.foreign import part_digest
from unmask.training.build import count_visible, open_splits
from unmask.training.foreign_parts import check_foreign_parts

# the file that docs/extending.md shows
(EXAMPLE,) = [
    block
    for block in re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL
    )
    if "class HideSome" in block
]
MASKING = ("masking._target_=my_parts.HideSome", "+masking.count=1")
TARGET = "target._target_=my_parts.Brightness"
SMALL = (COARSE, "pretrain.epochs=1", "model.width=8", "decoder.width=8")
BLOBS = """
import numpy as np
from unmask.config.datasets import Arrays, Dataset

def load(root, download):
    train = np.zeros((6, 1, 28, 28), np.uint8), np.array([0, 0, 0, 1, 1, 1])
    return train, (train[0][:2], train[1][2:4])

BLOBS = Dataset(
    "Blobs", None, Arrays(load, "blobs-1", 1, ("round", "square"), [3, 3])
)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the working folder with my_parts.py in it."""
    (tmp_path / "my_parts.py").write_text(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("my_parts", "my_blobs", "my_sign"):
        sys.modules.pop(name, None)


def fingerprint(*overrides: str) -> str:
    return plan_for("stages=[pretrain]", *overrides).stages[0].fingerprint


def test_a_run_its_page_and_its_reconstructions(folder: Path) -> None:
    typed = ("stages=[pretrain]", "runs_dir=runs", *SMALL, *MASKING, TARGET)
    trained = call(*typed)
    assert trained.returncode == 0, trained.stderr
    (path,) = folder.glob("runs/pretrain/*/result.json")
    assert json.loads(path.read_text())["visible_patches"] == 3
    page = next(folder.glob("runs/pages/*.html")).read_text()
    assert "3 of 4 patches" in page
    assert "25% of the patches hidden" in page
    assert "my_parts.Brightness" in page
    drawn = call(
        f"checkpoint={path.parent}",
        "out=a.png",
        "count=1",
        script="reconstruct.py",
        tiny=False,
    )
    assert drawn.returncode == 0, drawn.stderr


def test_a_price_asks_the_sampler(folder: Path) -> None:
    assert count_visible(check(raw_config(*MASKING))) == 15
    config = check(raw_config("masking=grid", "data.patch_size=4"))
    assert count_visible(config) == config.num_visible == 16


def test_code_counts_and_comments_do_not(folder: Path) -> None:
    before = fingerprint(*MASKING)
    file = folder / "my_parts.py"
    file.write_text(f'"""Say more."""\n# why\n{EXAMPLE}')
    assert fingerprint(*MASKING) == before
    file.write_text(EXAMPLE.replace("patches - self.count", "patches - self.count - 1"))
    assert fingerprint(*MASKING) != before
    # measurements of other weights do not depend on it
    random = plan_for("stages=[scratch]", *MASKING).stages[0]
    assert random.fingerprint == plan_for("stages=[scratch]").stages[0].fingerprint


@pytest.mark.parametrize(
    "statement",
    [
        "import my_sign",
        "def f():\n    from my_sign import SIGN",
        "import importlib\nsign = importlib.import_module('my_sign')",
    ],
)
def test_modules_beside_it_count(folder: Path, statement: str) -> None:
    (folder / "my_parts.py").write_text(f"{statement}\n{EXAMPLE}")
    (folder / "my_sign.py").write_text("SIGN = 1")
    before = part_digest("my_parts.HideSome")
    (folder / "my_sign.py").write_text("SIGN = 1  # why")
    assert part_digest("my_parts.HideSome") == before
    (folder / "my_sign.py").write_text("SIGN = -1")
    assert part_digest("my_parts.HideSome") != before


def test_modules_of_its_package_count(folder: Path) -> None:
    package = folder / "my_package"
    package.mkdir()
    (package / "parts.py").write_text(f"from . import sign\n{EXAMPLE}")
    (package / "sign.py").write_text("SIGN = 1")
    (package / "other.py").write_text("")
    name = "my_package.parts.HideSome"
    before = part_digest(name)
    (package / "other.py").write_text("X = 1")
    assert part_digest(name) == before
    (package / "sign.py").write_text("SIGN = 2")
    changed = part_digest(name)
    (package / "__init__.py").write_text("import torch")
    assert len({before, changed, part_digest(name)}) == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("masking._target_=my_part.HideSome", "no module my_part"),
        ("masking._target_=my_parts.HideSom", "did you mean my_parts.HideSome?"),
        ("masking._target_=HideSome", "module.name"),
        ("masking._target_=subprocess.Popen", "is not yours"),
        ("target._target_=torch.hub.load", "is not yours"),
        ("masking._target_=unmask.masking.Half", "unmask.masking.RandomMasking"),
        ("data.source=my_parts.HideSome", "make it a Dataset"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(
    folder: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check(raw_config(override))


def test_a_file_that_is_no_python_is_refused_with_the_line(folder: Path) -> None:
    (folder / "my_parts.py").write_text("x = 1\ndef f(:")
    with pytest.raises(ConfigError, match="line 2"):
        check(raw_config(*MASKING))


@pytest.mark.parametrize(
    ("part", "old", "new", "message"),
    [
        (MASKING, "uniform(key, epoch, ids_B, patches)", "torch.rand(len(ids_B), patches)", "from call to call"),
        (MASKING, "patches - self.count", "0", "leaves 0 of 16"),
        (MASKING, "return masking_from_scores", "return tuple(masking_from_scores", "invalid"),
        ((TARGET,), "    def loss", "    def lose", "it lacks loss"),
    ],
)  # fmt: skip
def test_a_part_that_does_not_work_is_refused_before_anything_starts(
    folder: Path, part: tuple[str, ...], old: str, new: str, message: str
) -> None:
    text = f"import torch\n{EXAMPLE}".replace(old, new)
    if message == "invalid":
        text, message = text.replace("self.count)", "self.count))"), "not a Masking"
    (folder / "my_parts.py").write_text(text)
    config = check(raw_config(*part))
    with pytest.raises(ConfigError, match=message) as caught:
        check_foreign_parts(config)
    assert "my_parts" in str(caught.value)


def test_keys_of_a_part_of_ones_own_are_its_arguments(folder: Path) -> None:
    config = check(raw_config("masking._target_=my_parts.HideSome"))
    with pytest.raises(ConfigError, match="count"):
        check_foreign_parts(config)
    refused = call("+masking.count=3", "runs_dir=runs")
    assert (refused.returncode, "masking.count" in refused.stderr) == (2, True)


def test_a_data_set_of_ones_own(folder: Path) -> None:
    (folder / "my_blobs.py").write_text(BLOBS)
    typed: dict[str, Any] = raw_config(
        "data.source=my_blobs.BLOBS", "stages=[pretrain]", "pretrain.batch_size=2"
    )
    config = check(typed)
    train, val = open_splits(config.data, None)
    assert (len(train), len(val)) == (6, 2)
    assert torch.equal(train.labels_N, torch.tensor([0, 0, 0, 1, 1, 1]))
    before = fingerprint("data.source=my_blobs.BLOBS")
    assert config.to_dict()["data"]["source"] == "my_blobs.BLOBS"
    (folder / "my_blobs.py").write_text(BLOBS.replace("np.zeros", "np.ones"))
    assert fingerprint("data.source=my_blobs.BLOBS") != before
