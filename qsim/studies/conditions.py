"""What results depend on besides the study: versions, the machine, how XLA and JAX are set.

Two evaluations of the same point have the same bytes if they are computed under the same
conditions. The number of devices and the time are none of them, and no path of the machine is told.
"""

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

import jax

from qsim.sweeps.evaluation import versions

__all__ = ["conditions", "differing"]

# of the CPU, widest first: XLA compiles for the first that it finds
INSTRUCTION_SETS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "avx")
# flags of XLA that do not change results: how many devices there are, and what is written where
IDLE_FLAGS = re.compile(r"--xla_(force_host_platform_device_count|dump_\w+)\b.*")
SETTINGS = {
    "x64": "jax_enable_x64",
    "threefry_partitionable": "jax_threefry_partitionable",
    "random_bits": "jax_default_prng_impl",
    "matmul_precision": "jax_default_matmul_precision",
}
COMMIT = re.compile(r"[0-9a-f]{40,64}")
LONGEST = 1 << 20  # bytes of the files that are read here


def conditions() -> dict[str, str]:
    """The conditions under which this process computes, by name.

    ``commit`` is there where the package is imported from a Git checkout.

    >>> found = conditions()
    >>> found["backend"], found["x64"]
    ('cpu', 'False')
    """
    root = Path(__file__).parents[2]
    commit = _commit(root / ".git")
    return {
        **versions(),
        "ml_dtypes": importlib.metadata.version("ml_dtypes"),
        **({"commit": commit} if commit else {}),
        "device": jax.devices()[0].device_kind,
        "instructions": _instructions(),
        "xla_flags": _flags(os.environ.get("XLA_FLAGS", "")),
        **{name: str(getattr(jax.config, option)) for name, option in SETTINGS.items()},
    }


def differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is not the same in two sets of conditions, a line for each.

    Args:
        before: the conditions of stored results.
        now: those of this process.

    >>> differing({"jaxlib": "0.10.1", "x64": "False"}, {"jaxlib": "0.10.2", "x64": "False"})
    ['jaxlib: 0.10.1, now 0.10.2']
    """
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{name}: {before.get(name, 'unknown') or 'none'}, now {now.get(name, 'unknown') or 'none'}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _flags(text: str) -> str:
    """The flags that results may depend on; of a path only the last part.

    >>> _flags("--xla_dump_to=/tmp/a --xla_cpu_max_isa=AVX --xla_gpu_cuda_data_dir=/home/me/cuda")
    '--xla_cpu_max_isa=AVX --xla_gpu_cuda_data_dir=cuda'
    """
    if text.strip() and not text.strip().startswith("-"):  # then XLA takes it for a file of flags
        text = _text(Path(text.strip()))
    flags = [flag for flag in text.split() if not IDLE_FLAGS.fullmatch(flag)]
    return " ".join(re.sub(r"=.*/", "=", flag) for flag in flags)


def _instructions() -> str:
    """The instruction set of the CPU, else its architecture."""
    found = re.search(r"^flags\s*:(.*)$", _text(Path("/proc/cpuinfo")), flags=re.MULTILINE)
    flags = found.group(1).split() if found else []
    return next((name for name in INSTRUCTION_SETS if name in flags), platform.machine())


def _commit(git: Path) -> str:
    """The commit that is checked out, read from Git's files; empty if there is none."""
    if git.is_file():  # of a further work tree: it says where the folder is
        git = git.parent / _text(git).removeprefix("gitdir:").strip()
    head = _text(git / "HEAD").strip()
    if not head.startswith("ref:"):
        return head if COMMIT.fullmatch(head) else ""
    ref = head.removeprefix("ref:").strip()
    common = git / (_text(git / "commondir").strip() or ".")
    for line in (*(_text(folder / ref) for folder in (git, common)), *_packed(common, ref)):
        if COMMIT.fullmatch(line.strip()):
            return line.strip()
    return ""


def _packed(common: Path, ref: str) -> list[str]:
    lines = _text(common / "packed-refs").splitlines()
    return [line.split()[0] for line in lines if line.endswith(f" {ref}")]


def _text(path: Path) -> str:
    """What a file says; nothing if it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(LONGEST)
    except OSError:
        return ""
