"""Where ComfyUI's file lists find schedules: ``models/ttune``, and the folders that ``extra_model_paths.yaml`` calls ttune."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

FOLDER = "ttune"


def register() -> None:
    """Make ``models/ttune`` one of ComfyUI's folders of models, of .json files."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    folder_paths.folder_names_and_paths[FOLDER][1].add(".json")


def names() -> list[str]:
    """The files in these folders, as lists show them."""
    return folder_paths.get_filename_list(FOLDER)


def path_of(name: str) -> str:
    """The file of a name from the list; another name is a path, as workflows of earlier versions have it."""
    return folder_paths.get_full_path(FOLDER, name) or name


def new_path(stem: str) -> Path:
    """A file in the first folder that is not there yet: ``stem``.json, or with a number. ValueError for a stem with folders in it."""
    if not stem or Path(stem).name != stem or stem.startswith("."):
        raise ValueError(f"name must be that of a file, without folders, got {stem!r}")
    folder = Path(folder_paths.get_folder_paths(FOLDER)[0])
    folder.mkdir(parents=True, exist_ok=True)
    path, number = folder / f"{stem}.json", 2
    while path.exists():
        path, number = folder / f"{stem}_{number}.json", number + 1
    return path
