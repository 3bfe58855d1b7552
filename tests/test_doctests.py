"""Every public name has an example in its docstring, and the examples run."""

from __future__ import annotations

import doctest
import inspect
import logging
import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import scvi

import trvae_scvi as tv

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
MODULES = {name: getattr(tv, name) for name in ("datasets", "mapping", "metrics", "benchmark", "features", "nn", "pl")}


def is_ours(obj):
    """Functions, methods and classes of the package; constants, aliases and what is inherited are none."""
    return (inspect.isroutine(obj) or inspect.isclass(obj)) and obj.__module__.startswith("trvae_scvi")


METHODS = [f"TRVAE.{name}" for name in dir(tv.TRVAE) if name[0] != "_" and is_ours(getattr(tv.TRVAE, name))]
OTHERS = ["TRVAEModule"] + [
    f"{name}.{own}" for name, module in MODULES.items() for own in module.__all__ if is_ours(getattr(module, own))
]


class Checker(doctest.OutputChecker):
    """Overlooks progress bars, which scvi-tools writes to the standard output."""

    def check_output(self, want, got, optionflags):
        return super().check_output(want, re.sub(r".*\r.*\n?", "", got), optionflags)


def run(name, obj, namespace):
    """Run the example of an object, which may use and define names in `namespace`."""
    docstring = inspect.getdoc(obj)
    test = doctest.DocTestParser().get_doctest(docstring, namespace, name, None, 0)
    assert test.examples, f"{name} has no example"
    failures = []
    doctest.DocTestRunner(Checker(), optionflags=FLAGS).run(test, out=failures.append, clear_globs=False)
    assert not failures, "".join(failures)
    return test.globs


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A folder of its own, no messages on the standard output, no windows and no open figures."""
    monkeypatch.chdir(tmp_path)
    level = scvi.settings.verbosity
    scvi.settings.verbosity = logging.WARNING
    with mpl.rc_context({"backend": "agg"}):
        yield
        plt.close("all")
    scvi.settings.verbosity = level


@pytest.fixture(scope="module")
def of_class():
    """The names that the example of the class defines; those of its methods go on from there."""
    return run("TRVAE", tv.TRVAE, {})


@pytest.mark.parametrize("name", METHODS)
def test_methods(name, of_class):
    run(name, getattr(tv.TRVAE, name.split(".")[1]), dict(of_class))


@pytest.mark.parametrize("name", OTHERS)
def test_others(name):
    module, _, own = name.rpartition(".")
    run(name, getattr(MODULES.get(module, tv), own), {})


def test_a_wrong_example_fails():
    def wrong():
        """Add.

        >>> 1 + 1
        3
        """

    with pytest.raises(AssertionError, match="Failed example"):
        run("wrong", wrong, {})
