"""Places of maps in memory, and of constants in tables."""

import math
from dataclasses import astuple

from torch import Tensor

from onespike.exporting.c.text import SIZES, TYPES, lines_of, literal
from onespike.exporting.lowering.maps import Collect, Conv, Map, Matmul, PixelConv, Pixels, Pool, needed


class Memory:
    """Maps in the order of computation, the last one the class scores; which of them are stored, and where."""

    def __init__(self, maps: list[Map]) -> None:
        self._maps = needed(maps)
        self._names = {one: number for number, one in enumerate(self._maps)}
        self._readers: dict[Map, list[Map]] = {one: [] for one in self._maps}
        for one in self._maps:
            for source in one.reads():
                self._readers[source].append(one)
        self._stored = [one for one in self._maps if self._is_stored(one)]
        self._places, self._ram = self._placed()
        self._tables: list[str] = []
        self._known: dict[str, str] = {}
        self._flash = 0

    # Memory.

    def _is_stored(self, one: Map) -> bool:
        if isinstance(one, Pixels) or one is self._maps[-1]:
            return False
        readers = self._readers[one]
        windows = any(isinstance(reader, Conv | Collect | Matmul) for reader in readers)
        windows = windows or any(isinstance(reader, Pool) and reader.geometry.overlaps for reader in readers)
        broadcast = any(_reads_of(reader) > one.pixels for reader in readers)
        return one.kind == "bits" or len(readers) > 1 or windows or broadcast

    def _placed(self) -> tuple[dict[Map, int], int]:
        """The place of each stored map, in bytes, and the total: the largest first, each where no other map lives."""
        step = {one: number for number, one in enumerate(self._stored)}
        ends = dict(step)
        for one in [*self._stored, self._maps[-1]]:
            for used in self._touched(one):
                ends[used] = max(ends[used], step.get(one, len(step)))
        spans: dict[Map, tuple[int, int]] = {}
        for one in sorted(self._stored, key=lambda stored: -_bytes(stored)):
            others = [span for other, span in spans.items() if step[other] <= ends[one] and step[one] <= ends[other]]
            place, size = 0, -(-_bytes(one) // 8) * 8
            for start, end in sorted(others):
                if place + size <= start:
                    break
                place = max(place, end)
            spans[one] = place, place + size
        return {one: start for one, (start, _) in spans.items()}, max((end for _, end in spans.values()), default=0)

    def _touched(self, one: Map) -> set[Map]:
        """The stored maps that are read while one is computed."""
        found = set[Map]()
        for source in one.reads():
            found |= {source} if source in self._stored else self._touched(source)
        return found

    def _stack(self, one: Map) -> int:
        own = [self._stack(source) + self._local(source) for source in one.reads() if source not in self._stored]
        in_place = isinstance(one, Conv | Collect) or (isinstance(one, Pool) and one.kind == "bits")
        bits = [self._local(source) for source in one.reads() if source.kind == "bits" and not in_place]
        return max([*own, *bits, 0]) + (4 * one.channels if isinstance(one, PixelConv) else 0)

    def _local(self, one: Map) -> int:
        return 0 if one.kind == "u8" else one.channels * SIZES[TYPES[one.kind]]

    def _at(self, one: Map) -> str:
        """A pointer to a stored map."""
        place = self._places[one] // SIZES[TYPES[one.kind]]
        return f"(memory.{one.kind} + {place})" if place else f"memory.{one.kind}"

    # Tables.

    def _table(self, values: Tensor, kind: str | None = None) -> str:
        """The name of a constant array; equal arrays are stored once."""
        values = values.flatten()
        if kind is None:
            kind = "uint16_t" if int(values.max()) < 2**16 else "uint32_t"
        text = lines_of(literal(value, kind) for value in values.tolist())
        key = f"{kind}[{len(values)}] = {{\n{text}\n}};"
        if key not in self._known:
            self._known[key] = f"table{len(self._known)}"
            self._tables.append(f"static const {kind} {self._known[key]}{key.removeprefix(kind)}")
            self._flash += len(values) * SIZES[kind]
        return self._known[key]

    def _window(self, one: Conv | Pool) -> str:
        """The name of the table of a map's windows."""
        (source,) = one.reads()
        pairs = (f"{{{rows}, {columns}}}" for rows, columns in astuple(one.geometry))
        numbers = [*one.sides[1:], source.channels, *one.shape[1:], *pairs]
        name = f"window{self._names[one]}"
        self._tables.append(f"static const window {name} = {{{', '.join(map(str, numbers))}}};")
        self._flash += 4 * (6 + 8)
        return name


def _bytes(one: Map) -> int:
    """Bytes of a stored map."""
    return one.pixels * one.width * SIZES[TYPES[one.kind]]


def _reads_of(one: Map) -> int:
    """How often a map reads a pixel of another, if it reads no windows that overlap."""
    return math.prod(one.sides) if isinstance(one, Pool) else one.pixels
