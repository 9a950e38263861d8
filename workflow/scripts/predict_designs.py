"""Predict the designs of a round. Runs on a GPU node: imports torch, numpy and pyarrow only."""

from xtalrl.rl.predictor import predict_crystals
from xtalrl.workflow import job

with job(snakemake.log[0]):
    gap_from, gap_to = snakemake.params.wanted_ev
    predict_crystals(
        **snakemake.input,
        **snakemake.output,
        gap_from=gap_from,
        gap_to=gap_to,
        confidence=snakemake.params.confidence,
    )
