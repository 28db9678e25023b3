"""`python -m clockd` is the command `clockd`."""

from clockd.cli import main

main(prog_name="clockd")
