"""Captured steps give the parameters that eager steps give, for every pair and every objective."""

import pytest
import torch
from laws.cases import CASES

import pyrolvm as lvm

OBJECTIVES = {
    "ELBO": lambda: lvm.objectives.ELBO(2),
    "STL": lambda: lvm.objectives.STL(2),
    "IWELBO": lambda: lvm.objectives.IWELBO(3),
    "DReG": lambda: lvm.objectives.DReG(3),
    "Renyi": lambda: lvm.objectives.Renyi(3, alpha=0.5),
    "CUBO": lambda: lvm.objectives.CUBO(4),
    "TVO": lambda: lvm.objectives.TVO(3),
    "VIMCO": lambda: lvm.objectives.VIMCO(3),
    "RWS": lambda: lvm.objectives.RWS(3),
}
SUBSAMPLED = [(name, 3) for name, case in CASES.items() if case.subsamples and not case.costly]
EVERY_PAIR = [(name, batch_size, "ELBO") for name, batch_size in [*((name, None) for name in CASES), *SUBSAMPLED]]
EVERY_OBJECTIVE = [("local, modules", 3, objective) for objective in OBJECTIVES if objective != "CUBO"]
GLOBALS_TOO = [("globals and locals", None, objective) for objective in OBJECTIVES if objective not in ("ELBO", "CUBO")]
SCORED = [("local, mixed", 3, objective) for objective in ("STL", "IWELBO", "Renyi", "TVO", "VIMCO")]
GUIDE_ALONE = [("joint", None, "CUBO")]


def fitted(name, objective, compile, batch_size=None, **options):
    model, guide, args = CASES[name].make()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lvm.fit(
            model,
            guide,
            args or None,
            objective=OBJECTIVES[objective](),
            num_steps=8,
            batch_size=batch_size,
            compile=compile,
            seed=3,
            progress=False,
            **options,
        )


def parameters_of(result):
    found = []
    for program in (result.model, result.guide):
        values = getattr(program, "parameters", {})
        found += [p for _, p in program.named_parameters()] if callable(values) else list(values.values())
    return [p.detach() for p in found]


@pytest.mark.parametrize(
    ("name", "batch_size", "objective"), [*EVERY_PAIR, *EVERY_OBJECTIVE, *GLOBALS_TOO, *SCORED, *GUIDE_ALONE]
)
def test_captured_steps_are_the_eager_ones(name, batch_size, objective, interpreted):
    eager = fitted(name, objective, False, batch_size)
    captured = fitted(name, objective, True, batch_size)
    assert captured.execution.startswith("compiled")
    torch.testing.assert_close(captured.losses, eager.losses)
    assert len(parameters_of(captured)) == len(parameters_of(eager)) > 0
    for found, expected in zip(parameters_of(captured), parameters_of(eager), strict=True):
        torch.testing.assert_close(found, expected)
