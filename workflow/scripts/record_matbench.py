"""Record the test predictions of a model through Matbench's own benchmark class, ready for a leaderboard submission."""

import logging
from pathlib import Path

import pandas as pd

from matpretrain.files import DataError, atomic_path, read_csv
from matpretrain.jobs import job
from matpretrain.statistics import ensemble
from matpretrain.subsets import for_rows


def record_matbench(tables, predictions, metadata):
    """Matbench benchmark with all folds of the given tasks recorded and validated.

    Args:
        tables: {task: data frame (id, formula, target)} in official order.
        predictions: {task: predictions data frame}; seeds are averaged.
        metadata: dictionary stored with the benchmark.

    Raises:
        DataError: a test row without a prediction.
    """
    logging.disable(logging.INFO)
    from matbench.bench import MatbenchBenchmark

    benchmark = MatbenchBenchmark(autoload=False, subset=list(tables))
    for task in benchmark.tasks:
        name = task.dataset_name
        table = tables[name].set_index("id")
        inputs = pd.Series(table["formula"], name=task.metadata.input_type)
        task.df = pd.concat([inputs, table["target"].rename(task.metadata.target)], axis=1)
        mean = ensemble(predictions[name].query("part == 'test'"))
        for fold in task.folds:
            test = pd.Index(task.validation[task.folds_map[fold]].test)
            found = mean[mean["fold"] == fold].set_index("id")["prediction"]
            missing = test.difference(found.index)
            if len(missing):
                why = "the folds are not the official ones" if missing[0] in table.index else "its row was dropped"
                why = why if len(found) else "the fold has none at all"
                raise DataError(
                    f"{name}: fold {fold} has no prediction for {missing[0]}, which Matbench needs, as {why}; "
                    "restore that, or leave the dataset out of benchmark.datasets"
                )
            task.record(fold, found.loc[test].tolist())
    benchmark.add_metadata(metadata)
    if not benchmark.is_valid:
        raise DataError(
            f"{', '.join(tables)}: Matbench does not accept the recorded predictions; run its validate() for the reason"
        )
    return benchmark


if __name__ == "__main__":
    with job(snakemake) as say:
        names = snakemake.params.tasks
        tables = {n: read_csv(p, dtype={"id": str, "formula": str}) for n, p in zip(names, snakemake.input.tables, strict=True)}
        results = {n: read_csv(p, dtype={"id": str}) for n, p in zip(names, snakemake.input.predictions, strict=True)}
        metadata = dict(snakemake.params.metadata)
        metadata["recipe"] = {
            name: for_rows(recipe, tables[name]["fold"].to_numpy()) for name, recipe in metadata["recipe"].items()
        }
        benchmark = record_matbench(tables, results, metadata)
        with atomic_path(snakemake.output[0]) as temporary:
            benchmark.to_file(str(temporary))
        say(f"{len(names)} tasks recorded and valid: {Path(snakemake.output[0]).name}")
