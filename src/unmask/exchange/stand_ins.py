"""Unpickle what PyTorch's files hold, without torch, and without running their code.

Python's unpickler calls whatever a file names. Here it gets an inert stand-in for each
name, and tensors become their shapes (docs.python.org, "Restricting Globals").
"""

import argparse
import io
import pickle
import struct
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

# modules of the standard library whose classes hold data; any other does something
DATA_MODULES = {
    "_codecs",
    "argparse",
    "collections",
    "copyreg",
    "datetime",
    "decimal",
    "enum",
    "fractions",
    "functools",
    "logging",
    "pathlib",
    "re",
    "typing",
    "uuid",
}
DATA_NAMES = {
    "types.SimpleNamespace",
    *(f"builtins.{name}" for name in ("bytearray", "bytes", "complex", "dict")),
    *(f"builtins.{name}" for name in ("float", "frozenset", "getattr", "int")),
    *(f"builtins.{name}" for name in ("list", "object", "range", "slice", "str")),
    *(f"builtins.{name}" for name in ("bool", "tuple")),
}
# what NumPy names where it pickles arrays
ARRAY_MAKERS = ("ndarray", "_reconstruct", "_frombuffer")
# of torch's format before 1.6: its number, its version and the machine's sizes
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PREAMBLE = 3
# in a zip's local header: of the name and of the extra field, which follow
LENGTHS_OFFSET = 26
Stub = tuple[Callable[..., Any], str]


class StoredTensor(NamedTuple):
    """Shape and dtype of a tensor that lies in a file."""

    shape: tuple[int, ...]
    dtype: str


@dataclass
class Usage:
    """What a file did with a name: called it, or filled it like a dict or list."""

    is_called: bool = False
    holds: type | None = None


class StandIn:
    """Stand in for a class or function that a file names: hold data, do nothing.

    usage: where a subclass has one, what the file does with it is kept there.
    """

    usage: Usage | None = None

    def __new__(cls, *_: Any, **__: Any) -> "StandIn":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        if self.usage:
            self.usage.is_called = True

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update({str(key): value for key, value in state.items()})

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.usage:
            self.usage.holds = OrderedDict

    def append(self, value: Any) -> None:
        if self.usage:
            self.usage.holds = list

    extend = append


class Content(NamedTuple):
    """What a pickled file holds, and stubs for the names in it that torch refuses."""

    tree: Any
    stubs: list[Stub]


def unpickle_shapes(path: Path) -> Content:
    """Return a file's content with a StoredTensor for each tensor.

    Raises ValueError where it is damaged or wants to run code.
    """
    try:
        with path.open("rb") as file:
            return _unpickle(path, file)
    except (_RefusedError, OSError):
        raise
    # zip, pickle and stand-ins raise a dozen kinds of errors on what is damaged
    except Exception as error:
        raise ValueError(
            f"{path} is damaged or cut short; copy or download it again"
        ) from error


class _RefusedError(ValueError):
    """A file that holds what cannot be read without running it."""


def _unpickle(path: Path, file: BinaryIO) -> Content:
    if not zipfile.is_zipfile(file):
        file.seek(0)
        reader = _ShapeUnpickler(file, path)
        first = reader.load()
        if first != LEGACY_MAGIC:
            raise _RefusedError(
                f"{path} is a pickle of a {type(first).__name__}, not PyTorch's; save"
                " its tensors by torch.save"
            )
        for _ in range(LEGACY_PREAMBLE):
            reader = _ShapeUnpickler(file, path)
            tree = reader.load()
        return Content(tree, reader.stubs())
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if any("/code/" in name for name in names):
            raise _RefusedError(
                f"{path} holds a TorchScript program, which cannot be read without"
                " running it; load it where it comes from and save its state_dict()"
            )
        pickled = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if not pickled:
            raise _RefusedError(
                f"{path} is a zip of {', '.join(names[:3])}, not PyTorch's; give a file"
                " that torch.save has written"
            )
        content = _read_stored(file, archive.getinfo(pickled[0]))
        reader = _ShapeUnpickler(io.BytesIO(content), path)
        return Content(reader.load(), reader.stubs())


def _read_stored(file: BinaryIO, entry: zipfile.ZipInfo) -> bytes:
    """Return an uncompressed entry of a zip, as torch writes them.

    zipfile itself wants checksums, which checkpoints of this project go without.
    """
    file.seek(entry.header_offset + LENGTHS_OFFSET)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    file.seek(name_length + extra_length, io.SEEK_CUR)
    return file.read(entry.file_size)


class _ShapeUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self.path = path
        self.stand_ins: dict[str, type[StandIn]] = {}

    def find_class(self, module: str, name: str) -> Any:
        # files of protocol 2, torch's, have Python 2's names of modules
        renamed = (IMPORT_MAPPING.get(module, module), name)
        module, name = NAME_MAPPING.get((module, name), renamed)
        full = f"{module}.{name}"
        if full in KNOWN:
            return KNOWN[full]
        if module == "torch" and name.endswith("Storage"):
            return name
        root = module.partition(".")[0]
        is_code = root in sys.stdlib_module_names and root not in DATA_MODULES
        if is_code and full not in DATA_NAMES:
            raise _RefusedError(
                f"{self.path} holds more than tensors: it wants {full}; refused, and"
                " nothing of it was run"
            )
        stand_in = self.stand_ins.get(full)
        if stand_in is None:
            stand_in = type(name, (StandIn,), {"usage": Usage()})
            self.stand_ins[full] = stand_in
        return stand_in

    def persistent_load(self, pid: Any) -> Any:
        # ("storage", its class, its key, its device, its length)
        if pid[0] == "module":
            raise _RefusedError(
                f"{self.path} holds a whole module in PyTorch's format before 1.6,"
                " which cannot be read without running it; load it where it comes from"
                " and save its state_dict()"
            )
        return pid

    def stubs(self) -> list[Stub]:
        """Return stubs under which torch's weights_only reader takes the file, too."""
        stubs: list[Stub] = []
        for name, stand_in in self.stand_ins.items():
            stub: Callable[..., Any] = StandIn
            # torch fills no other dictionaries and lists than these
            usage = stand_in.usage
            if usage and usage.holds:
                make = _make_mapping if usage.holds is OrderedDict else _make_list
                stub = make if usage.is_called else usage.holds
            stubs.append((stub, name))
        return stubs


def _make_mapping(*_: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _make_list(*_: Any) -> list[Any]:
    return []


def _rebuild_tensor(storage: Any, offset: int, size: Any, *_: Any) -> StoredTensor:
    return StoredTensor(tuple(size), str(storage[1]))


def _rebuild_sparse(layout: Any, data: Any) -> StoredTensor:
    return StoredTensor(tuple(data[2]), "sparse")


def _rebuild_meta(dtype: Any, size: Any, *_: Any) -> StoredTensor:
    return StoredTensor(tuple(size), "meta")


def _rebuild_parameter(data: StoredTensor, *_: Any) -> StoredTensor:
    return data


def _rebuild_from_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    return function(*args) if function in KNOWN.values() else None


# what torch.save itself writes, and argparse's plain data
KNOWN: dict[str, Any] = {
    "argparse.Namespace": argparse.Namespace,
    "builtins.set": set,
    "collections.OrderedDict": OrderedDict,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor,
    "torch._utils._rebuild_sparse_tensor": _rebuild_sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _rebuild_meta,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
}


def collect_state(module: StandIn, prefix: str = "") -> dict[str, Any]:
    """Return what a pickled module's state_dict() would, from nn.Module's own dicts."""
    attributes = vars(module)
    state = {}
    for kind in ("_parameters", "_buffers"):
        for name, value in _as_mapping(attributes.get(kind)).items():
            if is_tensor(value):
                state[f"{prefix}{name}"] = value
    for name, child in _as_mapping(attributes.get("_modules")).items():
        if isinstance(child, StandIn):
            state |= collect_state(child, f"{prefix}{name}.")
    return state


def is_array(value: Any) -> bool:
    """Return whether the value stands in for an array of NumPy."""
    return isinstance(value, StandIn) and type(value).__name__ in ARRAY_MAKERS


def is_tensor(value: Any) -> bool:
    """Return whether the value is a tensor: torch's, or the shape of one in a file."""
    return isinstance(getattr(value, "shape", None), tuple)


def _as_mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
