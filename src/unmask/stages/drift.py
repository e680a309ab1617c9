"""Code that has changed since a result was made.

A stage records a digest of each file of the project that its result depends on, and the
state of git. Where a file's code is another one by now, the result has drifted: that is
said before it is returned; `rerun` makes it anew, `adopt` takes it as one of this code.
"""

import hashlib
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from unmask.config.foreign import source_digest
from unmask.config.recipes import STAGES
from unmask.config.schema import Config
from unmask.stages.fingerprint import StageSpec
from unmask.stages.ledger import StageFolder, utc_now
from unmask.stages.plan import Plan
from unmask.storage.atomic import read_note, write_json
from unmask.storage.removed_weights import removed_weights

# of a file in the package's folder: the digest of its code and that of its bytes
Sources = dict[str, str]
Results = dict[StageSpec, dict[str, Any] | None]

PROJECT = Path(__file__).parents[2]
# what a stage that is not finished was begun with
BEGUN_FILE = "sources.json"
EARLIER_FOLDER = "earlier"
GIT_SECONDS = 10
MAX_NAMED_FILES = 4
# Which stages need a module or package: those whose kind, role, start or target is this
# word. The longest name counts; a module that is not listed is needed by all.
NEEDS = {
    # what these choose is in the fingerprint, or changes no number
    "nothing": (
        "callbacks commands config dashboards distributed reconstructions reports runs"
        " stages storage tasks.ridge training.class_tables training.dashboards"
        " training.failures training.flops training.foreign_augment"
        " training.foreign_data training.foreign_masking training.foreign_models"
        " training.foreign_parts training.foreign_target training.foreign_task"
        " training.outline"
        " training.utilisation"
    ),
    "all": (
        "callbacks.nonfinite config.augmentation config.datasets"
        " distributed.collectives stages.sizes"
    ),
    "pretraining": "decoder mae masking targets tasks.pretrain",
    "measurement": (
        "heads drop_path tasks.classify tasks.features tasks.logits tasks.mixup"
    ),
    "PatchPCA": "patch_pca",
    "Hog": "hog",
    "Tokens": "tokenizers exchange.dalle",
    "given": "exchange",
}
NEEDED_BY = {name: word for word, names in NEEDS.items() for name in names.split()}
NEEDED_BY |= {name: kind for kind, row in STAGES.items() for name in row.modules}


def kept_result(folder: StageFolder, rerun: bool) -> dict[str, Any] | None:
    """Return the finished stage's result; None where `rerun` asks for another one.

    That is where its code has changed, or nobody knows whether it has, and where its
    weights were removed to free space.
    """
    result = folder.result()
    if not result or not rerun:
        return result
    is_old = not result.get("sources") or changed_files(result)
    return None if is_old or removed_weights(folder.path) else result


def kept_results(plan: Plan) -> Results:
    """Return the kept result of each stage, but for weights that nobody needs.

    Those are of stages that are not asked for, where all that follow are finished.
    """
    kept: Results = {}
    needed_parents: set[StageSpec | None] = set()
    for spec in reversed(plan.stages):
        result = kept_result(StageFolder(plan.config.runs_dir, spec), plan.config.rerun)
        if result or spec.kind in plan.config.stages or spec in needed_parents:
            kept[spec] = result
            if not result:
                needed_parents.add(spec.parent)
    return {spec: kept[spec] for spec in reversed(kept)}


def changed_files(record: dict[str, Any]) -> list[str]:
    """Return the files whose code is not what it was; none of results without digests.

    A file that has gone has changed.
    """
    sources: Sources = record.get("sources") or {}
    return [file for file, known in sources.items() if not _is_same(file, known)]


def begin_stage(folder: StageFolder, rerun: bool, adopt: bool) -> str | None:
    """Record the code that the stage begins with; say what has changed since it began.

    The caller holds the folder's lock. rerun: put what other code has made aside.
    """
    path = folder.path / BEGUN_FILE
    begun = _read_begun(folder)
    if rerun and (folder.result() or changed_files(begun)):
        _set_aside(folder)
        begun = {}
    if begun and not adopt:
        changed = changed_files(begun)
        return _sentence([folder.spec.title], changed, "begun") if changed else None
    write_json(path, {"sources": used_sources(folder.spec), "git": git_state()})
    return None


def _read_begun(folder: StageFolder) -> dict[str, Any]:
    """Return what the stage was begun with; nothing where nobody recorded it."""
    return read_note(folder.path / BEGUN_FILE)


def finish_sources(folder: StageFolder) -> dict[str, Any]:
    """Return what a result says of its code, with that of its parents.

    What was imported since the stage began is added.
    """
    begun = _read_begun(folder)
    sources: Sources = used_sources(folder.spec) | begun.get("sources", {})
    if parent := folder.spec.parent:
        parent_result = StageFolder(folder.path.parents[1], parent).result() or {}
        sources |= parent_result.get("sources", {})
    (folder.path / BEGUN_FILE).unlink(missing_ok=True)
    facts = {"sources": dict(sorted(sources.items())), "git": begun.get("git")}
    return {key: value for key, value in facts.items() if value}


def describe_drift(
    config: Config, results: Results, may_adopt: bool = True
) -> str | None:
    """Say in one line which results other code has made; None where there are none.

    With `adopt` the results are noted to be this code's, too; with `rerun` they are
    about to be made anew. may_adopt: whether this process may write.
    """
    files: dict[str, None] = {}
    titles = []
    for spec, result in results.items():
        if result and (changed := changed_files(result)):
            files |= dict.fromkeys(changed)
            titles.append(spec.title)
            if config.adopt and may_adopt:
                _adopt(StageFolder(config.runs_dir, spec), result, changed)
    if not files:
        return None
    stages, changes = ", ".join(titles), f"{name_files(list(files))} changed"
    if config.rerun:
        return f"made anew: {stages}, since {changes}"
    if config.adopt:
        return f"adopted: {stages}, although {changes}"
    return _sentence(titles, list(files), "made")


def name_files(files: list[str]) -> str:
    """Return the first names of many, for a message of one line."""
    more = len(files) - MAX_NAMED_FILES
    shown = ", ".join(files[:MAX_NAMED_FILES])
    return f"{shown} and {more} more" if more > 0 else shown


def _sentence(titles: list[str], files: list[str], event: str) -> str:
    return (
        f"drift: {name_files(files)} changed since {', '.join(titles)} was {event};"
        " rerun=true makes it anew, adopt=true records that the change does not matter"
    )


def _adopt(folder: StageFolder, result: dict[str, Any], changed: list[str]) -> None:
    """Record the present code in a result, and that it was not what made it."""
    sources: Sources = result["sources"]
    present = {file: _digests(PROJECT / file) for file in sources}
    adopted = {"when": utc_now(), "changed": changed, "git": git_state()}
    content = {
        **result,
        "sources": {file: known for file, known in present.items() if known},
        "adopted": [*result.get("adopted", []), adopted],
    }
    write_json(folder.path / "result.json", content)


def _set_aside(folder: StageFolder) -> None:
    """Move all files of a stage into a folder of their own, but for its lock."""
    place = folder.path / EARLIER_FOLDER / utc_now().replace(":", "")
    place.mkdir(parents=True, exist_ok=True)
    stays = {"lock", "owner.json", EARLIER_FOLDER}
    entries = [path for path in folder.path.iterdir() if path.name not in stays]
    # result.json first: without the rest it is no result
    for path in sorted(entries, key=lambda path: path.name != "result.json"):
        path.rename(place / path.name)


def used_sources(spec: StageSpec) -> Sources:
    """Return digests of the imported files that the stage's result depends on."""
    chain = [spec]
    while chain[-1].parent:
        chain.append(chain[-1].parent)
    files = {}
    for name, path in _imported_files():
        if any(_is_used(name, each) for each in chain):
            for source in _sources_of(path):
                if known := _digests(source):
                    files[source.relative_to(PROJECT).as_posix()] = known
    return dict(sorted(files.items()))


def digest_imported_files() -> None:
    """Make the digests once for all processes that are forked from this one."""
    for _, path in _imported_files():
        _digests(path)


def _imported_files() -> list[tuple[str, Path]]:
    """Return names and files of the package's imported modules."""
    return [
        (name, Path(path))
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "unmask"
        and (path := getattr(module, "__file__", None))
    ]


def _sources_of(path: Path) -> Iterable[Path]:
    """Return a module's file, with the C code that stands beside a package's."""
    return [path, *path.parent.glob("*.[ch]")] if path.stem == "__init__" else [path]


def _is_used(module: str, spec: StageSpec) -> bool:
    """Tell whether the module's code is a part of what the stage does."""
    row = STAGES[spec.kind]
    target = spec.science.get("target", {}).get("_target_", row.target)
    words = {spec.kind, row.role, spec.start, target.rpartition(".")[2], "all"}
    name = module.partition(".")[2]
    while name and name not in NEEDED_BY:
        name = name.rpartition(".")[0]
    return NEEDED_BY.get(name, "all") in words


def _is_same(file: str, known: str) -> bool:
    """Tell whether a file's code is the known one, whatever its comments."""
    try:
        present = (PROJECT / file).stat()
    except OSError:
        return False
    return _has_digest(file, known, present.st_mtime_ns, present.st_size)


@cache
def _has_digest(file: str, known: str, modified: int, size: int) -> bool:
    """Read a file once for many results; again where it has changed."""
    path = PROJECT / file
    code, _, content = known.partition(" ")
    present = path.read_bytes()
    return _hash(present) == content or _code_digest(path.suffix, present) == code


def _digests(path: Path) -> str:
    """Return the digests of a file's code and bytes; nothing where it has gone."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    return f"{_code_digest(path.suffix, content)} {_hash(content)}"


@cache
def _code_digest(suffix: str, content: bytes) -> str:
    """Return a digest of code; of what is not valid Python, one of its bytes."""
    with suppress(SyntaxError):
        if suffix == ".py":
            return source_digest(content)
    return _hash(content)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]


@cache
def git_state() -> dict[str, Any] | None:
    """Return the commit of the project's code, and whether files differ from it.

    None where the code is installed, or git is not.
    """
    root = PROJECT.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch"]
    with suppress(OSError, subprocess.SubprocessError):
        lines = subprocess.run(
            [*command, "--untracked-files=no", "--", "src", "conf"],
            capture_output=True,
            check=True,
            text=True,
            timeout=GIT_SECONDS,
        ).stdout.splitlines()
        commits = [line.split()[-1] for line in lines if line.startswith("# branch.o")]
        changed = [line for line in lines if not line.startswith("#")]
        return {"commit": commits[0], "dirty": bool(changed)}
    return None
