"""All kinds of input, by name."""

from __future__ import annotations

from tests.fuzz import arrays, command_lines, operators, schedule_files, tensor_files
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        schedule_files.VALUES,
        schedule_files.BYTES,
        tensor_files.WEIGHTS,
        tensor_files.STATISTICS,
        tensor_files.JOURNALS,
        operators.UPDATES,
        operators.LOSSES,
        operators.EMBEDDINGS,
        operators.PRODUCTS,
        arrays.ARRAYS,
        command_lines.LINES,
    )
}
