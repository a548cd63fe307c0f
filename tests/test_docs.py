"""Examples of docs/extending.md and docs/quickstart.md run as printed; the front page quotes numbers and commands that exist."""

from __future__ import annotations

import functools
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lightning_pbrl.configs import packaged_config, read_config
from lightning_pbrl.data.feedback import Clips, Labels, Query, Status
from lightning_pbrl.data.segments import Episodes, SegmentPool
from lightning_pbrl.help_text import SHIPPED
from lightning_pbrl.rewards.base import chosen
from lightning_pbrl.rng import question_keys

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "extending.md"


def example(name: str) -> Any:
    """The class ``name``, from the Python block of the page that defines it."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    (code,) = [block for block in blocks if f"class {name}" in block]
    scope: dict[str, Any] = {"__name__": "my_package"}
    exec(compile(code, str(PAGE), "exec"), scope)
    return scope[name]


def test_teacher() -> None:
    n = 2000
    reward = torch.zeros(n, 2, 3)
    reward[:, 1] = 1.0  # the second segment is better in every question
    clips = Clips(obs=torch.zeros(n, 2, 3, 1), action=torch.zeros(n, 2, 3, 1), reward=reward)
    query = Query("pair", torch.zeros(n, 2, dtype=torch.int64), 3)
    answer = example("LazyTeacher")(laziness=0.25).answer(query, clips, question_keys(0, 0, n))
    equal = answer.status == Status.EQUAL
    assert 0.25 - 0.03 < equal.float().mean() < 0.25 + 0.03  # three standard deviations: 3 sqrt(.25 * .75 / 2000)
    assert (answer.value[~equal] == 1.0).all()
    assert (answer.value[equal] == 0.5).all()


def test_reward_model() -> None:
    """The example's reward is linear in its weights, and a fit passes over the answers as often as it says."""
    model = chosen(example("LogisticReward")(), {"obs_dim": 2, "action_dim": 1, "horizon": 5}, seed=0)
    model.build()
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    zero = model.reward(torch.zeros(1, 3))[0, 0]
    slopes = torch.stack([model.reward(row[None])[0, 0] - zero for row in torch.eye(3)])
    torch.testing.assert_close(model.reward(features)[0], features @ slopes + zero)
    model.labels = Labels(torch.tensor([[0, 5], [3, 9], [1, 7]]), 2, torch.tensor([1.0, 0.0, 0.5]), torch.tensor([1, 1, 2]))
    (fit,) = model.plan(0)
    assert fit.program == "reward" and fit.updates % -(-3 // model.hparams.batch_size) == 0 and fit.updates > 0


def test_strategy() -> None:
    class Rows:
        """Predicts a segment's first row id as its return."""

        def returns(self, query: Query) -> torch.Tensor:
            return query.start.float().expand(2, -1, -1)

    pool = SegmentPool(Episodes(torch.tensor([0, 100])), length=1)
    rng = torch.Generator().manual_seed(0)
    bold = example("BoldQuery")().propose(pool, 5, Rows(), Labels.empty(), rng)
    every = pool.pairs(50, torch.Generator().manual_seed(0))  # the candidates it saw
    gaps = every.start.diff(dim=-1).abs().flatten().sort(descending=True).values
    assert bold.start.diff(dim=-1).abs().flatten().tolist() == gaps[:5].tolist()


def test_method() -> None:
    from lightning_pbrl.methods.base import Method

    before = dict(Method.registry)
    try:
        method = example("MeanSquaredBC")(spec={"obs_dim": 2, "action_dim": 1, "horizon": 5}, updates=7)
    finally:
        Method.registry.clear()
        Method.registry.update(before)
    method.configure_model()
    obs = torch.randn(4, 2)
    with torch.no_grad():
        action = method.act(obs)
        loss = method.losses({"obs": obs, "action": action + 0.5})["actor"]
    assert action.shape == (4, 1)
    assert action.abs().max() < 1
    assert abs(loss.item() - 0.25) < 1e-6  # every error is one half
    assert [phase.updates for phase in method.plan(0)] == [7]


def test_data_module(tmp_path: Path) -> None:
    n = np.arange(6, dtype=np.float32)
    np.savez(tmp_path / "a.npz", obs=n[:, None], action=n[:, None] / 10, next_obs=n[:, None] + 1, reward=n)
    module = example("NpzDataModule")(str(tmp_path / "a.npz"), episode_length=3)
    table = module.load()
    assert table.episodes.offsets.tolist() == [0, 3, 6]
    assert table.column("obs").flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert table.reward.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.isnan(table.column("learned_reward")).all()


def test_the_front_page_quotes_the_results() -> None:
    results = (DOCS / "results.md").read_text()
    claims = [line.split("|") for line in (DOCS / "index.md").read_text().splitlines() if "results.md#" in line]
    quoted = [number for cells in claims for number in re.findall(r"\d[\d.,e-]*\d|\d", cells[3])]
    assert len(claims) > 10
    assert len(quoted) > 40
    assert [number for number in quoted if number not in results] == []


def test_the_front_page_names_experiments_that_exist() -> None:
    paths = re.findall(r"`lightning-pbrl run (\S+\.yaml)[^`]*`", (DOCS / "index.md").read_text())
    assert len(paths) == 3
    for path in paths:
        assert yaml.safe_load(Path(packaged_config(path)).read_text())["stages"]


@pytest.mark.slow
def test_every_format_has_a_page_that_says_what_is_not_normalised() -> None:
    gallery = (DOCS / "data-sets.md").read_text().partition("## Gallery")[2]
    pages = {link for row in re.findall(r"^\| \[.*", gallery, re.M) for link in re.findall(r"^\| \[[^]]*\]\(([^)#]*)", row)}
    assert len(re.findall(r"^\| [^d-]", gallery, re.M)) == 12 and len(pages) == 11  # one page has both of imitation's
    for page in pages:
        assert re.search(r"^#+ What is not normalised$", (DOCS / page).read_text(), re.M), page


def test_commands_of_all_pages_name_options_and_configs_that_exist() -> None:
    """A stage's option is in the help of ``fit``; a config is one of the package's, a row of a table included."""
    known = set(re.findall(r"--([a-z_]+)", SHIPPED.read_text()))
    seen = 0
    for page in [DOCS.parent / "README.md", *DOCS.rglob("*.md")]:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S):
            for line in re.findall(r"^lightning-pbrl (?:fit|validate|test|predict) .*", block.replace("\\\n", ""), re.M):
                words = shlex.split(line, comments=True)
                options = {re.split(r"[.=]", word[2:])[0] for word in words if word.startswith("--")}
                assert options <= known, (page, line)
                for flag, word in pairwise(words):
                    if flag == "-c" and word != "mine.yaml" and not word.startswith("runs/"):
                        read_config(packaged_config(word))
                seen += 1
    assert seen > 30


def test_quickstart(no_ink: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of Python of the page, one after the other, with smaller numbers."""
    from lightning_pbrl import IQL, AskTeacher, MetaWorldDataModule, RewardEnsemble

    small: dict[type, dict[str, Any]] = {
        MetaWorldDataModule: {"horizon": 30, "episodes": 6, "segment_length": 10, "held_out_pairs": 40, "eval_episodes": 2},
        RewardEnsemble: {"hidden": (8, 8), "epochs": 2},
        IQL: {"hidden": (8, 8), "updates": 4, "eval_interval": 4},
        AskTeacher: {"budget": 20, "per_round": 10},
    }
    small[MetaWorldDataModule] |= {"test_episodes": 2, "num_envs": 2}
    monkeypatch.chdir(tmp_path)
    for cls, sizes in small.items():
        original = cls.__init__

        def tiny(self: Any, *args: Any, original: Any = original, sizes: Any = sizes, **given: Any) -> None:
            original(self, *args, **{**given, **(sizes if args else {})})  # the usual AskTeacher asks nothing

        monkeypatch.setattr(cls, "__init__", functools.wraps(original)(tiny))
    scope: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", (PAGE.parent / "quickstart.md").read_text(), re.S)
    assert len(blocks) == 3
    for code in blocks:
        exec(compile(code, "quickstart.md", "exec"), scope)
    assert scope["action"].shape == (7, 4)
    assert scope["value"].shape == (7,)
    assert (tmp_path / "runs/policy/results.json").is_file()
    assert np.array_equal(IQL.load("policy.ckpt").predict(np.zeros((7, 39))), scope["action"])
    assert scope["data"].simulator.horizon == 50
