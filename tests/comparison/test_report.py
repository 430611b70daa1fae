"""The pages hold every figure, load nothing, run nothing, and do with what there is."""

import base64
import copy
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pushforward.artefacts import write_json, write_picture, write_yaml
from pushforward.comparison.ranking import leading
from pushforward.comparison.report import write_comparison, write_report
from pushforward.data.spec import Column, Condition, DataSpec
from pushforward.errors import UserError

EVIL = "<script>alert('x')</script>\"><img src=http://evil>"


def measure(name, value, low=None, high=None, floor=None, **more):
    empty = dict(floor_low=None, floor_high=None, unit="", better="", kind=None, n=180, protocol="how", group="fidelity")
    return {**empty, **more, "name": name, "value": value, "low": low, "high": high, "floor": floor}


METRICS = {
    "measures": [
        measure("KID", 0.0123, 0.0101, 0.0143, 0.0002, floor_low=-0.0011, floor_high=0.0015, unit="MMD^2", better="lower"),
        measure("coverage", 0.931, 0.911, 0.952, 0.957, floor_low=0.936, floor_high=0.971, unit="share", better="higher"),
        measure("told from real (C2ST)", 0.613, 0.571, 0.654, 0.501, better="near 0.5", group="two-sample"),
        measure("bits per dimension", 1.234, 1.201, 1.277, kind="bound", better="lower", group="likelihood"),
        measure("parameters", 1234567.0, unit="numbers", better="lower", group="cost", n=0, protocol=""),
    ],
    "protocol": {"seed": 0, "features": {"name": "PCA-32"}, "left_out": ["recall: too few data"], "notes": ["3 not finite"]},
    "findings": ["The samples <lack> much."],
}
FIGURES = ["0.0123", "0.0101", "0.0143", "0.0002", "-0.0011", "0.0015", "0.931", "0.911", "0.952", "0.957", "0.613"]
FIGURES += ["0.571", "1.234", "1.201", "1.277", "1,234,567"]
SPEC = DataSpec("image", (1, 8, 8), condition=Condition("class", 2, ("cat", "a dog")), levels=17, mode="L", name="digits")


def record(name: str = "flow-matching", spec: DataSpec = SPEC) -> dict:
    return {
        "format": 1,
        "version": "0.1.0",
        "model": {"name": name, "settings": {"width": 77}},
        "data": {
            "source": {"name": "digits"},
            "spec": spec.to_dict(),
            "counts": {"train": 1437, "test": 180},
            "notes": ["a note"],
        },
        "training": {"batch_size": 128, "seed": 3},
        "result": {"status": "finished", "steps": 2000, "examples": 256000, "seconds": 75.3},
        "environment": {"torch": "2.9", "device": "cpu", "hardware": {"cpu": "slow", "cores": 2}},
    }


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []  # every tag is closed

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not (self.open and self.open[-1] == "style"):
            self.text += data

    def loads_nothing(self) -> None:
        names = [tag for tag, _ in self.tags]
        assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(names)
        for _, attributes in self.tags:
            assert not any(key.startswith("on") or key in ("href", "srcset", "style") for key in attributes)
            assert attributes.get("src", "data:").startswith("data:")

    def images(self) -> list[bytes]:
        return [base64.b64decode(a["src"].split(",")[1]) for tag, a in self.tags if tag == "img"]


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "a run's"
    write_yaml(directory / "run.yaml", record())
    write_json(directory / "metrics.json", METRICS)
    (directory / "history.jsonl").write_text('{"step": 1, "model/loss": 2.0}\n{"step": 2, "model/loss": 1.0}\n{"st')
    for name in ("samples", "trajectory", "something_else"):
        write_picture(Image.new("RGB", (9, 9), "red"), directory / f"{name}.png")
    return directory


def test_a_whole_report(run):
    path = write_report(run)
    assert path == (run / "report.html").resolve()
    page = Page(path)
    page.loads_nothing()
    for text in (*FIGURES, "flow-matching on digits", "Lipman et al. 2023", "1 × 8 × 8", "17 (L)", "cat, a dog", "1,437 train"):
        assert text in page.text, text
    for text in (
        "2,000",
        "256,000",
        "1 min 15 s",
        "slow",
        "width = 77",
        "a note",
        "recall: too few data",
        "3 not finite",
        "PCA-32",
    ):
        assert text in page.text, text
    for text in ("↓ lower", "↑ higher", "near 0.5", "Bound: ", "MMD^2", "like real"):
        assert text in page.text, text
    assert page.text.index("What to look at") < page.text.index("The samples <lack> much.") < page.text.index("Measures")
    assert page.text.count("like real") == 1  # coverage's intervals meet, KID's do not; the legend says "Like real"
    assert f"pushforward sample '{str(run)[:-2]}'\"'\"'s' -n 64 --seed 7" in page.text  # quoted for a shell
    assert "--condition cat" in page.text
    pictures = page.images()
    titles = re.findall(r'alt="([^"]*)"', path.read_text())
    assert titles == ["samples", "trajectory", "training", "something else"]
    assert pictures[0] == (run / "samples.png").read_bytes()
    assert Image.open(io.BytesIO(pictures[2])).width > 500  # drawn from the history, as there was no picture


@pytest.mark.parametrize("kept", [(), ("run.yaml",), ("metrics.json",), ("history.jsonl",), ("samples.png",)])
def test_any_file_may_be_missing(run, kept):
    for path in list(run.iterdir()):
        if path.name not in kept:
            path.unlink()
    page = Page(write_report(run))
    page.loads_nothing()
    assert ("1,234,567" in page.text) == ("metrics.json" in kept)
    assert ("Nothing was measured yet" in page.text) == ("metrics.json" not in kept)
    assert len(page.images()) == (1 if kept in (("history.jsonl",), ("samples.png",)) else 0)
    assert ("flow-matching on digits" in page.text) == ("run.yaml" in kept)


def test_everything_is_escaped(tmp_path):
    columns = (Column(EVIL, "number"),)
    values = record(EVIL, DataSpec("table", (1,), Condition("class", 1, (EVIL,)), columns=columns, name=EVIL))
    values["data"]["notes"] = [EVIL]
    values["environment"][EVIL] = EVIL
    write_yaml(tmp_path / "run.yaml", values)
    found = copy.deepcopy(METRICS)
    found["measures"] = [measure(EVIL, 1.0, unit=EVIL, better=EVIL, kind=EVIL, protocol=EVIL, group=EVIL)] * 2
    found["protocol"] = {EVIL: EVIL, "left_out": [EVIL]}
    write_json(tmp_path / "metrics.json", found)
    write_picture(Image.new("L", (3, 3)), tmp_path / "<script>.png")
    page = Page(write_report(tmp_path))
    page.loads_nothing()
    assert EVIL in page.text
    rows = [
        {"name": EVIL, "directory": EVIL, "metrics": found, "samples": tmp_path / "<script>.png", "result": {"status": EVIL}}
    ]
    page = Page(write_comparison(tmp_path, rows))
    page.loads_nothing()
    assert EVIL in page.text


def test_broken_or_absent_things_are_sentences(run, tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        write_report(tmp_path / "nowhere")
    (run / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json"):
        write_report(run)
    (run / "metrics.json").write_text("[1, 2]")  # something else than it should be: shown as nothing
    (run / "run.yaml").write_text("- 1\n")
    assert "Nothing was measured yet" in Page(write_report(run)).text


def cell(value, reach, better, **more):
    return measure("m", value, value - reach, value + reach, better=better, **more)


def test_leading():
    assert leading([cell(1, 0.2, "lower"), cell(1.3, 0.2, "lower"), cell(3, 0.2, "lower")]) == {0, 1}
    assert leading([cell(1, 0.2, "higher"), None, cell(3, 0.2, "higher")]) == {2}
    # As far below a half as above it is as good; between them the data do not decide.
    assert leading([cell(0.4, 0.02, "near 0.5"), cell(0.6, 0.02, "near 0.5"), cell(0.9, 0.02, "near 0.5")]) == {0, 1}
    assert leading([cell(0.1, 0.01, "near the floor", floor=0.1), cell(0.0, 0.01, "near the floor", floor=0.1)]) == {0}
    assert leading([cell(1, 0.1, ""), cell(2, 0.1, "")]) == set()
    assert leading([cell(1, 0.1, "lower"), None]) == set()


def test_a_comparison(tmp_path):
    write_picture(Image.new("RGB", (9, 9), "red"), tmp_path / "samples.png")
    other = copy.deepcopy(METRICS)
    for m, value in zip(other["measures"], (0.05, 0.94, 0.62, 1.111, 99.0), strict=True):
        shift = value - m["value"]
        m["value"] = value
        m["low"], m["high"] = (None if m[end] is None else m[end] + shift for end in ("low", "high"))
    other["measures"][2]["n"] = 90
    other["measures"][3]["kind"] = "exact"
    rows = [
        {
            "name": "one",
            "directory": "runs/one",
            "metrics": METRICS,
            "samples": tmp_path / "samples.png",
            "result": {"seconds": 75},
        },
        {"name": "two", "directory": "runs/two", "metrics": other, "samples": None, "result": {"seconds": 5}},
        {"name": "none", "directory": "runs/none", "metrics": {}, "samples": tmp_path / "gone.png", "result": {}},
    ]
    path = write_comparison(tmp_path, rows)
    page, source = Page(path), path.read_text()
    page.loads_nothing()
    for text in (
        *FIGURES,
        "0.05",
        "0.94",
        "1.111",
        "99",
        "1 min 15 s",
        "5.0 s",
        "Left out: one: recall: too few data",
        "runs/none",
        "one: The samples <lack> much.",
    ):
        assert text in page.text, text
    # KID: one alone; coverage: both intervals meet; C2ST: measured differently; bits: a bound and an exact one never meet.
    assert re.findall(r'class="number best"><span class="figure">([^<]*)<', source) == ["0.0123", "0.931", "0.94", "99"]
    assert "bits per dimension (bound)" in page.text and "bits per dimension (exact)" in page.text
    assert page.text.count("not ranked") == 1
    assert len(page.images()) == 1


def test_the_pages_accept_a_real_evaluation(tmp_path):
    from pushforward.evaluation.records import Evaluation
    from pushforward.measures.measure import Measure

    floors = np.float64(0.5)
    found = Evaluation([Measure("FID", 12.5, 11.0, 14.0, floors, 0.4, 0.6, better="lower", group="fidelity")], {"left_out": []})
    found.save(tmp_path)
    assert "12.5" in Page(write_report(tmp_path)).text
    assert json.loads((tmp_path / "metrics.json").read_text()) == found.to_dict()
