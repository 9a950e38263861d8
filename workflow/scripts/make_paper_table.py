"""Make one of the paper's Tables 2 to 4."""

from xtalrl.report.tables import make_paper_table
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_paper_table(**snakemake.input, **snakemake.output, **snakemake.params)
