"""The command line: ``ttune demo | tune | sample | invert | evaluate | compare | report | analytic | export | import | info``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NoReturn

import tyro

from ttune.cli.analytic import Analytic
from ttune.cli.compare import Compare
from ttune.cli.demo import Demo
from ttune.cli.evaluate import Evaluate
from ttune.cli.exchange import Export, Import
from ttune.cli.info import Info
from ttune.cli.invert import Invert
from ttune.cli.report import Report
from ttune.cli.sample import Sample
from ttune.cli.tune import Tune
from ttune.distributed import RankLost, joined, world_size
from ttune.messages.names import meant
from ttune.network.call_note import notes_of
from ttune.noise.grids import GRIDS
from ttune.samplers import SAMPLERS
from ttune.version import __version__

SHARED = ("tune", "evaluate")  # what several processes can do together
COMMANDS = {
    "demo": Demo,
    "tune": Tune,
    "sample": Sample,
    "invert": Invert,
    "evaluate": Evaluate,
    "compare": Compare,
    "report": Report,
    "analytic": Analytic,
    "export": Export,
    "import": Import,
    "info": Info,
}

CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)  # a group of flags is a dataclass, its name a title and no prefix

# What an interrupted command leaves, and how to go on; tune knows its files and says so itself.
AFTERWARDS = {
    "evaluate": "With --work, what was finished is kept there and the same command goes on from it; without, it begins again.",
    "compare": "The cells that were finished are kept in the folder of --out; the same command goes on from them.",
    "report": "The page may not have been written, or only some of the PNGs beside it; the same command begins again.",
    "invert": "Both files are written all at once, at the end: each is the earlier one or whole; the same command begins again.",
    "sample": "Samples are written all at once, at the end: a file of --out is the earlier one or whole; the same command begins again.",
}


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command the way that Ctrl-C does."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM as an exception meanwhile; in another thread than the main one signals are somebody else's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> NoReturn:
        raise Terminated("Terminated")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _suggest(arguments: list[str]) -> None:
    """On stderr: which command, sampler or spacing was probably meant."""
    named = {"sampler": [*SAMPLERS, "auto"], "samplers": SAMPLERS, "spacing": GRIDS}
    pairs = [("command", arguments[0], COMMANDS)] if arguments and not arguments[0].startswith("-") else []
    pairs += [(flag, word, named[flag.lstrip("-")]) for flag, word in pairwise(arguments) if flag.lstrip("-") in named]
    for flag, word, known in pairs:
        if word not in known and (near := meant(word, known)):
            print(f"ttune: {flag} {word}{near}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake in the arguments or the files is one line on stderr and exit status 1."""
    words = sys.argv[1:] if arguments is None else arguments
    if words == ["--version"]:
        print(f"ttune {__version__}")
        return
    command = next(iter(words), "")
    try:
        if world_size() > 1 and command in COMMANDS and command not in SHARED:
            raise ValueError(f"ttune {command} runs in one process; start it without torchrun")
        with _terminable(), joined():
            try:
                given = tyro.extras.subcommand_cli_from_dict(COMMANDS, args=words, prog="ttune", description=__doc__, config=CONFIG)
            except SystemExit as end:
                if end.code == 2:
                    _suggest(words)
                raise
            given.run()
            sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, say) has seen enough; Python would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    # Among a RuntimeError's are a backend that cannot run here and torch's own, of memory on a device above all.
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, MemoryError, RuntimeError, RankLost) as error:
        if os.environ.get("TTUNE_TRACEBACK"):
            raise
        # Not world_size(), which may be what failed.
        rank = f"rank {os.environ['RANK']}: " if "RANK" in os.environ and os.environ.get("WORLD_SIZE") != "1" else ""
        afterwards = f". {AFTERWARDS[command]}" if isinstance(error, RankLost) and command in AFTERWARDS else ""
        sys.exit(f"ttune: {rank}{str(error) or type(error).__name__}{notes_of(error)}{afterwards}")
    except KeyboardInterrupt as interrupt:
        if command in AFTERWARDS and os.environ.get("RANK", "0") == "0":
            print(f"\n{str(interrupt) or 'Interrupted'}. {AFTERWARDS[command]}", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT))


if __name__ == "__main__":
    main()
