"""A line chart as a PNG file, drawn on an array: a picture of a plan is not worth a plotting library.

Everything that is needed of the format is one chunk of deflated rows. The letters are three pixels by five.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Line = Sequence[tuple[float, float]]
Color = tuple[int, int, int]
Pixels = NDArray[np.uint8]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 500, 70, 20, 50, 60
"""Of the picture and its margins, in pixels."""
SCALE = 2
"""Pixels per pixel of a letter."""
BLACK, GREY = (30, 30, 30), (225, 225, 225)
COLORS: tuple[Color, ...] = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75),
)  # fmt: skip

_FONT = (
    "0:75557 1:26227 2:71747 3:71717 4:55711 5:74717 6:74757 7:71111 8:75757 9:75717 A:25755 B:65656 C:34443 D:65556 "
    "E:74647 F:74644 G:34553 H:55755 I:72227 J:11152 K:55655 L:44447 M:57755 N:75555 O:25552 P:65644 Q:25573 R:65655 "
    "S:34216 T:72222 U:55557 V:55522 W:55775 X:55255 Y:55222 Z:71247 %:51245 -:00700 .:00002 ,:00024 /:11244 @:25743"
)
_GLYPHS = {entry[0]: [int(row) for row in entry[2:]] for entry in _FONT.split()}
"""Each letter's rows from the top, three bits each."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high` over a range of pixels, evenly or by their logarithm."""

    low: float
    high: float
    start: int
    end: int
    logarithmic: bool = False

    def at(self, value: float) -> int:
        """The value's pixel."""
        low, high, value = (np.log(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return round(self.start + (self.end - self.start) * float((value - low) / (high - low)))


def draw_lines(title: str, x_name: str, lines: Mapping[str, Line], ticks: Sequence[int], top: int) -> bytes:
    """A PNG of the lines, x on a logarithmic scale with these ticks, y from 0 to `top` in per cent."""
    pixels = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    across = Axis(ticks[0], ticks[-1], LEFT, WIDTH - RIGHT, logarithmic=True)
    up = Axis(0, top, HEIGHT - BOTTOM, TOP)
    _write(pixels, LEFT, 16, title)
    _write(pixels, (WIDTH - len(x_name) * 4 * SCALE) // 2, HEIGHT - 22, x_name)
    for tick in ticks:
        pixels[TOP : HEIGHT - BOTTOM, across.at(tick)] = GREY
        _write(pixels, across.at(tick) - 2 * SCALE * len(str(tick)), HEIGHT - BOTTOM + 10, str(tick))
    for share in range(0, top + 1, max(1, top // 8)):
        pixels[up.at(share), LEFT : WIDTH - RIGHT] = GREY if share else BLACK
        _write(pixels, 18, up.at(share) - 2 * SCALE, f"{share:3} %")
    for index, (name, line) in enumerate(lines.items()):
        color = COLORS[index % len(COLORS)]
        _write(pixels, WIDTH - RIGHT - 290, TOP + 8 + 16 * index, name, color)
        shown = [(across.at(x), up.at(min(y, top))) for x, y in line if ticks[0] <= x <= ticks[-1]]
        for start, end in pairwise(shown):
            _stroke(pixels, start, end, color)
    return _png(pixels)


def save(path: Path, picture: bytes) -> None:
    """Write the file; OSError."""
    path.write_bytes(picture)


def _stroke(pixels: Pixels, start: tuple[int, int], end: tuple[int, int], color: Color) -> None:
    """A straight line, two pixels thick."""
    count = max(abs(end[0] - start[0]), abs(end[1] - start[1])) + 1
    xs, ys = (np.linspace(start[i], end[i], count).round().astype(int) for i in (0, 1))
    pixels[ys, xs] = pixels[ys + 1, xs] = color


def _write(pixels: Pixels, x: int, y: int, text: str, color: Color = BLACK) -> None:
    """The text, its upper left corner at (x, y); letters without a glyph stay blank."""
    for letter in text.upper():
        bits = np.array([[row >> shift & 1 for shift in (2, 1, 0)] for row in _GLYPHS.get(letter, [0] * 5)])
        height, width = 5 * SCALE, 3 * SCALE
        pixels[y : y + height, x : x + width][np.kron(bits, np.ones((SCALE, SCALE))) > 0] = color
        x += width + SCALE


def _png(pixels: Pixels) -> bytes:
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # each row behind its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits each of red, green and blue
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
