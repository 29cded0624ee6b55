"""Colour profiles for tests, made by hand: Pillow can only make sRGB."""

from __future__ import annotations

import struct
from functools import reduce

from PIL import ImageCms


def red_and_green_changed_over() -> bytes:
    """An RGB profile named "Wide built-in" in which what sRGB calls red is green, and the other way round."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {}
    for entry in range(int.from_bytes(data[128:132], "big")):
        signature, start, size = struct.unpack_from(">4sII", data, 132 + 12 * entry)
        places[signature] = slice(start, start + size)
    data[places[b"rXYZ"]], data[places[b"gXYZ"]] = data[places[b"gXYZ"]], data[places[b"rXYZ"]]
    name = data[places[b"desc"]]
    data[places[b"desc"]] = name.replace("sRGB".encode("utf-16-be"), "Wide".encode("utf-16-be"))
    return bytes(data)


def grey_cyan() -> bytes:
    """A CMYK profile in which cyan prints as middle grey, magenta with yellow as red, and black as black.

    ICC.1:2001 (version 2), 6.5.8: an 8-bit table of two grid points for each ink, in Lab.
    """
    lab = []
    for corner in range(16):
        cyan, magenta, yellow, black = (corner >> shift & 1 for shift in (3, 2, 1, 0))
        if black:
            lab.append((0, 0, 0))
        elif cyan:
            lab.append((50, 0, 0))
        else:
            lab.append((53, 80, 67) if magenta and yellow else (100, 0, 0))
    clut = bytes(value for L, a, b in lab for value in (round(L * 2.55), a + 128, b + 128))
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + clut + identity * 3
    name = b"Press"
    desc = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(1 + 8 + 3 + 67)
    tags = [(b"desc", desc), (b"A2B0", table)]
    offset = 128 + 4 + 12 * len(tags)
    entries, bodies = b"", b""
    for signature, body in tags:
        body += bytes(-len(body) % 4)
        entries += struct.pack(">4sII", signature, offset + len(bodies), len(body))
        bodies += body
    header = bytearray(128)
    header[0:4] = struct.pack(">I", offset + len(bodies))
    header[8:12] = struct.pack(">I", 0x02400000)
    header[12:24] = b"prtrCMYKLab "
    header[36:40] = b"acsp"
    header[68:80] = struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))  # D50
    return reduce(bytes.__add__, (bytes(header), struct.pack(">I", len(tags)), entries, bodies))
