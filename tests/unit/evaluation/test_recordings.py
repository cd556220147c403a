"""Frames of events as pictures, value by value."""

import io

import numpy as np
from PIL import Image

from onespike.evaluation.recordings import animation, picture

#: Two pixels by two, three frames of (darker, brighter): brighter, darker, both, nothing.
FRAMES = np.zeros((2, 2, 3, 2), np.uint8)
FRAMES[0, 0, 0, 1] = FRAMES[0, 0, 2, 1] = 2
FRAMES[0, 1, 1, 0] = 1
FRAMES[1, 0, 1] = 3, 2


def test_what_became_brighter_is_red_and_what_became_darker_blue():
    expected = np.array([[[4, 0, 0], [0, 0, 1]], [[2, 2, 3], [0, 0, 0]]])
    assert (picture(FRAMES) == np.rint(255 * expected / 4)).all()
    assert not picture(np.zeros_like(FRAMES)).any()


def test_images_are_shown_as_they_are_and_other_channels_as_their_sum():
    colours = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert picture(colours) is colours
    four = np.stack([colours[..., 0]] * 4, 2)
    assert (picture(four)[..., 0] == np.rint(255.0 * colours[..., 0] / 9)).all()


def test_of_channels_without_a_map_time_runs_to_the_right():
    heard = np.array([[0, 4, 1, 0], [2, 0, 0, 0]], np.uint8)[None, None]  # two frames of four channels
    assert (picture(heard)[..., 0] == np.rint(255.0 * heard[0, 0].T / 4)).all()


def test_an_animation_shows_each_frame_on_the_scale_of_all():
    with Image.open(io.BytesIO(animation(FRAMES))) as gif:
        assert (gif.n_frames, gif.size, gif.info["duration"], gif.info["loop"]) == (3, (256, 256), 200, 0)
        shown = []
        for number in range(3):
            gif.seek(number)
            shown.append(np.asarray(gif.convert("RGB"))[::128, ::128].astype(int))
    expected = np.zeros((3, 2, 2, 3))
    expected[0, 0, 0, 0] = expected[2, 0, 0, 0] = 2
    expected[1, 0, 1, 2] = 1
    expected[1, 1, 0] = 2, 2, 3
    assert np.abs(np.stack(shown) - 255 * expected / 3).max() <= 2
