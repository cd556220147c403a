"""Recordings of events, and their bytes in the official formats, written by the formats' own documents."""

import numpy as np

from onespike.data.events.stream import EVENT


def events(count=40, side=34, seed=0, duration=300_000, channels=2):
    """Random events in the order of time, no two of them alike."""
    draws = np.random.default_rng(seed)
    made = np.empty(count, EVENT)
    made["t"] = np.sort(draws.choice(duration, count, replace=False))
    made["x"], made["y"] = draws.integers(0, side, (2, count))
    made["p"] = draws.integers(0, channels, count)
    return made


def mnist_bytes(made):
    """N-MNIST: 8 bits of x, 8 of y, 1 of polarity, 23 of microseconds."""
    rows = np.empty((len(made), 5), np.uint8)
    rows[:, 0], rows[:, 1] = made["x"], made["y"]
    rows[:, 2] = made["p"] << 7 | made["t"] >> 16
    rows[:, 3], rows[:, 4] = made["t"] >> 8 & 255, made["t"] & 255
    return rows.tobytes()


def aedat2_bytes(made, header=b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n", swapped=False):
    """AEDAT 2 of a DVS128, big-endian: 7 bits of y from the bottom, 7 of x from the right, 0 for brighter; time."""
    rows, (x, y) = np.empty((len(made), 2), ">u4"), ("yx" if swapped else "xy")
    rows[:, 0] = 127 - made[y].astype(np.uint32) << 8 | 127 - made[x].astype(np.uint32) << 1 | 1 - made["p"]
    rows[:, 1] = made["t"]
    return header + rows.tobytes()


def aedat3_bytes(made, packet=16, kind=1, size=8):
    """AEDAT 3.1 of DVS128 Gesture, little-endian: packets of polarity events behind 28 bytes each."""
    out = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n"
    for start in range(0, len(made), packet):
        part = made[start : start + packet]
        header = np.array([kind | 1 << 16, size, 4, part["t"][0] >> 31, len(part), len(part), len(part)], "<u4")
        rows = np.empty((len(part), 2), "<u4")
        x, y, p = (part[name].astype(np.uint32) for name in "xyp")
        rows[:, 0], rows[:, 1] = x << 17 | y << 2 | p << 1 | 1, part["t"] & 2**31 - 1
        out += header.tobytes() + rows.tobytes()
    return out


def write_nmnist(root, made):
    """Train/ and Test/ in turns, two recordings of a digit after the other; `made` is a list of recordings."""
    for number, one in enumerate(made):
        part, digit = ("Train", "Test")[number % 2], number // 2 % 10
        folder = root / part / str(digit)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05}.bin").write_bytes(mnist_bytes(one))


def write_gesture(root, train, test, rows):
    """IBM's form: a recording for training and one for testing, and rows of class, start, end for each."""
    root.mkdir(parents=True, exist_ok=True)
    for name, one, listing in (("user01_led", train, "train"), ("user24_led", test, "test")):
        (root / f"{name}.aedat").write_bytes(aedat3_bytes(one))
        lines = ["class,startTime_usec,endTime_usec", *(",".join(map(str, row)) for row in rows)]
        (root / f"{name}_labels.csv").write_text("\n".join(lines) + "\n")
        (root / f"trials_to_{listing}.txt").write_text(f"{name}.aedat\n")


def write_shd(path, made, words=("null", "eins")):
    """Zenke's form: seconds as float16, channels as uint16, one array for each recording."""
    import h5py

    with h5py.File(path, "w") as file:
        count = len(made)
        times = file.create_dataset("spikes/times", (count,), h5py.vlen_dtype(np.float16))
        units = file.create_dataset("spikes/units", (count,), h5py.vlen_dtype(np.uint16))
        for number, (seconds, channels) in enumerate(made):
            times[number], units[number] = np.asarray(seconds, np.float16), np.asarray(channels, np.uint16)
        file["labels"] = np.arange(count, dtype=np.uint16) % len(words)
        file["extra/keys"] = np.array(words, "S4")
        file["extra/speaker"] = np.zeros(count, np.uint16)
