"""Every command of the README and of docs/ runs; every dial, file and link in them exists."""

import io
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from rich.console import Console

from small_runs import ROOT, TINY, call, image_folder, raw_config, run
from unmask.commands.cli import parse, parse_with_run
from unmask.commands.prepare.arguments import Prepare
from unmask.commands.prepare.prepare import prepare
from unmask.commands.runs.filters import KEYS
from unmask.config import deciding
from unmask.config.checks import check, fill_missing_roots
from unmask.config.conf_files import use_folders
from unmask.config.experiments import (
    expand_experiments,
    experiment_cells,
    read_scale,
)
from unmask.config.keys import known_keys
from unmask.config.overrides import check_overrides, config_folders, config_groups
from unmask.exchange.read_weights import read_weights
from unmask.exchange.write import write_weights

README = (ROOT / "README.md").read_text()
PAGES = {path: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
# config.md is generated from the schema
WRITTEN_PAGES = {path: text for path, text in PAGES.items() if path.name != "config.md"}
MARKDOWN = {
    ROOT / "README.md": README,
    ROOT / "CHANGELOG.md": (ROOT / "CHANGELOG.md").read_text(),
    ROOT / "experiments" / "README.md": (ROOT / "experiments/README.md").read_text(),
    **PAGES,
}
DOCS = "\n".join([README, *WRITTEN_PAGES.values()])
# what needs GPUs, a cluster or the network is in blocks without a language
BLOCKS = "\n".join(re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL))
COMMANDS = list(
    dict.fromkeys(
        line.split("#")[0].strip()
        for line in BLOCKS.splitlines()
        if line.startswith("python ")
    )
)
# commands of blocks without a language: they need GPUs, a cluster, the network or hours
PLAIN_COMMANDS = list(
    dict.fromkeys(
        line.split("#")[0].strip()
        for language, block in re.findall(
            r"^```(\w*)\n(.*?)^```$", DOCS, re.DOTALL | re.MULTILINE
        )
        if not language
        for line in re.sub(r"\\\n", " ", block).splitlines()
        if line.startswith("python src/")
    )
)
PHOTOS = (
    "data=image_folder",
    "data.image_size=32",
    "data.patch_size=4",
    "data.num_workers=0",
    "pretrain.batch_size=4",
)
CONTAINERS = ("webdataset", "parquet", "litdata", "raw")
# a script and the section of its arguments have the same name
SECTIONS = [
    getattr(import_module(path.stem), path.stem.capitalize())
    for path in (ROOT / "src").glob("*.py")
    if path.stem != "train"
]
MAX_README_LINES = 150
# pages whose commands people must be able to copy
GUIDES = (
    "dials",
    "images",
    "containers",
    "loading",
    "downstream",
    "weights",
    "library",
    "paper",
    "speed",
    "exact",
)
# a placeholder, a file (best=N.ckpt), keys of Hydra's plugins, and filters of runs.py
OTHER_KEYS = {
    *("key", "best", "hydra.launcher.n_jobs", "hydra.launcher.warm"),
    "hydra.sweeper.skip_kept",
    *("decide", "seeds_max", "hours"),
    *KEYS,
}


def test_the_commands_people_came_for_are_there() -> None:
    assert "python src/train.py model=mae_vit_b mask_ratio=0.75" in COMMANDS
    assert "python src/train.py -m decoder.depth=1,2,4,8" in COMMANDS


@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_has_commands_that_are_run(page: str) -> None:
    blocks = re.findall(
        r"```bash\n(.*?)```", PAGES[ROOT / f"docs/{page}.md"], re.DOTALL
    )
    assert any(line.startswith("python ") for line in "".join(blocks).splitlines())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Return a folder of images, a ledger, and the fingerprint of its pretraining.

    The ledger has a fine-tuning too; beside the images are containers of them and a
    file of weights.
    """
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
    # sets of some of the classes, and of others
    image_folder(root / "sketches", classes=("cat",), size=32)
    image_folder(root / "night", per_class=3, classes=("dog", "owl"), size=32)
    for container in CONTAINERS:
        prepare_container(images, root / container, container)
    write_weights(
        read_weights(next((root / "others").glob("pretrain/*")))[0],
        root / "mae_pretrain_vit_base.pth",
        "official",
    )
    return images, runs, folder.name


def prepare_container(images: Path, target: Path, container: str) -> None:
    """Convert the images as src/prepare.py does, with its defaults."""
    typed = [f"from={images}", f"to={target}", f"format={container}"]
    prepare(parse(Prepare, typed), Console(file=io.StringIO()))


@pytest.mark.process
@pytest.mark.parametrize("typed", COMMANDS)
def test_every_command_runs_as_typed_but_smaller(
    typed: str, place: tuple[Path, Path, str], tmp_path: Path
) -> None:
    _, script, *overrides = shlex.split(with_real_paths(typed, place, tmp_path))
    name = Path(script).name
    overrides = make_smaller(name, overrides, place, tmp_path)
    process = "forked" if "-m" in overrides else "this"
    done = call(*dict.fromkeys(overrides), script=name, tiny=False, process=process)
    assert done.returncode == 0, done.stderr


def with_real_paths(typed: str, place: tuple[Path, Path, str], tmp_path: Path) -> str:
    """Replace the paths that stand for a user's."""
    images, runs, fingerprint = place
    root = images.parent
    (tuned,) = (runs / "finetune").iterdir()
    text = re.sub(r"\bto=/path/to/", f"to={tmp_path}/", typed)
    # an encoder of photographs, as the images are
    (photos,) = (root / "others" / "pretrain").iterdir()
    text = text.replace("init_from=runs/pretrain/<fingerprint>", f"init_from={photos}")
    text = text.replace("out=predictions", f"out={tmp_path}/predictions")
    text = re.sub(r"\bto=vit_base", f"to={tmp_path}/vit_base", text)
    text = re.sub(r"--config-dir=\S*lab\b", f"--config-dir={ROOT}/examples/lab", text)
    for before, after in {
        "/path/to/images": str(images),
        "/path/to/sketches": f"{root}/sketches",
        "/path/to/night": f"{root}/night",
        "/path/to/imagenet": str(images),
        "/path/to/tars": f"{root}/webdataset",
        "/path/to/": f"{root}/",
        "runs/pretrain/<fingerprint>": f"{runs}/pretrain/{fingerprint}",
        "runs/finetune/<fingerprint>": str(tuned),
        "mae_pretrain_vit_base.pth": f"{root}/mae_pretrain_vit_base.pth",
        "mae_visualize_vit_base.pth": f"{root}/mae_pretrain_vit_base.pth",
    }.items():
        text = text.replace(before, after)
    return text


def make_smaller(
    name: str, overrides: list[str], place: tuple[Path, Path, str], tmp_path: Path
) -> list[str]:
    """Return the overrides with what makes the command take seconds."""
    runs = place[1]
    if name == "train.py":
        return make_training_smaller(overrides, tmp_path)
    if name == "plan.py":
        return [
            override.replace("scale=paper", "scale=embedded") for override in overrides
        ]
    if name == "bench.py":
        shorter = {
            "loader": ["seconds=0.1"],
            "guards": ["rounds=1"],
            "step": [
                *("rounds=1", "precisions=[32-true]", "peers=[]"),
                f"out={tmp_path / 'speed.csv'}",
            ],
        }[overrides[0]]
        return [*overrides, "batch=1", "model.depth=1", "decoder.depth=1", *shorter]
    if name == "runs.py":
        # a copy, of which something may be removed
        ledger = shutil.copytree(runs, tmp_path / "runs")
        (pretrain,), (tuned,) = (
            [path.name for path in (runs / kind).iterdir()]
            for kind in ("pretrain", "finetune")
        )
        stages = {"a784": pretrain, "012f": tuned}
        return [stages.get(o, o) for o in overrides] + [f"runs_dir={ledger}"]
    is_own = any("--config-dir" in override for override in overrides)
    more = {
        "report.py": [
            f"runs_dir={runs}",
            f"out={tmp_path}",
            *([] if is_own else ["experiment=mask_token,schedule"]),
        ],
        "measure.py": [f"out={tmp_path / 'statistics.yaml'}"],
        "reconstruct.py": [f"out={tmp_path / 'out.png'}"],
        "convert.py": ["heads=2", "decoder_heads=2"],
    }
    if name == "embed.py":
        return [*overrides, "num_workers=0", *_embed_place(overrides, tmp_path)]
    return [*overrides, *more.get(name, [])]


def _embed_place(overrides: list[str], tmp_path: Path) -> list[str]:
    (out,) = (o.removeprefix("out=") for o in overrides if o.startswith("out="))
    is_foreign = any(override.endswith(".pth") for override in overrides)
    return [f"out={tmp_path / out}", *(["heads=2"] if is_foreign else [])]


def make_training_smaller(typed: list[str], tmp_path: Path) -> list[str]:
    smaller_sweeps = {
        "partial_finetune.blocks=0,0.5,1,2,4": "partial_finetune.blocks=0.5,1",
        "seed=0,1,2": "seed=0",
        "experiment=decoder_depth": "experiment=mask_token",
        # of each row one seed, in place of rounds
        "decide=true": "seed=0",
    }
    overrides = [smaller_sweeps.get(override, override) for override in typed]
    if "experiment=mask_token" in overrides:
        overrides.append("seed=0")
    dials = {override.split("=")[0] for override in overrides}
    is_exact = bool({"linear_probe=exact", "scale=embedded_exact"} & set(overrides))
    for override in TINY:
        key = override.split("=")[0]
        # an exact probe makes no steps that could be fewer
        is_step = is_exact and key.startswith("linear_probe.")
        if key not in dials and not key.startswith("data.") and not is_step:
            overrides.append(override)
    overrides += ["pretrain.epochs=1", f"runs_dir={tmp_path}"]
    if "linear_probe=port" in overrides:
        overrides.append("linear_probe.warmup_epochs=0")
    if {"data=image_folder", "data=imagenet"} & set(overrides):
        overrides += [o for o in PHOTOS if not o.startswith("data=")]
        overrides.append("knn.k=5")
    if any("robustness" in override for override in overrides):
        overrides += ["robustness.images=10", "robustness.severities=[5]"]
    if "experiment=patch_size" in overrides:
        overrides.append("finetune.labels=100")
    elif {"scale=embedded", "scale=embedded_exact"} & set(overrides):
        overrides += [
            "data.image_size=28",
            "data.patch_size=7",
            "finetune.labels=100",
        ]
    return overrides


def first_values(typed: list[str]) -> dict[str, str]:
    """Return what a sweep's first cell sets, without Hydra's own and the sweep's."""
    values = {}
    for override in typed:
        key, _, value = override.partition("=")
        if key.startswith("hydra") or override.startswith("-") or key in deciding.KEYS:
            continue
        depth, end = 0, len(value)
        for i, character in enumerate(value):
            depth += (character in "[{") - (character in "]}")
            if character == "," and not depth:
                end = i
                break
        values[key] = value[:end]
    return values


@pytest.mark.parametrize("typed", PLAIN_COMMANDS)
def test_every_command_that_is_too_large_to_run_has_a_config(
    typed: str, place: tuple[Path, Path, str], tmp_path: Path
) -> None:
    """Compose and check it, as `--cfg job` does: a wrong key or value is an error."""
    typed = with_real_paths(typed.split("&&")[0], place, tmp_path)
    # what src/measure.py would have written, and parts of the user's own
    typed = typed.replace(
        "data.statistics=FILE data.range=measured", "data.range=[0,9]"
    )
    if "my_" in typed or "contrast." in typed:
        return
    _, script, *overrides = shlex.split(typed.replace("=...", "=/not/here"))
    name = Path(script).stem
    if name not in ("train", "plan", "verify"):
        section = getattr(import_module(name), name.capitalize())
        keys = [*known_keys(), *config_groups(), *known_keys(section), *KEYS]
        check_overrides([each for each in overrides if "=" in each], keys)
        return
    if name != "train":
        section = getattr(import_module(name), name.capitalize())
        overrides = parse_with_run(section, overrides)[1]
    use_folders(config_folders(overrides))
    values = first_values(overrides)
    if experiment := values.pop("experiment", None):
        scale = read_scale(values.get("scale", "embedded"))
        for slug in expand_experiments(experiment):
            assert slug in scale.cells or list(experiment_cells(slug, scale)), typed
    raw = raw_config(*map("=".join, values.items()), tiny=False)
    check(fill_missing_roots(raw))
    use_folders([])


def test_the_targets_tutorial_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PAGES[ROOT / "docs/own-target.md"]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (typed,) = re.findall(
        r"^python (src/train.py target._target_.*)$", text, re.MULTILINE
    )
    assert len(code.splitlines()) <= 45
    (tmp_path / "contrast.py").write_text(code)
    _, *overrides = shlex.split(typed)
    done = call(
        *(*overrides, "stages=[pretrain]", "pretrain.epochs=1", f"runs_dir={tmp_path}"),
        cwd=tmp_path,
        process="forked",
    )
    assert done.returncode == 0, done.stderr
    (log,) = tmp_path.glob("pretrain/*/metrics.jsonl")
    assert "val/loss" in log.read_text()


def test_every_dial_exists() -> None:
    keys = {key.split("[")[0] for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)*)=", DOCS)}
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert {"mask_ratio", "masking", "labels"} <= keys
    arguments = {key for section in SECTIONS for key in known_keys(section)}
    left = keys - set(known_keys()) - groups - arguments - OTHER_KEYS
    assert not left, left


def test_every_make_verb_exists() -> None:
    verbs = set(re.findall(r"(?:`|^)make ([a-z]+)", DOCS, re.MULTILINE))
    assert {"demo", "test", "native", "soak"} <= verbs
    assert verbs <= set(
        re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    )


def links(text: str) -> list[str]:
    """Return the targets of all links and pictures within the project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if "://" not in target]


def anchors(text: str) -> set[str]:
    """Return what a link may name after # in a page, as GitHub makes it of headings."""
    without_blocks = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", without_blocks, re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in links(MARKDOWN[page]):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text()), target


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_and_module_that_a_page_names_exists(page: Path) -> None:
    text = MARKDOWN[page]
    # the changelog names pages that were renamed
    folders = "src|tests|conf" if page.name == "CHANGELOG.md" else "src|tests|conf|docs"
    for name in re.findall(rf"`((?:{folders})/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"(?:-m|from) (unmask(?:\.\w+)+)", text):
        path = ROOT / "src" / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), module


def test_every_page_is_linked_from_the_readme_or_the_dials() -> None:
    linked = {(ROOT / target.partition("#")[0]) for target in links(README)}
    dials = ROOT / "docs" / "dials.md"
    linked |= {
        dials.parent / target.partition("#")[0] for target in links(PAGES[dials])
    }
    # `make gpu` writes this one, on a machine that has a GPU
    linked.add(ROOT / "docs" / "speed-gpu.md")
    assert not [path.name for path in PAGES if path not in linked]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= MAX_README_LINES


def test_every_test_that_the_page_on_failures_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGES[ROOT / "docs" / "failures.md"]))
    written = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 40
    assert not [name for name in named if f"def {name}(" not in written]
