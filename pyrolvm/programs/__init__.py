"""What a model/guide pair must be: the data plate, the minibatch handler, ``check``, and where parameters live.

The few handlers of Pyro that other rooms need are re-exported here.
"""

from pyro.poutine import block, replay

from pyrolvm.programs.arguments import as_arguments, chunks, count_rows, dtype_of, parameters_of, rows_in_play
from pyrolvm.programs.binding import (
    BoundProgram,
    bind,
    bind_state,
    creating_parameter,
    device_of,
    evaluating,
    existing_parameters,
    on_device,
    parameter_scope,
    unbind,
)
from pyrolvm.programs.checking import CheckReport, check, forget, structure_of
from pyrolvm.programs.plates import (
    SharedRows,
    active_minibatch,
    autoguide_plates,
    data_plate,
    is_subsample,
    minibatch,
)
from pyrolvm.programs.structure import (
    Empty,
    Problem,
    Program,
    Structure,
    apart,
    first_invalid_site,
    inspect_pair,
    local_latents,
    sample_sites,
    signature,
    traced,
)

__all__ = [
    "BoundProgram",
    "CheckReport",
    "Empty",
    "Problem",
    "Program",
    "SharedRows",
    "Structure",
    "active_minibatch",
    "apart",
    "as_arguments",
    "autoguide_plates",
    "bind",
    "bind_state",
    "block",
    "check",
    "chunks",
    "count_rows",
    "creating_parameter",
    "data_plate",
    "device_of",
    "dtype_of",
    "evaluating",
    "existing_parameters",
    "first_invalid_site",
    "forget",
    "inspect_pair",
    "is_subsample",
    "local_latents",
    "minibatch",
    "on_device",
    "parameter_scope",
    "parameters_of",
    "replay",
    "rows_in_play",
    "sample_sites",
    "signature",
    "structure_of",
    "traced",
    "unbind",
]
