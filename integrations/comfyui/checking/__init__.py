"""The parts of ``check.py``. They are imported where a ComfyUI is; ComfyUI itself does not import them."""
