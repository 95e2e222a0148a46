"""Runs the nodes in a real ComfyUI and compares what they sample with ``ttune.sample``.

    python integrations/comfyui/check.py FOLDER [--checkpoint FILE] [--only WORDS] [--no-server]

FOLDER is a ComfyUI (main.py is there), run by a Python that has its requirements and ttune. Tiny networks of ComfyUI's own classes with
random weights are made on the spot; ``--checkpoint`` takes an SD 1.5 checkpoint instead of the first of them. Everything runs on the CPU.
The last case goes through a server of its own and POST /prompt. The exit status is 1 where a case fails.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
CLOSE = 1e-5  # relative, of the largest element: the arithmetic of both sides is float32


def report(case: Any) -> bool:
    name, run, *refusal = case
    passed, shown = False, "accepted"
    try:
        made = run()
        if not refusal:
            theirs, ours = made
            difference = float((theirs - ours).abs().max() / ours.abs().max())
            passed, shown = difference < CLOSE, f"{difference:.1e}"
    except Exception as error:
        passed = bool(refusal) and isinstance(error, ValueError) and refusal[0] in str(error)
        shown = "refused" if passed else f"{type(error).__name__}: {error}"
    print(f"{name:44} {shown:>10}  {'pass' if passed else 'FAIL'}", flush=True)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a ComfyUI: main.py is there")
    parser.add_argument("--checkpoint", type=Path, help="an SD 1.5 checkpoint instead of a tiny one with random weights")
    parser.add_argument("--only", default="", metavar="WORDS", help="the cases with these words in their names")
    parser.add_argument("--no-server", action="store_true", help="in process only")
    parser.add_argument("--port", type=int, default=8299, help="of the server")
    arguments = parser.parse_args()
    folder, sys.argv = arguments.folder.resolve(), sys.argv[:1]  # ComfyUI reads the command line too
    if not (folder / "main.py").is_file():
        parser.error(f"folder must be that of a ComfyUI, with its main.py, got {folder}")
    sys.path[:1] = [str(folder), str(HERE.parent)]  # in the place of this script's folder
    from comfy import cli_args

    cli_args.args.cpu = True  # before anything else of ComfyUI
    from comfyui.checking.cases import cases
    from comfyui.checking.models import write_checkpoint
    from comfyui.checking.server import through_the_server

    with torch.no_grad(), tempfile.TemporaryDirectory() as name:
        checkpoint = arguments.checkpoint
        if checkpoint is None:
            checkpoint = Path(name) / "tiny.safetensors"
            write_checkpoint(checkpoint)
        results = [report(case) for case in cases(checkpoint) if arguments.only in case[0]]
        if not arguments.no_server:
            made = through_the_server(folder, checkpoint, arguments.port)
            results += [report(case) for case in made if arguments.only in case[0]]
    print(f"{sum(results)} of {len(results)} cases within {CLOSE:g}")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
