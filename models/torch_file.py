"""Reads the tensors of a `.pth` file, in either of torch's formats, without running a pickle.

The legacy format is five pickles (magic number, protocol, sizes, state dict, storage keys), then
each storage as a count and its elements. The newer one is a zip archive, uncompressed, with the
state dict as the pickle `ROOT/data.pkl` and each storage as the file `ROOT/data/KEY`.

A pickle is a program for a small stack machine, and the danger lies in two of its instructions:
GLOBAL, which imports any name, and REDUCE, which calls it. The machine below has the two dozen
instructions that a state dict needs. Its GLOBAL pushes one of four names as plain text, its REDUCE
builds an empty dict or a record of a tensor, and any other name or instruction is an error.
`pickletools` decodes the instructions; the pickle module is not used.
"""

import io
import math
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ZIP_MAGIC = b"PK\x03\x04"
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DTYPES = {"torch FloatStorage": np.dtype("<f4"), "torch LongStorage": np.dtype("<i8")}
TENSOR = "torch._utils _rebuild_tensor_v2"
DICT = "collections OrderedDict"
NAMES = {TENSOR, DICT, *DTYPES}
FILE_LIMIT = 256 << 20  # bytes
PROGRAM_LIMIT = 100_000  # instructions in one pickle
MARK = object()
FAULTS = (
    *(
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        EOFError,
    ),  # of the machine
    *(zipfile.BadZipFile, RuntimeError, struct.error),  # of damaged or encrypted archives
)


class Name(NamedTuple):
    """One of the four admitted globals, as text."""

    text: str


class Storage(NamedTuple):
    """A run of `size` elements, to be found under `key` beside the pickle."""

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """A strided view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of the state dict at `path`, by name.

    Raises ValueError when the file is no state dict of torch's, holds anything but tensors, or
    exceeds the limits above.
    """
    if path.stat().st_size > FILE_LIMIT:
        raise ValueError(f"{path.name}: larger than {FILE_LIMIT} bytes")
    content = path.read_bytes()
    reader = read_zip if content.startswith(ZIP_MAGIC) else read_legacy
    try:
        tensors, data = reader(io.BytesIO(content))
        return {name: view(tensor, data) for name, tensor in tensors.items()}
    except FAULTS as error:
        raise ValueError(f"{path.name}: {error}") from error


def read_legacy(file: io.BytesIO) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Returns (tensors by name, elements of the storages by key) of a file in legacy format."""
    magic, protocol, _, tensors, keys = (run(file) for _ in range(5))
    if (magic, protocol) != (MAGIC, PROTOCOL):
        raise ValueError("not a state dict in torch's legacy format")
    storages = storages_of(tensors)
    return tensors, {key: read_storage(file, storages[key]) for key in keys}


def read_zip(file: io.BytesIO) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """Returns (tensors by name, elements of the storages by key) of a file in zip format."""
    archive = zipfile.ZipFile(file)
    roots = [
        name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")
    ]
    if len(roots) != 1:
        raise ValueError(f"a zip file with {len(roots)} state dicts")
    if member(archive, f"{roots[0]}byteorder") != b"little":
        raise ValueError("a zip file whose numbers are not little-endian")
    tensors = run(io.BytesIO(member(archive, f"{roots[0]}data.pkl")))
    data = {}
    for key, storage in storages_of(tensors).items():
        content = member(archive, f"{roots[0]}data/{key}")
        if len(content) != storage.size * storage.dtype.itemsize:
            raise ValueError(
                f"storage {key!r} has {len(content)} bytes, not {storage.size} elements"
            )
        data[key] = np.frombuffer(content, storage.dtype)
    return tensors, data


def member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Returns the content of an uncompressed member, which is no longer than the archive."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name!r} is compressed, which torch does not do")
    return archive.read(name)


def storages_of(tensors: Any) -> dict[str, Storage]:
    """Returns the storages of a state dict's tensors, by key."""
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise ValueError("not a state dict: something in it is no tensor")
    if not tensors:
        raise ValueError("no tensors")
    return {tensor.storage.key: tensor.storage for tensor in tensors.values()}


def read_storage(file: io.BytesIO, storage: Storage) -> np.ndarray:
    """Returns the next storage of a legacy file, [size]."""
    count = int.from_bytes(file.read(8), "little")
    content = file.read(storage.size * storage.dtype.itemsize)
    if count != storage.size or len(content) != count * storage.dtype.itemsize:
        raise ValueError(f"storage {storage.key} has {count} elements, not {storage.size}")
    return np.frombuffer(content, storage.dtype)


def view(tensor: Tensor, data: dict[str, np.ndarray]) -> np.ndarray:
    """Returns a contiguous copy of the tensor's elements."""
    shape, strides = tensor.shape, tensor.strides
    if len(shape) != len(strides) or min((tensor.offset, *shape, *strides)) < 0:
        raise ValueError(f"tensor with shape {shape}, strides {strides}, offset {tensor.offset}")
    if math.prod(shape) > tensor.storage.size:
        raise ValueError(f"tensor of shape {shape} in a storage of {tensor.storage.size} elements")
    index = np.full(shape, tensor.offset)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        steps = np.arange(size) * stride
        index += steps.reshape((-1,) + (1,) * (len(shape) - axis - 1))
    return data[tensor.storage.key][index]


def run(file: io.BytesIO) -> Any:
    """Returns the value of the pickle that starts at the file's position, and moves past it."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for count, (instruction, argument, _) in enumerate(pickletools.genops(file)):
        if count >= PROGRAM_LIMIT:
            raise ValueError(f"a pickle of more than {PROGRAM_LIMIT} instructions")
        match instruction.name:
            case "PROTO" | "STOP":
                pass
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case name:
                execute(name, argument, stack)
    if len(stack) != 1:
        raise ValueError(f"a pickle that leaves {len(stack)} values")
    return stack[0]


def execute(name: str, argument: Any, stack: list[Any]) -> None:
    """Performs one instruction on the stack."""
    match name:
        case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
            stack.append(argument)
        case "NONE" | "NEWTRUE" | "NEWFALSE":
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        case "MARK":
            stack.append(MARK)
        case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        case "TUPLE":
            stack.append(tuple(pop_to_mark(stack)))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
        case "APPENDS":
            items = pop_to_mark(stack)
            stack[-1].extend(items)
        case "SETITEM":
            key, value = stack.pop(-2), stack.pop()
            stack[-1][key] = value
        case "SETITEMS":
            items = pop_to_mark(stack)
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        case "BUILD":  # attributes of the dict (versions of layers): nothing we need
            stack.pop()
        case "GLOBAL":
            stack.append(admit(argument))
        case "BINPERSID":
            stack.append(storage(stack.pop()))
        case "REDUCE":
            function, arguments = stack.pop(-2), stack.pop()
            stack.append(call(function, arguments))
        case _:
            raise ValueError(f"pickle instruction {name} has no place in a state dict")


def pop_to_mark(stack: list[Any]) -> list[Any]:
    """Removes the values above the topmost mark, and the mark, and returns the values."""
    place = max(i for i, value in enumerate(stack) if value is MARK)
    items = stack[place + 1 :]
    del stack[place:]
    return items


def admit(name: str) -> Name:
    """Returns the name as text if it is one of the four."""
    if name not in NAMES:
        raise ValueError(f"the pickle asks for {name!r}; only tensors are read")
    return Name(name)


def storage(identity: tuple[Any, ...]) -> Storage:
    """Returns the record of a storage from ("storage", type, key, device, size).

    The legacy format has one entry more, which is None unless storages are views of others.
    """
    kind, name, key, _, size, *shared = identity
    known = isinstance(key, str) and isinstance(size, int) and shared in ([], [None])
    if kind != "storage" or not known:
        raise ValueError(f"storage described by {identity}")
    return Storage(key, DTYPES[name.text], size)


def call(function: Name, arguments: tuple[Any, ...]) -> dict | Tensor:
    """Returns an empty dict, or the record of a tensor: all that REDUCE may make."""
    match function, arguments:
        case Name(text), () if text == DICT:
            return {}
        case Name(text), (Storage() as elements, int(offset), tuple(shape), tuple(strides), *_) if (
            text == TENSOR
        ):
            return Tensor(elements, offset, shape, strides)
        case _:
            raise ValueError(f"the pickle calls {function} with {arguments}")
