"""Modules and data by their names: `package:Class`, checkpoints, and the YAML of LightningCLI."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from curvwatch.errors import CurvwatchError
from curvwatch.landscape.checkpoints import load


@contextmanager
def importing_from_here() -> Iterator[None]:
    """Let imports find what lies in the working directory, as `python -m` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def import_object(spec: str) -> Any:
    """The object that `package.module:name` names.

    Raises:
        CurvwatchError: there is none.
    """
    package, colon, name = spec.partition(":")
    if not (package and colon and name):
        raise CurvwatchError(f"{spec}: package.module:name is needed, such as my_project.model:Net")
    try:
        found: Any = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise CurvwatchError(f"{spec} cannot be imported: {error}") from error
        raise CurvwatchError(f"{spec}: there is no module {error.name} here or installed") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise CurvwatchError(f"{spec}: {package} has no {name}")
        found = getattr(found, part)
    return found


def module_of(spec: str, checkpoint: Path) -> nn.Module:
    """The module that the class, or function, `spec` makes, with the weights of `checkpoint`.

    A LightningModule is made with the hyperparameters that the checkpoint has of it.

    Raises:
        CurvwatchError: it cannot be made, or the weights do not fit.
    """
    content = load(checkpoint)  # also shows that it is safe to unpickle
    make = import_object(spec)
    if isinstance(make, type) and hasattr(make, "load_from_checkpoint"):
        made: nn.Module = _from_checkpoint(make, checkpoint, content)
        return made
    module = _call(make, spec)
    if not isinstance(module, nn.Module):
        raise CurvwatchError(f"{spec} makes a {type(module).__name__} and no nn.Module")
    return load_weights(module, checkpoint, content)


def load_weights(module: nn.Module, checkpoint: Path, content: Any) -> nn.Module:
    """`module` with the weights and buffers in `content`, that of the file `checkpoint`.

    Raises:
        CurvwatchError: they do not fit.
    """
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if not isinstance(state, Mapping):
        raise CurvwatchError(f"{checkpoint} holds a {type(state).__name__} and no state_dict")
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise CurvwatchError(f"{checkpoint} does not fit: {error}") from error
    return module


def _from_checkpoint(make: Any, checkpoint: Path, content: Any) -> Any:
    if not isinstance(content, Mapping) or "state_dict" not in content:
        return load_weights(_call(make, make.__name__), checkpoint, content)
    # since 2.6; before, files are unpickled whole, and `load` has shown that this one is safe
    safe = "weights_only" in inspect.signature(make.load_from_checkpoint).parameters
    options = {"weights_only": True} if safe else {}
    try:
        return make.load_from_checkpoint(checkpoint, map_location="cpu", **options)
    except TypeError as error:
        raise CurvwatchError(
            f"{make.__name__} cannot be made from {checkpoint}: {error}. Call save_hyperparameters() "
            "in its __init__, or give the --config of a LightningCLI, or as --module a function that "
            "makes it"
        ) from error
    except RuntimeError as error:
        raise CurvwatchError(f"{checkpoint} does not fit: {error}") from error


def batches_of(spec: str | None, module: nn.Module, checkpoint: Path) -> Any:
    """Batches from the function, DataModule or loader `spec`; None: of the module's own loader.

    Raises:
        CurvwatchError: there are none.
    """
    if spec is None:
        return _own(module)
    found = import_object(spec)
    if isinstance(found, type) and hasattr(found, "load_from_checkpoint"):
        content = load(checkpoint)
        if isinstance(content, Mapping) and "datamodule_hyper_parameters" in content:
            return batches_from(_from_checkpoint(found, checkpoint, {"state_dict": {}}), spec)
    return batches_from(_call(found, spec) if callable(found) else found, spec)


def batches_from(found: Any, label: str) -> Any:
    """The training batches of `found`, a DataModule, a loader or a list.

    Raises:
        CurvwatchError: it is none of them.
    """
    if hasattr(found, "train_dataloader"):
        found.prepare_data()
        found.setup("fit")
        found = found.train_dataloader()
    if isinstance(found, Dataset):
        raise CurvwatchError(f"{label} gives a Dataset: wrap it in a DataLoader, which makes batches")
    if isinstance(found, Mapping):
        raise CurvwatchError(
            f"{label} gives several loaders: give as --data a function that returns one of them"
        )
    return found


def spec_of(spec: str) -> dict[str, tuple[str | None, ...]]:
    """For `align`, which axes belong together: the mapping `spec`, or what that function returns.

    Raises:
        CurvwatchError: it is none.
    """
    found = import_object(spec)
    found = _call(found, spec) if callable(found) else found
    if not isinstance(found, Mapping):
        raise CurvwatchError(
            f"{spec} gives a {type(found).__name__}: a mapping from the names of tensors to a "
            "permutation, or None, for each axis is needed, such as {'fc1.weight': ('h', None), ...}"
        )
    return dict(found)


def _own(module: Any) -> Any:
    missing = (
        "--data is missing: package.module:name of a function that returns a DataLoader or a list of "
        "batches, or of a DataModule"
    )
    if not hasattr(module, "train_dataloader"):
        raise CurvwatchError(missing)
    try:
        return batches_from(module, type(module).__name__)
    except Exception as error:
        if type(error).__name__ != "MisconfigurationException":
            raise
        raise CurvwatchError(missing) from error


def _call(make: Any, spec: str) -> Any:
    if not callable(make):
        raise CurvwatchError(f"{spec} is a {type(make).__name__}: a class or a function is needed")
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise CurvwatchError(
            f"{spec} cannot be called without arguments ({error}): give a function that can"
        ) from error
    return make()


def from_config(path: Path, *, module: str | None, data: str | None) -> tuple[nn.Module, Any]:
    """Module and DataModule of the YAML of a LightningCLI; the latter is None where it has none.

    Args:
        path: of the YAML.
        module: `package.module:Class` where the YAML has arguments of the model alone.
        data: the same for the DataModule.

    Raises:
        CurvwatchError: it cannot be read, or does not say what to make.
    """
    if find_spec("jsonargparse") is None:
        raise CurvwatchError("--config needs jsonargparse: pip install 'curvwatch[config]'")
    import yaml
    from jsonargparse import ArgumentParser

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CurvwatchError(f"{path} cannot be read as YAML: {error}") from error
    if (
        isinstance(content, Mapping)
        and "model" not in content
        and isinstance(content.get("fit"), Mapping)
    ):
        content = content["fit"]  # of a command line with subcommands
    if not isinstance(content, Mapping) or not (isinstance(content.get("model"), Mapping) or module):
        raise CurvwatchError(f"{path} has no `model:`, as LightningCLI writes it")
    parser = ArgumentParser(exit_on_error=False)
    wanted = {"model": _with_class(content.get("model"), module, "model", "--module", path)}
    parser.add_subclass_arguments(nn.Module, "model")
    arguments = content.get("data")
    # --data stands for a class that is named there, and names one that is not
    overruled = data is not None and isinstance(arguments, Mapping) and "class_path" in arguments
    has_data = arguments is not None and not overruled
    if has_data:
        wanted["data"] = _with_class(arguments, data, "data", "--data", path)
        parser.add_subclass_arguments(_data_module_classes(), "data")
    try:
        # its name since 4.49
        instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
        made = instantiate(parser.parse_object(wanted))
    except Exception as error:
        # jsonargparse wraps what a class says of its arguments in errors of its own
        raise CurvwatchError(
            f"{path} does not say how to make the model and its data: {error}"
        ) from error
    return made.model, made.data if has_data else None


def _with_class(arguments: Any, spec: str | None, key: str, option: str, path: Path) -> dict[str, Any]:
    """`class_path` and `init_args`, as a LightningCLI in subclass mode writes them."""
    if isinstance(arguments, Mapping) and "class_path" in arguments:
        return dict(arguments)
    if spec is None:
        raise CurvwatchError(
            f"{path} has arguments of `{key}:` and no class_path: name the class by {option}"
        )
    cls = import_object(spec)
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": dict(arguments or {})}


def _data_module_classes() -> tuple[type, ...]:
    """LightningDataModule of the namespaces that are in use; all that a LightningCLI imports."""
    return tuple(
        importlib.import_module(package).LightningDataModule
        for package in ("lightning.pytorch", "pytorch_lightning")
        if find_spec(package.partition(".")[0]) is not None
    )
