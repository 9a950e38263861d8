"""Place the designs on the convex hull."""

from xtalrl.metrics.stability import assess_stability
from xtalrl.workflow import job

with job(snakemake.log[0]):
    assess_stability(**snakemake.input, **snakemake.output)
