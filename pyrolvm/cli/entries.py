"""What the command line knows of a model or a guide that has a name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyrolvm.datasets import Dataset

__all__ = ["Guide", "Model", "Settings", "Training"]

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """Defaults of a fit.

    Args:
        num_steps: Number of steps; None where epochs are counted.
        num_epochs: Passes over the data; None where steps are counted.
        batch_size: Rows of a minibatch; None for all rows.
        learning_rate: RATE or FIRST:LAST.
    """

    num_steps: int | None = None
    num_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: str = "0.01"


@dataclass(frozen=True)
class Model:
    """A model with a name.

    Args:
        name: What users type.
        summary: What it is, in a few words.
        make: Builds it from the data (None where it takes none) and its settings; draws from torch's generator.
        settings: The fields of ModelOptions that apply, with their defaults.
        guide: The guide of a single fit.
        guides: The guides of a comparison.
        dataset: The one data set that it is about; None where DATA is to be given.
        arguments: What the model takes of that data set, in order.
        threshold: What to binarize data at where the user asks for nothing, None for not at all; or a refusal.
        reference: The true log p(x), nats, where it is known.
        training: Defaults of a fit.
    """

    name: str
    summary: str
    make: Callable[["Dataset | None", Settings], Any]
    settings: Settings = field(default_factory=dict)
    guide: str | None = None
    guides: tuple[str, ...] = ()
    dataset: str | None = None
    arguments: Callable[["Dataset"], tuple[Any, ...]] = lambda dataset: tuple(dataset.x.T.copy())
    threshold: Callable[["Dataset", Settings], float | None] = lambda dataset, settings: None
    reference: float | None = None
    training: Training = Training(num_steps=2000)


@dataclass(frozen=True)
class Guide:
    """A guide with a name.

    Args:
        name: What users type.
        summary: What it is, in a few words.
        make: Builds it for a model, from the data and the settings of the model.
        needs_rows: Whether it looks at the data, a row at a time.
    """

    name: str
    summary: str
    make: Callable[[Any, "Dataset | None", Settings], Any]
    needs_rows: bool = False
