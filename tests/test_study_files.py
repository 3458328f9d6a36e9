"""Study files: what they say, what is wrong with them, and which evaluations they stand for."""

import json
import random
import tomllib

import pytest

from qsim.studies.evaluations import evaluations, layers
from qsim.studies.ranges import numbers
from qsim.studies.study import Study, read
from qsim.sweeps.subject import load
from tests.unchecked import unchecked

SUBJECT = "tests.own_subject:subject"
WHOLE = f"""
subject = "{SUBJECT}"
name = "floats"
batches = "0-1"
measures = ["kl"]
examples = false

[axes]
exponents = "3-4"
mantissas = [1, 3]
integers = 4
formats = ["mxfp4", "mine.toml:mine", "e3m1"]
targets = ["weights", "both"]
roundings = ["ties_to_even", "stochastic:8"]
scales = ["absmax", "none"]
accumulators = ["none", "e5m10:chunk32"]
seeds = "0-2"
"""
MINE = '[mine]\nfamily = "float"\ntitle = "t"\nsource = "s"\nexponent_bits = 2\nmantissa_bits = 2\n'


@pytest.fixture(scope="module")
def spiral():
    return load(SUBJECT)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)

    def write(text: str):
        (tmp_path / "study.toml").write_text(text)
        return tmp_path / "study.toml"

    return write


def test_a_study_is_what_its_file_says(file):
    study = read(file(WHOLE))
    floats = ("e3m1", "e3m3", "e4m1", "e4m3")
    assert study.formats == (*floats, "int4", "mxfp4", "e2m2")
    assert study.batches == (0, 1) and study.seeds == (0, 1, 2) and not study.examples
    assert study.overflows == ("saturate",)
    assert Study.of(json.loads(json.dumps(study.table()))) == study
    assert read(file(f'subject = "{SUBJECT}"\n[axes]\nformats = ["e4m3"]')).name == "study"


def test_every_combination_is_evaluated_once(file, spiral):
    """Counted by hand: seeds count where bits are drawn, scales where a format has none."""
    found = evaluations(read(file(WHOLE)), spiral)
    plain, blocks, accumulators, targets = 6, 1, 2, 2
    seeds = 1 + 3  # to nearest, and stochastic from three seeds
    assert len(found) == (plain * 2 + blocks) * accumulators * targets * seeds
    assert len({evaluation.key for evaluation in found}) == len(found)
    first = found[0]
    assert first.point == {
        "format": "e3m1",
        "target": "weights",
        "rounding": "ties_to_even",
        "overflow": "saturate",
        "scale": "absmax",
        "accumulator": "none",
    }
    assert str(first.policy) == "weights=e3m1 absmax"
    assert all(("seed" in e.point) == ("stochastic" in e.point["rounding"]) for e in found)
    with_chunks = next(e for e in found if e.point["accumulator"] != "none")
    assert str(with_chunks.policy).startswith("accumulators=e5m10 chunk32 ")


def test_each_path_is_a_layer(file, spiral):
    text = f'subject = "{SUBJECT}"\n[axes]\nformats = ["e4m3"]\npaths = ["each", ".*"]'
    found = evaluations(read(file(text)), spiral)
    assert layers(spiral) == ["Spiral/hidden", "Spiral/logits"]
    assert [e.point["path"] for e in found] == ["Spiral/hidden", "Spiral/logits", ".*"]
    places = [e.policy.explain(spiral.apply, spiral.variables, spiral.inputs[0]) for e in found]
    touched = [sum(place.rule is not None for place in each.places) for each in places]
    assert touched == [2, 2, 4]


def test_policies_stand_for_modes(file, spiral):
    text = '[axes]\nformats = ["e4m3"]\npolicies = ["weights={}", "operands={} absmax"]'
    found = evaluations(read(file(f'subject = "{SUBJECT}"\n{text}')), spiral)
    assert [str(e.policy) for e in found] == ["weights=e4m3", "operands=e4m3 absmax"]
    alone = '[axes]\npolicies = ["weights=e4m3; activations=int8"]'
    (only,) = evaluations(read(file(f'subject = "{SUBJECT}"\n{alone}')), spiral)
    assert only.point == {"policy": "weights=e4m3; activations=int8"} and only.fmt is None


AXES = f'subject = "{SUBJECT}"\n[axes]\n'
MISTAKES = {
    "a = [": "study.toml: ",
    "a = " + "[" * 5000: "nested too deeply",
    "": "subject is ''; write subject = \"models.byte_lm:subject\"",
    "subject = 3": "subject is 3; write subject",
    'subjct = "m:s"': "no key subjct; did you mean 'subject'",
    f'subject = "{SUBJECT}"': "axes has no formats; give exponents and mantissas",
    f'subject = "{SUBJECT}"\naxes = 3': "axes is no table: begin it with [axes]",
    AXES + 'exponents = "2-4"': "axes.exponents needs axes.mantissas",
    AXES + 'mantissas = "2-4"': "axes.mantissas needs axes.exponents",
    AXES + 'exponents = "4-2"\nmantissas = 1': "axes.exponents '4-2' is no range; write 2-8",
    AXES + "exponents = 1.5\nmantissas = 1": "axes.exponents is 1.5, no range",
    AXES + 'formats = ["e4mx"]': "no format 'e4mx'",
    AXES + 'formats = ["none.toml:a"]': "cannot read",
    AXES + 'formats = ["mine.toml:a"]': "mine.toml has no format 'a'",
    AXES + "formats = [3]": "axes.formats is [3], no list of texts",
    AXES + 'format = ["e4m3"]': "no key axes.format; did you mean 'formats'",
    AXES + 'formats = ["e4m3"]\nseeds = -1': "axes.seeds is -1; seeds are whole numbers",
    AXES + 'formats = ["e4m3"]\nseeds = []': "axes.seeds is []",
    AXES + 'formats = ["e4m3"]\npolicies = ["weights=e4m3"]': "without {}, which stands for",
    AXES + 'policies = ["weights={}"]\nscales = ["none"]': "axes.scales says what axes.policies",
    AXES + 'policies = ["weights={}"]': "axes has no formats",
    f'subject = "{SUBJECT}"\nexamples = "yes"': "examples is 'yes'; write true or false",
}


@pytest.mark.parametrize("text", MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_name_file_key_and_remedy(text, file):
    with unchecked(), pytest.raises(ValueError) as raised:
        read(file(text))
    assert MISTAKES[text] in str(raised.value) and "study.toml" in str(raised.value)


def test_impossible_combinations_are_named(file, spiral):
    for axes, message in {
        'formats = ["e4m3"]\noverflows = ["wrap"]': "format e4m3, .*overflow wrap",
        'formats = ["e9m3"]': "format e9m3, .*float32",
        'formats = ["e4m3"]\ntargets = ["weight"]': "did you mean 'weights'",
        'formats = ["e4m3"]\naccumulators = ["e4"]': "accumulator e4: ",
    }.items():
        with pytest.raises(ValueError, match=message):
            evaluations(read(file(AXES + axes)), spiral)


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*nothing.toml: No such file"):
        read(tmp_path / "nothing.toml")
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(ValueError, match="is no UTF-8 text"):
        read(tmp_path / "latin.toml")
    (tmp_path / "long.toml").write_text("#" * 2**21)
    with pytest.raises(ValueError, match="a study file is short"):
        read(tmp_path / "long.toml")


def mutated(text: str, random: random.Random) -> bytes:
    """A text with a few of its bytes replaced, removed, doubled or moved."""
    data = bytearray(text.encode())
    for _ in range(random.randint(1, 6)):
        place = random.randrange(len(data))
        match random.randrange(4):
            case 0:
                data[place] = random.randrange(256)
            case 1:
                del data[place : place + random.randint(1, 20)]
            case 2:
                data[place:place] = data[place : place + random.randint(1, 40)]
            case 3:
                data[place:place] = random.choice([b"[", b'"', b"9" * 30, b"\n[axes]\n", b"{}"])
        if not data:
            return b""
    return bytes(data)


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.ci)])
def test_mutated_files_end_in_our_exceptions(count, tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)
    source, valid = random.Random(0), 0
    path = tmp_path / "study.toml"
    with unchecked():
        for _ in range(count):
            path.write_bytes(mutated(WHOLE, source))
            try:
                study = read(path)
            except ValueError as error:
                assert str(path) in str(error)
            else:
                assert Study.of(study.table()) == study
                valid += 1
    assert 0 < valid < count


@pytest.mark.parametrize("given", ["2-8", "2, 4", 3, [1, 2], []])
def test_ranges_are_those_of_toml(given):
    assert numbers("x", given) == numbers("x", tomllib.loads(f"x = {json.dumps(given)}")["x"])
