"""The commands of the command line, a file each; :mod:`ttune.cli.main` runs them."""
