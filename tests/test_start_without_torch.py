"""Commands answer before torch is imported: that takes seconds, and a mistyped key needs none of it."""

import subprocess
import sys
import textwrap

from small_runs import ROOT, environment

SOURCE = ROOT / "src"
# imports each name with torch forbidden, and prints who imported whom where one tries
PROBE = textwrap.dedent(
    """
    import importlib, importlib.util, sys, traceback
    from pathlib import Path

    HEAVY = {"torch", "torchvision", "timm", "lightning", "torchmetrics", "transformers"}
    source = Path(sys.argv[1])

    class Forbid:
        def find_spec(self, name, path=None, target=None):
            if name in HEAVY:
                raise ImportError(f"{name} is imported")

    sys.meta_path.insert(0, Forbid())
    sys.path.insert(0, str(source))
    for typed in sys.argv[2:]:
        try:
            if typed.endswith(".py"):
                spec = importlib.util.spec_from_file_location(Path(typed).stem, source / typed)
                spec.loader.exec_module(importlib.util.module_from_spec(spec))
            else:
                importlib.import_module(typed)
        except ImportError as error:
            chain = [
                f"{Path(frame.filename).relative_to(source)}:{frame.lineno}"
                for frame in traceback.extract_tb(error.__traceback__)
                if source in Path(frame.filename).parents
            ]
            print(f"{typed}: {' -> '.join(chain)} -> {error}")
    """
)


def importing(*names: str) -> list[str]:
    """A line for each of the modules or scripts that imports torch or a framework."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(SOURCE), *names],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    return done.stdout.splitlines()


def modules_below(*packages: str) -> list[str]:
    paths = [path for package in packages for path in (SOURCE / package).rglob("*.py")]
    names = [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in paths]
    return sorted(name.removesuffix(".__init__") for name in names)


def test_every_command_and_plugin_starts_without_torch() -> None:
    scripts = sorted(path.name for path in SOURCE.glob("*.py"))
    plugins = modules_below("hydra_plugins")
    assert len(scripts) >= 12
    assert len(plugins) >= 5
    assert importing(*scripts, *plugins) == []


def test_config_stages_and_listings_know_no_torch() -> None:
    modules = modules_below("unmask/config", "unmask/stages", "unmask/data/listing")
    assert importing(*modules, "unmask.data.containers.source") == []


def test_plans_are_made_without_pyarrow() -> None:
    """Lists of files need it, and runs on arrays need not wait for it."""
    code = "import sys, unmask.stages.plan; sys.exit('pyarrow' in sys.modules)"
    own = environment(PYTHONPATH=str(SOURCE))
    subprocess.run([sys.executable, "-c", code], env=own, check=True)


def test_a_chain_of_imports_that_reaches_torch_is_printed() -> None:
    (line,) = importing("unmask.callbacks.checkpointing")
    assert line.startswith(
        "unmask.callbacks.checkpointing: unmask/callbacks/checkpointing.py:"
    )
    assert line.endswith("-> lightning is imported")
