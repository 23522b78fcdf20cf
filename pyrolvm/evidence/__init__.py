"""What log p(x) is: exactly, by importance sampling, or by annealing, with its error."""

from pyrolvm.evidence.annealed import annealed
from pyrolvm.evidence.bidirectional import EvidenceBounds, bidirectional
from pyrolvm.evidence.evidence import DoubtfulEvidence, Evidence, evidence_of_weights
from pyrolvm.evidence.exact import exact
from pyrolvm.evidence.importance import importance
from pyrolvm.evidence.pareto import INFINITE_VARIANCE, pareto_khat, pareto_threshold
from pyrolvm.evidence.uniform import uniform

__all__ = [
    "INFINITE_VARIANCE",
    "DoubtfulEvidence",
    "Evidence",
    "EvidenceBounds",
    "annealed",
    "bidirectional",
    "evidence_of_weights",
    "exact",
    "importance",
    "pareto_khat",
    "pareto_threshold",
    "uniform",
]
