"""Nodes for ComfyUI: put this folder into its ``custom_nodes``, with ttune installed beside it. See README.md."""

from .nodes import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
