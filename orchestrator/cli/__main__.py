"""`python -m orchestrator.cli`: the `coffey` command where it is not on the path."""

from orchestrator.cli.app import main

main()
