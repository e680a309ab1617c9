"""Parts from files that are not this project's: samplers, targets and data sets.

A dotted name such as `my_masks.Half` leads to a module in the working folder or on
PYTHONPATH. What stands in it is part of a result: its digest is in the fingerprint.
Nothing is imported to find, check and digest it.
"""

import ast
import difflib
import hashlib
import importlib
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

OWN_PACKAGES = ("unmask", "hydra_plugins")
# functions that import a module whose name they are given
IMPORTERS = ("import_module", "__import__")
# the fields of statements that hold other statements
BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")
# from 3.13 on ast.dump leaves out by default what is empty, as no version did before
SHOW_EMPTY: Any = {"show_empty": True} if sys.version_info >= (3, 13) else {}
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def source_digest(content: bytes) -> str:
    """Return 12 hexadecimal digits of Python code, the same whatever its comments.

    Docstrings, blanks, line breaks and quotes do not count either, nor does the version
    of Python. Raises SyntaxError.
    """
    tree = ast.parse(content)
    statements: list[Any] = [tree]
    while statements:
        node = statements.pop()
        if isinstance(node, Documented) and ast.get_docstring(node, clean=False):
            del node.body[0]
        for block in BLOCKS:
            statements += getattr(node, block, ())
    text = ast.dump(tree, **SHOW_EMPTY).replace(", type_params=[]", "")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_foreign(name: str) -> bool:
    """Tell whether a dotted name leads out of this project."""
    return name.partition(".")[0] not in OWN_PACKAGES


def check_part(name: str) -> None:
    """Raise ValueError where a dotted name leads to no class, function or value."""
    module, _, attribute = name.rpartition(".")
    file = _module_file(module)
    if file is None or file.suffix != ".py" or not file.is_file():
        raise ValueError(
            f"{name}: there is no module {module or name}; write module.name of a"
            " module in this folder, or set PYTHONPATH to its folder"
        )
    # installed modules come first, and so do the scripts beside this project
    mine = Path.cwd() / f"{module.partition('.')[0]}.py"
    if mine.is_file() and not mine.samefile(file):
        raise ValueError(
            f"{name}: Python finds {file} before {mine}; give your file another name"
        )
    # a checkpoint from elsewhere may name any function of them
    if _is_installed(file) or _is_of_python(file):
        raise ValueError(
            f"{name}: {file} is not yours; write a class in a file of your own that"
            " uses it (docs/extending.md)"
        )
    try:
        names = set(_defined_names(ast.parse(file.read_bytes())))
    except SyntaxError as error:
        raise ValueError(f"{name}: {file}, line {error.lineno}: {error.msg}") from None
    if not {attribute, "*"} & names:
        near = difflib.get_close_matches(attribute, names, n=1)
        hint = f"; did you mean {module}.{near[0]}?" if near else ""
        raise ValueError(f"{name}: {file} defines no {attribute}{hint}")


def part_name(name: str) -> str:
    """Return what pages and tables call a part: its class, without the module."""
    return name.rpartition(".")[2]


def describe_part(name: str) -> str:
    """Return the first line of a class's docstring, without its full stop.

    Empty where there is none, or the file is not here.
    """
    module, _, attribute = name.rpartition(".")
    file = _module_file(module)
    try:
        tree = ast.parse(file.read_bytes() if file else b"")
    except (OSError, SyntaxError):
        return ""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            return (ast.get_docstring(node) or "").partition("\n")[0].removesuffix(".")
    return ""


def load_part(name: str) -> Any:
    """Import the module and return what it calls by that name.

    Raises ValueError where it cannot be imported.
    """
    module, _, attribute = name.rpartition(".")
    _search_working_folder()
    try:
        return getattr(importlib.import_module(module), attribute)
    # a module may raise anything while it is imported, and a script may exit
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{name} cannot be imported ({type(error).__name__}: {error}); see"
            f" {_module_file(module) or module}"
        ) from error


def part_digest(name: str) -> str:
    """Return a digest of a part's module and of all that it imports beside it.

    Modules beside it are those of its own package, and those that are not installed.
    """
    module = name.rpartition(".")[0]
    digests = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        file = _module_file(current)
        if current in digests or file is None or not _counts(current, file, module):
            continue
        content = file.read_bytes()
        if file.suffix != ".py":
            digests[current] = hashlib.sha256(content).hexdigest()[:12]
            continue
        digests[current] = source_digest(content)
        waiting += _imported_names(current, file, ast.parse(content))
    text = repr(sorted(digests.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _counts(module: str, file: Path, root: str) -> bool:
    """Tell whether a module that a part at `root` imports is a part of it, too."""
    top = module.partition(".")[0]
    if not is_foreign(module):
        return False
    is_beside = top == root.partition(".")[0]
    return is_beside or not (_is_of_python(file) or _is_installed(file))


def _is_of_python(file: Path) -> bool:
    return file.is_relative_to(sysconfig.get_path("stdlib"))


def _is_installed(file: Path) -> bool:
    return {"site-packages", "dist-packages"} & {*file.parts} != set()


def is_written_here(file: Path) -> bool:
    """Tell whether a file is the user's: neither installed nor a part of Python."""
    return not (_is_of_python(file) or _is_installed(file))


def _search_working_folder() -> None:
    """Let Python find modules in the working folder, after all others.

    A script's own folder stands first in sys.path, and the working folder is left out.
    """
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)


def _module_file(module: str) -> Path | None:
    """Return the file of a module, None where it has none or is not found."""
    top, *rest = module.split(".")
    if not top or top in sys.builtin_module_names:
        return None
    _search_working_folder()
    try:
        spec: ModuleSpec | None = find_spec(top)
    # of a module that has no spec, as __main__
    except ValueError:
        return None
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    # a folder without __init__.py has no file
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return Path(spec.origin)


def _defined_names(tree: ast.Module) -> Iterator[str]:
    """Yield the names that a module defines or imports, * where it imports all."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _imported_names(module: str, file: Path, tree: ast.Module) -> Iterator[str]:
    """Yield each module that the code of a module may import, and its packages.

    A name that is imported from a module may be a module, too.
    """
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    # importing a.b.c runs a/__init__.py and a/b/__init__.py
    found = [module]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = resolve_name(base, package) if node.level and package else base
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and node.args:
            function = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = getattr(node.args[0], "value", None)
            if function in IMPORTERS and isinstance(name, str):
                found.append(name)
    for module in found:
        parts = module.split(".")
        yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))
