"""The code keeps its shape: budgets of size, names, types and comments for everything under src."""

import ast
import io
import re
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from small_runs import ROOT

SOURCES = sorted((ROOT / "src").rglob("*.py"))
PACKAGE = ROOT / "src" / "unmask"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 8  # besides self or cls
# an image, its draws, and the seven constants in a row of the published table
LONG_SIGNATURES = {"snow"}
MAX_MEAN_LINE = 45  # characters, over non-empty lines
MAX_LONG_LINES = 0.02  # share of lines over 100 columns
MAX_FORMAT_SKIPS = 20
COMMENTS_PER_100_LINES = (4, 10)
MIN_RAISES_WITH_VALUE = 0.9  # share of the raises
MAX_CLASS_DEPTH = 2

DRAWERS = re.compile(r"(^|_)(utils?|misc|common|helpers?|tools?)($|_)")
# A docstring that begins with one of these words does not begin with a verb.
ARTICLES = "a all an any both each every few many no none one some the three two"
PREPOSITIONS = """
    about above across after against among around as at before behind below beside
    between beyond by during for from in into like near of off on onto out over per since
    through to toward under until up upon via with within without
"""
PRONOUNS = """
    anything everything he her his i it its my nothing other others our ours same she
    something such that their theirs them these they this those us we you your yours
"""
WH_WORDS = "how what whatever when where whether which whichever who whom whose why"
ADVERBS = """
    also and because but either else even here if just more most neither nor not only or
    so than then there though unless while yet
"""
NO_VERBS = {
    word
    for words in (ARTICLES, PREPOSITIONS, PRONOUNS, WH_WORDS, ADVERBS)
    for word in words.split()
}
# verbs that end as an -s, -ed or -ing form does
VERBS = {"bring", "embed", "exceed", "feed", "focus", "need", "proceed", "seed"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(path: Path) -> list[Function]:
    return [node for node in ast.walk(parse(path)) if isinstance(node, Function)]


def public_functions(path: Path) -> list[Function]:
    """Return the functions of the module itself, methods and overloads left out."""
    return [
        node
        for node in parse(path).body
        if isinstance(node, Function)
        and not node.name.startswith("_")
        and "overload" not in map(ast.unparse, node.decorator_list)
    ]


def parameters(function: Function) -> list[ast.arg]:
    """Return the parameters besides self and cls."""
    args = function.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return [arg for arg in named if arg.arg not in ("self", "cls")]


def position(path: Path, node: ast.stmt | ast.expr) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def assert_none(offenders: list[str]) -> None:
    assert not offenders, f"{len(offenders)} offenders:\n" + "\n".join(offenders)


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCES}
    assert_none(
        [
            f"{path.relative_to(ROOT)}: {length} lines, at most {MAX_FILE_LINES}"
            for path, length in lengths.items()
            if length > MAX_FILE_LINES
        ]
    )


def test_functions_are_short() -> None:
    offenders = []
    for path in SOURCES:
        for function in functions(path):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > MAX_FUNCTION_LINES:
                offenders.append(
                    f"{position(path, function)} {function.name}: {length} lines,"
                    f" at most {MAX_FUNCTION_LINES}"
                )
    assert_none(offenders)


def test_functions_have_few_parameters() -> None:
    assert_none(
        [
            f"{position(path, function)} {function.name}:"
            f" {len(parameters(function))} parameters, at most {MAX_PARAMETERS}"
            for path in SOURCES
            for function in functions(path)
            if len(parameters(function)) > MAX_PARAMETERS
            and function.name not in LONG_SIGNATURES
        ]
    )


def test_every_argument_and_result_is_typed() -> None:
    offenders = []
    for path in SOURCES:
        for function in functions(path):
            variadic = [a for a in (function.args.vararg, function.args.kwarg) if a]
            untyped = [
                arg.arg
                for arg in [*parameters(function), *variadic]
                if arg.annotation is None
            ]
            if function.returns is None:
                untyped.append("the result")
            if untyped:
                offenders.append(
                    f"{position(path, function)} {function.name}:"
                    f" {', '.join(untyped)} without a type"
                )
    assert_none(offenders)


def test_lines_are_short() -> None:
    """Short files must not be paid for with dense lines."""
    lines = [
        (path, number, line)
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.strip()
    ]
    mean = sum(len(line) for _, _, line in lines) / len(lines)
    assert mean <= MAX_MEAN_LINE, f"{mean:.1f} characters a line in the mean"
    long = [
        f"{path.relative_to(ROOT)}:{number}: {len(line)} columns"
        for path, number, line in lines
        if len(line) > 100
    ]
    assert len(long) <= MAX_LONG_LINES * len(lines), "\n".join(long)


def test_the_formatter_is_rarely_switched_off() -> None:
    skips = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "fmt: skip" in line
    ]
    assert len(skips) <= MAX_FORMAT_SKIPS, "\n".join(skips)


def comment_lines(path: Path) -> int:
    """Count the comments on their own line below the file's header."""
    text = path.read_text()
    header = 0
    for line in text.splitlines():
        if line and not line.startswith("#"):
            break
        header += 1
    return sum(
        token.type == tokenize.COMMENT
        and token.line.lstrip().startswith("#")
        and token.start[0] > header
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
    )


def code_lines(path: Path) -> int:
    """Count the lines with code on them; docstrings are none."""
    text = path.read_text()
    code = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in code:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(parse(path)):
        documented = ast.Module | ast.ClassDef | Function
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            end = docstring.end_lineno or docstring.lineno
            lines -= set(range(docstring.lineno, end + 1))
    return len(lines)


def test_comments_are_neither_missing_nor_everywhere() -> None:
    counts = {path: (comment_lines(path), code_lines(path)) for path in SOURCES}
    comments = sum(number for number, _ in counts.values())
    per_100 = 100 * comments / sum(lines for _, lines in counts.values())
    low, high = COMMENTS_PER_100_LINES
    # long files with the fewest first
    listing = [
        f"{path.relative_to(ROOT)}: {number} comments in {lines} lines of code"
        for path, (number, lines) in sorted(
            counts.items(), key=lambda item: item[1][0] / max(1, item[1][1])
        )
        if lines > 40 and not low <= 100 * number / lines <= high
    ]
    assert low <= per_100 <= high, (
        f"{per_100:.1f} comments on 100 lines of code, {low} to {high} are wanted:\n"
        + "\n".join(listing)
    )


def test_errors_show_the_value_that_caused_them() -> None:
    raises = [
        (path, node.exc)
        for path in SOURCES
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    silent = [
        f"{position(path, error)} {ast.unparse(error)}"
        for path, error in raises
        if not any(isinstance(part, ast.JoinedStr) for part in ast.walk(error))
    ]
    share = 1 - len(silent) / len(raises)
    assert share >= MIN_RAISES_WITH_VALUE, (
        f"{share:.0%} of raises show a value:\n" + "\n".join(silent)
    )


def test_no_file_is_a_drawer() -> None:
    assert_none(
        [
            str(path.relative_to(ROOT))
            for path in [*SOURCES, *(path.parent for path in SOURCES)]
            if DRAWERS.search(path.stem)
        ]
    )


ClassName = tuple[str, str]  # module, class


@cache
def base_classes() -> dict[ClassName, list[ClassName]]:
    """Return every class under src with the bases that its file names."""
    bases: dict[ClassName, list[ClassName]] = {}
    for path in SOURCES:
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        imported = {
            alias.asname or alias.name: (node.module or "", alias.name)
            for node in ast.walk(parse(path))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef):
                names = [ast.unparse(base).partition("[")[0] for base in node.bases]
                bases[module, node.name] = [
                    imported.get(name, (module, name)) for name in names
                ]
    return bases


def class_depth(name: ClassName) -> int:
    """Count the classes of this repository from the first base to the class."""
    bases = base_classes()
    if name not in bases:
        return 0
    return 1 + max((class_depth(base) for base in bases[name]), default=0)


def test_classes_are_not_deep() -> None:
    assert_none(
        [
            f"{module}.{name}: depth {class_depth((module, name))}, at most"
            f" {MAX_CLASS_DEPTH}"
            for module, name in base_classes()
            if class_depth((module, name)) > MAX_CLASS_DEPTH
        ]
    )


def test_no_class_inherits_from_one_of_ours() -> None:
    """Only sections of the config do: there a recipe of fine-tuning is a recipe."""
    section = ("unmask.config.section", "Section")
    assert_none(
        [
            f"{module}.{name} inherits from {'.'.join(base)}"
            for (module, name), bases in base_classes().items()
            for base in bases
            if base in base_classes()
            and base != section
            and not module.startswith("unmask.config.")
        ]
    )


def is_verb(word: str) -> bool:
    word = word.lower()
    if word in VERBS or word.endswith("ss"):
        return True
    return word not in NO_VERBS and not word.endswith(("s", "ed", "ing"))


def test_docstrings_of_public_functions_begin_with_a_verb() -> None:
    offenders = []
    for path in SOURCES:
        for function in public_functions(path):
            docstring = ast.get_docstring(function)
            if docstring is None:
                continue
            word = re.match(r"[A-Za-z]+\b(?!')", docstring)
            if word is None or not is_verb(word.group()):
                first_line = docstring.splitlines()[0]
                offenders.append(f"{position(path, function)} {first_line}")
    assert_none(offenders)


def wing(path: Path) -> str:
    """Return the first folder under src/unmask; the files beside it are one wing."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else "the top level"


def test_public_functions_of_a_wing_have_different_names() -> None:
    """Hold it for all but `run`, by which every command starts (docs/extending.md)."""
    positions: dict[tuple[str, str], list[str]] = defaultdict(list)
    for path in SOURCES:
        if path.is_relative_to(PACKAGE):
            for function in public_functions(path):
                key = wing(path), function.name
                if key == ("commands", "run"):
                    continue
                positions[key].append(position(path, function))
    assert_none(
        [
            f"{folder}: {name} in {', '.join(places)}"
            for (folder, name), places in positions.items()
            if len(places) > 1
        ]
    )


def lines_of(paths: Iterator[Path] | list[Path]) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def test_yaml_stays_a_quarter_of_the_code() -> None:
    yaml = lines_of((ROOT / "conf").rglob("*.yaml"))
    assert yaml <= lines_of(SOURCES) / 4


def test_targets_in_yaml_are_this_projects_own() -> None:
    targets = [
        t
        for path in (ROOT / "conf").rglob("*.yaml")
        for t in re.findall(r"_target_:\s*(\S+)", path.read_text())
    ]
    assert targets
    assert all(target.startswith("unmask.") for target in targets)


def test_the_package_imports_nothing_by_itself() -> None:
    assert not re.findall(
        r"^(?:import|from) ",
        (PACKAGE / "__init__.py").read_text(),
        re.MULTILINE,
    )


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-studio.lock"])
def test_a_lock_pins_and_hashes_every_package_and_names_no_registry(name: str) -> None:
    lock = (ROOT / name).read_text()
    assert "://" not in lock
    without_comments = re.sub(r"^\s*#.*\n", "", lock, flags=re.MULTILINE)
    entries = re.split(r"^(?=\S)", without_comments, flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    pinned = re.compile(
        r"[\w.\-\[\],]+==[\w.!+]+( ; [^\\\n]+)?( \\\n   "
        r" --hash=sha256:[0-9a-f]{64})+\s*"
    )
    assert_none([entry for entry in entries if not pinned.fullmatch(entry)])


def test_the_studios_lock_changes_no_version_of_the_others() -> None:
    """It is installed into the same environment, without a look at dependencies."""

    def versions(name: str) -> dict[str, set[str]]:
        found = defaultdict(set)
        for package, version in re.findall(
            r"^([\w.\-]+)(?:\[[\w,]+\])?==([\w.!+]+)", (ROOT / name).read_text(), re.M
        ):
            found[package].add(version)
        return found

    main, studio = map(versions, ("requirements.lock", "requirements-studio.lock"))
    assert "gradio" in studio
    assert "pillow" in main.keys() & studio.keys()
    shared = main.keys() & studio.keys()
    assert_none([name for name in shared if not studio[name] <= main[name]])


def test_a_wheel_holds_every_file_that_is_not_python() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    package_data = settings["setuptools"]["package-data"]
    built = {".py", ".pyc", ".so"}
    others = [
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in built
    ]
    assert any(path.suffix == ".j2" for path in others)
    missing = []
    for path in others:
        package = ".".join(path.parent.relative_to(PACKAGE.parent).parts)
        patterns = [*package_data.get("*", []), *package_data.get(package, [])]
        if not any(path.match(pattern) for pattern in patterns):
            missing.append(path)
    assert missing == []
