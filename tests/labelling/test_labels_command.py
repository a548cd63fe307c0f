"""``lightning-pbrl labels``: answers into a store and out of it, and who gave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from synthetic import synthetic_transitions

from lightning_pbrl.cli import main
from lightning_pbrl.data.feedback import Answer, AskKey, Query
from lightning_pbrl.data.store import LabelStore
from lightning_pbrl.data.transitions import Transitions

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
    file.write_text("\n".join(json.dumps(line | {"answered_by": who, "value": value}) for who, value in (("Ada", 1), ("Bob", 1))))
    assert labels(capsys, "import", copy, file).startswith("read 2 answers to 1 questions, 1 of them new")
    file.write_text("\n".join(json.dumps(line | {"answered_by": who, "value": value}) for who, value in (("Ada", 1), ("Bob", 0))))
    assert "Question a/0/0 has different answers of Ada and Bob" in refused(capsys, "import", tmp_path / "b.sqlite", file)
    assert not (tmp_path / "b.sqlite").exists() or not LabelStore(tmp_path / "b.sqlite", "x").count


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
