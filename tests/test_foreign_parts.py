"""Parts from a file of the user's work everywhere, and those that do not are refused."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from small_runs import COARSE, ROOT, call, plan_for, raw_config
from unmask.commands.plan.memory import count_memory
from unmask.config.checks import ConfigError, check, check_checkpoint_config
from unmask.config.foreign import part_digest
from unmask.data.loading.views import Views
from unmask.training.build import (
    build_augment,
    build_format,
    count_visible,
    open_splits,
)
from unmask.training.flops import count_flops
from unmask.training.foreign_parts import check_foreign_parts
from unmask.training.outline import pretraining_outline

# what docs/extending.md shows, in one file
EXAMPLE = "\n".join(
    block
    for block in re.findall(
        r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL
    )
    if re.search(r"^class (HideSome|Brightness|Dim|Spread)\b", block, re.MULTILINE)
)
MASKING = ("masking._target_=my_parts.HideSome", "masking.count=1")
DIM = ("augment._target_=my_parts.Dim", "augment.lowest=0.5")
TASK = ("stages=[pretrain,task]", "task._target_=my_parts.Spread")
TARGET = "target._target_=my_parts.Brightness"
SMALL = (COARSE, "pretrain.epochs=1", "model.width=8", "decoder.width=8")
BLOBS = """
import numpy as np
from unmask.config.datasets import Arrays, Dataset, DatasetSize

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
    assert "Brightness: Predict the mean of a patch" in page
    assert "Masks: HideSome: Hide the same number of patches in each image" in page
    listed = call("list", "runs_dir=runs", script="runs.py", tiny=False).stdout
    assert "masking.count=1" in listed
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


def test_a_price_counts_without_values_what_code_of_ones_own_reads(
    folder: Path,
) -> None:
    text = EXAMPLE.replace(
        "patches - self.count)", "int(torch.tensor(patches - self.count)))"
    ).replace("return 1", "return int(torch.ones(1).sum())")
    (folder / "my_parts.py").write_text(f"import torch\n{text}")
    config = check(raw_config(*MASKING, TARGET))
    count_memory(lambda: pretraining_outline(config), "32-true")
    assert count_flops(lambda: pretraining_outline(config)).forward > 0


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
        (MASKING, "- self.count)", "- self.count - epoch)", "15 patches visible in epoch 0 and 14"),
        (MASKING, "patches - self.count", "3 + int(uniform(key, epoch, ids_B, 1)[0, 0] > 0.5)", "equally many"),
        (MASKING, "return masking_from_scores(scores_BL, patches - self.count)", "found = masking_from_scores(scores_BL, 3)\n        return found._replace(hidden_BL=found.hidden_BL.float())", "float32, not bool"),
        (MASKING, "patches = math", "raise SystemExit(3)\n        patches = math", "SystemExit: 3"),
        (MASKING, "def __call__(self, key, ids_B, epoch):\n        patches", "def mask(self):\n        patches", "it lacks __call__"),
        (MASKING, "patches = math", "patches = maths", "NameError: name 'maths' is not defined .*my_parts.py, line"),
        (MASKING, "return masking_from_scores", "return tuple(masking_from_scores", "invalid"),
        (MASKING, "return masking_from_scores(scores_BL,", "return masking_from_scores(scores_BL * float('nan'),", "scores are NaN"),
        ((TARGET,), "    def loss", "    def lose", "it lacks loss"),
        ((TARGET,), "keepdim=True)", "keepdim=True).int()", "its values are torch.int32"),
        ((TARGET,), "    def loss", "    picture_note = 3\n\n    def loss", "picture_note is 3"),
        ((TARGET,), "return 1", "return 2", r"shape \[2, 16, 1\], and not"),
        ((TARGET,), "return 1", "return 1.5", "num_outputs returns 1.5"),
        ((TARGET,), "patches_BMP.float()", "(patches_BMP / patches_BMP.std(-1, keepdim=True))", "one colour"),
        ((TARGET,), "patches_BMP.float()", "torch.rand(patches_BMP.shape)", "from call to call"),
        ((TARGET,), ".square().mean()", ".square()", r"shape \[2, 16, 1\], and not one number"),
        ((TARGET,), ".square().mean()", ".square().mean().detach()", "no gradient"),
        ((TARGET,), ".square().mean()", ".square().mean().sub(9).sqrt()", "its loss is nan"),
        ((TARGET,), "visible_BVP.shape[-1]", "3", r"to_pixels returns \[2, 16, 3\]"),
        (DIM, ".to(images_BCHW.dtype)", "", "keep shape and type"),
        (DIM, "uniform(key, epoch, ids_B, 1)", "torch.rand(len(ids_B), 1)", "from call to call"),
        (DIM, "uniform(key, epoch, ids_B, 1)", "images_BCHW.float().mean().view(1, 1) / 255", "other images"),
        (TASK, '    unit = "directions"', "", "it lacks unit"),
        (TASK, "higher_is_better = True", 'higher_is_better = "yes"', "not of type bool"),
        (TASK, '{"directions": ', "{3: ", "names a number 3"),
        (TASK, ".exp().item()", ".mul(0).log().mul(0).item()", "directions is nan"),
        (TASK, "features()", "features(lambda x: x[..., :5])", "keep the shape"),
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
    assert "\n" not in str(caught.value)


def test_a_file_that_exits_on_import_is_refused(folder: Path) -> None:
    (folder / "my_parts.py").write_text(f"{EXAMPLE}\nraise SystemExit(0)")
    with pytest.raises(ConfigError, match=r"SystemExit: 0\); see .*my_parts\.py"):
        check_foreign_parts(check(raw_config(*MASKING)))


def test_a_file_that_python_does_not_find_first_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "src")
    for name in ("train", "torch"):
        (folder / f"{name}.py").write_text(EXAMPLE)
        message = rf"before {re.escape(str(folder))}/{name}\.py; give your file another"
        with pytest.raises(ConfigError, match=message):
            check(raw_config(f"masking._target_={name}.HideSome"))


def test_keys_of_a_part_of_ones_own_are_its_arguments(folder: Path) -> None:
    config = check(raw_config("masking._target_=my_parts.HideSome"))
    with pytest.raises(ConfigError, match="count"):
        check_foreign_parts(config)
    for key in ("masking.count", "augment.lowest", "task.turns"):
        refused = call(f"{key}=3", "runs_dir=runs")
        assert (refused.returncode, f"{key} = 3" in refused.stderr) == (2, True)


def test_a_file_of_ones_own_names_a_part(folder: Path) -> None:
    (folder / "conf/masking").mkdir(parents=True)
    text = "_target_: my_parts.HideSome\ncount: 2\n"
    (folder / "conf/masking/mine.yaml").write_text(text)
    shown = call(
        "masking=mine", "--config-dir", "conf", "masking.count=5", "--cfg", "job"
    )
    assert "_target_: my_parts.HideSome\n  count: 5" in shown.stdout, shown.stderr
    for typed, message in (
        (("--config-dir=conf", "masking=min"), "no such masking; did you mean mine?"),
        (("--config-dir=other", "masking=mine"), "other: there is no such folder"),
        (("masking=mine", "--config-dir"), "--config-dir: give its folder"),
        (("hydra.searchpath=[",), "hydra.searchpath=["),
    ):
        refused = call(*typed)
        assert (refused.returncode, message in refused.stderr) == (2, True), refused
        assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("flag", [("--config-dir=conf",), ("-cd", "conf")])
def test_a_price_takes_files_of_ones_own(folder: Path, flag: tuple[str, ...]) -> None:
    (folder / "conf/masking").mkdir(parents=True)
    text = "_target_: my_parts.HideSome\ncount: 2\n"
    (folder / "conf/masking/mine.yaml").write_text(text)
    typed = (*flag, "-m", "masking=mine,random", "stages=[pretrain]")
    priced = call(*typed, "lacking=false", script="plan.py")
    assert priced.returncode == 0, priced.stderr
    assert "2 cells" in priced.stdout


def test_a_price_tries_the_parts_and_a_checkpoint_names_those_that_are_gone(
    folder: Path,
) -> None:
    refused = call("masking._target_=my_parts.HideSome", script="plan.py")
    assert (refused.returncode, "count" in refused.stderr) == (2, True), refused
    raw = raw_config(*MASKING)
    check_checkpoint_config(raw)
    (folder / "my_parts.py").unlink()
    with pytest.raises(
        ConfigError, match=r"was made with my_parts\.HideSome: there is"
    ):
        check_checkpoint_config(raw)


def test_an_augmentation_changes_a_view_and_the_fingerprint(folder: Path) -> None:
    config = check(raw_config(*DIM))
    train, _ = open_splits(config.data, None)
    augment = build_augment(config.augment, config.data)
    views = Views(train, build_format(config), augment, seed=0)
    plain = Views(train, build_format(config), None, seed=0)
    batch = views.batch(1, [5, 3, 8]).images_BCHW
    assert torch.equal(views.batch(1, [8]).images_BCHW[0], batch[2])
    assert not torch.equal(views.batch(2, [8]).images_BCHW[0], batch[2])
    share = batch.sum() / plain.batch(1, [5, 3, 8]).images_BCHW.sum()
    assert 0.5 < share < 1
    assert (
        fingerprint(*DIM) != fingerprint() != fingerprint(*DIM[:1], "augment.lowest=1")
    )
    tuned = (
        "stages=[scratch]",
        "scratch.augment._target_=my_parts.Dim",
        "scratch.augment.lowest=1",
    )
    fingerprints = [
        plan_for(*each).stages[0].fingerprint for each in (tuned, tuned[:1])
    ]
    assert len({*fingerprints}) == 2


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


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("np.uint8", "np.float32", "training images of float32"),
        ('"blobs-1"', "3", "its identity is 3"),
        ("[3, 3]", "[3, 3], size=(32, 32)", "images of 28 x 28 pixels"),
        ("None, Arr", "DatasetSize(9, 2, 2), Arr", r"load returns .*train=6, val=2"),
        ("[3, 3]", "[2, 4]", r"load returns \[3, 3\]"),
        ("[0, 0, 0, 1, 1, 1]", "[0, 0, 0, 1, 1, 2]", "reach from 0 to 2"),
        ("6, 1, 28", "6, 3, 28", r"shape \[6, 3, 28, 28\]"),
    ],
)
def test_arrays_that_are_not_what_the_dataset_says_are_refused(
    folder: Path, old: str, new: str, message: str
) -> None:
    (folder / "my_blobs.py").write_text(BLOBS.replace(old, new))
    typed = ("data.source=my_blobs.BLOBS", f"data.root={folder}")
    config = check(raw_config(*typed, "stages=[pretrain]", "pretrain.batch_size=2"))
    with pytest.raises(ConfigError, match=message):
        check_foreign_parts(config)
