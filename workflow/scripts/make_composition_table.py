"""Make the paper's Table 1."""

from xtalrl.report.tables import make_composition_table
from xtalrl.workflow import job

with job(snakemake.log[0]):
    make_composition_table(**snakemake.input, **snakemake.output, **snakemake.params)
