"""Count the outcomes of the designs."""

from xtalrl.report.outcomes import make_outcome_table
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_outcome_table(**snakemake.input, **snakemake.output, **snakemake.params)
