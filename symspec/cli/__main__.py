"""`python -m symspec.cli`."""

from symspec.cli.app import main

main()
