"""What log p(x) is: exactly, or by importance sampling with its error."""

from pyrolvm.evidence.evidence import Evidence, evidence_of_weights
from pyrolvm.evidence.exact import exact
from pyrolvm.evidence.importance import importance
from pyrolvm.evidence.pareto import pareto_khat, pareto_threshold

__all__ = ["Evidence", "evidence_of_weights", "exact", "importance", "pareto_khat", "pareto_threshold"]
