"""trVAE as a scvi-tools extension, to predict cells under conditions they were not measured in."""

from importlib.metadata import version

from . import benchmark, datasets, features, mapping, metrics, nn, pl
from .model import TRVAE
from .module import TRVAEModule

__all__ = ["TRVAE", "TRVAEModule", "benchmark", "datasets", "features", "mapping", "metrics", "nn", "pl"]

__version__ = version("trvae-scvi")
