"""The tables of the manual are those that the declarations make."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovlabel.fields import declared
from ovlabel.settings.keys import SECTIONS
from tests.tables import MANUALS, made


@pytest.mark.parametrize("manual", MANUALS, ids=lambda path: path.parent.name)
def test_the_tables_of_a_manual_are_up_to_date(manual: Path) -> None:
    text = manual.read_text(encoding="utf-8")
    assert text.count("<!-- table: ") == text.count("<!-- end of table -->") == 2
    assert made(text) == text, "run: python -m tests.tables"


def test_a_stale_table_is_made_anew() -> None:
    stale = "before\n<!-- table: presets -->\nold\n<!-- end of table -->\nafter\n"
    fresh = made(stale)
    assert fresh.startswith("before\n<!-- table: presets -->\n| preset ")
    assert "| `attention` | " in fresh
    assert "\nold\n" not in fresh
    assert made(fresh) == fresh


def test_every_key_of_a_section_has_a_sentence() -> None:
    for cls in SECTIONS.values():
        assert all(field.doc.endswith(".") for field in declared(cls))
