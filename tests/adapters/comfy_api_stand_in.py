"""What the nodes use of ComfyUI's interface for nodes (comfy_api) and of its lists of files, written from its public documentation."""

from __future__ import annotations

import os
import types
from dataclasses import dataclass, field
from typing import Any


class Socket:
    """An input or output of a node: its type's name, and what it was declared with."""

    def __init__(self, io_type: str, id: str | None = None, **settings: Any) -> None:
        self.io_type, self.id, self.settings = io_type, id, settings


def io_type(name: str) -> Any:
    def socket(id: str | None = None, **settings: Any) -> Socket:
        return Socket(name, id, **settings)

    return types.SimpleNamespace(Input=socket, Output=socket)


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    description: str
    inputs: list[Socket] = field(default_factory=list)
    outputs: list[Socket] = field(default_factory=list)
    is_output_node: bool = False


class ComfyNode:
    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        return cls.define_schema()  # type: ignore[attr-defined]


class NodeOutput:
    def __init__(self, *args: Any, ui: Any = None) -> None:
        self.args, self.ui = args, ui

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class Folders(types.ModuleType):
    """folder_paths: kinds of files, each with its folders and the ends of its files' names."""

    def __init__(self, models_dir: str) -> None:
        super().__init__("folder_paths")
        self.models_dir = models_dir
        self.folder_names_and_paths: dict[str, tuple[list[str], set[str]]] = {}

    def add_model_folder_path(self, name: str, path: str) -> None:
        folders = self.folder_names_and_paths.setdefault(name, ([], set()))[0]
        folders.extend([path] if path not in folders else [])

    def get_folder_paths(self, name: str) -> list[str]:
        return list(self.folder_names_and_paths[name][0])

    def get_filename_list(self, name: str) -> list[str]:
        folders, ends = self.folder_names_and_paths[name]
        there = [file for folder in folders if os.path.isdir(folder) for file in os.listdir(folder)]
        return sorted(file for file in there if os.path.splitext(file)[1] in ends)

    def get_full_path(self, name: str, file: str) -> str | None:
        paths = [os.path.join(folder, file) for folder in self.get_folder_paths(name)]
        return next((path for path in paths if os.path.isfile(path)), None)


def modules(models_dir: str) -> dict[str, Any]:
    kinds = ("Boolean", "Combo", "Conditioning", "Float", "Int", "Latent", "Model", "Sampler", "Sigmas", "String")
    latest = types.ModuleType("comfy_api.latest")
    io = types.SimpleNamespace(Custom=io_type, Schema=Schema, ComfyNode=ComfyNode, NodeOutput=NodeOutput)
    vars(io).update({kind: io_type(kind.upper()) for kind in kinds})
    vars(latest).update(io=io, ui=types.SimpleNamespace(PreviewText=lambda value: {"text": value}), ComfyExtension=object)
    return {"comfy_api": types.ModuleType("comfy_api"), "comfy_api.latest": latest, "folder_paths": Folders(models_dir)}
