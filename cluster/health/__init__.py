"""Whether this machine, and the cluster it is to work with, are fit for a job."""
