import codecs
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from layouts import dump_python2, dump_python3, write_pickled

from onespike.data.sources.cifar import load_pickle
from onespike.errors import OnespikeError


class Calls:
    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize("dump", [dump_python2, dump_python3])
def test_plain_containers_and_arrays_are_admitted(dump):
    value = {b"a": [1, 2.5, None, True, (b"x",)], b"n": np.arange(12, dtype=np.uint8).reshape(3, 4)}
    loaded = load_pickle(dump(value), "file")
    assert loaded[b"a"] == value[b"a"]
    np.testing.assert_array_equal(loaded[b"n"], value[b"n"])
    assert loaded[b"n"].dtype == np.uint8


@pytest.mark.parametrize(
    ("function", "args", "word"),
    [
        (os.system, ("touch {}",), ".system"),
        (eval, ("open({!r}, 'w')",), ".eval"),
        (os.mkdir, ("{}",), ".mkdir"),
        (np.load, ("{}",), "numpy.load"),
        (getattr, ("{}", "upper"), ".getattr"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_anything_else_is_refused_and_not_run(tmp_path, function, args, word, protocol):
    trace = tmp_path / "trace"
    data = pickle.dumps([Calls(function, *(arg.format(str(trace)) for arg in args))], protocol=protocol)
    with pytest.raises(OnespikeError) as raised:
        load_pickle(data, "some/file")
    assert not trace.exists()
    message = str(raised.value)
    assert message.startswith("some/file: refused a foreign pickle")
    assert word in message
    assert "\n" not in message


def test_a_codec_other_than_latin1_is_refused():
    data = pickle.dumps(Calls(codecs.encode, "abc", "rot13"), protocol=2)
    with pytest.raises(OnespikeError, match=r"file: .* pickle \(encoding rot13\)"):
        load_pickle(data, "file")


@pytest.mark.parametrize("length", [0, 1, 10, 400])
def test_a_truncated_pickle_is_named(length):
    data = dump_python2({b"data": np.zeros((2, 3072), np.uint8)})
    with pytest.raises(OnespikeError, match=r"^file: truncated or damaged pickle \(.+\); expected a whole one"):
        load_pickle(data[:length], "file")


def test_a_malicious_batch_is_refused_by_the_data_set(tmp_path, content, fails):
    folder = write_pickled(tmp_path / "py", "cifar10", content["cifar10"])
    trace = tmp_path / "trace"
    (folder / "test_batch").write_bytes(pickle.dumps(Calls(os.system, f"touch {trace}"), protocol=2))
    fails("cifar10", folder, folder / "test_batch", "refused", "posix.system", "plain containers")
    assert not trace.exists()


def test_a_truncated_batch_is_named(tmp_path, content, fails):
    folder = write_pickled(tmp_path / "py", "cifar10", content["cifar10"])
    file = folder / "data_batch_5"
    file.write_bytes(file.read_bytes()[:-100])
    fails("cifar10", folder, file, "truncated")


def _text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def _array(kind, sides, *more):
    """A pickle in which an array is made as a call of numpy's class, of a kind, with sides and a buffer."""
    shape = b"(" + b"".join(b"I%d\n" % side for side in sides) + b"t"
    return b"\x80\x02cnumpy\nndarray\n(" + shape + _text(kind) + b"".join(more) + b"tR."


EVIL = {
    "objects of any address": _array(b"O", (1,), b"B" + struct.pack("<I", 8) + b"A" * 8),
    "memory as it was left": _array(b"u1", (10, 3072)),
    "a place without end": b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b".",
    "a place of many digits": b"\x80\x02Np99999999\n.",
    "bytes that are not there": pickle.dumps(np.zeros((2, 4), np.uint8), 2).replace(b"K\x02K\x04", b"K\x7fK\x7f"),
    "floats": pickle.dumps(np.zeros(4, np.float32), 2),
    "objects": pickle.dumps(np.array([None]), 2),
    "a kind with parts": pickle.dumps(np.zeros(2, [("a", "u1"), ("b", "u1")]), 2),
}


@pytest.mark.parametrize("what", EVIL)
def test_arrays_are_of_bytes_that_are_there(what):
    tracemalloc.start()
    try:
        with pytest.raises(OnespikeError, match=r"^file: truncated or damaged pickle"):
            load_pickle(EVIL[what], "file")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
