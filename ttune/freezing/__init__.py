"""The parts of ``ttune.freeze_time``: runs of the network that are watched, the choice of modules, the rows in their places."""
