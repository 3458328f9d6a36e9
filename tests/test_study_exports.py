"""Exports of studies: what other programs read, with axes as dimensions."""

import csv
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from qsim.studies import export
from tests import study_results as made

pytest.importorskip("xarray")


@pytest.fixture(scope="module")
def results():
    return [*made.results(), made.diverged(), made.failed()]


@pytest.mark.parametrize("kind", export.KINDS)
def test_files_have_a_row_for_each_result(kind, results, tmp_path):
    path = tmp_path / f"table{kind}"
    export.write(path, results, {"name": "floats"})
    match kind:
        case ".parquet":
            rows = pq.read_table(path).to_pylist()
        case ".csv":
            rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        case _:
            rows = json.loads(path.read_text(), parse_constant=pytest.fail)["results"]
    assert [row["format"] for row in rows] == [result.point["format"] for result in results]
    assert float(rows[0]["kl"]) == results[0].measures["kl"]
    assert math.isnan(float(rows[-2]["kl"])) and rows[-1]["error"] == "out of memory"


def test_dimensions_are_the_axes_that_were_swept(results):
    found = export.dataset(results[:7])
    assert dict(found.sizes) == {"format": 7}  # integers are among them
    assert found.attrs["rounding"] == "ties_to_even"
    floats = export.dataset(results[:2])
    assert dict(floats.sizes) == {"mantissa_bits": 2} and floats.attrs["exponent_bits"] == 2


def test_a_result_without_a_seed_is_at_none_of_the_seeds(results):
    found = export.dataset(made.results())
    assert set(found.sizes) == {"format", "rounding", "seed"}
    at = {"format": "e4m3", "rounding": "ties_to_even"}
    known = found["kl"].sel(at)
    assert list(found["seed"].values) == [-1, 0, 1]
    expected = next(r for r in results if r.spec == "e4m3" and "seed" not in r.point)
    assert float(known.sel(seed=-1)) == expected.measures["kl"]
    assert np.isnan(known.sel(seed=[0, 1])).all()


def test_a_frame_has_the_columns_of_the_table(results):
    frame = export.frame(results)
    assert list(frame.columns) == export.table(results).column_names
    assert len(frame) == len(results)
