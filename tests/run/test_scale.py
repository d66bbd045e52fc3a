"""Ten thousand images: what one of them costs does not grow with how many there were before it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

DRIVER = """
import json, os, sys
from pathlib import Path
import numpy as np
from PIL import Image
from tests.faults import make
from ovlabel.settings.reading import load_config
from ovlabel.run.job import prepare

folder, count = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir()
dice = np.random.default_rng(0)
for number in range(count):
    Image.fromarray(dice.integers(0, 256, (8, 9, 3), dtype=np.uint8)).save(folder / f"{number}.png", compress_level=0)

events = [0]
sys.addaudithook(lambda event, _: events.__setitem__(0, events[0] + event.startswith(("open", "os."))))
config = load_config("plain", {"text.vocabulary": "classes:dark, middle, bright", "encoder.weights": "random:0"})
done, told = 0, []
for report in prepare(folder, config).run(make=make):
    done += len(report.done)
    if done % 1024 == 0 or done == count:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        told.append((done, pages * os.sysconf("SC_PAGE_SIZE"), events[0]))
print(json.dumps(told))
"""


def test_ten_thousand_images_cost_each_what_the_first_thousand_cost(tmp_path: Path) -> None:
    line = [sys.executable, "-c", DRIVER, str(tmp_path / "in"), "10000"]
    made = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    told = json.loads(made.stdout)
    (done, memory, events), (last, grown, all_events) = told[1], told[-1]
    assert last == 10_000
    assert (grown - memory) / (last - done) < 1500, "bytes an image: its record, and nothing else, is kept"
    first_rate, later_rate = events / done, (all_events - events) / (last - done)
    assert later_rate < 1.05 * first_rate, "as many calls of the file system an image at the end as at the beginning"
