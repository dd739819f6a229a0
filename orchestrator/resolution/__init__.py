"""From a spec to identities: every teacher, label set and training of a job, without doing any of it."""
