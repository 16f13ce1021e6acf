"""`python -m kinema`, the same as the command."""

from kinema.cli import main

main()
