"""The arrows of the architecture: imports point one way, and folders are the documented ones."""

import ast
import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    "numbers", "scales", "arithmetic", "functions", "simulate", "propagation", "sweeps", "studies",
    "training", "analysis", "report", "cli",
)  # fmt: skip
MODULES = sorted((ROOT / "qsim").rglob("*.py"))
JAXPRS = ROOT / "qsim" / "simulate" / "jaxprs.py"

in_every_module = pytest.mark.parametrize(
    "path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def imported(path: Path) -> Iterator[str]:
    """The dotted names that a file imports or reaches through attributes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                assert node.level == 0, f"{path}:{node.lineno}: write the absolute import"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            case ast.Attribute():
                yield ast.unparse(node)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def layer(name: str) -> int:
    """The position of a dotted name of ours; the package itself stands above all layers.

    >>> layer("qsim.numbers.formats.Float"), layer("qsim.sweeps")
    (0, 6)
    """
    parts = name.split(".")
    if len(parts) > 1 and parts[1] in LAYERS:
        return LAYERS.index(parts[1])
    return len(LAYERS)


@in_every_module
def test_imports_point_one_way(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    upward = [
        name for name in imported(path) if within(name, "qsim") and layer(name) > layer(module)
    ]
    assert not upward, f"{module} is in an earlier layer than {upward}; the order is {LAYERS}"


def test_every_subpackage_has_a_layer():
    rooms = {path.relative_to(ROOT / "qsim").parts[0].removesuffix(".py") for path in MODULES}
    assert rooms - {"__init__", "__main__"} <= set(LAYERS)


@in_every_module
def test_one_module_knows_jaxprs(path):
    names = list(imported(path))
    assert not [name for name in names if within(name, "jax._src")]
    if path != JAXPRS:
        assert not [name for name in names if within(name, "jax.extend.core")]


def test_models_import_nothing_of_ours():
    for path in (ROOT / "models").rglob("*.py"):
        assert not [name for name in imported(path) if within(name, "qsim")], path


def test_formats_are_data():
    kinds = {path.suffix for path in (ROOT / "formats").iterdir()}
    assert kinds <= {".toml", ".md"}


def test_readme_maps_the_folders():
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    # an entry opens its line, in a code block (`qsim/   what it is`) or a table (| `qsim/` | ... |)
    mapped = set(re.findall(r"^(?:\| *)?`?([\w-]+)/`?(?= |\|)", text, flags=re.MULTILINE))
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").replace("/\n", "\n").split()
    present = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir()
        and not path.name.startswith(".")
        and not any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored)
        and any(child.is_file() for child in path.rglob("*"))
    }
    assert mapped == present


FORBIDDEN = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "torch.load",
}
SOURCES = sorted(
    path for folder in ("qsim", "models", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_is_read_is_run(path):
    """No pickle, and no text as code: what a file says is data."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert not calls & {"eval", "exec", "compile", "__import__", "os.system"}
    assert not any(within(name, each) for name in imported(path) for each in FORBIDDEN)
    keywords = [k for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords]
    assert not [k for k in keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
    assert not [k for k in keywords if k.arg == "shell" and ast.unparse(k.value) != "False"]
