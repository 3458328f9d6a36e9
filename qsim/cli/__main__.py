"""``python -m qsim.cli`` is ``qsim``."""

from qsim.cli import main

main()
