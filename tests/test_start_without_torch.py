"""Commands answer before torch is imported: that takes seconds, and a mistyped key needs none of it."""

import subprocess
import sys
import textwrap
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from small_runs import ROOT, TINY, call, environment, raw_config, restored_process
from unmask.commands.composition import compose_run

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
    # Hydra imports no plugin whose name begins with "_"
    plugins = [name for name in modules_below("hydra_plugins") if "._" not in name]
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


def without(folder: Path, package: str) -> dict[str, str]:
    """Return the environment of commands that a package ends when it is imported."""
    (folder / f"{package}.py").write_text("raise SystemExit(99)")
    return {"PYTHONPATH": str(folder)}


def test_help_waits_for_no_package(tmp_path: Path) -> None:
    env = without(tmp_path, "pydantic")
    # that of src/train.py is made, not read
    scripts = {path.name for path in SOURCE.glob("*.py")} - {"train.py"}
    assert len(scripts) >= 12
    for script in scripts:
        done = call("--help", script=script, tiny=False, process="new", env=env)
        assert (done.returncode, done.stderr) == (0, ""), script
        first = (ROOT / "conf" / script).with_suffix(".yaml").read_text().split("\n")[0]
        assert done.stdout.startswith(first)


def test_a_wrong_key_is_refused_before_hydra_is_imported(tmp_path: Path) -> None:
    env = without(tmp_path, "hydra")
    done = call("maskratio=0.5", tiny=False, process="new", env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert "maskratio: there is no such key" in done.stderr


def test_train_prints_the_help_that_hydra_would() -> None:
    # with a key of Hydra's, Hydra prints it
    typed = ("--help", "mask_ratio=0.5", "decoder.depth=2")
    own, hydras = (
        call(*typed, *more, tiny=False).stdout
        for more in ((), ("hydra.verbose=false",))
    )
    assert "mask_ratio: 0.5" in own
    assert own == hydras


def test_a_run_has_the_config_and_the_words_that_hydra_hands_on() -> None:
    typed = [*TINY, "experiment=demo", "seed=3"]
    with restored_process():
        config = compose_run(typed)
        assert HydraConfig.get().overrides.task == typed
        assert config is not None
        raw = OmegaConf.to_container(config, resolve=True)
        assert raw == raw_config("experiment=demo", "seed=3")
        # what only Hydra's main function does is left to it
        assert compose_run(["+hydra.job.env_set.A=b"]) is None
        assert compose_run(["hydra.run.dir=elsewhere"]) is None
