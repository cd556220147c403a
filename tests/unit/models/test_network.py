"""The whole network: draws, time steps, precision."""

import copy
import math

import pytest
import torch
from torch import nn

from onespike import create_model
from onespike.functional import partition
from onespike.models.recompute import run_again_later
from onespike.neurons import Neuron


def make_network(name="conv12", **overrides):
    """A small network in float64 and evaluation, whose head tells its inputs apart."""
    torch.manual_seed(0)
    small = {"depths": (1, 2), "channels": (6, 8), "image_size": 16, "num_classes": 5}
    network = create_model(name, **{**small, **overrides}).double().eval()
    nn.init.normal_(network.head.weight)
    return network


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_images(network, batch=3):
    shape = (batch, network.in_channels, network.image_size, network.image_size)
    return torch.randn(shape, dtype=torch.float64, generator=seeded(1))


def test_a_generator_makes_a_pass_reproducible_in_training_too():
    network = make_network(dropout=0.2, time_steps=2)
    images = random_images(network)
    for mode in (True, False):
        network.train(mode)
        again = [network(images, generator=seeded(seed)) for seed in (7, 7, 8)]
        assert torch.equal(again[0], again[1])
        assert not torch.equal(again[0], again[2])


def test_without_a_generator_the_global_one_is_drawn_from():
    network = make_network()
    images = random_images(network)
    torch.manual_seed(7)
    first, second = network(images), network(images)
    torch.manual_seed(7)
    assert torch.equal(network(images), first)
    assert not torch.equal(first, second), "drawn anew at every forward pass, at test time too"


@pytest.mark.parametrize("time_steps", [1, 3])
def test_drawing_beforehand_is_drawing_on_the_way(time_steps):
    network = make_network(time_steps=time_steps)
    images = random_images(network)
    draws = network.draw(3, seeded(7))
    assert torch.equal(network(images, draws), network(images, generator=seeded(7)))
    assert torch.equal(network(images, draws), network(images, draws))
    assert not torch.equal(network(images, draws), network(images, network.draw(3, seeded(8))))


def test_draws_are_uniform_and_never_coarser_than_float32():
    network = make_network(depths=(2, 4), time_steps=2)
    for dtype, expected in ((torch.float64, torch.float64), (torch.float32, torch.float32)):
        draws = network.to(dtype).draw(8, seeded(0))
        assert {draw.dtype for draw in draws} == {expected}
    assert network.to(torch.bfloat16).draw(1)[0].dtype == torch.float32
    values = torch.cat([draw.flatten() for draw in draws])
    assert values.min() >= 0
    assert values.max() < 1
    assert values.mean().item() == pytest.approx(0.5, abs=4 / math.sqrt(12 * len(values)))


@pytest.mark.parametrize("time_steps", [1, 2])
def test_draws_are_consumed_in_the_order_of_time_steps_and_blocks(time_steps):
    network = make_network(depths=(2, 2), time_steps=time_steps)
    draws, seen = network.draw(3, seeded(7)), []
    for block in network.blocks():
        block.register_forward_pre_hook(lambda block, inputs: seen.append(partition(inputs[0], block.window_kind)))
        block.unit.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(random_images(network), draws)
    assert len(draws) == len(network.blocks()) * time_steps
    for windows, spikes, draw in zip(seen[::2], seen[1::2], draws, strict=True):
        assert torch.equal(spikes, (windows > draw).double())


@pytest.mark.parametrize("more", [-1, 1])
def test_there_is_one_tensor_of_draws_for_each_time_step_and_block(more):
    network = make_network(time_steps=2)
    draws = network.draw(3)
    with pytest.raises(ValueError, match=rf"^draws: expected 6 tensors, .*, got {6 + more}"):
        network(random_images(network), (draws + draws)[: 6 + more])


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 1, 16, 16), (2, 3, 32, 32), (2, 3, 16, 8)])
def test_images_of_another_shape_are_an_error_that_says_which_was_expected(shape):
    with pytest.raises(ValueError, match=r"expected \(B, 3, 16, 16\), got \(" + ", ".join(map(str, shape))):
        make_network()(torch.zeros(shape))


@pytest.mark.parametrize("encoding", ["bernoulli", "threshold"])
def test_logits_are_averaged_over_time_steps_and_the_first_is_a_network_of_one(encoding):
    network = make_network(encoding=encoding, time_steps=3)
    images, draws, steps = random_images(network), network.draw(3, seeded(7)), []
    network.head.register_forward_hook(lambda *seen: steps.append(seen[-1]))
    logits = network(images, draws)
    assert len(steps) == 3
    torch.testing.assert_close(logits, (steps[0] + steps[1] + steps[2]) / 3)
    single = make_network(encoding=encoding, time_steps=1)
    single.load_state_dict(network.state_dict())
    assert torch.equal(single(images, draws[: len(network.blocks())]), steps[0])


@pytest.mark.parametrize(("decay", "same"), [(0.0, True), (0.4, False)])
def test_with_a_deterministic_encoding_time_steps_differ_by_the_neurons_memory_alone(decay, same):
    networks = [
        make_network(encoding="threshold", fusion="none", neuron={"decay": decay}, time_steps=steps) for steps in (1, 2)
    ]  # no decay, nothing remembered; no fusion, so that only the memory can decay
    once, twice = (network(random_images(network)) for network in networks)
    assert torch.allclose(once, twice, rtol=1e-12, atol=1e-12) == same


@pytest.mark.parametrize("time_steps", [1, 3])
def test_a_network_keeps_no_state_between_passes(time_steps):
    network = make_network(encoding="threshold", time_steps=time_steps)
    images, before = random_images(network), copy.deepcopy(network.state_dict())
    first = network(images)
    network(random_images(network, batch=1))
    assert torch.equal(network(images), first)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert network.state_dict().keys() == before.keys()


@pytest.mark.parametrize("training", [True, False])
def test_dropout_acts_in_training_alone(training):
    network = make_network(encoding="threshold", dropout=0.3).train(training)
    images = random_images(network)
    assert torch.equal(network(images), network(images)) != training


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler does that itself
def test_with_its_draws_injected_a_whole_network_compiles_into_one_graph():
    network = make_network(depths=(1,), channels=(6,))
    images, draws = random_images(network), network.draw(3, seeded(7))
    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images, draws), network(images, draws), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(("name", "preset", "training"), [("conv-tiny", "paper", False), ("conv12", "modern", True)])
def test_the_default_compiler_computes_the_same(name, preset, training):
    if training and torch.__version__ < "2.7":
        pytest.skip("the compiler of PyTorch 2.6 fails on windows of several sizes, with gradients")
    torch.manual_seed(0)
    options = {"depths": (1, 1), "channels": (8, 8), "image_size": 16}
    network = create_model(name, preset=preset, **options).train(training)
    nn.init.normal_(network.head.weight)
    network.to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    assert {block.window_kind for block in network.blocks()} == {"average", "dilated"}
    torch.compiler.reset()
    results = []
    for function in (network, torch.compile(network)):
        with torch.set_grad_enabled(training):
            logits = function(images)
        gradients = torch.autograd.grad(logits.square().sum(), list(network.parameters())) if training else ()
        results.append([logits, *gradients])
    for ours, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, ours, rtol=1e-3, atol=1e-4)


def spikes_of(network, images, precision):
    """The spikes of all neurons, layer after layer, and what went into each block."""
    spikes, streams = [], []
    hooks = [
        layer.register_forward_hook(lambda *seen: spikes.append(seen[-1]))
        for layer in network.modules()
        if isinstance(layer, Neuron)
    ]
    hooks += [
        block.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0])) for block in network.blocks()
    ]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        network(images)
    for hook in hooks:
        hook.remove()
    return spikes, streams


def flipped(spikes, others):
    differences = [(a != b).float() for a, b in zip(spikes, others, strict=True)]
    return torch.cat([difference.flatten() for difference in differences]).mean().item()


@pytest.fixture(scope="module")
def fresh_conv12():
    torch.manual_seed(0)
    network = create_model("conv12", encoding="threshold").eval()
    return network, torch.randn(4, 3, 32, 32, generator=seeded(1))


def test_bf16_flips_few_spikes_of_conv12(fresh_conv12):
    network, images = fresh_conv12
    spikes, _ = spikes_of(network, images, "fp32")
    rounded, _ = spikes_of(network, images, "bf16")
    per_block = len(spikes) // len(network.blocks())
    # Potentials carry 8 bits; a neuron near its threshold flips, and those behind it hear of it.
    assert 0 < flipped(spikes[:1], rounded[:1]) < 0.003, "the encoding of the first block"
    assert flipped(spikes[:per_block], rounded[:per_block]) < 0.02, "the first block"
    assert flipped(spikes, rounded) < 0.12, "all blocks, with what they inherit"


def test_bf16_flips_few_spikes_of_a_block_that_is_given_the_same_map(fresh_conv12):
    network, images = fresh_conv12
    _, streams = spikes_of(network, images, "fp32")
    for block, x in zip(network.blocks(), streams, strict=True):
        alone = [spikes_of_block(block, x, precision) for precision in ("fp32", "bf16")]
        assert flipped(*alone) < 0.02


def spikes_of_block(block, x, precision):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        windows = block.encoder(partition(x, block.window_kind))
        return [fired for _, fired in block.unit(windows).memory]


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_under_bf16_autocast_the_residual_stream_stays_float32(norm):
    network = create_model("conv-tiny", norm=norm)
    _, streams = spikes_of(network, torch.randn(2, 3, 32, 32, generator=seeded(1)), "bf16")
    assert {stream.dtype for stream in streams} == {torch.float32}


@pytest.mark.parametrize("time_steps", [1, 2])
@pytest.mark.parametrize("name", ["conv12", "gru12"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_running_blocks_again_gives_the_same_gradients_and_statistics(name, norm, time_steps):
    results = []
    for recompute in (False, True):
        network = make_network(name, norm=norm, time_steps=time_steps, dropout=0.2).train()
        network.recompute = recompute
        images = random_images(network)
        seen = []
        network.blocks()[0].register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        torch.manual_seed(1)
        logits = network(images)
        once = len(seen)
        logits.square().sum().backward()
        assert len(seen) == (2 * once if recompute else once)
        statistics = [buffer for key, buffer in network.named_buffers() if "running" in key]
        results.append([logits, *(parameter.grad for parameter in network.parameters()), *statistics])
    for again, kept in zip(*reversed(results), strict=True):
        torch.testing.assert_close(again, kept, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_what_runs_again_updates_statistics_once(kind):
    norm, dims = kind(3), {nn.BatchNorm1d: 0, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}[kind]
    run_again_later(norm)(x := torch.rand(8, 3, *[2] * dims, requires_grad=True)).square().sum().backward()
    assert (norm.num_batches_tracked, norm.momentum) == (1, 0.1)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.detach().transpose(0, 1).flatten(1).mean(1))


def test_blocks_that_run_again_refuse_a_generator_whose_draws_are_gone():
    network = make_network()
    network.recompute = True
    with pytest.raises(ValueError, match="pass draws"):
        network(random_images(network), generator=torch.Generator())
    with torch.no_grad():  # nothing runs again
        network(random_images(network), generator=seeded(0))
