"""MODEL, DATA and their options put together: what there is to fit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pyrolvm.cli.collection import MODELS, Model, Settings, Training, guide_of, model_of, settings_of
from pyrolvm.cli.data import Preparation, arguments, preparation_of, read_data
from pyrolvm.cli.options import DataOptions, ModelOptions
from pyrolvm.cli.programs import ProgramFile, is_spec, split_spec
from pyrolvm.datasets import Dataset

__all__ = ["Task", "model_name", "task_of"]

MakeGuide = Callable[[Any], Any]


@dataclass(frozen=True)
class Task:
    """A model with its data.

    Attributes:
        model: The model's entry in the collection, or one made for a user's program.
        settings: Its settings.
        dataset: The data, prepared; None where the model takes none.
        preparation: What was done to the data.
        data: The data as `pyrolvm.fit` takes them.
        file: Where a user's model comes from; None for a model of the collection.
    """

    model: Model
    settings: Settings
    dataset: Dataset | None
    preparation: Preparation
    data: Any
    file: ProgramFile | None

    @property
    def args(self) -> tuple[Any, ...]:
        """The data as positional arguments."""
        if self.data is None:
            return ()
        return self.data if isinstance(self.data, tuple) else (self.data,)

    @property
    def num_data(self) -> int | None:
        """Number of rows; None where there is no data."""
        return None if self.dataset is None else len(self.dataset)

    @property
    def title(self) -> str:
        """Model, data and settings, in one line."""
        parts = [self.model.name]
        if self.dataset is not None and self.dataset.name != self.model.dataset:
            parts.append(f"on {self.dataset.name} ({self.dataset.x.shape[0]} x {self.dataset.x.shape[1]})")
        used = self.settings if self.file is None else {}
        shown = [f"{name} {_shown(value)}" for name, value in used.items()]
        return " ".join(parts) + "".join(f", {setting}" for setting in shown)

    @property
    def typed_settings(self) -> dict[str, Any]:
        """The settings as they are typed."""
        return {name: _shown(v) if isinstance(v, tuple) else v for name, v in self.settings.items()}

    def make_model(self) -> Any:
        """Build the model, from torch's generator as it stands."""
        return self.model.make(self.dataset, self.settings)

    def make_guide(self, name: str) -> MakeGuide:
        """What builds a guide for a model that `make_model` gave.

        Args:
            name: A name of the collection, or path/to/file.py:function.

        Raises:
            ValueError: If there is no such guide.
            FileNotFoundError: If there is no such file.
        """
        if not is_spec(name):
            guide = guide_of(name)
            if guide.needs_rows and (self.data is None or isinstance(self.data, tuple)):
                what = "no data" if self.data is None else "its columns one by one"
                raise ValueError(f"guide {guide.name} needs rows of DATA; {self.model.name} takes {what}. Use another.")
            return lambda model: guide.make(model, self.dataset, self.settings)
        path, function = split_spec(name)
        same = self.file is not None and self.file.file == path.resolve()
        file = self.file if same and self.file is not None else ProgramFile(path)
        return partial(file.make_guide, function, anew=not same)

    @property
    def training(self) -> Training:
        """Defaults of a fit; minibatches only where there are more rows than one would hold."""
        default = self.model.training
        if default.batch_size is not None and (self.num_data or 0) <= default.batch_size:
            return replace(default, batch_size=None)
        return default


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def model_name(text: str) -> str:
    """How a model is called: its name in the collection, or file.py:function without the folders.

    Args:
        text: MODEL.

    Raises:
        ValueError: If there is no such model.
        FileNotFoundError: If there is no such file.
    """
    if not is_spec(text):
        return model_of(text).name
    path, function = split_spec(text)
    return f"{path.name}:{function}"


def task_of(
    name: str,
    data: str | None,
    data_options: DataOptions,
    model_options: ModelOptions,
    preparation: Preparation | None = None,
) -> Task:
    """Put a model and its data together.

    Args:
        name: MODEL.
        data: DATA, or None.
        data_options: How the data are to be read and prepared.
        model_options: What the model is to be made of.
        preparation: What a fit did to its data, to be done again; None to go by the options.

    Raises:
        ValueError: If a name is unknown, an option does not apply, or model and data do not go together.
        TypeError: If what a user's file defines is no program.
        FileNotFoundError: If there is no such file.
    """
    model, file = _user_model(name) if is_spec(name) else (model_of(name), None)
    settings = settings_of(model, model_options)
    dataset = _dataset_of(model, data, data_options)
    if dataset is None:
        return Task(model, settings, None, Preparation(), arguments(_first(model, settings), model.name, None), file)
    if preparation is None:
        preparation = preparation_of(dataset, data_options)
        if preparation == Preparation():
            preparation = Preparation(threshold=model.threshold(dataset, settings))
    dataset = preparation.apply(dataset)
    if file is None:
        values = model.arguments(dataset) if model.dataset else dataset.x
    else:
        values = arguments(_first(model, settings), model.name, dataset)
    return Task(model, settings, dataset, preparation, values, file)


def _first(model: Model, settings: Settings) -> Any:
    """A user's model, to see what it takes."""
    return model.make(None, settings)


def _user_model(spec: str) -> tuple[Model, ProgramFile]:
    path, function = split_spec(spec)
    file = ProgramFile(path)
    entry = Model(
        name=model_name(spec),
        summary="a program of your own",
        make=lambda dataset, settings: file.make_model(function),
        settings={"hidden": "128"},
        training=Training(),
    )
    return entry, file


def _dataset_of(model: Model, data: str | None, options: DataOptions) -> Dataset | None:
    given = [flag for flag, value in _flags(options).items() if value]
    if model.dataset is not None:
        if data not in (None, model.dataset):
            raise ValueError(f"{model.name} has its own data and takes none; got {data!r}. Leave it out.")
        if given:
            raise ValueError(f"{given[0]} does not apply to {model.name}, which has its own data. Leave it out.")
        return read_data(model.dataset, DataOptions())
    if data is not None:
        return read_data(data, options)
    if given:
        raise ValueError(f"{given[0]} needs DATA. Give a data set of 'pyrolvm datasets', or a file.")
    if model.name in MODELS:
        raise ValueError(f"{model.name} needs data. Give a data set of 'pyrolvm datasets', or a file, as DATA.")
    return None


def _flags(options: DataOptions) -> dict[str, bool]:
    return {
        "--label-column": options.label_column is not None,
        "--columns": options.columns is not None,
        "--standardize": options.standardize,
        "--binarize": options.binarize is not None,
    }
