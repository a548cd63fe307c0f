"""``lightning-pbrl labels``: answers into a store and out of it, and who gave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from synthetic import synthetic_transitions

from lightning_pbrl.cli import main
from lightning_pbrl.data.feedback import Answer, AskKey, Query, Status
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions
from lightning_pbrl.labelling.desk import Desk
from lightning_pbrl.labelling.interface import Key

WHO = {"strategy": {"class": "UniformQuery"}, "teacher": {"class": "Person"}, "seed": 0}


@pytest.fixture
def data() -> Transitions:
    return synthetic_transitions()


@pytest.fixture
def store(tmp_path: Path, data: Transitions) -> Path:
    """Four answers of Ada (second, first, equal, skipped), one of Bob, an open question, and a rating of another run."""
    path = tmp_path / "run" / "labels.sqlite"
    store = LabelStore(path, data.fingerprint)
    start = torch.tensor([[n, n + 6] for n in range(4)])
    nan = float("nan")
    ada = Answer(torch.tensor([1.0, 0.0, 0.5, nan]), torch.tensor([1, 1, 2, 3]))
    store.put(AskKey("a", 0, 0), Query("pair", start, 5), ada, answered_by="Ada", **WHO)
    bob = Answer(torch.tensor([1.0]), torch.tensor([1]))
    store.put(AskKey("a", 1, 4), Query("pair", torch.tensor([[4, 10]]), 5), bob, answered_by="[red]Bob\n", **WHO)
    open_ = Answer(torch.tensor([nan]), torch.tensor([0]))
    store.put(AskKey("a", 1, 5), Query("pair", torch.tensor([[5, 11]]), 5), open_, answered_by="Person", **WHO)
    store.put(
        AskKey("b", 0, 0),
        Query("rating", torch.tensor([[5]]), 5),
        Answer(torch.tensor([7.0]), torch.tensor([1])),
        answered_by="Ada",
        **WHO,
    )
    return path


def labels(capsys: pytest.CaptureFixture, *args: object) -> str:
    main(["labels", *map(str, args)])
    return str(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture, *args: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["labels", *map(str, args)])
    assert ended.value.code == 2
    return str(capsys.readouterr().err)


@pytest.mark.parametrize("ending", ["jsonl", "csv", "json", "potato.jsonl"])
def test_out_and_in(store: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture) -> None:
    file, copy = tmp_path / f"x.{ending}", tmp_path / "copy.sqlite"
    assert labels(capsys, "export", store.parent, file) == f"wrote {file} from 7 questions\n"
    assert labels(capsys, "import", copy, file) == f"read 6 answers to 7 questions, 7 of them new in {copy}\n"
    assert labels(capsys, "import", copy, file) == f"read 6 answers to 7 questions, 0 of them new in {copy}\n"
    for path in (store, copy):
        labels(capsys, "export", path, path.with_suffix(".jsonl"))
    one, two = (path.with_suffix(".jsonl").read_text() for path in (store, copy))
    assert one == two


def test_open_questions_go_out_and_answers_come_back(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "tasks.json"
    assert labels(capsys, "export", store, file, "--open", "--media", "clips/").endswith("from 1 questions\n")
    (task,) = json.loads(file.read_text())
    assert task["data"]["clip_0"] == "clips/a/1/5/0.mp4" and task["annotations"] == []
    pairwise = {"type": "pairwise", "value": {"selected": "right"}}
    task["annotations"] = [{"completed_by": 10, "result": [pairwise], "created_at": "2026-03-09T22:16:08Z", "lead_time": 4.5}]
    file.write_text(json.dumps([task]))
    assert "read 1 answers to 1 questions, 0 of them new" in labels(capsys, "import", store, file)
    record = LabelStore(store, synthetic_transitions().fingerprint).records()[5]
    assert (record["value"], record["status"], record["answered_by"]) == (1.0, 1, "label_studio:10")
    (tmp_path / "p.jsonl").write_text(json.dumps({"instance_id": "a/1/5", "user_id": "Eve", "labels": {"p": {"selection": "A"}}}))
    message = refused(capsys, "import", store, tmp_path / "p.jsonl", "--format", "potato")
    assert "has the answer 1 of label_studio:10 and is now answered 0 by Eve" in message


def test_show(store: Path, capsys: pytest.CaptureFixture) -> None:
    out = labels(capsys, "show", store)
    rows = [line.split() for line in out.splitlines()]
    assert ["a", "pair", "6", "3", "1", "1", "1"] in rows and ["b", "rating", "1", "1", "0", "0", "0"] in rows
    assert ["Ada", "a", "4", "25%", "25%", "50%", "-", "-"] in rows and ["Ada", "b", "1", "0%", "0%", "-", "-", "-"] in rows
    assert ["[red]Bob\\n", "a", "1", "0%", "0%", "0%", "-", "-"] in rows
    assert "Ada" in labels(capsys, "show", store, "--run", "b") and "Bob" not in labels(capsys, "show", store, "--run", "b")


def test_formats_that_need_data(store: Path, data: Transitions, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tmp_path / "data.yaml"
    config.write_text("data: {class_path: lightning_pbrl.testing.toys.ToyData, init_args: {episodes: 20}}\n")
    from lightning_pbrl.testing.toys import ToyData

    toy = ToyData(episodes=20)
    toy.setup("fit")
    same = tmp_path / "toy.sqlite"
    answered = Answer(torch.tensor([1.0, 0.5]), torch.tensor([1, 2]))
    pairs = Query("pair", torch.tensor([[0, 6], [1, 7]]), 5)
    LabelStore(same, toy.source.fingerprint).put(AskKey("a", 0, 0), pairs, answered, answered_by="Ada", **WHO)
    assert "name the data that were asked about, with -c DATA.yaml" in refused(capsys, "export", same, tmp_path / "x.npz")
    labels(capsys, "export", same, tmp_path / "x.npz", "-c", config)
    out = labels(capsys, "import", tmp_path / "new.sqlite", tmp_path / "x.npz", "--run", "them")
    assert out == f"read 2 answers to 2 questions, 2 of them new in {tmp_path}/new.sqlite\n"
    labels(capsys, "export", same, tmp_path / "toy_human_labels", "-c", config)
    labels(capsys, "import", same, tmp_path / "toy_human_labels", "-c", config)
    starts = [
        (row["run"], row["start_0"], row["start_1"], row["value"]) for row in LabelStore(same, toy.source.fingerprint).records()
    ]
    assert starts == [("a", 0, 6, 1.0), ("a", 1, 7, 0.5), ("imported", 0, 6, 1.0), ("imported", 1, 7, 0.5)]
    assert "(fingerprint mismatch)" not in labels(capsys, "show", same)
    message = refused(capsys, "import", store, tmp_path / "x.npz")
    assert "pair 0 is about the data set" in message and "nothing was imported" in message


def test_two_persons_who_differ(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file, copy = tmp_path / "x.jsonl", tmp_path / "copy.sqlite"
    labels(capsys, "export", store, file)
    line = json.loads(file.read_text().splitlines()[0])

    def given(**value_of: float) -> None:
        told = [line | {"answered_by": who, "value": value, "seconds": 2.0} for who, value in value_of.items()]
        file.write_text("\n".join(map(json.dumps, told)))

    def stored() -> tuple[float, int, str]:
        (row,) = LabelStore(copy, line["fingerprint"]).records()
        return row["value"], row["status"], row["answered_by"]

    given(Ada=1, Bob=1)
    assert labels(capsys, "import", copy, file).startswith("read 2 answers to 1 questions, 1 of them new")
    assert stored() == (1.0, 1, "Ada, Bob")
    given(Ada=1, Bob=1, Cy=0, Dan=0)
    for _ in range(2):  # reading a file again changes nothing
        assert labels(capsys, "import", copy, file).startswith("read 4 answers to 1 questions, 0 of them new")
        assert stored() == (0.5, 2, "Ada, Bob, Cy, Dan") and len(Desk(copy).answers()) == 4
    given(Ada=1, Eve=0, Bob=0)
    said = refused(capsys, "import", copy, file)
    assert "Question a/0/0 in" in said and "has the answer 1 of Bob and is now answered 0 by Bob" in said
    assert len(Desk(copy).answers()) == 4 and stored() == (0.5, 2, "Ada, Bob, Cy, Dan")  # nothing of the file, Eve neither


def test_a_label_that_came_alone_is_one_of_several_answers(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "x.jsonl"
    labels(capsys, "export", store, file)
    line = json.loads(file.read_text().splitlines()[0])  # Ada says 1
    told = [line | {"answered_by": who, "value": 0} for who in ("Bob", "Cy")]
    file.write_text("\n".join(map(json.dumps, told)))
    labels(capsys, "import", store, file)
    assert {(row["person"], row["value"]) for row in Desk(store).answers()} == {("Ada", 1.0), ("Bob", 0.0), ("Cy", 0.0)}
    row = LabelStore(store, line["fingerprint"]).records()[0]
    assert (row["value"], row["status"]) == (0.0, 1)


def test_as_many_as_the_run_asks_for(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (store.parent / "config.yaml").write_text("ask: {teacher: {class_path: HumanTeacher, init_args: {overlap: 3}}}\n")
    file = tmp_path / "x.jsonl"
    labels(capsys, "export", store, file)
    line = next(line for line in map(json.loads, file.read_text().splitlines()) if line["status"] == "pending")
    for people, expected in (("AB", None), ("ABC", 0.0)):
        told = [line | {"answered_by": who, "value": 0, "status": "answered"} for who in people]
        file.write_text("\n".join(map(json.dumps, told)))
        labels(capsys, "import", store, file)
        assert LabelStore(store, line["fingerprint"]).records()[5]["value"] == expected


def test_answers_of_an_expert(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Whoever is named in the file: they are Gina's, stand against what Ada and Bob say, and serve as practice and checks."""
    file, copy, gold = tmp_path / "x.jsonl", tmp_path / "copy.sqlite", {"gold": "Gina", "practice": 2}
    labels(capsys, "export", store, file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    nothing = {"value": None, "status": "pending", "answered_by": "HumanTeacher"}
    file.write_text("\n".join(json.dumps(line | nothing) for line in lines))
    labels(capsys, "import", copy, file)
    for name in ("Ada", "Bob"):
        Desk(copy).answer(name, Key("a", 0, 0), 0.0, Status.ANSWERED)
    file.write_text("\n".join(map(json.dumps, lines)))
    assert "has the answer 0 of Ada, Bob and is now answered 1 by Ada" in refused(capsys, "import", copy, file)
    for _ in range(2):  # reading it again changes nothing
        assert "read 6 answers to 7 questions, 0 of them new" in labels(capsys, "import", copy, file, "--gold", "Gina")
        records = LabelStore(copy, lines[0]["fingerprint"]).records()
        assert [row["value"] for row in records] == [1.0, 0.0, 0.5, None, 1.0, None, 7.0]
        assert [row["answered_by"] for row in records] == ["Gina"] * 5 + ["HumanTeacher", "Gina"]
        assert [row["person"] for row in Desk(copy).answers()] == ["Ada", "Bob", *["Gina"] * 6]
    first = Desk(copy, **gold).next("Cy", 3)
    assert [(each.key.number, each.purpose) for each in first[:2]] == [(0, "practice"), (1, "practice")]
    assert first[0].expected == (1.0, Status.ANSWERED)
    said = [line | {"answered_by": who} for line in lines[:1] for who in ("Ada", "Bob")]
    file.write_text("\n".join(map(json.dumps, said)))
    assert "Question a/0/0 has 2 answers, and an expert gives one" in refused(capsys, "import", copy, file, "--gold", "Gina")
    assert "The gold person has no name" in refused(capsys, "import", copy, file, "--gold", " ")


@pytest.mark.parametrize("ending", ["jsonl", "csv", "potato.jsonl"])
def test_several_persons_with_revisions_out_and_in(
    store: Path, tmp_path: Path, ending: str, capsys: pytest.CaptureFixture
) -> None:
    """Answers of the page come back with seconds, strength, side and revisions, and so do labels and their outcomes."""
    desk = Desk(store, overlap=2)
    key = Key("a", 1, 5)
    desk.answer("Ada", key, 1.0, Status.ANSWERED, seconds=2.5, strength=1.0)
    desk.answer("Bob", key, 0.5, Status.EQUAL, seconds=1.0)
    desk.answer("Ada", key, 0.0, Status.ANSWERED, seconds=0.5, strength=0.5, revision=1)
    file, copy, again = tmp_path / f"x.{ending}", tmp_path / "copy.sqlite", tmp_path / f"y.{ending}"
    labels(capsys, "export", store, file)
    for target in (copy, store):  # into a new store, and into itself
        assert "read 9 answers to 7 questions" in labels(capsys, "import", target, file)
        labels(capsys, "export", target, again)
        assert again.read_text() == file.read_text()
        answers = [{name: value for name, value in row.items() if name != "id"} for row in Desk(target).answers()]
        assert answers == [{name: value for name, value in row.items() if name != "id"} for row in desk.answers()]
    one, two = (LabelStore(path, synthetic_transitions().fingerprint).records() for path in (store, copy))
    assert [(row["value"], row["status"]) for row in one] == [(row["value"], row["status"]) for row in two]
    assert (one[5]["value"], one[5]["status"]) == (0.5, Status.EQUAL)


def test_a_revision_without_the_one_before(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "x.jsonl"
    labels(capsys, "export", store, file)
    line = json.loads(file.read_text().splitlines()[5])
    file.write_text(json.dumps(line | {"answered_by": "Eve", "value": 1, "status": "answered", "revision": 1}))
    assert "has revision 1 of Eve without those before it: give all of them, in their order" in refused(
        capsys, "import", store, file
    )
    assert Desk(store).answers() == []


def test_formats_for_fewer_answers_take_the_newest(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    desk, key = Desk(store, overlap=2), Key("a", 1, 5)
    for revision, value in enumerate((1.0, 0.0)):
        desk.answer("Ada", key, value, Status.ANSWERED, revision=revision)
    desk.answer("Bob", key, 1.0, Status.ANSWERED)
    labels(capsys, "export", store, tmp_path / "x.json")
    task = json.loads((tmp_path / "x.json").read_text())[5]
    assert [each["completed_by"]["email"] for each in task["annotations"]] == ["Ada", "Bob"]
    assert [each["result"][0]["value"] for each in task["annotations"]] == [{"selected": "left"}, {"selected": "right"}]
    labels(capsys, "import", tmp_path / "copy.sqlite", tmp_path / "x.json")
    row = LabelStore(tmp_path / "copy.sqlite", synthetic_transitions().fingerprint).records()[5]
    assert (row["value"], row["status"], row["answered_by"]) == (0.5, Status.EQUAL, "Ada, Bob")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["show", "nowhere.sqlite"], "There is no label store nowhere.sqlite: check the path"),
        (["export", "nowhere.sqlite", "x.csv"], "There is no label store nowhere.sqlite"),
        (["show", "."], "The folder . has no labels.sqlite: name the run folder of a fit that asked"),
        (["import", "a.sqlite", "none.csv"], "There is no file none.csv: check the path"),
        (["import", "a.sqlite", "x.txt"], "x.txt does not tell its format"),
        (["import", "a.sqlite", "x.csv", "--format", "xls"], "invalid choice: 'xls'"),
        (["look", "a.sqlite"], "invalid choice: 'look'"),
        ([], "the following arguments are required"),
    ],
)
def test_mistakes(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *args)
    assert list(tmp_path.iterdir()) == []
