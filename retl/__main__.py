"""`python -m retl` is `retl`."""

from retl.cli import main

main()
