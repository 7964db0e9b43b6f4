"""Models beside submissions to Matbench, fold by fold on the official folds: csv, and a table for readers."""

import pandas as pd

from matpretrain.files import read_csv, write_csv, write_text
from matpretrain.jobs import job
from matpretrain.statistics import compare, summarise
from matpretrain.tables import markdown_table

PUBLISHED = "published"  # in place of a submission, which can have the name of the model
NAMES = {"mae_a": "mae_mean", "mae_b": "published_mean"}
COLUMNS = [
    "dataset", "model", "structures", "n_seeds", "mae_mean", "mae_std", "submission", "published_mean", "published_std",
    "difference", "p", "p_corrected",
]  # fmt: skip


def compare_published(scores, published, submissions, structures, tasks):
    """One row per dataset and model that has a published counterpart on it.

    Args:
        scores: results/scores.csv.
        published: resources/paper/matbench_submissions.csv.
        submissions: {model: submission}.
        structures: {model: {dataset: whose structures it read}} of networks that read structures.
        tasks: {dataset: Matbench's name} of the datasets with the official folds.
    """
    long = published.melt(["dataset", "submission"], [f"fold_{k}" for k in range(5)], "fold", "mae")
    long = long.assign(fold=long["fold"].str[-1].astype(int), part="test", seed=0)
    rows = []
    for (dataset, model), part in scores[scores["part"] == "test"].groupby(["dataset", "model"], sort=False):
        theirs = long[(long["dataset"] == tasks.get(dataset)) & (long["submission"] == submissions.get(model))]
        theirs = theirs.assign(dataset=dataset, model=PUBLISHED)
        if len(theirs):
            tests = compare(pd.concat([part, theirs]), model, PUBLISHED)
            row = {name: tests[key] for key, name in NAMES.items()} | summarise(part) | tests
            row |= {"published_std": theirs["mae"].std(ddof=0), "submission": submissions[model]}
            rows.append(row | {"dataset": dataset, "model": model, "structures": structures.get(model, {}).get(dataset, "")})
    return pd.DataFrame(rows, columns=COLUMNS)


def markdown(table, labels, units):
    """The table for readers."""
    headings = ["dataset", "unit", "model", "seeds", "MAE, ours", "MAE, published", "difference", "p (corrected)", "structures"]
    rows = []
    for r in table.itertuples():
        digits = 4 if r.mae_mean < 10 else 2
        cells = [labels[r.dataset], units[r.dataset], labels[r.model], r.n_seeds]
        cells += [f"{m:.{digits}f} ± {s:.{digits}f}" for m, s in ((r.mae_mean, r.mae_std), (r.published_mean, r.published_std))]
        cells += [f"{r.difference / r.published_mean:+z.1%}", f"{r.p_corrected:.2f}", r.structures]
        rows.append(cells)
    return markdown_table(headings, rows)


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        files = snakemake.input
        table = compare_published(read_csv(files.scores), read_csv(files.published), p.submissions, p.structures, p.official)
        write_csv(table, snakemake.output.csv)
        write_text(markdown(table, p.labels, p.units), snakemake.output.md)
