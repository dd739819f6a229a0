"""What other programs read to start a cluster for a job: KubeRay's operator, and Ray's own launcher."""
