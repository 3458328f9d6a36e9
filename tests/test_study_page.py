"""The report of a study: what its results say together, the file, and the server of a live one."""

import base64
import hashlib
import http.client
import io
import json
import math
import re
import threading
from contextlib import contextmanager
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from qsim.analysis.paired import paired
from qsim.report import picture, study_figures, study_view
from qsim.report.server import server_of
from qsim.report.study_page import data_of, page_of, write
from qsim.studies.database import Database
from qsim.studies.result import Result
from qsim.studies.run import Work, found
from qsim.studies.study import Study
from tests import study_results as made


@pytest.fixture(scope="module")
def results():
    return [*made.results(), made.diverged(), made.failed()]


# --- what results say together ----------------------------------------------------------------


def test_a_configuration_has_all_its_seeds(results):
    found = study_view.configurations(results)
    labels = [each.label for each in found]
    assert len(set(labels)) == len(found) == 7 + 7 + 2
    one = found[labels.index("e4m3, stochastic:8")]
    seeds = [r for r in results if r.point.get("seed") is not None and r.spec == "e4m3"]
    assert [r.key for r in one.results] == [r.key for r in seeds] and len(seeds) == 2
    assert one.measures["kl"] == pytest.approx(sum(r.measures["kl"] for r in seeds) / 2)
    assert one.point == {"format": "e4m3", "rounding": "stochastic:8"}


def test_states_of_configurations(results):
    states = {each.label: each.state for each in study_view.configurations(results)}
    assert states["e3m0, ties_to_even"] == "diverged"
    assert states["e8m23, ties_to_even"] == "failed"
    assert states["e4m3, ties_to_even"] == "done"


@pytest.mark.parametrize("measure", ["kl", "top1"])
def test_the_front_has_what_nothing_of_as_few_bits_beats(results, measure):
    found = study_view.configurations(results)
    known = [each for each in found if each.state == "done"]
    sign = -1 if measure == "top1" else 1

    def beats(a, b):
        better = sign * (a.measures[measure] - b.measures[measure])
        fewer = a.facts["bits"] - b.facts["bits"]
        return fewer <= 0 and better <= 0 and (fewer, better) != (0, 0)

    expected = {b.label for b in known if not any(beats(a, b) for a in known)}
    assert {each.label for each in study_view.front(found, measure)} == expected


def test_intervals_and_comparisons_are_paired_ones(results):
    manifest = made.manifest(results)
    found = study_view.configurations(results)
    options = {"resamples": study_view.RESAMPLES}

    def sums(each, measure, factor=1.0):
        return factor * np.stack([r.examples[measure] for r in each.results]).astype(float)

    spread = study_view.intervals(found, "bits_per_byte", manifest)
    compared = study_view.comparisons(found, "bits_per_byte", manifest)
    assert compared[0].baseline is None
    for n, each in enumerate(found):
        if each.state != "done":
            assert spread[n] is None and compared[0].intervals[n] is None
            continue
        own = sums(each, "loss", 1 / math.log(2))
        zero, base = np.zeros(made.EXAMPLES), made.reference()["loss"] / math.log(2)
        counts = manifest["counts"]
        assert spread[n] == pytest.approx(paired(own, zero, counts, **options))
        assert compared[0].intervals[n] == pytest.approx(paired(own, base, counts, **options))
        assert spread[n].difference == pytest.approx(each.measures["bits_per_byte"], rel=1e-6)
    b = compared[1].baseline
    expected = paired(sums(found[2], "loss"), sums(found[b], "loss"), counts, **options)
    assert compared[1].intervals[2] == pytest.approx(tuple(x / math.log(2) for x in expected))


def test_perplexity_has_the_interval_of_the_loss(results):
    manifest = made.manifest(results, score="perplexity")
    found = study_view.configurations(results)[:2]
    loss, ppl = (study_view.intervals(found, name, manifest) for name in ("loss", "perplexity"))
    assert ppl[0] == pytest.approx(tuple(math.exp(end) for end in loss[0]))


def test_there_are_no_intervals_without_sums_over_examples(results):
    bare = [Result(point=r.point, facts=r.facts, measures=r.measures) for r in results[:3]]
    manifest = made.manifest(bare, reference_examples=None, counts=None)
    assert study_view.intervals(study_view.configurations(bare), "kl", manifest) == [None] * 3
    assert data_of(manifest, bare)["comparisons"] == {}


# --- the file -----------------------------------------------------------------------------------


class Page(HTMLParser):
    """The elements of a page, with the text of scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.inside, self.texts = [], None, []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.inside = (tag, dict(attributes)) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside:
            self.texts.append((*self.inside, data))

    def data(self):
        return json.loads("".join(t for tag, a, t in self.texts if a.get("id") == "data"))


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write(path, made.manifest(results), results)
    return path.read_text(encoding="utf-8")


def test_the_policy_allows_the_page_s_own_style_and_scripts_alone(page):
    found = Page(page)
    policy = next(
        attributes["content"]
        for tag, attributes in found.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'" and "unsafe" not in policy
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        bodies = [text for name, a, text in found.texts if name == tag and "type" not in a]
        digests = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in bodies]
        assert rules[rule].split() == [f"'sha256-{digest}'" for digest in digests] and bodies


def test_nothing_is_loaded_from_elsewhere(page):
    for tag, attributes in Page(page).elements:
        for name in ("src", "href", "action", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert "@import" not in page and "url(" not in page


def test_the_data_are_the_results(page, results):
    found = Page(page).data()
    assert len(found["rows"]) == len(results)
    names = list(found["measures"])
    for row, result in zip(found["rows"], results, strict=True):
        assert row["point"] == result.point and row["state"] == result.state
        for name, value in zip(names, row["values"], strict=True):
            expected = result.measures.get(name, float("nan"))
            assert value == (expected if math.isfinite(expected) else None)
    assert found["progress"] == {
        "found": 23, "total": 23, "done": 21, "diverged": 1, "failed": 1, "seconds_left": 0,
    }  # fmt: skip
    lines = {line["format"]: line["log2"] for line in found["lines"]}
    assert lines["e2m1"] == pytest.approx(np.log2([0.5, 1, 1.5, 2, 3]), abs=1e-3)
    assert "e8m23" not in lines


def test_texts_stay_text(tmp_path):
    results = made.evil()
    manifest = made.manifest(
        results, name=made.EVIL, subject=made.EVIL, conditions={made.EVIL: made.EVIL}
    )
    write(tmp_path / "evil.html", manifest, results)
    text = (tmp_path / "evil.html").read_text(encoding="utf-8")
    found = Page(text)
    assert "<script>alert" not in text
    assert all("\u2028" not in inside for name, _, inside in found.texts)  # as in no script
    assert [tag for tag, _ in found.elements].count("script") == 4
    assert [row["point"]["path"] for row in found.data()["rows"]] == [
        f"'{made.EVIL}\"", "\u2028--><!--</script>",
    ]  # fmt: skip


def test_without_javascript_there_are_a_picture_and_a_table(page, results):
    static = re.search(r"<noscript>(.*?)</noscript>", page, flags=re.DOTALL)[1]
    assert 'src="data:image/png;base64,' in static
    rows = re.findall(r"<tr>(.*?)</tr>", static)
    assert len(rows) == 1 + len(results)
    assert re.findall(r"<td>(.*?)</td>", rows[-1])[-1] == "out of memory"


def test_a_page_of_a_study_that_has_only_begun(tmp_path):
    bare = {"name": "a", "subject": "m:s", "score": "top1"}
    write(tmp_path / "none.html", bare, [])
    write(tmp_path / "failed.html", bare, [made.failed()])
    write(tmp_path / "compiling.html", made.manifest([]), [])
    assert "0 of 0 evaluations" in (tmp_path / "none.html").read_text(encoding="utf-8")


# --- files and the terminal -----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_pictures(tmp_path, results, suffix):
    if not picture.available():
        pytest.skip("no matplotlib")
    layered = [
        Result(**{**vars(r), "point": {**r.point, "path": path}})
        for r in results[:4]
        for path in ("a$/b", "c_1^")
    ]
    drawn = study_figures.draw(
        tmp_path, made.manifest(results), [*results, *layered], suffix=suffix
    )
    names = {path.stem for path in drawn}
    assert {"accuracy", "layers"} <= names and any(name.startswith("map") for name in names)
    for path in drawn:
        head = path.read_bytes()[:5]
        assert head == (b"\x89PNG\r" if suffix == ".png" else b"<?xml")


def test_the_terminal_view(results):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(*study_figures.view(made.manifest(results), results))
    text = console.export_text()
    assert "23 of 23 evaluations, 1 diverged, 1 failed" in text
    assert "Pareto front of bits and KL divergence from float32, nats" in text
    for word in ("stochastic:8", "m3", "e4", "int8"):
        assert word in text


# --- a folder, and its server ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def spirals():
    """A real study: two formats of the spiral subject, one with two seeds."""
    table = {
        "subject": "tests.own_subject:subject",
        "name": "spirals",
        "axes": {"formats": ["e4m3", "e2m1"], "roundings": ["ties_to_even", "stochastic:4"],
                 "seeds": [0, 1]},
    }  # fmt: skip
    work = Work(Study.of(table))
    return work.manifest(), [each for part in found(work, work.evaluations) for each in part]


@pytest.fixture
def folder(tmp_path, spirals):
    manifest, results = spirals
    with Database.create(tmp_path / "study", manifest) as database:
        database.add(results[:2], {"jax": "1", "xla_flags": ""})
    return tmp_path / "study"


def test_the_page_of_a_folder(folder, spirals):
    manifest, results = page_of(folder)
    assert [result.key for result in results] == [result.key for result in spirals[1][:2]]
    assert manifest["conditions"] == {"jax": "1", "xla_flags": "none"}
    data = data_of(manifest, results)
    assert data["progress"]["found"] == 2 and data["progress"]["total"] == 6
    assert data["comparisons"]["kl"][0]["baseline"] == -1
    # the mean over examples is the measure that the study computed on its own
    for each, result in zip(data["configurations"], results, strict=True):
        at = list(data["measures"]).index("kl")
        low, high = each["intervals"][at]
        assert low <= result.measures["kl"] <= high


def test_mixed_conditions_are_told(folder, spirals):
    with Database.open(folder, write=True) as database:
        database.add(spirals[1][2:3], {"jax": "2", "xla_flags": ""})
    assert page_of(folder)[0]["conditions"] == {"jax": "1 or 2", "xla_flags": "none"}


@contextmanager
def serving(folder):
    with server_of(folder) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def ask(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_the_server_answers_two_addresses(folder):
    with serving(folder) as port:
        answer, body = ask(port, "/")
        assert answer.status == 200 and b"data-live" in body
        assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Python" not in answer.headers["Server"]
        assert ask(port, "/", "HEAD")[1] == b""
        for path in ("/index.html", "/?a", "/data.json", "/data.json?since=/", "/../manifest.json",
                     "/data.json?since=&a"):  # fmt: skip
            assert ask(port, path)[0].status == 404, path
        assert ask(port, "/", "POST")[0].status == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:PORT", "127.0.0.1", ""])
def test_the_server_answers_to_its_own_name_alone(folder, host):
    with serving(folder) as port:
        answer, body = ask(port, "/data.json?since=", Host=host.replace("PORT", str(port)))
        assert answer.status == 403 and b"e4m3" not in body
        assert ask(port, "/data.json?since=", Host=f"localhost:{port}")[0].status == 200


def test_the_server_has_news_when_there_are_some(folder, spirals, monkeypatch):
    monkeypatch.setattr("qsim.report.server.REST", 0)
    with serving(folder) as port:
        first = json.loads(ask(port, "/data.json?since=")[1])
        assert first["data"]["progress"]["found"] == 2
        since = f"/data.json?since={first['version']}"
        assert json.loads(ask(port, since)[1]) == {"version": first["version"]}
        with Database.open(folder, write=True) as database:
            database.add(spirals[1][2:], {"jax": "1", "xla_flags": ""})
        news = json.loads(ask(port, since)[1])
        assert news["data"]["progress"]["found"] == 6 and news["version"] != first["version"]
        (folder / "manifest.json").unlink()
        assert ask(port, f"/data.json?since={news['version']}")[0].status == 503


def test_a_port_that_is_taken(folder, tmp_path):
    with server_of(folder) as server, pytest.raises(ValueError, match="cannot serve at port"):
        server_of(folder, server.server_address[1])
    with pytest.raises(ValueError, match="holds no study"):
        server_of(tmp_path / "nothing")
