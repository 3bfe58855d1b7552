"""Reads trVAE models saved by scArches. Knows files and tensors, neither AnnData nor this package's model.

A saved model is a folder with three files:

* ``model_params.pt``, the weights. Read with ``torch.load(weights_only=True)``, which builds tensors and runs no code.
* ``attr.pkl``, the settings, a pickle. A pickle can run code when it is read; here it may build Python's own values
  and NumPy's numbers and texts, and anything else it asks for is refused before it runs.
* ``var_names.csv``, the variables, a text.

The format is that of scArches 0.5 and 0.6.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch

from trvae_scvi._arguments import check_choice
from trvae_scvi._math._mmd import TRVAE_BANDWIDTHS

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

__all__ = ["ScarchesCheckpoint", "read_scarches"]

_WEIGHTS, _SETTINGS, _VARIABLES = "model_params.pt", "attr.pkl", "var_names.csv"
# the values of attr.pkl that are used; scArches ends their names with an underscore
_NEEDED = (
    ("beta_", "condition_key_", "conditions_", "dr_rate_", "hidden_layer_sizes_", "input_dim_", "is_trained_")
    + ("latent_dim_", "mmd_boundary_", "mmd_on_", "recon_loss_", "use_bn_", "use_ln_", "use_mmd_")
)  # fmt: skip


class ScarchesCheckpoint(NamedTuple):
    """A trVAE model of scArches in this package's terms."""

    #: Column with the condition.
    condition_key: str
    #: Names of the conditions; their positions are the codes that the weights use.
    conditions: list[str | int]
    #: Names of the variables, in order.
    var_names: list[str]
    #: Arguments of :class:`~trvae_scvi.TRVAE`.
    arguments: dict[str, Any]
    #: Weights of :class:`~trvae_scvi.TRVAEModule`, all that it has.
    state_dict: dict[str, torch.Tensor]
    #: Whether the model was trained when it was saved.
    is_trained: bool


def read_scarches(path: str | os.PathLike[str]) -> ScarchesCheckpoint:
    """Read a trVAE model saved by scArches 0.5 or 0.6.

    With these arguments and weights, posterior means and variances, the decoder's first layer, means, zero-inflation
    logits and dispersions are those of scArches; the sum of the counts is the size factor in both.

    Further training has the same objective but for what follows. scArches adds the MMD up over pairs of conditions,
    of which ours is the mean, leaves no small group out and takes `y` after dropout. Its decoder's hidden layers have
    no bias; ours start at zero. The weight of the KL divergence belongs to scArches' training and is not saved; here
    it is 1, the default of both.

    Parameters
    ----------
    path
        Folder in which scArches saved the model. See the module's docstring for what its files can do.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is not there.
    ValueError
        If the settings ask for code, or are those of another model; if a file is damaged, or files do not belong
        together; or if the model cannot be represented: without hidden layers, with fewer than two conditions, or
        with an `mmd_boundary` that leaves several conditions on both sides.
    """
    folder = Path(path)
    _check_folder(folder)
    settings = _read_settings(folder / _SETTINGS)
    # not as a table: a name may hold a comma or a hash
    var_names = (folder / _VARIABLES).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if len(var_names) != settings["input_dim_"]:
        msg = f"Expected {settings['input_dim_']} names in `{folder / _VARIABLES}`, found {len(var_names)}."
        raise ValueError(msg)
    _check_settings(settings)
    return ScarchesCheckpoint(
        condition_key=settings["condition_key_"],
        conditions=list(settings["conditions_"]),
        var_names=var_names,
        arguments=_arguments(settings),
        state_dict=_state_dict(_Weights(folder / _WEIGHTS), settings),
        is_trained=bool(settings["is_trained_"]),
    )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        msg = f"Expected `{folder}` to be the folder in which scArches saved a model; there is no such folder."
        raise FileNotFoundError(msg)
    found = sorted(entry.name for entry in folder.iterdir())
    missing = [name for name in (_WEIGHTS, _SETTINGS, _VARIABLES) if name not in found]
    if missing:
        mend = " This is a model of scvi-tools: read it with the `load` of its class." if "model.pt" in found else ""
        msg = f"`{folder}` holds no trVAE model of scArches: {missing} missing, found {found[:10]}.{mend}"
        raise FileNotFoundError(msg)


class _Dtype:
    """A NumPy dtype's description: setting the state of a real one can corrupt memory."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name = str(name)
        self.byte_order: Literal["<", ">", "|", "="] = "="

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.byte_order = state[1]


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """A NumPy number or text, as Python's own."""
    resolved = np.dtype(dtype.name).newbyteorder(dtype.byte_order)
    if resolved.kind not in "biufU":
        msg = f"it holds a NumPy value of the type {dtype.name!r}"
        raise pickle.UnpicklingError(msg)
    return np.frombuffer(data, resolved, count=1)[0].item()


_STAND_INS = {
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,  # as NumPy 1 calls it
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class _Unpickler(pickle.Unpickler):
    """Builds Python's own values and calls nothing but the stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            msg = f"it asks for `{module}.{name}`, which was not run"
            raise pickle.UnpicklingError(msg)
        return _STAND_INS[module, name]


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            settings = _Unpickler(file).load()
    except Exception as error:  # a damaged pickle can raise nearly all there are
        msg = f"Expected plain values in `{path}`, as scArches' trVAE saves them; {error or 'the file is cut off'}."
        raise ValueError(msg) from error
    if not isinstance(settings, dict):
        msg = f"Expected a dictionary in `{path}`, found {type(settings).__name__}."
        raise ValueError(msg)
    missing = [name for name in _NEEDED if name not in settings]
    if missing:
        msg = f"`{path}` is not that of a trVAE model: {missing} missing, found {sorted(map(str, settings))}."
        raise ValueError(msg)
    return settings


def _check_settings(settings: dict[str, Any]) -> None:
    if settings["condition_key_"] is None or len(settings["conditions_"]) < 2:
        msg = f"TRVAE needs two conditions or more, the saved model has {settings['conditions_']}."
        raise ValueError(msg)
    check_choice("recon_loss", settings["recon_loss_"], ("nb", "zinb", "mse"))
    if not settings["hidden_layer_sizes_"]:
        msg = "TRVAE needs one hidden layer or more, the saved model has none (`hidden_layer_sizes=[]`)."
        raise ValueError(msg)


def _mmd_pairs(settings: dict[str, Any]) -> str | int:
    """The boundary of scArches: conditions before it are compared with those after it."""
    boundary, conditions = settings["mmd_boundary_"], settings["conditions_"]
    if boundary is None or not settings["use_mmd_"]:
        return "all"
    if boundary in (1, len(conditions) - 1):
        return conditions[0 if boundary == 1 else -1]
    does = f"`mmd_boundary={boundary}` of the saved model does neither with {len(conditions)} conditions"
    msg = f"TRVAE compares all pairs of conditions or one condition with the others; {does}."
    raise ValueError(msg)


def _arguments(settings: dict[str, Any]) -> dict[str, Any]:
    hidden_sizes = [int(n) for n in settings["hidden_layer_sizes_"]]
    likelihood = settings["recon_loss_"]
    return {
        "n_hidden": hidden_sizes,
        "n_latent": settings["latent_dim_"],
        "n_layers": len(hidden_sizes),
        "dropout_rate": settings["dr_rate_"],
        "gene_likelihood": likelihood,
        "dispersion": "gene-batch",
        "encode_condition": True,
        "condition_layer": "first",
        # with both, scArches takes the batch's
        "normalization": "batch" if settings["use_bn_"] else "layer" if settings["use_ln_"] else None,
        "nonnegative_output": likelihood == "mse",
        "mmd_on": settings["mmd_on_"] if settings["use_mmd_"] else None,
        "mmd_pairs": _mmd_pairs(settings),
        "mmd_kernel": "trvae",
        "mmd_balance_labels": False,
        # sums of kernels there, means here
        "mmd_weight": settings["beta_"] * len(TRVAE_BANDWIDTHS),
        # squared errors there, half of them in a normal log-likelihood
        "reconstruction_weight": 2.0 if likelihood == "mse" else 1.0,
    }


class _Weights:
    """The saved tensors: each is taken once, with the shape it has to have."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            msg = f"`{path}` is damaged or holds something else than tensors, which was not read."
            raise ValueError(msg) from error
        if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
            msg = f"Expected named tensors in `{path}`, found something else."
            raise ValueError(msg)
        self._tensors: dict[str, torch.Tensor] = dict(tensors)

    def take(self, name: str, *shape: int) -> torch.Tensor:
        tensor = self._tensors.pop(name, None)
        if tensor is None or tensor.shape != shape:
            found = "there is none" if tensor is None else f"found {tuple(tensor.shape)}"
            msg = f"Expected `{name}` of shape {shape} in `{self._path}`, {found}."
            raise ValueError(msg)
        return tensor

    def check_all_taken(self) -> None:
        if self._tensors:
            msg = f"`{self._path}` holds weights that a trVAE model of scArches has not: {sorted(self._tensors)}."
            raise ValueError(msg)

    def linear(self, source: str, target: str, n_in: int, n_out: int, *, bias: bool = True) -> dict[str, torch.Tensor]:
        """A linear layer under its new name; one without a bias gets zeros."""
        return {
            f"{target}.weight": self.take(f"{source}.weight", n_out, n_in),
            f"{target}.bias": self.take(f"{source}.bias", n_out) if bias else torch.zeros(n_out),
        }

    def batch_norm(self, source: str, target: str, width: int) -> dict[str, torch.Tensor]:
        names = ("weight", "bias", "running_mean", "running_var")
        state = {f"{target}.{name}": self.take(f"{source}.{name}", width) for name in names}
        return state | {f"{target}.num_batches_tracked": self.take(f"{source}.num_batches_tracked")}


def _state_dict(weights: _Weights, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    hidden, likelihood = list(settings["hidden_layer_sizes_"]), settings["recon_loss_"]
    n_input, n_latent, n_conditions = settings["input_dim_"], settings["latent_dim_"], len(settings["conditions_"])
    encoder = [f"encoder.FC.{{}}{i}" for i in range(len(hidden))]
    decoder = ["decoder.FirstL.{}0"] + [f"decoder.HiddenL.{{}}{i}" for i in range(1, len(hidden))]
    options = {"n_conditions": n_conditions, "batch_norm": settings["use_bn_"]}
    state = _hidden_layers(weights, "encoder", encoder, [n_input, *hidden], bias=True, **options)
    state |= _hidden_layers(weights, "decoder", decoder, [n_latent, *hidden[::-1]], bias=False, **options)
    state |= weights.linear("encoder.mean_encoder", "encoder.mean", hidden[-1], n_latent)
    state |= weights.linear("encoder.log_var_encoder", "encoder.log_variance", hidden[-1], n_latent)
    output = "decoder.recon_decoder.0" if likelihood == "mse" else "decoder.mean_decoder.0"
    state |= weights.linear(output, "decoder.output", hidden[0], n_input)
    if likelihood == "zinb":
        state |= weights.linear("decoder.dropout_decoder", "decoder.zero_inflation", hidden[0], n_input)
    if likelihood != "mse":
        state["log_theta.weight"] = weights.take("theta", n_input, n_conditions).T
    weights.check_all_taken()
    return state


def _hidden_layers(
    weights: _Weights,
    part: Literal["encoder", "decoder"],
    sources: Sequence[str],
    widths: Sequence[int],
    *,
    n_conditions: int,
    bias: bool,
    batch_norm: bool,
) -> dict[str, torch.Tensor]:
    """Linear maps and normalisation of one network; `sources` are the layers' names with a gap for the kind, L or N."""
    first = sources[0].format("L")
    state = weights.linear(f"{first}.expr_L", f"{part}.first.linear", widths[0], widths[1], bias=bias)
    # a column for each condition there, a row here
    state[f"{part}.first.tables.0.weight"] = weights.take(f"{first}.cond_L.weight", widths[1], n_conditions).T
    if batch_norm:
        state |= weights.batch_norm(sources[0].format("N"), f"{part}.first_tail.norm", widths[1])
    for i in range(1, len(sources)):
        place = 3 * (i - 1)  # linear map, tail and dropout are a layer
        linear, norm = f"{part}.hidden.{place}", f"{part}.hidden.{place + 1}.norm"
        state |= weights.linear(sources[i].format("L"), linear, widths[i], widths[i + 1], bias=bias)
        if batch_norm:
            state |= weights.batch_norm(sources[i].format("N"), norm, widths[i + 1])
    return state
