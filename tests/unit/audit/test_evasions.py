"""Networks that would pass for spiking, or for cheap: each is counted, or refused by name. Counts are by hand."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onespike.audit import audit, compare, read_spikes
from onespike.counting.energy import EnergyTable
from onespike.counting.operations import Operations, count_operations
from onespike.data.loader import derive_seed
from onespike.errors import OnespikeError
from tests.forward import Forward
from tests.running import raising


def counted(function, x: Tensor, axis: int | None = None, **parts) -> Operations:
    torch.manual_seed(0)
    return count_operations(Forward(function, **parts), [x], batch_axis=axis)


def behind(operations: Operations) -> list[bool]:
    """Whether each product behind the stem reads spikes alone."""
    return [reading.holds for reading in read_spikes(operations) if not reading.stem]


def fired(x: Tensor) -> Tensor:
    return (x > 0).float()


# ---------------------------------------------------------------- what is the stem


def test_the_stem_is_what_reads_the_input_wherever_it_is_written():
    weights = {"a": torch.randn(16, 8), "b": torch.randn(16, 16), "c": torch.randn(4, 16)}

    def tanh(self, x):
        return F.linear(F.linear(F.linear(x, self.a).tanh(), self.b).tanh(), self.c)

    assert behind(counted(tanh, torch.randn(6, 8), **weights)) == [False, False]


def test_a_product_in_the_networks_own_forward_has_the_name_of_its_class():
    operations = counted(lambda self, x: F.linear(x, self.w), torch.randn(6, 8), w=torch.randn(4, 8))
    assert [reading.path for reading in read_spikes(operations)] == ["Forward"]


def test_the_order_of_registration_says_nothing():
    def forward(self, x):
        return self.head(fired(self.conv(x)))

    assert behind(counted(forward, torch.randn(6, 8), head=nn.Linear(16, 4), conv=nn.Linear(8, 16))) == [True]


def test_a_layer_that_reads_the_input_and_then_something_else_is_the_stem_once():
    operations = counted(lambda self, x: self.same(self.same(x).tanh()), torch.randn(6, 8), same=nn.Linear(8, 8))
    assert behind(operations) == [False]
    assert [product.first for product in operations.products] == [True, False]


def test_a_skip_around_a_layer_leads_behind_it():
    def forward(self, x):
        return self.b(x + self.a(x).tanh())

    assert behind(counted(forward, torch.randn(6, 8), a=nn.Linear(8, 8), b=nn.Linear(8, 4))) == [False]


def test_a_layer_that_is_written_out_lies_in_between_too():
    def forward(self, x):
        return self.b((x[:, None].expand(-1, 5, -1) * self.w).sum(-1).tanh())

    assert behind(counted(forward, torch.randn(6, 4), w=torch.randn(5, 4), b=nn.Linear(5, 4))) == [False]


def test_a_network_that_calls_itself_has_one_stem():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x, depth=0):
            return x if depth == 3 else self(self.parts[depth](x).tanh(), depth + 1)

    assert behind(count_operations(Deep(), [torch.randn(6, 8)])) == [False, False]


def test_a_state_of_the_inputs_shape_is_not_the_input():
    def forward(self, x):
        state = x.new_zeros(len(x), 16)
        for _ in range(2):
            state = fired(self.i(x) + self.r(state))
        return state

    operations = counted(forward, torch.randn(6, 8), i=nn.Linear(8, 16), r=nn.Linear(16, 16))
    assert [(product.first, product.macs) for product in operations.products] == [(True, 256), (False, 512)]


def test_a_layer_that_reads_the_input_at_every_time_step_is_the_stem():
    def forward(self, x):
        return sum(self.head(fired(self.stem_like(x) + step)) for step in range(3))

    assert behind(counted(forward, torch.randn(6, 8), stem_like=nn.Linear(8, 16), head=nn.Linear(16, 4))) == [True]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_only_the_input_of_a_first_recurrent_layer_is_the_stem(kind):
    operations = counted(lambda self, x: self.r(x)[0], torch.randn(2, 3, 4), r=kind(4, 5, batch_first=True))
    assert [(product.name, product.first) for product in operations.products] == [("input", True), ("state", False)]


def test_scores_and_mixtures_of_a_first_attention_are_behind_its_projections():
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    operations = counted(lambda self, x: self.layer(x, x, x)[0], torch.randn(2, 5, 8), layer=layer)
    assert [product.first for product in operations.products] == [True, False, False, False]
    assert behind(operations) == [False, False, False]


# ---------------------------------------------------------------- what is a spike


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 1e-9), (torch.float64, 1e-6), (torch.float32, 4e-6)])
@pytest.mark.parametrize("maps", [False, True])
def test_real_numbers_hidden_in_the_last_bits_are_no_spikes(dtype, size, maps):
    def forward(self, x):
        return self.b(1 + size * self.a(x).tanh())

    shape, kinds = ((64, 8, 3, 3), nn.Conv2d) if maps else ((512, 8), nn.Linear)
    parts = {"a": kinds(8, 16, *[1] * maps).to(dtype), "b": kinds(16, 4, *[1] * maps).to(dtype)}
    assert behind(counted(forward, torch.randn(shape, dtype=dtype), **parts)) == [False]


def test_spikes_of_each_channels_own_size_are_spikes():
    def forward(self, x):
        return self.b(fired(self.a(x)) * self.size)

    parts = {"a": nn.Linear(8, 16), "b": nn.Linear(16, 4), "size": torch.rand(16) + 0.5}
    assert behind(counted(forward, torch.randn(64, 8), **parts)) == [True]


@pytest.mark.parametrize("softmax", [False, True])
def test_a_product_of_spikes_with_real_numbers_does_not_hold(softmax):
    def forward(self, x):
        current = self.stem(x)
        other = current.softmax(-1) if softmax else current
        return fired(current).view(-1, 4, 4) @ other.view(-1, 4, 4)

    operations = counted(forward, torch.randn(6, 8), stem=nn.Linear(8, 16))
    assert behind(operations) == [False]
    product = operations.products[0]
    assert (product.arrives, product.beside) == ("binary", "real")  # it still takes accumulates alone


# ---------------------------------------------------------------- products that are written out


def expanded(self, x):
    return (x[:, None].expand(-1, 5, -1) * self.w).sum(-1)


def repeated(self, x):
    return (x[:, None].repeat(1, 5, 1) * self.w).sum(-1)


def row_by_row(self, x):
    return torch.stack([(x * row).sum(-1) for row in self.w], 1)


def added_to_a_bias(self, x):
    return torch.addcmul(torch.ones(()), x[:, None].repeat(1, 5, 1), self.w).sum(-1)


@pytest.mark.parametrize("function", [expanded, repeated, row_by_row, added_to_a_bias])
@pytest.mark.parametrize("real", [True, False])
def test_a_linear_layer_written_value_by_value_is_a_product(function, real):
    x = torch.randn(6, 4) if real else torch.randint(0, 2, (6, 4)).float()
    operations = counted(function, x, w=torch.randn(5, 4))
    assert operations.macs == 20
    assert operations.elementwise.get("multiply", 0) == 0
    assert operations.synaptic_operations == pytest.approx(0 if real else x.sum().item() * 5 / 6)
    assert {product.arrives for product in operations.products} == {"real" if real else "binary"}


def chosen(self, x):
    return torch.where(x[:, None].expand(-1, 5, -1) > 0, self.w, 0).sum(-1)


def chosen_where_not(self, x):
    return torch.where(x[:, None].expand(-1, 5, -1) == 0, torch.zeros(()), self.w).sum(-1)


def filled_where_not(self, x):
    return torch.where(x[:, None].expand(-1, 5, -1) > 0, self.w, self.w.neg()).sum(-1)


def masked(self, x):
    return self.w.masked_fill(x[:, None].expand(-1, 5, -1) == 0, 0).sum(-1)


@pytest.mark.parametrize("function", [chosen, chosen_where_not, filled_where_not, masked])
def test_weights_that_spikes_choose_and_that_are_summed_are_a_product(function):
    x = torch.randint(0, 2, (6, 4)).float()
    operations = counted(function, x, w=torch.randn(5, 4))
    assert operations.macs == 20
    assert operations.synaptic_operations == pytest.approx(x.sum().item() * 5 / 6)
    assert operations.elementwise.get("compare", 0) == 20  # that of x alone
    assert {product.arrives for product in operations.products} == {"binary"}


def test_a_choice_between_activations_or_by_a_fixed_mask_is_no_product():
    def forward(self, x):
        fixed = torch.where(self.w > 0, self.w, torch.zeros(4)).sum(-1)
        return torch.where(x > 0, self.w, x).sum(-1) + torch.where(x > 0, x, 0.0).sum(-1) + fixed

    assert counted(forward, torch.randn(3, 4), w=torch.randn(4)).macs == 0


def test_behind_the_stem_it_has_to_read_spikes():
    def forward(self, x):
        return expanded(self, self.stem(x).tanh())

    assert behind(counted(forward, torch.randn(6, 8), stem=nn.Linear(8, 4), w=torch.randn(5, 4))) == [False]


def test_a_depthwise_convolution_of_unfolded_windows_is_a_product():
    def forward(self, x):
        return (x.unfold(2, 3, 1).unfold(3, 3, 1) * self.w.view(1, 4, 1, 1, 3, 3)).sum((-1, -2))

    operations = counted(forward, torch.randn(2, 4, 8, 8), w=torch.randn(4, 3, 3))
    assert operations.macs == 4 * 36 * 9


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: (x * self.w).T.sum(1),  # over the images
        lambda self, x: (x * self.w).amax(-1),
        lambda self, x: (x * self.w).copy_(x).sum(-1),
        lambda self, x: (torch.view_as_complex(x.view(4, 2, 2)) * self.w[:2]).sum(-1).real,  # four for each pair
    ],
)
def test_what_is_not_summed_over_the_weights_is_no_product(function):
    assert counted(function, torch.randn(4, 4), w=torch.randn(4)).macs == 0


@pytest.mark.parametrize("other", ["spikes", "real"])
@pytest.mark.parametrize("how", ["product", "in place", "overwritten"])
def test_what_is_multiplied_counts_as_it_was(how, other):
    def forward(self, x):
        values = fired(x) if other == "spikes" else x.tanh()
        if how == "in place":
            return values.mul_(self.w).sum(-1)
        product = values * self.w
        if how == "overwritten":
            values.fill_(0.3) if other == "spikes" else values.gt_(0)
        return product.sum(-1)

    torch.manual_seed(0)
    [product] = counted(forward, torch.randn(6, 4), w=torch.randn(4)).products
    assert product.arrives == ("binary" if other == "spikes" else "real")
    assert (product.rate < 1) is (other == "spikes")


def test_of_two_uses_of_weights_the_one_that_is_summed_is_a_product_once():
    def forward(self, x):
        weighted = x * self.w
        return weighted.sum(-1) + weighted.sum(-1) + (fired(x) * self.w).amax(-1)

    operations = counted(forward, torch.randn(3, 4), w=torch.randn(4))
    assert operations.macs == 4
    assert operations.elementwise == {"multiply": 4, "add": 4 + 2, "compare": 8}


@pytest.mark.parametrize(
    "weights",
    [
        lambda self: (self.a * torch.ones_like(self.a).tril()) @ self.b,
        lambda self: (self.a * torch.full_like(self.a, 0.5)) @ self.b,
        lambda self: (self.a * (self.a > torch.zeros_like(self.a))) @ self.b,
    ],
)
def test_weights_that_are_masked_or_scaled_are_weights(weights):
    x = torch.randint(0, 2, (6, 8)).float()
    operations = counted(lambda self, x: F.linear(x, weights(self)), x, a=torch.randn(8, 8), b=torch.randn(8, 8))
    assert [(product.arrives, product.macs) for product in operations.products] == [("binary", 64)]


def test_a_factor_of_each_channel_before_a_mean_over_the_map_is_no_product():
    def forward(self, x):
        return (x * self.gamma.view(1, -1, 1, 1)).mean((2, 3))

    operations = counted(forward, torch.randn(2, 4, 8, 8), gamma=torch.randn(4))
    assert operations.macs == 0
    assert operations.elementwise == {"multiply": 256, "add": 256}


# ---------------------------------------------------------------- work that is no product


@pytest.mark.parametrize(
    ("function", "work"),
    [
        (lambda _, x: (x > 0).to(torch.uint8) + (x > 1).to(torch.uint8), {"compare": 8, "add": 4}),
        (lambda _, x: (((x * 100).int() * 205) >> 8) > 12, {"multiply": 8, "add": 4, "compare": 4}),
        (lambda _, x: (x > 0) & ~(x > 1), {"compare": 16}),
        (lambda _, x: x + torch.arange(8)[4:].sub(1), {"add": 4}),  # of indices alone, free
        (lambda _, x: torch.view_as_real(torch.view_as_complex(x.view(-1, 2, 2)).mul(2j)), {"multiply": 8, "add": 4}),
        (lambda _, x: torch.addmm(x, x, torch.eye(4), beta=0.5, alpha=0.1), {"multiply": 8}),
        (lambda _, x: torch.addmm(x, x, torch.eye(4), beta=0), {}),
        (lambda _, x: x.sort(-1).values, {"compare": 8}),  # 4 values, log2(4) comparisons each
        (lambda _, x: x.square() + x**2 + x**3, {"multiply": 8, "special": 4, "add": 8}),
        (lambda _, x: 1 / x, {"multiply": 8}),
        (lambda _, x: F.prelu(x, torch.ones(1)), {"multiply": 4, "compare": 4}),
        (lambda _, x: F.leaky_relu(x), {"multiply": 4, "compare": 4}),
        (lambda _, x: F.hardswish(F.hardswish(x), inplace=True), {"special": 8}),
        (lambda _, x: F.hardtanh(x) + x.amax() + x.argmax(), {"compare": 12, "add": 8}),
        (lambda _, x: torch.sub(x, x, alpha=2) - x, {"multiply": 4, "add": 8}),
        (lambda _, x: torch.addcmul(x, x, x, value=2) + torch.addcmul(x, x, x), {"multiply": 12, "add": 12}),
        (lambda _, x: x.cumsum(0) + x.prod(1, keepdim=True), {"add": 8, "multiply": 4}),
        (lambda _, x: F.one_hot(x.kthvalue(2, 1).indices, 4), {"compare": 4 + 2}),
        (lambda _, x: x.cummax(1).values + x.cumprod(1) + x.count_nonzero(), {"compare": 8, "multiply": 4, "add": 12}),
        (lambda _, x: torch.poisson(x.abs()) + torch.empty_like(x).exponential_(), {"random": 8, "add": 8}),
        (lambda _, x: x.norm(dim=1), {"multiply": 4, "add": 4}),
        (lambda _, x: x.var(1, keepdim=True) - x.std(1, keepdim=True), {"multiply": 8, "add": 17}),
        (lambda _, x: F.glu(x) + F.logsigmoid(x)[:, :2], {"special": 6, "multiply": 2, "add": 2}),
        (lambda _, x: x.logsumexp(1), {"compare": 4, "special": 4, "add": 4}),
        (lambda _, x: x.softmax(1), {"compare": 4, "special": 4, "add": 4, "multiply": 4}),
        (lambda _, x: F.layer_norm(x, (4,)), {"multiply": 12, "add": 12}),
        (lambda _, x: F.instance_norm(x.view(3, 1, 2, 2)), {"multiply": 12, "add": 12}),
        (lambda _, x: x.topk(3).values, {"compare": 8}),
        (lambda _, x: torch.rand_like(x) + x, {"random": 4, "add": 4}),
        (lambda _, x: F.avg_pool1d(x, 2), {"add": 4}),
        (lambda _, x: F.avg_pool2d(x.view(3, 2, 2), [2]), {"add": 4}),  # of maps without a batch
        (lambda _, x: F.adaptive_avg_pool3d(x.view(3, 1, 2, 2, 1), (1, 2, 1)), {"add": 4}),
        (lambda _, x: F.adaptive_max_pool2d(x.view(3, 1, 2, 2), (1, 2)), {"compare": 4}),
        (lambda _, x: F.interpolate(x[:, None], 8, mode="linear"), {"multiply": 16, "add": 8}),
        (lambda _, x: F.interpolate(x.view(3, 1, 2, 2), 3, mode="bilinear"), {"multiply": 36, "add": 27}),
        (lambda _, x: F.fold(x.view(3, 4, 1), 2, 2), {"add": 4}),
    ],
)
def test_work_is_counted_by_hand(function, work):
    assert counted(function, torch.randn(3, 4), w=torch.randn(4)).elementwise == work


def turned_in_place(x: Tensor) -> Tensor:
    return x.clone().unsqueeze_(1).squeeze_(1).transpose_(0, 1).swapaxes_(0, 1)


def masked(x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0] = 0
    return x


@pytest.mark.parametrize(
    "move",
    [
        *(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2), nn.Unfold(3)),
        *(nn.ReflectionPad1d(1), nn.ReplicationPad1d(1), nn.ReflectionPad3d(1), nn.ReplicationPad3d(1)),
        *(nn.Upsample(scale_factor=2), nn.Upsample(scale_factor=2, mode="nearest-exact"), masked, turned_in_place),
    ],
)
def test_what_only_moves_values_costs_nothing(move):
    axes = {nn.ReflectionPad1d: 1, nn.ReplicationPad1d: 1, nn.ReflectionPad3d: 3, nn.ReplicationPad3d: 3}
    x = torch.randint(0, 2, (2, 4, *[4] * axes.get(type(move), 2))).float()
    operations = counted(lambda self, x: self.layer(move(x).flatten(1)[:, :16]), x, layer=nn.Linear(16, 3))
    (product,) = operations.products
    assert (product.arrives, product.first) == ("binary", True)
    # Upsampling computes where each row and column comes from, once for a batch; a mask compares.
    allowed = {"add", "multiply"} if isinstance(move, nn.Upsample) else {"compare"} if move is masked else set()
    assert operations.elementwise.keys() <= allowed
    assert sum(operations.elementwise.values()) <= 64


def test_sums_in_places_that_are_computed_are_refused():
    def forward(_, x):
        return torch.zeros(4).index_put((torch.tensor([0, 0, 1]),), x[:, 0], accumulate=True)

    with pytest.raises(OnespikeError, match=r"does aten\.index_put, which the audit cannot count"):
        counted(forward, torch.randn(3, 4))


def test_windows_of_an_adaptive_pooling_overlap():
    for shape, images in (((2, 1, 7, 7), 2), ((1, 7, 7), 1)):
        operations = counted(lambda self, x: self.pool(x), torch.randn(shape), pool=nn.AdaptiveAvgPool2d(5))
        assert operations.elementwise == {"add": 11 * 11 * shape[0] / images}


def test_a_first_state_of_zeros_that_fires_is_counted_at_every_step():
    def forward(self, x):
        v, out = self.i.weight.new_zeros(len(x), 16), 0
        for _ in range(2):
            out = out + self.o((v * self.decay >= 0).float())
            v = v * self.decay + self.i(x)
        return out

    parts = {"i": nn.Linear(8, 16), "o": nn.Linear(16, 4), "decay": torch.rand(16)}
    assert counted(forward, torch.randn(6, 8), **parts).macs == 2 * (8 * 16 + 16 * 4)


# ---------------------------------------------------------------- what is out of sight


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: torch.from_numpy(x.numpy() @ self.w.detach().numpy()),
        lambda _, x: torch.tensor(x.tolist()),
        lambda _, x: torch.from_numpy(np.from_dlpack(x)),
    ],
)
def test_values_that_leave_the_framework_are_refused(function):
    with pytest.raises(OnespikeError, match="takes values out of torch by"):
        counted(function, torch.randn(3, 4), w=torch.randn(4, 4))


def test_a_layer_in_a_thread_of_its_own_is_not_counted_as_nothing():
    def forward(self, x):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self.layer, x).result()

    with pytest.raises(OnespikeError, match=r"layer \(Linear\) runs in a thread of its own"):
        counted(forward, torch.randn(3, 4), layer=nn.Linear(4, 4))


def test_what_a_subclass_adds_to_a_recurrent_layer_is_not_lost():
    class Fancy(nn.LSTM):
        def forward(self, x):
            return super().forward(x)[0] @ torch.ones(4, 1000)

    with pytest.raises(OnespikeError, match="layer \\(Fancy\\) adds to a recurrent layer's forward"):
        counted(lambda self, x: self.layer(x), torch.randn(2, 3, 4), layer=Fancy(4, 4, batch_first=True))


def test_an_error_that_the_network_catches_does_not_end_the_counting():
    def forward(self, x):
        try:
            return self.layer(x.double())
        except ValueError:
            return F.linear(x, self.w)

    operations = counted(forward, torch.randn(3, 4), layer=nn.LSTM(4, 4), w=torch.randn(5, 4))
    assert (operations.macs, operations.layers[0].path) == (20, "")


def test_nor_does_one_of_a_hook():
    def forward(self, x):
        try:
            return self.layer(x)
        except RuntimeError:
            return F.linear(x, self.w)

    layer = nn.Linear(4, 4)
    layer.register_forward_pre_hook(raising(RuntimeError))
    assert counted(forward, torch.randn(3, 4), layer=layer, w=torch.randn(5, 4)).macs == 20


def test_a_recurrent_layer_takes_its_input_by_name():
    operations = counted(
        lambda self, x: self.layer(input=x)[0], torch.randn(2, 3, 4), layer=nn.GRU(4, 4, batch_first=True)
    )
    assert operations.macs == 3 * 2 * 3 * 4 * 4


# ---------------------------------------------------------------- how many images there are


@pytest.mark.parametrize(
    ("layer", "macs"), [(nn.Conv3d(1, 2, 3), 27 * 2 * 27), (nn.ConvTranspose3d(1, 2, 3), 125 * 2 * 27)]
)
def test_volumes_are_no_time_steps(layer, macs):
    assert counted(lambda self, x: self.layer(x), torch.randn(8, 1, 5, 5, 5), layer=layer).macs == macs


@pytest.mark.parametrize("axis", [None, 1])
def test_time_may_come_first(axis):
    def forward(self, x):
        return sum(self.layer(frame) for frame in x)

    operations = counted(forward, torch.randn(25, 2, 4), axis, layer=nn.Linear(4, 4))
    assert (operations.images, operations.macs) == (2, 25 * 16)


def test_rows_of_an_output_that_are_no_images_tell_nothing():
    operations = counted(lambda self, x: self.layer(x.flatten(0, 1)), torch.randn(4, 3, 6), layer=nn.Linear(6, 5))
    assert (operations.images, operations.macs) == (4, 3 * 6 * 5)


def test_an_audit_takes_the_axis_the_seed_and_a_name():
    network = Forward(lambda net, x: net.layer(torch.bernoulli(x)).sum(0), layer=nn.Linear(4, 4))
    x, counted = torch.rand(25, 2, 4), []
    for seed in (0, 1):
        found = audit(network, [x, x], name="mine", seed=seed, batch_axis=1)
        assert (found.name, found.operations.images, found.operations.macs) == ("mine", 4, 25 * 16)
        arrived = []
        for number in (0, 1):
            torch.manual_seed(derive_seed(seed, number))
            arrived.append(torch.bernoulli(x).sum().item())
        assert found.operations.synaptic_operations == sum(arrived) * 4 / 4
        counted.append(arrived)
    assert counted[0] != counted[1]
    assert audit(network, [x]).name == "Forward"


def test_an_axis_that_is_not_there_is_refused():
    with pytest.raises(OnespikeError, match="batch_axis: expected an axis of \\(3, 4\\), got 2"):
        counted(lambda _, x: x, torch.randn(3, 4), 2)


# ---------------------------------------------------------------- comparisons


def test_an_artificial_twin_is_not_charged_for_time_steps():
    from onespike.models import create_model

    images = torch.randn(2, 3, 16, 16)
    for steps, variants in ((1, ("network", "binary", "ann")), (4, ("network", "binary"))):
        network = create_model("spiking-vgg-xs", image_size=16, time_steps=steps)
        found = audit(network, [images])
        assert (found.operations.steps, found.variants) == (steps, variants)
        assert (found.to_json()["steps"], tuple(found.to_json()["energy"]["field"])) == (steps, variants)


def test_energies_of_different_tables_are_not_compared(tmp_path):
    from onespike.counting.energy import DEFAULT

    dearer = tmp_path / "dearer.yaml"
    dearer.write_text(DEFAULT.read_text().replace("multiply: 3.7", "multiply: 37"))
    tables = EnergyTable.load(), EnergyTable.load(dearer)
    audits = [audit(nn.Linear(4, 4), [torch.randn(3, 4)], table=table, accuracy=90.0) for table in tables]
    made, refused = compare(audits)
    assert made == []
    assert "priced by different energy tables" in refused[0]
