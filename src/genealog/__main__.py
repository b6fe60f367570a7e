"""`python -m genealog`."""

from genealog.cli import main

main()
