"""Data: a simulator whose truth is known, and two public data sets."""

from ._public import haber_2017, kang_2018
from ._simulation import SimulatedPerturbation, simulate_perturbation

__all__ = ["SimulatedPerturbation", "haber_2017", "kang_2018", "simulate_perturbation"]
