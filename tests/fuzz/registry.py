"""All kinds of input, by name."""

from __future__ import annotations

from tests.fuzz import arrays, command_lines, operators, other_files, reference_files, schedule_files, tensor_files
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        schedule_files.VALUES,
        schedule_files.BYTES,
        tensor_files.WEIGHTS,
        tensor_files.STATISTICS,
        tensor_files.JOURNALS,
        reference_files.ARRAYS,
        reference_files.FOLDERS,
        other_files.LISTS,
        other_files.FOLDERS,
        operators.UPDATES,
        operators.LOSSES,
        operators.EMBEDDINGS,
        operators.PRODUCTS,
        arrays.ARRAYS,
        command_lines.LINES,
    )
}
