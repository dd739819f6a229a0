"""Each row to the teachers of its domain: specialists (Hinton, Vinyals, Dean 2015, 1503.02531, section 5).

    w_k = π_k [k in R(d)] / Σ_j π_j [j in R(d)],   d = the row's entry in a column of the data set

R(d) are the teachers whose route names d; if none does, those that have no route, the generalists; if all teachers have
one, all of them.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from students.weightings.weighting import Panel, Weighting, normalised

if TYPE_CHECKING:
    import torch


class RoutingWeighting(Weighting):
    """On each row the teachers that know its domain, which a column of the data set tells (1503.02531)."""

    reads = frozenset({"weights", "column"})

    method: Literal["routing"] = "routing"
    column: str
    """Column of whole numbers, one for each row."""
    routes: Annotated[dict[str, tuple[int, ...]], Field(min_length=1)]
    """For each teacher that is a specialist: the entries of the column that it knows."""

    @property
    def column_read(self) -> str:
        """The column that tells the domain."""
        return self.column

    def shares(self, panel: Panel) -> "torch.Tensor":
        """Return shares, `[K, N]`; a teacher that is not asked has 0."""
        import torch

        domains_N = panel.columns[self.column]
        asked_KN = torch.stack(
            [torch.isin(domains_N, domains_N.new_tensor(self.routes.get(name, ()))) for name in panel.teachers]
        )
        has_route_K1 = torch.tensor([name in self.routes for name in panel.teachers], device=domains_N.device)[:, None]
        general_KN = ~has_route_K1 | has_route_K1.all()
        return normalised(panel.prior_KN * torch.where(asked_KN.any(dim=0), asked_KN, general_KN))
