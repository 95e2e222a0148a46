"""What all tests share."""

from __future__ import annotations

import signal

import torch
from hypothesis import settings

# A test run that a shell started in the background is deaf to interrupts, and so are its children; some tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Small tensors: two threads that share busy cores wait for each other.
torch.set_num_threads(1)

# No deadline: the machines that run the tests are shared, and a slow example is not a wrong one.
settings.register_profile("ttune", deadline=None, max_examples=40, print_blob=True)
settings.load_profile("ttune")
