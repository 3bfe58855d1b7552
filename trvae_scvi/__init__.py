"""trVAE as a scvi-tools extension: what would these cells look like under that condition?"""

from importlib.metadata import version

from . import benchmark, datasets, metrics, pl
from ._model import TRVAE
from ._module import TRVAEModule

__all__ = ["TRVAE", "TRVAEModule", "benchmark", "datasets", "metrics", "pl"]

__version__ = version("trvae-scvi")
