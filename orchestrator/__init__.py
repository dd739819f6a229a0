"""The conductor: the spec, the plan, the run, the command line and the report."""
