"""The house keeps its shape: budgets of size, typed signatures, one direction of imports, no drawers."""

import ast
import re
from pathlib import Path

import pytest

from small_runs import ROOT

SOURCES = sorted((ROOT / "src").rglob("*.py"))
FILE_LINES, FUNCTION_LINES, PARAMETERS = 300, 45, 9  # nine: self among them
# of the config: there a recipe is a recipe
SECTIONS = ("schema", "recipes", "arguments")
DRAWERS = re.compile(r"(^|_)(utils?|misc|common|helpers?|tools?)($|_)")


def functions(path: Path) -> list[ast.FunctionDef]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_files_and_functions_fit_a_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES
    for function in functions(path):
        assert (function.end_lineno or 0) - function.lineno < FUNCTION_LINES, (
            function.name
        )
        assert len(function.args.args) + len(function.args.kwonlyargs) <= PARAMETERS, (
            function.name
        )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_argument_and_result_is_typed(path: Path) -> None:
    for function in functions(path):
        untyped = [
            a.arg
            for a in function.args.args
            if a.annotation is None and a.arg not in ("self", "cls")
        ]
        assert not untyped, f"{function.name}: {untyped}"
        assert function.returns is not None, function.name


def test_no_drawers() -> None:
    assert not [path for path in SOURCES if DRAWERS.search(path.stem)]


def test_no_class_inherits_from_one_of_ours() -> None:
    bases = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and path.stem not in SECTIONS:
                bases[node.name] = [
                    ast.unparse(base).split(".")[-1] for base in node.bases
                ]
    assert not [
        name
        for name, parents in bases.items()
        if any(parent in bases for parent in parents)
    ]


def test_yaml_stays_a_quarter_of_the_code() -> None:
    yaml = sum(
        len(path.read_text().splitlines()) for path in (ROOT / "conf").rglob("*.yaml")
    )
    assert yaml <= sum(len(path.read_text().splitlines()) for path in SOURCES) / 4


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
        (ROOT / "src/unmask/__init__.py").read_text(),
        re.MULTILINE,
    )


def test_the_lock_pins_and_hashes_every_package_and_names_no_registry() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    entries = re.split(
        r"^(?=\S)",
        re.sub(r"^\s*#.*\n", "", lock, flags=re.MULTILINE),
        flags=re.MULTILINE,
    )[1:]
    assert len(entries) > 50
    whole = re.compile(
        r"[\w.\-\[\],]+==[\w.!+]+( ; [^\\\n]+)?( \\\n   "
        r" --hash=sha256:[0-9a-f]{64})+\s*"
    )
    assert [entry for entry in entries if not whole.fullmatch(entry)] == []
