"""The steps of a run, one file for each: what is done when the plan says `to do`."""
