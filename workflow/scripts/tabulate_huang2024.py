"""Table 2 or 3 of Huang, Magar and Barati Farimani (2024): our MAE beside the paper's and the published Matbench ones."""

import json
from pathlib import Path

import pandas as pd

from matpretrain.files import read_csv, write_csv, write_text
from matpretrain.jobs import job
from matpretrain.statistics import ensemble, fold_scores, summarise
from matpretrain.tables import ENSEMBLE, markdown_table, printed

COLUMNS = [
    "dataset", "model", "mae_mean", "mae_std", "n_folds", "n_seeds", "paper_mean", "paper_std", "suspect",
    "device", "wall_seconds", "code_version",
]  # fmt: skip
PUBLISHED = {"dummy": "Matbench dummy", "rf": "Matbench RF", "CrabNet": "CrabNet", "Finder_v1.2_composition": "Finder"}


def provenance(paths):
    """{(dataset, model): device, wall time (s, all seeds), code version} from the records of all seeds."""
    records = {}
    for path in paths:
        records.setdefault(Path(path).parts[-4:-2], []).append(json.loads(Path(path).read_text()))
    return {
        key: {
            "device": "; ".join(sorted({r["device"] for r in seeds})),
            "wall_seconds": round(sum(r["wall_seconds"] for r in seeds), 1),
            "code_version": "; ".join(sorted({r["code_version"] for r in seeds})),
        }
        for key, seeds in records.items()
    }


def ordered(models):
    """Models in order of appearance, each ensemble right after its single model."""
    first = list(dict.fromkeys(m.removesuffix(ENSEMBLE) for m in models))
    present = set(models)
    return [m for base in first for m in (base, base + ENSEMBLE) if m in present]


def our_rows(prediction_paths, made):
    """One row per dataset and model, and one more for the ensemble where several seeds were trained."""
    rows = []
    for path in prediction_paths:
        dataset, model = Path(path).parts[-3:-1]
        test = read_csv(path, dtype={"id": str}).query("part == 'test'")
        how = made[dataset, model]
        rows.append({"dataset": dataset, "model": model, **summarise(fold_scores(test)), **how})
        if test["seed"].nunique() > 1:
            together = summarise(fold_scores(ensemble(test).assign(seed=0)))
            rows.append({"dataset": dataset, "model": model + ENSEMBLE, **together, "n_seeds": test["seed"].nunique(), **how})
    return pd.DataFrame(rows)


def tabulate(ours, paper):
    """Our rows with the paper's columns; models that only the paper has keep our columns empty."""
    datasets = list(dict.fromkeys(ours["dataset"]))
    table = ours.merge(paper.drop(columns="unit"), on=["dataset", "model"], how="outer")
    has_number = table["mae_mean"].notna() | table["paper_mean"].notna()
    table = table[table["dataset"].isin(datasets) & has_number]
    rank = {d: i for i, d in enumerate(datasets)}
    models = ordered([*ours["model"], *paper["model"]])
    table = table.sort_values(
        ["dataset", "model"], key=lambda c: c.map(rank if c.name == "dataset" else {m: i for i, m in enumerate(models)})
    )
    return table[COLUMNS].astype({"n_folds": "Int64", "n_seeds": "Int64"})


def number(mean, std, scale):
    """mean ± std with digits fit for the size of the target; empty where there is no mean."""
    if pd.isna(mean):
        return ""
    form = ".1f" if scale >= 100 else ".2f" if scale >= 10 else ".4f" if scale >= 0.01 else ".3g"
    return f"{mean:{form}}" + ("" if pd.isna(std) else f" ± {std:{form}}")


def markdown(table, published, labels, units, held_out):
    """The table for readers: one row per dataset, one column per model and source.

    Args:
        held_out: {dataset: share of the training rows that networks do not learn}.
    """
    ours = [m for m in ordered(table["model"]) if table.loc[table["model"] == m, "mae_mean"].notna().any()]
    in_paper = [m for m in dict.fromkeys(table["model"]) if table.loc[table["model"] == m, "paper_mean"].notna().any()]
    columns = []  # (heading, function of a dataset)
    cell = table.set_index(["dataset", "model"])

    def get(dataset, model, mean, std, scale):
        if (dataset, model) not in cell.index:
            return ""
        row = cell.loc[(dataset, model)]
        text = number(row[mean], row[std], scale)
        marked = mean == "paper_mean" and isinstance(row["suspect"], str) and row["suspect"] and text
        return f"{text} (!)" if marked else text

    def label(model):
        base = model.removesuffix(ENSEMBLE)
        return labels.get(base, base) + (" ensemble" if base != model else "")

    for model in ours:
        columns.append((f"{label(model)}, ours", lambda d, s, m=model: get(d, m, "mae_mean", "mae_std", s)))
        if model in in_paper:
            columns.append((f"{label(model)}, paper", lambda d, s, m=model: get(d, m, "paper_mean", "paper_std", s)))
    known = published.set_index(["dataset", "submission"])
    for name, heading in PUBLISHED.items():
        columns.append(
            (
                f"{heading}, published",
                lambda d, s, n=name: number(*known.loc[(d, n), ["mean", "std_population"]], s) if (d, n) in known.index else "",
            )
        )
    datasets = list(dict.fromkeys(table["dataset"]))
    scale = table.groupby("dataset")[["mae_mean", "paper_mean"]].max().max(axis=1)
    cells = {heading: [text(d, scale[d]) for d in datasets] for heading, text in columns}
    cells = {heading: column for heading, column in cells.items() if any(column)}
    rows = [[labels.get(d, d), units[d], *row] for d, *row in zip(datasets, *cells.values(), strict=True)]
    notes = ["MAE, mean ± population standard deviation over the outer folds (test parts)."]
    together = table[table["model"].str.endswith(ENSEMBLE) & table["mae_mean"].notna()]
    if len(together):
        seeds = ", ".join(dict.fromkeys(f"{labels.get(r.dataset, r.dataset)} {r.n_seeds}" for r in together.itertuples()))
        notes.append(
            f"A network's MAE is the mean over its seeds; the ensemble averages their predictions first (seeds: {seeds})."
        )
    shares = [f"{labels.get(d, d)} {held_out[d]:.0%}" for d in datasets if held_out.get(d)]
    if shares:
        notes.append(
            f"Networks hold out a share of their training rows, which is watched and scales deviations ({', '.join(shares)}); "
            "baselines learn all of them."
        )
    shown = table[table["model"].isin(set(ours) & set(in_paper)) & table["suspect"].fillna("").astype(bool)]
    notes += [f"(!) {labels.get(r.dataset, r.dataset)}, {label(r.model)}: {r.suspect}." for r in shown.itertuples()]
    return markdown_table(["dataset", "unit", *cells], rows, notes)


if __name__ == "__main__":
    with job(snakemake):
        p = snakemake.params
        paper, published = (printed(path, p.official) for path in (snakemake.input.paper, snakemake.input.published))
        if "dummy" not in set(paper["model"]):
            dummy = printed(snakemake.input.dummy, p.official).query("model == 'dummy'")
            paper = pd.concat([paper, dummy], ignore_index=True)
        table = tabulate(our_rows(snakemake.input.predictions, provenance(snakemake.input.provenance)), paper)
        write_csv(table, snakemake.output.csv)
        write_text(markdown(table, published, p.labels, p.units, p.held_out), snakemake.output.md)
