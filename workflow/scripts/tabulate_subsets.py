"""MAE by number of training rows and the improvement over the network that starts from scratch, beside the paper's."""

import pandas as pd

from matpretrain.files import read_csv, write_csv
from matpretrain.jobs import job
from matpretrain.statistics import fold_scores, summarise

COLUMNS = [
    "dataset", "model", "size", "train_rows", "mae_mean", "mae_std", "n_folds", "n_seeds", "improvement", "improvement_std",
    "paper_improvement",
]  # fmt: skip
FULL, MEAN = "full", "mean"  # sizes that are no number: the whole training part; the mean over the others


def improvements(of, over):
    """Improvement in % of the mean of MAEs [k] over that of other MAEs [k] of the same folds, and its population standard
    deviation over the folds."""
    return 100 * (1 - of.mean() / over.mean()), (100 * (1 - of / over)).std(ddof=0)


def our_rows(runs, predictions, reference):
    """One row per run, and one per dataset and model for its mean improvement over the sizes but FULL.

    Args:
        runs: [n] (dataset, model, size), size a number of training rows as text, or FULL.
        predictions: [n] prediction tables.
        reference: the model that the others are compared with.
    """
    scores = [fold_scores(table.query("part == 'test'")) for table in predictions]
    folds = {tuple(run): part.groupby("fold")["mae"].mean() for run, part in zip(runs, scores, strict=True)}
    rows = []
    for (dataset, model, size), part in zip(runs, scores, strict=True):
        n_test = part.groupby("fold")["n"].first()
        row = {
            "dataset": dataset,
            "model": model,
            "size": size,
            "train_rows": round(n_test.sum() - n_test.mean()) if size == FULL else int(size),
            **summarise(part),
        }
        if model != reference and (dataset, reference, size) in folds:
            row["improvement"], row["improvement_std"] = improvements(
                folds[dataset, model, size], folds[dataset, reference, size]
            )
        rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=COLUMNS[:-1])
    subsets = table[(table["size"] != FULL) & table["improvement"].notna()]
    means = subsets.groupby(["dataset", "model"], as_index=False, sort=False)["improvement"].mean()
    return pd.concat([table, means.assign(size=MEAN)], ignore_index=True) if len(means) else table


def tabulate(ours, paper):
    """Our rows with the printed improvement; grouped by dataset and model."""
    table = ours.merge(paper[["dataset", "model", "size", "paper_improvement"]], on=["dataset", "model", "size"], how="left")
    ranks = {c: {name: i for i, name in enumerate(dict.fromkeys(table[c]))} for c in ("dataset", "model", "size")}
    table = table.sort_values(list(ranks), key=lambda c: c.map(ranks[c.name]), kind="stable")
    return table[COLUMNS].astype(dict.fromkeys(("train_rows", "n_folds", "n_seeds"), "Int64"))


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        predictions = [read_csv(path, dtype={"id": str}) for path in snakemake.input.predictions]
        paper = read_csv(snakemake.input.paper, dtype={"size": str})
        write_csv(tabulate(our_rows(p.runs, predictions, p.reference), paper), snakemake.output[0])
