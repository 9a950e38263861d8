"""Compare with the paper."""

from xtalrl.report.comparisons import make_paper_comparison
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_paper_comparison(**snakemake.input, **snakemake.output, **snakemake.params)
