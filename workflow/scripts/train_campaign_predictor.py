"""Train the predictor of a round. Runs on a GPU node: imports torch, numpy and pyarrow only."""

from dataclasses import replace

from xtalrl.rl.predictor_training import PredictorSettings, train_predictor
from xtalrl.workflow import job

with job(snakemake.log[0]):
    files, params = snakemake.input, snakemake.params
    if files.start:
        settings = replace(PredictorSettings.fine_tuning(), steps=max(1, params.steps // 10))
    else:
        settings = replace(PredictorSettings(), steps=params.steps)
    train_predictor(
        [(files.graphs, files.labels), *zip(files.design_graphs, files.design_labels, strict=True)],
        **snakemake.output,
        settings=settings,
        start=files.start or None,
        seed=params.seed,
        threads=snakemake.threads,
    )
