"""Handing a manifest to Kubernetes by the user's own `kubectl`, and whatever rights that has."""

import shutil
import subprocess

from cluster.errors import EnvironmentFailure, excerpt


class KubectlMissingError(EnvironmentFailure):
    """There is no kubectl."""

    def __str__(self) -> str:
        return (
            "there is no `kubectl` on the PATH, and --apply needs it. Install it, or write the YAML with --out FILE "
            "and apply it elsewhere: `kubectl apply -f FILE`."
        )


class ManifestNotAppliedError(EnvironmentFailure):
    """kubectl, or the cluster behind it, said no."""

    def __init__(self, exit_code: int, said: str) -> None:
        super().__init__(exit_code, said)
        self.kubectl_exit_code, self.said = exit_code, said

    def __str__(self) -> str:
        return (
            f"kubectl apply ended with code {self.kubectl_exit_code}: {excerpt(self.said)} Check `kubectl config "
            "current-context`, and that KubeRay's operator is installed there (`kubectl get crd rayjobs.ray.io`)."
        )


def apply(manifest: str) -> str:
    """Apply a manifest; return what kubectl says.

    Raises:
        KubectlMissingError: there is no kubectl.
        ManifestNotAppliedError: it failed.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise KubectlMissingError
    command = [kubectl, "apply", "-f", "-"]
    ran = subprocess.run(command, input=manifest, capture_output=True, text=True, check=False)  # noqa: S603  no shell
    if ran.returncode != 0:
        raise ManifestNotAppliedError(ran.returncode, ran.stderr.strip() or "it said nothing.")
    return ran.stdout.strip()
