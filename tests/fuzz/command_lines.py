"""The command line: exit status 0, 1 or 2 and a message, never a traceback, whatever words it is given."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from tests.fuzz.corpus import cases
from tests.fuzz.mutation import as_json
from tests.fuzz.schedule_files import bases
from tests.fuzz.target import Target, folder
from ttune import NoiseSchedule, Schedule
from ttune.cli import COMMANDS, main

WORDS = (
    "",
    "-",
    "--",
    "nan",
    "inf",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "0.5",
    "1e999",
    "9" * 30,
    "\x00",
    "é",
    "\ud800",
    "None",
    "true",
    "a:b",
    ":",
    "[]",
)
PLACES = (
    "out.json",
    "out.png",
    "out.npz",
    "nowhere/x.png",
    "good.json",
    "short.json",
    "",
    ".",
    "/",
    "/dev/null/x.png",
    "out.txt",
    "bad.json",
)
MODELS = ("tests.tiny_model:factory", "tests.tiny_model:nothing", "os:getcwd", "fashions", "", ":", "a.b:c", "tests.tiny_model:factory ")
SHORT = tuple(name for name in COMMANDS if name not in ("demo", "compare"))  # without arguments those two work for minutes
numbers = st.sampled_from(("0", "1", "2", "3", "5", "-1", "0.5", "nan", "inf", "1e3", "9" * 30, "x", ""))
words = st.sampled_from(WORDS)
places = st.sampled_from(PLACES)
seeds = st.sampled_from(("0", "7", "-1", str(2**63 - 2), str(2**63), "9" * 30, "x"))
samplers = st.sampled_from(("ddim", "euler", "heun", "dpmpp_2m", "unipc", "ddpm", "auto", "magic", ""))
spacings = st.sampled_from(("leading", "trailing", "linspace", "quadratic", "log_snr", "karras", "ays", "even"))

# One sample of a small network takes milliseconds; nothing here asks for more than a handful, or for a number that must be refused.
FLAGS: dict[str, dict[str, st.SearchStrategy[str]]] = {
    "sample": {
        "--out": places, "--schedule": places, "--model": st.sampled_from(MODELS), "--sampler": samplers, "--steps": numbers,
        "--spacing": spacings, "--n": numbers, "--seed": seeds, "--guidance-scale": numbers, "--backend": words, "--columns": numbers,
        "--option": words, "--condition": words,
    },
    "tune": {
        "--out": places, "--model": st.sampled_from(MODELS), "--sampler": samplers, "--steps": numbers, "--spacing": spacings,
        "--method": words, "--t-start": numbers, "--offset": numbers, "--final": st.sampled_from(("zero", "min", "max")),
        "--samples": st.sampled_from(("0", "1", "2", "4", "-1")), "--holdout": st.sampled_from(("0", "1", "2", "4", "-1")),
        "--chunk": numbers, "--iterations": st.sampled_from(("0", "1", "-1", "x")), "--seed": seeds, "--checkpoint": places,
        "--budget": numbers, "--population": numbers, "--residual": words, "--tune": words,
    },
    "evaluate": {
        "--model": st.sampled_from(MODELS), "--steps": numbers, "--n": numbers, "--chunk": numbers, "--seed": seeds,
        "--inception": places, "--guidance-scale": numbers, "--out": places,
    },
    "analytic": {"--out": places, "--model": st.sampled_from(MODELS), "--steps": st.sampled_from(("0", "1", "-1")), "--samples": numbers},
    "info": {},
}  # fmt: skip
REQUIRED = {
    "sample": ["--model", "tests.tiny_model:factory", "--out", "out.npz", "--n", "2", "--steps", "2"],
    "tune": ["--model", "tests.tiny_model:factory", "--out", "tuned.json", "--steps", "1", "--samples", "2", "--holdout", "2",
             "--iterations", "1", "--no-search-starts", "--quiet"],
    "evaluate": ["good.json", "--model", "tests.tiny_model:factory", "--n", "2", "--no-teacher", "--quiet"],
    "analytic": ["--model", "tests.tiny_model:factory", "--out", "analytic.json", "--steps", "1", "--samples", "2", "--quiet"],
    "info": [],
}  # fmt: skip


@st.composite
def _lines(draw: st.DrawFn) -> list[str]:
    """A command that would work, with up to three settings after it that may not; or words without sense."""
    command = draw(st.sampled_from(("sample",) * 5 + ("tune", "evaluate", "evaluate", "analytic", "info")))
    if not draw(st.integers(0, 11)):
        return draw(st.lists(st.one_of(words, st.sampled_from((*SHORT, "--help", "--out", "--steps"))), max_size=5))
    line = [command, *REQUIRED[command]]
    for _ in range(draw(st.integers(0, 3))):
        if FLAGS[command]:
            flag = draw(st.sampled_from(sorted(FLAGS[command])))
            line += [flag, draw(FLAGS[command][flag])]
    if not draw(st.integers(0, 9)):
        line.insert(draw(st.integers(0, len(line))), draw(words))
    return line


def _prepared() -> None:
    """A folder with a good schedule, one of another noise schedule and one that is none."""
    os.chdir(folder())
    if not os.path.exists("good.json"):
        Schedule.build(NoiseSchedule.linear(), "ddim", 2).save("good.json")
        with open("short.json", "wb") as short, open("bad.json", "wb") as bad:
            short.write(as_json(bases()[0]))
            bad.write(b"{")


def run(line: list[str]) -> bool:
    before = os.getcwd()
    _prepared()
    status = _run(line)
    os.chdir(before)
    if isinstance(status, str):
        assert status.startswith("ttune: "), status
        assert "null byte" not in status, status  # Python's words, which do not say of what
        assert "codec" not in status, status
        assert status.strip().count("\n") <= 3, status  # torch's own messages have lines
        status = 1
    assert status in (0, 1, 2), status
    return status == 0


def _run(line: list[str]) -> Any:
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    torch.manual_seed(0)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main(line)
        except SystemExit as stop:
            return 0 if stop.code is None else stop.code
    return 0


def _words(file: Path) -> list[str]:
    return json.loads(file.read_bytes())


LINES = Target("command lines", st.deferred(_lines), run, 2, lambda: cases("command_lines", _words))
