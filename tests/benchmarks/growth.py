"""What a store costs as it grows: CPU seconds and resident memory at 1,000 to 1,000,000 images.

    python tests/benchmarks/growth.py --images 1000 10000 100000 --baseline /path/of/another/checkout

For each number a folder of so many tiny files (hard links, a thousand to a subfolder) and a store that covers them are
made, the store by writing its commits directly. Each figure is a process of its own, twice, the lesser of both: listing
the folder with `os.scandir` and `stat` alone, opening the store, a rerun with nothing to do, a rerun with one image
more (a stand-in segmenter), `status`. The baseline runs the same with another checkout of ovlabel on a copy of the
store. `compact` gathers commits of one image each, a thousand at the most, once.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TASKS = {
    "import": "import ovlabel.run.job, ovlabel.settings.reading",
    "list": """
folders, found = [folder], 0
while folders:
    for entry in os.scandir(folders.pop()):
        if entry.is_dir():
            folders.append(entry.path)
        else:
            found += entry.stat().st_size > 0
""",
    "open": "from ovlabel.store.read import open_store; len(open_store(out))",
    "idle": """
from ovlabel.run.job import prepare
from ovlabel.run.result import RunResult
job = prepare(folder, config(), out)
list(job.run(make=make))
assert RunResult.of(job, 0.0).looked_at == 0
""",
    "one more": """
from ovlabel.run.job import prepare
from ovlabel.run.result import RunResult
job = prepare(folder, config(), out)
list(job.run(make=make))
assert RunResult.of(job, 0.0).looked_at == 1
""",
    "status": """
from ovlabel.cli import main
assert main(["status", str(out)]) == 0
""",
    "compact": """
from ovlabel.cli import main
assert main(["compact", str(out)]) == 0
""",
}
DRIVER = """
import json, os, resource, sys
from pathlib import Path
folder, out = Path(sys.argv[1]), Path(sys.argv[2])

def config():
    from ovlabel.settings.reading import load_config
    return load_config("plain", {"text.vocabulary": "classes:dark, middle, bright", "encoder.weights": "random:0"})

def make(identity, offline):
    from tests.faults import make
    return make(identity, offline)

%s
used = resource.getrusage(resource.RUSAGE_SELF)
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([used.ru_utime + used.ru_stime, int(peak) / 1024]), file=sys.stderr)
"""


def measure(task: str, folder: Path, out: Path, checkout: Path) -> tuple[float, float]:
    """CPU seconds and MB of a task in a process of its own."""
    line = [sys.executable, "-c", DRIVER % TASKS[task], str(folder), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    made = subprocess.run(line, capture_output=True, text=True, cwd=checkout, env=environment, check=False)
    if made.returncode:
        raise SystemExit(made.stderr)
    seconds, megabytes = json.loads(made.stderr.splitlines()[-1])
    return seconds, megabytes


def fill(folder: Path, images: int) -> None:
    """So many tiny images: hard links to a file for every thousand of them."""
    from PIL import Image

    for number in range(-(-images // 1000)):
        part = folder / f"{number:04d}"
        part.mkdir(parents=True)
        first = part / "000.png"
        Image.new("RGB", (8 + number % 50, 9 + number // 50), (number % 256, number // 256, 7)).save(first)
        for place in range(1, min(1000, images - 1000 * number)):
            os.link(first, part / f"{place:03d}.png")


def write(folder: Path, out: Path, size: int) -> None:
    """A store that covers the folder, in commits of `size` images."""
    import hashlib

    import numpy as np

    from ovlabel.run.identity import RunIdentity
    from ovlabel.run.listing import list_images
    from ovlabel.settings.reading import load_config
    from ovlabel.store.manifest import Manifest
    from ovlabel.store.record import Record
    from ovlabel.store.write import writing
    from ovlabel.types import Annotation
    from tests.faults import make

    given = {"text.vocabulary": "classes:dark, middle, bright", "encoder.weights": "random:0"}
    identity = RunIdentity.read(load_config("plain", given))
    run = make(identity, True)[1]
    items = list_images(folder)

    def entry(place: int) -> tuple[Record, Annotation]:
        item = items[place]
        digest = hashlib.sha256(item.key.encode()).hexdigest()
        labels = np.full((8, 9), place % 3, np.uint8)
        return Record(item.key, item.size, item.mtime_ns, digest), Annotation(labels, labels, None, None, (8, 9))

    def manifest() -> Manifest:
        return Manifest.new(out, folder, identity.vocabulary, run, identity.written)

    with writing(out, create=manifest) as store:
        for start in range(0, len(items), size):
            store.commit([entry(place) for place in range(start, min(start + size, len(items)))])


def row(name: str, tasks: list[str], folder: Path, out: Path, checkout: Path) -> None:
    """Measure tasks and print a row of the table."""
    cells = []
    for task in tasks:
        if task == "one more":
            extra = folder / f"0000/extra-{name.replace(' ', '-')}.png"
            shutil.copy(folder / "0000/000.png", extra)
        both = [measure(task, folder, out, checkout) for _ in range(1 if task in ("one more", "compact") else 2)]
        seconds, megabytes = min(both)
        cells.append(f"{seconds:.2f} s, {megabytes:.0f} MB")
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    options.add_argument("--baseline", type=Path)
    options.add_argument("--scratch", type=Path, default=Path("growth"))
    given = options.parse_args()
    own, scratch = Path(__file__).parents[2], given.scratch.absolute()
    tasks = ["import", "list", "open", "idle", "status", "one more"]
    print(f"| images | {' | '.join(tasks)} |\n|---{'|---' * len(tasks)}|")
    for images in given.images:
        folder, out = scratch / str(images), scratch / f"{images}.zarr"
        if not out.exists():
            fill(folder, images)
            write(folder, out, 64)
        measure("idle", folder, out, own)  # writes the index of a store that has none
        row(f"{images:,}", tasks, folder, out, own)
        if given.baseline is not None:
            row(f"{images:,} before", tasks, folder, out, given.baseline)
    folder, out = scratch / "1000", scratch / "single.zarr"
    if folder.exists():
        write(folder, out, 1)
        row("1,000 commits of one image", ["open", "compact", "open"], folder, out, own)
        shutil.rmtree(out)


if __name__ == "__main__":
    main()
