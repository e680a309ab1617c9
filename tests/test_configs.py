"""Every config composes; every wrong value gets one line with its remedy."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from small_runs import ROOT, call, raw_config
from unmask.config.checks import ConfigError, check
from unmask.config.experiments import is_sweep
from unmask.config.keys import known_keys
from unmask.config.overrides import config_groups, unknown_choices, unknown_keys
from unmask.config.reference import render_reference
from unmask.stages.plan import make_plan

GROUPS = (
    "model",
    "data",
    "decoder",
    "method",
    "masking",
    "target",
    "augment",
    "pretrain",
    "linear_probe",
    "knn",
    "finetune",
    "scratch",
    "trainer",
    "tokenizer",
    "scale",
)
CHOICES = [
    f"{group}={path.stem}"
    for group in GROUPS
    for path in sorted((ROOT / "conf" / group).glob("*.yaml"))
]


def errors_of(*overrides: str) -> str:
    """Return the error messages of a config that must be refused."""
    with pytest.raises(ConfigError) as error:
        make_plan(check(raw_config(*overrides, tiny=False)))
    return str(error.value)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_passes_the_schema(
    choice: str, tmp_path: Path
) -> None:
    folders = choice.startswith("data=") and choice != "data=mnist5k"
    needs_root = folders or choice in ("scale=paper", "scale=photos_jpeg")
    extra = [f"data.root={tmp_path}"] if needs_root else []
    check(raw_config(choice, *extra, tiny=False))


def test_every_experiment_passes_the_schema() -> None:
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        raw = raw_config(f"experiment={path.stem}", tiny=False)
        raw["data"]["root"] = None if raw["data"]["source"] == "mnist5k" else "/path"
        assert ("sweep" in raw) == is_sweep(path.stem)
        if "sweep" not in raw:
            check(raw)


@pytest.mark.parametrize("model", ["ti", "s", "b", "l", "h"])
def test_any_model_runs_on_any_data_without_further_overrides(
    model: str, tmp_path: Path
) -> None:
    for data in (
        "mnist5k",
        "cifar10",
        "image_folder",
        "imagenet",
        "inat2018",
        "places365",
    ):
        root = [] if data == "mnist5k" else [f"data.root={tmp_path}"]
        config = check(
            raw_config(f"model=mae_vit_{model}", f"data={data}", *root, tiny=False)
        )
        at_224 = config.data.image_size == (224, 224)
        assert config.data.patch_size == ((14 if model == "h" else 16) if at_224 else 4)


@pytest.mark.parametrize(
    ("image_size", "nearest"),
    [
        ("127", "128 (patch 16)"),
        ("[513,313]", "[512,312] (patch 8)"),
        ("226", "224 (patch 16)"),
        ("47", "48 (patch 6)"),
    ],
)
def test_an_image_size_that_only_tiny_patches_divide_is_refused(
    image_size: str, nearest: str, tmp_path: Path
) -> None:
    raw = raw_config(
        "data=image_folder",
        f"data.root={tmp_path}",
        f"data.image_size={image_size}",
        tiny=False,
    )
    with pytest.raises(ConfigError) as error:
        check(raw)
    assert f"data.image_size = {image_size}: " in str(error.value)
    assert nearest in str(error.value)
    # the sizes that it names are taken
    for size in re.findall(r"(\[\d+,\d+\]|\d+) \(patch (\d+)\)", str(error.value)):
        raw["data"]["image_size"] = json.loads(size[0])
        assert check(raw).data.patch_size == int(size[1]) or size[0] == "224"


def test_the_papers_recipes_are_the_papers() -> None:
    """Tables 8, 9 and 10: rates after linear scaling, warm-up, decay, betas."""
    config = check(
        raw_config(
            "pretrain=table8", "finetune=table9", "linear_probe=table10", tiny=False
        )
    )
    table8, table9, table10 = config.pretrain, config.finetune, config.linear_probe
    assert table8.base_lr * table8.batch_size / 256 == pytest.approx(2.4e-3)
    assert (table8.epochs, table8.warmup_epochs, table8.weight_decay, table8.betas) == (
        800,
        40,
        0.05,
        (0.9, 0.95),
    )
    assert table9.base_lr * table9.batch_size / 256 == pytest.approx(4e-3)
    assert (table9.epochs, table9.warmup_epochs, table9.weight_decay, table9.betas) == (
        100,
        5,
        0.05,
        (0.9, 0.999),
    )
    assert table10.base_lr * table10.batch_size / 256 == pytest.approx(6.4)
    assert (table10.epochs, table10.warmup_epochs, table10.weight_decay) == (90, 10, 0)
    assert (table10.optimizer, table10.betas[0]) == ("lars", 0.9)


def test_warm_up_is_a_twentieth_of_the_epochs_by_default() -> None:
    assert (
        check(raw_config("pretrain.epochs=800", tiny=False)).pretrain.warmup_epochs
        == 40
    )


def test_scratch_follows_the_overrides_of_the_fine_tuning_recipe() -> None:
    config = check(
        raw_config(
            "finetune.epochs=7",
            "finetune.base_lr=0.5",
            "labels=20",
            "stages=[scratch]",
            tiny=False,
        )
    )
    assert config.scratch == config.finetune
    assert config.scratch.labels == 20


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("mask_ratio=1.5", ["mask_ratio = 1.5", "less than 1", "0.75"]),
        ("mask_ratio=0", ["mask_ratio = 0", "greater than 0"]),
        ("mask_ratio=nan", ["mask_ratio"]),
        ("mask_ratio=abc", ["mask_ratio = 'abc'", "valid number"]),
        ("mask_ratio=0.999", ["keeps 0 of 49 patches", "between 1 and 48"]),
        (
            "data.patch_size=5",
            ["28", "data.patch_size=5", "nearest image size: 30", "4, 7"],
        ),
        (
            "data.image_size=30",
            ["30", "not a multiple of data.patch_size=4", "nearest image size"],
        ),
        (
            "decoder.heads=3",
            ["decoder.heads = 3", "decoder.width=64", "heads that do: 1, 2, 4"],
        ),
        ("model.width=130", ["model.width = 130", "multiple of 4"]),
        (
            "pretrain.warmup_epochs=30",
            ["warmup_epochs=30", "less than epochs=30", "try warmup_epochs=3"],
        ),
        ("masking=grid mask_ratio=0.5", ["mask_ratio = 0.5", "set mask_ratio=0.75"]),
        ("data=image_folder", ["data.root=/path/to/images"]),
        (
            "data=image_folder data.root=/nowhere",
            ["data.root=/nowhere", "not a folder"],
        ),
        ("data.mean=[0.1,0.2]", ["data.mean has 2 values", "channels=1"]),
        ("data.channels=3", ["data.channels=3", "mnist5k has 1"]),
        (
            "trainer.micro_batch=48",
            ["trainer.micro_batch = 48", "pretrain.batch_size=64"],
        ),
        ("augment.scale=[0.9,0.2]", ["augment.scale", "try [0.2, 0.9]"]),
        ("stages=[]", ["stages", "at least 1"]),
        ("stages=[pretrian]", ["stages", "'pretrain'"]),
        ("+decoder.dpeth=3", ["decoder.dpeth = 3", "did you mean decoder.depth?"]),
        ("seed=-1", ["seed = -1", "greater than or equal to 0"]),
        ("pretrain.base_lr=inf", ["pretrain.base_lr", "finite"]),
        ("labels=7", ["labels = 7", "add finetune or scratch"]),
        ("data.patch_size=28", ["data.patch_size = 28", "the image is one patch"]),
        (
            "pretrain.epochs=10000000000",
            ["pretrain.epochs", "less than or equal to 1000000"],
        ),
        ("model.depth=100000", ["model.depth = 100000", "less than or equal to 256"]),
        ("runs_dir=", ["runs_dir", "at least 1 character"]),
        (
            "finetune.image_size=30 stages=[finetune]",
            ["finetune.image_size = 30", "data.patch_size=4"],
        ),
        (
            "partial_finetune.blocks=1.5 stages=[partial_finetune]",
            ["blocks = 1.5", "up to 4"],
        ),
        (
            "partial_finetune.blocks=5 stages=[partial_finetune]",
            ["blocks = 5", "up to 4"],
        ),
        (
            "attentive_probe.heads=3 stages=[attentive_probe]",
            ["attentive_probe.heads = 3", "model.width=128"],
        ),
        (
            "stages=[finetune] finetune.mixup=0.8 finetune.batch_size=25",
            ["batch_size=25", "even batch"],
        ),
        (
            "stages=[finetune] finetune.optimizer=lars finetune.layer_decay=0.7",
            ["layer_decay=0.7", "optimizer=adamw"],
        ),
        (
            "stages=[scratch] init_from=/some/file",
            ["init_from = /some/file", "scratch starts from random weights"],
        ),
        (
            (
                "stages=[robustness] robustness.of=partial_finetune"
                " partial_finetune.blocks=1.5"
            ),
            ["blocks = 1.5"],
        ),
        ("stages=[robustness] finetune.image_size=30", ["finetune.image_size = 30"]),
        ("stages=[robustness] data.image_size=4", ["corruptions need images of 8 x 8"]),
        ("finetune.augment.policy=rand-w0", ["augment.policy=rand-w0"]),
        ("finetune.augment.policy=rand-minc1", ["augment.policy=rand-minc1"]),
        ("stages=[finetune] finetune.min_lr=1", ["min_lr=1 is above the peak rate"]),
        (
            "finetune.augment.policy=autoaug",
            ["augment.policy=autoaug", "rand-m9-mstd0.5-inc1"],
        ),
        ("finetune.ema=1.5", ["finetune.ema = 1.5"]),
        (
            "augment.policy=rand-m9 data.channels=12 data=image_folder data.root=/x",
            ["RandAugment knows 1 or 3 channels, not 12"],
        ),
        (
            "finetune.mixup=1 trainer.micro_batch=1 stages=[finetune]",
            [
                "trainer.micro_batch = 1",
                "mixes 10 images with each other; take a multiple of 10",
            ],
        ),
        (
            "masking=block masking.min_patches=40",
            ["masking.min_patches = 40", "only 37 patches are hidden"],
        ),
        ("stages=[scratch] labels=7 data.num_workers=-1", ["data.num_workers = -1"]),
        (
            "data.source=webdataset",
            [
                "data.source = 'webdataset': this key names a data set",
                " source=webdataset",
            ],
        ),
        (
            "data.in_memory=maybe",
            ["data.in_memory = 'maybe': give true, false, device or null"],
        ),
        (
            "data.root=/x",
            [
                "data.root = /x: data=mnist5k comes with the install; add"
                " data=image_folder"
            ],
        ),
        (
            "linear_probe.batch_size=1 stages=[linear_probe]",
            ["BatchNorm needs two images", "linear_probe.batch_size=2"],
        ),
        ("target=dvae tokenizer.epochs=1", ["tokenizer: warmup_epochs=1"]),
        ("stages=[knn] pretrain.warmup_epochs=99", ["pretrain: warmup_epochs=99"]),
        ("knn.k=4001 stages=[knn]", ["knn.k = 4001: the bank holds 4,000"]),
        ("knn.k=11 knn.labels=10 stages=[knn]", ["holds 10", "knn.k=10"]),
        ("knn.k=0", ["knn.k = 0"]),
        (
            "logger=wandb logger.wandb.project=mae/ablation",
            ["logger.wandb.project", "such as mae-ablation"],
        ),
        ("logger=wandb logger.wandb.entity=a%b", ["logger.wandb.entity", "a-b"]),
        (f"logger=wandb logger.wandb.project={'x' * 129}", ["1 to 128 characters"]),
        ("data=imagenet", ["data.root: missing", "add data.root=/path/to/images"]),
    ],
)
def test_a_wrong_value_is_named_with_its_remedy(
    override: str, parts: list[str]
) -> None:
    text = errors_of(*override.split())
    assert all(part in text for part in parts), text


def test_micro_batches_need_not_divide_a_probes_batch() -> None:
    check(
        raw_config(
            "stages=[linear_probe]",
            "trainer.micro_batch=48",
            "pretrain.batch_size=96",
            tiny=False,
        )
    )


def test_one_name_may_replace_a_list_and_one_number_a_square() -> None:
    config = check(raw_config("stages=knn", "data.image_size=[28]", tiny=False))
    assert config.stages == ["knn"]
    assert config.data.image_size == (28, 28)


def test_all_errors_are_reported_at_once() -> None:
    assert len(errors_of("mask_ratio=2", "seed=-1", "watch.times=0").splitlines()) == 3


@pytest.mark.parametrize(
    ("typed", "intended"),
    [
        ("mask_raito", "mask_ratio"),
        ("data.rot", "data.root"),
        ("epochs", "pretrain.epochs"),
        ("modle", "model"),
        ("logger.csv.name", "logger.csv"),
    ],
)
def test_a_mistyped_key_is_guessed(typed: str, intended: str) -> None:
    (line,) = unknown_keys([f"{typed}=1"], [*known_keys(), *config_groups()])
    assert line.startswith(f"{typed}: there is no such key")
    assert "did you mean" in line
    assert intended.rsplit(".", 1)[-1] in line


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            ["trainer=slrm"],
            (
                "trainer=slrm: there is no such trainer; did you mean slurm?; one of"
                " auto, cpu"
            ),
        ),
        (
            ["-m", "masking=random,'blck'"],
            "masking=blck: there is no such masking; did you mean block?",
        ),
        (
            ["logger=[wandb,tensorbord]"],
            "logger=tensorbord: there is no such logger; did you mean tensorboard?",
        ),
        (
            ["logger.wandb.project=x"],
            "logger.wandb.project: the logger wandb is not chosen; add logger=wandb",
        ),
    ],
)
def test_an_unknown_choice_is_reported_in_one_line(
    typed: list[str], message: str
) -> None:
    (line,) = unknown_choices(typed)
    assert line.startswith(message)


def test_known_choices_pass() -> None:
    known = [
        "logger=[wandb,csv]",
        "logger.wandb.project=x",
        "model=glob(mae*)",
        "model=mae_vit_b,mae_vit_l",
        "~logger",
    ]
    assert (
        unknown_choices([*known, "seed=1", "hydra/launcher=proc", "experiment=all"])
        == []
    )
    assert unknown_choices(["--config-dir=mine", "model=mine"]) == []


def test_known_keys_and_hydras_own_syntax_pass() -> None:
    arguments = [
        *(f"{key}=1" for key in known_keys()),
        "-m",
        "--cfg",
        "hydra.launcher.n_jobs=2",
        "experiment=demo",
        "~logger",
    ]
    assert unknown_keys(arguments, [*known_keys(), "experiment"]) == []


@pytest.mark.parametrize(
    ("needed", "unneeded"),
    [
        # a finished or mistaken command is answered before they are imported
        (
            "unmask.config.checks, unmask.stages.plan, unmask.stages.ledger,"
            " unmask.reports.run.page",
            "torch lightning matplotlib pandas",
        ),
        # a report draws and counts; only pictures and FLOPs take models
        (
            "unmask.reports.paper.files, unmask.reports.paper.findings",
            "torch lightning",
        ),
    ],
)
def test_what_needs_no_model_imports_no_torch(needed: str, unneeded: str) -> None:
    code = (
        f"import sys; import {needed};"
        f" print([m for m in {unneeded.split()} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "src",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_reference_page_is_made_from_the_schema_and_explains_every_key() -> None:
    page = render_reference()
    assert (ROOT / "docs" / "config.md").read_text() == page, "run make reference"
    assert "None |" not in page
    assert "| `mask_ratio` | number > 0, < 1 |" in page


@pytest.mark.process
@pytest.mark.parametrize(
    "overrides",
    [
        ("mask_ratio=1.5",),
        ("mask_raito=0.5",),
        ("model=mae_vit_x",),
        ("-m", "mask_ratio=0.5,1.5"),
    ],
)
def test_a_bad_config_ends_the_command_with_2_and_no_traceback(
    overrides: tuple[str, ...], tmp_path: Path
) -> None:
    done = call(f"runs_dir={tmp_path}", *overrides, tiny=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "mask_ratio" in done.stderr or "mae_vit_b" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.process
@pytest.mark.parametrize(
    ("flag", "text"), [("--help", "no resume flag"), ("--cfg=job", "mask_ratio: 0.75")]
)
def test_hydras_own_flags_still_work(flag: str, text: str) -> None:
    done = call(flag, tiny=False)
    assert done.returncode == 0
    assert text in done.stdout
