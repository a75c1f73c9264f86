"""``python -m mailbridge`` is the same as ``mailbridge``."""

from mailbridge.cli.main import main

main()
