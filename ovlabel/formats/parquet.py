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

from ovlabel.formats._export import NO_LABEL, Export, LabelledImage, Rules

_GROUP = 100  # images in a row group: what a reader holds at once
_FILE = 10_000  # images in a file

RULES = Rules(text=True)


def write(export: Export) -> None:
    """`labels-00000.parquet`, …; images in the order of their keys."""
    names = {str(index): entry.name for index, entry in enumerate(export.classes)}
    export.file("id2label.json").write_text(json.dumps(names, ensure_ascii=False, indent=1), encoding="utf-8")
    schema, wide = _schema(), len(export.classes) > 255
    images, number = export.images(), 0
    while group := list(islice(images, _GROUP)):
        with pyarrow.parquet.ParquetWriter(export.file(f"labels-{number:05d}.parquet"), schema) as file:
            written = 0
            while group:
                file.write_table(pyarrow.Table.from_pylist([_row(image, wide) for image in group], schema))
                written += len(group)
                group = list(islice(images, min(_GROUP, _FILE - written)))
        number += 1


def _schema() -> Any:
    """The columns, with the note by which `datasets` reads `label` as an image."""
    picture = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    features = {"key": {"dtype": "string", "_type": "Value"}, "label": {"_type": "Image"}}
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    return pyarrow.schema({"key": pyarrow.string(), "label": picture}, metadata=note)


def _row(image: LabelledImage, wide: bool) -> dict[str, Any]:
    """One image; `wide` asks for 16 bits."""
    values = image.labels if wide else np.where(image.labels == NO_LABEL, 255, image.labels).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return {"key": image.key, "label": {"bytes": file.getvalue(), "path": f"{image.name}.png"}}
