"""Every command of the README and its guides runs; every dial and file it names exists."""

import re
import shlex
from pathlib import Path

import pytest

from small_runs import ROOT, TINY, call, image_folder, run
from unmask.config.arguments import (
    Bench,
    Convert,
    Measure,
    Prepare,
    Reconstruct,
    Report,
    keyed,
)
from unmask.config.keys import known_keys
from unmask.exchange.read import read
from unmask.exchange.write import write

README = (ROOT / "README.md").read_text()
GUIDES = [
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("images", "loading", "downstream", "weights")
]
DOCS = "\n".join([README, *GUIDES])
BLOCKS = "\n".join(re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL))
COMMANDS = list(
    dict.fromkeys(
        line.split("#")[0].strip()
        for line in BLOCKS.splitlines()
        if line.startswith("python ")
    )
)
PHOTOS = (
    "data=image_folder",
    "data.image_size=32",
    "data.patch_size=4",
    "data.num_workers=0",
    "pretrain.batch_size=4",
)


def test_the_commands_people_came_for_are_there() -> None:
    assert "python src/train.py model=mae_vit_b mask_ratio=0.75" in COMMANDS
    assert "python src/train.py -m decoder.depth=1,2,4,8" in COMMANDS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A folder of images, a ledger, and the fingerprint of a pretraining in it, with a fine-tuning."""
    root = tmp_path_factory.mktemp("readme")
    images = image_folder(root / "images", size=32)
    runs = root / "runs"
    run(
        f"runs_dir={runs}",
        "stages=[pretrain,finetune]",
        "pretrain.epochs=1",
        "labels=20",
    )
    (folder,) = runs.glob("pretrain/*")
    run(
        f"runs_dir={root / 'others'}",
        *PHOTOS,
        f"data.root={images}",
        "stages=[pretrain]",
        "pretrain.epochs=1",
    )
    done = call(
        f"from={images}",
        f"to={root / 'tars'}",
        "format=webdataset",
        script="prepare.py",
        tiny=False,
    )
    assert done.returncode == 0, done.stderr
    write(
        read(next((root / "others").glob("pretrain/*")))[0],
        root / "mae_pretrain_vit_base.pth",
        "official",
    )
    return images, runs, folder.name


@pytest.mark.process
@pytest.mark.parametrize("typed", COMMANDS)
def test_every_command_runs_as_typed_but_smaller(
    typed: str, place: tuple[Path, Path, str], tmp_path: Path
) -> None:
    images, runs, fingerprint = place
    text = typed.replace("to=/path/to/tars", f"to={tmp_path / 'tars'}").replace(
        "/path/to/tars", f"{images.parent}/tars"
    )
    text = text.replace("/path/to/images", str(images)).replace(
        "runs/pretrain/<fingerprint>", f"{runs}/pretrain/{fingerprint}"
    )
    text = text.replace("/path/to/imagenet", str(images)).replace(
        "blocks=0,0.5,1,2,4", "blocks=0.5,1"
    )
    text = text.replace(
        "mae_pretrain_vit_base.pth", str(images.parent / "mae_pretrain_vit_base.pth")
    )
    text = text.replace("to=vit_base", f"to={tmp_path}/vit_base")
    (tuned,) = (runs / "finetune").iterdir()
    text = text.replace("runs/finetune/<fingerprint>", str(tuned))
    text = text.replace("scale=paper hardware", "scale=embedded hardware")
    text = text.replace(
        "experiment=decoder_depth scale=embedded",
        "experiment=mask_token scale=embedded seed=0",
    )
    _, script, *overrides = shlex.split(text)
    name = Path(script).name
    if name == "train.py":
        dials = {override.split("=")[0] for override in overrides}
        small = [
            o
            for o in TINY
            if o.split("=")[0] not in dials and not o.startswith("data.")
        ]
        overrides += [*small, "pretrain.epochs=1", f"runs_dir={tmp_path}"]
        overrides += (
            ["linear_probe.warmup_epochs=0"] if "linear_probe=port" in overrides else []
        )
        photos = {"data=image_folder", "data=imagenet"} & set(overrides)
        overrides += [o for o in PHOTOS if not o.startswith("data=")] if photos else []
        overrides += (
            ["robustness.images=10", "robustness.severities=[5]"]
            if any("robustness" in o for o in overrides)
            else []
        )
        if "scale=embedded" in overrides:
            overrides += [
                "data.image_size=28",
                "data.patch_size=7",
                "finetune.labels=100",
            ]
    if name == "report.py":
        overrides += [
            f"runs_dir={runs}",
            f"out={tmp_path}",
            "experiment=mask_token,schedule",
        ]
    if name == "plan.py":
        overrides = [
            override for override in overrides if not override.startswith("seed=")
        ]
    if name == "bench.py":
        shorter = "seconds=0.1" if overrides[:1] == ["loader"] else "rounds=1"
        overrides += ["batch=1", shorter, "model.depth=1", "decoder.depth=1"]
    if name == "measure.py":
        overrides += [f"out={tmp_path / 'statistics.yaml'}"]
    if name == "reconstruct.py":
        overrides += [f"out={tmp_path / 'out.png'}"]
    if name == "convert.py":
        overrides += ["heads=2", "decoder_heads=2"]
    done = call(*dict.fromkeys(overrides), script=name, tiny=False)
    assert done.returncode == 0, done.stderr


def test_every_dial_exists() -> None:
    keys = {key.split("[")[0] for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)*)=", DOCS)}
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert {"mask_ratio", "masking", "labels"} <= keys
    arguments = {
        key
        for kind in (Bench, Convert, Measure, Prepare, Reconstruct, Report)
        for key in keyed(kind)
    }
    assert (
        not keys
        - set(known_keys())
        - groups
        - arguments
        - {"hydra.launcher.n_jobs", "hydra.sweeper.skip_kept"}
    )


def test_every_make_verb_exists() -> None:
    verbs = set(re.findall(r"(?:`|^)make ([a-z]+)", README, re.MULTILINE))
    assert verbs
    assert verbs <= set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )


def test_every_picture_and_file_exists() -> None:
    assert all(
        (ROOT / path).exists() for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    )
    assert all(
        (ROOT / path).exists()
        for path in re.findall(r"\]\(((?:docs|experiments|conf)/[^)#]+)", README)
    )
    for guide in GUIDES:
        assert all(
            (ROOT / "docs" / path).exists()
            for path in re.findall(r"\]\(([^):]+)\)", guide)
        )
    for path in re.findall(r"`(src/\w+\.py)`", DOCS):
        assert (ROOT / path).exists()


def test_every_test_that_the_page_on_failures_names_exists() -> None:
    named = set(
        re.findall(r"`(test_\w+)`", (ROOT / "docs" / "failures.md").read_text())
    )
    written = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 40
    assert not [name for name in named if f"def {name}(" not in written]
