"""Mean and std of a folder are numpy's over all its pixels; for other images they are refused."""

import io
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from small_runs import call, plan_for
from unmask.commands.measure.statistics import (
    PixelStatistics,
    describe_statistics,
    measure,
    write_statistics,
)
from unmask.config.checks import ConfigError

QUIET = Console(file=io.StringIO())
FOLDER = (
    "data=image_folder",
    "data.image_size=16",
    "data.patch_size=4",
    "stages=[pretrain]",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Photos of several sizes and brightnesses: one is grey, one is no image."""
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(12):
        shape = (10 + i, 30 - i) if i == 5 else (10 + i, 30 - i, 3)
        pixels = generator.integers(10 * i, 10 * i + 90, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:02d}.png")
    (tmp_path / "images" / "99.png").write_text("no image")
    return tmp_path / "images"


def measure_folder(
    root: Path, *more: str, images: int | None = None, threads: int | None = 1
) -> PixelStatistics:
    return measure(
        plan_for(*FOLDER, f"data.root={root}", "data.holdout=0.3", *more, tiny=False),
        images,
        threads,
        QUIET,
    )


def test_mean_and_std_are_those_of_all_pixels(root: Path) -> None:
    measured = measure_folder(root)
    plan = plan_for(*FOLDER, f"data.root={root}", "data.holdout=0.3", tiny=False)
    assert plan.listing is not None
    names = [name for name, _ in plan.listing.train if name != "99.png"]
    pixels = [
        np.asarray(Image.open(root / name).convert("RGB")).reshape(-1, 3)
        for name in names
    ]
    everything = np.concatenate(pixels) / 255
    np.testing.assert_allclose(measured.mean, everything.mean(axis=0), atol=6e-7)
    np.testing.assert_allclose(measured.std, everything.std(axis=0), atol=6e-7)
    assert not np.allclose(
        measured.std,
        np.mean([part.std(axis=0) for part in pixels], axis=0) / 255,
        atol=1e-3,
    )
    assert measured.num_pixels == len(everything)
    assert sorted(measured.sizes) == sorted(
        Image.open(root / name).size[::-1] for name in names
    )
    assert dict(measured.kinds) == {"RGB": len(names) - 1, "L": 1}
    assert [Path(error.name).name for error in measured.bad_images] == ["99.png"]
    assert "99.png: " in describe_statistics(measured)


def test_threads_change_nothing_and_a_sample_is_the_same_each_time(root: Path) -> None:
    assert (
        measure_folder(root, threads=3).square_sums_C
        == measure_folder(root).square_sums_C
    )
    some = measure_folder(root, images=4)
    assert len(some.sizes) + len(some.bad_images) == 4
    assert (
        some.sizes
        == measure_folder(root, images=4).sizes
        != measure_folder(root).sizes[:4]
    )


def test_kept_statistics_count_by_their_values_not_by_their_path(
    root: Path, tmp_path: Path
) -> None:
    common = (*FOLDER, f"data.root={root}", "data.holdout=0.3")
    plan = plan_for(*common, f"runs_dir={tmp_path / 'runs'}", tiny=False)
    measured = measure_folder(root)
    kept = write_statistics(measured, None, plan)
    assert kept == tmp_path / "runs" / "statistics" / f"{plan.data_identity}.yaml"
    moved = kept.rename(tmp_path / "moved.yaml")
    given = plan_for(
        *common, f"data.mean={measured.mean}", f"data.std={measured.std}", tiny=False
    )
    read = plan_for(*common, f"data.statistics={moved}", tiny=False)
    assert read.config.data.mean == measured.mean
    assert (
        read.stages[0].fingerprint
        == given.stages[0].fingerprint
        != plan.stages[0].fingerprint
    )
    # a checkpoint's config needs no file
    assert read.config.to_dict() == given.config.to_dict()


def test_statistics_of_other_images_channels_or_beside_values_are_refused(
    root: Path, tmp_path: Path
) -> None:
    common = (*FOLDER, f"data.root={root}", "data.holdout=0.3")
    kept = write_statistics(
        measure_folder(root), tmp_path / "here.yaml", plan_for(*common, tiny=False)
    )
    use = f"data.statistics={kept}"
    with pytest.raises(
        ConfigError, match=r"here.yaml is of images of 3 channels, not of 1"
    ):
        plan_for(*common, use, "data.channels=1", tiny=False)
    with pytest.raises(
        ConfigError,
        match=r"data.statistics=.*here.yaml is set.* data.mean=\[0.1, 0.2, 0.3\].*null",
    ):
        plan_for(*common, use, "data.mean=[0.1,0.2,0.3]", tiny=False)
    with pytest.raises(
        ConfigError,
        match=(
            r"nowhere.yaml cannot be read \(No such file or directory\); python"
            r" src/measure"
        ),
    ):
        plan_for(*common, "data.statistics=/nowhere.yaml", tiny=False)
    (root / "00.png").unlink()
    with pytest.raises(
        ConfigError,
        match=(
            r"data.statistics was .* \(\w+; these are\s+\w+\); .*python src/measure.py"
        ),
    ):
        plan_for(*common, use, tiny=False)
    kept.write_text("mean: 3")
    with pytest.raises(ConfigError, match=r"here.yaml cannot be read \(.*identity"):
        plan_for(*common, use, tiny=False)


def test_images_without_a_pixel_or_without_contrast_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{i}.png")
    with pytest.raises(
        ValueError, match=r"a channel are equal \(\[0\.0, 0\.0, 0\.0\] to"
    ):
        measure_folder(tmp_path / "images")
    for path in (tmp_path / "images").iterdir():
        path.write_text("no image")
    with pytest.raises(
        ValueError,
        match=r"none of 3 training images that were tried can be read, .*0.png",
    ):
        measure_folder(tmp_path / "images")


@pytest.mark.process
def test_the_command_prints_and_keeps(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.yaml"
    done = call(
        *FOLDER[:1],
        f"data.root={root}",
        f"out={out}",
        "images=8",
        script="measure.py",
        tiny=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"kept: data.statistics={out}" in done.stdout
    assert yaml.safe_load(out.read_text())["of"] == 12
