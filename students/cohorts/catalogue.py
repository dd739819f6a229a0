"""All methods by which a cohort may learn: the one list by which a spec and `coffey techniques` find them."""

from typing import Annotated, get_args

from pydantic import Field

from students.cohorts.dml import DMLCohort
from students.cohorts.kdcl import KDCLCohort
from students.cohorts.method import CohortMethod
from students.cohorts.one import ONECohort

CohortConfig = Annotated[DMLCohort | KDCLCohort | ONECohort, Field(discriminator="method")]
"""How students teach each other, told apart by its `method`."""

COHORTS: tuple[type[CohortMethod], ...] = get_args(get_args(CohortConfig)[0])
