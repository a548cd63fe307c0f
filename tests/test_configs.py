"""Configs by name: rows of a table of tasks, and the names that configs had before there were such tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import QUIET, mistake

from lightning_pbrl.cli import main
from lightning_pbrl.configs import SHIPPED, as_argument, merged, names, packaged_config, read_config, split_row, spread
from lightning_pbrl.errors import UserError
from lightning_pbrl.study.file import read_studies
from lightning_pbrl.study.plan import plan

pytestmark = QUIET

TABLE = """
data: {class_path: A, init_args: {root: "${oc.env:R,x}/${task}", size: 1e-3}}
tasks:
  near: {}
  far: {task: away, data.init_args.size: 2, data.init_args.also: {name: "${row}"}}
  farther: {data: {init_args: {size: 3}}}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "mine.yaml").write_text(TABLE)
    return tmp_path


def test_a_row_is_named_like_a_file(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table)
    root = "${oc.env:R,x}"
    wanted = {
        "near": {"root": f"{root}/near", "size": 0.001},
        "far": {"root": f"{root}/away", "size": 2, "also": {"name": "far"}},
        "farther": {"root": f"{root}/farther", "size": 3},
    }
    for row, settings in wanted.items():
        path = packaged_config(f"mine/{row}.yaml")
        assert split_row(Path(path)) == (Path("mine.yaml"), row)
        assert read_config(path) == {"data": {"class_path": "A", "init_args": settings}}
        assert yaml.safe_load(as_argument(path)) == read_config(path)
    (table / "mine").mkdir()
    (table / "mine/far.yaml").write_text("data: B\n")  # a file of that name comes first
    assert split_row(Path(packaged_config("mine/far.yaml"))) == (Path("mine/far.yaml"), None)
    assert as_argument("mine/far.yaml") == "mine/far.yaml"


def test_dotted_keys_are_mappings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The parser would lose a dotted key that stands before a mapping of its name."""
    nested = {"data": {"init_args": {"horizon": 30, "episodes": 6}}, "ask": {"budget": 5}}
    dotted = {"data.init_args.horizon": 30, "data": {"init_args": {"episodes": 6}}, "ask.budget": 4, "ask": {"budget": 5}}
    assert spread(dotted) == merged([dotted]) == nested
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(dotted, sort_keys=False))
    assert yaml.safe_load(as_argument(str(tmp_path / "own.yaml"))) == nested
    with pytest.raises(SystemExit):
        main(["fit", "-c", "data/metaworld.yaml", "-c", "model/bc.yaml", "-c", str(tmp_path / "own.yaml"), "--print_config"])
    assert yaml.safe_load(capfd.readouterr().out)["data"]["init_args"]["horizon"] == 30
    study = {"name": "s", "stages": {"one": {"config": ["model/bc.yaml"], "with": dotted}}, "data.init_args.size": [3]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    (read,) = read_studies(str(tmp_path / "study.yaml"))
    ((trial,),) = (plan(read, tmp_path),)
    assert trial.jobs[0].own == {**nested, "data": {"init_args": {"horizon": 30, "episodes": 6, "size": 3}}}


def test_rows_that_are_not_there(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table)
    with pytest.raises(UserError, match=r"There is no config file mine/fr.yaml"):
        packaged_config("mine/fr.yaml")
    with pytest.raises(UserError, match=r"mine.yaml has a row for each of near, far, farther: name one, such as mine/near.yaml"):
        as_argument("mine.yaml")
    with pytest.raises(UserError, match=r"no config file data/lire/hamer.yaml: did you mean data/lire/hammer.yaml"):
        packaged_config("data/lire/hamer.yaml")


def test_later_layers_win_key_by_key() -> None:
    layers: list[Any] = [{"a": {"b": 1, "c": [1]}}, {"a": {"c": [2]}, "d": {}}, {"d": 3}]
    assert merged(layers) == {"a": {"b": 1, "c": [2]}, "d": 3}
    assert layers[0] == {"a": {"b": 1, "c": [1]}}


def test_a_fit_takes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["fit", "-c", "data/comparisons/plate-slide.yaml", "-c", "model/ipl.yaml", "--print_config"])
    data = yaml.safe_load(capfd.readouterr().out)["data"]["init_args"]
    assert (data["task"], data["capacity"]) == ("plate-slide", 4000)
    sentence = mistake(capfd, "fit", "-c", "data/comparisons.yaml", "-c", "model/ipl.yaml")
    assert "has a row for each of assembly, button-press" in sentence


# Former names -----------------------------------------------------------------------------------------------------------

OLD = dict(line.split() for line in (Path(__file__).parent / "old_conf_paths.txt").read_text().splitlines())
"""Every config there was before tables of tasks -> a hash of what its study says, or of its data; "-" for the others."""


def fingerprint(name: str) -> str:
    """Hash jobs, folders and settings of a study, or a data config; of other configs only the names count."""
    kind = name.split("/")[0]
    if kind in ("experiment", "sweep"):
        (study,) = read_studies(name)
        jobs = [job for trial in plan(study, Path("runs") / study.name) for job in trial.jobs]
        said: Any = [study.name, study.report, [[job.label, str(job.folder), job.command, *_said(job)] for job in jobs]]
    elif kind == "data":
        said = read_config(packaged_config(name))
    else:
        return "-" if Path(packaged_config(name)).is_file() else "missing"
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=8).hexdigest()


def _said(job: Any) -> Iterator[Any]:
    files = [str(Path(file).relative_to(SHIPPED)) for file in job.files]
    yield [file for file in files if not file.startswith("data/")]
    yield merged([*(read_config(SHIPPED / file) for file in files if file.startswith("data/")), job.own])
    yield [needed.label for needed in job.after]


@pytest.mark.parametrize("kind", sorted({name.split("/")[0] for name in OLD}))
def test_every_former_name_means_what_it_meant(kind: str) -> None:
    """After a change of what a study says, put its new hash into the file."""
    wanted = {name: said for name, said in OLD.items() if name.split("/")[0] == kind}
    assert {name: fingerprint(name) for name in wanted} == wanted


def test_all_former_names_are_held() -> None:
    assert len(OLD) == 455
    assert sum(name.startswith("experiment/") for name in OLD) == 252


def test_conf_stays_small() -> None:
    files = list(SHIPPED.rglob("*.yaml"))
    assert len(files) <= 240
    assert sum(len(path.read_text().splitlines()) for path in files) <= 3800
    assert len(names()) > len(files)


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("experiment/clarify/box-close.yaml", "experiment/clarify.yaml --task box-close"),
        ("conf/experiment/qpa/fast-walker-walk.yaml", "experiment/qpa/fast.yaml --task walker-walk"),
        ("experiment/lire/walker-walk.yaml", "experiment/lire/rewards.yaml --task walker-walk"),
    ],
)
def test_a_former_name_is_told_once(old: str, now: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (study,) = read_studies(old)
    assert capfd.readouterr().err == f"{old} has moved: write {now}; the former name works until the next version.\n"
    file, _, row = now.partition(" --task ")
    assert read_studies(file, row) == [study]
    assert capfd.readouterr().err == ""


def test_studies_are_listed_with_their_tasks_and_grids(capfd: pytest.CaptureFixture[str]) -> None:
    main(["list", "studies"])
    lines = [line.strip() for line in capfd.readouterr().out.splitlines()]
    sizes = {name.split()[0]: size for name, size in zip(lines[1::2], lines[2::2], strict=True)}
    assert sizes["experiment/lire/rewards.yaml"].endswith(" x tasks button-press-topdown, walker-walk")
    assert sizes["experiment/sac.yaml"].startswith("stages sac x tasks cheetah-run, ")
    assert sizes["sweep/ipl-metaworld.yaml"] == "bases ipl, mr x 5 values of task x 4 values of capacity x seeds 1, 2, 3, 4, 5"
    assert len(sizes) == sum(1 for folder in ("experiment", "sweep") for _ in (SHIPPED / folder).rglob("*.yaml"))
