"""Runs: each on its own, none in the way of another."""

import warnings

import pandas as pd
import pyro
import pytest
import torch
from comparison.programs import (
    Breaks,
    Linear,
    compared,
    data,
    learned_guide,
    learning_model,
    local_evidence,
    local_guide,
    local_model,
)
from torch.distributions import Normal

import pyrolvm as lvm

COLUMNS = "guide objective seed elbo iwelbo log_evidence standard_error error khat doubtful ess method converged "
COLUMNS += "num_steps seconds problem"
STEPS = {"num_steps": 60, "learning_rate": 0.05}


def numbers(table):
    return table.drop(columns="seconds").reset_index(drop=True)


def test_one_row_for_each_run():
    objectives = {"ELBO": lvm.objectives.ELBO(), "IWELBO": lvm.objectives.IWELBO(4)}
    guides = {"learned": lambda model: learned_guide, "exact": lambda model: local_guide()}
    comparison = compared(lambda: local_model, guides, objectives=objectives, seeds=range(2))
    table = comparison.table
    assert list(table.columns) == COLUMNS.split()
    expected = [(g, o, s) for g in guides for o in objectives for s in (0, 1)]
    assert list(zip(table["guide"], table["objective"], table["seed"], strict=True)) == expected
    assert len(comparison.fits) == len(comparison.evidence) == 8
    assert comparison.fits[2].num_steps == table["num_steps"][2] == 5
    assert table["converged"].isna().all()
    summary = comparison.summary()
    assert summary["runs"].tolist() == [2, 2, 2, 2]
    assert summary["elbo"][1] == pytest.approx(table["elbo"][2:4].mean())
    assert summary["elbo_sd"][1] == pytest.approx(table["elbo"][2:4].std())


def test_the_trial_step_is_the_models_too():
    guides = {"learned": lambda model: learned_guide}
    comparison = compared(lambda: learning_model, guides, fit_options={"num_steps": 6, "num_guide_steps": 3})
    assert comparison.fits[0].num_steps == 6
    with pytest.raises(ValueError, match="'num_guide_steps' must be at most the number of steps.*got 7 and 6 steps"):
        compared(lambda: learning_model, guides, fit_options={"num_steps": 6, "num_guide_steps": 7})


@pytest.mark.parametrize("make_model", [lambda: learning_model, Linear], ids=["function", "module"])
def test_nothing_leaks_from_run_to_run(make_model):
    guides = {"learned": lambda model: learned_guide, "exact": lambda model: local_guide()}
    together = compared(make_model, guides, seeds=(0, 1), fit_options=STEPS)
    alone = compared(make_model, {"learned": guides["learned"]}, seeds=(1,), fit_options=STEPS)
    pd.testing.assert_frame_equal(numbers(together.table[1:2]), numbers(alone.table))
    again = compared(make_model, guides, seeds=(0, 1), fit_options=STEPS)
    pd.testing.assert_frame_equal(numbers(together.table), numbers(again.table))
    assert len(pyro.get_param_store()) == 0


def test_a_run_is_a_fit():
    comparison = compared(Linear, {"learned": lambda model: learned_guide}, seeds=(3,), fit_options=STEPS)
    result = lvm.fit(Linear(), learned_guide, data(), seed=3, progress=False, **STEPS)
    torch.testing.assert_close(comparison.fits[0].losses, result.losses, rtol=0, atol=0)
    assert comparison.settings.model_learns


def test_generators_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    compared(Linear, {"learned": lambda model: learned_guide})
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_frozen_module():
    model = Linear(0.7)
    comparison = compared(
        lambda: model,
        {"learned": lambda model: learned_guide},
        freeze_model=True,
        fit_options={"num_steps": 300, "learning_rate": 0.03},
        seeds=(0, 1),
        reference=Normal(0.7, 2**0.5).log_prob(data()).sum(),
    )
    assert model.offset.item() == 0.7
    assert model.offset.requires_grad
    assert model.training
    assert not comparison.settings.model_learns
    assert (comparison.table["error"].abs() < 3 * comparison.table["standard_error"]).all()


def test_frozen_function_with_its_parameters():
    fitted = lvm.fit(learning_model, learned_guide, data() + 1, seed=0, progress=False, **STEPS)
    offset = fitted.model.parameters["offset"].item()
    comparison = compared(
        lambda: fitted.model, {"learned": lambda model: learned_guide}, freeze_model=True, fit_options=STEPS
    )
    assert comparison.fits[0].model.parameters["offset"].item() == offset
    assert fitted.model.state["params"]["offset"].requires_grad
    learned = compared(lambda: fitted.model, {"learned": lambda model: learned_guide}, fit_options=STEPS)
    assert learned.fits[0].model.parameters["offset"].item() != offset
    assert fitted.model.parameters["offset"].item() == offset


def test_a_run_that_breaks_is_a_row():
    guides = {
        "breaks": lambda model: Breaks(20, ValueError("the scale is negative\nand more")),
        "exact": lambda model: local_guide(),
    }
    with pytest.warns(UserWarning, match="2 of 4 runs failed, the first with: the scale is negative"):
        comparison = compared(lambda: local_model, guides, seeds=(0, 1), fit_options={"num_steps": 60})
    table = comparison.table
    assert table["problem"].tolist() == ["the scale is negative", "the scale is negative", "", ""]
    assert table["log_evidence"].isna().tolist() == [True, True, False, False]
    assert comparison.fits[0] is None
    assert comparison.evidence[0] is None
    assert comparison.verdicts[0].word == "failed"
    assert table["log_evidence"][2] == pytest.approx(local_evidence(data()).sum().item())
    assert "the scale is negative" in str(comparison)


def test_a_loss_that_is_not_finite_is_a_row(tmp_path):
    options = {"num_steps": 200, "learning_rate": 1e200}
    with pytest.warns(UserWarning, match="1 of 1 runs failed"):
        comparison = compared(Linear, {"learned": lambda model: learned_guide}, fit_options=options)
    assert comparison.table["problem"][0]
    assert comparison.summary()["runs"].tolist() == [0]
    comparison.to_html(tmp_path / "page.html")


def test_a_heavy_tail_is_warned_of_once():
    guides = {"narrow": lambda model: local_guide(0.0, 0.05)}
    with pytest.warns(UserWarning, match=r"the evidence is doubtful for 'narrow' \(ELBO\)") as seen:
        comparison = compared(lambda: local_model, guides, seeds=(0, 1, 2))
    assert len(seen) == 1
    assert comparison.verdicts[0].word == "no"
    assert comparison.table["doubtful"].max() > 0.1


def test_warnings_of_fits_are_passed_on_once():
    class Warns(Breaks):
        def __call__(self, x):
            warnings.warn("mind the gap", RuntimeWarning, stacklevel=1)
            learned_guide(x)

    with pytest.warns(RuntimeWarning, match="mind the gap") as seen:
        compared(lambda: local_model, {"warns": lambda model: Warns(0, None)}, seeds=(0, 1))
    assert len([w for w in seen if w.category is RuntimeWarning]) == 1


def test_an_interrupt_keeps_complete_runs():
    built = []

    def make_guide(model):
        built.append(model)  # the first four: a look, two that must not share, and one step; then the runs
        return Breaks(30, KeyboardInterrupt()) if len(built) == 6 else learned_guide

    with pytest.warns(UserWarning, match="interrupted: 1 of 3 runs"):
        comparison = compared(
            lambda: local_model, {"mine": make_guide}, seeds=(0, 1, 2), fit_options={"num_steps": 400}
        )
    assert comparison.table["seed"].tolist() == [0]


def test_an_interrupt_of_the_first_run_is_raised():
    def make_guide(model):
        return Breaks(15, KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        compared(lambda: local_model, {"mine": make_guide}, fit_options={"num_steps": 400})


def test_progress_goes_over_runs(capfd):
    compared(lambda: local_model, {"learned": lambda model: learned_guide}, seeds=(0, 1), progress=True)
    said = capfd.readouterr().err
    assert "2/2" in said
    assert "fit:" not in said
