"""Parts of the package are imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trvae_scvi as tv


def test_help_on_the_command_line_waits_for_no_network_library():
    code = (
        "import sys, trvae_scvi.cli\n"
        "try:\n    trvae_scvi.cli.app(['--help'])\nexcept SystemExit:\n    pass\n"
        "loaded = {'torch', 'scvi', 'scanpy', 'anndata', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "assess" in done.stdout


def test_every_public_name_is_there():
    for name in tv.__all__:
        assert getattr(tv, name) is getattr(tv, name)
        assert name in dir(tv)
    assert tv.model.TRVAE is tv.TRVAE
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        _ = tv.nope
