"""Labelled clips in the npz format of IPL: what becomes of each number, and every way a file can be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from preference_files import pair_arrays, write_pairs
from synthetic import synthetic_transitions

from lightning_pbrl.data.feedback import Labels, Status
from lightning_pbrl.data.preference_npz import read_preference_npz, write_preference_npz
from lightning_pbrl.errors import UserError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "preferences"
real_files = pytest.mark.skipif(not REAL.is_dir(), reason="the published preference files are not on this machine")
ANSWERED, EQUAL, SKIPPED = int(Status.ANSWERED), int(Status.EQUAL), int(Status.SKIPPED)


def changed(path: Path, **changes: Any) -> Path:
    """A file of twelve pairs of six steps with some arrays replaced, those set to None left out."""
    arrays = {**pair_arrays(), **changes}
    return write_pairs(path / "pairs.npz", {key: values for key, values in arrays.items() if values is not None})


def test_two_pairs_by_hand(tmp_path: Path) -> None:
    """Clips of three steps: observation 100 * pair + 10 * clip + step, action a tenth of the step."""
    step = np.arange(3.0)
    first = np.stack([10 + step, 110 + step])[..., None]
    action = np.broadcast_to(step[None, :, None] / 10, (2, 3, 1))
    arrays = {"obs_1": first, "obs_2": first + 10, "action_1": action, "action_2": -action, "label": np.array([1.0, 0.5])}
    source, labels = read_preference_npz(write_pairs(tmp_path / "two.npz", arrays))
    assert source.column("obs")[:, 0].tolist() == [10, 11, 12, 20, 21, 22, 110, 111, 112, 120, 121, 122]
    assert source.column("next_obs")[:, 0].tolist() == [11, 12, 12, 21, 22, 22, 111, 112, 112, 121, 122, 122]
    assert source.column("action")[:6, 0].tolist() == pytest.approx([0, 0.1, 0.2, 0, -0.1, -0.2])
    assert source.episodes.offsets.tolist() == [0, 3, 6, 9, 12]
    assert source.column("truncated").tolist() == [0, 0, 1] * 4 and source.column("terminated").sum() == 0
    assert source.drawable is not None and source.drawable.tolist() == [0, 1, 3, 4, 6, 7, 9, 10]
    assert source.reward.isnan().all() and source.success is None
    assert labels.start.tolist() == [[0, 3], [6, 9]] and labels.length == 3
    assert labels.value.tolist() == [1.0, 0.5] and labels.status.tolist() == [ANSWERED, EQUAL]
    clips = source.segments(labels.start, labels.length)
    assert clips[1, 0, :, 0].tolist() == [110, 111, 112] and clips[1, 1, :, 0].tolist() == [120, 121, 122]


def test_numbers_become_float32_and_actions_stay_inside(tmp_path: Path) -> None:
    arrays = pair_arrays()
    arrays["action_2"][3, 1] = [-1.0, 7.0]
    path = changed(tmp_path, **arrays)
    message = r"'action_2' leaves \[-1, 1\] in 1 row\(s\) by up to 6, the first is step 1 of clip 2 of pair 3 with 7: rescale"
    with pytest.raises(UserError, match=message):
        read_preference_npz(path)
    halved = read_preference_npz(path, action_bounds=[-7.0, 7.0])[0].column("action")
    assert halved[43].tolist() == pytest.approx([-1 / 7, 0.99999])  # pair 3 of six steps: rows 36 .. 47
    source, labels = read_preference_npz(path, clip_actions=True)
    assert source.packed.dtype == labels.value.dtype == torch.float32
    row = int(labels.start[3, 1]) + 1
    assert source.column("action")[row].tolist() == pytest.approx([-0.99999, 0.99999], abs=1e-7)
    assert source.column("action").abs().max() < 1
    assert source.about["actions_clipped"] == 1  # one step beyond [-1, 1]; -1 itself is allowed
    assert source.column("obs")[row].tolist() == arrays["obs_2"][3, 1].astype(np.float32).tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_other_numbers_are_read_too(tmp_path: Path, dtype: type) -> None:
    whole = {key: values * 100 if key.startswith("obs") else values for key, values in pair_arrays(undecided=0).items()}
    arrays = {key: values.astype(dtype) for key, values in whole.items()}
    source, labels = read_preference_npz(changed(tmp_path, **{**arrays, "label": arrays["label"][:, None]}))
    assert source.column("obs")[:6].tolist() == arrays["obs_1"][0].astype(np.float32).tolist()
    assert labels.value.tolist() == arrays["label"].astype(float).tolist()


def test_what_undecided_means(tmp_path: Path) -> None:
    """Pairs 0, 4 and 8 of twelve have the label 0.5."""
    path = changed(tmp_path)
    source, equal = read_preference_npz(path)
    assert equal.status[::4].tolist() == [EQUAL] * 3 and equal.value[::4].tolist() == [0.5] * 3
    same, skip = read_preference_npz(path, undecided="skip")
    assert skip.status[::4].tolist() == [SKIPPED] * 3 and skip.value[::4].isnan().all()
    assert len(skip.preferences()) == 9 and same.fingerprint == source.fingerprint
    fewer, drop = read_preference_npz(path, undecided="drop")
    assert len(fewer) == 9 * 2 * 6 and (drop.status == ANSWERED).all()
    kept = equal.take(equal.status == ANSWERED)
    assert torch.equal(drop.value, kept.value)
    assert torch.equal(fewer.segments(drop.start, 6), source.segments(kept.start, 6))


def test_pairs_that_were_passed_over(tmp_path: Path) -> None:
    """A flag of its own outweighs the label, and other keys are named."""
    flags = np.zeros(12)
    flags[[1, 4]] = 1
    path = changed(tmp_path, skip_flag=flags, timestep_1=np.zeros(12))
    source, labels = read_preference_npz(path)
    assert (labels.status == SKIPPED).nonzero().flatten().tolist() == [1, 4]
    assert labels.value.isnan().nonzero().flatten().tolist() == [1, 4]
    assert (labels.status == EQUAL).nonzero().flatten().tolist() == [0, 8]
    assert source.about["keys_not_read"] == ["timestep_1"]
    assert len(read_preference_npz(path, undecided="drop")[1]) == 8  # without 0, 1, 4 and 8
    for wrong, message in ((flags / 2, r"holds 0\.5 in row 1"), (flags * np.nan, "holds nan in row 0"), (flags[:3], "shape")):
        with pytest.raises(UserError, match=f"pairs.npz: key 'skip_flag'.*{message}"):
            read_preference_npz(changed(tmp_path, skip_flag=wrong))


def test_a_clip_is_not_better_than_itself(tmp_path: Path) -> None:
    arrays = pair_arrays()
    for pair in (4, 5):  # 4 is undecided
        arrays["obs_2"][pair], arrays["action_2"][pair] = arrays["obs_1"][pair], arrays["action_1"][pair]
    path = changed(tmp_path, **arrays)
    with pytest.raises(UserError, match=r"pairs\.npz: pair 5 compares a clip with itself and its label is [01], as in 1 pair"):
        read_preference_npz(path)
    arrays["label"][5] = 0.5
    assert read_preference_npz(changed(tmp_path, **arrays))[1].status[[4, 5]].tolist() == [EQUAL, EQUAL]


def test_capacity_takes_the_first_pairs(tmp_path: Path) -> None:
    path = changed(tmp_path)
    whole, every = read_preference_npz(path)
    part, some = read_preference_npz(path, capacity=5)
    assert torch.equal(part.packed[:, :3], whole.packed[:60, :3]) and len(part) == 60
    assert torch.equal(some.start, every.start[:5]) and torch.equal(some.value, every.value[:5])
    assert len(read_preference_npz(path, capacity=5, undecided="drop")[1]) == 3  # 0 and 4 of the first five are undecided
    for wrong in (0, 13):
        with pytest.raises(UserError, match=rf"pairs\.npz has 12 pairs and capacity is {wrong}: choose 1 to 12, or null"):
            read_preference_npz(path, capacity=wrong)


def test_parts_of_a_dict_observation(tmp_path: Path) -> None:
    arrays = pair_arrays(obs_dim=5)
    for clip in (1, 2):
        whole = arrays.pop(f"obs_{clip}")
        arrays |= {f"obs_{clip}.object": whole[..., :2], f"obs_{clip}.arm.pos": whole[..., 2:]}
    path = write_pairs(tmp_path / "dict.npz", arrays)
    flat = pair_arrays(obs_dim=5)["obs_2"][2, 1].astype(np.float32)
    by_name, labels = read_preference_npz(path)
    row = int(labels.start[2, 1]) + 1
    assert by_name.column("obs")[row].tolist() == [*flat[2:], *flat[:2]]  # arm.pos before object
    assert by_name.about["obs_keys"] == ["arm.pos", "object"]
    ordered, _ = read_preference_npz(path, obs_keys=["object", "arm.pos"])
    assert ordered.column("obs")[row].tolist() == flat.tolist()
    assert read_preference_npz(path, obs_keys=["object"])[0].obs_dim == 2
    with pytest.raises(UserError, match=r"dict\.npz has no key 'obs_1\.gripper' \(it has action_1, .*obs_1\.arm\.pos"):
        read_preference_npz(path, obs_keys=["gripper"])
    with pytest.raises(UserError, match=r"obs_keys is \['object'\]: name the parts of a dict observation, or leave it null"):
        read_preference_npz(changed(tmp_path), obs_keys=["object"])
    del arrays["obs_2.object"]
    with pytest.raises(UserError, match=r"has no key 'obs_2\.object'"):
        read_preference_npz(write_pairs(path, arrays))


# Writing ----------------------------------------------------------------------------------------------------------------


def test_write_and_read_back(tmp_path: Path) -> None:
    """Answered and equal pairs of any data set, in the order of the labels; skipped and pending ones are left out."""
    data = synthetic_transitions()
    start = torch.tensor([[0, 40], [65, 3], [100, 200], [7, 500], [31, 36]])
    value = torch.tensor([1.0, 0.5, float("nan"), float("nan"), 0.0])
    status = torch.tensor([ANSWERED, EQUAL, SKIPPED, int(Status.PENDING), ANSWERED])
    path = write_preference_npz(tmp_path / "new" / "mine.npz", data, Labels(start, 8, value, status))
    source, labels = read_preference_npz(path)
    kept = torch.tensor([0, 1, 4])
    assert labels.value.tolist() == [1.0, 0.5, 0.0] and labels.status.tolist() == [ANSWERED, EQUAL, ANSWERED]
    assert torch.equal(source.segments(labels.start, 8), data.segments(start[kept], 8))
    again, same = read_preference_npz(write_preference_npz(tmp_path / "again.npz", source, labels))
    assert again.fingerprint == source.fingerprint and torch.equal(same.start, labels.start)
    assert sorted(np.load(path)) == ["action_1", "action_2", "label", "obs_1", "obs_2"]


def test_nothing_to_write(tmp_path: Path) -> None:
    data, skipped = synthetic_transitions(), torch.tensor([SKIPPED])
    ratings = Labels(torch.tensor([[0]]), 4, torch.tensor([1.0]), torch.tensor([ANSWERED]))
    for labels in (Labels(torch.tensor([[0, 9]]), 4, torch.tensor([float("nan")]), skipped), ratings):
        with pytest.raises(UserError, match=r"mine\.npz would hold no comparison: give labels of pairs that were answered"):
            write_preference_npz(tmp_path / "mine.npz", data, labels)


# Bad files --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, r"has no key 'label' \(it has action_1, action_2, obs_1, obs_2\): write the file again"),
        ({"obs_1": None}, "has no key 'obs_1'"),
        ({"action_2": None}, "has no key 'action_2'"),
        ({"obs_1": np.full((12, 6, 3), "x")}, "key 'obs_1' holds <U1 instead of numbers: store it as float32"),
        ({"action_1": np.zeros((12, 6, 2), complex)}, "key 'action_1' holds complex128 instead of numbers"),
        ({"label": np.full(12, "first")}, "key 'label' holds <U5 instead of numbers"),
        ({"obs_2": np.zeros((12, 18))}, r"key 'obs_2' has shape \(12, 18\): store it as \(pairs, steps, size\)"),
        ({"obs_1": np.zeros((0, 6, 3))}, r"key 'obs_1' has shape \(0, 6, 3\): store it as"),
        ({"action_1": np.zeros((12, 5, 2))}, r"'action_1' has shape \(12, 5, 2\) and 'obs_1' has \(12, 6, 3\): store the same"),
        ({"obs_2": np.zeros((11, 6, 3))}, r"'obs_2' has shape \(11, 6, 3\) and 'obs_1' has \(12, 6, 3\)"),
        ({"action_2": np.zeros((12, 6, 4))}, r"'action_2' has shape \(12, 6, 4\) and 'action_1' has \(12, 6, 2\)"),
        ({"label": np.zeros(11)}, r"key 'label' has shape \(11,\) and there are 12 pairs: store one label for each"),
        ({"label": np.zeros((12, 2))}, r"key 'label' has shape \(12, 2\)"),
        ({"label": np.array([0, 1, -1.0] * 4)}, r"key 'label' is -1\.0 for pair 2: store 0 .*or 0\.5 \(undecided"),
        ({"label": np.array([0, 0.3] * 6)}, r"key 'label' is 0\.3 for pair 1"),
        ({"label": np.full(12, np.nan)}, "key 'label' is nan for pair 0"),
    ],
)
def test_bad_content(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"pairs\.npz.*{message}"):
        read_preference_npz(changed(tmp_path, **changes))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_float32_cannot_hold(tmp_path: Path, value: float) -> None:
    obs = pair_arrays()["obs_2"]
    obs[[3, 7], 2, 1] = value
    path = changed(tmp_path, obs_2=obs)
    with pytest.raises(UserError, match=r"key 'obs_2' is NaN or infinite in 2 pair\(s\), the first is pair 3: leave these pairs"):
        read_preference_npz(path)
    assert len(read_preference_npz(path, capacity=3)[1]) == 3  # what is not read does not matter


def test_all_pairs_undecided(tmp_path: Path) -> None:
    path = changed(tmp_path, label=np.full(12, 0.5))
    with pytest.raises(UserError, match=r"key 'label' is 0\.5 for every pair and undecided is drop: choose equal or skip"):
        read_preference_npz(path, undecided="drop")


def test_clips_of_one_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'obs_1' has shape \(12, 1, 3\): store it as \(pairs, steps, size\), 2 or more steps"):
        read_preference_npz(write_pairs(tmp_path / "short.npz", steps=1))


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Bad:
        def __reduce__(self) -> Any:
            return ran.touch, ()

    path = changed(tmp_path, label=np.array([Bad()] * 12, dtype=object))
    with pytest.raises(UserError, match=r"pairs\.npz: key 'label' holds something other than plain numbers .*numeric array"):
        read_preference_npz(path)
    assert not ran.exists()


@pytest.mark.parametrize("keep", [0, 10, 2000, -1])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    path = changed(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"pairs\.npz is truncated or not an \.npz file .*copy it again from its source"):
        read_preference_npz(path)


def test_a_single_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Even in an uncompressed file, where it would be just another number."""
    path = tmp_path / "plain.npz"
    np.savez(path, **pair_arrays())
    content = bytearray(path.read_bytes())
    at = content.find(pair_arrays()["obs_2"][5, 2].tobytes())
    assert at > 0
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"plain\.npz is truncated or not an \.npz file \(Bad CRC-32 for file 'obs_2\.npy'\)"):
        read_preference_npz(path)


def test_files_of_another_kind(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("obs_1, obs_2")
    for name in ("array.npy", "text.npz"):
        with pytest.raises(UserError, match=f"{name} is truncated or not an .npz file"):
            read_preference_npz(tmp_path / name)
    np.savez(tmp_path / "other.npz", observations=np.zeros(3))
    with pytest.raises(UserError, match=r"other\.npz has no key 'obs_1' \(it has nothing\)"):
        read_preference_npz(tmp_path / "other.npz")
    with pytest.raises(UserError, match=r"There is no file .*absent\.npz: check the path"):
        read_preference_npz(tmp_path / "absent.npz")


# The published files ------------------------------------------------------------------------------------------------------


@real_files
@pytest.mark.parametrize(
    ("task", "sizes", "human", "script", "agreement"),
    [
        ("hopper-medium-expert-v2/num100_{}_train.npz", (100, 11, 3), [32, 28, 40], [58, 0, 42], 0.43),
        ("walker2d-medium-expert-v2/num100_{}_train.npz", (100, 17, 6), [30, 24, 46], [50, 0, 50], 0.80),
        ("Lift/num100_q50_{}_train.npz", (50, 49, 7), [35, 55, 10], [23, 59, 18], 0.56),
    ],
)
def test_the_published_answers(
    task: str, sizes: tuple[int, int, int], human: list[int], script: list[int], agreement: float
) -> None:
    """Counts of 0, 0.5 and 1, and how often people and script agree where both decide, as their own README states them."""
    found = {}
    for who, counts in (("human", human), ("script", script)):
        source, labels = read_preference_npz(REAL / task.format(who))
        assert (labels.length, source.obs_dim, source.action_dim) == sizes and len(source) == 200 * sizes[0]
        assert [(labels.value == value).sum().item() for value in (0, 0.5, 1)] == counts
        assert source.about["actions_clipped"] == 0
        found[who] = (source.fingerprint, labels.value)
    assert found["human"][0] == found["script"][0]  # the same clips
    one, two = found["human"][1], found["script"][1]
    both = (one != 0.5) & (two != 0.5)
    assert (one == two)[both].float().mean().item() == pytest.approx(agreement, abs=0.005)
