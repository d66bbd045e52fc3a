"""Damaged files of every format: an image or one line of refusal, in bounded time and memory, and nothing on stderr.

Run with the name of a format, this file is the process that decodes: a decoder that crashes must not end pytest.
"""

from __future__ import annotations

import faulthandler
import io
import json
import random
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovlabel.errors import ImageError
from ovlabel.pictures.read import decode_first
from ovlabel.run.listing import SUFFIXES

FILES = 300  # of every variant of a format
SECONDS = 120  # for all of a format on a busy machine; one is usual
MEBIBYTES = 2048  # a process's peak: a few bytes can ask for 16384 × 16384 pixels

# mode, Pillow's format, options of saving
FORMATS: dict[str, tuple[tuple[str, str, dict[str, Any]], ...]] = {
    "jpeg": (
        ("RGB", "JPEG", {}),
        ("RGB", "JPEG", {"progressive": True, "restart_marker_blocks": 2}),
        ("L", "JPEG", {"optimize": True}),
        ("CMYK", "JPEG", {}),
        ("RGB", "JPEG", {"exif": 6}),
        ("RGB", "MPO", {"frames": 2}),
    ),
    "png": (
        ("RGB", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("1", "PNG", {}),
        ("I;16", "PNG", {}),
        ("RGBA", "PNG", {"exif": 8}),
        ("RGB", "PNG", {"frames": 3}),
    ),
    "webp": (
        ("RGB", "WEBP", {}),
        ("RGBA", "WEBP", {"lossless": True, "exif": 3}),
        ("RGB", "WEBP", {"frames": 3}),
    ),
    "tiff": (
        ("RGB", "TIFF", {"compression": "raw"}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("RGB", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("RGB", "TIFF", {"compression": "tiff_deflate"}),
        ("RGB", "TIFF", {"compression": "packbits"}),
        ("RGB", "TIFF", {"compression": "jpeg"}),
        ("RGB", "TIFF", {"compression": "lzma"}),
        ("RGB", "TIFF", {"compression": "zstd"}),
        ("1", "TIFF", {"compression": "group3"}),
        ("1", "TIFF", {"compression": "group4"}),
        ("1", "TIFF", {"compression": "tiff_ccitt"}),
        ("CMYK", "TIFF", {"compression": "tiff_lzw"}),
        ("I;16", "TIFF", {"compression": "raw"}),
        ("F", "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("P", "TIFF", {"compression": "tiff_lzw"}),
        ("RGBA", "TIFF", {"compression": "packbits"}),
        ("RGB", "TIFF", {"frames": 3}),
        ("RGB", "TIFF", {"exif": 6}),
    ),
    "bmp": (("RGB", "BMP", {}), ("P", "BMP", {}), ("1", "BMP", {}), ("RGBA", "BMP", {})),
    "dib": (("RGB", "DIB", {}), ("L", "DIB", {})),
    "gif": (("P", "GIF", {}), ("L", "GIF", {"interlace": True, "transparency": 5}), ("P", "GIF", {"frames": 3})),
    "ppm": (("RGB", "PPM", {}),),
    "pgm": (("L", "PPM", {}), ("I;16", "PPM", {})),
    "pbm": (("1", "PPM", {}),),
    "pnm": (("RGB", "PPM", {"words": True}), ("L", "PPM", {"words": True}), ("F", "PPM", {}), ("RGBA", "PPM", {})),
    "tga": (("RGB", "TGA", {}), ("RGBA", "TGA", {"compression": "tga_rle"}), ("P", "TGA", {}), ("L", "TGA", {})),
    "avif": (("RGB", "AVIF", {}), ("RGBA", "AVIF", {"quality": 90, "exif": 6})),
    "jp2": (
        ("RGB", "JPEG2000", {}),
        ("RGB", "JPEG2000", {"irreversible": True, "no_jp2": True}),
        ("L", "JPEG2000", {"tile_size": (16, 16)}),
        ("RGBA", "JPEG2000", {}),
    ),
}
SAME = dict.fromkeys(("jfi", "jfif", "jif", "jpe", "jpg", "mpo", "pjp", "pjpeg"), "jpeg")
SAME |= dict.fromkeys(("j2c", "j2k", "jpc", "jpf", "jpx"), "jp2")
SAME |= {"tif": "tiff", "apng": "png", "avifs": "avif", "pfm": "pnm"}


def whole_file(mode: str, kind: str, options: dict[str, Any]) -> bytes:
    options = dict(options)
    height, width = 29, 37
    y, x = np.mgrid[0:height, 0:width]
    grey = (x * 7 + y * 3) % 256
    if mode == "I;16":
        image = Image.fromarray((grey * 250).astype(np.uint16))
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32))
    else:
        image = Image.fromarray(np.dstack([grey, 255 - grey, x * y % 256]).astype(np.uint8)).convert(mode)
    buffer = io.BytesIO()
    if options.pop("words", False):
        header = f"P{3 if mode == 'RGB' else 2}\n# words\n{width} {height}\n255\n"
        return f"{header}{' '.join(map(str, image.tobytes()))}\n".encode()
    if frames := options.pop("frames", 0):
        options |= {"save_all": True, "append_images": [image.rotate(90 * i) for i in range(1, frames)]}
    if orientation := options.pop("exif", 0):
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to three changes, half of them in the header: a bit, a byte or a word, a cut, a piece removed or repeated."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(len(out), 96) if rng.random() < 0.5 else len(out))
        change = rng.randrange(6)
        if change == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif change == 1:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif change == 2:
            word = rng.choice((0, 1, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
            size = 4 if word > 0xFFFF else 2
            out[at : at + size] = word.to_bytes(size, rng.choice(("little", "big")))
        elif change == 3 and rng.random() < 0.5:
            del out[max(at, 1) :]
        elif change == 4:
            del out[at : at + rng.randint(1, 40)]
        else:
            to = rng.randrange(len(out))
            out[to:to] = out[at : at + rng.randint(1, 40)]
        if not out:
            return b"\0"
    return with_checksums(bytes(out)) if rng.random() < 0.8 else bytes(out)


def with_checksums(data: bytes) -> bytes:
    """A PNG with the checksums of its chunks put right, or else nothing but they would be looked at."""
    out, at = bytearray(data), 8
    while out.startswith(b"\x89PNG") and at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4], "big")
        out[end : end + 4] = zlib.crc32(out[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(out)


def decode_all(name: str) -> dict[str, Any]:
    """What becomes of the mutated files of a format."""
    variants = [whole_file(*variant) for variant in FORMATS[name]]
    report: dict[str, Any] = {"decoded": 0, "refused": 0, "wrong": [], "slowest": 0.0}
    for data in variants:
        decode_first(data)
    for i in range(FILES * len(variants)):
        data = mutated(variants[i % len(variants)], random.Random(zlib.crc32(f"{name} {i}".encode())))
        start = time.perf_counter()
        try:
            image, *aside = decode_first(data)
        except ImageError as error:
            message = str(error)
            report["refused"] += 1
            if not message.strip() or not message.isprintable() or "Warning" in message:
                report["wrong"].append([i, message])
        else:
            report["decoded"] += 1
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or {*map(type, aside)} != {bool}:
                report["wrong"].append([i, f"{image.dtype} {image.shape} {aside}"])
        report["slowest"] = max(report["slowest"], time.perf_counter() - start)
    status = Path("/proc/self/status")  # getrusage's peak would be that of the parent too
    report["peak"] = int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10 if status.exists() else 0
    return report


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_gives_an_image_or_a_one_line_error(name: str) -> None:
    done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["wrong"] == []
    assert report["decoded"] + report["refused"] == FILES * len(FORMATS[name])
    assert min(report["decoded"], report["refused"]) >= FILES * len(FORMATS[name]) // 20
    assert report["peak"] < MEBIBYTES


def test_every_suffix_has_its_format() -> None:
    names = {suffix[1:] for suffix in SUFFIXES} - {"heic", "heif", "hif"}  # with pillow-heif alone
    assert {SAME.get(name, name) for name in names} == FORMATS.keys()


if __name__ == "__main__":
    faulthandler.enable()
    warnings.simplefilter("error")
    print(json.dumps(decode_all(sys.argv[1])))
