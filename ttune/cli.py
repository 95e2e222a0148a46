"""The command line: ``ttune demo | tune | sample | evaluate | compare | report | analytic | export | import | info``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import tyro

from ttune.commands.analytic import analytic
from ttune.commands.compare import compare
from ttune.commands.demo import demo
from ttune.commands.evaluate import evaluate
from ttune.commands.exchange import export, import_
from ttune.commands.info import info
from ttune.commands.report import report
from ttune.commands.sample import sample
from ttune.commands.tune import tune
from ttune.ranks import RankLost, joined

SHARED = ("tune", "evaluate")  # what several processes can do together
COMMANDS = {
    "demo": demo,
    "tune": tune,
    "sample": sample,
    "evaluate": evaluate,
    "compare": compare,
    "report": report,
    "analytic": analytic,
    "export": export,
    "import": import_,
    "info": info,
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


def main(arguments: list[str] | None = None) -> None:
    """Run a command; a mistake in the arguments or the files is one line on stderr and exit status 1."""

    command = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and command in COMMANDS and command not in SHARED:
            raise ValueError(f"ttune {command} runs in one process; start it without torchrun")
        with _terminable(), joined():
            tyro.extras.subcommand_cli_from_dict(COMMANDS, args=arguments, prog="ttune", description=__doc__)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, say) has seen enough; Python would complain once more when it flushes
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    # Among a RuntimeError's are a backend that cannot run here and torch's own, of memory on a device above all.
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, MemoryError, RuntimeError, RankLost) as error:
        if os.environ.get("TTUNE_TRACEBACK"):
            raise
        rank = f"rank {os.environ.get('RANK')}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
        sys.exit(f"ttune: {rank}{str(error) or type(error).__name__}")
    except KeyboardInterrupt as interrupt:
        sys.exit(128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT))


if __name__ == "__main__":
    main()
