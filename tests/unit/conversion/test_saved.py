"""Converted networks saved without pickle and loaded into fresh networks, exported, and a large one converted."""

import json
import subprocess
import sys

import pytest
import timm
import torch
import torchvision
from torch import nn

import onespike
from onespike import load_converted
from onespike.conversion import Calibration
from onespike.conversion.network import ConvertedNetwork
from onespike.durable import read_whole
from onespike.errors import OnespikeError
from onespike.functional import SURROGATES
from onespike.models import create_model
from onespike.neurons import QCFS
from tests.forward import Forward
from tests.running import raising

FAST = Calibration("maximum", correct="bias")
#: One of each source, in options of each kind.
NETWORKS = {
    "torchvision": (lambda: torchvision.models.squeezenet1_1(num_classes=5), {"time_steps": 2}),
    "timm": (lambda: timm.create_model("resnet18", num_classes=5), {"batch_norm": "kept", "shortcuts": "real"}),
    "folded": (lambda: normed(), {"batch_norm": "folded"}),
    "ours": (lambda: create_model("vit12", num_classes=5, image_size=64), {"allow_real": True, "time_steps": 2}),
    "a population": (lambda: nn.Sequential(nn.MaxPool2d(8), plain()), {"population": 3, "neurons": "layer"}),
}


def plain(width: int = 8, pool: type[nn.Module] = nn.MaxPool2d) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), pool(2), nn.Flatten(), nn.Linear(9 * width, 5)).eval()


def normed() -> nn.Module:
    """Layers without a bias, which get one from batch norm."""
    return nn.Sequential(
        *(nn.MaxPool2d(8), nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(288, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 5)),
    ).eval()


def deep() -> nn.Module:
    """A stand-in for VGG: batch norm, a first linear layer of many more columns than images."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(2048, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 5)),
    ).eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_loaded_network_gives_the_same_logits_to_the_bit(name, tmp_path):
    torch.manual_seed(0)
    make, options = NETWORKS[name]
    images = torch.randn(6, 3, 64, 64)
    conversion = onespike.convert(make(), images, calibration=FAST, **options)
    conversion.save(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"conversion.json", "model.safetensors"}
    fresh = make()
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    loaded = load_converted(tmp_path / "saved", fresh)
    with torch.no_grad():
        assert torch.equal(loaded.network(images), conversion.network(images))
    assert not loaded.network.training
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())
    assert (loaded.layers, loaded.images, loaded.real) == (conversion.layers, 6, conversion.real)
    assert loaded.network.config == conversion.network.config
    assert all(parameter.requires_grad for parameter in loaded.network.parameters())
    assert all(parameter.requires_grad for parameter in conversion.network.parameters())


def test_a_conversion_is_read_whole_while_another_takes_its_place(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network, images = plain(), torch.randn(4, 3, 8, 8)
    one, two = (onespike.convert(network, images[:count], calibration=FAST) for count in (4, 2))
    one.save(tmp_path / "saved")
    swaps = []

    def read_after_a_swap(path, *most):
        if path.name == "model.safetensors" and not swaps:
            swaps.append(path)
            two.save(tmp_path / "saved")
        return read_whole(path, *most)

    monkeypatch.setattr("onespike.conversion.conversion.read_whole", read_after_a_swap)
    assert load_converted(tmp_path / "saved", network).images == 2
    assert len(swaps) == 1


def test_a_network_that_reads_whole_numbers_is_loaded(tmp_path):
    make = lambda: nn.Sequential(nn.Embedding(9, 6), nn.Flatten(), nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 3))  # noqa: E731
    words = torch.randint(9, (32, 4), generator=torch.Generator().manual_seed(0))
    conversion = onespike.convert(make(), words, allow_real=True)
    conversion.save(tmp_path / "saved")
    loaded = load_converted(tmp_path / "saved", make())
    assert loaded.images_dtype == conversion.images_dtype == "int64"
    assert torch.equal(loaded.network(words), conversion.network(words))
    loaded.save(tmp_path / "again")
    assert torch.equal(load_converted(tmp_path / "again", make()).network(words), conversion.network(words))


@pytest.mark.parametrize("neurons", ["layer", "channel"])
def test_the_artificial_twin_of_a_loaded_network_has_the_thresholds_of_its_staircases(neurons, tmp_path):
    make = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), QCFS(1), nn.Flatten(), nn.Linear(288, 5))  # noqa: E731
    network, images = make(), torch.randn(16, 3, 8, 8)
    nn.init.constant_(network[1].raw_threshold, 0.3)
    conversion = onespike.convert(network, images, neurons=neurons)
    conversion.save(tmp_path / "saved")
    loaded = load_converted(tmp_path / "saved", make())
    with torch.no_grad():
        assert torch.equal(conversion.network.analog()(images), network(images))
        assert torch.equal(loaded.network.analog()(images), network(images))
        conversion.network.neurons["1"].raw_threshold += 0.5  # as training does
        torch.testing.assert_close(conversion.network.analog()(images), conversion.network(images))


def test_double_precision_is_saved_as_it_is(tmp_path):
    images = torch.randn(16, 3, 8, 8).double()
    conversion = onespike.convert(plain().double(), images)
    conversion.save(tmp_path)  # an empty folder
    with torch.no_grad():
        assert torch.equal(load_converted(tmp_path, plain()).network(images), conversion.network(images))


def test_channels_last_stays_channels_last(tmp_path):
    make = lambda: deep().to(memory_format=torch.channels_last)  # noqa: E731
    images = torch.randn(6, 3, 16, 16)
    conversion = onespike.convert(make(), images, calibration=FAST)
    conversion.save(tmp_path / "saved")
    loaded = load_converted(tmp_path / "saved", make())
    own, other = ([one.stride() for one in each.network.state_dict().values()] for each in (conversion, loaded))
    assert own == other
    with torch.no_grad():
        assert torch.equal(loaded.network(images), conversion.network(images))


def test_a_surrogate_that_nobody_registered_is_no_damage(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(SURROGATES, "mine", torch.zeros_like)
        onespike.convert(plain(), torch.randn(16, 3, 8, 8), surrogate="mine").save(tmp_path / "saved")
    with pytest.raises(OnespikeError, match=r"^unknown surrogate 'mine'.* add --import MODULE$"):
        load_converted(tmp_path / "saved", plain())


def test_what_could_not_be_loaded_is_not_saved(tmp_path, monkeypatch):
    conversion = onespike.convert(plain(), torch.randn(16, 3, 8, 8))
    monkeypatch.setattr("onespike.conversion.conversion._MOST", 383)
    with pytest.raises(OnespikeError, match=r"traced: expected images, at most 383 numbers in all, got \(2, 3, 8, 8\)"):
        conversion.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_an_earlier_conversion_is_replaced_and_nothing_else(tmp_path, monkeypatch):
    images, out = torch.randn(16, 3, 8, 8), tmp_path / "saved"
    for steps in (1, 2):
        onespike.convert(plain(), images, time_steps=steps).save(out)
    assert load_converted(out, plain()).network.time_steps == 2
    conversion = onespike.convert(plain(), images)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_text("mine")
    refusals = {"notes": "notes holds mine.txt, which is of no earlier conversion", "file": "file is no folder"}
    refusals |= {"weights": "weights holds model.safetensors, which is of no earlier conversion"}
    for other, refusal in refusals.items():
        with pytest.raises(OnespikeError, match=refusal):
            conversion.save(tmp_path / other)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"

    with monkeypatch.context() as patch:
        patch.setattr("onespike.folders.flush", raising(OSError(28, "No space left on device")))
        with pytest.raises(OnespikeError, match=r"cannot write .*saved: No space left on device"):
            conversion.save(out)
    assert load_converted(out, plain()).network.time_steps == 2
    out.rename(tmp_path / ".saved.old")  # a crash between the two renames
    assert load_converted(out, plain()).network.time_steps == 2
    conversion.save(out)
    assert load_converted(out, plain()).network.time_steps == 1
    assert {path.name for path in tmp_path.iterdir()} == {"saved", "notes", "weights", "file"}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: plain(9), r"another network: expected %1 = 0 Conv2d\(3, 8, .*, got %1 = 0 Conv2d\(3, 9, "),
        (lambda: plain(pool=nn.AvgPool2d), r"another network: expected %3 = 2 PoolSpikes\(.*, got %3 = 2 AvgPool2d"),
        (lambda: nn.Sequential(*plain(), nn.Identity(), nn.Linear(5, 5)), r"expected %6 = output \(%5,"),
        (lambda: torchvision.models.squeezenet1_1(num_classes=5), r"does not take 2 images|another network"),
    ],
)
def test_another_network_is_refused_in_one_line(other, message, tmp_path):
    onespike.convert(plain(), torch.randn(16, 3, 8, 8)).save(tmp_path / "saved")
    with pytest.raises(OnespikeError, match=message) as error:
        load_converted(tmp_path / "saved", other())
    assert "\n" not in str(error.value)


def test_names_that_another_pytorch_gives_its_nodes_do_not_matter(tmp_path, monkeypatch):
    onespike.convert(plain(), torch.randn(16, 3, 8, 8)).save(tmp_path / "saved")
    outline = ConvertedNetwork.outline

    def renamed(network):
        lines = outline(network)
        name, _, called = lines[3].partition(" = ")
        assert called.startswith("2 PoolSpikes")
        assert f"({name},)" in lines[4]
        return [line.replace(name, "_99") for line in lines]

    monkeypatch.setattr(ConvertedNetwork, "outline", renamed)
    load_converted(tmp_path / "saved", plain())
    wired = lambda network: [line.replace("(_99,)", "(_0,)") for line in renamed(network)]  # noqa: E731
    monkeypatch.setattr(ConvertedNetwork, "outline", wired)
    with pytest.raises(OnespikeError, match=r"expected %4 = 3 Flatten.* \(%3,\), got %4 = 3 Flatten.* \(%1,\)"):
        load_converted(tmp_path / "saved", plain())


def test_weights_that_are_no_part_of_a_layer_are_compared_too(tmp_path):
    one, other = (
        Forward(lambda net, x: net.layers(x) * net.scale, layers=plain(), scale=torch.ones(size)) for size in (5, 1)
    )
    onespike.convert(one, torch.randn(16, 3, 8, 8)).save(tmp_path / "saved")
    with pytest.raises(OnespikeError, match=r"another network: .*body\.scale"):
        load_converted(tmp_path / "saved", other)


def test_damage_is_noticed(tmp_path):
    out, images = tmp_path / "saved", torch.randn(16, 3, 8, 8)
    with pytest.raises(OnespikeError, match=r"is no saved conversion: expected model\.safetensors and"):
        load_converted(out, plain())
    onespike.convert(plain(), images).save(out)
    weights, card = (out / "model.safetensors").read_bytes(), (out / "conversion.json").read_text()
    for name, content in (
        ("model.safetensors", weights[:-4] + b"....".replace(b".", b"\x01")),
        ("conversion.json", card[:-9].encode()),
        ("conversion.json", json.dumps({**json.loads(card), "config": {"levels": 2}}).encode()),
        ("conversion.json", json.dumps({**json.loads(card), "layers": [{"layer": "1"}]}).encode()),
    ):
        (out / "model.safetensors").write_bytes(weights)
        (out / "conversion.json").write_text(card)
        (out / name).write_bytes(content)
        with pytest.raises(OnespikeError, match=r"saved is damaged: "):
            load_converted(out, plain())


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # PyTorch 2.6 does so itself
@pytest.mark.parametrize("steps", [1, 2])
def test_torch_export_takes_a_converted_network(steps, convolutional, images):
    converted = onespike.convert(convolutional, images, time_steps=steps).network
    with torch.no_grad():
        program = torch.export.export(converted, (images[:4],))
        assert torch.equal(program.module()(images[:4]), converted(images[:4]))


def test_a_network_like_vgg_is_converted_and_loaded(tmp_path):
    torch.manual_seed(0)
    network, images = deep(), torch.randn(32, 3, 16, 16)
    conversion = onespike.convert(network, images)
    with torch.no_grad():
        off = (conversion.network(images) - network(images)).norm() / network(images).norm()
        not_corrected = onespike.convert(network, images, calibration=Calibration(correct="none")).network(images)
        assert off < 0.5 * (not_corrected - network(images)).norm() / network(images).norm()
    conversion.save(tmp_path / "saved")
    loaded = load_converted(tmp_path / "saved", deep())
    assert torch.equal(loaded.network(images), conversion.network(images))


@pytest.mark.slow
def test_vgg_at_224_pixels_is_converted_in_little_memory():
    code = (
        "import resource, torch, torchvision, onespike\n"
        "found = onespike.convert(torchvision.models.vgg11_bn().eval(), torch.randn(16, 3, 224, 224))\n"
        "print(len(found.layers), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    layers, peak = done.stdout.split()  # the peak of a process in GiB
    assert int(layers) == 10
    assert float(peak) < 5, "columns of 3x3 taps, or a product of 25,088 columns, would each take more"
