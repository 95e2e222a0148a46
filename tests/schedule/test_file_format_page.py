"""docs/reference/file_format.md names every field of the file, and none that there is not."""

import re
from pathlib import Path

import msgspec

from ttune.noise.schedules import KINDS
from ttune.schedule.file import MAX_BYTES, MAX_DEPTH, VERSION, ScheduleFile

PAGE = (Path(__file__).parents[2] / "docs/reference/file_format.md").read_text()


def test_the_table_has_the_fields_in_their_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == [field.name for field in msgspec.structs.fields(ScheduleFile)]


def test_its_limits_and_kinds_are_those_of_the_code() -> None:
    assert f"{MAX_BYTES:,} bytes, nested at most {MAX_DEPTH} deep" in PAGE
    assert f"| `schema_version` | whole number | {VERSION}." in PAGE
    assert all(f"`{kind}`" in PAGE for kind in KINDS)
