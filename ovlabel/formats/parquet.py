"""Parquet for Hugging Face `datasets`: columns `key` and `label`, which reads as an image of class indices.

`load_dataset("parquet", data_files="FOLDER/*.parquet")` opens it. 255 (65535 in 16 bit) where there is no label;
`id2label.json` says what the indices mean.
"""

from __future__ import annotations

import io
import json
from itertools import islice
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from ovlabel.formats import DROPPED, Job, Sheet

_GROUP = 100  # images in a row group: what a reader holds at once
_FILE = 10_000  # images in a file


def write(job: Job) -> None:
    """`labels-00000.parquet`, …; images in key order."""
    names = {str(index): entry.name for index, entry in enumerate(job.classes)}
    job.file("id2label.json").write_text(json.dumps(names, ensure_ascii=False, indent=1), encoding="utf-8")
    picture = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    features = {"key": {"dtype": "string", "_type": "Value"}, "label": {"_type": "Image"}}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pyarrow.schema({"key": pyarrow.string(), "label": picture}, metadata=told)
    wide = len(job.classes) > 255
    sheets, number = job.sheets(), 0
    while group := list(islice(sheets, _GROUP)):
        with pyarrow.parquet.ParquetWriter(job.file(f"labels-{number:05d}.parquet"), schema) as file:
            written = 0
            while group:
                file.write_table(pyarrow.Table.from_pylist([_row(sheet, wide) for sheet in group], schema))
                written += len(group)
                group = list(islice(sheets, min(_GROUP, _FILE - written)))
        number += 1


def _row(sheet: Sheet, wide: bool) -> dict[str, Any]:
    values = sheet.labels if wide else np.where(sheet.labels == DROPPED, 255, sheet.labels).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return {"key": sheet.key, "label": {"bytes": file.getvalue(), "path": f"{sheet.name}.png"}}
