"""What is taken for the logits of a user's network, and whose mistake an error in it is."""

from types import FunctionType

import pytest
import torch

from onespike.errors import OnespikeError
from onespike.neurons.watch import ask, logits_of
from tests.forward import Forward

IMAGES, FRAMES = torch.zeros(3, 1, 2, 2), torch.zeros(5, 3, 1, 2, 2)


def answer(output, images=IMAGES, classes=4):
    return logits_of(Forward(lambda *_: output), images, classes)


@pytest.mark.parametrize("images", [IMAGES, FRAMES])
def test_logits_of_an_image_or_of_each_time_step_are_taken_as_they_are(images):
    for output in (torch.zeros(3, 4), torch.zeros(5, 3, 4)):
        assert all(answer(output, images, classes) is output for classes in (4, None))


NONE = {
    "whole numbers": torch.zeros(3, 4, dtype=torch.int64),
    "one number for each image": torch.zeros(3),
    "a map": torch.zeros(3, 4, 1, 1),
    "answers to other images": torch.zeros(2, 4),
    "time steps of other images": torch.zeros(3, 2, 4),
    "no class": torch.zeros(3, 0),
    "other classes": torch.zeros(3, 5),
    "two outputs": (torch.zeros(3, 4), torch.zeros(3, 4)),
}


@pytest.mark.parametrize("what", NONE)
def test_anything_else_is_refused(what):
    with pytest.raises(OnespikeError, match=r"^the network answers 3 images with .*: expected logits, floats"):
        answer(NONE[what], classes=None if what == "no class" else 4)


@pytest.mark.parametrize(
    ("module", "error", "expected"),
    [
        ("mine", KeyError("key"), OnespikeError),
        ("onespike.made", ValueError("shape"), OnespikeError),
        ("onespike.made", KeyError("key"), KeyError),
        ("mine", MemoryError(), MemoryError),
    ],
)
def test_a_bug_of_this_library_and_a_lack_of_memory_are_not_blamed_on_the_network(module, error, expected):
    def fail(*_):
        raise error

    network = Forward(FunctionType(fail.__code__, {"__name__": module}, closure=fail.__closure__))
    said = r"^the network does not take a batch of \(3, 1, 2, 2\), torch.float32: "
    with pytest.raises(expected, match=said if expected is OnespikeError else None):
        ask(network, IMAGES)
