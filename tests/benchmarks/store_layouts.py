"""Measure what three Zarr v3 layouts cost for many small images; run by hand.

    python tests/benchmarks/store_layouts.py              # 100,000 images of 64 x 64
    python tests/benchmarks/store_layouts.py --images 5000 --node-images 1000

Layouts (Zstd level 3; keys and checksums are attributes, never node names):
  A  node per image: one group per image, four arrays of one chunk each
  B  padded chunk:   one group per 64 images, arrays (n, H, W) and (n, 5, H, W), each one shard
                     with an inner chunk per image; smaller images are padded with zeros
  C  ragged chunk:   one group per 64 images, flat arrays, each one shard with inner chunks of
                     --inner elements

"mixed" rows hold images with sides drawn from --mixed. Layout A writes only --node-images
images and gets a second row, scaled linearly to --images. "list" reopens the store and reads
every key; "read" is the median over 200 random images (all four arrays, opening their nodes
included, compared with what was written). Both find the files in the page cache. MB = 10^6 bytes;
"MB disk" counts blocks of files, "MB +dirs" those of folders too.
"""

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from typing import Any, Protocol, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from PIL import Image
from zarr.codecs import ZstdCodec

Sample = dict[str, NDArray[np.uint8]]  # labels, confidence: (H, W); top5_class, top5_probability: (5, H, W)
Item = dict[str, Any]  # an image's attributes
PLANES = {"labels": 1, "confidence": 1, "top5_class": 5, "top5_probability": 5}
PER_GROUP, POOL, READS = 64, 200, 200


def make_sample(rng: np.random.Generator, height: int, width: int, classes: int = 12) -> Sample:
    """Smooth random class scores (blobs plus finer noise), then softmax and the top five."""
    scores = np.zeros((classes, height, width), np.float32)
    for cell, gain in ((16, 4.0), (4, 0.5)):
        for layer in scores:
            coarse = rng.normal(scale=gain, size=(height // cell + 1, width // cell + 1)).astype(np.float32)
            layer += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    order = np.argsort(-scores, axis=0)[:5]
    top = np.take_along_axis(np.exp(scores) / np.exp(scores).sum(axis=0), order, axis=0)
    quantised, index = np.rint(top * 255).astype(np.uint8), rng.permutation(150).astype(np.uint8)[order]
    return {"labels": index[0], "confidence": quantised[0], "top5_class": index, "top5_probability": quantised}


def describe(number: int, sample: Sample) -> Item:
    key = f"train/{number:06d}.jpg"
    height, width = sample["labels"].shape
    return {"key": key, "sha256": hashlib.sha256(key.encode()).hexdigest(), "height": height, "width": width}


def fetch(group: zarr.Group, name: str, selection: Any = ...) -> NDArray[np.uint8]:
    return np.asarray(cast(zarr.Array[Any], group[name])[selection])


class Layout(Protocol):
    def write(self, images: zarr.Group, items: list[Item], samples: list[Sample]) -> None: ...
    def places(self, images: zarr.Group) -> list[tuple[str, Item]]: ...  # each image's group and attributes
    def read(self, group: zarr.Group, item: Item) -> Sample: ...


class NodePerImage:
    def write(self, images: zarr.Group, items: list[Item], samples: list[Sample]) -> None:
        for item, sample in zip(items, samples, strict=True):
            name = hashlib.blake2b(item["key"].encode(), digest_size=16).hexdigest()
            images.require_group(name[:2])
            group = images.create_group(f"{name[:2]}/{name}", attributes=item)
            for array, data in sample.items():
                group.create_array(array, data=data, chunks=data.shape, compressors=ZstdCodec(level=3))

    def places(self, images: zarr.Group) -> list[tuple[str, Item]]:
        return [(group.path, group.attrs.asdict()) for _, prefix in images.groups() for _, group in prefix.groups()]

    def read(self, group: zarr.Group, item: Item) -> Sample:
        return {array: fetch(group, array) for array in PLANES}


class PaddedChunk:
    def write(self, images: zarr.Group, items: list[Item], samples: list[Sample]) -> None:
        listed = [item | {"index": i} for i, item in enumerate(items)]
        group = images.create_group(items[0]["key"][6:12], attributes={"items": listed})
        shape = max(x["height"] for x in items), max(x["width"] for x in items)
        for array, like in samples[0].items():
            data = np.zeros((len(samples), *like.shape[:-2], *shape), np.uint8)
            for i, sample in enumerate(samples):
                data[i, ..., : items[i]["height"], : items[i]["width"]] = sample[array]
            chunks = (1, *data.shape[1:])
            group.create_array(array, data=data, shards=data.shape, chunks=chunks, compressors=ZstdCodec(level=3))

    def places(self, images: zarr.Group) -> list[tuple[str, Item]]:
        return [(x.path, item) for _, x in images.groups() for item in cast(list[Item], x.attrs["items"])]

    def read(self, group: zarr.Group, item: Item) -> Sample:
        selection = (item["index"], ..., slice(item["height"]), slice(item["width"]))
        return {array: fetch(group, array, selection) for array in PLANES}


class RaggedChunk(PaddedChunk):
    def __init__(self, inner: int) -> None:
        self.inner = inner

    def write(self, images: zarr.Group, items: list[Item], samples: list[Sample]) -> None:
        offsets = np.cumsum([0] + [sample["labels"].size for sample in samples]).tolist()
        listed = [item | {"offset": offset} for item, offset in zip(items, offsets[:-1], strict=True)]
        group = images.create_group(items[0]["key"][6:12], attributes={"items": listed})
        for array in PLANES:
            data = np.concatenate([sample[array].ravel() for sample in samples])
            chunks, shards = (self.inner,), (-(-data.size // self.inner) * self.inner,)
            group.create_array(array, data=data, shards=shards, chunks=chunks, compressors=ZstdCodec(level=3))

    def read(self, group: zarr.Group, item: Item) -> Sample:
        begin, end = item["offset"], item["offset"] + item["height"] * item["width"]
        flat = {array: fetch(group, array, slice(begin * n, end * n)) for array, n in PLANES.items()}
        shape = item["height"], item["width"]
        return {array: x.reshape(shape if x.size == end - begin else (-1, *shape)) for array, x in flat.items()}


def disk(folder: str) -> list[float]:
    """Number of files and of folders; MB in files, in blocks of files, in blocks of both."""
    files, folders = [], []
    for base, _, names in os.walk(folder):
        folders.append(os.stat(base).st_blocks * 512)
        files += [os.stat(os.path.join(base, name)) for name in names]
    blocks = sum(x.st_blocks * 512 for x in files)
    return [len(files), len(folders), sum(x.st_size for x in files) / 1e6, blocks / 1e6, (blocks + sum(folders)) / 1e6]


def measure(layout: Layout, count: int, pool: list[Sample], parent: str | None) -> list[float]:
    """disk(), then seconds to write, seconds to list, milliseconds to read."""
    with tempfile.TemporaryDirectory(prefix="store_layouts_", dir=parent) as folder:
        begin = time.perf_counter()
        images = zarr.open_group(folder, mode="w").create_group("images")
        for first in range(0, count, PER_GROUP):
            numbers = range(first, min(first + PER_GROUP, count))
            samples = [pool[i % POOL] for i in numbers]
            layout.write(images, [describe(*pair) for pair in zip(numbers, samples, strict=True)], samples)
        written = time.perf_counter()
        root = zarr.open_group(folder, mode="r")
        places = layout.places(cast(zarr.Group, root["images"]))
        listed = time.perf_counter()
        assert len({item["key"] for _, item in places}) == count
        elapsed = []
        for path, item in [places[i] for i in np.random.default_rng(1).integers(count, size=READS)]:
            start = time.perf_counter()
            got = layout.read(cast(zarr.Group, root[path]), item)
            elapsed.append((time.perf_counter() - start) * 1000)
            assert all(np.array_equal(got[k], v) for k, v in pool[int(item["key"][6:12]) % POOL].items())
        return [*disk(folder), written - begin, listed - written, statistics.median(elapsed)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--node-images", type=int, default=5_000, help="images written in layout A")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 64), metavar=("H", "W"))
    parser.add_argument("--mixed", type=int, nargs=2, default=(48, 96), metavar=("MIN", "MAX"))
    parser.add_argument("--inner", type=int, nargs="+", default=[65536, 262144], help="for layout C")
    parser.add_argument("--folder", help="where to make the temporary stores")
    args = parser.parse_args()
    zarr.config.set({"json_indent": None})
    rng = np.random.default_rng(0)
    sides = rng.integers(args.mixed[0], args.mixed[1] + 1, size=(POOL, 2)).tolist()
    pools = {"x".join(map(str, args.size)): [make_sample(rng, *args.size) for _ in range(POOL)]}
    pools["mixed " + "..".join(map(str, args.mixed))] = [make_sample(rng, *side) for side in sides]
    columns = ("images", "files", "folders", "MB", "MB disk", "MB +dirs", "write s", "list s", "read ms")
    print(f"{'layout':<25}" + "".join(f"{x:>10}" for x in columns))
    for size, pool in pools.items():
        runs: list[tuple[str, Layout, int]] = [("A", NodePerImage(), min(args.node_images, args.images))]
        runs += [("B", PaddedChunk(), args.images)]
        runs += [(f"C {inner}", RaggedChunk(inner), args.images) for inner in args.inner]
        for name, layout, count in runs:
            row = [count, *measure(layout, count, pool, args.folder)]
            scaled = [x * args.images / count for x in row[:-1]] + row[-1:]
            for note, values in (("", row), (" scaled", scaled))[: 1 + (count < args.images)]:
                cells = [f"{x:>10.0f}" for x in values[:3]] + [f"{x:>10.1f}" for x in values[3:]]
                print(f"{name + ' ' + size + note:<25}" + "".join(cells), flush=True)
        print(f"  raw: {args.images * sum(x.nbytes for sample in pool for x in sample.values()) / POOL / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
