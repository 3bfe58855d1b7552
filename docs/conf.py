"""Settings of the Sphinx documentation."""

import base64
import json
import re
from importlib.metadata import metadata
from pathlib import Path

from sphinx.application import Sphinx

_info = metadata("trvae-scvi")

project = _info["Name"]
author = "The trvae-scvi developers"
copyright = f"2026, {author}"
release = version = _info["Version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",  # after napoleon
    "scanpydoc.definition_list_typed_field",
    "scanpydoc.elegant_typehints",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinxcontrib.katex",
]
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["custom.css"]
exclude_patterns = ["_build", "methods_by_task.rst", "**.ipynb_checkpoints", "tutorials/README.md"]

# API pages: the public names of a module are those in its __all__.
autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True  # fields of named tuples are members, too
napoleon_use_rtype = True
always_use_bars_union = True
typehints_document_rtype_none = False
# What is only imported where annbatch is installed.
autodoc_mock_imports = ["annbatch", "zarrs"]

# Notebooks are saved with their outputs; progress bars go to stderr.
nb_execution_mode = "off"
nb_merge_streams = True
nb_output_stderr = "remove"
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# Without a network every inventory falls back to an empty one, and names of other packages are no links.
_SITES = {
    "anndata": "https://anndata.readthedocs.io/en/stable/",
    "lightning": "https://lightning.ai/docs/pytorch/stable/",
    "matplotlib": "https://matplotlib.org/stable/",
    "mudata": "https://mudata.readthedocs.io/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "pandas": "https://pandas.pydata.org/docs/",
    "python": "https://docs.python.org/3/",
    "scanpy": "https://scanpy.readthedocs.io/en/stable/",
    "scipy": "https://docs.scipy.org/doc/scipy/",
    "scvi-tools": "https://docs.scvi-tools.org/en/stable/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}
intersphinx_mapping = {name: (url, (None, "empty.inv")) for name, url in _SITES.items()}
intersphinx_timeout = 10
qualname_overrides = {
    "lightning.pytorch.core.datamodule.LightningDataModule": "lightning.pytorch.core.LightningDataModule",
    "mudata._core.mudata.MuData": "mudata.MuData",
    "pandas.core.series.Series": "pandas.Series",
    "scvi.data._manager.AnnDataManager": "scvi.data.AnnDataManager",
    "scvi.module.base._base_module.LossOutput": "scvi.module.base.LossOutput",
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "trvae_scvi._math._intervals.ModelError": "trvae_scvi.benchmark.ModelError",
    "trvae_scvi.benchmark._holdout.HoldOut": "trvae_scvi.benchmark.HoldOut",
    "trvae_scvi.benchmark._pairs.Pairs": "trvae_scvi.benchmark.Pairs",
    "trvae_scvi.datasets._simulation.SimulatedPerturbation": "trvae_scvi.datasets.SimulatedPerturbation",
    "trvae_scvi.data._genes.GeneComparison": "trvae_scvi.mapping.GeneComparison",
}
nitpicky = True
_OTHERS = "anndata|collections|joblib|lightning|matplotlib|mudata|numpy|os|pandas|scanpy|scipy|scvi|torch|typing"
nitpick_ignore_regex = [
    ("py:.*", rf"({_OTHERS})\..*"),
    ("py:.*", r"(np|pd|sparse)\..*|AnnData|AnnOrMuData"),  # annotations read as text
    ("py:class", r"trvae_scvi\.module\._tables\.Table|trvae_scvi\.data\._collection_module\..*"),
    # of the standard library, and written without their module by docstrings that are inherited
    ("py:.*", "str|int|float|bool|dict|list|tuple|type|object|None|Ellipsis|[A-Z][a-z]*Error"),
]

html_theme = "sphinx_book_theme"
html_title = project
html_theme_options = {
    "repository_url": "https://github.com/trvae-scvi/trvae-scvi",
    "use_repository_button": True,
    "navbar_persistent": [],  # the side bar has a search box
}

# Which of a tutorial's pictures stands for it in the gallery.
_PICTURES = {
    "1_predict_a_held_out_cell_type": 2,
    "2_evaluate_honestly": 0,
    "3_conditions_and_covariates": 1,
    "4_map_a_query": 0,
    "5_from_a_model_to_other_tools": 0,
    "6_large_data": 0,
    "7_images": 0,
    "8_conditions_never_measured": 0,
    "9_can_it_be_trusted": 0,
}


def _write_gallery(app: Sphinx) -> None:
    """Take the pictures of the gallery out of the notebooks, so that they are always those of the pages."""
    folder = Path(app.srcdir) / "_static" / "gallery"
    folder.mkdir(exist_ok=True)
    for name, number in _PICTURES.items():
        cells = json.loads((Path(app.srcdir) / "tutorials" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
        pictures = [data["image/png"] for data in outputs if "image/png" in data]
        (folder / f"{name}.png").write_bytes(base64.b64decode("".join(pictures[number])))


def _link_tutorials(app: Sphinx, docname: str, source: list[str]) -> None:
    """Name the tutorials that others link to: behind the symbolic link, their paths lie outside the documentation."""
    if re.fullmatch(r"tutorials/\d_\w+", docname):
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                text = "".join(cell["source"])
                cell["source"] = re.sub(r"\[([^\]]+)\]\((\d_\w+)\.ipynb\)", r"{doc}`\1 <\2>`", text)
        source[0] = json.dumps(notebook)


def setup(app: Sphinx) -> None:
    """Register what reads the tutorials."""
    app.connect("builder-inited", _write_gallery)
    app.connect("source-read", _link_tutorials)
