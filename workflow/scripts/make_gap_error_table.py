"""Compare gaps with those of the source."""

from xtalrl.report.tables import make_gap_error_table
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_gap_error_table(**snakemake.input, **snakemake.output, **snakemake.params)
