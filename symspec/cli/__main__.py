"""Run the command line by `python -m symspec.cli`."""

from symspec.cli.app import main

main()
