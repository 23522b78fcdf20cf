"""Programs as graphs, and graphs as machine code: the one room that uses private parts of torch.

``record`` turns a run of programs into one graph. ``compiled`` turns a loop over graphs into a shared library that runs
without Python, kept on disk by a key; ``replayed`` turns a step into a CUDA graph. Where a release of torch lacks what
they need, they raise ``CaptureError``, and callers go on eagerly.
"""

from pyrolvm.capture.cuda_graphs import one_step, replayed
from pyrolvm.capture.errors import CaptureError
from pyrolvm.capture.notes import note, noted
from pyrolvm.capture.processors import compiled, is_cached, relative_size
from pyrolvm.capture.recording import Recording, record
from pyrolvm.capture.sources import is_library, source
from pyrolvm.capture.steps import Runner, while_less

__all__ = [
    "CaptureError",
    "Recording",
    "Runner",
    "compiled",
    "is_cached",
    "is_library",
    "note",
    "noted",
    "one_step",
    "record",
    "relative_size",
    "replayed",
    "source",
    "while_less",
]
