"""A response that types share beside one that only the hidden type has: the example of the page on reading predictions.

    python benchmarks/unknowable.py

simulates both, trains for 60 epochs on one thread and writes `benchmarks/results/unknowable.md`, in a minute.
"""

from __future__ import annotations

import pandas as pd
import torch
from kang import HERE, markdown

import trvae_scvi as tv
from trvae_scvi.benchmark import TRVAEMethod, compare_predictions, hold_out
from trvae_scvi.metrics import comparison_matrix, headline_skill, interval_coverage

KEYS = {"group_key": "cell_type", "condition_key": "condition", "control": "control"}
HIDDEN = {"group": "type_1", "target": "stimulated"}


def measured(type_specific: bool) -> dict[str, float]:
    """What the page tells of one of the two."""
    adata = tv.datasets.simulate_perturbation(3000, 200, type_specific=type_specific).adata
    holdout, truth = hold_out(adata, **KEYS, **HIDDEN)
    method = TRVAEMethod(train_kwargs={"max_epochs": 60})
    model = method.fit(holdout)
    scores = compare_predictions({"trVAE": method.predict(model, holdout)}, holdout, truth)
    skills = scores.groupby("method", sort=False)[["metric", "skill"]].apply(headline_skill)
    correlations = scores.query("metric == 'pearson_change' and genes == 'all'").set_index("method")["value"]
    effect = model.get_perturbation_effect(holdout.control, target=HIDDEN["target"])
    change = comparison_matrix(truth.real).mean(axis=0) - comparison_matrix(holdout.control).mean(axis=0)
    held = interval_coverage(effect["change_lower"], effect["change_upper"], change)
    others = skills.index.difference(["trVAE", "noise ceiling"])
    return {
        "headline skill of trVAE": skills["trVAE"],
        "headline skill of the best prediction without a network": skills[others].max(),
        "Pearson correlation of the change: trVAE": correlations["trVAE"],
        "Pearson correlation of the change: the best without a network": correlations[others].max(),
        "Pearson correlation of the change: noise ceiling": correlations["noise ceiling"],
        "coverage of the 90 % intervals": held["coverage"],
        "their mean width": held["mean_width"],
    }


def main() -> None:
    """Measure both and write the table."""
    torch.set_num_threads(1)
    table = pd.DataFrame({"shared programmes": measured(False), "type-specific": measured(True)})
    (HERE / "results" / "unknowable.md").write_text(f"{markdown(table)}\n")
    print(table.round(2).to_string())


if __name__ == "__main__":
    main()
