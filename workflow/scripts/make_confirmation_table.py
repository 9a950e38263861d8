"""Count the hits that were confirmed."""

from xtalrl.report.confirmation import make_confirmation_table
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_confirmation_table(**snakemake.input, **snakemake.output, **snakemake.params)
