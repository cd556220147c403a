"""Windows: cutting, putting together again, and the region threshold behind it."""

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from onespike.functional import partition, recompose, region_threshold, window_kinds, window_side
from onespike.functional.window import window_count, window_kind_at

DILATED_SIDES = [4, 8, 12, 16, 20]
MAPS = [(side, "average") for side in range(1, 21)] + [(side, "dilated") for side in DILATED_SIDES]
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
every_map = pytest.mark.parametrize(("side", "kind"), MAPS)
both_kinds = pytest.mark.parametrize("kind", ["average", "dilated"])


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_windows(side, kind, dtype=torch.float64, seed=0):
    window = window_side(side, kind)
    return random(4, 2, 3, window, window, dtype=dtype, seed=seed)


def add_into_place_and_divide(windows, side):
    """The definition of recomposing: sum up all windows where they belong, divide by how many cover the pixel."""
    batch, channels, window, _ = windows.shape[1:]
    even = side + side % 2
    total, cover = torch.zeros(batch, channels, even, even, dtype=windows.dtype), torch.zeros(even, even)
    far = even - window
    for number, (top, left) in enumerate([(0, 0), (0, far), (far, 0), (far, far)]):
        for i in range(window):
            for j in range(window):
                total[:, :, top + i, left + j] += windows[number, :, :, i, j]
                cover[top + i, left + j] += 1
    return (total / cover)[:, :, :side, :side]


def algorithm_1(windows, side):
    """Weighted condense as the supplement prints it, line by line; its axes are (batch, row, column, channel)."""
    g1, g2, g3, g4 = windows.movedim(-3, -1)
    m = 3 * side // 4
    w_o = 2 * m - side

    def condense_columns(left, right):
        cover = (left[:, :, w_o // 2 : 3 * w_o // 2, :] + right[:, :, 0:w_o, :]) / 2
        return torch.cat([left[:, :, 0 : w_o // 2, :], cover, right[:, :, w_o : 3 * w_o // 2, :]], dim=2)

    g1g2 = condense_columns(g1, g2)
    g3g4 = condense_columns(g3, g4)
    cover_p = (g1g2[:, w_o // 2 : 3 * w_o // 2, :, :] + g3g4[:, 0:w_o, :, :]) / 2
    g = torch.cat([g1g2[:, 0 : w_o // 2, :, :], cover_p, g3g4[:, w_o : 3 * w_o // 2, :, :]], dim=1)
    return g.movedim(-1, -3)


@every_map
@given(batch=st.integers(0, 3), channels=st.integers(1, 4), dtype=DTYPES, seed=st.integers(0, 1000))
def test_recompose_undoes_partition_exactly(side, kind, batch, channels, dtype, seed):
    x = random(batch, channels, side, side, dtype=dtype, seed=seed)
    again = recompose(partition(x, kind), side, kind)
    assert again.dtype == dtype
    assert torch.equal(again, x)


@every_map
@given(batch=st.integers(1, 3), channels=st.integers(1, 4), dtype=DTYPES)
def test_windows_have_the_shape_v_b_c_m_m(side, kind, batch, channels, dtype):
    windows = partition(torch.zeros(batch, channels, side, side, dtype=dtype), kind)
    expected = (side + 1) // 2 if kind == "average" else 3 * side // 4
    assert windows.shape == (4, batch, channels, expected, expected)
    assert window_side(side, kind) == expected
    assert windows.dtype == dtype


@every_map
def test_recompose_of_any_windows_is_their_sum_in_place_over_their_cover(side, kind):
    windows = random_windows(side, kind)
    torch.testing.assert_close(
        recompose(windows, side, kind), add_into_place_and_divide(windows, side), rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("side", DILATED_SIDES)
@given(seed=st.integers(0, 1000))
def test_recompose_of_dilated_windows_is_algorithm_1_line_by_line(side, seed):
    windows = random_windows(side, "dilated", seed=seed)
    assert torch.equal(recompose(windows, side, "dilated"), algorithm_1(windows, side))


def test_average_windows_are_the_four_quarters_from_top_left_to_bottom_right():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert partition(x, "average")[:, 0, 0].tolist() == [
        [[0, 1], [4, 5]],
        [[2, 3], [6, 7]],
        [[8, 9], [12, 13]],
        [[10, 11], [14, 15]],
    ]


def test_dilated_windows_are_the_four_corners_with_three_quarters_of_the_side():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert partition(x, "dilated")[:, 0, 0].tolist() == [
        [[0, 1, 2], [4, 5, 6], [8, 9, 10]],
        [[1, 2, 3], [5, 6, 7], [9, 10, 11]],
        [[4, 5, 6], [8, 9, 10], [12, 13, 14]],
        [[5, 6, 7], [9, 10, 11], [13, 14, 15]],
    ]


def test_an_odd_map_is_padded_with_zeros_right_and_below():
    x = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    assert partition(x, "average")[:, 0, 0].tolist() == [
        [[1, 2], [4, 5]],
        [[3, 0], [6, 0]],
        [[7, 8], [0, 0]],
        [[9, 0], [0, 0]],
    ]


def test_one_spike_of_four_windows_leaves_a_quarter_in_the_centre_and_a_half_at_the_edges():
    windows = torch.zeros(4, 1, 1, 3, 3)
    windows[0] = 1
    assert recompose(windows, 4, "dilated")[0, 0].tolist() == [
        [1, 0.5, 0.5, 0],
        [0.5, 0.25, 0.25, 0],
        [0.5, 0.25, 0.25, 0],
        [0, 0, 0, 0],
    ]


@every_map
def test_channels_last_maps_give_channels_last_windows_without_a_copy(side, kind):
    x = random(2, 3, side, side).contiguous(memory_format=torch.channels_last)
    windows = partition(x, kind)
    folded = windows.flatten(0, 1)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert folded.data_ptr() == windows.data_ptr()
    assert torch.equal(windows, partition(x.contiguous(), kind))


@pytest.mark.parametrize(("side", "kind"), [(side, kind) for side, kind in MAPS if side % 2 == 0 and side > 2])
def test_channels_last_windows_give_a_channels_last_map(side, kind):
    folded = random_windows(side, kind).flatten(0, 1).contiguous(memory_format=torch.channels_last)
    assert recompose(folded.unflatten(0, (4, 2)), side, kind).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("side", "kind"), [(4, "average"), (5, "average"), (4, "dilated"), (8, "dilated")])
def test_partition_and_recompose_have_the_true_gradient(side, kind):
    x = random(1, 2, side, side).requires_grad_()
    window = window_side(side, kind)
    windows = random(4, 1, 2, window, window).requires_grad_()
    assert gradcheck(lambda x: partition(x, kind), x)
    assert gradcheck(lambda windows: recompose(windows, side, kind), windows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: partition(torch.zeros(1, 1, 4, 6), "average"), r"square map .*\(1, 1, 4, 6\)"),
        (lambda: partition(torch.zeros(1, 1, 4, 4), "dilate"), "average, dilated, whole, got 'dilate'"),
        (lambda: partition(torch.zeros(1, 1, 6, 6), "dilated"), "multiple of 4, got 6"),
        (lambda: partition(torch.zeros(1, 1, 5, 5), "dilated"), "multiple of 4, got 5"),
        (lambda: window_side(8, "striped"), "average, dilated, whole, got 'striped'"),
        (lambda: recompose(torch.zeros(3, 1, 1, 2, 2), 4, "average"), r"windows \(4, .*got \(3, 1, 1, 2, 2\)"),
        (lambda: recompose(torch.zeros(4, 1, 1, 2, 2), 4, "dilated"), r"\(4, B, C, 3, 3\).*got \(4, 1, 1, 2, 2\)"),
        (lambda: recompose(torch.zeros(4, 1, 1, 2, 3), 4, "average"), r"\(4, B, C, 2, 2\).*got \(4, 1, 1, 2, 3\)"),
        (lambda: recompose(torch.zeros(4, 1, 1, 2, 2), 6, "dilated"), "multiple of 4, got 6"),
        (lambda: recompose(torch.zeros(4, 1, 1, 2, 2), 4, "tiled"), "average, dilated, whole, got 'tiled'"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_what_was_expected_and_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.0, [0, 1, 1, 1, 1]),
        (0.1, [0, 1, 1, 1, 1]),
        (0.25, [0, 0.25, 1, 1, 1]),
        (0.5, [0, 0.25, 0.5, 1, 1]),
        (0.75, [0, 0.25, 0.5, 0.75, 1]),
    ],
)
def test_region_threshold_makes_whole_what_exceeds_it_and_leaves_the_rest(threshold, expected):
    fractions = torch.tensor([0, 0.25, 0.5, 0.75, 1])
    assert region_threshold(fractions, threshold).tolist() == expected
    assert fractions.tolist() == [0, 0.25, 0.5, 0.75, 1], "the input is not written to"


@given(threshold=st.floats(0, 0.24), side=st.sampled_from(DILATED_SIDES), dtype=DTYPES, seed=st.integers(0, 1000))
def test_below_a_quarter_a_pixel_fires_as_soon_as_one_window_fires_there(threshold, side, dtype, seed):
    spikes = (random_windows(side, "dilated", seed=seed) > 0.8).to(dtype)
    recomposed = recompose(spikes, side, "dilated")
    assert torch.equal(region_threshold(recomposed, threshold), (recomposed > 0).to(dtype))


def test_region_threshold_lets_the_gradient_straight_through():
    x = torch.tensor([-1.0, 0.0, 0.1, 0.25, 0.75, 1.0, 3.0], requires_grad=True)
    upstream = torch.arange(1.0, 8.0)
    region_threshold(x, 0.1).backward(upstream)
    assert torch.equal(x.grad, upstream)


@both_kinds
def test_the_gradient_of_a_map_survives_cutting_thresholding_and_recomposing(kind):
    x = random(1, 1, 8, 8).requires_grad_()
    upstream = random(1, 1, 8, 8, seed=1)
    region_threshold(recompose(partition(x, kind), 8, kind), 0.1).backward(upstream)
    torch.testing.assert_close(x.grad, upstream, rtol=0, atol=1e-15)


def test_region_threshold_of_spikes_with_a_sign_is_odd():
    x = torch.tensor([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0])
    assert region_threshold(x, 0.3, signed=True).tolist() == [-1.0, -1.0, -0.25, 0.0, 0.25, 1.0, 1.0]


@pytest.mark.parametrize(
    ("windows", "kinds"),
    [("alternating", ["average", "dilated", "average"]), ("none", ["whole"] * 3), ("dilated", ["dilated"] * 3)],
)
def test_kinds_of_blocks_in_turn(windows: str, kinds: list[str]):
    assert list(islice(window_kinds(windows), 3)) == kinds


def test_a_whole_map_is_one_window():
    x = random(2, 3, 5, 5)
    assert (window_count("whole"), window_side(5, "whole")) == (1, 5)
    assert torch.equal(partition(x, "whole"), x[None])
    assert torch.equal(recompose(x[None], 5, "whole"), x)
    with pytest.raises(
        ValueError, match=r"^recompose: expected windows \(1, B, C, 5, 5\) for a whole map of side 5, got"
    ):
        recompose(x.expand(4, *x.shape), 5, "whole")


def test_where_dilated_windows_do_not_fit_they_are_average():
    assert [window_kind_at("dilated", side) for side in (4, 6, 7, 8)] == ["dilated", "average", "average", "dilated"]
    assert [window_kind_at(kind, 6) for kind in ("average", "whole")] == ["average", "whole"]


@pytest.mark.parametrize("whole", [torch.uint8, torch.int8, torch.int64, torch.bool])
@pytest.mark.parametrize("kind", ["average", "dilated", "whole"])
def test_recompose_of_bytes_or_of_true_and_false_does_not_wrap(kind, whole):
    x = torch.tensor([[100, 127], [0, 1]]).repeat(4, 4).to(whole)[None, None]
    assert recompose(partition(x, kind), 8, kind).double().equal(x.double())


def test_windows_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"^windows: expected one of alternating, none, average, .*, got 'sliding'$"):
        window_kinds("sliding")
    with pytest.raises(ValueError, match=r"^window kind: expected one of average, dilated, whole, got 'sliding'$"):
        window_count("sliding")


@pytest.mark.parametrize("odd", [-0.1, 1.0, 1.5, float("nan")])
def test_region_threshold_is_below_one(odd):
    with pytest.raises(ValueError, match=r"^threshold: expected 0 <= threshold < 1, got"):
        region_threshold(torch.zeros(3), odd)
