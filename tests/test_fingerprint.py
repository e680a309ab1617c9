"""What a result depends on is in its fingerprint; nothing else is."""

from pathlib import Path

import pytest
from PIL import Image

from small_runs import image_folder, plan_for
from unmask.config.keys import known_keys

# every key of the config is in SCIENCE, in MACHINE, or among the keys of recipes below
P, K, L, A, T, F, S = (
    "pretrain",
    "knn",
    "linear_probe",
    "attentive_probe",
    "partial_finetune",
    "finetune",
    "scratch",
)
R = "robustness"
SCIENCE = {
    "seed": "seed=7",
    "mask_ratio": "mask_ratio=0.6",
    "labels": "labels=50",
    "model.width": "model.width=64",
    "model.depth": "model.depth=2",
    "model.heads": "model.heads=8",
    "model.mlp_ratio": "model.mlp_ratio=2",
    "decoder.depth": "decoder.depth=2",
    "decoder.width": "decoder.width=32",
    "decoder.heads": "decoder.heads=2",
    "decoder.mlp_ratio": "decoder.mlp_ratio=2",
    "model.class_tokens": "model.class_tokens=8",
    "decoder._target_": "decoder=cross",
    "decoder.prediction_ratio": "decoder=cross decoder.prediction_ratio=0.25",
    "decoder.inter_block": "decoder=cross decoder.inter_block=false",
    "masking.block": "masking=coarse masking.block=1",
    "masking._target_": "masking=block",
    "masking.min_patches": "masking=block masking.min_patches=9",
    "target._target_": "target=pixel_norm",
    "target.bins": "target=hog target.bins=7",
    "target.components": "target=pca target.components=3",
    "tokenizer.file": "target=dvae tokenizer.file={others}/3/000.png",
    "encoder.mask_tokens": "encoder.mask_tokens=true",
    "loss_on": "loss_on=all",
    "augment.jitter": "augment.jitter=0.4",
    "augment.repeats": "augment.repeats=4",
    "stop_after": "stop_after=3",
    "augment.crop": "augment.crop=fixed",
    "augment.scale": "augment.scale=[0.5,1]",
    "augment.flip": "augment.flip=true",
    "augment.policy": "augment.policy=rand-m5-n1",
    "augment.erasing": "augment.erasing=0.3",
    "data.source": "data=cifar10",
    "data.image_size": "data.image_size=56",
    "data.patch_size": "data.patch_size=2",
    "data.range": "data=image_folder data.root={others} knn.k=5 data.range=[0,9]",
    "data.mean": "data.mean=[0.2]",
    "data.std": "data.std=[0.2]",
    "data.eval_crop": "data.eval_crop=0.9",
    "trainer.precision": "trainer.precision=bf16-mixed",
    "knn.k": "knn.k=5",
    "knn.temperature": "knn.temperature=0.1",
    "knn.pool": "knn.pool=mean",
    "knn.labels": "knn.labels=100",
    "robustness.of": "robustness.of=scratch",
    "robustness.corruptions": "robustness.corruptions=[fog]",
    "robustness.severities": "robustness.severities=[1]",
    "robustness.images": "robustness.images=null",
    "robustness.source": "robustness.source=folder robustness.root={others}",
    "spikes.factor": "spikes.factor=3",
    "spikes.window": "spikes.factor=3 spikes.window=7",
}
MACHINE = {
    "stages": "stages=[scratch,pretrain,knn,linear_probe,finetune]",
    "controls": "controls=[]",
    "runs_dir": "runs_dir=/else",
    "wait": "wait=false",
    "rerun": "rerun=true",
    "adopt": "adopt=true",
    **dict.fromkeys(
        (
            *("scale.name", "scale.seeds", "scale.looks", "scale.alike"),
            *("scale.cells", "scale.caveats"),
        ),
        "++scale.name=a ++scale.seeds=[1] ++scale.looks=[3,6] ++scale.alike={}"
        " ++scale.cells={} ++scale.caveats={}",
    ),
    # of one's own: tests/test_foreign_models.py
    "model._target_": "model._target_=unmask.encoder.Encoder",
    "model.name": "model.name=other",
    "model.patch_size_at_224": "model.patch_size_at_224=8",
    "data.download": "data.download=true",
    "data.flip": "data.flip=true",
    "data.holdout": "data.holdout=0.3",
    "data.statistics": "data.statistics=null",
    "data.in_memory": "data.in_memory=device",
    "data.bad_limit": "data.bad_limit=0.5",
    "data.num_workers": "data.num_workers=3",
    "data.threads": "data.threads=null",
    "trainer.accelerator": "trainer.accelerator=cpu",
    "trainer.kernels": "trainer.kernels=default",
    "trainer.compile": "trainer.compile=true",
    "trainer.micro_batch": "trainer.micro_batch=2",
    "trainer.devices": "trainer.devices=2",
    "trainer.nodes": "trainer.nodes=2",
    "trainer.timeout_minutes": "trainer.timeout_minutes=2",
    "trainer.sharded": "trainer.sharded=true trainer.devices=2",
    "trainer.requeue": "trainer.requeue=false",
    "source": "source=folder",
    "init_from": "init_from=null",
    "weights": "weights=null",
    "grid": "grid=null",
    # where views are whole images
    "data.eval_view": "data.eval_view=whole_pixels",
    # where nothing is resampled
    "positions": "positions=timm",
    "checkpoint.every_minutes": "checkpoint.every_minutes=9",
    "checkpoint.every_steps": "checkpoint.every_steps=9",
    "checkpoint.keep": "checkpoint.keep=9",
    "checkpoint.best": "checkpoint.best=false",
    "trainer.split": "trainer.split=2",
    "trainer.max_minutes": "trainer.max_minutes=9",
    "spikes.limit": "spikes.limit=3",
    "robustness.root": "robustness.root=/else",
    # only folders that are listed count, as the root's below
    "robustness.sets": "robustness.sets=[corrupted]",
    "robustness.unknown_classes": "robustness.unknown_classes=leave_out",
    "watch.times": "watch.times=2",
    "watch.pictures": "watch.pictures=2",
    "watch.trace": "watch.trace=true",
    "watch.probe": "watch.probe=linear",
    "watch.probe_images": "watch.probe=linear watch.probe_images=100",
    "logger": "logger=tensorboard",
}
OPTIMISED = {
    "optimizer": "lars",
    "epochs": "33",
    "batch_size": "30",
    "base_lr": "0.011",
    "min_lr": "1e-5",
    "warmup_epochs": "0.5",
    "weight_decay": "0.011",
    "betas": "[0.8,0.9]",
}
MEASURED = {
    "augment.crop": "random",
    "augment.scale": "[0.3,1]",
    "augment.flip": "true",
    "augment.policy": "rand-m5-n1",
    "augment.erasing": "0.5",
    "augment.jitter": "0.3",
    "labels": "40",
    "image_size": "56",
}
TUNED = {
    "pool": "cls",
    "layer_decay": "0.7",
    "drop_path": "0.3",
    "smoothing": "0.2",
    "mixup": "0.4",
    "cutmix": "0.4",
    "ema": "0.9",
}
OTHER_VALUE = {
    "tokenizer": (
        OPTIMISED | {"seed": "3", "codes": "32", "width": "8", "usage_weight": "0.3"}
    ),
    "pretrain": OPTIMISED,
    "linear_probe": OPTIMISED | MEASURED | {"pool": "mean", "optimizer": "adamw"},
    "attentive_probe": OPTIMISED | MEASURED | {"heads": "8"},
    "finetune": OPTIMISED | MEASURED | TUNED,
    "scratch": OPTIMISED | MEASURED | TUNED,
    "partial_finetune": OPTIMISED | MEASURED | TUNED | {"blocks": "2"},
}
EXACT_KEYS = ("penalties", "holdout", "tolerance", "max_iterations")
REPEATING = (
    "linear_probe",
    "attentive_probe",
    "partial_finetune",
    "finetune",
    "scratch",
)
OTHER_VALUES = [
    (recipe, key) for recipe, values in OTHER_VALUE.items() for key in values
]
ALL = "stages=[patch_pca,tokenizer,pretrain,knn,linear_probe,attentive_probe,partial_finetune,finetune,scratch,robustness]"


def fingerprints(*overrides: str) -> dict[tuple[str, str], str]:
    plan = plan_for(ALL, *overrides, tiny=False)
    return {(spec.kind, spec.start): spec.fingerprint for spec in plan.stages}


IMAGES = {("patch_pca", "images"), ("tokenizer", "images")}
AFTER_PRETRAINING = {(P, "random")} | {
    (kind, "pretrained") for kind in (K, L, A, T, F, R)
}
PIXELS = {(K, "pixels"), (L, "pixels"), (F, "pixels")}
ENCODERS = AFTER_PRETRAINING | {(kind, "random") for kind in (K, L, A, T, S)}
EVERYTHING = ENCODERS | PIXELS
KNN = {(K, "pretrained"), (K, "random"), (K, "pixels")}
AFFECTED = {
    # neighbours among all pixels: nothing is drawn
    "seed": EVERYTHING - {(K, "pixels")},
    "robustness": {(R, "pretrained")},
    "labels": {
        (R, "pretrained"),
        (F, "pretrained"),
        (F, "pixels"),
        (S, "random"),
        (T, "pretrained"),
        (T, "random"),
    },
    # neighbours take no steps
    "stop_after": (
        EVERYTHING - {(K, "random"), (K, "pixels")} | {("tokenizer", "images")}
    ),
    "model.heads": ENCODERS,
    "data.patch_size": ENCODERS | IMAGES,
    "knn.k": KNN,
    "knn.temperature": KNN,
    "knn.labels": KNN,
    "knn.pool": KNN - PIXELS,
    **dict.fromkeys(
        (
            "mask_ratio",
            "masking",
            "target",
            "tokenizer",
            "encoder",
            "decoder",
            "augment",
            "loss_on",
        ),
        AFTER_PRETRAINING,
    ),
    "spikes": (EVERYTHING - KNN) | AFTER_PRETRAINING | {("tokenizer", "images")},
    "model": ENCODERS,
    "data": EVERYTHING | IMAGES,
    "trainer": EVERYTHING | IMAGES,
}


@pytest.mark.parametrize("key", SCIENCE)
def test_a_key_of_science_changes_the_fingerprints_of_its_stages_alone(
    key: str, tmp_path: Path
) -> None:
    others = image_folder(tmp_path, classes=("3", "7"))
    changed, default = (
        fingerprints(*SCIENCE[key].format(others=others).split()),
        fingerprints(),
    )
    expected = AFFECTED.get(key) or AFFECTED[key.split(".")[0]]
    assert {
        stage for stage in default if changed.get(stage) != default[stage]
    } == expected


@pytest.mark.parametrize("override", MACHINE.values())
def test_a_key_of_the_machine_changes_no_fingerprint(override: str) -> None:
    changed, default = fingerprints(*override.split()), fingerprints()
    assert all(default[stage] == changed[stage] for stage in changed)


@pytest.mark.parametrize(("recipe", "key"), OTHER_VALUES)
def test_every_value_of_a_recipe_changes_the_fingerprint(recipe: str, key: str) -> None:
    changed = fingerprints(f"{recipe}.{key}={OTHER_VALUE[recipe][key]}")
    start = {"tokenizer": "images"}.get(
        recipe, "random" if recipe in ("pretrain", "scratch") else "pretrained"
    )
    assert changed[recipe, start] != fingerprints()[recipe, start]


@pytest.mark.parametrize("recipe", REPEATING)
def test_repeats_change_the_fingerprint_and_a_single_view_keeps_older_ones(
    recipe: str,
) -> None:
    flip = f"{recipe}.augment.flip=true"
    once, twice = fingerprints(flip), fingerprints(flip, f"{recipe}.augment.repeats=2")
    start = "random" if recipe == "scratch" else "pretrained"
    assert once[recipe, start] != twice[recipe, start]
    (spec,) = (
        s
        for s in plan_for(ALL, flip, tiny=False).stages
        if (s.kind, s.start) == (recipe, start)
    )
    assert "repeats" not in spec.science["recipe"]["augment"]


def test_every_key_of_the_config_is_science_or_machine() -> None:
    listed_keys = {
        "data.channels",
        "data.decode",
        "data.root",
        *SCIENCE,
        *MACHINE,
        *(f"{recipe}.{key}" for recipe, key in OTHER_VALUES),
        *(f"{recipe}.augment.repeats" for recipe in REPEATING),
        # tests/test_exact_probe.py
        *(f"linear_probe.{key}" for key in EXACT_KEYS),
        # tests/test_foreign_parts.py, tests/test_examples.py
        *(f"{recipe}.augment._target_" for recipe in REPEATING),
        "augment._target_",
        *("task._target_", "task.pool", "task.labels"),
    }
    leaves = {
        key
        for key in known_keys()
        if not any(other.startswith(f"{key}.") for other in known_keys())
    }
    leaves = {key for key in leaves if not key.startswith("logger.")} | {"logger"}
    assert leaves == listed_keys


def test_devices_and_micro_batches_do_not_count_even_with_mixup() -> None:
    mixing = ("finetune.mixup=0.8", "finetune.batch_size=32")
    assert fingerprints(*mixing) == fingerprints(
        *mixing, "trainer.micro_batch=16", "trainer.devices=2"
    )


def test_an_image_size_equal_to_the_datas_changes_no_fingerprint() -> None:
    assert fingerprints("finetune.image_size=28") == fingerprints()


def test_positions_count_where_their_grid_changes_and_timms_are_the_older_results() -> (
    None
):
    """Version 0.1 resampled as timm does: its results are kept under that name."""
    larger = ("finetune.image_size=56",)
    port, timm = (
        {
            (spec.kind, spec.start): spec
            for spec in plan_for(ALL, *larger, f"positions={name}", tiny=False).stages
        }
        for name in ("port", "timm")
    )
    tuned = (F, "pretrained")
    assert port[tuned].science["positions"] == {"by": "port", "from": [7, 7]}
    assert "positions" not in timm[tuned].science
    # robustness follows from the classifier that it measures
    changed = {stage for stage in port if port[stage] != timm[stage]}
    assert not changed
    differs = {s for s in port if port[s].fingerprint != timm[s].fingerprint}
    assert differs == {tuned, (T, "pretrained"), (R, "pretrained")}


def view_changes(*overrides: str) -> set[tuple[str, str]]:
    """Return the stages that data.eval_view moves; whole_pixels are the older results."""
    port, whole = (
        {
            (spec.kind, spec.start): spec
            for spec in plan_for(
                ALL, *overrides, f"data.eval_view={name}", tiny=False
            ).stages
        }
        for name in ("port", "whole_pixels")
    )
    assert not any("view" in spec.science for spec in whole.values())
    moved = {stage for stage, spec in port.items() if "view" in spec.science}
    assert {port[stage].science["view"] for stage in moved} <= {"port"}
    return moved


def test_views_count_where_they_lie_between_pixels() -> None:
    """A pretraining on random crops sees them in its validation alone."""
    smaller = "data.eval_crop=0.875"
    pretraining = {(P, "random")}
    assert view_changes() == set()
    assert view_changes("data.image_size=56") == set()
    assert view_changes(smaller, "augment=none") == EVERYTHING | IMAGES
    for crop in ("crop_random", "crop_fixed"):
        changed = view_changes(smaller, f"augment={crop}")
        assert changed == EVERYTHING - pretraining | IMAGES
    # fine-tuned at another aspect, as the stages that follow its recipe
    of_classifiers = {stage for stage in EVERYTHING if stage[0] in (F, T, S, R)}
    assert view_changes("finetune.image_size=[28,56]") == of_classifiers


@pytest.mark.parametrize(
    ("size", "crop", "decode", "moves"),
    [
        (16, 1.0, "auto", False),
        (40, 1.0, "auto", False),
        (40, 1.0, "scaled", True),
        (40, 0.9, "auto", True),
    ],
)
def test_views_of_files_count_unless_their_headers_say_that_they_are_whole(
    size: int, crop: float, decode: str, moves: bool, tmp_path: Path
) -> None:
    root = image_folder(tmp_path, size=size)
    common = ("data=image_folder", f"data.root={root}", "data.image_size=16")
    more = (f"data.eval_crop={crop}", f"data.decode={decode}", "knn.k=5")
    everything = EVERYTHING | IMAGES
    assert view_changes(*common, *more) == (everything if moves else set())
    # one image of another aspect is enough
    Image.new("RGB", (size, size + 1)).save(root / "cat" / "000.png")
    assert view_changes(*common, *more) == everything


def test_a_decoders_ratio_follows_the_models_and_four_keeps_older_results() -> None:
    narrow = "model.mlp_ratio=2"
    both, apart = fingerprints(narrow), fingerprints(narrow, "decoder.mlp_ratio=4")
    assert both["pretrain", "random"] != apart["pretrain", "random"]
    (spec,) = (s for s in plan_for(ALL, tiny=False).stages if s.kind == "pretrain")
    assert "mlp_ratio" not in spec.science["decoder"]


def test_pretraining_is_shared_by_all_measurements_of_it() -> None:
    assert (
        fingerprints("knn.k=5", "labels=10", "finetune.epochs=3")["pretrain", "random"]
        == fingerprints()["pretrain", "random"]
    )


def test_controls_are_shared_between_cells_that_differ_in_pretraining() -> None:
    deep, default = fingerprints("decoder.depth=4", "mask_ratio=0.5"), fingerprints()
    for stage in (
        ("knn", "random"),
        ("knn", "pixels"),
        ("linear_probe", "random"),
        ("scratch", "random"),
    ):
        assert deep[stage] == default[stage]
    assert deep["knn", "pretrained"] != default["knn", "pretrained"]


def test_fitted_stages_are_shared_by_seeds_and_models() -> None:
    other, default = (
        fingerprints("seed=5", "decoder.depth=4", "model.width=64", "mask_ratio=0.5"),
        fingerprints(),
    )
    assert all(other[stage] == default[stage] for stage in IMAGES)


@pytest.mark.parametrize(
    ("target", "before"), [("pca", "patch_pca"), ("dvae", "tokenizer")]
)
def test_a_target_that_is_fitted_follows_its_stage(target: str, before: str) -> None:
    plan = plan_for(f"target={target}", "stages=[pretrain]", tiny=False)
    assert [spec.kind for spec in plan.stages] == [before, "pretrain"]
    assert plan.stages[1].parent == plan.stages[0]


def test_raw_pixels_do_not_depend_on_any_encoder() -> None:
    assert (
        fingerprints("model=mae_vit_s", "data.patch_size=2")["knn", "pixels"]
        == fingerprints()["knn", "pixels"]
    )


def test_the_number_of_channels_changes_the_fingerprint(tmp_path: Path) -> None:
    common = (
        "data=image_folder",
        f"data.root={image_folder(tmp_path / 'images')}",
        "data.image_size=16",
        "stages=[pretrain]",
    )
    grey, rgb = (
        plan_for(*common, f"data.channels={c}", "data.mean=null", tiny=False)
        for c in (1, 3)
    )
    assert grey.stages[0].fingerprint != rgb.stages[0].fingerprint


def test_pixels_count_and_the_number_of_decoding_threads_does_not(
    tmp_path: Path,
) -> None:
    common = (
        "data=image_folder",
        f"data.root={image_folder(tmp_path / 'images')}",
        "data.image_size=16",
        "stages=[pretrain]",
    )
    auto, fast, scaled, reference, nvjpeg, threaded = (
        plan_for(*common, *more, tiny=False).stages[0].fingerprint
        for more in (
            (),
            ("data.decode=fast",),
            ("data.decode=scaled",),
            ("data.decode=reference",),
            ("data.decode=nvjpeg",),
            ("data.threads=3",),
        )
    )
    assert auto == fast == threaded
    assert len({fast, scaled, reference, nvjpeg}) == 4


def test_a_folder_is_identified_by_its_content_not_its_path(tmp_path: Path) -> None:
    here, there = image_folder(tmp_path / "here"), image_folder(tmp_path / "there")
    common = ("data=image_folder", "data.image_size=16", "stages=[pretrain]")

    def fingerprint(root: Path) -> str:
        return plan_for(*common, f"data.root={root}", tiny=False).stages[0].fingerprint

    assert fingerprint(here) == fingerprint(there)
    (there / "cat" / "000.png").unlink()
    assert fingerprint(here) != fingerprint(there)
