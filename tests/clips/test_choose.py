"""Which renderer data get, what is said where there is none, and those that need no simulator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clip_toys import Episode, table

from lightning_pbrl.clips.choose import renderer_for
from lightning_pbrl.clips.pictures import StoredPictures
from lightning_pbrl.clips.plots import AHEAD, CURSOR, PAST, ObservationPlots
from lightning_pbrl.clips.rebuilt import RebuiltStates
from lightning_pbrl.envs.gym_mujoco import GymMuJoCo
from lightning_pbrl.envs.gymnasium_env import GymnasiumEnv
from lightning_pbrl.envs.metaworld import MetaWorld
from lightning_pbrl.errors import UserError

CANNOT = "No clip of these data can be drawn: "


def logged(obs_dim=3, **about):
    """Two episodes of 8 and 6 steps; entry 0 rises by one per step, entry 1 never changes, the rest are noise."""
    rng, episodes = np.random.default_rng(0), []
    for steps in (8, 6):
        obs = rng.normal(size=(steps + 1, obs_dim)).astype(np.float32)
        obs[:, 0], obs[:, 1] = np.arange(steps + 1), 5.0
        episodes.append(Episode(obs, rng.uniform(-1, 1, (steps, 2)).astype(np.float32), obs, obs, None))
    return table(episodes, **about)


def test_stored_images_are_shown_as_they_are():
    source = logged()
    source.frames = torch.arange(16, dtype=torch.uint8)[:, None, None, None].expand(16, 8, 8, 3) * 10
    clips = renderer_for(source, 16, simulator=MetaWorld("reach"))
    assert isinstance(clips, StoredPictures)
    assert clips.frames(6, 2)[:, 0, 0, 0].tolist() == [60, 70]
    assert clips.frames(9, 5).shape == (5, 16, 16, 3)
    assert clips.frames(9, 5)[:, 15, 15, 2].tolist() == [100, 110, 120, 130, 140]


@pytest.mark.parametrize(
    ("start", "length", "words"),
    [
        (5, 5, "of 5 steps from row 5 on crosses the end of episode 0 at row 8: ask about segments of one episode"),
        (12, 3, "There is no segment of 3 steps from row 12 on: the data have 14 rows"),
        (-1, 3, "There is no segment of 3 steps from row -1 on"),
        (2, 0, "There is no segment of 0 steps"),
    ],
)
def test_segments_that_do_not_exist(start, length, words):
    with pytest.raises(UserError, match=words):
        renderer_for(logged(), 16, plots=True).frames(start, length)


def test_observations_decide_only_where_they_determine_the_state():
    walker = GymMuJoCo("Hopper-v5")
    assert isinstance(renderer_for(logged(11), simulator=walker), RebuiltStates)
    assert isinstance(renderer_for(logged(11), simulator=walker, plots=True), RebuiltStates)
    assert isinstance(renderer_for(logged(39), simulator=MetaWorld("reach"), plots=True), ObservationPlots)
    with pytest.raises(UserError, match="Observations of reach-v3 do not determine what is seen"):
        RebuiltStates(logged(39), MetaWorld("reach"))


@pytest.mark.parametrize(
    ("about", "simulator", "words"),
    [
        ({}, None, "they hold no images and no reset seeds, and their simulator is not known; set data.simulator "),
        (
            {},
            MetaWorld("reach"),
            "they hold no images, no reset seeds and no simulator states, and an observation of reach-v3 does not determine its "
            "state; ask about data that `lightning-pbrl collect` has made, or plot the observations",
        ),
        (
            {"reset_seeds": [1, 2], "simulator": GymnasiumEnv("Hopper-v5", 11, 3, 1000, {"frame_skip": 4}).describe()},
            None,
            "they were collected in a GymnasiumEnv that cannot be built from its description; give that simulator ",
        ),
        (
            {"reset_seeds": [1, 2], "simulator": {**MetaWorld("reach").describe(), "scene": 1}},
            MetaWorld("reach"),
            "they were collected in a MetaWorld that cannot be built from its description; give that simulator ",
        ),
        ({"format": "d4rl"}, GymMuJoCo("Pusher-v5"), "an observation of Pusher-v5 does not determine its state"),
    ],
)
def test_what_is_said_where_nothing_can_be_drawn(about, simulator, words):
    with pytest.raises(UserError) as error:
        renderer_for(logged(**about), simulator=simulator)
    assert str(error.value).startswith(CANNOT) and words in str(error.value)
    assert str(error.value).endswith(", or plot the observations (plots=True).")
    assert isinstance(renderer_for(logged(**about), simulator=simulator, plots=True), ObservationPlots)


@pytest.mark.parametrize("size", [14, 255])
def test_sizes_of_frames(size):
    with pytest.raises(UserError, match=f"The size of clips is {size}; give an even number of pixels from 16 on"):
        renderer_for(logged(), size, plots=True)


def test_plots_rise_with_the_observation_and_mark_the_present_step():
    """Entry 0 rises in a straight line through the upper half (of two entries that vary), the constant entry 1 is left out."""
    clips = renderer_for(logged(), 64, plots=True)
    frames = clips.frames(1, 6)
    assert frames.shape == (6, 64, 64, 3) and clips._entries == [0, 2]
    cursor = [np.nonzero((frame[-1] == CURSOR).all(-1))[0].tolist() for frame in frames]
    assert cursor == [[24 + 36 * step // 5] for step in range(6)]
    upper = frames[-1][:32]
    heights = [np.nonzero((upper[:, column] == PAST).all(-1))[0].mean() for column in (26, 40, 54)]
    assert heights[0] > heights[1] > heights[2]
    past = [int((frame == PAST).all(-1).sum()) for frame in frames]
    assert past == sorted(past) and past[0] < past[-1]
    assert (frames[0] == AHEAD).all(-1).any() and not np.array_equal(frames[0], frames[3])
