"""Results as tables: Arrow, files of several kinds, pandas, and xarray with named axes."""

import csv
import importlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from qsim.studies.result import AXES, Result, on_the_map
from qsim.sweeps.store import replaced

__all__ = ["KINDS", "dataset", "frame", "safe", "table", "write"]

FACTS = ("bits", "exponent_bits", "mantissa_bits")
BITS = FACTS[1:]
FORMULA = "=+-@\t\r"  # how a text begins that spreadsheets take for a formula
KINDS = (".parquet", ".csv", ".json")


def table(results: Sequence[Result]) -> pa.Table:
    """A row for each result: its point, facts of its format, its state and its measures.

    Columns of axes are there that a result has; a measure or a fact that one lacks is null.

    >>> found = [Result(point={"format": "e4m3"}, facts={"bits": 8}, measures={"loss": 0.5})]
    >>> table(found).select(["format", "bits", "state", "loss"]).to_pylist()
    [{'format': 'e4m3', 'bits': 8.0, 'state': 'done', 'loss': 0.5}]
    """
    axes = [axis for axis in AXES if any(axis in result.point for result in results)]
    measures = list(dict.fromkeys(name for result in results for name in result.measures))
    columns = {
        **{axis: [result.point.get(axis) for result in results] for axis in axes},
        **{name: [result.facts.get(name) for result in results] for name in FACTS},
        "state": [result.state for result in results],
        **{name: [result.measures.get(name) for result in results] for name in measures},
        "seconds": [result.seconds for result in results],
        "batch": [result.batch for result in results],
        "error": [result.error for result in results],
    }
    kinds = {
        **dict.fromkeys((*BITS, "batch"), pa.int32()),
        **dict.fromkeys(("bits", *measures, "seconds"), pa.float64()),
        "seed": pa.int64(),
    }
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns])
    return pa.table(columns, schema=schema)


def write(path: Path, results: Sequence[Result], manifest: Mapping[str, Any]) -> None:
    """Results as a file, whose kind is that of its name, replacing it as a whole.

    Args:
        path: ends in ``.parquet``, ``.csv`` or ``.json``.
        results: the results.
        manifest: what the study is; Parquet files have it in their metadata, JSON beside the rows.

    Raises:
        ValueError: for another kind, and if the file cannot be written.
    """
    rows = table(results)
    match path.suffix.lower():
        case ".parquet":
            known = rows.replace_schema_metadata({"qsim": json.dumps(dict(manifest))})
            replaced(path, lambda temporary: pq.write_table(known, temporary))
        case ".csv":
            replaced(path, lambda temporary: temporary.write_text(_csv(rows), "utf-8", newline=""))
        case ".json":
            plain = [{name: _plain(v) for name, v in row.items()} for row in rows.to_pylist()]
            whole = {"study": dict(manifest), "results": plain}
            text = json.dumps(whole, indent=1)
            replaced(path, lambda temporary: temporary.write_text(text + "\n", "utf-8"))
        case _:
            raise ValueError(f"{path} is no table; give a name that ends in {', '.join(KINDS)}")


def _plain(value: Any) -> Any:
    """A value that JSON has: infinities and NaN are words."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def safe(cell: Any) -> Any:
    """A cell of a table for spreadsheets, which take some texts for formulas.

    >>> safe("=1+2"), safe(-0.5), safe(None)
    ("'=1+2", -0.5, '')
    """
    if cell is None:
        return ""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple(FORMULA) else cell


def frame(results: Sequence[Result]) -> Any:
    """Results as a ``pandas.DataFrame``, with the columns of ``table``.

    Raises:
        ImportError: without pandas, an extra.
    """
    _imported("pandas")
    return table(results).to_pandas()


def dataset(results: Sequence[Result]) -> Any:
    """Results as an ``xarray.Dataset``, whose dimensions are the axes with several values.

    Where all formats are plain floats, such as ``e4m3``, ``exponent_bits`` and ``mantissa_bits``
    take the place of ``format``. What is the same everywhere is an attribute, and what was not
    evaluated is NaN. Where some results lack a coordinate, such as the seed of a rounding without
    random bits, theirs is ``"none"``, or -1 among seeds.

    Raises:
        ImportError: without xarray, an extra.
        ValueError: for no results.
    """
    xarray = _imported("xarray")
    if not results:
        raise ValueError("there are no results yet")
    rows = table(results).to_pandas()
    axes = [axis for axis in AXES if axis in rows]
    lacking = {axis: "none" for axis in axes} | ({"seed": -1} if "seed" in axes else {})
    rows = rows.fillna(lacking)
    if "format" in axes and not on_the_map(results)[1]:
        axes = [*BITS, *axes[1:]]
    fixed = {axis: rows[axis].iloc[0] for axis in axes if rows[axis].nunique(dropna=False) == 1}
    swept = [axis for axis in axes if axis not in fixed] or axes[:1]
    measures = list(dict.fromkeys(name for result in results for name in result.measures))
    found = xarray.Dataset.from_dataframe(rows.set_index(swept)[[*measures, "seconds"]])
    return found.assign_attrs({axis: v for axis, v in fixed.items() if axis not in swept})


def _csv(rows: pa.Table) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(rows.column_names)
    for row in rows.to_pylist():
        writer.writerow(map(safe, row.values()))
    return text.getvalue()


def _imported(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{package} is an extra: pip install 'jax-qsim[tables]'") from error
