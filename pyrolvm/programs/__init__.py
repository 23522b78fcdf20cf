"""What a model/guide pair must be: the data plate, the minibatch handler, ``check``, and where parameters live.

The few handlers of Pyro that other rooms need are re-exported here.
"""

from pyro.poutine import block, replay

from pyrolvm.programs.arguments import (
    as_arguments,
    at_once,
    check_values,
    chunks,
    count_rows,
    dtype_of,
    numbers_in_play,
    parameters_of,
    refuse_masked,
    refuse_no_programs,
    rows_in_play,
    trained_parameters,
)
from pyrolvm.programs.binding import (
    BoundProgram,
    bind,
    bind_state,
    creating_parameter,
    device_of,
    evaluating,
    existing_parameters,
    is_evaluating,
    on_device,
    parameter_scope,
    registered_parameters,
    unbind,
    unshare_parameters,
)
from pyrolvm.programs.checking import CheckReport, check, forget, refuse_collisions, structure_of
from pyrolvm.programs.joining import Joining
from pyrolvm.programs.keeping import KeepsGuide, Kept, learning, other_guides
from pyrolvm.programs.modules import buffers_of, evaluation_mode, module_of, modules_in_reach, released
from pyrolvm.programs.plates import (
    Minibatch,
    SharedRows,
    active_minibatch,
    autoguide_plates,
    data_plate,
    is_subsample,
    minibatch,
)
from pyrolvm.programs.prior import prior_guide
from pyrolvm.programs.problems import Problem, is_filled_in
from pyrolvm.programs.runs import (
    Empty,
    Program,
    apart,
    draws_only,
    first_invalid_site,
    hidden,
    is_delta,
    run_apart,
    run_pair,
    sample_sites,
    traced,
)
from pyrolvm.programs.simulation import Simulation, simulate
from pyrolvm.programs.structure import Structure, data_plate_of, inspect_pair, latents, signature
from pyrolvm.programs.supports import moving_supports
from pyrolvm.programs.uniform import infinite_latents, uniform_guide

__all__ = [
    "Minibatch",
    "BoundProgram",
    "CheckReport",
    "Empty",
    "Joining",
    "KeepsGuide",
    "Kept",
    "Problem",
    "Program",
    "SharedRows",
    "Simulation",
    "Structure",
    "active_minibatch",
    "apart",
    "as_arguments",
    "at_once",
    "autoguide_plates",
    "bind",
    "bind_state",
    "block",
    "buffers_of",
    "check",
    "check_values",
    "chunks",
    "count_rows",
    "creating_parameter",
    "data_plate",
    "data_plate_of",
    "device_of",
    "draws_only",
    "dtype_of",
    "evaluating",
    "evaluation_mode",
    "existing_parameters",
    "first_invalid_site",
    "forget",
    "hidden",
    "infinite_latents",
    "inspect_pair",
    "is_delta",
    "is_evaluating",
    "is_filled_in",
    "is_subsample",
    "latents",
    "learning",
    "minibatch",
    "module_of",
    "moving_supports",
    "modules_in_reach",
    "numbers_in_play",
    "on_device",
    "other_guides",
    "parameter_scope",
    "parameters_of",
    "prior_guide",
    "refuse_collisions",
    "refuse_masked",
    "refuse_no_programs",
    "registered_parameters",
    "released",
    "replay",
    "rows_in_play",
    "run_apart",
    "run_pair",
    "sample_sites",
    "signature",
    "simulate",
    "structure_of",
    "traced",
    "trained_parameters",
    "unbind",
    "uniform_guide",
    "unshare_parameters",
]
