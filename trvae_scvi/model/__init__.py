"""``TRVAE``, the model as users have it: set-up, construction, answers, query mapping, saving."""

from ._trvae_model import TRVAE

__all__ = ["TRVAE"]
