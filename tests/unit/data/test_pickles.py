import codecs
import os
import pickle

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
