"""Data: simulators whose truth is known, and two public data sets."""

from ._conditions import SimulatedConditions, simulate_conditions
from ._public import haber_2017, kang_2018
from ._simulation import SimulatedPerturbation, simulate_perturbation

__all__ = [
    "SimulatedConditions",
    "SimulatedPerturbation",
    "haber_2017",
    "kang_2018",
    "simulate_conditions",
    "simulate_perturbation",
]
