"""`python -m retl` is `retl`."""

from retl.cli.main import main

main()
