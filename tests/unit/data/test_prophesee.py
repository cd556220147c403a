"""Recordings of Prophesee cameras: `.raw` as expelliarmus writes it, vectors by hand, HDF5; damage is named."""

import numpy as np
import pytest

from onespike.data.events import prophesee
from onespike.data.events.prophesee import read_hdf5, read_raw
from onespike.data.events.stream import EVENT, Sensor
from onespike.data.sources.files import Files
from onespike.errors import OnespikeError
from tests.hostile.harness import fine_or_a_line
from tests.unit.data.recordings import events

HD = Sensor(1280, 720)
HEADER = b"% date 2026-11-26\n% evt 3.0\n% end\n"


def raw(folder, words, header=HEADER, kind="<u2"):
    (folder / "a.raw").write_bytes(header + np.array(words, kind).tobytes())
    return read_raw(Files(folder), "a.raw", HD)


@pytest.mark.parametrize("encoding", ["evt2", "evt3"])
@pytest.mark.parametrize("length", [90_000, 40_000_000])  # 24 bits of microseconds are over after 16.8 seconds
def test_raw_is_read_as_expelliarmus_reads_it(encoding, length, tmp_path):
    wizard = pytest.importorskip("expelliarmus").Wizard(encoding=encoding)
    made = events(4000, 128, 5, length)
    rows = np.zeros(len(made), [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "u1")])
    for name in "txyp":
        rows[name] = made[name]
    wizard.save(tmp_path / "a.raw", rows)
    found = read_raw(Files(tmp_path), "a.raw", Sensor(128, 128))
    its = wizard.read(tmp_path / "a.raw")
    for name in "txyp":
        assert np.array_equal(found[name], its[name]), name
        # It writes no high word, so gaps of more than 4,096 microseconds are lost.
        assert np.array_equal(found[name], made[name]) or (encoding, length, name) == ("evt3", 40_000_000, "t"), name


def test_vectors_fill_a_row_from_their_base(tmp_path):
    row, base, time = 0x0007, 0x3800 | 100, (0x8001, 0x6005)  # y = 7; x = 100, polarity 1; 4096 + 5 microseconds
    found = raw(tmp_path, [*time, row, base, 0x4000 | 0b100000000011, 0x5000 | 0b10000001, 0x2000 | 3])
    assert found["x"].tolist() == [100, 101, 111, 112, 119, 3]
    assert found["p"].tolist() == [1, 1, 1, 1, 1, 0]
    assert set(found["y"]) == {7}
    assert set(found["t"]) == {4101}


def test_the_version_may_be_in_the_line_of_the_format(tmp_path):
    found = raw(tmp_path, [0x8000, 0x6001, 0x0003, 0x2002], b"% format EVT3;height=720;width=1280\n% end\n")
    assert found.tolist() == [(1, 2, 3, 0)]


def test_a_new_high_begins_at_a_low_of_0(tmp_path):
    words = [0x8000, 0x6FFF, 0x0001, 0x2001, 0x8001, 0x2001, 0x6002, 0x2001, 0x8FFF, 0x2001, 0x8000, 0x6001, 0x2001]
    assert raw(tmp_path, words)["t"].tolist() == [4095, 4096, 4098, 0xFFF000, 0x1000001]


def test_what_comes_before_the_first_time_is_left_out(tmp_path):
    pixel = 1 << 11 | 2
    words = [pixel | 5 << 22, 0x8 << 28 | 100_000, pixel | 7 << 22]
    assert raw(tmp_path, words, b"% evt 2.0\n% end\n", "<u4")["t"].tolist() == [(100_000 << 6) + 7]
    assert raw(tmp_path, [0x6001, 0x0001, 0x2001, 0x8009, 0x6002, 0x0001, 0x2001])["t"].tolist() == [(9 << 12) + 2]


def test_a_high_may_be_repeated_and_only_a_large_step_back_is_a_turn(tmp_path):
    words = [0x8001, 0x6064, 0x0001, 0x2001, 0x8001, 0x2002, 0x6065, 0x2003]
    assert raw(tmp_path, words)["t"].tolist() == [4196, 4196, 4197]
    with pytest.raises(OnespikeError, match="backwards"):
        raw(tmp_path, [0x8005, 0x6001, 0x0001, 0x2001, 0x8004, 0x6001, 0x2001])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HEADER + b"\x01", "truncated, 1 bytes of events; expected words of 2 bytes"),
        (b"% evt 2.0\n\x00\x00\x00", "truncated, 3 bytes of events; expected words of 4 bytes"),
        (b"% evt 2.1\n\x00\x00", "EVT 2.1; expected EVT 2.0 or 3.0"),
        (b"% nothing\n\x00\x00", "no version in its header"),
        (b"", "no version in its header"),
        (HEADER, "no events"),
        (HEADER + b"\x00\x10", "word 0 is of kind 0x1"),
        (b"% evt 2.0\n\x00\x00\x00\x50", "word 0 is of kind 0x5"),
        (HEADER + np.array([0x8000, 0x6000, 0x07FF, 0x2001], "<u2").tobytes(), "y = 2047"),
    ],
)
def test_damage_is_named(content, said, tmp_path):
    (tmp_path / "a.raw").write_bytes(content)
    with pytest.raises(OnespikeError, match=f"a.raw: .*{said}"):
        read_raw(Files(tmp_path), "a.raw", HD)


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("header", [HEADER, b"% evt 2.0\n"], ids=["evt3", "evt2"])
def test_any_bytes_are_events_or_a_line(header, seed, tmp_path):
    draws = np.random.default_rng(seed)
    (tmp_path / "a.raw").write_bytes(header + draws.integers(0, 256, draws.integers(0, 400), np.uint8).tobytes())
    with fine_or_a_line():
        read_raw(Files(tmp_path), "a.raw", HD)


def test_a_few_bytes_may_be_many_events(tmp_path, monkeypatch):
    words = [0x8002, 0x6001, 0x0001, 0x3000, 0x4FFF, 0x4001, 0x5FFF, 0x2005]  # 12 + 1 + 8 + 1 events
    (tmp_path / "a.raw").write_bytes(HEADER + np.array(words, "<u2").tobytes())
    monkeypatch.setattr(prophesee, "LARGEST", 22 * EVENT.itemsize)
    assert len(read_raw(Files(tmp_path), "a.raw", HD)) == 22
    monkeypatch.setattr(prophesee, "LARGEST", 22 * EVENT.itemsize - 1)
    with pytest.raises(OnespikeError, match=r"a.raw: 308 bytes of events come out of it; expected at most 307; cut it"):
        read_raw(Files(tmp_path), "a.raw", HD)


@pytest.mark.parametrize("group", ["events", "CD/events", "/"])
def test_hdf5(group, tmp_path):
    h5py, made = pytest.importorskip("h5py"), events(50, 128, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if group == "CD/events":  # Metavision's is one array of all four
            file[group] = made
        else:
            for name in "txyp":
                file[f"{group}/{name}"] = made[name]
    assert np.array_equal(read_hdf5(Files(tmp_path), "a.h5", Sensor(128, 128)), made)


def test_hdf5_that_holds_something_else(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["events/x"] = np.zeros(3, np.int64)
    with pytest.raises(OnespikeError, match=r"a.h5: not read as HDF5 \(t is missing\)"):
        read_hdf5(Files(tmp_path), "a.h5", HD)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        for name in "txyp":
            file.create_dataset(name, (10**12,), "i8", chunks=(1000,))
    with pytest.raises(OnespikeError, match="bytes come out of it"):
        read_hdf5(Files(tmp_path), "b.h5", HD)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["events"] = np.zeros((3, 4), np.int64)
    with pytest.raises(OnespikeError, match=r"d.h5: not read as HDF5 \(t is missing\)"):
        read_hdf5(Files(tmp_path), "d.h5", HD)
    whole = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "c.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OnespikeError, match=r"c\.h5: not read as HDF5"):
        read_hdf5(Files(tmp_path), "c.h5", HD)
