"""Every figure of a job, computed from what lies in the store."""
