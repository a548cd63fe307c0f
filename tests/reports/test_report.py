"""The page of `lightning-pbrl report`: numbers by hand, what is left out, texts that are no markup, nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from run_folders import write_policy_run

from lightning_pbrl.cli import main
from lightning_pbrl.errors import UserError
from lightning_pbrl.reports import report_figures
from lightning_pbrl.reports.page import Html, document, el
from lightning_pbrl.reports.report import write_report
from lightning_pbrl.reports.report_figures import Picture
from lightning_pbrl.reports.run_facts import command, compared, task_of, without_secrets

VOID = {"img", "source", "meta"}


class Page(HTMLParser):
    """Tags with attributes, the text of every element, and the rows of every table."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(path.read_text())
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """The first row that begins so."""
        return next(row for row in self.rows if row and row[0] == first)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def config(run: Path, **settings: object) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump(settings))


def store(path: Path, rows: Sequence[tuple[str, str, str, str, int]]) -> None:
    """A label store with these (run, kind, strategy, teacher, status)."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE pbrl_questions (run, kind, strategy, teacher, status)")
        db.executemany("INSERT INTO pbrl_questions VALUES (?, ?, ?, ?, ?)", rows)
    db.close()


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures hold nothing: painting takes longer than all the rest."""
    monkeypatch.setattr(report_figures, "_drawn", lambda draw, text, height=0: Picture("data:,", "data:,dark", text))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two stages of five seeds, one run that failed, one that was pruned, one that is not finished."""
    for stage, tested in (("bc", (0.0, 0.1, 0.2, 0.3, 1.0)), ("learned", (0.3, 0.5, 0.6, 0.7, 0.9))):
        for seed, value in enumerate(tested):
            run = write_policy_run(tmp_path / "demo" / stage / f"seed{seed}", [0.0, value], tested=value)
            model = {"class_path": stage.upper(), "init_args": {"lr": 0.001, "hidden": [64, 64]}}
            config(run, seed_everything=seed, run_dir=str(run), model=model, data={"init_args": {"task": "hammer"}})
            (run / "done.json").write_text('{"digest": "settings-1"}')
    for seed, name in ((5, "failed.json"), (6, "pruned.json"), (7, "started.json")):
        run = write_policy_run(tmp_path / "demo" / "learned" / f"seed{seed}", [0.0, 0.0], tested=0.0)
        (run / name).write_text('{"exit_code": 2}')
    return tmp_path / "demo"


@pytest.mark.usefixtures("unpainted")
def test_numbers_of_a_page(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    main(["report", "demo", "--metric", "success_rate"])
    assert capsys.readouterr().out == "wrote report.html\n"
    page = Page(tmp_path / "report.html")
    assert page.rows[0] == ["stage", "seeds", "mean ± sd", "IQM", "95 % interval", "P(above stage bc)", "95 % interval"]
    # sd of bc: sqrt((.32² + .22² + .12² + .02² + .68²) / 4); IQM without the lowest and highest of five
    assert page.row("bc")[:4] == ["bc", "5", "0.320 ± 0.396", "0.200"]
    assert page.row("bc")[5:] == ["baseline", ""]
    # learned above bc: .3 beats 3 and ties 1, .5, .6, .7, .9 beat 4: 19.5 of 25
    assert page.row("learned")[:4] == ["learned", "5", "0.600 ± 0.224", "0.600"]
    assert page.row("learned")[5] == "0.78"
    assert page.row("model.class_path") == ["model.class_path", "BC", "LEARNED"]
    assert page.row("model.init_args.lr") == ["model.init_args.lr", "0.001"]  # in common
    assert not any(row and row[0] in ("run_dir", "seed_everything") for row in page.rows)
    assert page.row("learned/seed5") == ["learned/seed5", "failed, exit code 2"]
    assert page.row("learned/seed6") == ["learned/seed6", "ended early by a search (pruned)"]
    assert page.row("learned/seed7") == ["learned/seed7", "not finished"]
    assert "Task: hammer." in page.text


@pytest.mark.usefixtures("unpainted")
def test_the_baseline_that_was_chosen(study: Path, tmp_path: Path) -> None:
    page = Page(write_report([study], tmp_path / "x.html", "success_rate", "learned"))
    assert page.row("bc")[5] == "0.22"  # 1 - 0.78
    assert page.row("learned")[5] == "baseline"
    with pytest.raises(UserError, match=r"has a value of eval/succes_rate yet; .*: did you mean eval/success_rate"):
        write_report([study], tmp_path / "x.html", "eval/succes_rate")
    with pytest.raises(UserError, match=r"There is no stage 'lerned' to compare with: did you mean learned\?"):
        write_report([study], tmp_path / "x.html", baseline="lerned")


def test_pictures_are_named_and_lie_in_the_page(study: Path, tmp_path: Path) -> None:
    page = Page(write_report([study], tmp_path / "x.html", "success_rate"))
    images = page.named("img")
    assert len(images) == 3  # intervals, profile, learning curve
    assert images[0]["alt"].startswith("Interquartile means of success_rate with 95 % intervals: bc 0.200 [")
    # above the median of all ten values, 0.4: one of bc, four of learned
    assert images[1]["alt"] == "Performance profiles of success_rate. Share of runs above 0.400: bc 20%; learned 80%."
    assert images[2]["alt"].endswith("bc ends at 0.320, learned ends at 0.600.")
    for picture in [image["src"] for image in images] + [source["srcset"] for source in page.named("source")]:
        assert picture.startswith("data:image/svg+xml;base64,")
        assert b"<svg" in base64.b64decode(picture.partition(",")[2])
    (policy,) = [meta["content"] for meta in page.named("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    style = re.search(r"<style>(.*?)</style>", (tmp_path / "x.html").read_text(), re.S)[1]
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:;")
    assert all(table["scope"] in ("col", "row") for table in page.named("th"))


@pytest.mark.usefixtures("unpainted")
def test_texts_are_no_markup(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>"
    for stage in (bad, "b'\"&c"):
        for seed in (0, 1):
            run = write_policy_run(tmp_path / "s" / stage / f"seed{seed}", [0.1, 0.5], tested=0.5)
            config(run, model={"class_path": f"</style><script>{stage}"}, data={"init_args": {"task": "<b>task"}})
    store(run / "labels.sqlite", [("r", "<i>kind", json.dumps({"class": bad}), json.dumps({"class": "T", "a": bad}), 1)])
    (tmp_path / "s" / "experiment.json").write_text(json.dumps({"command": "run </code><script>x"}))
    page = Page(write_report([tmp_path / "s"], tmp_path / "x.html"))
    assert {"script", "b", "i"}.isdisjoint(tag for tag, _ in page.tags)
    assert all(image["src"].startswith("data:") and "onerror" not in image for image in page.named("img"))
    assert "run </code><script>x" in page.text
    assert "Task: <b>task." in page.text
    assert page.row("model.class_path")[1] in (f"</style><script>{bad}", "</style><script>b'\"&c")
    assert ["b'\"&c", "<i>kind", bad, f"T (a {bad})", "1", "0", "0", "0", "1"] in page.rows


def test_elements() -> None:
    assert el("p", "<a>", Html("<b></b>"), None, class_='x"y', hidden="", aria_label=None) == (
        '<p class="x&quot;y" hidden>&lt;a&gt;<b></b></p>'
    )
    assert "<title>a&lt;b</title>" in document("a<b")


@pytest.mark.usefixtures("unpainted")
def test_runs_without_the_metric(study: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        write_report([study], tmp_path / "x.html", "normalized_score")
    assert str(error.value) == (
        "None of these runs has a value of normalized_score yet; evaluate or test them, or name another --metric: "
        "known: eval/return_mean, eval/success_rate, labels, train/q_loss."
    )
    with pytest.raises(UserError, match=r"A report is an \.html file, not x\.pdf: name it so with --out\."):
        write_report([study], tmp_path / "x.pdf")
    run = write_policy_run(tmp_path / "only" / "bc" / "seed0", [0.0, 0.5])
    (run / "started.json").write_text("{}")
    with pytest.raises(UserError, match=r"None of the 1 runs below .*only has finished \(not finished\): run them first\."):
        write_report([tmp_path / "only"], tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


@pytest.mark.usefixtures("unpainted")
def test_questions_films_and_versions(tmp_path: Path) -> None:
    top = tmp_path / "a b#c"
    uniform, teacher = json.dumps({"class": "UniformQuery"}), json.dumps({"class": "SkipTeacher", "eps": 0.5})
    for stage, film in (("one", b"small"), ("two", bytes(1_000_001))):
        run = write_policy_run(top / stage / "seed0", [0.0, 0.5], tested=0.5)
        (run / "video.mp4").write_bytes(film)
        rows = [("seed0", "pair", uniform, teacher, status) for status in (1, 1, 2, 3, 0)]
        store(run / "labels.sqlite", rows if stage == "one" else [*rows, ("other", "pair", uniform, teacher, 1)])
    config(top / "two/seed0", ask={"store": str(top / "two/seed0/labels.sqlite")})  # shared: rows of this run alone
    results = {"metrics": {"test/success_rate": 0.5}, "versions": {"torch": "2.0"}}
    (top / "one/seed0/results.json").write_text(json.dumps(results))
    (top / "two/seed0/results.json").write_text(json.dumps({**results, "versions": {"torch": "2.1"}}))
    page = Page(write_report([top], tmp_path / "x.html"))
    asked = ["pair", "UniformQuery", "SkipTeacher (eps 0.5)", "2", "1", "1", "1", "5"]
    assert ["one", *asked] in page.rows
    assert ["two", *asked] in page.rows
    (film,) = page.named("video")
    assert film["src"] == f"data:video/mp4;base64,{base64.b64encode(b'small').decode()}"
    assert "controls" in film
    assert "a%20b%23c/two/seed0/video.mp4" in [link["href"] for link in page.named("a")]
    assert page.row("torch") == ["torch", "2.0, 2.1"]
    assert "Not all runs were tested with the same torch." in page.text
    (top / "one/seed0/labels.sqlite").write_bytes(b"not a database at all")
    page = Page(write_report([top], tmp_path / "x.html"))
    assert "seed0/labels.sqlite cannot be read (file is not a database)." in page.text


@pytest.mark.usefixtures("unpainted")
def test_tasks_have_tables_of_their_own(tmp_path: Path) -> None:
    for task in ("hammer", "door"):
        for stage, value in (("bc", 0.1), ("iql", 0.9)):
            for seed in (0, 1) if task == "door" else (0,):
                run = write_policy_run(tmp_path / "s" / task / stage / f"seed{seed}", [0.0, value], tested=value)
                config(run, data={"init_args": {"task": task}})
    page = Page(write_report([tmp_path / "s"], tmp_path / "x.html", "success_rate"))
    door, hammer = [row for row in page.rows if row[0] == "stage"][:2]
    assert door[5] == "P(above stage door/bc)"
    assert len(hammer) == 5  # one seed each: nothing to compare
    assert page.row("door/iql")[5:] == ["1.00", "[1.00, 1.00]"]
    assert "One seed shows no spread, so there is no interval for hammer/bc, hammer/iql." in page.text


def test_facts(tmp_path: Path) -> None:
    assert without_secrets("postgresql+psycopg://me:s3cret@host/db") == "postgresql+psycopg://me:***@host/db"
    differing, partial, common = compared({"a": {"x": "1", "y": "2", "z": "3"}, "b": {"x": "1", "y": "5"}, "none": {}})
    assert (differing, partial, common) == ({"y": ["2", "5", ""]}, {"z": ["3", "", ""]}, {"x": "1"})
    inner = {"class_path": "lightning_pbrl.envs.fetch.Fetch", "init_args": {"task": "reach"}}
    outer = {"class_path": "lightning_pbrl.envs.pixels.Pixels", "init_args": {"simulator": inner}}
    config(tmp_path, data={"init_args": {"simulator": outer}})
    assert task_of(tmp_path) == "Fetch reach"
    (tmp_path / "config.yaml").unlink()
    simulator = {"simulator": "Pixels", "of": {"simulator": "Fetch", "task": "push"}}
    (tmp_path / "results.json").write_text(json.dumps({"metrics": {}, "simulator": simulator}))
    assert task_of(tmp_path) == "Fetch push"
    run = tmp_path / "study" / "stage" / "seed0"
    config(run)
    assert command(run) == f"lightning-pbrl fit -c {run}/config.yaml --run_dir NEW"
    (tmp_path / "study" / "sweep.json").write_text('{"command": "lightning-pbrl sweep mine.yaml"}')
    assert command(run) == "lightning-pbrl sweep mine.yaml"


@pytest.mark.browser
@pytest.mark.slow
def test_in_a_browser(study: Path, tmp_path: Path) -> None:
    """Wide and narrow, light and dark: all pictures are seen, nothing is loaded or refused, nothing hangs over the edge."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is installed by .ci/run")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is installed by .ci/run")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed")
    path = write_report([study], tmp_path / "x.html", "success_rate")
    loaded, faults = list[str](), list[str]()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=[] if os.getuid() else ["--no-sandbox"])
        for width, scheme in ((1180, "light"), (390, "dark")):
            page = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme).new_page()
            page.on("console", lambda said: faults.append(said.text))
            page.on("request", lambda asked: loaded.append(asked.url) if not asked.url.startswith("data:") else None)
            page.goto(path.as_uri())
            page.wait_for_function("[...document.images].every(each => each.complete)")
            assert page.evaluate("[...document.images].every(each => each.naturalWidth > 100)")
            dark = page.evaluate("document.images[0].currentSrc !== document.images[0].src")
            assert dark == (scheme == "dark")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert page.evaluate("getComputedStyle(document.querySelector('th')).position") == "sticky"  # the style is in force
            violations = axe.Axe().run(page).response["violations"]
            assert violations == [], [(each["id"], each["nodes"][0]["html"][:200]) for each in violations]
        browser.close()
    assert loaded == [path.as_uri()] * 2
    assert faults == []
