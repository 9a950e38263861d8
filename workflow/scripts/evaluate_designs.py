"""Join the designs with their DFT properties."""

from xtalrl.metrics.evaluation import evaluate_designs
from xtalrl.workflow import job

with job(snakemake.log[0]):
    evaluate_designs(**snakemake.input, **snakemake.output, **snakemake.params)
