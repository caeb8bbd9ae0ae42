"""``python -m cytoloc`` is ``cytoloc``."""

from cytoloc.cli.app import main

main()
